"""Two runs into one folder: the second is refused with the first one's process and host, or finds all done."""

import os
import signal
import socket
from pathlib import Path

import pytest
from conftest import write_wavs
from harness import RUN, TRAIN, copy_world, files_of, finish, start, trained_world

from configure import TREES
from system.files import locked

pytestmark = pytest.mark.slow

EXTRACTION = ["feat_extract/feature_extraction.py", "--num_workers", 1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_world(tmp_path_factory.getbasetemp() / "world")


@pytest.mark.parametrize(
    "lock, script",
    [
        (RUN / ".train.lock", ["train.py", *TRAIN, "--use_checkpoint", True, "--max_epoch", 3]),
        (Path("data", ".feature_extraction.lock"), EXTRACTION),
    ],
    ids=["training", "extraction"],
)
def test_the_second_run_is_refused_and_nothing_is_written(world: Path, tmp_path: Path, lock: Path, script: str) -> None:
    home = copy_world(world, tmp_path / "home")
    write_wavs(home / "data", "vox1_dev", range(1), 1)
    before = files_of(home)
    with locked(home / lock):
        outcome = finish(start(*script, cwd=home))
    assert outcome.status == 1 and len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert f"process {os.getpid()} on {socket.gethostname()} is writing there" in outcome.stderr
    assert {name: content for name, content in files_of(home).items() if ".index." not in name} == {
        name: content for name, content in before.items() if ".index." not in name
    }


def test_two_extractions_at_once_leave_what_one_does(tmp_path: Path) -> None:
    write_wavs(tmp_path / "one" / "data", "vox2_dev", range(2), 10, seconds=1)
    copy_world(tmp_path / "one", tmp_path / "two")
    assert finish(start(*EXTRACTION, cwd=tmp_path / "one")).status == 0
    both = [start(*EXTRACTION, cwd=tmp_path / "two") for _ in range(2)]
    outcomes = sorted(finish(process).status for process in both)
    assert outcomes in ([0, 0], [0, 1])  # the second may have come when the first had ended
    tree = TREES["vox2_dev"].feat
    assert files_of(tmp_path / "two" / "data" / tree) == files_of(tmp_path / "one" / "data" / tree)


def test_a_lock_ends_with_its_owner_while_its_children_live(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    reading, writing = os.pipe()
    owner = os.fork()
    if owner == 0:  # holds the lock, has a child, and is killed
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
