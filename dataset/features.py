"""The feature pickle: writing it, reading it safely, finding its frames on disk, and cropping.

A feature file is the pickle of {'feat': (T, 40) array, 'label': speaker}, as the paper's code release writes it.
Such files come from strangers, so nothing here lets a pickle call anything: its arrays are rebuilt from their bytes.
"""
import io
import os
import pickle
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configure import N_MELS
from console import UserError
from files import replacing

MAX_BYTES = 256 * 2**20  # a larger file is no feature of one utterance (two hours of float64)
HEAD_BYTES = 4096  # read from either end of a file to learn where its frames lie
BYTES_OPCODES = ((pickle.BINBYTES, "<I"), (pickle.BINBYTES8, "<Q"), (pickle.BYTEARRAY8, "<Q"))


class Location(NamedTuple):
    """Where the frames of a feature file are."""

    n_frames: int
    offset: int  # of the first frame in the file; -1: not stored as plain bytes, read the file whole
    itemsize: int  # 4 (float32) or 8 (float64)


def write_feature(path: Path, feat: np.ndarray, speaker: str) -> None:
    """Write a feature file: feat (T, 40) as float32, speaker the name of the speaker's folder."""
    # Protocol 4 keeps the frames as one run of bytes behind a short header: crops read just what they need.
    blob = pickle.dumps({"feat": np.ascontiguousarray(feat, np.float32), "label": speaker}, protocol=4)
    with replacing(path) as temporary:
        temporary.write_bytes(blob)


def read_feature(path: Path) -> np.ndarray:
    """Return the features (T, 40) float32 of a feature file; UserError if it is not one or holds non-finite values."""
    if path.stat().st_size > MAX_BYTES:
        raise _refusal(path, f"larger than {MAX_BYTES >> 20} MiB")
    array = _parse(path.read_bytes(), path)
    return checked(np.array(array.values(), np.float32), path)


def checked(frames: np.ndarray, path: Path) -> np.ndarray:
    """Return the frames as they are; UserError naming the file if any is not finite."""
    if not np.isfinite(frames).all():
        raise _refusal(path, "it holds NaN or infinite values")
    return frames


def locate(path: Path) -> Location:
    """Return where the frames of a feature file lie, reading only its ends."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise _refusal(path, f"larger than {MAX_BYTES >> 20} MiB")
        # The middle stays zero: the pickle's structure stands in the ends, its frames need not be read.
        blob = bytearray(size)
        blob[:HEAD_BYTES] = file.read(HEAD_BYTES)
        if size > 2 * HEAD_BYTES:
            file.seek(-HEAD_BYTES, os.SEEK_END)
            blob[-HEAD_BYTES:] = file.read(HEAD_BYTES)
        else:
            blob[HEAD_BYTES:] = file.read()
    try:
        array = _parse(bytes(blob), path)
    except UserError:  # text protocols hold structure in the middle too
        return Location(len(read_feature(path)), -1, 0)
    return Location(array.shape[0], _raw_offset(blob, array), array.dtype.itemsize)


def read_frames(path: Path, where: Location, start: int, stop: int) -> np.ndarray:
    """Return frames start..stop-1 (n, 40) float32 of the feature file that `where` was found in."""
    if where.offset < 0:
        return read_feature(path)[start:stop]
    row = N_MELS * where.itemsize
    with open(path, "rb", buffering=0) as file:
        file.seek(where.offset + start * row)
        raw = file.read((stop - start) * row)
    if len(raw) != (stop - start) * row:
        raise _refusal(path, "it is shorter than when the tree was indexed")
    frames = np.frombuffer(raw, f"<f{where.itemsize}").reshape(-1, N_MELS).astype(np.float32)
    return checked(frames, path)


def _raw_offset(blob: bytearray, array: "_Array") -> int:
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


def _parse(blob: bytes, path: Path) -> "_Array":
    """Return the feature array of a pickle; UserError naming the file for whatever else it holds or asks for."""
    try:
        content = _Unpickler(io.BytesIO(blob)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _refusal(path, f"{type(error).__name__}: {error}") from None
    array = content.get("feat") if isinstance(content, dict) else None
    if not isinstance(array, _Array) or not isinstance(content.get("label"), str):
        raise _refusal(path, "it does not hold {'feat': array, 'label': speaker}")
    if problem := array.problem():
        raise _refusal(path, problem)
    return array


class _DType:
    """Stands in for numpy.dtype while unpickling."""

    def __init__(self, code: str, *flags: object):
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class _Array:
    """Stands in for numpy.ndarray while unpickling: notes what the pickle says and calls nothing of NumPy."""

    def __init__(self, *reconstruct_arguments: object):
        self.shape, self.dtype, self.fortran, self.raw = (), None, False, b""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, dtype, self.fortran, self.raw = state
        self.dtype = _plain_dtype(dtype)

    def problem(self) -> str:
        """Return what keeps this from being an array (T, 40) of floats, "" if nothing does."""
        if self.dtype is None or not isinstance(self.raw, bytes | bytearray):
            return "its array is not float32 or float64"
        if not (isinstance(self.shape, tuple) and all(type(n) is int for n in self.shape)):
            return "its array has no shape"
        if len(self.shape) != 2 or self.shape[1] != N_MELS or self.shape[0] < 1:
            return f"its array has shape {self.shape}, not (frames, {N_MELS})"
        if len(self.raw) != self.shape[0] * N_MELS * self.dtype.itemsize:
            return "its array is cut off"
        return ""

    def values(self) -> np.ndarray:
        return np.frombuffer(self.raw, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _plain_dtype(dtype: object) -> np.dtype | None:
    if isinstance(dtype, _DType) and dtype.code in ("f4", "f8") and dtype.order in ("<", ">", "="):
        return np.dtype(dtype.order + dtype.code)
    return None


def _array_of_buffer(raw: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


def _latin1_bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


class _NdarrayName:
    """What numpy.ndarray is replaced by: an argument of _reconstruct, never called."""


class _Unpickler(pickle._Unpickler):
    """Admits the names that a pickled NumPy array consists of, each replaced by a harmless stand-in.

    The pure-Python unpickler: the C one allocates whatever memo size a hostile pickle names.
    """

    STAND_INS = {
        "numpy.ndarray": _NdarrayName,
        "numpy.dtype": _DType,
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy._core.multiarray._reconstruct": _Array,
        "numpy.core.numeric._frombuffer": _array_of_buffer,
        "numpy._core.numeric._frombuffer": _array_of_buffer,
        "_codecs.encode": _latin1_bytes,
    }

    def find_class(self, module: str, name: str) -> object:
        """Return the stand-in for an admitted name; refuse every other."""
        try:
            return self.STAND_INS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
