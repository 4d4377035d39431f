"""A full disk or an exceeded quota: files that were complete remain intact."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import write_wavs
from harness import (
    RUN,
    TRAIN,
    Outcome,
    copy_of,
    files_of,
    finish,
    in_process,
    same_training,
    start,
    trained_folder,
    write_speech,
)

import train
from configure import TREES
from model.checkpoint import checkpoint_path, load_checkpoint, newest_checkpoint

pytestmark = pytest.mark.slow

AGAIN = ["train.py", *TRAIN, "--use_checkpoint", True, "--max_epoch", 3]
EXTRACTION = ["feat_extract/feature_extraction.py", "--num_workers", 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, if the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)


def quota(size: int) -> dict[str, object]:
    """Return a function that limits the files of a process to `size` bytes; needs no permissions."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


def check_training(run: Path, before: dict[str, bytes], outcome: Outcome) -> None:
    """Check that a training that could not write checkpoint 3 changed no file in its folder."""
    assert outcome.status == 1 and len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert "checkpoint_003.pth: cannot be written" in outcome.stderr and "are intact" in outcome.stderr
    after = files_of(run)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name.endswith(".pth"))


def test_a_quota_exceeded_during_training_keeps_the_last_checkpoint(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    before = files_of(home / RUN)
    check_training(home / RUN, before, finish(start(*AGAIN, cwd=home, **quota(2_000_000))))
    assert in_process(train.main, list(map(str, AGAIN[1:])), home).status == 0
    assert same_training(checkpoint_path(home / RUN, 3), trained / "third.pth")


def test_a_disk_full_during_training_keeps_the_last_checkpoint(trained: Path, tmp_path: Path, small_disk: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    before = files_of(home / RUN)
    subprocess.run(["mount", "-o", f"remount,size={sum(map(len, before.values())) + 2**20}", small_disk], check=True)
    shutil.copytree(home / RUN, small_disk / RUN.name)
    outcome = finish(start(*AGAIN, "--model_path", small_disk, cwd=home))
    assert "No space left on device" in outcome.stderr
    check_training(small_disk / RUN.name, before, outcome)


def test_a_disk_full_during_extraction_keeps_complete_files(tmp_path: Path, small_disk: Path) -> None:
    write_wavs(tmp_path / "quiet" / "data", "vox2_dev", range(4), 12, seconds=2)  # 35 kB of features each
    wavs, features = (tmp_path / "quiet" / "data" / folder for folder in TREES["vox2_dev"])
    (small_disk / TREES["vox2_dev"].wav).parent.mkdir(parents=True)
    (small_disk / TREES["vox2_dev"].wav).symlink_to(wavs)
    full = finish(start(*EXTRACTION, "--save_path", small_disk, cwd=tmp_path))
    assert full.status == 1 and len(full.stderr.splitlines()) == 1, full.stderr
    assert ".pkl: No space left on device; free some space and run again" in full.stderr
    assert finish(start(*EXTRACTION, cwd=tmp_path / "quiet")).status == 0
    expected = files_of(features)
    written = files_of(small_disk / TREES["vox2_dev"].feat)
    assert 0 < len(written) < len(expected) and written.items() <= expected.items()
    grow(small_disk)
    assert finish(start(*EXTRACTION, "--save_path", small_disk, cwd=tmp_path)).status == 0
    assert files_of(small_disk / TREES["vox2_dev"].feat) == expected


def test_a_quota_exceeded_during_extraction_or_scoring_is_an_error(trained: Path, tmp_path: Path) -> None:
    write_wavs(tmp_path / "data", "vox2_dev", range(1), 2, seconds=2)
    outcome = finish(start(*EXTRACTION, cwd=tmp_path, **quota(20_000)))
    assert outcome.status == 1 and ".pkl: File too large" in outcome.stderr and len(outcome.stderr.splitlines()) == 1
    assert not files_of(tmp_path / "data" / TREES["vox2_dev"].feat)
    home = copy_of(trained, tmp_path / "home")
    scoring = ["EER_full.py", "--save_scores", "scores.csv", "--json"]
    outcome = finish(start(*scoring, cwd=home, **quota(500)))
    assert outcome.status == 1 and "scores.csv: File too large" in outcome.stderr and "EER " in outcome.stderr
    assert "eer" in json.loads(outcome.stdout)
    assert not (home / "scores.csv").exists() and not list(home.rglob("*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_on_a_full_disk_is_an_error_and_the_epoch_is_saved(trained: Path, tmp_path: Path) -> None:
    home = copy_of(trained, tmp_path / "home")
    with open("/dev/full", "w") as full:
        outcome = finish(start(*AGAIN, cwd=home, stdout=full))
    assert outcome.status == 1 and len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert "writing the output: No space left on device" in outcome.stderr
    assert load_checkpoint(newest_checkpoint(home / RUN)[0]).epoch == 2


@pytest.mark.parametrize(
    "options, status, message",
    [
        ("size=800k", 0, ""),
        ("size=300k", 0, "/dev/shm has 0 MB free for batches of 0.1 MB: 0 processes load data"),
        (
            "size=2m,nr_inodes=4",
            1,
            "cannot start a process that loads data: No space left on device",
        ),
        ("size=2m,nr_inodes=22", 1, "train.py: cannot share a batch: "),
    ],
)
def test_small_shared_memory(tmp_path: Path, options: str, status: int, message: str) -> None:
    small = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$0" "$@"'
    launcher = ("unshare", "-m", "sh", "-c", small)
    if not shutil.which("unshare") or subprocess.run([*launcher, "true"], capture_output=True).returncode:
        pytest.skip("only root may mount a small /dev/shm")
    write_speech(tmp_path / "data", "vox2_dev", range(4), 12)  # 12 episodes of 128 kB, 8 of them prefetched
    flags = ["--max_epoch", 1, "--num_workers", 2]
    outcome = finish(start("train.py", *TRAIN, *flags, cwd=tmp_path, launcher=(*launcher, sys.executable)), timeout=60)
    assert outcome.status == status and message in outcome.stderr, outcome.stderr
    assert ("enlarge it (docker: --shm-size)" in outcome.stderr) == (message != "")
    assert ("processes load data" in outcome.stderr) == ("processes load data" in message)
