"""Batches loaded by loader processes during training and evaluation."""

import multiprocessing
import os
import pickle
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
SHARED_MEMORY = Path("/dev/shm")  # through which loader processes send their batches on Linux
PREFETCH = 4  # batches that a loader process prepares in advance
REMEDY = f"use fewer --num_workers or, if {SHARED_MEMORY} is small, enlarge it (docker: --shm-size)"


class Loader(Generic[Tensors]):
    """Loads the batches of a dataset in loader processes or in this process."""

    def __init__(self, dataset: "Dataset[Tensors]", num_workers: int, batch_bytes: int, pin_memory: bool):
        """Load batches of at most `batch_bytes` in `num_workers` processes (0: none); `pin_memory` is DataLoader's.

        Prefetched batches are in shared memory, which is often only 64 MB in containers. If they do not fit, the
        processes prefetch fewer batches. If that is not enough, fewer processes are started, and a warning is printed.
        """
        self._dataset = dataset
        self._workers, self._prefetch = _fitting(num_workers, batch_bytes)
        self._options: dict[str, Any] = {"batch_size": None, "collate_fn": _unchanged, "pin_memory": pin_memory}

    @contextmanager
    def batches(self, order: Iterable[Any]) -> Iterator[Iterator[Tensors]]:
        """Yield an iterator over dataset[item] for the items of `order`; the processes end with the block.

        The iterator raises what the dataset raises, and UserError if a process is killed. The calling process keeps its
        signal handlers, exit handlers and random states.
        """
        # Without this generator, DataLoader would use torch's global one.
        options = self._options | {"sampler": order, "generator": torch.Generator("cpu")}
        if not self._workers:
            with torch.device("cpu"):  # DataLoader seeds its processes by a tensor on the default device
                in_this_process = iter(DataLoader(self._dataset, **options))
            yield in_this_process
            return
        # Without a context, DataLoader would set the start method for the complete program.
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        options |= {"multiprocessing_context": method, "worker_init_fn": _ignore_signals}
        with _for_processes(self._dataset, method) as dataset:
            options |= {"dataset": dataset, "num_workers": self._workers, "prefetch_factor": self._prefetch}
            batches = _Batches[Tensors](DataLoader(**options))
            try:
                yield batches
            finally:
                batches.close()


@contextmanager
def _for_processes(dataset: Dataset, method: str) -> Iterator["_InProcess"]:
    """Yield the dataset for loader processes; processes that are not forked read it from a temporary file.

    Without the file, Python would pickle the dataset for each process and wait until the process has imported PyTorch
    and read the dataset. The processes would start one after the other.
    """
    if method == "fork":
        yield _InProcess(dataset)
        return
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        pickle.dump(dataset, file)
        file.flush()
        yield _InProcess(None, file.name)


def _unchanged(batch: Any) -> Any:
    return batch


def _fitting(workers: int, batch_bytes: int) -> tuple[int, int | None]:
    """Return the number of processes, and of prefetched batches per process, that fit in shared memory."""
    n_batches = workers * PREFETCH
    if SHARED_MEMORY.exists():
        free = shutil.disk_usage(SHARED_MEMORY).free // ranks.local_world_size()
        n_batches = max(0, free // batch_bytes - 2)  # the main process uses two more batches
    fitting = min(workers, n_batches)
    if fitting < workers:
        console.warn(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free for batches of {batch_bytes / 1e6:.1f} MB: {fitting} "
            f"processes load data instead of {workers}; enlarge it (docker: --shm-size)"
        )
    return fitting, min(PREFETCH, n_batches // fitting) if fitting else None


class _Batches(Iterator[Tensors]):
    """The iterator of a DataLoader with processes."""

    def __init__(self, loader: "DataLoader[Tensors]"):
        """Start the processes; UserError if one cannot start.

        They are started in a thread: in the main thread, torch would set a SIGCHLD handler for the program. This
        handler raises an exception at any place, for example in a destructor.
        """
        self._iterator: Any = None
        failures: list[Exception] = []

        def start() -> None:
            try:
                self._iterator = iter(loader)
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        for error in failures:
            if isinstance(error, OSError):
                raise UserError(f"cannot start a process that loads data: {error.strerror}; {REMEDY}")
            raise error
        self._processes = multiprocessing.active_children()  # includes other children of the program

    def __next__(self) -> Tensors:
        """Return the next batch; UserError if a process was killed, which torch notices within five seconds.

        The traceback of an exception from torch's iterator refers to this iterator and would keep its processes alive.
        Therefore the exceptions are raised without that traceback.
        """
        try:
            batch = next(self._iterator)
        except (EOFError, OSError):  # the process was sending a batch
            batch = None
        except BaseException as error:
            if not (isinstance(error, RuntimeError) and any(process.exitcode for process in self._processes)):
                raise error.with_traceback(None)  # noqa: B904  # Ctrl-C, or an error of pinning memory
            batch = None
        if batch is None:
            raise UserError(f"a process that loads data was killed (out of memory?); {REMEDY}")
        if isinstance(batch, Failure):
            batch.reraise()
        return batch

    def close(self) -> None:
        """End the processes: torch's iterator does so when it is deleted."""
        self._iterator = None


class _InProcess(Dataset):
    """A dataset in a loader process: moves its batches to shared memory and returns its exceptions."""

    def __init__(self, dataset: Dataset | None, path: str = ""):
        """Load from a dataset or, if it is None, from the one pickled in the file `path`."""
        self._dataset, self._path = dataset, path

    def __getitem__(self, item: Any) -> tuple[torch.Tensor, ...] | Failure:
        try:
            if self._dataset is None:
                with open(self._path, "rb") as file:
                    self._dataset = pickle.load(file)
            tensors = self._dataset[item]
        except Exception as error:
            return Failure.of(error)
        try:  # a failure in torch's sending thread would make the main process wait forever
            for tensor in tensors:
                tensor.share_memory_()
        except RuntimeError as error:
            return Failure.of(UserError(f"cannot share a batch: {str(error).splitlines()[0]}; {REMEDY}"))
        return tensors


def _ignore_signals(worker: int) -> None:
    """Ignore signals except the parent's SIGTERM: Ctrl-C and a scheduler's SIGTERM reach all processes of a run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_wait_for_parents_signal, daemon=True).start()


def _wait_for_parents_signal() -> None:
    """Exit when the parent sends SIGTERM."""
    parent = multiprocessing.parent_process()  # os.getppid() may be the fork server
    if sys.platform == "linux" and parent:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent.pid:
            pass
        os._exit(0)
