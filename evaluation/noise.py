"""Test utterances in noise and in rooms: what the evaluators embed in place of the clean ones."""

from collections.abc import Sequence

import numpy as np

from dataset.index import FeatureIndex
from feat_extract.disturbance import Sources, mix, reverberate
from system.console import UserError

CLEAN = "clean"  # as a signal-to-noise ratio: no noise


class NoisyTests:
    """The test sides of n trials in noise; where `embed` asks for a row it means a trial.

    What disturbs a trial depends on its number and the seed only: it is the same at every signal-to-noise ratio.
    """

    def __init__(
        self,
        features: FeatureIndex,
        sources: Sources,
        sides: Sequence[np.ndarray],
        snr: float | None,
        reverb: bool,
        seed: int,
    ):
        """Set up the disturbance; UserError where there are no voices for babble.

        Args:
            features: the utterances.
            sources: of noise if it has a noise folder, else of babble, by speakers on neither side of the trial.
            sides: rows (n,) of enrolment and test.
            snr: signal-to-noise ratio in dB; None: no noise.
            reverb: whether each trial is in a room of its own.
            seed: of the draws.
        """
        if snr is not None and not sources.noise_dir and len(features.speakers) < 3:
            raise UserError("babble needs speakers besides a trial's own two; give recordings by --noise_dir")
        self._features, self._sources, self._sides = features, sources, sides
        self._snr, self._reverb, self._seed = snr, reverb, seed

    @property
    def name(self) -> str:
        """The signal-to-noise ratio in words: a number of dB, or `clean`."""
        return CLEAN if self._snr is None else f"{self._snr:g}"

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return `length` frames (length, 40) of the test side of trial number `row` from frame `start` on."""
        rng = np.random.default_rng([self._seed, 2, row])  # 2: not the trials' stream, nor that of the windows' starts

        def disturb(samples: np.ndarray) -> np.ndarray:
            if self._reverb:
                samples = reverberate(samples, self._sources.room(rng))
            if self._snr is None:
                return samples
            return mix(samples, self._noise(row, len(samples), rng), self._snr)

        return self._sources.crop(int(self._sides[1][row]), start, length, disturb)

    def _noise(self, trial: int, n: int, rng: np.random.Generator) -> np.ndarray:
        if self._sources.noise_dir:
            return self._sources.noise(n, rng)
        return self._sources.babble([self._features.speaker[side[trial]] for side in self._sides], n, rng)
