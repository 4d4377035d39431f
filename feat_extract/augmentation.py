"""Augmentation of training crops: noise, babble, reverberation, codecs and speed, from each crop's wav; SpecAugment.

A crop gets, with --augment_prob, one of the chosen kinds among noise, music, babble and reverb. That, the probability
of 0.6 and the ranges of noise and music are WeSpeaker's (wespeaker/dataset/processor.py), the range of babble and its
3 to 7 voices voxceleb_trainer's. As in WeSpeaker a speaker at another speed counts as another speaker, and SpecAugment
masks at most 10 frames and 8 coefficients.

A codec is independent of these kinds and follows them, as a telephone line follows the room that the speaker is in.

The signal work is NumPy's and SciPy's: audiomentations (0.43) draws from the global states of random and numpy.random,
so that its crops could not be drawn from (seed, epoch, index).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.index import FeatureIndex
from feat_extract.noise_folder import MUSIC, NOISE, SPEECH
from feat_extract.noise_sources import NoiseSources, mix, reverberate
from system.console import UserError

KINDS = ("noise", "reverb", "babble", "codec", "speed", "specaugment")
SPEEDS = (10, 9, 11)  # in tenths of the recorded one
MASK_PROB, MASK_FRAMES, MASK_COEFFICIENTS = 0.6, 10, 8  # of SpecAugment: the widths are the greatest


class Augmentation(NamedTuple):
    """What is done to crops."""

    kinds: tuple[str, ...] = ()  # of KINDS
    prob: float = 0.6  # that a crop gets noise, music, babble or reverb
    noise_snr: tuple[float, float] = (0.0, 15.0)  # dB, least and greatest
    music_snr: tuple[float, float] = (5.0, 15.0)
    babble_snr: tuple[float, float] = (13.0, 20.0)
    noise_dir: str | None = None
    rir_dir: str | None = None
    codec_prob: float = 0.3  # that a crop passes a codec, whether or not it is disturbed


class AugmentedCrops:
    """Crops of utterances, augmented; each speaker is heard at `n_speeds` speeds."""

    def __init__(self, augmentation: Augmentation, root: Path, features: FeatureIndex):
        """Find wavs, noise and rooms, as far as the kinds need them; UserError if there are none."""
        self._augmentation, self._features = augmentation, features
        chosen = augmentation.kinds
        self.n_speeds = len(SPEEDS) if "speed" in chosen else 1
        disturbing, noise_dir = set(chosen), augmentation.noise_dir
        self._sources: NoiseSources | None = None
        if set(chosen) - {"specaugment"}:
            needed = [NOISE, MUSIC] * ("noise" in chosen) + [SPEECH] * ("babble" in chosen)
            self._sources = NoiseSources(root, features, noise_dir, augmentation.rir_dir, needed)
            if "noise" in chosen and noise_dir:
                noises = {NOISE, MUSIC} & self._sources.recorded.keys()
                if not noises:
                    raise UserError(f"{noise_dir}: contains speech, but neither noise nor music for --augment noise")
                disturbing = disturbing - {NOISE} | noises
        self._disturbing = [kind for kind in (NOISE, "babble", "reverb", MUSIC) if kind in disturbing]
        self._code: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
        if "codec" in chosen:
            from feat_extract.codecs import transcode_at_random  # FFmpeg's libraries are loaded only where needed

            self._code = transcode_at_random

    def crop(self, row: int, start: int, length: int, speed: int, rng: np.random.Generator) -> np.ndarray:
        """Return `length` frames (length, 40) of a row from frame `start` on, at a speed of 0 .. n_speeds - 1.

        Undisturbed and at speed 0 it is FeatureIndex.crop but for each coefficient's mean.
        """
        if self._sources:
            disturb = partial(self._recorded, self._sources, row, rng)
            frames = self._sources.crop(row, start, length, disturb, SPEEDS[speed])
        else:
            frames = self._features.crop(row, start, length)
        if "specaugment" in self._augmentation.kinds and rng.random() < MASK_PROB:
            frames = mask(frames, rng)
        return frames

    def _recorded(self, sources: NoiseSources, row: int, rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
        """Return samples (S,), disturbed and coded as often as the setting says."""
        samples = self._disturb(sources, row, rng, samples)
        if self._code and rng.random() < self._augmentation.codec_prob:
            samples = self._code(samples, rng)
        return samples

    def _disturb(self, sources: NoiseSources, row: int, rng: np.random.Generator, samples: np.ndarray) -> np.ndarray:
        """Return samples (S,) with one of the chosen disturbances, or as they are."""
        setting, n = self._augmentation, len(samples)
        if not self._disturbing or rng.random() >= setting.prob:
            return samples
        match self._disturbing[rng.integers(len(self._disturbing))]:
            case "noise":
                noise, snr = sources.noise(n, rng), setting.noise_snr
            case "music":
                noise, snr = sources.music(n, rng), setting.music_snr
            case "babble":
                noise, snr = sources.babble([self._features.speaker[row]], n, rng), setting.babble_snr
            case _:
                return reverberate(samples, sources.impulse_response(rng))
        return mix(samples, noise, rng.uniform(*snr))


def mask(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return frames (T, 40) with a stretch of frames, and a band of coefficients, at the coefficients' means over time.

    SpecAugment: the encoder subtracts these means, so what is masked becomes 0.
    """
    masked, means = frames.copy(), frames.mean(axis=0)
    at, band = _span(len(frames), MASK_FRAMES, rng), _span(len(means), MASK_COEFFICIENTS, rng)
    masked[at] = means
    masked[:, band] = means[band]
    return masked


def _span(size: int, greatest: int, rng: np.random.Generator) -> slice:
    """Return a random stretch of 1 to `greatest` of `size` places."""
    width = int(rng.integers(1, min(greatest, size), endpoint=True))
    start = int(rng.integers(size - width, endpoint=True))
    return slice(start, start + width)
