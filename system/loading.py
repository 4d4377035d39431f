"""Batches loaded by processes of their own, next to training and evaluation."""

import multiprocessing
import os
import pickle
import queue
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from system import console, ranks
from system.console import UserError
from system.workers import Failure

Tensors = TypeVar("Tensors", bound=tuple[torch.Tensor, ...])
SHARED_MEMORY = Path("/dev/shm")  # through which a loader process hands its batches over, on Linux
PREFETCH = 4  # batches that a loader process has ready
NOT_FORKED = "out of memory, or is there no if __name__ == '__main__' in the script?"  # such a process runs it again


class Loader(Generic[Tensors]):
    """Loads the batches of a dataset, in processes of its own or in this one."""

    def __init__(self, dataset: "Dataset[Tensors]", num_workers: int, batch_bytes: int, pin_memory: bool):
        """Load by so many processes, 0 for none, batches of at most so many bytes; pin_memory is DataLoader's.

        Waiting batches lie in shared memory, of which containers often have 64 MB: where all would not fit, fewer wait
        for each process and, if that is not enough, fewer processes load, with a warning.
        """
        self._dataset = dataset
        self._workers, self._prefetch = _fitting(num_workers, batch_bytes)
        self._options: dict[str, Any] = {"batch_size": None, "collate_fn": _unchanged, "pin_memory": pin_memory}

    @contextmanager
    def batches(self, order: Iterable[Any]) -> Iterator[Iterator[Tensors]]:
        """Give an iterator over dataset[item] for the items of `order`; the processes live as long as the block.

        The iterator raises what the dataset raises, and UserError if a process is killed. The process that this is
        called in keeps its signal handlers, exit handlers and random states.
        """
        options = self._options | {"sampler": order, "generator": torch.Generator()}  # else DataLoader draws a number
        if not self._workers:
            yield iter(DataLoader(self._dataset, **options))
            return
        # DataLoader would settle the start method for the whole program
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        options |= {"multiprocessing_context": method, "worker_init_fn": _begin}
        with _for_processes(self._dataset, method) as dataset:
            options |= {"dataset": dataset, "num_workers": self._workers, "prefetch_factor": self._prefetch}
            batches = _Batches[Tensors](DataLoader(**options), "out of memory?" if method == "fork" else NOT_FORKED)
            try:
                yield batches
            finally:
                batches.close()


@contextmanager
def _for_processes(dataset: Dataset, method: str) -> Iterator["_InProcess"]:
    """Give the dataset as loader processes are to have it: those that are not forked read it from a temporary file.

    Python would pickle it for each of them and wait until the process, which imports PyTorch first, has read it; with
    the index of a million utterances, they would start one after the other.
    """
    if method == "fork":
        yield _InProcess(dataset)
        return
    file = tempfile.NamedTemporaryFile(suffix=".pkl", delete=False)
    try:
        with file:
            pickle.dump(dataset, file)
        yield _InProcess(None, file.name)
    finally:
        os.unlink(file.name)


def _unchanged(batch: Any) -> Any:
    return batch


def _fitting(workers: int, batch_bytes: int) -> tuple[int, int | None]:
    """Return how many processes load and how many batches each may have ready, so that shared memory holds all."""
    room = workers * PREFETCH
    if SHARED_MEMORY.exists():
        free = shutil.disk_usage(SHARED_MEMORY).free // ranks.local_world_size()
        room = max(0, free // batch_bytes - 2)  # two more are in the main process's hands
    fitting = min(workers, room)
    if fitting < workers:
        console.warn(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free for batches of {batch_bytes / 1e6:.1f} MB: {fitting} "
            f"processes load data, not {workers}; docker's --shm-size enlarges it"
        )
    return fitting, min(PREFETCH, room // fitting) if fitting else None


class _Batches(Iterator[Tensors]):
    """The iterator of a DataLoader with processes."""

    def __init__(self, loader: "DataLoader[Tensors]", suspected: str):
        """Start the processes; UserError if one cannot start. `suspected` is why one may be killed.

        They are started in a thread: in the main one torch would set a handler of SIGCHLD for the whole program, which
        raises wherever the program is, in a destructor or in the midst of an error message.
        """
        self._suspected = suspected
        made: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def start() -> None:
            try:
                made.put(iter(loader))
            except Exception as error:  # raised below
                made.put(error)

        thread = threading.Thread(target=start)
        thread.start()
        self._iterator = made.get()
        thread.join()
        if isinstance(self._iterator, OSError):
            reason = self._iterator.strerror
            raise UserError(f"cannot start a process that loads data: {reason}; {_remedy()}")
        if isinstance(self._iterator, Exception):
            raise self._iterator
        self._processes = multiprocessing.active_children()  # and the program's others

    def __next__(self) -> Tensors:
        """Return the next batch; a process that was killed is noticed within the five seconds after which torch looks.

        An exception that has passed through torch's iterator refers to it, and would keep its processes alive for as
        long as somebody refers to the exception. Therefore new ones are raised here, or those without their traceback.
        """
        try:
            batch = next(self._iterator)
        except (EOFError, OSError):  # it was handing a batch over
            batch = None
        except BaseException as error:
            if not (isinstance(error, RuntimeError) and any(process.exitcode for process in self._processes)):
                raise error.with_traceback(None)  # noqa: B904  # Ctrl-C, or what torch met as it pinned memory
            batch = None
        if batch is None:
            raise UserError(f"a process that loads data was killed ({self._suspected}); {_remedy()}")
        if isinstance(batch, Failure):
            batch.reraise()
        return batch

    def close(self) -> None:
        """End the processes, as torch's iterator does when nothing refers to it."""
        self._iterator = None


class _InProcess(Dataset):
    """A dataset in a loader process: moves its batches to shared memory and returns what it raises."""

    def __init__(self, dataset: Dataset | None, path: str = ""):
        """Load from a dataset; without one, from that pickled in a file, when the first item is loaded."""
        self._dataset, self._path = dataset, path

    def __getitem__(self, item: Any) -> tuple[torch.Tensor, ...] | Failure:
        try:
            if self._dataset is None:
                with open(self._path, "rb") as file:
                    self._dataset = pickle.load(file)
            tensors = self._dataset[item]
        except Exception as error:
            return Failure.of(error)
        try:  # here: torch would wait for ever where the thread that hands batches over finds no room for one
            for tensor in tensors:
                tensor.share_memory_()
        except RuntimeError as error:
            return Failure.of(UserError(f"cannot share a batch: {str(error).splitlines()[0]}; {_remedy()}"))
        return tensors


def _begin(worker: int) -> None:
    """Let the parent alone end a loader process: Ctrl-C and a scheduler's SIGTERM are sent to all processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    """Wait for the SIGTERM by which the parent ends its children."""
    parent = multiprocessing.parent_process()  # os.getppid() may be the process that forks
    if sys.platform == "linux" and parent:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent.pid:
            pass
        os._exit(0)


def _remedy() -> str:
    """Return what to do about loader processes that fail; that of containers is often shared memory's size."""
    fewer = "run again, with fewer --num_workers"
    if not SHARED_MEMORY.exists() or (size := shutil.disk_usage(SHARED_MEMORY).total) >= 2**30:
        return fewer
    return f"{fewer}; {SHARED_MEMORY} is small, {size / 1e6:.0f} MB: enlarge it (docker: --shm-size)"
