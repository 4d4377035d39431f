"""Trial lists: reading, drawing and keeping them, in VoxCeleb's form `1 enrolment-utterance test-utterance`."""
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas

import console
from console import UserError
from dataset.index import FeatureIndex, n_starts
from files import replacing, sha256

# An utterance has so many places to draw windows from: on small data, where trials and episodes meet the same utterance
# again and again, a window is embedded once instead of hundreds of times.
WINDOWS = 4
SHORT_TRIALS_PER_SPEAKER = 100  # target trials, and as many non-target ones (paper, section 4.3)


class Trials(NamedTuple):
    """A list of verification trials."""

    label: np.ndarray  # (n,) bool, True for a target trial: both sides are one speaker
    enrol: np.ndarray  # (n,) str objects, <speaker>/<video>/<utterance>.wav
    test: np.ndarray  # (n,) str objects

    def where(self, kept: np.ndarray) -> "Trials":
        """Return the trials that `kept` (n,) bool is true for."""
        return Trials(*(column[kept] for column in self))

    def checked(self, path: Path) -> "Trials":
        """Return the trials as they are; UserError naming their list unless there are trials of both kinds."""
        if self.label.all() or not self.label.any():
            kind = "none" if not len(self.label) else "only target" if self.label.all() else "no target"
            raise UserError(f"{path}: {kind} trials to score; an error rate needs target and non-target ones")
        return self


def read_trials(path: Path) -> Trials:
    """Read a user's trial list and say how many of its trials are repetitions; each counts as it is listed.

    UserError naming the file and a line where its form is not VoxCeleb's.
    """
    trials = _read(path)
    if n_repeated := len(trials.label) - len(set(zip(*trials, strict=True))):
        console.warn(f"{path}: {n_repeated:,} of the {len(trials.label):,} trials are repetitions; each counts")
    return trials


def _read(path: Path) -> Trials:
    """Read a trial list; UserError naming the file and a line where its form is not VoxCeleb's."""
    columns = ["label", "enrol", "test", "rest"]
    try:
        table = pandas.read_csv(
            path,
            sep=r"\s+",
            header=None,
            names=columns,
            dtype=str,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,  # a speaker may be called NA
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such trial list; dataprep.py puts it there, --trials names another") from None
    except ValueError as error:  # what pandas' parser raises, wrong encodings included
        raise UserError(f"{path}: not a trial list ({str(error).strip().splitlines()[-1]})") from None
    if table.empty:
        raise UserError(f"{path}: holds no trials")
    table = table.fillna("")
    wrong = ~table["label"].isin(["0", "1"]) | (table["test"] == "") | (table["rest"] != "")
    if wrong.any():
        line = " ".join(table[wrong].iloc[0]).strip()
        raise UserError(f"{path}: '{line[:80]}' is not of the form '1 speaker/video/a.wav speaker/video/b.wav'")
    sides = table["enrol"].to_numpy(object), table["test"].to_numpy(object)
    return Trials((table["label"] == "1").to_numpy(), *sides).checked(path)


def write_trials(path: Path, trials: Trials) -> None:
    """Write a trial list in VoxCeleb's form; UserError for a name that cannot stand in one."""
    if spaced := next((name for name in {*trials.enrol, *trials.test} if len(name.split()) != 1), None):
        raise UserError(f"{spaced!r}: a name with white space cannot stand in a trial list; rename it")
    with replacing(path) as temporary:
        temporary.write_text(_text(trials), encoding="utf-8", newline="\n")


def draw_short_trials(features: FeatureIndex, speakers: np.ndarray, seed: int) -> Trials:
    """Draw the trials of the short-utterance test: for each speaker 100 target and 100 non-target ones.

    Args:
        features: the utterances.
        speakers: (S,) the speakers to draw from. The two utterances of a target trial differ; one speaker's second
            utterance is needed for that, so a speaker with a single utterance is enrolled in non-target trials only.
        seed: of the draw.
    """
    if len(speakers) < 2 or features.count[speakers].max(initial=0) < 2:
        raise UserError("short trials need two or more speakers, and one of them with two or more utterances")
    rng, n = np.random.default_rng(seed), SHORT_TRIALS_PER_SPEAKER
    first, count = features.first[speakers], features.count[speakers]
    label, enrol, test = [], [], []
    for at in range(len(speakers)):
        if count[at] > 1:
            a = rng.integers(count[at], size=n)
            b = (a + rng.integers(1, count[at], size=n)) % count[at]
            label.append(np.ones(n, bool)), enrol.append(first[at] + a), test.append(first[at] + b)
        other = (at + rng.integers(1, len(speakers), size=n)) % len(speakers)
        label.append(np.zeros(n, bool))
        enrol.append(first[at] + rng.integers(count[at], size=n))
        test.append(first[other] + rng.integers(count[other]))
    names = [
        np.array([f"{features.name(row)}.wav" for row in np.concatenate(rows).tolist()], object)
        for rows in (enrol, test)
    ]
    return Trials(np.concatenate(label), *names)


def stored_short_trials(path: Path, features: FeatureIndex, speakers: np.ndarray, seed: int) -> Trials:
    """Return the short trials kept at `path`, drawing and keeping them (with their SHA-256 beside) the first time.

    UserError if the list is no longer the one that was kept.
    """
    kept_digest = path.with_suffix(".sha256")
    if path.exists() and kept_digest.exists():
        if kept_digest.read_bytes().split()[:1] != [sha256(path).encode()]:
            raise UserError(f"{path}: changed since it was drawn; remove it to draw anew, or name it by --trials")
        return _read(path)
    trials = draw_short_trials(features, speakers, seed)
    try:
        write_trials(path, trials)
        with replacing(kept_digest) as temporary:
            temporary.write_text(f"{sha256(path)}  {path.name}\n")  # the form that sha256sum -c reads
    except PermissionError:
        console.warn(f"{path}: the folder is read-only, so the drawn trials are not kept")
    return trials


def window_starts(n_frames: np.ndarray, length: int, seed: int) -> np.ndarray:
    """Return where the test window of each trial starts: the i-th depends on the seed and i only.

    It is one of four random places, the same fractions of every utterance, one in each quarter of it.

    Args:
        n_frames: (n,) frames of each trial's test utterance.
        length: frames of the window.
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, 1])  # 1: another stream than the trials' own draw
    places = (np.arange(WINDOWS) + rng.random(WINDOWS)) / WINDOWS
    fraction = places[rng.integers(WINDOWS, size=len(n_frames))]
    return (fraction * n_starts(n_frames, length)).astype(np.int64)


def _text(trials: Trials) -> str:
    rows = zip(trials.label.astype(int).tolist(), trials.enrol, trials.test, strict=True)
    return "".join(f"{label} {enrol} {test}\n" for label, enrol, test in rows)
