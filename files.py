"""Writing files so that a half-written one is never taken for a whole one, and folders so that one run does it."""
import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import console
from console import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

TEMPORARY_SUFFIX = ".tmp"  # a file so named is unfinished, whoever left it


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    The folder is made. With `durable` the bytes reach the disk before the rename, so not even a power cut
    leaves a broken file (a millisecond or more each: for checkpoints, not for a million features).
    An OSError of the writing, such as a full disk, names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable and os.name == "posix":
            _sync_folder(path.parent)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a rename in the folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left in `folder` and below; no other run may be writing there."""
    for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; UserError with the owner's process and host if another does.

    The lock is the operating system's and ends with its process, however that dies; the file stays and means nothing.
    """
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        if not _try_lock(file):
            file.seek(0)
            process, _, host = file.read(300).strip().partition(" ")
            raise UserError(
                f"{path.parent}: process {process or 'unknown'} on {host or 'an unknown host'} is writing there; "
                "wait until it ends or choose another folder"
            )
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        yield


def _try_lock(file: TextIO) -> bool:
    """Lock a file until it is closed; False if another process has."""
    try:
        if fcntl:  # lockf and not flock: worker processes do not inherit it, so none outlives its owner with it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(2**20)  # Windows lets nobody read what is locked: not the owner's name, then
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        console.warn(f"{file.name}: cannot be locked here ({error.strerror}); let no other run write to this folder")
    return True


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check_room(folder: Path, purpose: str, size: int) -> None:
    """Raise UserError if the disk of `folder` has less than `size` bytes free for a purpose."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder}: {purpose} needs {size / 1e9:.1f} GB more and only {free / 1e9:.1f} GB are free")
