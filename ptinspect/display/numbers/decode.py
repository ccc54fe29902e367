"""A tensor's elements as Python numbers, reading no more of the file than is asked for."""

from __future__ import annotations

from struct import unpack
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType

Number = bool | int | float | complex

GAP = 4096
"""Bytes that are read though nobody asked for them, where that saves a read of its own."""

_LETTERS = {
    "float16": "e", "float32": "f", "float64": "d", "int8": "b", "int16": "h", "int32": "i",
    "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "qint8": "b",
    "quint8": "B", "qint32": "i",
}  # fmt: skip
_COMPLEX = {"complex32": "e", "complex64": "f", "complex128": "d"}


def can_decode(dtype: DType | None) -> bool:
    """Whether `decoder` knows the type: not the packed ones, nor those without arithmetic."""
    if dtype is None:
        return False
    name = dtype.name
    known = name in _LETTERS or name in _COMPLEX or name in ("bool", "bfloat16")
    return known or name in FLOAT8


def decoder(dtype: DType, byteorder: str) -> Callable[[bytes], list[Number]]:
    """Makes numbers of an element type's bytes. UnsupportedError for a type without numbers."""
    order = ">" if byteorder == "big" else "<"
    name, itemsize = dtype.name, dtype.itemsize
    if name in _LETTERS:
        letter = _LETTERS[name]
        return lambda raw: list(unpack(f"{order}{len(raw) // itemsize}{letter}", raw))
    if name == "bool":
        return lambda raw: [byte != 0 for byte in raw]
    if name == "bfloat16":
        return lambda raw: _bfloat16(raw, order)
    if name in _COMPLEX:
        letter = _COMPLEX[name]
        return lambda raw: _pairs(unpack(f"{order}{len(raw) * 2 // itemsize}{letter}", raw))
    if name in FLOAT8:
        table = float8_table(name)
        return lambda raw: [table[byte] for byte in raw]
    raise UnsupportedError(f"the elements of {name} are not shown as numbers")


def _bfloat16(raw: bytes, order: str) -> list[Number]:
    """The upper half of a float32 each."""
    count = len(raw) // 2
    halves = unpack(f"{order}{count}H", raw)
    wide = b"".join([(half << 16).to_bytes(4, "little") for half in halves])
    return list(unpack(f"<{count}f", wide))


def _pairs(parts: tuple[float, ...]) -> list[Number]:
    return [complex(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]


# Exponent bits, mantissa bits, bias, and what the codes without a number are.
# Source: c10/util/Float8_e5m2.h, Float8_e4m3fn.h, Float8_e5m2fnuz.h, Float8_e4m3fnuz.h,
# Float8_e8m0fnu.h.
FLOAT8 = {
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fn": (4, 3, 7, "fn"),
    "float8_e5m2fnuz": (5, 2, 16, "fnuz"),
    "float8_e4m3fnuz": (4, 3, 8, "fnuz"),
    "float8_e8m0fnu": (8, 0, 127, "fnu"),
}
_TABLES: dict[str, list[float]] = {}


def float8_table(name: str) -> list[float]:
    """The number of each of a float8 type's 256 codes."""
    if name not in _TABLES:
        _TABLES[name] = [_float8(code, *FLOAT8[name]) for code in range(256)]
    return _TABLES[name]


def _float8(code: int, exponents: int, mantissas: int, bias: int, special: str) -> float:
    if special == "fnu":  # an exponent alone: powers of two, and 255 is NaN
        return float("nan") if code == 255 else 2.0 ** (code - bias)
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> mantissas
    mantissa = code & ((1 << mantissas) - 1)
    last = (1 << exponents) - 1
    if (special == "fnuz" and code == 0x80) or (special == "fn" and code & 0x7F == 0x7F):
        return float("nan")
    if special == "ieee" and exponent == last:
        return float("nan") if mantissa else sign * float("inf")
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissas)
    return sign * (1 + mantissa / (1 << mantissas)) * 2.0 ** (exponent - bias)


def gather(tensor: Tensor, places: Iterable[int]) -> dict[int, Number]:
    """The elements at `places` of the storage (in elements), each read once.

    Raises UnsupportedError for a tensor without bytes or numbers, DamagedError where the
    storage is too short.
    """
    dtype, storage = tensor.stored or tensor.dtype, tensor.storage
    if dtype is None or storage is None:
        raise UnsupportedError("the tensor has no bytes in the file")
    decode = decoder(dtype, storage.archive.byteorder)
    size = dtype.itemsize
    wanted = sorted(set(places))
    if wanted and (wanted[0] < 0 or (wanted[-1] + 1) * size > storage.nbytes):
        raise DamagedError(
            f"a tensor reaches beyond its storage {storage.key}: element {wanted[-1]:,} of "
            f"{storage.nbytes // size:,}",
            where=Place(storage.archive.record, tensor.at),
        )
    # What is compressed is unpacked from its beginning each time it is asked for.
    gap = GAP if storage.file_offset is not None else storage.nbytes
    found: dict[int, Number] = {}
    for run in _runs(wanted, max(gap // size, 1)):
        first = run[0]
        numbers = _decoded(storage.chunks(first * size, (run[-1] + 1) * size), decode, run, size)
        found.update(zip(run, numbers, strict=True))
    return {place: _logical(number, tensor) for place, number in found.items()}


def _logical(number: Number, tensor: Tensor) -> Number:
    """The value that torch shows where the conj or neg bit is set."""
    if tensor.conj and isinstance(number, complex):
        number = number.conjugate()
    return -number if tensor.neg else number


def _runs(places: list[int], gap: int) -> Iterable[list[int]]:
    """Places in groups between which at least `gap` elements lie."""
    run: list[int] = []
    for place in places:
        if run and place - run[-1] > gap:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _decoded(
    chunks: Iterable[bytes], decode: Callable[[bytes], list[Number]], run: list[int], size: int
) -> list[Number]:
    """The run's elements out of the bytes that begin with its first one, chunk by chunk."""
    wanted: list[bytes] = []
    at, next_ = 0, 0  # bytes passed; which of the run comes next
    held = b""
    for chunk in chunks:
        held = held + chunk if held else chunk
        while next_ < len(run):
            begin = (run[next_] - run[0]) * size - at
            if begin + size > len(held):
                break
            wanted.append(held[begin : begin + size])
            next_ += 1
        drop = min(len(held), (run[next_] - run[0]) * size - at) if next_ < len(run) else len(held)
        held, at = held[drop:], at + drop
    return decode(b"".join(wanted))


def number_of(tensor: Tensor) -> Number | None:
    """The number of a tensor of one element; None where it is not at hand."""
    if tensor.numel != 1 or tensor.storage is None or tensor.storage_offset is None:
        return None
    if not can_decode(tensor.stored or tensor.dtype) or tensor.quantizer or tensor.parts:
        return None
    return gather(tensor, [tensor.storage_offset])[tensor.storage_offset]
