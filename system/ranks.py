"""The ranks that torchrun starts, and their communication.

Without torchrun, and before init(), there is one rank, and no function waits. Functions that communicate must be called
on all ranks. torch is imported only if there are several ranks, because the extraction of features does not need it.
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
TIMEOUT = timedelta(hours=6)  # long enough to index a million files; if a rank dies, the others do not wait for it

_distributed: ModuleType | None = None  # torch.distributed after init()


def is_first() -> bool:
    """Return whether this is the rank that prints and writes."""
    return _from_torchrun("RANK", 0) == 0


def local_rank() -> int:
    """Return the number of this rank among those of its machine."""
    return _from_torchrun("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return the number of ranks on this machine."""
    return _from_torchrun("LOCAL_WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this rank."""
    return _distributed.get_rank() if _distributed else 0


def world_size() -> int:
    """Return the number of ranks."""
    return _distributed.get_world_size() if _distributed else 1


def _from_torchrun(name: str, default: int) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else default


def ignore_torchrun() -> None:
    """Make this process the only rank, although it has inherited the environment of one that torchrun started."""
    os.environ.pop("TORCHELASTIC_RUN_ID", None)


def init() -> None:
    """Connect this rank to the others; on CUDA, call torch.cuda.set_device() before."""
    global _distributed
    if _from_torchrun("WORLD_SIZE", 1) == 1:
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT)
    _distributed = distributed


def shard(items: Sequence[Item]) -> Sequence[Item]:
    """Return this rank's part of items that all ranks have in the same order."""
    return items[rank() :: world_size()]


def scatter(items: Sequence[Item]) -> Sequence[Item]:
    """Return this rank's part of the first rank's items; the items of other ranks are ignored."""
    if not _distributed:
        return items
    parts = [items[number :: world_size()] for number in range(world_size())] if is_first() else None
    received: list[Sequence[Item]] = [()]
    _distributed.scatter_object_list(received, parts)
    return received[0]


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the first rank run the block before the others, which then find the files that it has written."""
    if not is_first():
        barrier()
    yield
    if is_first():
        barrier()


def barrier() -> None:
    """Wait until all ranks have called this."""
    all_reduce_max([0])


def all_reduce_max(numbers: list[int]) -> list[int]:
    """Return the maximum of each number over all ranks."""
    if not _distributed:
        return numbers
    import torch

    maxima = torch.tensor(numbers)
    _distributed.all_reduce(maxima, _distributed.ReduceOp.MAX)
    return maxima.tolist()


def all_reduce_sum(tensor: "Tensor") -> None:
    """Replace a tensor by its sum over all ranks."""
    if _distributed:
        _distributed.all_reduce(tensor)


def all_gather(tensor: "Tensor") -> "Tensor":
    """Return the tensors of all R ranks, which have equal shapes, as one tensor (R, ...)."""
    import torch

    parts = [torch.empty_like(tensor) for _ in range(world_size())] if _distributed else [tensor]
    if _distributed:
        _distributed.all_gather(parts, tensor)
    return torch.stack(parts)


def broadcast(tensor: "Tensor") -> None:
    """Replace a tensor by the tensor of the first rank."""
    if _distributed:
        _distributed.broadcast(tensor, 0)


def broadcast_object(make: Callable[[], Made]) -> Made:
    """Return on every rank what the first rank's `make` returns."""
    if not _distributed:
        return make()
    received: list[Any] = [make() if is_first() else None]
    _distributed.broadcast_object_list(received)
    return received[0]


def gather(item: Item) -> list[Item]:
    """Return, on the first rank, the items of all ranks in the order of the ranks; on the others, an empty list."""
    if not _distributed:
        return [item]
    received = [item] * world_size() if is_first() else None
    _distributed.gather_object(item, received)
    return received or []
