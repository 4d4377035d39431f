"""Write and read feature files: pickles of {'feat': (T, 40) array, 'label': speaker}, as the official code writes them.

A feature file is read in one of two ways:

- `read_feature` reads the complete file. A pickle is a program and may come from other people, so `load_feature` of
  dataset/safe_pickle.py reads it without calling anything that the pickle names.
- Training needs short windows of long utterances. `locate` reads the complete file once, for the index, and returns the
  offset of the array's bytes in it. `read_frames` then reads the bytes of the window only. `load_feature` notes the
  offset while it checks the operations of the pickle, so the offset is correct for any form of pickle.

Some pickles do not contain the frames as consecutive little-endian numbers: those of protocols 0 to 2, which store
bytes as text, and those of arrays in Fortran order or big-endian. Their offset is -1, and `read_frames` reads the
complete file. `read_frames` refuses a file whose size or modification time has changed since `locate`.
"""

import os
import pickle
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

MAX_BYTES = 256 * 2**20  # larger files are refused; two hours of float64 frames fit


class Location(NamedTuple):
    """The position of the frames in a feature file, and the state of the file when it was found."""

    n_frames: int
    offset: int  # of the first frame in bytes; -1 if only the complete file can be read
    itemsize: int  # 4 (float32) or 8 (float64); 0 where offset is -1
    size: int  # of the file in bytes
    changed: int  # modification time of the file in ns


def write_feature(path: Path, feat: np.ndarray, speaker: str) -> None:
    """Write a feature file of feat (T, 40), as float32; `speaker` is the name of the speaker's folder."""
    blob = pickle.dumps({"feat": np.ascontiguousarray(feat, np.float32), "label": speaker}, protocol=4)
    with replacing(path) as temporary:
        temporary.write_bytes(blob)


def read_feature(path: Path) -> np.ndarray:
    """Return the features (T, 40) float32 of a file; UserError if it is no feature file or contains NaN or infinity."""
    with _opened(path) as (file, _):
        return _finite(_parse(file.read(), path).values(), path)


def locate(path: Path) -> Location:
    """Return the position of the frames in a feature file; UserError if it is not one."""
    with _opened(path) as (file, stamp):
        array = _parse(file.read(), path)
    if array.offset < 0 or array.fortran or array.dtype.byteorder == ">":
        return Location(array.shape[0], -1, 0, *stamp)
    return Location(array.shape[0], array.offset, array.dtype.itemsize, *stamp)


def read_frames(path: Path, where: Location, start: int, stop: int) -> np.ndarray:
    """Return the frames start..stop-1 (n, 40) float32 of a file.

    `where` is the file's location. UserError if the file has changed since, or if a value is NaN or infinite.
    """
    row = N_MELS * where.itemsize
    with _opened(path) as (file, stamp):
        if stamp != (where.size, where.changed):
            raise UserError(f"{path}: has changed since this run read its length; run again")
        if where.offset < 0:
            return _finite(_parse(file.read(), path).values(), path)[start:stop]
        file.seek(where.offset + start * row)
        raw = file.read((stop - start) * row)
    if len(raw) != (stop - start) * row:
        raise _refusal(path, "truncated")
    return _finite(np.frombuffer(raw, f"<f{where.itemsize}").reshape(-1, N_MELS), path)


def is_current(path: Path, where: Location) -> bool:
    """Return whether a file still has the size and modification time of its location."""
    try:
        return _stamp(os.stat(path)) == (where.size, where.changed)
    except OSError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[tuple[FileIO, tuple[int, int]]]:
    """Open a file and yield it with its size and modification time; UserError for an OSError in the block."""
    try:
        with open(path, "rb", buffering=0) as file:
            stamp = _stamp(os.fstat(file.fileno()))
            if stamp[0] > MAX_BYTES:
                raise _refusal(path, f"larger than {MAX_BYTES >> 20} MiB")
            yield file, stamp
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; file moved or permission denied?") from None


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _finite(frames: np.ndarray, path: Path) -> np.ndarray:
    """Return the frames as float32; UserError naming the file if a value is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        frames = frames.astype(np.float32)
    if not np.isfinite(frames).all():
        raise _refusal(path, "contains NaN or infinite values")
    return frames


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a feature file ({reason}); remove it and extract the features again")


def _parse(blob: bytes, path: Path) -> StoredArray:
    """Return the feature array of a pickle; UserError naming the file if it contains anything else."""
    try:
        return load_feature(blob)
    except MemoryError:  # the file may be intact
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        kind = "" if isinstance(error, pickle.UnpicklingError) else f"{type(error).__name__}: "
        raise _refusal(path, f"{kind}{error}"[:200]) from None
