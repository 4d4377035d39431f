import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from conftest import PROJECT, write_wavs

from system.console import UserError
from system.workers import CHUNK, unordered_map

CHILDREN = Path(f"/proc/self/task/{threading.get_native_id()}/children")
lists_children = pytest.mark.skipif(not CHILDREN.exists(), reason="no list of child processes here")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(str, [PROJECT, PROJECT / "tests", Path(__file__).parent]))
}


def worker(item: int) -> tuple[int, int]:
    return item, os.getpid()


@pytest.mark.parametrize(
    "workers, n_items, here", [(2, 0, True), (2, CHUNK, True), (2, CHUNK + 1, False), (1, 40, True)]
)
def test_one_chunk_or_one_worker_starts_no_process(workers: int, n_items: int, here: bool) -> None:
    done = list(unordered_map(worker, iter(range(n_items)), workers))
    assert sorted(item for item, _ in done) == list(range(n_items))
    assert all((process == os.getpid()) == here for _, process in done)


@pytest.mark.slow
def test_all_workers_work_and_no_more_start_than_chunks() -> None:
    done = list(unordered_map(worker, range(1000), workers=3))
    assert sorted(item for item, _ in done) == list(range(1000)) and len({process for _, process in done}) == 3
    assert len({process for _, process in unordered_map(worker, range(CHUNK + 1), workers=100)}) <= 2


def threads_of_libraries(item: int) -> list[int]:
    np.ones((500, 500)) @ np.ones((500, 500))
    return [library["num_threads"] for library in threadpoolctl.threadpool_info()]


def test_linear_algebra_in_a_worker_has_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "2")
    before = dict(os.environ)
    for n_threads in unordered_map(threads_of_libraries, range(3), workers=2, chunk=1):
        assert n_threads and set(n_threads) == {1}
        assert dict(os.environ) == before


class Unsendable(Exception):
    def __init__(self, *, reason: str):
        super().__init__(f"for {reason}")


def fails(item: int) -> int:
    if item == 20:
        raise UserError("speaker id10: bad")
    if item == 120:
        return dict[int, int]()[item]
    if item == 220:
        raise Unsendable(reason="its keyword")
    return item


@pytest.mark.parametrize(
    "items, kind, words",
    [
        (range(100), UserError, "^speaker id10: bad$"),
        (range(100, 200), KeyError, "120"),
        (range(200, 300), RuntimeError, "^Unsendable: for its keyword$"),
    ],
)
def test_an_exception_in_a_worker_is_raised_in_the_parent(items: range, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        list(unordered_map(fails, items, workers=2))
    assert "in fails" in str(raised.value.__cause__)  # the traceback of the worker


def wait_and_note(path: Path) -> None:
    time.sleep(0.1)
    path.touch()


@lists_children
@pytest.mark.slow
def test_workers_of_an_abandoned_loop_finish_their_items_and_end(tmp_path: Path) -> None:
    before = CHILDREN.read_text().split()
    work = unordered_map(wait_and_note, [tmp_path / f"{n}" for n in range(100)], workers=2)
    next(work)
    assert len(CHILDREN.read_text().split()) == len(before) + 2
    work.close()
    assert CHILDREN.read_text().split() == before
    assert CHUNK < len(list(tmp_path.iterdir())) < 3 * CHUNK  # three chunks were sent to the workers


def run(code: str, **options: Any) -> subprocess.CompletedProcess:
    """Run a script that can import this module, for at most a minute."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, **options)


def kill_while_they_start(which: int, delay: float) -> None:
    def kill() -> None:
        while len(started := CHILDREN.read_text().split()) <= which:
            pass
        time.sleep(delay)
        os.kill(int(started[which]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match="a worker process was killed"):
        list(unordered_map(abs, range(10**7), workers=2))
    killer.join()


@pytest.mark.slow
@lists_children
def test_a_worker_killed_while_it_starts_is_an_error() -> None:
    delays = [0, 0, 0, 0.001, 0.003, 0.01, 0.03, 0.06, 0.1]
    rounds = [(which, delay) for delay in delays for which in (0, 1)]
    done = run(f"from test_workers import *; [kill_while_they_start(*at) for at in {rounds}]")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("executable", ["/nowhere/python", os.devnull])
def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(UserError, match="cannot start a worker process: .*with fewer workers"):
        list(unordered_map(worker, range(100), workers=2))


def test_a_worker_that_exits_while_it_starts_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(UserError, match="a worker process ended with status 1"):
        list(unordered_map(worker, range(100), workers=2))


def test_a_function_of_the_script_is_an_error_and_the_script_does_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from system.workers import unordered_map\n"
        "def work(item): return item\n"
        "print('run')\n"
        "list(unordered_map(work, range(100), workers=2))\n"
    )
    done = run(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    assert done.returncode == 1 and done.stdout == "run\n"
    assert (
        "a worker process cannot load its function" in done.stderr and "in a module, not in the script" in done.stderr
    )


@pytest.mark.slow
def test_a_script_without_a_main_guard_extracts_features(tmp_path: Path) -> None:
    write_wavs(tmp_path, "vox2_dev", range(2), 20, seconds=0.5)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from feat_extract.feature_extraction import extract_trees, find_trees\n"
        f"extract_trees(Path({str(tmp_path)!r}), find_trees(Path({str(tmp_path)!r})), 2)\n"
    )
    done = subprocess.run([sys.executable, script], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("features: 40 files written") and done.stdout.count("\n") == 1


SLEEPER = """
import os, sys, time
from system import console
from system.workers import unordered_map
from test_workers import tell_and_sleep

def main(argv):
    list(unordered_map(tell_and_sleep, [argv] * 40, workers=2))

console.run(main)
"""


def tell_and_sleep(arguments: list[str]) -> None:
    folder, seconds = arguments
    Path(folder, str(os.getpid())).touch()
    time.sleep(float(seconds))


@pytest.mark.slow
@pytest.mark.parametrize("number, seconds", [(signal.SIGINT, "0.5"), (signal.SIGKILL, "600")])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals, seconds: str) -> None:
    command = [sys.executable, "-c", SLEEPER, str(tmp_path), seconds]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, start_new_session=True)
    while len(workers := [int(file.name) for file in tmp_path.iterdir()]) < 2:
        time.sleep(0.01)
        assert process.poll() is None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # like the terminal
    else:
        process.kill()
    _, stderr = process.communicate(timeout=30)
    assert stderr == (b"-c: interrupted\n" if number == signal.SIGINT else b"")
    deadline = time.monotonic() + 10
    while any(is_running(worker) for worker in workers):
        time.sleep(0.01)
        assert time.monotonic() < deadline


def is_running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize(
    "script, not_needed",
    [
        ("dataprep", "requests torch scipy.fft pandas librosa sklearn matplotlib"),
        ("feat_extract.feature_extraction", "requests torch scipy pandas librosa sklearn matplotlib av"),
    ],
)
def test_scripts_do_not_import_unused_packages(script: str, not_needed: str) -> None:
    code = f"import sys, {script}; print([name for name in {not_needed.split()} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout == "[]\n"
