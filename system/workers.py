"""Work over many files in worker processes."""

import itertools
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, TypeVar

from system import console, ranks
from system.console import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 16  # items a worker takes at a time, unless told otherwise
AHEAD = 2  # chunks that a worker has: one that it works on and one that waits
PROJECT = str(Path(__file__).resolve().parent.parent)
MAIN = "import sys; sys.path[:] = sys.argv[1:]; from system.workers import serve; serve()"  # what a worker runs
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
SIZE = struct.Struct("<Q")  # of a message in bytes, stands before it


def cpu_count() -> int:
    """Return the number of processors that this process may use; the ranks of a machine share them."""
    everywhere = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, everywhere // ranks.local_world_size())


def unordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, chunk: int = CHUNK
) -> Generator[Result, None, None]:
    """Yield function(item) for every item, in the order they finish, from `workers` processes (default: all cores).

    `function` and the items must be picklable, and `function` defined in a module: a worker is a new Python that
    imports the module, and does not run the script of this process again. Each worker runs its linear algebra on one
    thread, does not receive the terminal's Ctrl-C (the parent stops the work) and ends with its parent, however that
    dies. When the loop ends or is abandoned, the workers finish the items they are at and end. UserError if a worker
    cannot start or is killed; an exception inside `function` is raised here. Items that one worker would have to
    itself, since there is one or they are one chunk, are worked on here: starting a process takes as long as hundreds
    of files.
    """
    workers, source = workers or cpu_count(), iter(items)
    first = list(itertools.islice(source, chunk + 1))
    source = itertools.chain(first, source)
    if workers == 1 or len(first) <= chunk:
        yield from map(function, source)
        return
    chunks = iter(lambda: list(itertools.islice(source, chunk)), [])
    answers: _Answers = queue.SimpleQueue()
    program, pool, n_running = pickle.dumps((function, console.script_runs)), list[_Worker](), 0
    try:
        for batch in itertools.islice(chunks, workers):
            pool.append(_Worker(program, answers))
            pool[-1].send(pickle.dumps(batch))
        for worker, batch in zip(pool * (AHEAD - 1), chunks, strict=False):
            worker.send(pickle.dumps(batch))
            n_running += 1
        n_running += len(pool)
        while n_running:
            worker, answer = answers.get()
            results, n_running = worker.results(answer), n_running - 1
            for batch in itertools.islice(chunks, 1):
                worker.send(pickle.dumps(batch))
                n_running += 1
            yield from results
    finally:
        for worker in pool:
            worker.send(b"")
        for worker in pool:
            worker.join()


class Failure(NamedTuple):
    """An exception raised in another process, as it is sent here."""

    error: Exception
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return what can be sent of an exception."""
        text = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # whatever its class or what it holds may raise
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, text)

    def reraise(self) -> NoReturn:
        """Raise the exception; its cause shows the traceback of the other process."""
        raise self.error from RuntimeError(f"in another process:\n{self.traceback}")


_Answers = queue.SimpleQueue[tuple["_Worker", bytes | None]]  # None: the worker has ended


class _Worker:
    """A process that applies a function to chunks of items, seen from its parent."""

    def __init__(self, program: bytes, answers: _Answers):
        """Start the process; its answers are put to a queue that all workers share. UserError if it cannot start."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", MAIN, *sys.path, PROJECT],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | ONE_THREAD | {"PYTHONUTF8": str(sys.flags.utf8_mode)},
                start_new_session=True,  # which the terminal's Ctrl-C does not reach
            )
        except OSError as error:
            raise UserError(f"cannot start a worker process: {error.strerror}; run again, with fewer workers") from None
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._reader = threading.Thread(target=self._collect, args=(answers,), daemon=True)
        self._reader.start()
        self.send(program)

    def send(self, request: bytes) -> None:
        """Send the pickled program, then pickled chunks, at last nothing; the worker takes them up at once."""
        try:
            _write(self._requests, request)
        except BrokenPipeError:  # it has ended: the end of its answers tells
            pass

    def _collect(self, answers: _Answers) -> None:
        answer: bytes | None = b""
        while answer is not None:
            answer = _read(self._answers)
            answers.put((self, answer))

    def results(self, answer: bytes | None) -> list:
        """Return the results in an answer; raises what the function raised, UserError if the worker has ended."""
        if answer is None:
            status = self._process.wait()
            how = "was killed (out of memory?)" if status < 0 else f"ended with status {status}"
            raise UserError(f"a worker process {how}: run again, with fewer workers")
        results = pickle.loads(answer)
        if isinstance(results, Failure):
            results.reraise()
        return results

    def join(self) -> None:
        """Wait until the worker, to which nothing was sent at last, has ended."""
        self._process.wait()
        self._reader.join()
        self._requests.close()
        self._answers.close()


def serve() -> None:
    """Apply the function that the parent sends to the chunks that it sends: what a worker runs."""
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is printed here is not to come between the answers
    sys.stdout = sys.stderr
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    ending = threading.Event()
    threading.Thread(target=_receive, args=(requests, waiting, ending), daemon=True).start()
    try:
        function, console.script_runs = pickle.loads(waiting.get())
    except Exception as error:  # whatever importing its module may raise
        hint = "a worker's function is to be defined in a module, not in the script or notebook itself"
        reason = f"a worker process cannot load its function ({type(error).__name__}: {error}); {hint}"
        _write(answers, pickle.dumps(Failure.of(UserError(reason))))
        return
    while request := waiting.get():
        answer = _work(function, request, ending)
        try:
            _write(answers, answer)
        except BrokenPipeError:
            os._exit(1)  # the parent has died


def _receive(requests: IO[bytes], waiting: "queue.SimpleQueue[bytes]", ending: threading.Event) -> None:
    while request := _read(requests):
        waiting.put(request)
    if request is None:
        os._exit(1)  # the parent has died
    ending.set()
    waiting.put(request)


def _work(function: Callable[[Any], Any], request: bytes, ending: threading.Event) -> bytes:
    try:
        return pickle.dumps([function(item) for item in pickle.loads(request) if not ending.is_set()])
    except Exception as error:  # the parent raises it
        return pickle.dumps(Failure.of(error))


def _write(pipe: IO[bytes], message: bytes) -> None:
    rest = memoryview(SIZE.pack(len(message)) + message)
    while rest:
        rest = rest[pipe.write(rest) :]


def _read(pipe: IO[bytes]) -> bytes | None:
    """Return a message, None if the other side has ended."""
    size = _read_exactly(pipe, SIZE.size)
    return size and _read_exactly(pipe, *SIZE.unpack(size))


def _read_exactly(pipe: IO[bytes], size: int) -> bytes | None:
    message = bytearray()
    while len(message) < size:
        part = pipe.read(size - len(message))
        if not part:
            return None
        message += part
    return bytes(message)
