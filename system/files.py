"""Walk trees of files, read text lists, lock folders, and write files atomically."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from system import console
from system.console import UserError

TEMPORARY_SUFFIX = ".tmp"  # of files that are being written
MAX_BYTES = 200  # of a name to which a temporary name adds; file systems allow 255


class Folder(NamedTuple):
    """A folder of a tree and its files."""

    name: str  # path relative to the tree with / as separator; "" for the tree itself
    changed: int  # modification time in ns, read before the files were listed
    files: list[str]  # names, sorted

    def having(self, *suffixes: str) -> Iterator[tuple[str, str]]:
        """Yield <folder>/<stem> and the suffix of each file with one of the suffixes, in upper or lower case.

        Hidden files are skipped: they are temporary, or belong to the operating system.
        """
        for file in self.files:
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in suffixes and not file.startswith("."):
                yield f"{self.name}/{stem}" if self.name else stem, suffix


def walk(tree: Path) -> Iterator[Folder]:
    """Yield the folders of a tree in the order of their names, including folders behind links.

    Hidden folders (whose name begins with a dot) and files that are not regular, such as pipes, are skipped. A missing
    tree yields nothing. A link to a folder that contains it is not followed. UserError names a folder that
    cannot be listed and a link without a target, so that no part of a tree is skipped silently.
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
                found = {entry.name: _leads_to_folder(entry) for entry in entries}
        except OSError as error:
            raise _unlistable(error.filename or path, error) from None
        inside = sorted(found)
        yield Folder(name, status.st_mtime_ns, [entry for entry in inside if found[entry] is False])
        folders = [f"{name}/{entry}" if name else entry for entry in inside if found[entry]]
        waiting += [(folder, above | {here}) for folder in reversed(folders)]


def files_below(tree: Path) -> list[Path]:
    """Return the files of a tree, except hidden ones, in the order of walk; UserError as walk."""
    return [tree / folder.name / file for folder in walk(tree) for file in folder.files if not file.startswith(".")]


def _leads_to_folder(entry: os.DirEntry) -> bool | None:
    """Return whether an entry is a folder or a file; None if it is to be skipped."""
    if entry.is_symlink() and not entry.name.startswith("."):  # editors mark open files by hidden links without target
        entry.stat()  # raises for a link without target, for which is_dir() returns False
    if entry.is_dir():
        return None if entry.name.startswith(".") else True
    return False if entry.is_file() else None


def _unlistable(path: str | Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be read ({error.strerror}): a link to a disk that is not mounted, or permission denied? Fix "
        "this or remove it from the tree, then run again"
    )


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; UserError if it is unreachable, for example behind a link without target."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        broken = next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None)
        if broken:
            raise _unlistable(broken, error) from None
        return False
    except OSError as error:
        raise _unlistable(path, error) from None


def utterances(tree: Path, suffix: str) -> dict[str, str]:
    """Return the files of a tree with a suffix, in upper or lower case: <speaker>/<video>/<utterance> -> suffix.

    The folder <video> may be missing, or may be several nested folders. UserError if two names differ only in the case
    of the suffix.
    """
    found: dict[str, str] = {}
    for folder in walk(tree):
        for name, written in folder.having(suffix):
            if found.setdefault(name, written) != written:
                raise UserError(
                    f"{tree / name}{found[name]} and {written}: two files with the same name; rename one of them"
                )
    return found


def create_writable(folder: Path, flag: str) -> None:
    """Create a folder, the value of a flag, if it is missing; UserError if files cannot be created in it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: not writable; change its permissions or choose another {flag}")


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` after the block, or remove it on an error.

    The folder is created. With `durable`, the bytes are flushed to the disk before the rename, so that a power failure
    leaves no broken file. This takes some milliseconds, which is too slow for a million feature files. An OSError names
    `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if len(os.fsencode(name)) > MAX_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    temporary = path.with_name(f".{name}.{os.getpid()}.{threading.get_native_id()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # flushes the rename
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
    """Yield a temporary text file for csv.writer that replaces `path` as replacing() does.

    Names of files may contain bytes that are not UTF-8: they are written unchanged.
    """
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


def remove_unfinished_below(tree: Path) -> None:
    """Remove the temporary files of killed runs in a tree; no other run may be writing there."""
    for folder in walk(tree):
        remove_unfinished(tree / folder.name, folder.files)


def remove_unfinished(folder: Path, files: list[str]) -> None:
    """Remove the temporary files of killed runs among the files of a folder; no other run may be writing there."""
    for file in files:
        if re.fullmatch(rf"\..+\.\d+{re.escape(TEMPORARY_SUFFIX)}", file):  # not the .tmp files of other programs
            (folder / file).unlink(missing_ok=True)


@contextmanager
def locked(path: Path, patience: float = 0) -> Iterator[None]:
    """Lock the file `path` during the block; UserError naming the owner if it stays locked for `patience` seconds.

    The operating system releases the lock when the process ends, even if it is killed; the file remains. Threads of one
    process do not exclude each other.
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
    """Lock a file until it is closed; return False if another process has locked it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock(), whose lock worker processes inherit
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        console.warn(
            f"{file.name}: cannot be locked here ({error.strerror}); start no other run that writes to this folder"
        )
    return True


def read_lines(path: Path, absent: str) -> list[str]:
    """Return the lines of a text list in UTF-8, with their line ends (LF, CRLF or CR).

    Byte order marks at the start of a line are removed. Bytes that are not UTF-8 are kept as surrogate escapes.
    UserError for a missing file, with the message `absent`, and for text in UTF-16 and binary files.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as text:
            lines = [line.removeprefix("\ufeff") for line in text]  # joined lists have several marks
    except FileNotFoundError:
        raise UserError(f"{path}: {absent}") from None
    if any("\0" in line for line in lines):
        raise UserError(
            f"{path}: UTF-16 or a binary file; a list is text in UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW"
        )
    return lines


def read_rows(path: Path, form: str, absent: str = "no such list") -> list[tuple[int, list[str]]]:
    """Return the number and the words of each line of a text list; the last word is the rest of the line.

    `form` describes a line, for example "UTTERANCE PATH". Blank lines are skipped. UserError as in read_lines, for a
    line of too few words, and for an empty list.
    """
    n_words, rows = len(form.split()), []
    for number, line in enumerate(read_lines(path, absent), 1):
        words = line.strip().split(maxsplit=n_words - 1)
        if 0 < len(words) < n_words:
            raise UserError(f"{path}: line {number}: '{line.strip()[:80]}' does not have the format '{form}'")
        if words:
            rows.append((number, words))
    if not rows:
        raise UserError(f"{path}: empty list")
    return rows


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


def check_free_space(folder: Path, purpose: str, size: int) -> None:
    """Raise UserError, with the purpose, if the disk of `folder` has less than `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{folder}: {purpose} needs {size / 1e9:.1f} GB more and only {free / 1e9:.1f} GB are free")
