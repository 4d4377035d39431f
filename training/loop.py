"""The training loop: one run's network, optimiser and position, which can be saved after any episode and resumed.

On a CPU in float32, with the same number of threads and the same kind of processor, a resumed run ends with the same
weights bit by bit as an uninterrupted one.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import convert_conv2d_weight_memory_format

from dataset.episodes import Episode, TrainingEpisodes, episode_order
from loss import Objective, Terms
from model.checkpoint import CLASS_VECTORS, Checkpoint, parameters_of, save_checkpoint, state_dict_of
from model.encoder import Encoder
from system import console, ranks
from system.compute import Compute
from system.console import UserError
from system.loading import Loader

SCHEDULER_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")  # the rest are settings
SETTLE_EVERY = 20  # episodes between two readings of the losses, each of which waits for the device


class EpisodeLoss(nn.Module):
    """Encoder and objective as one module whose forward returns an episode's loss."""

    def __init__(self, encoder: Encoder, objective: Objective):
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(
        self, support: Tensor, query: Tensor, speaker: Tensor, trunk_dtype: torch.dtype = torch.float32
    ) -> Terms:
        """Return the terms of support (K, W, 1, 40, Ts), query (Q, W, 1, 40, Tq) and speaker classes (W,).

        Supports and queries pass the encoder as two batches, their batch-norm statistics apart. Only the encoder's
        trunk computes in `trunk_dtype`; the objective is float32.
        """
        return self.objective(self._embed(support, trunk_dtype), self._embed(query, trunk_dtype), speaker)

    def _embed(self, segments: Tensor, trunk_dtype: torch.dtype) -> Tensor:
        if len(segments) == 0:  # the softmax loss has no queries
            return segments.new_empty(*segments.shape[:2], self.encoder.projection.out_features)
        batch = segments.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.encoder(batch, trunk_dtype).unflatten(0, segments.shape[:2])


class EpochResult(NamedTuple):
    """An epoch in numbers."""

    terms: Terms  # means over its episodes
    lr: float
    utterances_per_second: float  # NaN, as `waiting`, where the run was stopped after the epoch's last episode
    waiting: float  # share of the time that went into waiting for data


