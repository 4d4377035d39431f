"""The processes that load a training's data live as long as it does, and need not be forked."""

from pathlib import Path

import pytest
from conftest import present
from harness import RUN, TRAIN, by_start_method, finish, same_training, start, trained_world

from model.checkpoint import checkpoint_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_world(tmp_path_factory.getbasetemp() / "world")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no list of child processes here")
def test_loader_processes_live_as_long_as_the_training(world: Path, tmp_path: Path) -> None:
    flags = ["--save_path", world / "data", "--num_workers", 2, "--max_epoch", 4]
    process = start("train.py", *TRAIN, *flags, cwd=tmp_path)
    children = []
    for line in present(process.stdout):
        if line.startswith("epoch"):
            children.append(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    assert finish(process).status == 0
    assert len(children) == 4 and len(children[0]) == 2
    assert children[:3] == [children[0]] * 3  # after the fourth line they may have ended


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_are_not_forked_train_the_same(world: Path, tmp_path: Path, method: str) -> None:
    flags = ["--save_path", world / "data", "--num_workers", 2, "--max_epoch", 2]
    outcome = finish(start("train.py", *TRAIN, *flags, cwd=tmp_path, launcher=by_start_method(method)))
    assert outcome.status == 0 and outcome.stderr == "", outcome.stderr
    assert same_training(checkpoint_path(tmp_path / RUN, 2), checkpoint_path(world / RUN, 2))
