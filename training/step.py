"""One step of training: the loss of an episode, its gradient, and the update of the weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from dataset.episodes import Episode
from loss import EpisodeMetrics, Objective
from model.checkpoint import parameters_of
from model.encoder import Encoder
from system import ranks
from system.compute import Compute
from training.metrics import EpochMetrics


class EpisodeLoss(nn.Module):
    """Encoder and objective in one module, which maps an episode to its losses and accuracies."""

    def __init__(self, encoder: Encoder, objective: Objective):
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(
        self, support: Tensor, query: Tensor, speaker: Tensor, trunk_dtype: torch.dtype = torch.float32
    ) -> EpisodeMetrics:
        """Return losses and accuracies of support (K, W, 1, 40, Ts), query (Q, W, 1, 40, Tq) and classes (W,).

        The encoder processes supports and queries as two batches, so their batch-norm statistics are separate. Its
        trunk computes in `trunk_dtype`, the rest in float32.
        """
        return self.objective(self._embed(support, trunk_dtype), self._embed(query, trunk_dtype), speaker)

    def _embed(self, segments: Tensor, trunk_dtype: torch.dtype) -> Tensor:
        if len(segments) == 0:  # softmax episodes have no queries
            return segments.new_empty(*segments.shape[:2], self.encoder.projection.out_features)
        batch = segments.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (N, 1, 40, T)
        return self.encoder(batch, trunk_dtype).unflatten(0, segments.shape[:2])  # (K or Q, W, 256)


class TrainingState:
    """The network, its optimiser and learning-rate schedule, and the position in the training.

    Attributes:
        model: the encoder with the objective.
        replica: the module that computes the loss: `model` or, with several ranks, its DistributedDataParallel.
        epoch: number of completed epochs.
        episode: number of episodes completed in the current epoch, over all ranks.
        metrics: sums of the metrics of these episodes.
        metadata: fields of checkpoints that describe the training data: speakers, data_type, n_utterances.
    """

    def __init__(self, model: EpisodeLoss, compute: Compute, lr: float, **metadata: Any):
        """Move the model to the device and create optimiser and schedule."""
        self.compute, self.metadata = compute, metadata
        self.model = convert_conv2d_weight_memory_format(model.to(compute.device), torch.channels_last)
        self.replica: nn.Module = self.model
        parameters = parameters_of(model.encoder, model.objective.class_vectors)
        fused = compute.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=fused)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "min", factor=0.1, patience=3, threshold=1e-4, min_lr=1e-5
        )
        self.epoch = self.episode = 0
        self.metrics = EpochMetrics()

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return self.optimizer.param_groups[0]["lr"]


def train_step(state: TrainingState, episode: Episode, max_grad_norm: float | None = None) -> None:
    """Update the weights with the gradient of an episode, or with the mean gradient over the episodes of all ranks."""
    support, query, speaker = (tensor.to(state.compute.device, non_blocking=True) for tensor in episode)
    metrics = state.replica(support, query, speaker, state.compute.dtype)
    state.optimizer.zero_grad()
    metrics.loss.backward()
    if max_grad_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), max_grad_norm)
    state.optimizer.step()
    state.episode += ranks.world_size()
    state.metrics.pending.append(torch.stack(metrics).detach())


def end_epoch(state: TrainingState) -> None:
    """Step the learning-rate schedule with the mean loss of the epoch, and start the next epoch."""
    state.scheduler.step(state.metrics.means()["loss"])
    state.epoch, state.episode, state.metrics = state.epoch + 1, 0, EpochMetrics()
