"""The score file, which --save_scores writes and --compare and plots.py read: a CSV row for each trial and test.

Columns: label (1 for a target trial; only if the trial list has labels), enrol, test, length (if there are several test
lengths), snr (in noise), score, score_as_norm (with --as_norm), enrol_seconds, test_seconds, llr (with a calibration;
empty for trials that have none), enrol_speaker and test_speaker. The trials are repeated for each length and snr. The
seconds are of speech if pauses were cut out, otherwise of the recording, and no more than the utterance has.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configure import FRAMES_PER_SECOND
from dataset.trials import REPEATING, SIDES, Trials
from evaluation.embedding import Scores
from evaluation.metrics import roc
from system.console import UserError
from system.files import read_lines, replacing

if TYPE_CHECKING:
    import pandas

SCORES = {"score": "", "score_as_norm": ", as-norm", "llr": ", LLR"}  # column -> what it adds to a system's name
FULL, CLEAN = "full", "clean"  # a length of all frames, a signal-to-noise ratio without noise
DRY = "dry"  # in place of a signal-to-noise ratio: no noise and no reverberation, where other tests have reverberation
SECONDS = ("enrol_seconds", "test_seconds")
SPEAKERS = ("enrol_speaker", "test_speaker")  # missing in the files of earlier versions
TEXT = (*SIDES, *REPEATING, *SPEAKERS)


def write_scores(path: Path, trials: Trials, scores: Sequence[Scores], speakers: Sequence[np.ndarray]) -> None:
    """Write the scores of n trials in each test; `speakers` are the names (n,) of the speakers of both sides."""
    import pandas  # 30 MB, which recognition need not load

    tables = []
    for of_test in scores:
        columns: dict[str, np.ndarray | str] = {"label": trials.label.astype(int)} if trials.labelled else {}
        columns |= {"enrol": trials.enrol, "test": trials.test}
        columns |= {"length": of_test.length} if len(scores) > 1 else {}
        columns |= {"snr": of_test.snr} if of_test.snr else {}
        columns |= {"score": of_test.plain}
        columns |= {"score_as_norm": of_test.normalised} if of_test.normalised is not None else {}
        columns |= dict(zip(SECONDS, (of_test.enrol_seconds, of_test.test_seconds), strict=True))
        columns |= {"llr": of_test.llr} if of_test.llr is not None else {}
        columns |= dict(zip(SPEAKERS, speakers, strict=True))
        tables.append(pandas.DataFrame(columns))
    with replacing(path) as temporary:
        pandas.concat(tables).to_csv(temporary, index=False, errors="surrogateescape")


def read_scores(path: Path) -> "pandas.DataFrame":
    """Read a score file, label as bool; UserError naming it if it is none or lacks a kind of trial."""
    import pandas

    text = dict.fromkeys(TEXT, str)
    lines = read_lines(path, "no such score file; --save_scores of the evaluators writes one")
    content = io.BytesIO("".join(lines).encode(errors="surrogateescape"))
    try:
        table = pandas.read_csv(
            content, dtype=text, keep_default_na=False, na_values={"llr": ""}, encoding_errors="surrogateescape"
        )
        table["label"] = table["label"].astype(int).astype(bool)
        numbers = table.columns.intersection([*SCORES, *SECONDS])
        table[numbers] = table[numbers].astype(np.float64)
        roc(table["score"].to_numpy(), table["label"].to_numpy())  # refuses what has no error rate
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not a file of scores as --save_scores writes it ({str(error).strip()})") from None
    if unnamed := [column for column in table.columns.intersection(SPEAKERS) if (table[column] == "").any()]:
        raise UserError(f"{path}: rows without a name in column {unnamed[0]}; fill it in or remove the column")
    return table


def speakers_of(table: "pandas.DataFrame") -> np.ndarray | None:
    """Return the numbers (2, n) of the speakers of both sides of n trials; None for a file without their columns."""
    if not set(SPEAKERS) <= set(table):
        return None
    _, numbers = np.unique([table[side] for side in SPEAKERS], return_inverse=True)
    return numbers.reshape(2, -1)


def read_compared(
    path: Path, trials: Trials, enrol_seconds: np.ndarray, tests: Sequence[tuple[str, str, np.ndarray]]
) -> list[np.ndarray]:
    """Return another system's scores (n,) in each test; UserError if the score file is not of these trials and tests.

    `enrol_seconds` (n,) are those of the trials' enrolments; a test is its length in words, its signal-to-noise ratio
    in words or "", and the seconds (n,) of its segments. Seconds are compared in frames.
    """
    table, found = read_scores(path), []
    if missing := {"enrol", "test", *SECONDS} - set(table):
        raise UserError(f"{path}: has no column {min(missing)}; --save_scores writes one")
    table = table.assign(snr=table.get("snr", ""), **_frames(*(table[column] for column in SECONDS)))
    for length, snr, test_seconds in tests:
        part = table[(table["snr"] == snr) & (table.get("length", length) == length)]
        expected = {"label": trials.label, "enrol": trials.enrol, "test": trials.test}
        expected |= _frames(enrol_seconds, test_seconds)
        if not all(np.array_equal(part[column], values) for column, values in expected.items()):
            raise UserError(
                f"{path}: does not hold the trials that are scored here, in this order, at test length {length}"
                f"{f', SNR {snr}' if snr else ''}; score both by one --trials FILE"
            )
        found.append(part["score"].to_numpy())
    return found


def _frames(*seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns SECONDS in whole frames, which survive being written."""
    return {name: np.round(FRAMES_PER_SECOND * column) for name, column in zip(SECONDS, seconds, strict=True)}
