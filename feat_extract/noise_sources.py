"""Add noise, babble and reverberation to speech.

Signals are (S,) float at 16 kHz on the int16 scale. All random numbers come from the generator that is passed.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from configure import SAMPLE_RATE, TREES
from dataset.index import FeatureIndex
from feat_extract.audio import read_samples
from feat_extract.fbank import STEP, log_mel, n_frames_of, n_samples_of
from feat_extract.noise_folder import NOISE, RIR, SPEECH, Wav, recordings
from system.console import UserError

BABBLE = "babble"
MAX_SNR = 100  # dB; the range of 16-bit samples is 96 dB
N_SPEAKERS = 3, 7  # of babble, as in voxceleb_trainer
RT60 = 0.2, 0.8  # s
DIRECT_TO_REVERBERANT = -5.0, 10.0  # dB


def mix(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Return speech (S,) plus noise (S,), scaled to a signal-to-noise ratio of `snr` dB."""
    return speech + noise * (_rms(speech) / max(_rms(noise), 1e-9) * 10 ** (-snr / 20))


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.dot(signal, signal) / len(signal)))


def coloured_noise(n: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise (n,) with a power spectrum of 1 / frequency ** exponent: 0 is white, 1 pink, 2 brown."""
    import scipy.fft

    size = scipy.fft.next_fast_len(n, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, np.float32))
    spectrum[1:] *= np.arange(1, len(spectrum), dtype=np.float32) ** np.float32(-exponent / 2)
    spectrum[0] = 0
    return scipy.fft.irfft(spectrum, size)[:n]


def synthetic_impulse_response(rt60: float, direct_to_reverberant: float, rng: np.random.Generator) -> np.ndarray:
    """Return a room impulse response: the direct sound, then noise that decays by 60 dB in `rt60` seconds.

    Polack's model (1988). `direct_to_reverberant` is the ratio of the energies of direct sound and tail in dB.
    """
    n = int(rt60 * SAMPLE_RATE)
    response = rng.standard_normal(n, np.float32) * 10 ** np.linspace(0, -3, n, dtype=np.float32)
    response[0] = 10 ** (direct_to_reverberant / 20) * np.linalg.norm(response[1:])
    return response


def reverberate(speech: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return speech (S,) convolved with an impulse response, without the delay of the direct sound."""
    import scipy.signal

    response = response[np.abs(response).argmax() :]
    return scipy.signal.oaconvolve(speech, response / np.linalg.norm(response))[: len(speech)]


def change_speed(samples: np.ndarray, tenths: int) -> np.ndarray:
    """Return samples (S,) at tenths / 10 of the speed, with another tempo and pitch: about 10 S / tenths samples."""
    import scipy.signal

    return samples if tenths == 10 else scipy.signal.resample_poly(samples, 10, tenths)


class NoiseSources:
    """Noise, music, babble and room impulse responses, and crops of speech to which they are added.

    Noise and impulse responses are recorded if their folders are given, otherwise synthetic. Babble is the speech in
    the noise folder if it contains any, otherwise speech of other speakers of the features.

    Attributes:
        recorded: recordings of the noise folder by kind (NOISE, MUSIC, SPEECH); empty without a noise folder.
    """

    def __init__(
        self,
        root: Path,
        features: FeatureIndex,
        noise_dir: str | None,
        rir_dir: str | None,
        kinds: Collection[str] | None = None,
    ):
        """Find the wavs of the features in the data root, and prepare the recordings; UserError if there are none.

        `kinds` are the kinds of recordings to use from the noise folder; the default is the first of NOISE, MUSIC and
        SPEECH that the folder contains.
        """
        self._root, self._features = root, features
        for first in features.first:  # a missing wav tree is reported before the work starts
            self.wav(first)
        self.recorded = recordings(Path(noise_dir), NOISE, kinds, root) if noise_dir else {}
        self._impulse_responses = recordings(Path(rir_dir), RIR, (RIR,), root)[RIR] if rir_dir else []

    def crop(
        self, row: int, start: int, length: int, transform: Callable[[np.ndarray], np.ndarray], tenths: int = 10
    ) -> np.ndarray:
        """Return `length` frames (length, 40) of a row from frame `start` on, computed from its transformed samples.

        `transform` maps samples (S,) to samples (S,); before, the speed is changed to tenths / 10. If neither changes
        the samples, the frames are equal to those of FeatureIndex.crop except for the mean of each coefficient.
        """
        n_frames = int(self._features.n_frames(np.array([row]))[0])
        repeated = start + length > n_frames  # the utterance is shorter than the window: the full utterance is read
        n = 1 + n_samples_of(length)  # pre-emphasis needs the sample before the window
        n_read = -(-n * tenths // 10)
        begin = 0 if repeated else min(STEP * start, max(0, 1 + n_samples_of(n_frames) - n_read))
        samples = self._speech(row, max(0, begin - 1), n_read - (begin == 0))
        samples = np.pad(samples, (int(begin == 0), 0))  # there is no sample before an utterance
        samples = transform(change_speed(samples, tenths)[:n])
        frames = log_mel(samples[1:], before=samples[0])
        return frames[((start if repeated else 0) + np.arange(length)) % len(frames)]

    def wav(self, row: int) -> Path:
        """Return the wav from which the features of a row were extracted; UserError if it does not exist."""
        feature = self._features.path(row)
        tree = next(self._root / tree.wav for tree in TREES.values() if self._root / tree.feat in feature.parents)
        path = tree / f"{self._features.name(row)}.wav"
        if path.exists():
            return path
        for other in path.parent.iterdir() if path.parent.is_dir() else ():
            if other.stem == path.stem and other.suffix.lower() == ".wav":
                return other
        raise UserError(f"{path}: no such wav; noise, reverberation, codecs and speed need the wavs")

    def _speech(self, row: int, start: int, n: int) -> np.ndarray:
        """Return n samples of an utterance from sample `start` on, or fewer if it ends before; UserError as wav()."""
        path, n_frames = self.wav(row), self._features.n_frames(np.array([row]))[0]
        samples, n_samples = read_samples(path, start, n)
        if n_frames_of(n_samples) != n_frames:
            raise UserError(
                f"{path}: {n_samples:,} samples, but its feature file has {n_frames} frames; remove "
                f"{self._features.path(row)} and run feat_extract/feature_extraction.py"
            )
        return samples.astype(np.float32)

    def noise(self, kind: str, n: int, rng: np.random.Generator, excluded: Collection[int] = ()) -> np.ndarray:
        """Return n samples of a kind: NOISE, MUSIC or BABBLE.

        NOISE without recordings is coloured noise, from white to brown. BABBLE is 3 to 7 speakers at equal power;
        `excluded` are indices of speakers that are not used.
        """
        if kind == BABBLE:
            speakers = [self._other_speech(excluded, n, rng) for _ in range(rng.integers(*N_SPEAKERS, endpoint=True))]
            return np.sum([speech / max(_rms(speech), 1e-9) for speech in speakers], axis=0)
        if kind in self.recorded:
            return _random_segment(self.recorded[kind], n, rng)
        return coloured_noise(n, rng.uniform(0, 2), rng)

    def _other_speech(self, excluded: Collection[int], n: int, rng: np.random.Generator) -> np.ndarray:
        if SPEECH in self.recorded:
            return _random_segment(self.recorded[SPEECH], n, rng)
        while self._features.speaker[row := int(rng.integers(len(self._features)))] in excluded:
            pass
        n_frames = self._features.n_frames(np.array([row]))[0]
        start = STEP * int(rng.integers(max(1, n_frames - n // STEP)))
        return np.resize(self._speech(row, start, n), n)

    def impulse_response(self, rng: np.random.Generator) -> np.ndarray:
        """Return a recorded room impulse response; a synthetic one if there are no recordings."""
        if self._impulse_responses:
            path, n_samples = self._impulse_responses[rng.integers(len(self._impulse_responses))]
            return read_samples(path, 0, n_samples)[0].astype(np.float32)
        return synthetic_impulse_response(rng.uniform(*RT60), rng.uniform(*DIRECT_TO_REVERBERANT), rng)


def _random_segment(recordings: list[Wav], n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n samples from a random position of a random recording; a shorter recording is repeated."""
    path, n_samples = recordings[rng.integers(len(recordings))]
    start = int(rng.integers(max(1, n_samples - n + 1)))
    return np.resize(read_samples(path, start, n)[0].astype(np.float32), n)
