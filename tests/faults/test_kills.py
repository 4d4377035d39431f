"""SIGKILL at random moments, SIGTERM to all processes, a killed loader process: the result is the same."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TORCHRUN, in_process, present, write_wavs
from harness import (
    RUN,
    TRAIN,
    Outcome,
    by_start_method,
    copy_of,
    files_of,
    finish,
    same_training,
    soaked,
    start,
    trained_folder,
    write_speech,
)

import train
from configure import TREES
from model.checkpoint import checkpoint_path, unfinished_path

pytestmark = pytest.mark.slow
EXTRACTION = ["feat_extract/feature_extraction.py", "--num_workers", 2]
TRAINING = ["train.py", *TRAIN, "--max_epoch", 2, "--save_every_minutes", 1e-6]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.getbasetemp() / "trained")


def kill_group(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    os.killpg(process.pid, number)


def kill_after(seconds: float, process: subprocess.Popen, whole_group: bool) -> bool:
    """Kill a script, alone or with its workers, after `seconds`; return False if it had ended before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill_group(process) if whole_group else process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_repeatedly_killed_extraction_gives_the_same_files(tmp_path: Path) -> None:
    kills, rng = soaked(3, 25), random.Random(1)
    write_wavs(tmp_path / "quiet" / "data", "vox2_dev", range(3), soaked(16, 80), seconds=1)
    copy_of(tmp_path / "quiet", tmp_path / "killed")
    started = time.monotonic()
    assert finish(start(*EXTRACTION, cwd=tmp_path / "quiet")).status == 0
    usual = time.monotonic() - started
    while kills:
        process = start(*EXTRACTION, cwd=tmp_path / "killed")
        kills -= kill_after(rng.uniform(0.3, 1) * usual, process, rng.random() < 0.5)
        if process.returncode == 0:  # restart: a kill needs something to break
            shutil.rmtree(tmp_path / "killed" / "data" / TREES["vox2_dev"].feat)
    done = finish(start(*EXTRACTION, cwd=tmp_path / "killed"))
    assert done.status == 0 and done.stderr == "", done.stderr
    assert files_of(tmp_path / "quiet") == files_of(tmp_path / "killed")


def test_repeatedly_killed_training_gives_the_same_weights(trained: Path, tmp_path: Path) -> None:
    kills, rng = soaked(2, 30), random.Random(2)
    home = copy_of(trained, tmp_path / "home")
    shutil.rmtree(home / RUN)
    while kills:
        if checkpoint_path(home / RUN, 2).exists():  # restart: a kill needs something to break
            shutil.rmtree(home / RUN)
        process = start(*TRAINING, "--use_checkpoint", "auto", "--num_workers", kills % 2, cwd=home)
        if rng.random() < 0.9:  # the others are killed while they start
            wait_for(process, "chance, global")
        kills -= kill_after(rng.uniform(0, 3), process, whole_group=rng.random() < 0.5)
    done = in_process(train.main, [*map(str, TRAINING[1:]), "--use_checkpoint", "auto"], home)
    assert done.status == 0, done.stderr
    assert same_training(checkpoint_path(home / RUN, 2), checkpoint_path(trained / RUN, 2))
    assert same_rows(home, trained)
    left = {path.name for path in (home / RUN).iterdir()}
    assert left == {"checkpoint_001.pth", "checkpoint_002.pth", "config.json", "log.csv", ".train.lock"}


def same_rows(home: Path, other: Path) -> bool:
    """Return whether the logs of two runs are equal, except for the two columns of measured time."""
    logs = ((folder / RUN / "log.csv").read_text().splitlines() for folder in (home, other))
    tables = [[line.split(",") for line in log] for log in logs]
    timed = [tables[0][0].index(name) for name in ("utterances_per_second", "waiting")]
    rows = [[[value for at, value in enumerate(row) if at not in timed] for row in table] for table in tables]
    return rows[0] == rows[1]


def wait_for(process: subprocess.Popen, words: str) -> None:
    """Wait until a script prints a line with this beginning."""
    while not present(process.stdout).readline().startswith(words):
        assert process.poll() is None, present(process.stderr).read()


