"""Reading the pickle {'feat': (T, 40) float array, 'label': speaker}, whoever wrote it.

A pickle is a program. Its operations are checked before it runs, the names that it may ask for are those of a pickled
NumPy array, and each is replaced by a class that notes its arguments and calls nothing. Neither memory nor time goes
beyond what the file's own size explains.
"""

import io
import pickle
import pickletools
from typing import NamedTuple

import numpy as np

from configure import N_MELS

MAX_OPERATIONS = 200  # our files have 40, the most verbose form 90; the memo has as many places
MAX_GETS = 8  # uses of a noted object, 2 in any form: each at most doubles what hashing a key has to walk through
ADMITTED = set(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 DICT EMPTY_DICT TUPLE EMPTY_TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD "
    "SETITEM SETITEMS".split()
)


class StoredArray(NamedTuple):
    """The array of a feature pickle, its bytes not yet looked at."""

    shape: tuple[int, int]  # (T, 40)
    dtype: np.dtype  # float32 or float64, of either byte order
    fortran: bool  # stored column by column
    raw: bytes | bytearray

    def values(self) -> np.ndarray:
        """Return the array (T, 40)."""
        return np.frombuffer(self.raw, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def load_feature(blob: bytes) -> StoredArray:
    """Return the array of a feature pickle; UnpicklingError says what else it is, a damaged one can raise anything."""
    _check_operations(blob)
    match _Unpickler(io.BytesIO(blob)).load():
        case {"feat": _Noted() as array, "label": str()}:
            return _stored_array(array)
    raise pickle.UnpicklingError("it does not hold {'feat': array, 'label': speaker}")


def _check_operations(blob: bytes) -> None:
    """Raise for an operation that no feature needs, too many of them, or a length beyond the file's end."""
    gets = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(blob), 1):
        gets += "GET" in operation.name
        if operation.name not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for operation {operation.name}, which no feature needs")
        if count > MAX_OPERATIONS or gets > MAX_GETS or ("PUT" in operation.name and (argument or 0) >= MAX_OPERATIONS):
            raise pickle.UnpicklingError("it asks for more operations or memory than a feature needs")


class _Noted:
    """Stands in for what a name would call: keeps the arguments and the state that the pickle gives."""

    def __init__(self, *arguments: object):
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Encode(_Noted): ...


class _DType(_Noted): ...


class _Reconstruct(_Noted): ...


class _FromBuffer(_Noted): ...


class _Unpickler(pickle.Unpickler):
    NAMES = {
        "numpy.ndarray": _Noted,
        "numpy.dtype": _DType,
        "_codecs.encode": _Encode,
        "numpy.core.multiarray._reconstruct": _Reconstruct,  # of NumPy 1
        "numpy._core.multiarray._reconstruct": _Reconstruct,
        "numpy.core.numeric._frombuffer": _FromBuffer,
        "numpy._core.numeric._frombuffer": _FromBuffer,
    }

    def find_class(self, module: str, name: str) -> type[_Noted]:
        try:
            return self.NAMES[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _stored_array(array: _Noted) -> StoredArray:
    """Return the array that a stand-in describes; UnpicklingError if it describes none, or another than (T, 40)."""
    match array:
        case _Reconstruct(state=(_, shape, dtype, fortran, raw)):
            pass
        case _FromBuffer(arguments=(raw, dtype, shape, order)):
            fortran = order == "F"
        case _:
            raise pickle.UnpicklingError("its array has neither shape nor bytes")
    match dtype:
        case _DType(arguments=("f4" | "f8" as code, *_), state=(_, "<" | ">" | "=" as order, *_)):
            kind = np.dtype(order + code)
        case _:
            raise pickle.UnpicklingError("its array is not float32 or float64")
    match raw:
        case _Encode(arguments=(str() as text, "latin1")):
            raw = text.encode("latin1")
    if not (isinstance(shape, tuple) and all(type(n) is int for n in shape)):
        raise pickle.UnpicklingError("its array has no shape")
    if len(shape) != 2 or shape[0] < 1 or shape[1] != N_MELS:
        raise pickle.UnpicklingError(f"its array has shape {shape}, not (frames, {N_MELS})")
    if not isinstance(raw, bytes | bytearray) or len(raw) != shape[0] * N_MELS * kind.itemsize:
        raise pickle.UnpicklingError("its array is cut off")
    return StoredArray(shape, kind, bool(fortran), raw)
