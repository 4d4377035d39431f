"""The trials of the short-utterance test, stored next to a checkpoint, and their test windows."""

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
    """Return the short trials of the speakers (S,) that are stored at `path`; sample and store them if there are none.

    A JSON file next to the list contains the SHA-256 of the list and the SHA-256 of the names of the utterances that it
    was sampled from. A list of other speakers or utterances is resampled, with a warning. UserError if the list at
    `path` was not written by this function or was edited: a list of the user is not overwritten.
    """
    names = "\n".join(features.name(row) for row in rows_of(features, speakers).tolist())
    sampled_from = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
    record = path.with_suffix(".json")
    if path.exists():
        stored = _read_record(record)
        if stored.get("sha256") != sha256(path):
            raise UserError(f"{path}: was edited, or is from elsewhere; move it to resample, or use it with --trials")
        if stored.get("drawn_from") == sampled_from:
            return read_trials(path)
        console.warn(f"{path}: was sampled from other speakers or utterances; it is resampled")
    trials = sample_short_trials(features, speakers, seed)
    digest = hashlib.sha256(list_content(trials)).hexdigest()
    try:
        path.unlink(missing_ok=True)
        with replacing(record) as temporary:  # before the list: after a kill between the two, the next run resamples
            temporary.write_text(json.dumps({"sha256": digest, "drawn_from": sampled_from}) + "\n")
        write_trials(path, trials)
    except OSError as error:  # for example a read-only disk: the trials can be scored nevertheless
        console.warn(f"{path}: the sampled trials could not be stored ({error.strerror})")
    return trials


def _read_record(path: Path) -> dict:
    """Return the content of the JSON file next to a list of short trials; {} if it is missing or damaged."""
    try:
        stored = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def window_starts(n_frames: np.ndarray, length: int, seed: int) -> np.ndarray:
    """Return the start frames (n,) of windows of `length` frames in test utterances of `n_frames` (n,) frames.

    Each start is uniform over the possible ones. It depends only on the seed, the index of the utterance, its length
    and the length of the window.
    """
    fraction = np.random.default_rng([seed, 1]).random(len(n_frames))  # 1: not the stream of the trials
    return (fraction * n_starts(n_frames, length)).astype(np.int64)


def test_segments(features: FeatureIndex, rows: np.ndarray, length: int | str, seed: int) -> Segments:
    """Return a random window of `length` frames of each of the utterances `rows` (n,); FULL is the full utterance."""
    if isinstance(length, str):  # FULL
        return Segments.full(features, rows)
    return Segments(rows, window_starts(features.n_frames(rows), length, seed), np.full(len(rows), length))
