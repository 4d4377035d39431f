import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROJECT
from torch.utils.data import DataLoader, Dataset

from system import ranks
from system.console import UserError
from system.workers import CHUNK, SHARED_MEMORY, from_loaders, loader_options, unordered_map

MB = 2**20


def worker(item: int) -> tuple[int, int]:
    return item, os.getpid()


@pytest.mark.parametrize(
    "workers, n_items, here", [(2, 0, True), (2, CHUNK, True), (2, CHUNK + 1, False), (1, 40, True)]
)
def test_what_one_worker_would_have_to_itself_starts_no_process(workers: int, n_items: int, here: bool) -> None:
    done = list(unordered_map(worker, iter(range(n_items)), workers))
    assert sorted(item for item, _ in done) == list(range(n_items))
    assert all((process == os.getpid()) == here for _, process in done)


@pytest.mark.parametrize(
    "script, not_needed",
    [
        ("dataprep", "requests torch scipy.fft pandas librosa sklearn matplotlib"),
        ("feat_extract.feature_extraction", "requests torch scipy pandas librosa sklearn matplotlib av"),
    ],
)
def test_workers_do_not_import_what_they_do_not_use(script: str, not_needed: str) -> None:
    code = f"import sys, {script}; print([name for name in {not_needed.split()} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int, int], None]:
    """A function that makes shared memory as large and as free as it is told."""

    def of(total: int, free: int) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(total=total, free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return of


@pytest.mark.skipif(not SHARED_MEMORY.exists(), reason="no /dev/shm here")
def test_waiting_batches_fit_in_shared_memory(
    shared_memory: Callable[[int, int], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 300 * 40 * 200 * 4  # bytes of a 100-way episode of 1 + 2 utterances
    for total, workers, prefetch in ((24_000, 8, 4), (200, 8, 2), (100, 8, 1), (64, 4, 1), (30, 1, 1), (16, 0, None)):
        shared_memory(total * MB, total * MB)
        options = loader_options(8, batch)
        assert (options["num_workers"], options["prefetch_factor"]) == (workers, prefetch)
        assert (workers * (prefetch or 0) + 2) * batch <= total * MB or workers == 0
        told = capsys.readouterr().err
        assert (f"{workers} processes load data, not 8" in told) == (workers < 8) and told.count("\n") == (workers < 8)
    shared_memory(200 * MB, 200 * MB)
    monkeypatch.setattr(ranks, "local_world_size", lambda: 2)
    assert loader_options(8, batch)["prefetch_factor"] == 1  # half is the other rank's
    assert loader_options(0, batch)["num_workers"] == 0


class DiesAtThree(Dataset):
    """Data of which the fourth item ends its process: killed, told by the system that memory failed, or by a bug."""

    def __init__(self, end: Callable[[], Any]):
        self._end = end

    def __len__(self) -> int:
        return 9

    def __getitem__(self, at: int) -> torch.Tensor:
        if at == 3:
            self._end()
        return torch.full((2,), at)


def bug() -> None:
    torch.zeros(2) + torch.zeros(3)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(
    "end, total, told",
    [(lambda: os.kill(os.getpid(), signal.SIGKILL), 64 * MB, True), (lambda: os._exit(1), 8192 * MB, False)],
    ids=["killed", "exits"],
)
def test_a_killed_loader_raises_where_a_batch_is_awaited(
    shared_memory: Callable[[int, int], None], end: Callable[[], None], total: int, told: bool
) -> None:
    shared_memory(total, 0)
    batches = from_loaders(DataLoader(DiesAtThree(end), batch_size=None, num_workers=1, prefetch_factor=1))
    assert [int(next(batches)[0]) for _ in range(3)] == [0, 1, 2]
    deadline = time.monotonic() + 30
    while multiprocessing.active_children():  # torch's handler of SIGCHLD would raise in this loop
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(UserError, match="a process that loads data was killed") as raised:
        list(batches)
    assert ("/dev/shm is small, 67 MB: enlarge it" in str(raised.value)) == (told and SHARED_MEMORY.exists())


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(), FileNotFoundError()])
def test_a_loader_that_is_killed_while_it_hands_a_batch_over_is_told(error: Exception) -> None:
    def batches() -> Iterator[int]:  # the moment itself cannot be hit at will
        yield 0
        raise error

    with pytest.raises(UserError, match="a process that loads data was killed"):
        list(from_loaders(batches()))


def test_an_error_of_the_program_in_a_loader_is_not_told_as_its_death() -> None:
    with pytest.raises(RuntimeError, match="size of tensor a"):
        list(from_loaders(DataLoader(DiesAtThree(bug), batch_size=None, num_workers=1)))
