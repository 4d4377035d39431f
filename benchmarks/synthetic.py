"""Trees of noise, for benchmarks that do not care what is said."""

from pathlib import Path

import numpy as np
import soundfile

from configure import SAMPLE_RATE, TREES
from dataset.features import write_feature
from dataset.index import FeatureIndex
from feat_extract.fbank import log_mel


def feature_tree(folder: Path, n_speakers: int, n_utterances: int) -> FeatureIndex:
    """Write a tree of utterances of 4 to 12 s, VoxCeleb's mean in the middle, and return its index."""
    rng = np.random.default_rng(0)
    for speaker in range(n_speakers):
        for utterance in range(n_utterances):
            feat = 20 * rng.standard_normal((int(rng.integers(400, 1200)), 40), np.float32)
            write_feature(folder / f"id{speaker:05d}" / "video" / f"{utterance:05d}.pkl", feat, f"id{speaker:05d}")
    return FeatureIndex([folder])


def wavs_and_features(root: Path, n_speakers: int, n_utterances: int) -> FeatureIndex:
    """Write wavs of 4 to 12 s below a data root, and their features; return the index of these."""
    rng = np.random.default_rng(0)
    tree = TREES["vox2_dev"]
    for speaker in range(n_speakers):
        for utterance in range(n_utterances):
            samples = rng.integers(-3000, 3000, int(rng.integers(4, 12) * SAMPLE_RATE), np.int16)
            name = f"id{speaker:05d}/video/{utterance:05d}"
            wav = root / tree.wav / f"{name}.wav"
            wav.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wav, samples, SAMPLE_RATE, subtype="PCM_16")
            write_feature(root / tree.feat / f"{name}.pkl", log_mel(samples), name.partition("/")[0])
    return FeatureIndex([root / tree.feat])
