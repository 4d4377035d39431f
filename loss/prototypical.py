"""Prototypes and the logits that all losses and the identification test share."""

import torch
from torch.nn import functional as F


def prototypes(support: torch.Tensor) -> torch.Tensor:
    """Return the class vectors (W, D) of support embeddings (K, W, D): the mean over the shots.

    Differs from the release, which makes every support of a K-shot episode a class of its own.
    """
    return support.mean(dim=0)


def class_logits(embeddings: torch.Tensor, class_vectors: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, C) = x . w / |w| of embeddings x (N, D) and class vectors w (C, D): no bias, no scale."""
    return embeddings @ F.normalize(class_vectors, dim=1).T
