"""Log mel features on one core, against python_speech_features, librosa and kaldi-native-fbank.

    python -m benchmarks.features

Needs requirements-dev.txt, and kaldi-native-fbank for the row of that name.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable

import librosa
import numpy as np
import python_speech_features
from threadpoolctl import threadpool_limits

from benchmarks import timing
from configure import N_MELS, SAMPLE_RATE
from feat_extract.fbank import N_FFT, STEP, WINDOW, log_mel
from system import console


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    parser.add_argument("--utterances", type=console.integer(1), default=20, help="of 8 s, VoxCeleb's mean (20)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print, in seconds of audio per second."""
    args = parse_args(argv)
    rng = np.random.default_rng(0)
    utterances = [rng.integers(-3000, 3000, 8 * SAMPLE_RATE).astype(np.int16) for _ in range(args.utterances)]
    recipes: dict[str, Callable[[np.ndarray], np.ndarray]] = {"this project": log_mel}
    if importlib.util.find_spec("kaldi_native_fbank"):
        recipes["kaldi-native-fbank"] = by_kaldi
    recipes |= {"librosa": by_librosa, "python_speech_features": by_python_speech_features}
    ways: timing.Ways = {name: functools.partial(apply, recipe, utterances) for name, recipe in recipes.items()}
    with threadpool_limits(1):
        timing.compare("features on one core", "seconds of audio", 8 * args.utterances, ways, args)


def apply(recipe: Callable[[np.ndarray], np.ndarray], utterances: list[np.ndarray]) -> None:
    """Extract the features of each utterance."""
    for samples in utterances:
        recipe(samples)


def by_python_speech_features(samples: np.ndarray) -> np.ndarray:
    """Extract as the 2020 release does."""
    energies, _ = python_speech_features.fbank(samples, SAMPLE_RATE, winlen=0.025, nfilt=N_MELS, winfunc=np.hamming)
    features = 20 * np.log10(np.maximum(energies, 1e-5))
    return features - features.mean(axis=0)


def by_librosa(samples: np.ndarray) -> np.ndarray:
    """Extract the like of it with librosa: its filters lie between FFT bins."""
    x = librosa.effects.preemphasis(samples.astype(np.float32))
    power = librosa.feature.melspectrogram(
        y=x, sr=SAMPLE_RATE, n_fft=N_FFT, win_length=WINDOW, hop_length=STEP, window="hamming", center=False,
        n_mels=N_MELS, htk=True, norm=None,
    )  # fmt: skip
    features = 20 * np.log10(np.maximum(power.T, 1e-5))
    return features - features.mean(axis=0)


def by_kaldi(samples: np.ndarray) -> np.ndarray:
    """Extract the like of it with kaldi-native-fbank, read out frame by frame as its interface has it."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.window_type, options.mel_opts.num_bins = 0, "hamming", N_MELS
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(SAMPLE_RATE, samples.astype(np.float32).tolist())
    fbank.input_finished()
    features = np.stack([fbank.get_frame(at) for at in range(fbank.num_frames_ready)])
    return features - features.mean(axis=0)


if __name__ == "__main__":
    console.run(main)
