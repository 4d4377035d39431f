"""The score file, which --save_scores writes and --compare and plots.py read: a CSV file with one row per trial.

Columns: label (1 for a target trial; only if the trial list has labels), enrol, test, length (with several test lengths
or noise conditions), snr (in noise), score, score_as_norm (with --as_norm), enrol_seconds, test_seconds, llr (with a
calibration; empty for trials without LLR), enrol_speaker and test_speaker. Each trial has a row for each length and
snr. The seconds are of speech if silence was trimmed, otherwise of the recording; repetitions of an utterance do not
count.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas

from configure import FRAMES_PER_SECOND
from dataset.trials import REPEATING, SIDES, Trials
from evaluation.embedding import Scores
from evaluation.metrics import roc
from system.console import UserError
from system.files import read_lines, replacing

SCORES = {"score": "", "score_as_norm": ", as-norm", "llr": ", LLR"}  # column -> suffix of the name of a system
FULL = "full"  # in the column length: full utterance
CLEAN = "clean"  # in the column snr: no noise
DRY = "dry"  # in the column snr: neither noise nor reverberation, if the other tests have reverberation
SECONDS = ("enrol_seconds", "test_seconds")
SPEAKERS = ("enrol_speaker", "test_speaker")


def write_scores(path: Path, trials: Trials, scores: Sequence[Scores], speakers: Sequence[np.ndarray]) -> None:
    """Write a CSV file of the scores of n trials in each test; `speakers` are the names (n,) of both sides."""
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


def read_scores(path: Path) -> pandas.DataFrame:
    """Read a score file, labels as bool; UserError naming the file if it has no valid target or non-target trials."""
    text = dict.fromkeys((*SIDES, *REPEATING, *SPEAKERS), str)
    lines = read_lines(path, "no such score file; --save_scores of the evaluators writes one")
    content = io.BytesIO("".join(lines).encode(errors="surrogateescape"))
    try:
        table = pandas.read_csv(
            content, dtype=text, keep_default_na=False, na_values={"llr": ""}, encoding_errors="surrogateescape"
        )
        table["label"] = table["label"].astype(int).astype(bool)
        numbers = table.columns.intersection([*SCORES, *SECONDS])
        table[numbers] = table[numbers].astype(np.float64)
        roc(table["score"].to_numpy(), table["label"].to_numpy())  # ValueError if there is no error rate
        _check_tests(table)
    except (KeyError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a score file of --save_scores ({str(error).strip()})") from None
    if unnamed := [column for column in table.columns.intersection(SPEAKERS) if (table[column] == "").any()]:
        raise UserError(f"{path}: no speaker in some rows of column {unnamed[0]}; add them or remove the column")
    return table


def _check_tests(table: pandas.DataFrame) -> None:
    """Raise ValueError naming the first invalid value of the columns length and snr, if the file has them."""
    for length in table["length"].unique() if "length" in table else ():
        if not (length == FULL or (length.isdecimal() and int(length))):
            raise ValueError(f"length '{length}' is neither a number of frames nor {FULL}")
    for snr in table["snr"].unique() if "snr" in table else ():
        if snr not in (CLEAN, DRY, "") and not np.isfinite(float(snr)):
            raise ValueError(f"snr '{snr}' is not finite")


def speakers_of(table: pandas.DataFrame) -> np.ndarray:
    """Return the indices (2, n) of the speakers of both sides of the trials of a score file."""
    _, numbers = np.unique([table[side] for side in SPEAKERS], return_inverse=True)
    return numbers.reshape(2, -1)


def read_compared(
    path: Path, trials: Trials, enrol_seconds: np.ndarray, tests: Sequence[tuple[str, str, np.ndarray]]
) -> list[np.ndarray]:
    """Return the scores (n,) of another system in each test; UserError if the file has other trials or tests.

    `enrol_seconds` (n,) are the seconds of the enrolments. A test is a tuple: test length and signal-to-noise ratio in
    the notation of the score file ("" without noise), and the seconds (n,) of the test segments.
    """
    table, found = read_scores(path), []
    if missing := {"enrol", "test", *SECONDS} - set(table):
        raise UserError(f"{path}: no column '{min(missing)}'; use a file of --save_scores")
    table = table.assign(snr=table.get("snr", ""), **_frames(*(table[column] for column in SECONDS)))
    for length, snr, test_seconds in tests:
        part = table[(table["snr"] == snr) & (table.get("length", length) == length)]
        expected = {"label": trials.label, "enrol": trials.enrol, "test": trials.test}
        expected |= _frames(enrol_seconds, test_seconds)
        if not all(np.array_equal(part[column], values) for column, values in expected.items()):
            raise UserError(
                f"{path}: the trials or their order differ at test length {length}"
                f"{f', SNR {snr}' if snr else ''}; score both systems with the same --trials FILE"
            )
        found.append(part["score"].to_numpy())
    return found


def _frames(*seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns SECONDS converted to frames, integers that rounding in the file does not change."""
    return {name: np.round(FRAMES_PER_SECOND * column) for name, column in zip(SECONDS, seconds, strict=True)}
