"""The feature pickle: writing it, reading it safely, finding its frames on disk, and cropping.

A feature file is the pickle of {'feat': (T, 40) array, 'label': speaker}, as the paper's code release writes it.
Such files come from strangers: dataset/safe_pickle.py reads them without letting them call anything.
"""

import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configure import N_MELS
from dataset.safe_pickle import StoredArray, load_feature
from system.console import UserError
from system.files import replacing

MAX_BYTES = 256 * 2**20  # a larger file is no feature of one utterance (two hours of float64)
HEAD_BYTES = 4096  # read from either end of a file to learn where its frames lie
BYTES_OPCODES = ((pickle.BINBYTES, "<I"), (pickle.BINBYTES8, "<Q"), (pickle.BYTEARRAY8, "<Q"))


class Location(NamedTuple):
    """Where the frames of a feature file are, and what tells whether it is still that file."""

    n_frames: int
    offset: int  # of the first frame in the file; -1: not stored as plain bytes, read the file whole
    itemsize: int  # 4 (float32) or 8 (float64); 0 where offset is -1
    size: int  # bytes
    changed: int  # modification time in ns


def write_feature(path: Path, feat: np.ndarray, speaker: str) -> None:
    """Write a feature file: feat (T, 40) as float32, speaker the name of the speaker's folder."""
    # Protocol 4 keeps the frames as one run of bytes behind a short header: crops read just what they need.
    blob = pickle.dumps({"feat": np.ascontiguousarray(feat, np.float32), "label": speaker}, protocol=4)
    with replacing(path) as temporary:
        temporary.write_bytes(blob)


def read_feature(path: Path) -> np.ndarray:
    """Return the features (T, 40) float32 of a feature file; UserError if it is not one or holds non-finite values."""
    with _opened(path) as (file, _):
        return _checked(_parse(file.read(), path).values(), path)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[FileIO, tuple[int, int]]]:
    """Open a file to read, and tell its size and time; an OSError becomes a UserError, from a loader process too."""
    try:
        with open(path, "rb", buffering=0) as file:
            stamp = _stamp(os.fstat(file.fileno()))
            if stamp[0] > MAX_BYTES:
                raise _refusal(path, f"larger than {MAX_BYTES >> 20} MiB")
            yield file, stamp
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; has the tree changed, or may you not read it?") from None


def _checked(frames: np.ndarray, path: Path) -> np.ndarray:
    """Return the frames as float32; UserError naming the file if any is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        frames = frames.astype(np.float32)
    if not np.isfinite(frames).all():
        raise _refusal(path, "it holds NaN or infinite values")
    return frames


def locate(path: Path) -> Location:
    """Return where the frames of a feature file lie, reading only its ends."""
    with _opened(path) as (file, stamp):
        # The middle stays zero: the pickle's structure stands in the ends, its frames need not be read.
        blob = bytearray(stamp[0])
        for start in (0, max(0, len(blob) - HEAD_BYTES)):
            file.seek(start)
            file.readinto(memoryview(blob)[start : start + HEAD_BYTES])
    try:
        array = _parse(bytes(blob), path)
    except UserError:  # text protocols hold structure in the middle too
        return Location(len(read_feature(path)), -1, 0, *stamp)
    offset = _raw_offset(blob, array)
    return Location(array.shape[0], offset, array.dtype.itemsize if offset >= 0 else 0, *stamp)


def read_frames(path: Path, where: Location, start: int, stop: int) -> np.ndarray:
    """Return frames start..stop-1 (n, 40) float32 of the file that `where` is of; UserError if it has changed since."""
    row = N_MELS * where.itemsize
    with _opened(path) as (file, stamp):
        if stamp != (where.size, where.changed):
            raise UserError(f"{path}: has changed while this run was reading the tree; run again")
        if where.offset < 0:
            return _checked(_parse(file.read(), path).values(), path)[start:stop]
        file.seek(where.offset + start * row)
        raw = file.read((stop - start) * row)
    if len(raw) != (stop - start) * row:
        raise _refusal(path, "its frames end before the file says so")
    return _checked(np.frombuffer(raw, f"<f{where.itemsize}").reshape(-1, N_MELS), path)


def is_current(path: Path, where: Location) -> bool:
    """Tell whether a feature file is still the one that `where` was found in, by its size and modification time."""
    try:
        return _stamp(os.stat(path)) == (where.size, where.changed)
    except OSError:
        return False


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _raw_offset(blob: bytearray, array: StoredArray) -> int:
    """Return where the array's bytes start in the pickle, -1 if they do not stand there as they are."""
    if array.fortran or array.dtype.byteorder == ">":
        return -1
    for opcode, length in BYTES_OPCODES:
        mark = opcode + struct.pack(length, len(array.raw))
        at = blob.find(mark, 0, HEAD_BYTES)
        if at >= 0 and blob.startswith(array.raw[:64], at + len(mark)):
            return at + len(mark)
    return -1


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a feature file ({reason}); remove it and extract the features again")


def _parse(blob: bytes, path: Path) -> StoredArray:
    """Return the feature array of a pickle; UserError naming the file for whatever else it holds or asks for."""
    try:
        return load_feature(blob)
    except MemoryError:  # the machine's, which says nothing about the file
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        kind = "" if isinstance(error, pickle.UnpicklingError) else f"{type(error).__name__}: "
        raise _refusal(path, f"{kind}{error}"[:200]) from None
