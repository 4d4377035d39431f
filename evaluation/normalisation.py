"""Adaptive symmetric score normalisation (as-norm): normalise scores with the scores of a cohort of other speakers."""

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

UTTERANCES_PER_SPEAKER = 10  # utterances of each cohort speaker: a limit to save time on large corpora
MIN_DEVIATION = 1e-6


class Cohort(NamedTuple):
    """The speakers with whom scores are normalised."""

    means: torch.Tensor  # (C, D), the mean of the unit-length embeddings of each speaker
    size: int  # number of nearest cohort speakers, 2..C, that normalise one side of a trial


def as_norm(cohort: Cohort, embeddings: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> np.ndarray:
    """Return the normalised scores (n,) float64 of trials between rows left and right (n,) of embeddings (m, D).

    The mean of the cohort is subtracted from all embeddings. Then each side of a trial is scored against its nearest
    cohort speakers. The mean of these cohort scores is subtracted from the score of the trial, and the difference is
    divided by their standard deviation. The result is the mean over both sides (Matejka et al., Interspeech 2017,
    s-norm with adaptive cohorts).
    """
    centre = cohort.means.mean(dim=0)
    means, embeddings = (F.normalize(vectors - centre, dim=1) for vectors in (cohort.means, embeddings))
    with torch.autocast(embeddings.device.type, enabled=False):  # the calling program may use it
        nearest = [(block @ means.T).topk(cohort.size).values for block in embeddings.split(SCORE_BLOCK)]
    impostors = torch.cat(nearest).double()
    mean, deviation = impostors.mean(dim=1), impostors.std(dim=1).clamp_min(MIN_DEVIATION)
    raw = torch.from_numpy(cosine(embeddings, left, right))
    of_left, of_right = ((raw - mean[side]) / deviation[side] for side in (left, right))
    return ((of_left + of_right) / 2).numpy()


def load_cohort(
    encoder: Encoder,
    tree: Path,
    trained_on: set[str],
    size: int,
    compute: Compute,
    index: type[FeatureIndex] = FeatureIndex,
) -> Cohort:
    """Return the cohort of the speakers of a feature tree that are in `trained_on`; of all if `trained_on` is empty.

    Up to UTTERANCES_PER_SPEAKER utterances of each speaker are embedded; `index` is the class that reads the tree. The
    ranks share the work, so all of them must call this. UsageError if there are fewer than `size` speakers.
    """
    with ranks.main_process_first():  # the other ranks read the index that the first one has written
        features = index([tree])
    speakers = [s for s, name in enumerate(features.speakers) if name in trained_on or not trained_on]
    if len(speakers) < size:
        raise UsageError(f"--as_norm {size}: {tree} has only {len(speakers)} training speakers")
    rows = [
        features.first[s] + np.unique(np.linspace(0, features.count[s] - 1, UTTERANCES_PER_SPEAKER).astype(np.int64))
        for s in speakers
    ]
    embeddings = F.normalize(embed(encoder, features, Segments.full(features, np.concatenate(rows)), compute), dim=1)
    return Cohort(torch.stack([e.mean(dim=0) for e in embeddings.split([len(r) for r in rows])]), size)
