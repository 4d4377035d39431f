"""Which checkpoints a run leaves, without a training."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from model.checkpoint import checkpoint_path, unfinished_path
from training import saver as saver_module
from training.loop import Run
from training.saver import Saver


class Saved:
    """A run that is saved as its epoch's number."""

    epoch = episode = 0

    def save(self, path: Path, **facts: Any) -> None:
        path.write_text(str(self.epoch))


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
        saver.after_epoch()
        assert not unfinished_path(tmp_path).exists()
    assert sorted(tmp_path.iterdir()) == [checkpoint_path(tmp_path, epoch) for epoch in kept]


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
