"""numpy's arrays and scalars, as pickles of numpy 1 and 2 write them.

Sources: numpy's `ndarray.__reduce__` (`_reconstruct`, then BUILD with version, shape, dtype,
order and bytes), `ndarray.__reduce_ex__(5)` (`_frombuffer`), `generic.__reduce__` (`scalar`),
`dtype.__reduce__`. Their module is `numpy.core…` in numpy 1 and `numpy._core…` in numpy 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.objects import path_of, path_of_function, raw_bytes, sequence
from ptinspect.document.storages import Storage
from ptinspect.errors import DamagedError, Place
from ptinspect.pickling.values import Blob, Call, Value

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive


class Array(NamedTuple):
    """A numpy array: dtype as numpy spells it (`<f4`), shape and stride in elements, the value
    that holds its bytes (a list of objects for the dtype `|O`)."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    data: Value

    @property
    def name(self) -> str:
        """`float32`, as numpy prints the dtype."""
        return dtype_name(self.dtype)


_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex", "b": "bool"}


def dtype_name(code: str) -> str:
    """`<f4` as `float32`; others as they are."""
    kind, size = code.lstrip("<>=|")[:1], code.lstrip("<>=|")[1:]
    if kind == "b":
        return "bool"
    if kind in _KINDS and size.isdigit():
        return f"{_KINDS[kind]}{int(size) * 8}"
    return {"O": "object", "U": "str_", "S": "bytes_", "V": "void"}.get(kind, code.lstrip("|="))


def _numpy(call: Value) -> str:
    """The function of numpy that is called, without the module that moved between versions."""
    path = path_of_function(call) if isinstance(call, Call) else None
    if not path or not path.startswith("numpy."):
        return ""
    return path.removeprefix("numpy.").removeprefix("_core.").removeprefix("core.")


def dtype_code(value: Value) -> str | None:
    """`numpy.dtype("f4")` with its byte order from BUILD, as `<f4`."""
    if not isinstance(value, Call) or not _numpy(value):
        return None
    if _numpy(value) != "dtype":  # numpy 2 makes some by their class: numpy.dtypes.Float32DType
        return None
    code = value.args[0] if value.args else None
    if not isinstance(code, str):
        return None
    state = value.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    return f"{order if isinstance(order, str) else '|'}{code}"


def array_of(value: Value) -> Array | None:
    """The array that `value` stands for; None where it is none."""
    name = _numpy(value)
    if not isinstance(value, Call):
        return None
    if name == "multiarray._reconstruct":
        state = value.state
        if not isinstance(state, tuple) or len(state) < 5:
            return None
        shape, dtype, fortran, data = state[1], dtype_code(state[2]), state[3] is True, state[4]
    elif name == "numeric._frombuffer" and len(value.args) == 4:
        data, dtype, shape = value.args[0], dtype_code(value.args[1]), value.args[2]
        fortran = value.args[3] == "F"
    else:
        return None
    dims = tuple(d for d in sequence(shape) or () if isinstance(d, int))
    if dtype is None:
        return None
    return Array(dtype, dims, _strides(dims, fortran), data)


def _strides(shape: tuple[int, ...], fortran: bool) -> tuple[int, ...]:
    made, step = [], 1
    for size in shape if fortran else reversed(shape):
        made.append(step)
        step *= max(size, 1)
    return tuple(made if fortran else reversed(made))


_UNPACK = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?",
}  # fmt: skip


def scalar_of(value: Value) -> tuple[str, Value] | None:
    """A numpy scalar's type name and its number (or its text); None where it is none."""
    if not isinstance(value, Call) or _numpy(value) != "multiarray.scalar" or not value.args:
        return None
    code = dtype_code(value.args[0])
    if code is None:
        return None
    raw = raw_bytes(value.args[1]) if len(value.args) > 1 else None
    kind = code.lstrip("<>=|")
    letter = _UNPACK.get(kind)
    if raw is None or letter is None:
        return dtype_name(code), None if raw is None else _other_scalar(code, raw)
    try:
        number: Value = Struct((">" if code[0] == ">" else "<") + letter).unpack(raw)[0]
    except StructError:
        return dtype_name(code), None
    if letter == "?" and "numpy.core." in (path_of_function(value) or ""):
        return "bool_", number  # numpy 2 calls it bool
    return dtype_name(code), number


def _other_scalar(code: str, raw: bytes) -> Value:
    """Complex numbers and fixed-width text."""
    order, kind = (">" if code[0] == ">" else "<"), code.lstrip("<>=|")
    if kind in ("c8", "c16") and len(raw) == int(kind[1:]):
        return complex(*Struct(order + ("ff" if kind == "c8" else "dd")).unpack(raw))
    if kind[:1] == "U":
        return raw.decode("utf-32-be" if order == ">" else "utf-32-le", "replace").rstrip("\0")
    return None


class Inline(Storage):
    """Bytes that lie in the pickle itself, such as a numpy array's."""

    __slots__ = ("data",)

    def __init__(self, archive: Archive, data: Value, location: str) -> None:
        held = data if isinstance(data, Blob) else (raw_bytes(data) or b"")
        super().__init__(archive, f"inline:{id(data)}", location, len(held))
        self.data: Blob | bytes = held

    @property
    def record(self) -> str | None:
        """The record of the pickle."""
        return self.archive.record

    @property
    def file_offset(self) -> int | None:
        """Where the bytes lie in the file, where they stand in it as they are."""
        if isinstance(self.data, Blob) and self.archive.origin is not None:
            return self.archive.origin + self.data.start
        return None

    @property
    def place(self) -> tuple[str | None, int | None]:
        """`record` and `file_offset`."""
        return self.record, self.file_offset

    def check(self) -> None:
        """They were read with the pickle."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`."""
        if not 0 <= start <= stop <= len(self.data):
            raise DamagedError(
                f"bytes {start:,} to {stop:,} are asked of an array of {len(self.data):,}",
                where=Place(self.record),
            )
        data = self.data
        return data.read(start, stop) if isinstance(data, Blob) else data[start:stop]

    def chunks(self, start: int, stop: int, size: int = 1 << 20) -> Iterator[bytes]:
        """The same in pieces."""
        for begin in range(start, stop, size):
            yield self.read(begin, min(stop, begin + size))


def storage_of(archive: Archive, array: Array) -> Storage:
    """An array's bytes as a storage."""
    return Inline(archive, array.data, "cpu")


def class_name(call: Call) -> str | None:
    """The class given to `_reconstruct` (`numpy.ndarray`, or a subclass of it)."""
    return path_of(call.args[0]) if call.args else None
