"""Two runs in one folder: the second exits with the process and host of the first, or finds its work completed."""

import os
import signal
import socket
from pathlib import Path

import pytest
from conftest import write_wavs
from harness import RUN, TRAIN, copy_of, files_of, finish, start, trained_folder

from configure import TREES
from system.files import locked

pytestmark = pytest.mark.slow

EXTRACTION = ["feat_extract/feature_extraction.py", "--num_workers", 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.getbasetemp() / "trained")


@pytest.mark.parametrize(
    "lock, script",
    [
        (RUN / ".train.lock", ["train.py", *TRAIN, "--use_checkpoint", True, "--max_epoch", 3]),
        (Path("data", ".feature_extraction.lock"), EXTRACTION),
    ],
    ids=["training", "extraction"],
)
def test_a_second_run_is_an_error_and_writes_nothing(trained: Path, tmp_path: Path, lock: Path, script: str) -> None:
    home = copy_of(trained, tmp_path / "home")
    write_wavs(home / "data", "vox1_dev", range(1), 1)
    before = files_of(home)
    with locked(home / lock):
        outcome = finish(start(*script, cwd=home))
    assert outcome.status == 1 and len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert f"process {os.getpid()} on {socket.gethostname()} is writing there" in outcome.stderr
    assert {name: content for name, content in files_of(home).items() if ".index." not in name} == {
        name: content for name, content in before.items() if ".index." not in name
    }


def test_two_simultaneous_extractions_give_the_result_of_one(tmp_path: Path) -> None:
    write_wavs(tmp_path / "one" / "data", "vox2_dev", range(2), 10, seconds=1)
    copy_of(tmp_path / "one", tmp_path / "two")
    assert finish(start(*EXTRACTION, cwd=tmp_path / "one")).status == 0
    both = [start(*EXTRACTION, cwd=tmp_path / "two") for _ in range(2)]
    outcomes = sorted(finish(process).status for process in both)
    assert outcomes in ([0, 0], [0, 1])  # the first may have ended before
    tree = TREES["vox2_dev"].feat
    assert files_of(tmp_path / "two" / "data" / tree) == files_of(tmp_path / "one" / "data" / tree)


def test_a_lock_is_released_when_its_owner_ends_before_its_children(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    reading, writing = os.pipe()
    owner = os.fork()
    if owner == 0:  # locks, starts a child, and is killed
        with locked(tmp_path / ".lock"):
            child = os.fork()
            if child:
                os.write(writing, b"%d" % child)
            signal.pause()
    child = int(os.read(reading, 20))
    try:
        with pytest.raises(Exception, match=f"process {owner} on"), locked(tmp_path / ".lock"):
            pass
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        with locked(tmp_path / ".lock"):
            assert (tmp_path / ".lock").read_text().split() == [str(os.getpid()), socket.gethostname()]
    finally:
        os.kill(child, signal.SIGKILL)
