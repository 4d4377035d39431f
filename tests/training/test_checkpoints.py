"""The checkpoints that a run keeps, without a training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train
from dataset.episodes import Episode
from loss import Objective
from model.checkpoint import Checkpoint, checkpoint_path, save_checkpoint, state_dict_of, unfinished_path
from model.encoder import Encoder
from system.compute import Compute
from training.checkpoints import save_epoch, save_state
from training.logbook import add_row
from training.step import EpisodeLoss, TrainingState

STATE = state_dict_of(Encoder("resnet18"), None)


@pytest.fixture
def state() -> TrainingState:
    model = EpisodeLoss(Encoder("resnet18"), Objective("prototypical", False, 1, 256))
    return TrainingState(model, Compute(torch.device("cpu"), torch.float32, 0), lr=0.1, speakers=["anna"])


@pytest.mark.parametrize("keep_last, kept", [(None, [1, 2, 3, 4, 5]), (1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_an_epoch_keeps_the_last_checkpoints_and_no_unfinished_one(
    tmp_path: Path, state: TrainingState, keep_last: int | None, kept: list[int]
) -> None:
    for state.epoch in range(1, 6):
        save_state(unfinished_path(tmp_path), state)
        add_row(tmp_path, {"epoch": state.epoch})  # as train.py does, before the checkpoint
        save_epoch(tmp_path, state, keep_last)
        assert not unfinished_path(tmp_path).exists()
    assert sorted(tmp_path.glob("*.pth")) == [checkpoint_path(tmp_path, epoch) for epoch in kept]


def test_only_checkpoints_of_the_run_are_removed_with_their_calibrations(tmp_path: Path, state: TrainingState) -> None:
    """A run of epochs 101 to 103, in a folder with files from elsewhere."""
    torch.save({"epoch": 101, "state_dict": STATE, "optimizer": {}}, checkpoint_path(tmp_path, 100))  # official
    save_checkpoint(checkpoint_path(tmp_path, 50), Checkpoint(50, STATE, speakers=["ben"]))  # of another run
    checkpoint_path(tmp_path, 8).write_bytes(b"damaged")
    for name in ("100.calibration.json", "050.calibration.json", "101.onnx", "101_notes.txt"):
        (tmp_path / f"checkpoint_{name}").write_text("a user's")
    (tmp_path / "short_trials_seed100.txt").write_text("of all checkpoints")
    before = {path.name for path in tmp_path.iterdir()} | {"log.csv"}
    for state.epoch in (101, 102, 103):
        add_row(tmp_path, {"epoch": state.epoch})
        save_epoch(tmp_path, state, keep_last=1)
        checkpoint_path(tmp_path, state.epoch).with_suffix(".calibration.json").write_text("fitted on it")
    added = {"checkpoint_103.pth", "checkpoint_103.calibration.json"}
    assert {path.name for path in tmp_path.iterdir()} == before | added


def test_save_every_minutes(tmp_path: Path, state: TrainingState, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, saved = SimpleNamespace(seconds=0), list[int]()

    def step(state: TrainingState, episode: Episode, max_grad_norm: float | None) -> None:
        clock.seconds += 50
        state.episode += 1
        state.metrics.pending.append(torch.ones(5))

    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    monkeypatch.setattr(train, "train_step", step)
    monkeypatch.setattr(train, "save_state", lambda path, state: saved.append(state.episode))
    episodes: Any = SimpleNamespace(per_epoch=10, n_utterances=4)
    stop: Any = SimpleNamespace(number=0)
    batches: Any = iter([None] * 10)
    row = train.train_epoch(train.parse_args(["--save_every_minutes", "2"]), tmp_path, state, episodes, batches, stop)
    assert saved == [3, 6, 9]  # 150 s, and 150 s after each save
    assert row["utterances_per_second"] == 40 / 500 and row["waiting"] == 0
