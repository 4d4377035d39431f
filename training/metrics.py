"""The mean losses and accuracies of an epoch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from loss import EpisodeMetrics
from system import ranks


class EpochMetrics:
    """Sums of the metrics of an epoch's episodes, over all ranks.

    Attributes:
        sums, n_episodes: sums by name, and the number of episodes in them.
        pending: metrics (5,) of the episodes of this rank that are not yet in the sums, on the device.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, n_episodes: int = 0):
        self.sums = {name: sums[name] if sums else 0.0 for name in EpisodeMetrics._fields}
        self.n_episodes, self.pending = n_episodes, list[Tensor]()

    def all_gather(self) -> Tensor:
        """Add the pending episodes of all ranks to the sums; return their losses (n,), in the order of the episodes.

        Waits for the device and for the other ranks.
        """
        rows = torch.stack(self.pending).cpu().double() if self.pending else torch.zeros(0, len(self.sums))
        gathered = ranks.all_gather(rows)  # (ranks, episodes of a rank, 5)
        self.pending.clear()
        # One episode after the other, so that the rounding does not depend on the number of calls.
        for row in gathered.sum(dim=0).tolist():
            self.sums = {name: self.sums[name] + value for name, value in zip(self.sums, row, strict=True)}
        losses = gathered[:, :, 0].T.flatten()
        self.n_episodes += len(losses)
        return losses

    def means(self) -> dict[str, float]:
        """Return the means over the episodes in the sums, by name."""
        return {name: value / self.n_episodes for name, value in self.sums.items()}
