"""Measure the loading of training crops, and compare it with unpickling complete float64 features.

    python -m benchmarks.loading

Episodes have the size of the paper: 100 speakers with 1 support utterance and 2 queries. The files are in the page
cache; from a disk, it is a greater advantage to read only the frames of a crop. The second table has the crops per
second of processor time with each augmentation: a GPU that trains on N utterances per second needs N divided by this
number of cores. The third table has the windows per second through each codec.
"""

import argparse
import pickle
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import timing
from benchmarks.synthetic import feature_tree, wavs_and_features
from configure import TRAIN_FRAMES
from dataset.episodes import TrainingEpisodes, episode_order
from dataset.index import FeatureIndex
from feat_extract.augmentation import KINDS, Augmentation, AugmentedCrops
from feat_extract.codecs import CODECS, transcode
from feat_extract.fbank import log_mel, n_samples_of
from system import console
from system.loading import Loader
from system.workers import cpu_count

N_WAY, N_SHOT, N_QUERY = 100, 1, 2
SETTING: dict[str, Any] = {"n_way": N_WAY, "n_shot": N_SHOT, "n_query": N_QUERY, "use_variable": True, "seed": 0}
N_UTTERANCES = 30  # per speaker, for ten episodes
N_WAVS = 6  # per speaker, for two episodes


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    return timing.parser(__doc__).parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        features = feature_tree(Path(scratch) / "feat", N_WAY, N_UTTERANCES)
        float64_files = write_float64(features, Path(scratch) / "float64")
        episodes = TrainingEpisodes(features, **SETTING)
        ways = {
            f"this project, {cpu_count()} loader processes": lambda: load(episodes, cpu_count()),
            "this project, 1 loader process": lambda: load(episodes, 1),
            "this project, in the training process": lambda: load(episodes, 0),
            "plain recipe, in the training process": lambda: load_plainly(float64_files, episodes.per_epoch),
        }
        amount = episodes.per_epoch * N_WAY * (N_SHOT + N_QUERY)
        timing.compare("loading", "crops", amount, ways, args)
        compare_augmentations(Path(scratch), args)
    compare_codecs(args)


def compare_augmentations(root: Path, args: argparse.Namespace) -> None:
    """Measure and print the crops per second of one core with each augmentation, and with all at their defaults."""
    features = wavs_and_features(root, N_WAY, N_WAVS)
    settings = {f"{kind}, in every crop": Augmentation((kind,), prob=1, codec_prob=1) for kind in KINDS}
    settings["all, with the default probabilities"] = Augmentation(KINDS)
    ways: timing.Ways = {}
    for name, setting in settings.items():
        augmented = TrainingEpisodes(features, **SETTING, augmenter=AugmentedCrops(setting, root, features))
        ways[name] = partial(load, augmented, 0)
    plain = TrainingEpisodes(features, **SETTING)
    ways["none"] = partial(load, plain, 0)
    amount = plain.per_epoch * N_WAY * (N_SHOT + N_QUERY)
    timing.compare("loading with augmentation, one core", "crops", amount, ways, args, clock=time.process_time)


def compare_codecs(args: argparse.Namespace) -> None:
    """Measure and print the training windows per second of one core through each codec, including the features."""
    rng, n = np.random.default_rng(0), 20
    windows = rng.normal(scale=2000, size=(n, n_samples_of(TRAIN_FRAMES))).astype(np.float32)

    def features_through(name: str | None) -> None:
        for window in windows:
            log_mel(transcode(window, name, rng) if name else window)

    ways: timing.Ways = {name: partial(features_through, name) for name in CODECS}
    ways["none"] = partial(features_through, None)
    timing.compare("features through a codec, one core", "windows", n, ways, args, clock=time.process_time)


def write_float64(features: FeatureIndex, folder: Path) -> list[Path]:
    """Write the features as pickles of float64, as the official code does, and return the files."""
    folder.mkdir()
    files = [folder / f"{row}.pkl" for row in range(len(features))]
    for row, file in enumerate(files):
        content = {"feat": features.utterance(row).astype(np.float64), "label": str(row)}
        file.write_bytes(pickle.dumps(content, protocol=2))
    return files


def load(episodes: TrainingEpisodes, num_workers: int) -> None:
    """Load an epoch as train.py does."""
    loader = Loader(episodes, num_workers, episodes.max_bytes, pin_memory=False)
    with loader.batches(episode_order(episodes.per_epoch, 0, 0, 1)) as loaded:
        for _ in loaded:
            pass


def load_plainly(files: list[Path], n_episodes: int) -> None:
    """Load the same number of crops one after the other, each from its complete pickle."""
    rng = np.random.default_rng(0)
    for _ in range(n_episodes):
        crops = []
        for i in rng.choice(len(files), N_WAY * (N_SHOT + N_QUERY)):
            feat = pickle.loads(files[i].read_bytes())["feat"]
            start = rng.integers(len(feat) - TRAIN_FRAMES + 1)
            crops.append(torch.from_numpy(feat[start : start + TRAIN_FRAMES].T.astype(np.float32))[None])
        torch.stack(crops)


if __name__ == "__main__":
    console.run(main)
