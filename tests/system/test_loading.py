import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROJECT
from torch.utils.data import Dataset

from system import ranks
from system.console import UserError
from system.loading import SHARED_MEMORY, Loader

MB = 2**20


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int, int], None]:
    """A function that sets the apparent total and free size of shared memory."""

    def of(total: int, free: int) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(total=total, free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return of


def nothing() -> None: ...


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Items(Dataset):
    """Data with item n = n; before the fourth is returned, `happens` is called: an error, the end of the process."""

    def __init__(self, happens: Callable[[], Any] = nothing):
        self._happens = happens

    def __getitem__(self, at: int) -> tuple[torch.Tensor]:
        if at == 3:
            self._happens()
        return (torch.full((2,), at),)


def loader(happens: Callable[[], Any] = nothing, num_workers: int = 1, batch_bytes: int = 16) -> Loader:
    return Loader(Items(happens), num_workers, batch_bytes, pin_memory=False)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_MEMORY.exists(), reason="no /dev/shm here")
def test_prefetched_batches_fit_in_shared_memory(
    shared_memory: Callable[[int, int], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Order(list[int]):  # counts the items that DataLoader has requested
        taken = 0

        def __iter__(self) -> Iterator[int]:
            for item in super().__iter__():
                self.taken += 1
                yield item

    batch = 300 * 40 * 200 * 4  # bytes of a 100-way episode of 1 + 2 utterances

    def loaded(n_workers: int) -> tuple[int, int]:
        """Return the number of processes and of batches that are loaded in advance."""
        order = Order([0] * 99)
        with loader(num_workers=n_workers, batch_bytes=batch).batches(order) as batches:
            processes = len(multiprocessing.active_children())
            waiting = order.taken
            next(batches)
        return processes, waiting

    for total, workers, waiting in ((24_000, 8, 32), (200, 8, 16), (100, 8, 8), (64, 4, 4), (30, 1, 1), (16, 0, 0)):
        shared_memory(total * MB, total * MB)
        assert loaded(8) == (workers, waiting)
        assert (waiting + 2) * batch <= total * MB or workers == 0
        warning = capsys.readouterr().err
        assert (f"{workers} processes load data" in warning) == (workers < 8) and warning.count("\n") == (workers < 8)
    shared_memory(200 * MB, 200 * MB)
    monkeypatch.setattr(ranks, "local_world_size", lambda: 2)
    assert loaded(8) == (8, 8)  # half is for the other rank
    assert loaded(0) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("end", [kill_this_process, partial(os._exit, 1)], ids=["killed", "exits"])
def test_a_killed_loader_process_raises_at_the_next_batch(
    shared_memory: Callable[[int, int], None], end: Callable[[], None]
) -> None:
    shared_memory(64 * MB, 48)  # one prefetched batch fits
    with (
        pytest.raises(UserError, match="a process that loads data was killed.*--num_workers"),
        loader(end).batches(range(9)) as batches,
    ):
        assert [int(next(batches)[0][0]) for _ in range(3)] == [0, 1, 2]
        deadline = time.monotonic() + 30
        while multiprocessing.active_children():  # torch's handler of SIGCHLD would raise here
            assert time.monotonic() < deadline
            time.sleep(0.01)
        list(batches)


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(), FileNotFoundError(), RuntimeError("CUDA error")])
def test_a_loader_process_killed_while_it_sends_a_batch(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:  # this moment cannot be provoked
        def __init__(self, *args: object, **options: object):
            pass

        def __iter__(self) -> Iterator[int]:
            yield 0
            raise error

    monkeypatch.setattr("system.loading.DataLoader", Dying)
    killed = not isinstance(error, RuntimeError)  # torch raises it for a process that ended and for other errors
    kind, words = (UserError, "a process that loads data was killed") if killed else (RuntimeError, "CUDA error")
    with loader().batches(range(9)) as batches, pytest.raises(kind, match=words):
        list(batches)


def add_sizes() -> None:
    torch.zeros(2) + torch.zeros(3)


def damaged() -> None:
    raise UserError("id1/v/0.pkl: not a feature file")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "happens, kind, words", [(add_sizes, RuntimeError, "size of tensor a"), (damaged, UserError, "^id1/v/0.pkl: not a")]
)
def test_exceptions_of_the_dataset_are_raised_in_the_main_process(
    happens: Callable[[], None], kind: type[Exception], words: str, workers: int
) -> None:
    with loader(happens, workers).batches(range(9)) as batches:
        with pytest.raises(kind, match=words) as raised:
            list(batches)
        assert workers == 0 or happens.__name__ in str(raised.value.__cause__)  # the traceback of the loader process


