"""Work over many files in worker processes."""

import atexit
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from system import console, ranks
from system.console import UserError

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
Tensors = TypeVar("Tensors", bound="tuple[Tensor, ...]")
SHARED_MEMORY = Path("/dev/shm")  # through which a loader process hands its batches over, on Linux
CHUNK = 16  # items a worker takes at a time, unless told otherwise
PREFETCH = 4  # batches that a loader process has ready


def cpu_count() -> int:
    """Return the number of processors that this process may use; the ranks of a machine share them."""
    everywhere = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, everywhere // ranks.local_world_size())


def unordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, chunk: int = CHUNK
) -> Iterator[Result]:
    """Yield function(item) for every item, in the order they finish, from `workers` processes (default: all cores).

    `function` and the items must be picklable. Each worker runs its linear algebra on one thread, ignores Ctrl-C
    (the parent stops the work) and ends with its parent, however that dies. A worker that is killed ends the run
    with a UserError; an exception inside `function` is raised here. Items that one worker would have to itself, since
    there is one or they are one chunk, are worked on here: starting a process takes as long as hundreds of files.
    """
    workers, source = workers or cpu_count(), iter(items)
    first = list(itertools.islice(source, chunk + 1))
    source = itertools.chain(first, source)
    if workers == 1 or len(first) <= chunk:
        yield from map(function, source)
        return
    chunks = iter(lambda: list(itertools.islice(source, chunk)), [])
    inherited = dict(os.environ)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        running = {pool.submit(_run, function, batch) for batch in itertools.islice(chunks, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_run, function, batch) for batch in itertools.islice(chunks, len(done))}
            for future in done:
                yield from future.result()
    except BrokenProcessPool:
        raise UserError("a worker process was killed (out of memory?): run again, with fewer workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.environ.clear()
        os.environ.update(inherited)


def from_loaders(loader: Iterable[Item]) -> Iterator[Item]:
    """Yield a torch DataLoader's batches; UserError if one of its processes is killed.

    That is noticed where a batch is awaited, within the five seconds after which torch looks. torch's own handler of
    SIGCHLD is taken off: it would raise wherever this process is, in a destructor or in the midst of an error message.
    """
    try:
        batches = iter(loader)
    except OSError as error:
        raise UserError(f"cannot start a process that loads data: {error.strerror}; {_remedy()}") from None
    if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    processes = multiprocessing.active_children()
    try:
        yield from batches
    except (EOFError, OSError, RuntimeError) as error:  # the first two: it was handing a batch over
        if isinstance(error, RuntimeError) and not any(process.exitcode for process in processes):
            raise
        raise UserError(f"a process that loads data was killed (out of memory?); {_remedy()}") from None


def loader_options(workers: int, batch_bytes: int) -> dict:
    """Return a torch DataLoader's options for so many processes, and batches of at most so many bytes.

    Waiting batches lie in shared memory, of which containers often have 64 MB: where all would not fit, fewer wait
    for each process and, if that is not enough, fewer processes load, with a warning.
    """
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
    prefetch = min(PREFETCH, room // fitting) if fitting else None
    atexit.register(_kill_children)
    return {"num_workers": fitting, "prefetch_factor": prefetch, "worker_init_fn": leave_signals_to_parent}


def in_shared_memory(tensors: Tensors) -> Tensors:
    """Return tensors, moved to shared memory where a loader process calls this.

    UserError where that has no room; left to the thread that hands batches over, torch would wait for ever.
    """
    from torch.utils.data import get_worker_info

    try:
        if get_worker_info() is not None:
            for tensor in tensors:
                tensor.share_memory_()
    except RuntimeError as error:
        raise UserError(f"cannot share a batch: {str(error).splitlines()[0]}; {_remedy()}") from None
    return tensors


def _remedy() -> str:
    """Return what to do about loader processes that fail; that of containers is often shared memory's size."""
    fewer = "run again, with fewer --num_workers"
    if not SHARED_MEMORY.exists() or (size := shutil.disk_usage(SHARED_MEMORY).total) >= 2**30:
        return fewer
    return f"{fewer}; {SHARED_MEMORY} is small, {size / 1e6:.0f} MB: enlarge it (docker: --shm-size)"


def leave_signals_to_parent(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a loader process: a scheduler sends them to all, the parent ends its loaders.

    The parent ends them when its loop over the loader ends. Persistent workers, which would go on, must not be used.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _kill_children() -> None:
    """End the loader processes that an error left: they ignore the SIGTERM by which Python would, and then waits."""
    for child in multiprocessing.active_children():
        child.kill()


def _run(function: Callable[[Item], Result], batch: list[Item]) -> list[Result]:
    return [function(item) for item in batch]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
