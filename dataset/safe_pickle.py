"""Read the pickle {'feat': (T, 40) float array, 'label': speaker} without running it.

A pickle is a program. Its operations are checked before it is loaded. It may refer only to the names in a pickled NumPy
array. Each name is replaced by an object that stores the arguments of a call and calls nothing. The size of the file
limits the memory and the time.
"""

import io
import pickle
import pickletools
from typing import Any, NamedTuple

import numpy as np

from configure import N_MELS

MAX_OPERATIONS = 200  # our files have 40, protocol 0 has 90; this also limits the size of the memo
MAX_GETS = 8  # reads of the memo; our files have 2. Each can double the time to compute the hash of a key
ADMITTED = set(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 DICT EMPTY_DICT TUPLE EMPTY_TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD "
    "SETITEM SETITEMS".split()
)
NAMES = {  # names in a pickled NumPy array; NumPy 1 has numpy.core, NumPy 2 numpy._core
    "numpy.ndarray", "numpy.dtype", "_codecs.encode",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
}  # fmt: skip


class StoredArray(NamedTuple):
    """The array of a feature pickle."""

    shape: tuple[int, int]  # (T, 40)
    dtype: np.dtype  # float32 or float64, little-endian or big-endian
    fortran: bool  # stored column by column
    raw: bytes | bytearray
    offset: int  # of `raw` in the pickle; -1 if the pickle contains it as text

    def values(self) -> np.ndarray:
        """Return the array (T, 40)."""
        return np.frombuffer(self.raw, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def load_feature(blob: bytes) -> StoredArray:
    """Return the array of a feature pickle.

    UnpicklingError for a pickle with other content; a damaged one can raise any exception.
    """
    offsets = _check_operations(blob)
    match _Unpickler(io.BytesIO(blob)).load():
        case {"feat": _Recorder() as array, "label": str()}:
            return _stored_array(array, offsets)
    raise pickle.UnpicklingError("it does not contain {'feat': array, 'label': speaker}")


def _check_operations(blob: bytes) -> dict[int, int]:
    """Return the offset of each bytes object in the pickle by its length.

    UnpicklingError for an operation that features do not need, and for too many operations. ValueError for a length
    beyond the end of the file.
    """
    stream, offsets, gets = io.BytesIO(blob), dict[int, int](), 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(stream), 1):
        gets += "GET" in operation.name
        if operation.name not in ADMITTED:
            raise pickle.UnpicklingError(f"it uses the operation {operation.name}, which features do not need")
        if count > MAX_OPERATIONS or gets > MAX_GETS or ("PUT" in operation.name and (argument or 0) >= MAX_OPERATIONS):
            raise pickle.UnpicklingError("it uses more operations or memory than features need")
        if isinstance(argument, bytes | bytearray):
            offsets[len(argument)] = stream.tell() - len(argument)  # the stream is at the end of the argument
    return offsets


class _Recorder:
    """Replaces a function or class that the pickle names, and the results of its calls: stores the arguments only."""

    def __init__(self, name: str, *arguments: object):
        self.name, self.arguments = name, arguments
        self.state: object = None

    def __call__(self, *arguments: object) -> "_Recorder":
        return _Recorder(self.name, *arguments)

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in NAMES:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which features do not need")
        return _Recorder(name)


def _stored_array(array: _Recorder, offsets: dict[int, int]) -> StoredArray:
    """Return the array that the recorded calls describe; UnpicklingError if there is none of shape (T, 40)."""
    match array:
        case _Recorder(name="_reconstruct", state=(_, shape, dtype, fortran, raw)):
            pass
        case _Recorder(name="_frombuffer", arguments=(raw, dtype, shape, order)):
            fortran = order == "F"
        case _:
            raise pickle.UnpicklingError("its array has neither shape nor bytes")
    match dtype:
        case _Recorder(name="dtype", arguments=("f4" | "f8" as code, *_), state=(_, "<" | ">" as order, *_)):
            kind = np.dtype(order + code)
        case _:
            raise pickle.UnpicklingError("its array is not float32 or float64")
    match raw:  # protocols 0 to 2 have no operation for bytes
        case _Recorder(name="encode", arguments=(str() as text, "latin1")):
            raw, offsets = text.encode("latin1"), {}
    if not isinstance(shape, tuple) or [type(n) for n in shape] != [int, int] or shape[0] < 1 or shape[1] != N_MELS:
        raise pickle.UnpicklingError(f"its array has shape {shape}, not (frames, {N_MELS})")
    if not isinstance(raw, bytes | bytearray) or len(raw) != shape[0] * N_MELS * kind.itemsize:
        raise pickle.UnpicklingError("its array is truncated")
    return StoredArray(shape, kind, bool(fortran), raw, offsets.get(len(raw), -1))
