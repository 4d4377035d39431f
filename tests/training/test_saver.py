"""Which checkpoints a run leaves, without a training."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch

from model.checkpoint import Checkpoint, checkpoint_path, save_checkpoint, state_dict_of, unfinished_path
from model.encoder import Encoder
from training import saver as saver_module
from training.logbook import add_row
from training.loop import Run
from training.saver import Saver

STATE = state_dict_of(Encoder("resnet18"), None)


class Saved:
    """A run that is saved with its epoch, of one training speaker."""

    epoch = episode = 0

    def save(self, path: Path, **facts: Any) -> None:
        save_checkpoint(path, Checkpoint(self.epoch, STATE, speakers=["anna"]))


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put back the signal handlers, which a Saver replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("keep_last, kept", [(None, [1, 2, 3, 4, 5]), (1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_an_epoch_leaves_the_last_checkpoints_and_nothing_unfinished(
    tmp_path: Path, keep_last: int | None, kept: list[int]
) -> None:
    run = Saved()
    saver = Saver(cast(Run, run), tmp_path, {}, keep_last, every_minutes=1e-9)
    for run.epoch in range(1, 6):
        saver.after_episode()
        assert unfinished_path(tmp_path).exists()
        add_row(tmp_path, {"epoch": run.epoch})  # as train.py does, before the checkpoint
        saver.after_epoch()
        assert not unfinished_path(tmp_path).exists()
    assert sorted(tmp_path.glob("*.pth")) == [checkpoint_path(tmp_path, epoch) for epoch in kept]


def test_only_what_the_run_wrote_is_removed_with_its_calibrations(tmp_path: Path) -> None:
    """A run of epochs 101 to 103, in a folder with files that others put there; row 7 of the log is an older run's."""
    official = {"epoch": 101, "state_dict": STATE, "optimizer": {}}
    for epoch in (7, 100):
        torch.save(official, checkpoint_path(tmp_path, epoch))
    save_checkpoint(checkpoint_path(tmp_path, 50), Checkpoint(50, STATE, speakers=["ben"]))  # another run's of ours
    checkpoint_path(tmp_path, 8).write_bytes(b"damaged")
    for name in ("100.calibration.json", "050.calibration.json", "101.onnx", "101_notes.txt"):
        (tmp_path / f"checkpoint_{name}").write_text("a user's")
    (tmp_path / "short_trials_seed100.txt").write_text("of all checkpoints")
    for epoch in (7, 8):
        add_row(tmp_path, {"epoch": epoch})
    before = {path.name for path in tmp_path.iterdir()}
    run = Saved()
    for run.epoch in (101, 102, 103):
        saver = Saver(cast(Run, run), tmp_path, {}, keep_last=1, every_minutes=None)  # stopped and resumed each time
        add_row(tmp_path, {"epoch": run.epoch})
        saver.after_epoch()
        checkpoint_path(tmp_path, run.epoch).with_suffix(".calibration.json").write_text("fitted on it")
    added = {"checkpoint_103.pth", "checkpoint_103.calibration.json"}
    assert {path.name for path in tmp_path.iterdir()} == before | added


def test_a_run_is_saved_within_an_epoch_once_in_so_many_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Mock(**{"monotonic.return_value": 1000})
    monkeypatch.setattr(saver_module, "time", clock)
    saver = Saver(cast(Run, Saved()), tmp_path, {}, None, every_minutes=2)
    saved = []
    for clock.monotonic.return_value in (1119, 1121, 1130, 1240, 1242):
        saver.after_episode()
        saved.append(unfinished_path(tmp_path).exists())
        unfinished_path(tmp_path).unlink(missing_ok=True)
    assert saved == [False, True, False, False, True]
