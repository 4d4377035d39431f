"""Ranks: the processes that torchrun starts, what they share out and what they agree on.

A program's ranks work together once each has called init(). Without torchrun, and before init(), there is one rank, the
first, and no function waits. Torch is imported only where there are several ranks: extraction by one does without it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Made = TypeVar("Made")
PATIENCE = timedelta(hours=6)  # one rank may index a million files while the others wait; one that dies ends the wait

_distributed: ModuleType | None = None  # torch.distributed, once this process has joined the other ranks


def is_first() -> bool:
    """Tell whether this is the rank that prints and writes."""
    return _from_torchrun("RANK", 0) == 0


def local_rank() -> int:
    """Return this process's number among the ranks of its machine."""
    return _from_torchrun("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return how many ranks its machine has."""
    return _from_torchrun("LOCAL_WORLD_SIZE", 1)


def rank() -> int:
    """Return this process's number among the ranks that have joined."""
    return _distributed.get_rank() if _distributed else 0


def world_size() -> int:
    """Return how many ranks have joined."""
    return _distributed.get_world_size() if _distributed else 1


def _from_torchrun(name: str, alone: int) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def init() -> None:
    """Join the other ranks that torchrun has started. Make a CUDA device, if one is used, the current one before."""
    global _distributed
    if _from_torchrun("WORLD_SIZE", 1) == 1:
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    _distributed = distributed


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """Return this rank's part of what all ranks have in the same order."""
    return items[rank() :: world_size()]


def scatter(items: Sequence[Item]) -> Sequence[Item]:
    """Return this rank's part of what the first one has; the items given by others are ignored."""
    if not _distributed:
        return items
    hands = [items[at :: world_size()] for at in range(world_size())] if is_first() else None
    held: list[Sequence[Item]] = [()]
    _distributed.scatter_object_list(held, hands)
    return held[0]


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the first rank run the block before the others: what it leaves on the disk, they find."""
    if not is_first():
        barrier()
    yield
    if is_first():
        barrier()


def barrier() -> None:
    """Wait until all ranks are here."""
    all_reduce_max([0])


def all_reduce_max(numbers: list[int]) -> list[int]:
    """Return the largest of each of the numbers over all ranks; waits for them."""
    if not _distributed:
        return numbers
    import torch

    agreed = torch.tensor(numbers)
    _distributed.all_reduce(agreed, _distributed.ReduceOp.MAX)
    return agreed.tolist()


def all_reduce_sum(tensor: "Tensor") -> None:
    """Put the sum over all ranks in a tensor's place; waits for them."""
    if _distributed:
        _distributed.all_reduce(tensor)


def all_gather(tensor: "Tensor") -> "Tensor":
    """Return the tensors of all R ranks, of equal shapes, as one (R, ...); waits for them."""
    import torch

    parts = [torch.empty_like(tensor) for _ in range(world_size())] if _distributed else [tensor]
    if _distributed:
        _distributed.all_gather(parts, tensor)
    return torch.stack(parts)


def broadcast(tensor: "Tensor") -> None:
    """Put the first rank's numbers in a tensor's place."""
    if _distributed:
        _distributed.broadcast(tensor, 0)


def broadcast_object(make: Callable[[], Made]) -> Made:
    """Return on every rank what the first one makes."""
    if not _distributed:
        return make()
    held: list[Any] = [make() if is_first() else None]
    _distributed.broadcast_object_list(held)
    return held[0]


def gather(item: Item) -> list[Item]:
    """Return on the first rank what every rank gives, in their order; on the others nothing."""
    if not _distributed:
        return [item]
    held = [item] * world_size() if is_first() else None
    _distributed.gather_object(item, held)
    return held or []
