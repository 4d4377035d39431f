"""Work over many files in worker processes."""

import itertools
import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from system import console, ranks
from system.console import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 16  # default number of items that a worker receives at a time
PROJECT = str(Path(__file__).resolve().parent.parent)
MAIN = "import sys; number, *sys.path = sys.argv[1:]; from system.workers import serve; serve(int(number))"
END = pickle.dumps(None)  # the last request to a worker
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def cpu_count() -> int:
    """Return the number of processors that this process may use, divided by the number of ranks on this machine."""
    everywhere = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, everywhere // ranks.local_world_size())


def unordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, chunk: int = CHUNK
) -> Generator[Result, None, None]:
    """Yield function(item) for every item, in the order they finish, from `workers` processes (default: all cores).

    `function` and the items must be picklable, and `function` must be defined in a module. A worker is a new Python
    process that imports this module and does not run the calling script again. Linear algebra in a worker uses one
    thread. Ctrl-C does not reach workers. They end when the parent process ends, even if it is killed. If the loop is
    left early, each worker finishes its current item and ends. With one worker, or at most one chunk of items, the
    calling process does the work, because a worker takes as long to start as hundreds of files to process.

    Raises:
        UserError: a worker cannot start, or was killed.
        Exception: any exception that `function` raised.
    """
    workers, source = workers or cpu_count(), iter(items)
    first = list(itertools.islice(source, chunk + 1))
    source = itertools.chain(first, source)
    if workers == 1 or len(first) <= chunk:
        yield from map(function, source)
        return
    chunks = iter(lambda: list(itertools.islice(source, chunk)), [])
    pool: list[_Worker] = []
    try:
        for batch in itertools.islice(chunks, workers):
            pool.append(_Worker(function))
            pool[-1].send(batch)
        waiting = next(chunks, None)
        busy: dict[Any, _Worker] = {worker.connection: worker for worker in pool}
        while busy:
            for connection in wait(busy):
                results = busy[connection].results()
                if waiting is None:
                    del busy[connection]
                else:
                    busy[connection].send(waiting)
                    waiting = next(chunks, None)
                yield from results
    finally:
        for worker in pool:
            worker.send(None)
        for worker in pool:
            worker.join()


class Failure(NamedTuple):
    """An exception raised in another process, in a form that can be pickled."""

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return the exception, or a RuntimeError with its message if it cannot be pickled, and its traceback."""
        text = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # the class of the exception may raise any exception
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, text)

    def reraise(self) -> NoReturn:
        """Raise the exception; its cause shows the traceback of the other process."""
        raise self.error from RuntimeError(f"in another process:\n{self.traceback}")


class _Worker:
    """A process that applies a function to chunks of items, seen from its parent."""

    def __init__(self, function: Callable):
        """Start the process; UserError if it cannot start."""
        self.connection, worker_end = Pipe()
        command = [sys.executable, "-c", MAIN, str(worker_end.fileno()), *sys.path, PROJECT]
        environment = os.environ | ONE_THREAD | {"PYTHONUTF8": str(sys.flags.utf8_mode)}
        with worker_end:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=[worker_end.fileno()],
                    start_new_session=True,  # the terminal's Ctrl-C does not reach it
                )
            except OSError as error:
                reason = f"cannot start a worker process: {error.strerror}; run again, with fewer workers"
                raise UserError(reason) from None
        self.send((function, console.script_runs))

    def send(self, request: object) -> None:
        """Send a request: the function first, then chunks of items, finally None."""
        with suppress(ConnectionError):  # the worker has ended: results() reports it
            self.connection.send_bytes(pickle.dumps(request))

    def results(self) -> list:
        """Wait for the results of a chunk; raise what the function raised, UserError if the worker has ended."""
        try:
            answer = self.connection.recv_bytes()
        except (EOFError, ConnectionError):
            status = self._process.wait()
            how = "was killed (out of memory?)" if status < 0 else f"ended with status {status}"
            raise UserError(f"a worker process {how}: run again, with fewer workers") from None
        results = pickle.loads(answer)
        if isinstance(results, Failure):
            results.reraise()
        return results

    def join(self) -> None:
        """Wait until the worker has ended, after None was sent; results that it still sends are discarded."""
        with suppress(EOFError, ConnectionError):
            while True:
                self.connection.recv_bytes()
        self.connection.close()
        self._process.wait()


def serve(number: int) -> None:
    """Run a worker: apply the function to the chunks that the parent sends to the file descriptor `number`."""
    connection, requests, ending = Connection(number), queue.SimpleQueue[bytes](), threading.Event()
    sys.stdout = sys.stderr  # standard output is for the results of the script only
    threading.Thread(target=_receive, args=(connection, requests, ending), daemon=True).start()
    try:
        function, console.script_runs = pickle.loads(requests.get())
    except Exception as error:  # importing the function's module may raise any exception
        hint = "define the function in a module, not in the script or notebook itself"
        reason = f"a worker process cannot load its function ({type(error).__name__}: {error}); {hint}"
        connection.send_bytes(pickle.dumps(Failure.of(UserError(reason))))
        return
    while (items := pickle.loads(requests.get())) is not None:
        try:
            answer = pickle.dumps([function(item) for item in items if not ending.is_set()])
        except Exception as error:  # the parent raises it
            answer = pickle.dumps(Failure.of(error))
        connection.send_bytes(answer)


def _receive(connection: Connection, requests: "queue.SimpleQueue[bytes]", ending: threading.Event) -> None:
    """Put requests into a queue, also while the function runs; end the process if the parent has ended."""
    while not ending.is_set():
        try:
            request = connection.recv_bytes()
        except (EOFError, ConnectionError):
            os._exit(1)
        if request == END:
            ending.set()
        requests.put(request)
