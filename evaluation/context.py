"""The context of an evaluation: a trained network, the features, and the speakers that it was not trained on."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configure import EVALUATION_TREES, TRAINING_TREE, TREES
from dataset.index import FeatureIndex
from evaluation.speech import SpeechIndex
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from system import console
from system.compute import Compute


class EvaluationContext(NamedTuple):
    """A trained network and the data to evaluate it on."""

    checkpoint: Checkpoint
    path: Path  # of the checkpoint
    encoder: Encoder  # for inference on the device of `compute`
    features: FeatureIndex
    unseen: np.ndarray  # (S,) indices, in the features, of the speakers that the network was not trained on
    compute: Compute


def load_context(
    path: Path,
    checkpoint: Checkpoint,
    root: Path,
    compute: Compute,
    data_type: str = "vox2",
    trim_silence: bool = False,
) -> EvaluationContext:
    """Prepare a checkpoint, read from the file `path`, for evaluation on the VoxCeleb1 features in the data root.

    `data_type` (vox1 or vox2) is the training data of an official checkpoint, which does not list its speakers.
    UserError if the features are missing or damaged.
    """
    trees = [root / TREES[tree].feat for tree in EVALUATION_TREES]
    features = SpeechIndex(trees) if trim_silence else FeatureIndex(trees)
    trained_on = set(checkpoint.speakers)
    if not trained_on and data_type == "vox1":
        trained_on = features.speakers_of(root / TREES[TRAINING_TREE["vox1"]].feat)
    unseen = unseen_speakers(features, trained_on)
    encoder = checkpoint.encoder().for_inference(compute.device)
    return EvaluationContext(checkpoint, path, encoder, features, unseen, compute)


def unseen_speakers(features: FeatureIndex, trained_on: Collection[str]) -> np.ndarray:
    """Return the indices (S,) int64, in the features, of the speakers whose names are not in `trained_on`."""
    names = set(trained_on)
    return np.array([s for s, name in enumerate(features.speakers) if name not in names], np.int64)


def of_seen_speakers(sides: tuple[np.ndarray, np.ndarray], features: FeatureIndex, unseen: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of the trials with a speaker, on either side, that is not among the `unseen` (S,).

    `sides` are the rows (n,) of the enrolment and of the test utterances in the features.
    """
    return ~np.logical_and(*(np.isin(features.speaker[rows], unseen) for rows in sides))


def warn_of_seen_speakers(sides: tuple[np.ndarray, np.ndarray], features: FeatureIndex, unseen: np.ndarray) -> None:
    """Warn of trials of speakers that the network was trained on: their error rates are not valid for new speakers."""
    if n_seen := of_seen_speakers(sides, features, unseen).sum():
        console.warn(f"{n_seen:,} of the trials are of speakers that the network was trained on")
