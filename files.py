"""Writing files so that a half-written one is never taken for a whole one."""
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console import UserError

TEMPORARY_SUFFIX = ".tmp"  # a file so named is unfinished, whoever left it


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    The folder is made. With `durable` the bytes reach the disk before the rename, so not even a power cut
    leaves a broken file (a millisecond or more each: for checkpoints, not for a million features).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left in `folder` and below; no other run may be writing there."""
    for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def check_room(folder: Path, purpose: str, size: int) -> None:
    """Raise UserError if the disk of `folder` has less than `size` bytes free for a purpose."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder}: {purpose} needs {size / 1e9:.1f} GB more and only {free / 1e9:.1f} GB are free")
