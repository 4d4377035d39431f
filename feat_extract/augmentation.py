"""Augment training crops: noise, babble, reverberation, codecs and speed on the samples, SpecAugment on the features.

With the probability of --augment_prob, a crop gets one of noise, music, babble and reverberation. This scheme, the
default probability of 0.6 and the SNRs of noise and music come from WeSpeaker (wespeaker/dataset/processor.py). The
SNRs of babble and its 3 to 7 speakers come from voxceleb_trainer. As in WeSpeaker, a speaker at another speed is
another class, and SpecAugment masks up to 10 frames and 8 coefficients. A codec is chosen independently and applied
last, since a telephone transmits the speech together with the noise and the reverberation.

audiomentations (0.43) is not used: it takes its random numbers from the global states of random and numpy.random, but
crops have to depend on (seed, epoch, index) only.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.index import FeatureIndex
from feat_extract.noise_folder import MUSIC, NOISE, SPEECH
from feat_extract.noise_sources import BABBLE, NoiseSources, mix, reverberate
from system.console import UserError

KINDS = ("noise", "reverb", "babble", "codec", "speed", "specaugment")
SPEEDS = (10, 9, 11)  # in tenths of the recorded speed
MASK_PROB, MAX_FRAMES, MAX_COEFFICIENTS = 0.6, 10, 8  # of SpecAugment: probability and maximum widths


class Augmentation(NamedTuple):
    """The augmentation of training crops."""

    kinds: tuple[str, ...] = ()  # of KINDS
    prob: float = 0.6  # probability of noise, music, babble or reverberation
    noise_snr: tuple[float, float] = (0.0, 15.0)  # minimum and maximum in dB
    music_snr: tuple[float, float] = (5.0, 15.0)
    babble_snr: tuple[float, float] = (13.0, 20.0)
    noise_dir: str | None = None  # folder of recordings; None: synthetic noise, babble of other speakers
    rir_dir: str | None = None  # folder of room impulse responses; None: synthetic ones
    codec_prob: float = 0.3


class AugmentedCrops:
    """Augmented crops of utterances.

    Attributes:
        n_speeds: number of speeds of each speaker.
    """

    def __init__(self, augmentation: Augmentation, root: Path, features: FeatureIndex):
        """Find the wavs, noise and impulse responses that the kinds need; UserError if one is missing."""
        self._augmentation, self._features = augmentation, features
        kinds, noise_dir = set(augmentation.kinds), augmentation.noise_dir
        self.n_speeds = len(SPEEDS) if "speed" in kinds else 1
        self._sources: NoiseSources | None = None
        if kinds - {"specaugment"}:
            needed = [NOISE, MUSIC] * ("noise" in kinds) + [SPEECH] * ("babble" in kinds)
            self._sources = NoiseSources(root, features, noise_dir, augmentation.rir_dir, needed)
            if "noise" in kinds and noise_dir:
                kinds = kinds - {NOISE} | {NOISE, MUSIC} & self._sources.recorded.keys()
                if kinds.isdisjoint((NOISE, MUSIC)):
                    raise UserError(f"{noise_dir}: contains speech, but neither noise nor music for --augment noise")
        self._noises = [kind for kind in (NOISE, BABBLE, "reverb", MUSIC) if kind in kinds]

    def crop(self, row: int, start: int, length: int, speed: int, rng: np.random.Generator) -> np.ndarray:
        """Return `length` frames (length, 40) of a row from frame `start` on; `speed` is an index into SPEEDS.

        At speed 0 and without any augmentation, it equals FeatureIndex.crop except for the mean of each coefficient.
        """
        if self._sources:
            transform = partial(self._transform, self._sources, row, rng)
            frames = self._sources.crop(row, start, length, transform, SPEEDS[speed])
        else:
            frames = self._features.crop(row, start, length)
        if "specaugment" in self._augmentation.kinds and rng.random() < MASK_PROB:
            frames = mask(frames, rng)
        return frames

    def _transform(self, sources: NoiseSources, row: int, rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
        """Return samples (S,) of a row with noise or reverberation and through a codec, each at random."""
        if self._noises and rng.random() < self._augmentation.prob:
            samples = self._add_noise(sources, row, rng, samples)
        if "codec" in self._augmentation.kinds and rng.random() < self._augmentation.codec_prob:
            from feat_extract.codecs import transcode_at_random  # loads FFmpeg's libraries

            samples = transcode_at_random(samples, rng)
        return samples

    def _add_noise(self, sources: NoiseSources, row: int, rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
        """Return samples (S,) of a row with a random one of the chosen kinds of noise, or with reverberation."""
        kind = self._noises[rng.integers(len(self._noises))]
        if kind == "reverb":
            return reverberate(samples, sources.impulse_response(rng))
        noise = sources.noise(kind, len(samples), rng, excluded=[self._features.speaker[row]])
        return mix(samples, noise, rng.uniform(*getattr(self._augmentation, f"{kind}_snr")))


def mask(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return frames (T, 40) in which consecutive frames and consecutive coefficients are masked (SpecAugment).

    Masked values are the means of the coefficients over time. The encoder subtracts these means, so they become 0.
    """
    masked, means = frames.copy(), frames.mean(axis=0)
    time, frequency = _span(len(frames), MAX_FRAMES, rng), _span(len(means), MAX_COEFFICIENTS, rng)
    masked[time] = means
    masked[:, frequency] = means[frequency]
    return masked


def _span(size: int, max_width: int, rng: np.random.Generator) -> slice:
    """Return a random slice of 1 to `max_width` positions in range(size)."""
    width = int(rng.integers(1, min(max_width, size), endpoint=True))
    start = int(rng.integers(size - width, endpoint=True))
    return slice(start, start + width)
