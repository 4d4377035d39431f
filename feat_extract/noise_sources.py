"""What disturbs speech outside the studio: noise at a signal-to-noise ratio, other voices, rooms.

Signals are (S,) float at 16 kHz on the int16 scale. All that is random comes from the generator given.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from configure import SAMPLE_RATE, TREES
from dataset.index import FeatureIndex
from feat_extract.audio import read_samples
from feat_extract.fbank import STEP, log_mel, n_frames_of, n_samples_of
from feat_extract.noise_folder import MUSIC, NOISE, RIR, SPEECH, Recorded, recordings
from system.console import UserError

MAX_SNR = 100  # dB; 16-bit samples span 96
VOICES = 3, 7  # of babble, as in voxceleb_trainer
RT60 = 0.2, 0.8  # s
DIRECT_TO_REVERBERANT = -5.0, 10.0  # dB


def mix(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Return speech (S,) with noise (S,) at a ratio of their mean powers of `snr` dB."""
    return speech + noise * (_rms(speech) / max(_rms(noise), 1e-9) * 10 ** (-snr / 20))


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.dot(signal, signal) / len(signal)))


def coloured_noise(n: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise (n,) whose power falls as 1 / frequency ** exponent: 0 is white, 1 pink, 2 brown."""
    import scipy.fft

    size = scipy.fft.next_fast_len(n, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, np.float32))
    spectrum[1:] *= np.arange(1, len(spectrum), dtype=np.float32) ** np.float32(-exponent / 2)
    spectrum[0] = 0
    return scipy.fft.irfft(spectrum, size)[:n]


def synthetic_impulse_response(rt60: float, direct_to_reverberant: float, rng: np.random.Generator) -> np.ndarray:
    """Return a room's impulse response: the direct sound, then noise that falls by 60 dB in `rt60` seconds.

    Polack's model (1988); the powers of direct sound and tail have the ratio `direct_to_reverberant` (dB).
    """
    n = int(rt60 * SAMPLE_RATE)
    response = rng.standard_normal(n, np.float32) * 10 ** np.linspace(0, -3, n, dtype=np.float32)
    response[0] = 10 ** (direct_to_reverberant / 20) * np.linalg.norm(response[1:])
    return response


def reverberate(speech: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return speech (S,) in the room of an impulse response, the direct sound where it was."""
    import scipy.signal

    response = response[np.abs(response).argmax() :]
    return scipy.signal.oaconvolve(speech, response / np.linalg.norm(response))[: len(speech)]


def change_speed(samples: np.ndarray, tenths: int) -> np.ndarray:
    """Return samples (S,) played at a speed in tenths of theirs, tempo and pitch together: about 10 S / tenths."""
    import scipy.signal

    return samples if tenths == 10 else scipy.signal.resample_poly(samples, 10, tenths)


class NoiseSources:
    """Where speech, noise, voices and rooms come from.

    Noise and rooms are computed unless a folder of recordings is given. The voices of babble are the speech in the
    noise folder, if it has any, else those of other speakers of the features.

    Attributes:
        recorded: the recordings of the noise folder by kind: NOISE, MUSIC or SPEECH; empty without a folder.
    """

    def __init__(
        self,
        root: Path,
        features: FeatureIndex,
        noise_dir: str | None,
        rir_dir: str | None,
        kinds: Collection[str] | None = None,
    ):
        """Look up the wav tree below the data root and prepare the recordings; UserError if there are none.

        Of the noise folder the recordings of `kinds` are used; by default its noise, without noise its music, without
        either its speech.
        """
        self._root, self._features = root, features
        for first in features.first:  # a tree without wavs is told before the work
            self.wav(first)
        self.recorded = recordings(Path(noise_dir), NOISE, kinds, root) if noise_dir else {}
        self._impulse_responses = recordings(Path(rir_dir), RIR, (RIR,), root)[RIR] if rir_dir else []

    def crop(
        self, row: int, start: int, length: int, disturb: Callable[[np.ndarray], np.ndarray], tenths: int = 10
    ) -> np.ndarray:
        """Return `length` frames (length, 40) of a row from frame `start` on, computed from its wav.

        Where `disturb`, from samples (S,) to samples, changes nothing at the recorded speed of 10 tenths, they are
        FeatureIndex.crop's but for each coefficient's mean.
        """
        n_frames = int(self._features.n_frames(np.array([row]))[0])
        repeated = start + length > n_frames  # the utterance is shorter than a window: it is read whole
        n = 1 + n_samples_of(length)  # the sample before is for the pre-emphasis
        n_read = -(-n * tenths // 10)
        begin = 0 if repeated else min(STEP * start, max(0, 1 + n_samples_of(n_frames) - n_read))
        samples = self._speech(row, max(0, begin - 1), n_read - (begin == 0))
        samples = np.pad(samples, (int(begin == 0), 0))  # nothing is before an utterance
        samples = disturb(change_speed(samples, tenths)[:n])
        frames = log_mel(samples[1:], before=samples[0])
        return frames[((start if repeated else 0) + np.arange(length)) % len(frames)]

    def wav(self, row: int) -> Path:
        """Return the wav that the features of a row were extracted from; UserError if it is not there."""
        feature = self._features.path(row)
        tree = next(self._root / tree.wav for tree in TREES.values() if self._root / tree.feat in feature.parents)
        path = tree / f"{self._features.name(row)}.wav"
        if path.exists():
            return path
        for other in path.parent.iterdir() if path.parent.is_dir() else ():
            if other.stem == path.stem and other.suffix.lower() == ".wav":
                return other
        raise UserError(
            f"{path}: no such wav; noise, reverb, babble and speed are made from the wavs, not the features"
        )

    def _speech(self, row: int, start: int, n: int) -> np.ndarray:
        """Return n samples of an utterance from sample `start` on, fewer where it ends; UserError as for `wav`."""
        path, n_frames = self.wav(row), self._features.n_frames(np.array([row]))[0]
        samples, n_there = read_samples(path, start, n)
        if n_frames_of(n_there) != n_frames:
            raise UserError(
                f"{path}: {n_there:,} samples, but its feature file has {n_frames} frames; extract it again"
            )
        return samples.astype(np.float32)

    def noise(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return n samples of recorded noise or, without recordings, of coloured noise, white to brown."""
        if NOISE in self.recorded:
            return _stretch(self.recorded[NOISE], n, rng)
        return coloured_noise(n, rng.uniform(0, 2), rng)

    def music(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return n samples of recorded music."""
        return _stretch(self.recorded[MUSIC], n, rng)

    def babble(self, without: Collection[int], n: int, rng: np.random.Generator) -> np.ndarray:
        """Return n samples of several voices of equal power, none of them of the speakers `without`."""
        voices = [self._voice(without, n, rng) for _ in range(rng.integers(*VOICES, endpoint=True))]
        return np.sum([voice / max(_rms(voice), 1e-9) for voice in voices], axis=0)

    def _voice(self, without: Collection[int], n: int, rng: np.random.Generator) -> np.ndarray:
        if SPEECH in self.recorded:
            return _stretch(self.recorded[SPEECH], n, rng)
        while self._features.speaker[row := int(rng.integers(len(self._features)))] in without:
            pass
        n_frames = self._features.n_frames(np.array([row]))[0]
        start = STEP * int(rng.integers(max(1, n_frames - n // STEP)))
        return np.resize(self._speech(row, start, n), n)

    def impulse_response(self, rng: np.random.Generator) -> np.ndarray:
        """Return the impulse response of a room, recorded or computed."""
        if self._impulse_responses:
            path, n_samples = self._impulse_responses[rng.integers(len(self._impulse_responses))]
            return read_samples(path, 0, n_samples)[0].astype(np.float32)
        return synthetic_impulse_response(rng.uniform(*RT60), rng.uniform(*DIRECT_TO_REVERBERANT), rng)


def _stretch(recordings: list[Recorded], n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n samples from a random place of one of the recordings, which is repeated where it is shorter."""
    path, n_samples = recordings[rng.integers(len(recordings))]
    start = int(rng.integers(max(1, n_samples - n + 1)))
    return np.resize(read_samples(path, start, n)[0].astype(np.float32), n)
