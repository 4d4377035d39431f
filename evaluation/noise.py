"""Test utterances in noise and in rooms: what the evaluators embed in place of the clean ones."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dataset.index import FeatureIndex
from evaluation.score_file import CLEAN
from evaluation.speech import SpeechIndex
from feat_extract.noise_folder import MUSIC, NOISE
from feat_extract.noise_sources import NoiseSources, mix, reverberate
from system.console import UserError


@dataclasses.dataclass(frozen=True)
class NoisyTests:
    """The test sides of n trials in noise; where `embed` asks for a row it means a trial.

    What disturbs a trial depends on its number and the seed only: it is the same at every signal-to-noise ratio. The
    recorded utterance is disturbed; frames that are pauses in the clean utterance are removed if the features are a
    SpeechIndex. UserError where there are no voices for babble.
    """

    features: FeatureIndex
    sources: NoiseSources  # for the recorded utterances; of noise or music if it has recordings of them, else of babble
    sides: Sequence[np.ndarray]  # rows (n,) of enrolment and test
    snr: float | None  # signal-to-noise ratio in dB; None: no noise
    reverb: bool  # whether each trial is in a room of its own
    seed: int

    def __post_init__(self) -> None:
        if self.snr is not None and not self.sources.recorded and len(self.features.speakers) < 3:
            raise UserError("babble needs speakers besides a trial's own two; give recordings by --noise_dir")

    @property
    def name(self) -> str:
        """The signal-to-noise ratio in words: a number of dB, or `clean`."""
        return CLEAN if self.snr is None else f"{self.snr:g}"

    @property
    def kind(self) -> str:
        """What disturbs the speech: noise, music, or babble of speakers on neither side of the trial."""
        return next((kind for kind in (NOISE, MUSIC) if kind in self.sources.recorded), "babble")

    def crop(self, row: int, start: int, length: int) -> np.ndarray:
        """Return `length` frames (length, 40) of the test side of trial number `row` from frame `start` on."""
        rng = np.random.default_rng([self.seed, 2, row])  # 2: not the trials' stream, nor that of the windows' starts

        def disturb(samples: np.ndarray) -> np.ndarray:
            if self.reverb:
                samples = reverberate(samples, self.sources.impulse_response(rng))
            if self.snr is None:
                return samples
            if self.kind == NOISE:
                noise = self.sources.noise(len(samples), rng)
            elif self.kind == MUSIC:
                noise = self.sources.music(len(samples), rng)
            else:
                speakers = [self.features.speaker[side[row]] for side in self.sides]
                noise = self.sources.babble(speakers, len(samples), rng)
            return mix(samples, noise, self.snr)

        utterance = int(self.sides[1][row])
        if not isinstance(self.features, SpeechIndex):
            return self.sources.crop(utterance, start, length, disturb)
        frames = self.features.recorded_frames(utterance, start, length)
        first = int(frames.min())
        return self.sources.crop(utterance, first, int(frames.max()) + 1 - first, disturb)[frames - first]
