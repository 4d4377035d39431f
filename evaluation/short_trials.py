"""The trials of the short-utterance test: the list stored next to a checkpoint, and the windows of its test sides."""

import hashlib
import json
from pathlib import Path

import numpy as np

from dataset.index import FeatureIndex, n_starts
from dataset.trial_sampling import rows_of, sample_short_trials
from dataset.trials import Trials, list_content, read_trials, write_trials
from evaluation.embedding import Segments
from system import console
from system.console import UserError
from system.files import replacing, sha256


def stored_short_trials(path: Path, features: FeatureIndex, speakers: np.ndarray, seed: int) -> Trials:
    """Return the short trials of the speakers (S,) that are kept at `path`, drawn and kept there if need be.

    Beside the list stands a JSON file with the SHA-256 of the list and of the names of all utterances that it was drawn
    from. A list drawn from other speakers or utterances is drawn anew, with a warning. UserError if the list at `path`
    is not one that this function wrote, or was changed since: it is the user's and is not overwritten.
    """
    names = "\n".join(features.name(row) for row in rows_of(features, speakers).tolist())
    drawn_from = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
    beside = path.with_suffix(".json")
    if path.exists():
        kept = _read_kept(beside)
        if kept.get("sha256") != sha256(path):
            raise UserError(f"{path}: changed, or not drawn here; move it away to draw anew, or name it by --trials")
        if kept.get("drawn_from") == drawn_from:
            return read_trials(path)
        console.warn(f"{path}: was drawn from other speakers or utterances; drawn anew")
    trials = sample_short_trials(features, speakers, seed)
    digest = hashlib.sha256(list_content(trials)).hexdigest()
    try:
        path.unlink(missing_ok=True)
        with replacing(beside) as temporary:  # before the list: killed between the two, the next run draws again
            temporary.write_text(json.dumps({"sha256": digest, "drawn_from": drawn_from}) + "\n")
        write_trials(path, trials)
    except OSError as error:  # a read-only disk, say: the trials can be scored all the same
        console.warn(f"{path}: the drawn trials could not be kept ({error.strerror})")
    return trials


def _read_kept(path: Path) -> dict:
    """Return what the JSON file beside a list of short trials says; nothing if it is missing or damaged."""
    try:
        kept = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def window_starts(n_frames: np.ndarray, length: int, seed: int) -> np.ndarray:
    """Return where in test utterances of n_frames (n,) the trials' windows of `length` frames start, (n,).

    The i-th start is uniform over all of its utterance, independent of the others, and depends on the seed, i and the
    utterance's length only.
    """
    fraction = np.random.default_rng([seed, 1]).random(len(n_frames))  # 1: another stream than the trials' own draw
    return (fraction * n_starts(n_frames, length)).astype(np.int64)


def test_segments(features: FeatureIndex, rows: np.ndarray, length: int | str, seed: int) -> Segments:
    """Return a random window of `length` frames of each of the utterances `rows` (n,); of all frames if FULL."""
    if isinstance(length, str):  # FULL
        return Segments.full(features, rows)
    return Segments(rows, window_starts(features.n_frames(rows), length, seed), np.full(len(rows), length))
