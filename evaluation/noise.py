"""Add noise and reverberation to the test utterances of an evaluation."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dataset.index import FeatureIndex
from evaluation.score_file import CLEAN
from evaluation.speech import SpeechIndex
from feat_extract.noise_folder import MUSIC, NOISE
from feat_extract.noise_sources import BABBLE, NoiseSources, mix, reverberate
from system.console import UserError


@dataclasses.dataclass(frozen=True)
class NoisyTests:
    """The test utterances of n trials in noise: features for `embed`, with the numbers of the trials as rows.

    Noise and impulse response depend on the number of the trial and the seed only, so they are the same at every
    signal-to-noise ratio. They are applied to the recorded utterance. If the features are a SpeechIndex, the frames
    that are silent in the clean utterance are removed afterwards. UserError if there are too few speakers for babble.
    """

    features: FeatureIndex
    sources: NoiseSources  # of the utterances with silence; without recordings of noise or music, babble is used
    sides: Sequence[np.ndarray]  # rows (n,) of the enrolment and of the test utterances
    snr: float | None  # signal-to-noise ratio in dB; None: no noise
    reverb: bool  # whether to add reverberation; each trial has another impulse response
    seed: int

    def __post_init__(self) -> None:
        if self.snr is not None and not self.sources.recorded and len(self.features.speakers) < 3:
            raise UserError("babble needs a third speaker besides the two of a trial; use recordings with --noise_dir")

    @property
    def name(self) -> str:
        """The signal-to-noise ratio in the notation of the score file: a number of dB, or `clean`."""
        return CLEAN if self.snr is None else f"{self.snr:g}"

    @property
    def kind(self) -> str:
        """The kind of noise: noise, music, or babble of speakers that are not in the trial."""
        return next((kind for kind in (NOISE, MUSIC) if kind in self.sources.recorded), BABBLE)

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return `length` frames (length, 40) of the test utterance of trial number `row`, from frame `start`."""
        rng = np.random.default_rng([self.seed, 2, row])  # 2: not the stream of trials or window starts

        def disturb(samples: np.ndarray) -> np.ndarray:
            if self.reverb:
                samples = reverberate(samples, self.sources.impulse_response(rng))
            if self.snr is None:
                return samples
            speakers = [self.features.speaker[side[row]] for side in self.sides]
            return mix(samples, self.sources.noise(self.kind, len(samples), rng, excluded=speakers), self.snr)

        utterance = int(self.sides[1][row])
        if not isinstance(self.features, SpeechIndex):
            return self.sources.crop(utterance, start, length, disturb)
        frames = self.features.recorded_frames(utterance, start, length)
        first = int(frames.min())
        return self.sources.crop(utterance, first, int(frames.max()) + 1 - first, disturb)[frames - first]
