"""A feature tree of noise, for benchmarks that do not care what is said."""

from pathlib import Path

import numpy as np

from dataset.features import write_feature
from dataset.index import FeatureIndex


def feature_tree(folder: Path, n_speakers: int, n_utterances: int) -> FeatureIndex:
    """Write a tree of utterances of 4 to 12 s, VoxCeleb's mean in the middle, and return its index."""
    rng = np.random.default_rng(0)
    for speaker in range(n_speakers):
        for utterance in range(n_utterances):
            feat = 20 * rng.standard_normal((int(rng.integers(400, 1200)), 40), np.float32)
            write_feature(folder / f"id{speaker:05d}" / "video" / f"{utterance:05d}.pkl", feat, f"id{speaker:05d}")
    return FeatureIndex([folder])