def in_the_first_epoch(home: Path, **options: Any) -> subprocess.Popen:
    """Start a training with a loader process; return it once it has trained an episode."""
    process = start(*TRAINING[:-2], "--n_folder", 4, "--num_workers", 1, cwd=home, **options)
    wait_for(process, "first loss")
    return process


def end_of(process: subprocess.Popen) -> Outcome:
    outcome = finish(process)
    assert "Traceback" not in outcome.stderr and len(outcome.stderr.splitlines()) == 1, outcome.stderr
    return outcome


@pytest.mark.parametrize(
    "method, number",
    [("fork", signal.SIGINT), *((method, signal.SIGTERM) for method in ("fork", "spawn"))],
)
def test_a_signal_to_all_processes_saves_and_stops(
    trained: Path, tmp_path: Path, number: signal.Signals, method: str
) -> None:
    home = copy_of(trained, tmp_path / "home")
    process = in_the_first_epoch(home, launcher=by_start_method(method))
    kill_group(process, number)
    outcome = end_of(process)
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):  # no process of the group remains
        while time.monotonic() < deadline:
            kill_group(process, 0)
            time.sleep(0.01)
    assert outcome.status == 128 + number and "and saved; resume with --use_checkpoint True" in outcome.stderr
    folder = home / RUN.with_name("baseline_004")
    assert unfinished_path(folder).exists()
    if number == signal.SIGTERM:
        done = in_process(train.main, [*map(str, TRAINING[1:-2]), "--n_folder", "4", "--use_checkpoint", "True"], home)
        assert done.status == 0, done.stderr
        assert same_training(checkpoint_path(folder, 2), checkpoint_path(trained / RUN, 2))


def test_a_killed_loader_process_is_a_one_line_error(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    write_speech(home / "data", "vox2_dev", range(4, 8), 40)  # more episodes than are prefetched
    process = in_the_first_epoch(home)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        kill_group(process)
        pytest.skip("no list of child processes here")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    outcome = end_of(process)
    assert outcome.status == 1 and "a process that loads data was killed" in outcome.stderr


def rank_of(process: int) -> str | None:
    """Return the rank of a process; None if it is no rank."""
    try:
        variables = Path(f"/proc/{process}/environ").read_text().split("\0")
    except OSError:  # it has ended or belongs to another user
        return None
    return dict(variable.partition("=")[::2] for variable in variables).get("RANK")


def test_a_run_with_a_killed_rank_is_resumed_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("no environment of other processes to be seen here")
    home = copy_of(trained, tmp_path / "home")
    training = ["train.py", *TRAIN, "--save_every_minutes", 1e-6]
    assert finish(start(*training, "--n_folder", 5, "--max_epoch", 2, cwd=home, launcher=TORCHRUN)).status == 0
    process = start(*training, "--n_folder", 6, "--max_epoch", 2000, cwd=home, launcher=TORCHRUN)
    folder = home / RUN.with_name("baseline_006")
    while not unfinished_path(folder).exists():
        time.sleep(0.01)
        assert process.poll() is None, present(process.stderr).read()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (other,) = (int(child) for child in children if rank_of(int(child)) == "1")
    os.kill(other, signal.SIGKILL)
    outcome = finish(process)
    assert outcome.status == 1 and "train.py: aborted because another rank has ended" in outcome.stderr, outcome.stderr
    flags = ["--n_folder", 6, "--max_epoch", 2, "--use_checkpoint", True]
    assert finish(start(*training, *flags, cwd=home, launcher=TORCHRUN)).status == 0
    assert same_training(checkpoint_path(folder, 2), checkpoint_path(folder.with_name("baseline_005"), 2))


def test_a_killed_worker_of_the_extraction_is_a_one_line_error(tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(2), 100, seconds=0.5)  # enough to start workers
    process = start(*EXTRACTION, cwd=tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        kill_group(process)
        pytest.skip("no list of child processes here")
    while not (workers := children.read_text().split()):
        assert process.poll() is None
    os.kill(int(workers[0]), signal.SIGKILL)
    outcome = end_of(process)
    assert outcome.status == 1 and "a worker process was killed" in outcome.stderr
    assert finish(start(*EXTRACTION, cwd=tmp_path)).status == 0
    assert len(files_of(tmp_path / "data" / TREES["vox2_dev"].feat)) == 200