class Run:
    """A training run: `epoch` epochs are finished and, by all ranks, `episode` episodes of the one after those."""

    def __init__(
        self,
        model: EpisodeLoss,
        episodes: TrainingEpisodes,
        compute: Compute,
        lr: float,
        max_grad_norm: float | None = None,
    ):
        self.model = convert_conv2d_weight_memory_format(model.to(compute.device), torch.channels_last)
        self.epoch, self.episode = 0, 0
        self._episodes, self._compute, self._max_grad_norm = episodes, compute, max_grad_norm
        parameters = parameters_of(model.encoder, model.objective.class_vectors)
        self.optimizer = torch.optim.SGD(
            parameters, lr, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=compute.device.type in ("cpu", "cuda")
        )
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "min", factor=0.1, patience=3, threshold=1e-4, min_lr=1e-5
        )
        # Each rank normalises by its own batch, as the paper's one GPU; the first rank's running statistics are kept.
        self._replica = DistributedDataParallel(model) if ranks.world_size() > 1 else model
        self._rest_of_epoch()  # refuses too many ranks
        on_cuda = compute.device.type == "cuda"
        self._loader = Loader(episodes, compute.num_workers, episodes.max_bytes, pin_memory=on_cuda)
        self._sums = torch.zeros(len(Terms._fields), dtype=torch.float64)
        self._unsettled: list[tuple[tuple[int, int], Tensor]] = []  # episodes whose terms are not in _sums yet
        self._last = (0, 0)  # the episode that this rank trained last

    def save(self, path: Path, **facts: Any) -> None:
        """Write the run's state to `path`, with the checkpoint's other fields in `facts`; all ranks together.

        UserError if that cannot be written, and without trying if a loss or a weight is not finite.
        """
        self._settle()
        weights = state_dict_of(self.model.encoder, self.model.objective.class_vectors)
        if not all(weight.isfinite().all() for weight in weights.values()):
            raise UserError(self._not_finite("the weights are no longer finite", self._last))
        if not ranks.is_first():
            return
        state = Checkpoint(
            epoch=self.epoch,
            state_dict=weights,
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            episode=self.episode,
            sums=self._sums.tolist(),
            **facts,
        )
        try:
            save_checkpoint(path, state)
        except OSError as error:
            raise UserError(
                f"{path}: could not be written ({error.strerror}); the checkpoints before it are whole, mend that and "
                "go on with --use_checkpoint True"
            ) from None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same backbone, objective and number of speakers; ValueError if it is not."""
        self.model.encoder.load_state_dict(checkpoint.encoder().state_dict())
        learnt, stored = self.model.objective.class_vectors, checkpoint.class_vectors
        if learnt is not None:
            if stored is None or stored.shape != learnt.shape:
                n_stored = 0 if stored is None else len(stored)
                raise ValueError(f"it has class vectors of {n_stored} speakers, this training needs {len(learnt)}")
            learnt.data.copy_(stored)
        if checkpoint.episode > self._episodes.per_epoch:
            raise ValueError(f"{checkpoint.episode} episodes are done of an epoch of {self._episodes.per_epoch}")
        if checkpoint.optimizer:
            self._restore_optimizer(checkpoint)
        progress = {name: checkpoint.scheduler[name] for name in SCHEDULER_STATE if name in checkpoint.scheduler}
        if not all(isinstance(value, int | float) for value in progress.values()):
            raise ValueError("its scheduler's state is not made of numbers")
        self.scheduler.load_state_dict(progress)
        self.epoch, self.episode = checkpoint.epoch, checkpoint.episode
        if checkpoint.sums:
            self._sums.copy_(torch.tensor(checkpoint.sums, dtype=torch.float64))

    def _restore_optimizer(self, checkpoint: Checkpoint) -> None:
        """Take over momentum and learning rate; all other settings in the file's optimiser state are ignored.

        Each momentum buffer gets its parameter's memory format: the fused step walks both in the order of memory.
        """
        (theirs,), (ours,) = checkpoint.optimizer["param_groups"], self.optimizer.param_groups
        indices, states = list(theirs["params"]), checkpoint.optimizer["state"]
        if self.model.objective.class_vectors is None and CLASS_VECTORS in checkpoint.state_dict:
            unused = list(checkpoint.state_dict).index(CLASS_VECTORS)  # the release lists them whatever the objective
            indices = [index for at, index in enumerate(indices) if at != unused or index in states]
        if len(indices) != len(ours["params"]):
            raise ValueError(f"its optimiser steps {len(indices)} parameters, this training's {len(ours['params'])}")
        for index, parameter in zip(indices, ours["params"], strict=True):
            stored = states.get(index, {}).get("momentum_buffer")
            if stored is None:
                continue
            if not (stored.shape == parameter.shape and stored.isfinite().all()):
                raise ValueError("its momentum is not finite or of another network")
            buffer = torch.empty_like(parameter).copy_(stored.detach().to(parameter.dtype))
            self.optimizer.state[parameter]["momentum_buffer"] = buffer
        if not (isinstance(theirs["lr"], float) and 0 < theirs["lr"] < math.inf):
            raise ValueError(f"its learning rate is {theirs['lr']}")
        ours["lr"] = theirs["lr"]

    def _rest_of_epoch(self) -> list[tuple[int, int]]:
        """Return the episodes that this rank has yet to train in the epoch after `self.epoch`."""
        return episode_order(self.epoch + 1, self.episode, self._episodes.per_epoch, ranks.rank(), ranks.world_size())

    def train_epoch(self, after_episode: Callable[[], None]) -> EpochResult:
        """Train the rest of the epoch after `self.epoch`; `after_episode` may save, or raise to stop."""
        self.model.train()
        lr, utterances, waited = self.optimizer.param_groups[0]["lr"], 0, 0.0
        started = asked = time.perf_counter()
        per_epoch, desc = self._episodes.per_epoch, f"epoch {self.epoch + 1}"
        with (
            console.progress(total=per_epoch, initial=self.episode, unit="episode", desc=desc) as bar,
            self._loader.batches(self._rest_of_epoch()) as loaded,
        ):
            for episode in loaded:
                waited += time.perf_counter() - asked
                self._train_episode(episode)
                utterances += (len(episode.support) + len(episode.query)) * len(episode.speaker) * ranks.world_size()
                bar.update(ranks.world_size())
                if len(self._unsettled) == SETTLE_EVERY:
                    bar.set_postfix(loss=f"{self.mean_terms().loss:.3f}", refresh=False)
                after_episode()
                asked = time.perf_counter()
        for statistic in self.model.buffers():
            ranks.broadcast(statistic)
        means = self.mean_terms()
        seconds = time.perf_counter() - started
        self.scheduler.step(means.loss)
        self.epoch, self.episode = self.epoch + 1, 0
        self._sums.zero_()
        if not utterances:  # all episodes were trained before the run was stopped: nothing was measured
            return EpochResult(means, lr, math.nan, math.nan)
        return EpochResult(means, lr, utterances / seconds, waited / seconds)

    def mean_terms(self) -> Terms:
        """Return the means of the epoch's terms so far, as floats; waits for the device."""
        self._settle()
        return Terms(*(self._sums / self.episode).tolist())

    def _train_episode(self, episode: Episode) -> None:
        support, query, speaker = (tensor.to(self._compute.device, non_blocking=True) for tensor in episode)
        terms = self._replica(support, query, speaker, self._compute.dtype)
        self.optimizer.zero_grad()
        terms.loss.backward()
        if self._max_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        self.optimizer.step()
        self._last = self.epoch + 1, self.episode + ranks.rank()
        self.episode += ranks.world_size()
        self._unsettled.append((self._last, torch.stack(terms).detach()))

    def _settle(self) -> None:
        """Add the unsettled terms of all ranks to the sums; UserError naming the episode if a loss is not finite."""
        if not self._unsettled:
            return
        episodes, terms = zip(*self._unsettled, strict=True)
        self._unsettled.clear()
        rows = torch.stack(terms).cpu().double()  # in this order: MPS has no float64
        spoilt = [index for (_, index), row in zip(episodes, rows, strict=True) if not row[0].isfinite()]
        first_spoilt = -ranks.all_reduce_max([-min(spoilt, default=self._episodes.per_epoch)])[0]
        if first_spoilt < self._episodes.per_epoch:
            raise UserError(self._not_finite("the loss is not finite", (self.epoch + 1, first_spoilt)))
        ranks.all_reduce_sum(rows)
        for row in rows:  # one by one, so that their rounding does not depend on how often this is called
            self._sums += row

    def _not_finite(self, what: str, at: tuple[int, int]) -> str:
        epoch, index = at
        return (
            f"epoch {epoch}, episode {index + 1}: {what}; the checkpoints so far are good, go on from one with "
            f"--max_grad_norm; the episode read {', '.join(self._episodes.names(at))}"
        )