def interrupt_soon() -> None:
    threading.Timer(1.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()


def fail() -> None:
    raise ValueError("in the loop")


@pytest.mark.parametrize(
    "in_data, in_loop, error",
    [
        (nothing, nothing, None),
        (nothing, fail, ValueError),
        (damaged, nothing, UserError),
        pytest.param(partial(time.sleep, 600), interrupt_soon, KeyboardInterrupt, marks=pytest.mark.slow),
    ],
    ids=["break", "error", "error of the data", "interrupt"],
)
def test_the_processes_end_with_the_loop(
    in_data: Callable[[], Any], in_loop: Callable[[], Any], error: type[BaseException] | None
) -> None:
    held = None  # like a program that logs the exception later
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist's processes may ignore Ctrl-C
    try:
        with loader(in_data, num_workers=2).batches(range(99)) as batches:
            for (batch,) in batches:
                processes = multiprocessing.active_children()
                if int(batch[0]) == 2:
                    in_loop()
                if int(batch[0]) == 4:
                    break
    except BaseException as raised:
        held = raised
    finally:
        signal.signal(signal.SIGINT, before)
    assert (held and type(held)) == error
    assert len(processes) == 2 and not any(process.is_alive() for process in processes)


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(m, marks=pytest.mark.slow) for m in ("spawn", "forkserver"))]
)
def test_a_loader_process_ignores_signals_except_its_parents(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: method)
    with loader(num_workers=1).batches(range(99)) as batches:
        next(batches)
        (process,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM):
            subprocess.run(["kill", f"-{number}", str(process.pid)], check=True)  # the sender is not the parent
        assert len(list(batches)) == 98
    with loader(num_workers=1).batches(range(99)) as batches:
        next(batches)
        (process,) = multiprocessing.active_children()
        process.terminate()  # as Python does at its exit
        process.join(20)
        assert process.exitcode is not None


class CountedItems(Items):
    """A dataset that counts how often it is pickled."""

    n_pickled = 0

    def __getstate__(self) -> dict[str, Any]:
        type(self).n_pickled += 1
        return self.__dict__


@pytest.mark.slow
def test_the_dataset_is_pickled_once_for_processes_that_are_not_forked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "spawn")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Loader(CountedItems(), 3, batch_bytes=16, pin_memory=False).batches(range(9)) as batches:
        assert len(list(tmp_path.glob("*.pkl"))) == 1
        assert [int(batch[0]) for (batch,) in batches] == list(range(9))
    assert CountedItems.n_pickled == 1 and not list(tmp_path.glob("*.pkl"))


def run(code: str) -> subprocess.CompletedProcess:
    """Run a script that can import this module, for at most a minute."""
    folders = PROJECT, PROJECT / "tests", PROJECT / "tests" / "system"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_a_program_ends_during_a_loop_in_a_daemon_thread() -> None:
    done = run(
        """
import threading, time
from test_loading import loader

def loop():
    with loader(num_workers=2).batches(range(10**4)) as batches:
        next(batches)
        started.set()
        time.sleep(600)

started = threading.Event()
threading.Thread(target=loop, daemon=True).start()
assert started.wait(60)
"""
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_spawned_processes_need_a_main_guard(guarded: bool, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from test_loading import loader\n"
        f"if {guarded} <= (__name__ == '__main__'):\n"
        "    multiprocessing.set_start_method('spawn', force=True)\n"
        "    with loader().batches(range(9)) as batches:\n"
        "        print(len(list(batches)))\n"
    )
    done = run(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    if guarded:
        assert (done.returncode, done.stdout) == (0, "9\n") and "Traceback" not in done.stderr
    else:
        assert done.returncode == 1 and "__main__" in done.stderr and "a process that loads data" in done.stderr
