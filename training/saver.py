"""When a training run is saved, and how it stops when it is asked to."""

import itertools
import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation.calibration import calibration_path
from model.checkpoint import checkpoint_path, load_checkpoint, numbered_checkpoints, unfinished_path
from system import console, ranks
from system.console import UserError
from training.logbook import LOG_NAME, logged_epochs
from training.loop import Run


class Saver:
    """Writes checkpoints: at an epoch's end, every --save_every_minutes, and when the run is asked to stop."""

    def __init__(
        self, run: Run, folder: Path, facts: dict[str, Any], keep_last: int | None, every_minutes: float | None
    ):
        """Save the run in its folder, with `facts` in each checkpoint; from here on SIGINT and SIGTERM are noted."""
        self._run, self._folder, self._facts = run, folder, facts
        self._keep_last, self._period = keep_last or math.inf, 60 * (every_minutes or math.inf)
        self._due = time.monotonic() + self._period
        self._signal, self._stop_at_once = 0, False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: object) -> None:
        # A second signal ends the run without saving. Under torchrun one Ctrl-C arrives twice.
        if self._signal and ranks.world_size() == 1:
            raise KeyboardInterrupt
        self._signal = number
        if self._stop_at_once:
            raise SystemExit(128 + number)

    @contextmanager
    def stopping_at_once(self, when: str) -> Iterator[None]:
        """Leave within the block, which has nothing to save, as soon as a signal comes; `when` tells where that was."""
        self._stop_at_once = True
        try:
            if self._signal:
                raise SystemExit(128 + self._signal)
            yield
        except SystemExit:
            _say_stopped(when)
            raise
        finally:
            self._stop_at_once = False

    def after_episode(self) -> None:
        """Save if it is time to, or if a signal came to any rank; after a signal, leave."""
        asked, due = ranks.all_reduce_max([self._signal, time.monotonic() >= self._due])
        if not (asked or due):
            return
        self._run.save(unfinished_path(self._folder), **self._facts)
        ranks.barrier()  # torchrun kills all ranks as soon as one ends: all wait until the first has written
        self._due = time.monotonic() + self._period
        self._leave_if(asked, f"after episode {self._run.episode}")

    def after_epoch(self) -> None:
        """Write the epoch's checkpoint, and remove those of the run that --keep_last does not want."""
        self._run.save(checkpoint_path(self._folder, self._run.epoch), **self._facts)
        if ranks.is_first():
            unfinished_path(self._folder).unlink(missing_ok=True)
            remove_up_to(self._folder, self._run.epoch - self._keep_last)
        self._leave_if(ranks.all_reduce_max([self._signal])[0], f"after epoch {self._run.epoch}")

    def _leave_if(self, asked: int, when: str) -> None:
        """Leave if a signal of the number `asked` came; 0 is none."""
        if asked:
            _say_stopped(when)
            raise SystemExit(128 + asked)


def remove_up_to(folder: Path, last: float) -> None:
    """Remove the checkpoints that a run wrote up to an epoch, with the calibrations stored next to them.

    They have a row in log.csv and list the training speakers. Others are not the run's and are kept: an official
    checkpoint, or one of another run, that training was resumed from.
    """
    logged = logged_epochs(folder)
    for epoch, path in numbered_checkpoints(folder).items():
        if epoch <= last and epoch in logged and _lists_speakers(path):
            calibration_path(path).unlink(missing_ok=True)  # first: a kill in between leaves none without checkpoint
            path.unlink()


def _lists_speakers(path: Path) -> bool:
    try:
        return bool(load_checkpoint(path).speakers)
    except UserError:  # damaged: nobody can tell whose it is
        return False


def set_later_aside(folder: Path, epoch: int) -> None:
    """Move what a run's folder has of a training beyond the end of an epoch into abandoned_N there, and say so.

    What is kept beside a checkpoint goes with it, and a copy of the log.
    """
    later = [unfinished_path(folder)] + [path for at, path in numbered_checkpoints(folder).items() if at > epoch]
    files = [file for path in later for file in folder.glob(f"{path.stem}.*")]
    if not files:
        return
    aside = next(path for n in itertools.count(1) if not (path := folder / f"abandoned_{n}").exists())
    aside.mkdir()
    if (folder / LOG_NAME).exists():
        shutil.copy2(folder / LOG_NAME, aside)
    for file in files:
        file.rename(aside / file.name)
    console.warn(f"{folder}: {len(files)} files from after epoch {epoch} are set aside in {aside.name}")


def _say_stopped(when: str) -> None:
    console.warn(f"stopped {when}, saved; --use_checkpoint True goes on")
