"""Log mel features, against python_speech_features (the 2020 release's), librosa and kaldi-native-fbank.

    python -m benchmarks.features               # computing alone, one core, noise in memory
    python -m benchmarks.features --folder DIR  # whole commands over the wavs <speaker>/.../*.wav below a folder

Whole commands are feat_extract/feature_extraction.py and benchmarks/release_features.py, each with its start, its
reading and its writing. Needs requirements-dev.txt, and kaldi-native-fbank for the row of that name.
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

from benchmarks import release_features, timing
from configure import N_MELS, SAMPLE_RATE, TREES
from feat_extract.fbank import N_FFT, STEP, WINDOW, log_mel
from system import console
from system.console import UserError
from system.workers import cpu_count

PROJECT = Path(__file__).resolve().parent.parent


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = timing.parser(__doc__)
    parser.add_argument("--utterances", type=console.integer(1), default=20, help="of 8 s, VoxCeleb's mean (20)")
    parser.add_argument("--folder", type=Path, help="of real recordings, 16 kHz 16-bit mono wavs")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args = parse_args(argv)
    if args.folder:
        whole_commands(args.folder.resolve(), args.repeats)
    else:
        in_memory(args)


def in_memory(args: argparse.Namespace) -> None:
    """Measure the computing alone, in seconds of audio per second."""
    rng = np.random.default_rng(0)
    utterances = [rng.integers(-3000, 3000, 8 * SAMPLE_RATE).astype(np.int16) for _ in range(args.utterances)]
    recipes: dict[str, Callable[[np.ndarray], np.ndarray]] = {"this project": log_mel}
    if importlib.util.find_spec("kaldi_native_fbank"):
        recipes["kaldi-native-fbank"] = by_kaldi
    recipes |= {"librosa": by_librosa, "python_speech_features": release_features.extract}
    ways: timing.Ways = {name: functools.partial(all_of, recipe, utterances) for name, recipe in recipes.items()}
    with threadpool_limits(1):
        timing.compare("features on one core", "seconds of audio", 8 * args.utterances, ways, args)


def all_of(recipe: Callable[[np.ndarray], np.ndarray], utterances: list[np.ndarray]) -> None:
    """Extract the features of some utterances."""
    for samples in utterances:
        recipe(samples)


def whole_commands(folder: Path, repeats: int) -> None:
    """Measure the commands in turns: files per second, and per second of user and system time, all processes'."""
    n_files = sum(1 for _ in folder.rglob("*.wav"))
    if not n_files:
        raise UserError(f"--folder {folder}: holds no wav files")
    with tempfile.TemporaryDirectory() as scratch:
        tree = TREES["vox2_dev"]
        wavs, features = Path(scratch, tree.wav), Path(scratch, tree.feat)
        wavs.parent.mkdir(parents=True)
        wavs.symlink_to(folder)
        ours = ["feat_extract/feature_extraction.py", "--save_path", scratch, "--num_workers"]
        ways = {
            f"this project, {cpu_count()} processes": [*ours, str(cpu_count())],
            "this project, 1 process": [*ours, "1"],
            "the release's recipe, 1 process": ["-m", "benchmarks.release_features", str(wavs), str(features)],
        }
        rates: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
        for at in console.progress(range(repeats + 1), desc="benchmark"):
            for way, command in ways.items():
                shutil.rmtree(features, ignore_errors=True)
                wall, cpu = seconds_of([sys.executable, *command])
                written = sum(1 for _ in features.rglob("*.pkl"))
                if written != n_files:
                    raise UserError(f"{way}: wrote {written} of {n_files} features")
                if at:  # the first round warms the disk's cache
                    rates[way][0].append(n_files / wall)
                    rates[way][1].append(n_files / cpu)
    for title, rate in (("features, whole commands", 0), ("features, whole commands, user and system time", 1)):
        timing.tell(title, "files", {way: of_way[rate] for way, of_way in rates.items()}, n=n_files)


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Return how long a command takes, and how much user and system time, on one thread a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - start, cpu


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
