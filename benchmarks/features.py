"""Compare the feature extraction with python_speech_features (official code), librosa and kaldi-native-fbank.

    python -m benchmarks.features               # computation only, one core, noise in memory
    python -m benchmarks.features --folder DIR  # complete commands, wavs <speaker>/.../*.wav

The complete commands are feat_extract/feature_extraction.py and benchmarks/official_features.py, including their start,
reading and writing. Needs requirements-dev.txt, and kaldi-native-fbank for the row of this name.
"""

import argparse
import functools
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import official_features, timing
from configure import N_MELS, SAMPLE_RATE, TREES
from feat_extract.fbank import N_FFT, STEP, WINDOW, log_mel
from system import console
from system.console import UserError
from system.workers import cpu_count

PROJECT = Path(__file__).resolve().parent.parent


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    parser.add_argument("--utterances", type=console.integer(1), default=20, metavar="N",
                        help="number of utterances of 8 s, the mean of VoxCeleb (default: 20)")  # fmt: skip
    parser.add_argument("--folder", type=Path, metavar="DIR", help="folder of 16 kHz 16-bit mono wavs (default: noise)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args = parse_args(argv)
    if args.folder:
        complete_commands(args.folder.resolve(), args.repeats)
    else:
        in_memory(args)


def in_memory(args: argparse.Namespace) -> None:
    """Measure the computation, in seconds of audio per second."""
    rng = np.random.default_rng(0)
    utterances = [rng.integers(-3000, 3000, 8 * SAMPLE_RATE).astype(np.int16) for _ in range(args.utterances)]
    recipes: dict[str, Callable[[np.ndarray], np.ndarray]] = {"this project": log_mel}
    if importlib.util.find_spec("kaldi_native_fbank"):
        recipes["kaldi-native-fbank"] = by_kaldi
    recipes |= {"librosa": by_librosa, "python_speech_features": official_features.extract}
    ways: timing.Ways = {name: functools.partial(all_of, recipe, utterances) for name, recipe in recipes.items()}
    with threadpool_limits(1):
        timing.compare("features on one core", "seconds of audio", 8 * args.utterances, ways, args)


def all_of(recipe: Callable[[np.ndarray], np.ndarray], utterances: list[np.ndarray]) -> None:
    """Extract the features of all utterances."""
    for samples in utterances:
        recipe(samples)


def complete_commands(folder: Path, repeats: int) -> None:
    """Measure the commands alternately: files per second of time, and of user and system time of all processes."""
    n_files = sum(1 for _ in folder.rglob("*.wav"))
    if not n_files:
        raise UserError(f"--folder {folder}: contains no wavs")
    with tempfile.TemporaryDirectory() as scratch:
        tree = TREES["vox2_dev"]
        wavs, features = Path(scratch, tree.wav), Path(scratch, tree.feat)
        wavs.parent.mkdir(parents=True)
        wavs.symlink_to(folder)
        ours = ["feat_extract/feature_extraction.py", "--save_path", scratch, "--num_workers"]
        ways = {
            f"this project, {cpu_count()} processes": [*ours, str(cpu_count())],
            "this project, 1 process": [*ours, "1"],
            "official code, 1 process": ["-m", "benchmarks.official_features", str(wavs), str(features)],
        }
        rates: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
        for repeat in console.progress(range(repeats + 1), desc="benchmark"):
            for way, command in ways.items():
                shutil.rmtree(features, ignore_errors=True)
                wall, cpu = seconds_of([sys.executable, *command])
                written = sum(1 for _ in features.rglob("*.pkl"))
                if written != n_files:
                    raise UserError(f"{way}: wrote {written} of {n_files} features")
                if repeat:  # the first round fills the page cache
                    rates[way][0].append(n_files / wall)
                    rates[way][1].append(n_files / cpu)
    for title, rate in (("features, complete commands", 0), ("features, complete commands, user and system time", 1)):
        timing.report(title, "files", {way: of_way[rate] for way, of_way in rates.items()}, n=n_files)


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Return the time of a command, and its user and system time, with one thread per process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - start, cpu


def by_librosa(samples: np.ndarray) -> np.ndarray:
    """Extract similar features with librosa, whose filter edges are between FFT bins."""
    x = librosa.effects.preemphasis(samples.astype(np.float32))
    power = librosa.feature.melspectrogram(
        y=x, sr=SAMPLE_RATE, n_fft=N_FFT, win_length=WINDOW, hop_length=STEP, window="hamming", center=False,
        n_mels=N_MELS, htk=True, norm=None,
    )  # fmt: skip
    features = 20 * np.log10(np.maximum(power.T, 1e-5))
    return features - features.mean(axis=0)


def by_kaldi(samples: np.ndarray) -> np.ndarray:
    """Extract similar features with kaldi-native-fbank, whose interface returns single frames."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.window_type, options.mel_opts.num_bins = 0, "hamming", N_MELS
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(SAMPLE_RATE, samples.astype(np.float32).tolist())
    fbank.input_finished()
    features = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    return features - features.mean(axis=0)


if __name__ == "__main__":
    console.run(main)
