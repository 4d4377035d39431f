"""Loading alone, in crops per second: what feeds the network, against unpickling whole float64 features in the loop.

    python -m benchmarks.loading

Episodes of the paper's size: 100 speakers, 1 support and 2 queries each. The files are in the page cache; on a disk
that is not, reading a crop's own frames matters more. The second table is of augmentation, in processor time: a GPU
that trains on N utterances a second keeps N divided by its figures cores busy. The third is of each codec alone.
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
N_UTTERANCES = 30  # of a speaker, ten episodes together
N_WAVS = 6  # of a speaker, two episodes together


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    return timing.parser(__doc__).parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        features = feature_tree(Path(scratch) / "feat", N_WAY, N_UTTERANCES)
        release = write_float64(features, Path(scratch) / "float64")
        episodes = TrainingEpisodes(features, **SETTING)
        ways = {
            f"this project, {cpu_count()} loader processes": lambda: load(episodes, cpu_count()),
            "this project, 1 loader process": lambda: load(episodes, 1),
            "this project, in the loop": lambda: load(episodes, 0),
            "plain recipe, in the loop": lambda: load_plainly(release, episodes.per_epoch),
        }
        amount = episodes.per_epoch * N_WAY * (N_SHOT + N_QUERY)
        timing.compare("loading", "crops", amount, ways, args)
        compare_augmentations(Path(scratch), args)
    compare_codecs(args)


def compare_augmentations(root: Path, args: argparse.Namespace) -> None:
    """Measure and print what a core loads with each augmentation in every crop, and with all as train.py has them."""
    features = wavs_and_features(root, N_WAY, N_WAVS)
    settings = {f"{kind}, in every crop": Augmentation((kind,), prob=1, codec_prob=1) for kind in KINDS}
    settings["all, as often as train.py's default"] = Augmentation(KINDS)
    ways: timing.Ways = {}
    for name, setting in settings.items():
        augmented = TrainingEpisodes(features, **SETTING, augmenter=AugmentedCrops(setting, root, features))
        ways[name] = partial(load, augmented, 0)
    plain = TrainingEpisodes(features, **SETTING)
    ways["none"] = partial(load, plain, 0)
    amount = plain.per_epoch * N_WAY * (N_SHOT + N_QUERY)
    timing.compare("loading with augmentation, one core", "crops", amount, ways, args, clock=time.process_time)


def compare_codecs(args: argparse.Namespace) -> None:
    """Measure and print of how many training windows one core makes features through each codec."""
    rng, n = np.random.default_rng(0), 20
    windows = rng.normal(scale=2000, size=(n, n_samples_of(TRAIN_FRAMES))).astype(np.float32)

    def features_through(name: str | None) -> None:
        for window in windows:
            log_mel(transcode(window, name, rng) if name else window)

    ways: timing.Ways = {name: partial(features_through, name) for name in CODECS}
    ways["none"] = partial(features_through, None)
    timing.compare("features through a codec, one core", "windows", n, ways, args, clock=time.process_time)


def write_float64(features: FeatureIndex, folder: Path) -> list[Path]:
    """Write the features as the 2020 release does, pickles of float64, and return their files."""
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
    """Load as many crops one after the other, each out of its whole pickle."""
    rng = np.random.default_rng(0)
    for _ in range(n_episodes):
        crops = []
        for at in rng.choice(len(files), N_WAY * (N_SHOT + N_QUERY)):
            feat = pickle.loads(files[at].read_bytes())["feat"]
            start = rng.integers(len(feat) - TRAIN_FRAMES + 1)
            crops.append(torch.from_numpy(feat[start : start + TRAIN_FRAMES].T.astype(np.float32))[None])
        torch.stack(crops)


if __name__ == "__main__":
    console.run(main)
