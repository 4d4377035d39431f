"""Which checkpoints a run leaves, without a training."""

import signal
from pathlib import Path
from typing import Any, cast

import pytest

from model.checkpoint import checkpoint_path, unfinished_path
from training.loop import Run
from training.saver import Saver


class Saved:
    """A run that is saved as its epoch's number."""

    epoch = episode = 0

    def save(self, path: Path, **facts: Any) -> None:
        path.write_text(str(self.epoch))


@pytest.mark.parametrize("keep_last, kept", [(None, [1, 2, 3, 4, 5]), (1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_an_epoch_leaves_the_last_checkpoints_and_nothing_unfinished(
    tmp_path: Path, keep_last: int | None, kept: list[int]
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    run = Saved()
    saver = Saver(cast(Run, run), tmp_path, {}, keep_last, every_minutes=1e-9)
    for run.epoch in range(1, 6):
        saver.after_episode()
        assert unfinished_path(tmp_path).exists()
        saver.after_epoch()
        assert not unfinished_path(tmp_path).exists()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert sorted(tmp_path.iterdir()) == [checkpoint_path(tmp_path, epoch) for epoch in kept]
