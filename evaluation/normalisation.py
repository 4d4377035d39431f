"""Adaptive symmetric score normalisation (as-norm): a score relative to the scores of a cohort."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from dataset.index import FeatureIndex
from evaluation.embedding import SCORE_BLOCK, Segments, cosine, embed
from model.encoder import Encoder
from system import ranks
from system.compute import Compute
from system.console import UsageError

UTTERANCES_PER_SPEAKER = 10  # of a cohort speaker: bounds the work on large corpora
LEAST_DEVIATION = 1e-6


def as_norm(
    cohort: torch.Tensor, size: int, embeddings: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> np.ndarray:
    """Return the normalised scores (n,) float64 of trials between rows left and right (n,) of embeddings (m, D).

    The mean of the cohort (C, D), one mean of unit-length embeddings for each speaker, is subtracted from all first.
    Each side of a trial then has its own impostors, the `size` (2..C) cohort speakers nearest to it. The score, less
    the mean and over the deviation of a side's impostor scores, is averaged over both sides (Matejka et al.,
    Interspeech 2017, s-norm with adaptive cohorts).
    """
    centre = cohort.mean(dim=0)
    cohort, embeddings = (F.normalize(vectors - centre, dim=1) for vectors in (cohort, embeddings))
    nearest = [(block @ cohort.T).topk(size).values for block in embeddings.split(SCORE_BLOCK)]
    impostors = torch.cat(nearest).double()
    mean, deviation = impostors.mean(dim=1), impostors.std(dim=1).clamp_min(LEAST_DEVIATION)
    raw = torch.from_numpy(cosine(embeddings, left, right))
    of_left, of_right = ((raw - mean[side]) / deviation[side] for side in (left, right))
    return ((of_left + of_right) / 2).numpy()


class Cohort(NamedTuple):
    """Other speakers that scores are normalised by."""

    means: torch.Tensor  # (C, D) of unit-length embeddings of each speaker
    size: int  # number of the nearest speakers that normalise one side of a trial, 2..C

    def normalise(self, embeddings: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
        """Return the scores (n,) of `as_norm` with this cohort."""
        return as_norm(self.means, self.size, embeddings, left, right)


def load_cohort(
    encoder: Encoder,
    tree: Path,
    trained_on: set[str],
    size: int,
    compute: Compute,
    index: type[FeatureIndex] = FeatureIndex,
) -> Cohort:
    """Return a cohort of the speakers of a feature tree that were trained on, of all if none are named.

    Up to UTTERANCES_PER_SPEAKER of each are embedded, as the `index` of the tree returns them. The ranks share the
    work, so all call this together. UsageError if there are fewer than `size` speakers.
    """
    with ranks.main_process_first():  # the other ranks read the index that the first one has written
        features = index([tree])
    speakers = [s for s, name in enumerate(features.speakers) if name in trained_on or not trained_on]
    if len(speakers) < size:
        raise UsageError(f"--as_norm {size}: {tree} holds {len(speakers)} of the training speakers")
    rows = [
        features.first[s] + np.unique(np.linspace(0, features.count[s] - 1, UTTERANCES_PER_SPEAKER).astype(np.int64))
        for s in speakers
    ]
    embeddings = F.normalize(embed(encoder, features, Segments.full(features, np.concatenate(rows)), compute), dim=1)
    cohort = torch.stack([of_speaker.mean(dim=0) for of_speaker in embeddings.split([len(r) for r in rows])])
    return Cohort(cohort, size)
