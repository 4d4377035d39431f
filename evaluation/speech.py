"""Utterances with trimmed silence, as in recognition. Calibrations are fitted on them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dataset.index import FeatureIndex
from feat_extract.silence import speech_frames, trim_features
from system import console

READERS = 16  # threads that read utterances; more than cores, because they mostly wait for the disk


class SpeechIndex(FeatureIndex):
    """A FeatureIndex with trimmed silence: lengths and frames are of speech.

    Attributes:
        recorded: the index of the same utterances with silence.
    """

    def __init__(self, trees: list[Path]):
        """Load the trees as FeatureIndex does."""
        self.recorded = FeatureIndex(trees)
        vars(self).update(vars(self.recorded))
        self._n_speech = np.zeros(len(self), np.int64)  # frames of speech, 0 if not counted yet

    def n_frames(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of frames of speech (n,) int64 of rows (n,); each utterance is read only once."""
        new = np.unique(rows[self._n_speech[rows] == 0])
        with ThreadPoolExecutor(READERS) as readers:  # after an error, map cancels the remaining calls
            counts = readers.map(lambda row: len(self.utterance(row)), new.tolist())
            bar = console.progress(counts, total=len(new), unit="file", desc="trimming silence")
            self._n_speech[new] = np.fromiter(bar, np.int64, len(new))
        return self._n_speech[rows]

    def utterance(self, row: int) -> np.ndarray:
        """Return all frames of speech (T, 40) of a row."""
        return trim_features(super().utterance(row))

    def recorded_frames(self, row: int, start: int, length: int) -> np.ndarray:
        """Return the positions (length,), in the recorded utterance, of the frames that `crop` returns."""
        frames = speech_frames(super().utterance(row))
        return frames[(start + np.arange(length)) % len(frames)]

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return `length` frames of speech (length, 40) of a row, from frame `start`; short utterances are repeated."""
        frames = self.utterance(row)
        return frames[(start + np.arange(length)) % len(frames)]
