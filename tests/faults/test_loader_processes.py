"""The loader processes of a training live as long as the training and need not be forked."""

from pathlib import Path

import pytest
from conftest import present
from harness import RUN, TRAIN, by_start_method, finish, same_training, start, trained_folder

from model.checkpoint import checkpoint_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.getbasetemp() / "trained")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no list of child processes here")
def test_spawned_loader_processes_live_as_long_as_the_training_and_train_the_same(
    trained: Path, tmp_path: Path
) -> None:
    flags = ["--save_path", trained / "data", "--num_workers", 2, "--max_epoch", 3]
    process = start("train.py", *TRAIN, *flags, cwd=tmp_path, launcher=by_start_method("spawn"))
    children = []
    for line in present(process.stdout):
        if line.startswith("epoch"):
            children.append(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    outcome = finish(process)
    assert outcome.status == 0 and outcome.stderr == "", outcome.stderr
    assert len(children) == 3 and len(children[0]) >= 2 and children[1] == children[0]
    assert same_training(checkpoint_path(tmp_path / RUN, 3), trained / "third.pth")
