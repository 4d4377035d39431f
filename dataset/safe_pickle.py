"""Reading the pickle of a dictionary of names, strings and float arrays, whoever wrote it.

A pickle is a program. This one may use the operations and names that a pickled NumPy array consists of; each name is
replaced by a stand-in that calls nothing, and neither memory nor time goes beyond what the file's own size explains.
"""
import io
import pickle
import struct
from collections.abc import Callable

import numpy as np

from configure import N_MELS


def load_pickle(blob: bytes) -> object:
    """Return what a pickle holds, its arrays as StoredArray; any exception may come of a damaged or hostile one."""
    return _Unpickler(blob).load()


class _DType:
    """Stands in for numpy.dtype while unpickling."""

    def __init__(self, code: str, *flags: object):
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class StoredArray:
    """Stands in for numpy.ndarray while unpickling: notes what the pickle says and calls nothing of NumPy.

    Attributes:
        shape, dtype, fortran, raw: of the array, as far as the pickle says; to be trusted once `problem` is "".
    """

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
            sane = len(self.shape) < 9 and all(abs(n) < 2**63 for n in self.shape)
            return f"its array has shape {self.shape if sane else 'without sense'}, not (frames, {N_MELS})"
        if len(self.raw) != self.shape[0] * N_MELS * self.dtype.itemsize:
            return "its array is cut off"
        return ""

    def values(self) -> np.ndarray:
        """Return the array; only where `problem` finds none."""
        return np.frombuffer(self.raw, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _plain_dtype(dtype: object) -> np.dtype | None:
    if isinstance(dtype, _DType) and dtype.code in ("f4", "f8") and dtype.order in ("<", ">", "="):
        return np.dtype(dtype.order + dtype.code)
    return None


def _array_of_buffer(raw: object, dtype: object, shape: object, order: object) -> StoredArray:
    array = StoredArray()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


class _NdarrayName:
    """What numpy.ndarray is replaced by: an argument of _reconstruct, never called."""


class _Operations:
    """The operations that a feature pickle consists of, and not more of them than one needs.

    Without a bound on them, a few bytes can ask for hours or for all memory: each may copy a long string again.
    """

    LIMIT = 200  # ours has 40, in the most verbose form 90
    ADMITTED = {
        getattr(pickle, name)[0]
        for name in (
            "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 UNICODE BINUNICODE "
            "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 DICT EMPTY_DICT TUPLE "
            "EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL "
            "STACK_GLOBAL REDUCE BUILD SETITEM SETITEMS"
        ).split()
    }

    def __init__(self):
        self.left = self.LIMIT

    def __getitem__(self, code: int) -> Callable[["_Unpickler"], None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"it asks for more than {self.LIMIT} operations")
        if code not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for operation {chr(code)!r}, which no feature needs")
        return _Unpickler.OWN.get(code) or pickle._Unpickler.dispatch[code]


class _Unpickler(pickle._Unpickler):
    """Admits the names that a pickled NumPy array consists of, each replaced by a harmless stand-in.

    The pure-Python unpickler: the C one allocates whatever memo size a hostile pickle names.
    """

    STAND_INS = {
        "numpy.ndarray": _NdarrayName,
        "numpy.dtype": _DType,
        "numpy.core.multiarray._reconstruct": StoredArray,
        "numpy._core.multiarray._reconstruct": StoredArray,
        "numpy.core.numeric._frombuffer": _array_of_buffer,
        "numpy._core.numeric._frombuffer": _array_of_buffer,
    }

    def __init__(self, blob: bytes):
        super().__init__(io.BytesIO(blob))
        self.dispatch = _Operations()
        self._bytes_left = 2 * len(blob)  # that strings may be turned into

    def find_class(self, module: str, name: str) -> object:
        """Return the stand-in for an admitted name; refuse every other."""
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        try:
            return self.STAND_INS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def _encode(self, text: str, encoding: str) -> bytes:
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise pickle.UnpicklingError("it asks for more bytes than it holds")
        return text.encode("latin1")

    def _load_build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if not isinstance(instance, _DType | StoredArray):
            raise pickle.UnpicklingError("it asks for a state of what has none")
        instance.__setstate__(state)

    def _load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))  # the original allocates `size` bytes before it looks for them

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append(self._named(items))

    def _load_setitem(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self.stack[-1].update(self._named([name, value]))

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(self._named(items))

    @staticmethod
    def _named(items: list) -> dict[str, object]:
        """Return names and values, alternating, as a dict; the hash of anything but a name could take for ever."""
        if not all(type(name) is str for name in items[::2]):
            raise pickle.UnpicklingError("it asks for a key that is no name")
        return dict(zip(items[::2], items[1::2], strict=True))

    OWN = {
        pickle.BUILD[0]: _load_build,
        pickle.BYTEARRAY8[0]: _load_bytearray8,
        pickle.DICT[0]: _load_dict,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
    }
