"""Trial lists: reading, drawing and keeping them, in VoxCeleb's form `1 enrolment-utterance test-utterance`."""

import csv
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas

import console
from console import UserError
from dataset.index import FeatureIndex, n_starts
from files import replacing, sha256

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
    content = _content(trials)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def draw_short_trials(features: FeatureIndex, speakers: np.ndarray, seed: int) -> Trials:
    """Draw the trials of the short-utterance test: for each speaker 100 target and 100 non-target ones.

    Args:
        features: the utterances.
        speakers: (S,) the speakers to draw from. The two utterances of a target trial differ, so a speaker with a
            single utterance is enrolled in non-target trials only. The test utterance of a non-target trial is drawn
            evenly over the utterances of all other speakers, as the release does.
        seed: of the draw.
    """
    if len(speakers) < 2 or features.count[speakers].max(initial=0) < 2:
        raise UserError("short trials need two or more speakers, and one of them with two or more utterances")
    rng, n = np.random.default_rng(seed), SHORT_TRIALS_PER_SPEAKER
    first, count = features.first[speakers], features.count[speakers]
    rows, begin = _rows_of(features, speakers), np.cumsum(count) - count
    label, enrol, test = [], [], []
    for at in range(len(speakers)):
        if count[at] > 1:
            a = rng.integers(count[at], size=n)
            b = (a + rng.integers(1, count[at], size=n)) % count[at]
            label.append(np.ones(n, bool)), enrol.append(first[at] + a), test.append(first[at] + b)
        other = rng.integers(len(rows) - count[at], size=n)
        other += count[at] * (other >= begin[at])  # past the speaker's own utterances
        label.append(np.zeros(n, bool)), enrol.append(first[at] + rng.integers(count[at], size=n))
        test.append(rows[other])
    names = [
        np.array([f"{features.name(row)}.wav" for row in np.concatenate(side).tolist()], object)
        for side in (enrol, test)
    ]
    return Trials(np.concatenate(label), *names)


def _rows_of(features: FeatureIndex, speakers: np.ndarray) -> np.ndarray:
    """Return the rows of all utterances of the speakers (S,), speaker by speaker."""
    return np.concatenate([features.first[s] + np.arange(features.count[s]) for s in speakers])


def stored_short_trials(path: Path, features: FeatureIndex, speakers: np.ndarray, seed: int) -> Trials:
    """Return the short trials of the speakers (S,) that are kept at `path`, drawn and kept there if need be.

    Beside the list stands a JSON file with the list's SHA-256 and a fingerprint of the utterances that it was drawn
    from. A list drawn from other speakers or utterances is drawn anew, with a warning. UserError if the list at `path`
    is not one that this function wrote, or was changed since: it is the user's and is not overwritten.
    """
    beside, drawn_from = path.with_suffix(".json"), fingerprint(features, speakers)
    if path.exists():
        kept = _read_kept(beside)
        if kept.get("sha256") != sha256(path):
            raise UserError(f"{path}: changed, or not drawn here; move it away to draw anew, or name it by --trials")
        if kept.get("drawn_from") == drawn_from:
            return _read(path)
        console.warn(f"{path}: was drawn from other speakers or utterances; drawn anew")
    trials = draw_short_trials(features, speakers, seed)
    digest = hashlib.sha256(_content(trials)).hexdigest()
    try:
        path.unlink(missing_ok=True)
        with replacing(beside) as temporary:  # before the list: killed between the two, the next run draws again
            temporary.write_text(json.dumps({"sha256": digest, "drawn_from": drawn_from}) + "\n")
        write_trials(path, trials)
    except PermissionError:
        console.warn(f"{path}: the folder is read-only, so the drawn trials are not kept")
    return trials


def fingerprint(features: FeatureIndex, speakers: np.ndarray) -> str:
    """Return a SHA-256 over the names of all utterances of the speakers (S,)."""
    names = "\n".join(features.name(row) for row in _rows_of(features, speakers).tolist())
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def _read_kept(path: Path) -> dict:
    """Return what the JSON file beside a list of short trials says; nothing if it is missing or damaged."""
    try:
        kept = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def window_starts(n_frames: np.ndarray, length: int, seed: int) -> np.ndarray:
    """Return where the test window of each trial starts, (n,), uniform over all starts of its utterance.

    The i-th start is drawn independently of the others and depends on the seed, i and its utterance's length only.

    Args:
        n_frames: (n,) frames of each trial's test utterance.
        length: frames of the window.
        seed: of the draw.
    """
    fraction = np.random.default_rng([seed, 1]).random(len(n_frames))  # 1: another stream than the trials' own draw
    return (fraction * n_starts(n_frames, length)).astype(np.int64)


def _content(trials: Trials) -> bytes:
    """Return the bytes of a trial list's file; UserError for a name that cannot stand in one."""
    names = sorted({*trials.enrol, *trials.test})
    if unfit := next((name for name in names if len(name.split()) != 1 or not name.isprintable()), None):
        raise UserError(f"{unfit!r}: a name with white space or bytes that are not UTF-8; rename it for trial lists")
    rows = zip(trials.label.astype(int).tolist(), trials.enrol, trials.test, strict=True)
    return "".join(f"{label} {enrol} {test}\n" for label, enrol, test in rows).encode()
