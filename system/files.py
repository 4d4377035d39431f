"""Walk trees of files, read text lists, lock folders, and write files so that an unfinished one is never used."""

import codecs
import errno
import hashlib
import io
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from system import console
from system.console import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEMPORARY_SUFFIX = ".tmp"  # ends the names of unfinished files


class Folder(NamedTuple):
    """A folder of a tree, as it was listed."""

    name: str  # relative to the tree, its parts separated by /; "" is the tree itself
    changed: int  # its modification time in ns, taken before it was listed
    files: list[str]  # their names, sorted

    def having(self, *suffixes: str) -> Iterator[tuple[str, str]]:
        """Yield <folder>/<stem> and suffix, as written, of the files with one of the suffixes in any case.

        Hidden files are left out: they are unfinished, or an operating system's own.
        """
        for file in self.files:
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in suffixes and not file.startswith("."):
                yield f"{self.name}/{stem}" if self.name else stem, suffix


def walk(tree: Path) -> Iterator[Folder]:
    """Yield the folders of a tree, those that links lead to as well, in the order of their names.

    Nothing is yielded if there is no tree. A link back to a folder that it lies in is not followed. UserError names
    a folder that cannot be listed and a link that leads nowhere, so that no part of a tree is passed over in silence.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())] if is_folder(tree) else []
    while waiting:
        name, above = waiting.pop()
        path = os.path.join(tree, name)
        try:
            status = os.stat(path)
            here = status.st_dev, status.st_ino
            if here in above:
                continue
            with os.scandir(path) as entries:
                is_dir = {entry.name: _leads_to_folder(entry) for entry in entries}
        except OSError as error:
            raise _unlistable(error.filename or path, error) from None
        inside = sorted(is_dir)
        yield Folder(name, status.st_mtime_ns, [entry for entry in inside if not is_dir[entry]])
        folders = [f"{name}/{entry}" if name else entry for entry in inside if is_dir[entry]]
        waiting += [(folder, above | {here}) for folder in reversed(folders)]


def files_below(tree: Path) -> list[Path]:
    """Return the files of a tree in walk's order, hidden ones left out; UserError as walk."""
    return [tree / folder.name / file for folder in walk(tree) for file in folder.files if not file.startswith(".")]


def _leads_to_folder(entry: os.DirEntry) -> bool:
    if entry.is_symlink() and not entry.name.startswith("."):  # editors mark open files by hidden links to nowhere
        entry.stat()  # raises if the link leads nowhere; is_dir() would return False
    return entry.is_dir()


def _unlistable(path: str | Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be read ({error.strerror}); is it a link to a disk that is not mounted, or may you not read "
        "it? Mend that or take it out of the tree, then run again"
    )


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there; UserError if a link on the way to it leads nowhere or it cannot be reached."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        for part in (path, *path.parents):
            if part.is_symlink() and not part.exists():
                raise _unlistable(part, error) from None
        return False
    except OSError as error:
        raise _unlistable(path, error) from None


def utterances(tree: Path, suffix: str) -> dict[str, str]:
    """Return the files of a tree with a suffix in any case: <speaker>/<video>/<utterance> -> the suffix as written.

    There may be no video, or several folders in its place. UserError if two names differ in their suffix's case alone.
    """
    found: dict[str, str] = {}
    for folder in walk(tree):
        for name, written in folder.having(suffix):
            if found.setdefault(name, written) != written:
                raise UserError(f"{tree / name}{found[name]} and {written}: two files of one name; rename one of them")
    return found


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
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename, too
            finally:
                os.close(folder)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_table(path: Path) -> Iterator[TextIO]:
    """Yield a temporary text file for csv.writer; rename it to `path` when the block ends well, else remove it.

    Names of files may be any bytes: what is not UTF-8 is written as it is.
    """
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


def remove_unfinished_below(tree: Path) -> None:
    """Remove what a killed run left in the folders of a tree; no other run may be writing there."""
    for folder in walk(tree):
        remove_unfinished(tree / folder.name, folder.files)


def remove_unfinished(folder: Path, files: list[str]) -> None:
    """Remove what a killed run left among the files of a folder; no other run may be writing there."""
    for file in files:
        if re.fullmatch(rf"\..+\.\d+{re.escape(TEMPORARY_SUFFIX)}", file):  # others may write hidden .tmp files, too
            (folder / file).unlink(missing_ok=True)


@contextmanager
def locked(path: Path, patience: float = 0) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; UserError with the owner's process and host if another does.

    `patience` is for how many seconds to wait for the other first. The operating system releases the lock when its
    process ends, killed or not; the file stays, locked or not.
    """
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        until = time.monotonic() + patience
        while not (held := _try_lock(file)) and time.monotonic() < until:
            time.sleep(0.01)
        if not held:
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
        if sys.platform == "win32":
            file.seek(2**20)  # Windows lets nobody read what is locked: not the owner's name, then
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:  # lockf and not flock: worker processes do not inherit it, so none outlives its owner with it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        console.warn(f"{file.name}: cannot be locked here ({error.strerror}); let no other run write to this folder")
    return True


def read_lines(path: Path, absent: str) -> list[str]:
    """Return the lines of a text list with their line ends, which may be those of any system.

    The text is UTF-8. Byte order marks at the start of a line are removed, and bytes that are not UTF-8, as in file
    names, are kept by surrogateescape. UserError says what is `absent` if there is no such file, and names text in
    UTF-16 and binary files.
    """
    try:
        with open(path, "rb") as data:
            is_utf16 = data.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            text = io.TextIOWrapper(data, encoding="utf-8", errors="surrogateescape", newline="")
            lines = [line.removeprefix("\ufeff") for line in text]  # several if lists with marks were joined
    except FileNotFoundError:
        raise UserError(f"{path}: {absent}") from None
    if is_utf16 or any("\0" in line for line in lines):
        found = "text in UTF-16, as PowerShell's > writes it" if is_utf16 else "contains NUL: UTF-16 or a binary file"
        raise UserError(f"{path}: {found}; a list is text in UTF-8, iconv -f UTF-16 -t UTF-8 FILE > NEW converts it")
    return lines


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    return digest(path, "sha256")


def digest(path: Path, algorithm: str) -> str:
    """Return the hash of a file's bytes, in hexadecimal, by one of hashlib's algorithms."""
    found = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def check_room(folder: Path, purpose: str, size: int) -> None:
    """Raise UserError if the disk of `folder` has less than `size` bytes free for a purpose."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder}: {purpose} needs {size / 1e9:.1f} GB more and only {free / 1e9:.1f} GB are free")
