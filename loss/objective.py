"""The training objective: softmax, prototypical, or prototypical with global classification."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOSS_TYPES = ("prototypical", "softmax")


class EpisodeMetrics(NamedTuple):
    """Losses and accuracies of one episode, scalars; NaN for terms that the objective does not use."""

    loss: Tensor  # the sum of the two losses below
    episodic_loss: Tensor
    global_loss: Tensor
    episodic_accuracy: Tensor  # share of queries classified correctly among the speakers of the episode
    global_accuracy: Tensor  # share of embeddings classified correctly among all classes


class Objective(nn.Module):
    """The loss of an episode's embeddings, with class vectors (n_classes, D) for softmax and global classification."""

    def __init__(self, loss_type: str, use_GC: bool, n_classes: int, embedding_size: int):
        super().__init__()
        self.episodic = loss_type == "prototypical"
        self.class_vectors: nn.Parameter | None = None
        if use_GC or not self.episodic:
            self.class_vectors = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_classes, embedding_size)))

    def forward(self, support: Tensor, query: Tensor, speaker: Tensor) -> EpisodeMetrics:
        """Return losses and accuracies of support (K, W, D), query (Q, W, D) and the classes (W,) of the W speakers."""
        absent = support.new_full((), float("nan"))
        episodic = global_ = (absent, absent)
        if self.episodic:
            ways = torch.arange(len(speaker), device=speaker.device)
            episodic = _classify(query, prototypes(support), ways)
        if self.class_vectors is not None:
            global_ = _classify(torch.cat([support, query]), self.class_vectors, speaker)
        loss = torch.stack([part for part, _ in (episodic, global_) if part is not absent]).sum()
        return EpisodeMetrics(loss, episodic[0], global_[0], episodic[1], global_[1])


def prototypes(support: Tensor) -> Tensor:
    """Return the class vectors (W, D) of support embeddings (K, W, D): the mean over the shots.

    The official code differs: in a K-shot episode, it makes every support a separate class.
    """
    return support.mean(dim=0)


def class_logits(embeddings: Tensor, class_vectors: Tensor) -> Tensor:
    """Return the logits (N, C) = x . w / |w| of embeddings x (N, D) and class vectors w (C, D): no bias, no scale."""
    return embeddings @ F.normalize(class_vectors, dim=1).T


def _classify(embeddings: Tensor, class_vectors: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and accuracy of embeddings (R, W, D); `embeddings[:, w]` belong to class `classes[w]`."""
    logits = class_logits(embeddings.flatten(0, 1), class_vectors)
    target = classes.repeat(len(embeddings))
    return F.cross_entropy(logits, target), (logits.argmax(dim=1) == target).float().mean()
