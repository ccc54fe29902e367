"""The one table of element types: names in torch and numpy, sizes, struct letters, storage classes.

Sources: `c10/core/ScalarType.h` for torch's types, `torch.storage._dtype_to_storage_type_map` for
the classes that pickles name as a storage's type, `torch.storage._new_dtypes` for those that have
no such class and are written as UntypedStorage, numpy's ndarraytypes.h for its letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import unpack
from typing import Any, NamedTuple

from ptinspect.errors import UnsupportedError

Number = bool | int | float | complex


class DType(NamedTuple):
    """An element type.

    Attributes:
        name: torch's name, without `torch.`.
        itemsize: bytes per element.
        kind: "float", "complex", "int", "uint", "bool", "quantized" or "bits".
        swap: bytes of the unit that is reversed between byte orders. A complex number has two.
        numpy: numpy's name; None if numpy lacks the type.
        letter: `struct` format of one unit of `swap` bytes; None if struct cannot read it.
    """

    name: str
    itemsize: int
    kind: str
    swap: int
    numpy: str | None
    letter: str | None = None

    def __repr__(self) -> str:
        return f"torch.{self.name}"


def _table() -> dict[str, DType]:
    rows = [
        DType("bool", 1, "bool", 1, "bool", "?"),
        DType("float16", 2, "float", 2, "float16", "e"),
        DType("bfloat16", 2, "float", 2, None),
        DType("float32", 4, "float", 4, "float32", "f"),
        DType("float64", 8, "float", 8, "float64", "d"),
        DType("complex32", 4, "complex", 2, None, "e"),
        DType("complex64", 8, "complex", 4, "complex64", "f"),
        DType("complex128", 16, "complex", 8, "complex128", "d"),
        DType("quint8", 1, "quantized", 1, None, "B"),
        DType("qint8", 1, "quantized", 1, None, "b"),
        DType("qint32", 4, "quantized", 4, None, "i"),
        DType("quint4x2", 1, "quantized", 1, None),
        DType("quint2x4", 1, "quantized", 1, None),
    ]
    for size, letter in zip((1, 2, 4, 8), "bhiq", strict=True):
        for kind, code in (("int", letter), ("uint", letter.upper())):
            name = f"{kind}{8 * size}"
            rows.append(DType(name, size, kind, size, name, code))
    for kind in ("int", "uint"):
        rows += [DType(f"{kind}{bits}", 1, kind, 1, None) for bits in range(1, 8)]
    for name in ("e5m2", "e4m3fn", "e5m2fnuz", "e4m3fnuz", "e8m0fnu"):
        rows.append(DType(f"float8_{name}", 1, "float", 1, None))
    rows.append(DType("float4_e2m1fn_x2", 1, "float", 1, None))  # two in a byte
    for name, size in (("bits8", 1), ("bits16", 2), ("bits1x8", 1), ("bits2x4", 1), ("bits4x2", 1)):
        rows.append(DType(name, size, "bits", size, None))
    return {row.name: row for row in rows}


DTYPES: dict[str, DType] = _table()
"""Every element type of torch, by its name."""

# Other names that torch accepts, and so could be pickled.
ALIASES = {
    "half": "float16", "float": "float32", "double": "float64", "short": "int16", "int": "int32",
    "long": "int64", "chalf": "complex32", "cfloat": "complex64", "cdouble": "complex128",
}  # fmt: skip

_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64",
    "ComplexHalf": "complex32", "QInt8": "qint8", "QUInt8": "quint8", "QInt32": "qint32",
    "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4", "Untyped": "uint8",
}  # fmt: skip

STORAGE_CLASSES = {
    name: f"{base}Storage"
    for base, name in _STORAGES.items()
    if base not in ("Untyped", "ComplexHalf")
}
"""The class that torch.save names for a storage of each type; types that have none, the newer
ones, are written with a `torch.storage.UntypedStorage` (`torch.storage._new_dtypes`)."""

STORAGE_ITEMSIZE = {f"{base}Storage": DTYPES[name].itemsize for base, name in _STORAGES.items()}
STORAGE_ITEMSIZE["_UntypedStorage"] = 1  # torch 1.11
"""Bytes of one element of a storage, by its class's name. torch looks at the name alone, so that
`torch.FloatStorage` and `torch.cuda.FloatStorage` are one (`torch.serialization.StorageType`)."""

_BY_CLASS = {
    f"{base}{suffix}": DTYPES[name]
    for base, name in _STORAGES.items()
    for suffix in ("Storage", "Tensor", "StorageBase", "TensorBase")
}


def dtype_by_name(name: str) -> DType | None:
    """Return the type that torch calls `name` (`float32`, or an alias such as `half`)."""
    return DTYPES.get(ALIASES.get(name, name))


def dtype_of_class(name: str) -> DType | None:
    """Return the type of a class `FloatStorage` or `FloatTensor`, with or without its module.

    An UntypedStorage counts bytes, and so does the `torch._UntypedStorage` of torch 1.11.
    """
    return _BY_CLASS.get(name.rsplit(".", 1)[-1].lstrip("_"))


def is_untyped(name: str) -> bool:
    """Return True if a storage class does not determine the type of its elements."""
    return name.rsplit(".", 1)[-1].lstrip("_") == "UntypedStorage"


# Numbers


def can_decode(dtype: DType | None) -> bool:
    """Return True if `decoder` knows the type: not packed ones, nor those without arithmetic."""
    if dtype is None:
        return False
    return dtype.letter is not None or dtype.name == "bfloat16" or dtype.name in _FLOAT8


def unpack_units(dtype: DType, raw: bytes, byteorder: str = "little") -> tuple[Any, ...]:
    """Return the numbers in `raw`, for a type with a struct letter or bfloat16.

    A complex number is two units: its real and imaginary part.
    """
    order = ">" if byteorder == "big" else "<"
    if dtype.name == "bfloat16":  # the upper half of a float32
        count = len(raw) // 2
        halves = unpack(f"{order}{count}H", raw)
        return unpack(
            f"<{count}f", b"".join([(half << 16).to_bytes(4, "little") for half in halves])
        )
    return unpack(f"{order}{len(raw) // dtype.swap}{dtype.letter}", raw)


def decoder(dtype: DType, byteorder: str = "little") -> Callable[[bytes], list[Number]]:
    """Return a function that decodes elements of a type.

    Raises:
        UnsupportedError: its elements are not numbers.
    """
    if not can_decode(dtype):
        raise UnsupportedError(f"the elements of {dtype.name} are not shown as numbers")
    if dtype.name in _FLOAT8:
        table = float8_table(dtype.name)
        return lambda raw: [table[byte] for byte in raw]
    if dtype.kind == "complex":
        return lambda raw: _pair_up(unpack_units(dtype, raw, byteorder))
    return lambda raw: list(unpack_units(dtype, raw, byteorder))


def _pair_up(units: tuple[float, ...]) -> list[Number]:
    return [complex(a, b) for a, b in zip(units[::2], units[1::2], strict=True)]


# Exponent bits, mantissa bits, bias, and which codes are not numbers.
# Source: c10/util/Float8_e5m2.h, Float8_e4m3fn.h, Float8_e5m2fnuz.h, Float8_e4m3fnuz.h,
# Float8_e8m0fnu.h.
_FLOAT8 = {
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fn": (4, 3, 7, "fn"),
    "float8_e5m2fnuz": (5, 2, 16, "fnuz"),
    "float8_e4m3fnuz": (4, 3, 8, "fnuz"),
    "float8_e8m0fnu": (8, 0, 127, "fnu"),
}
_FLOAT8_TABLES: dict[str, list[float]] = {}


def float8_table(name: str) -> list[float]:
    """Return the number of each of a float8 type's 256 codes."""
    if name not in _FLOAT8_TABLES:
        _FLOAT8_TABLES[name] = [_decode_float8(code, *_FLOAT8[name]) for code in range(256)]
    return _FLOAT8_TABLES[name]


def _decode_float8(
    code: int, exponent_bits: int, mantissa_bits: int, bias: int, special: str
) -> float:
    if special == "fnu":  # an exponent alone: powers of two, and 255 is NaN
        return float("nan") if code == 255 else 2.0 ** (code - bias)
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> mantissa_bits
    mantissa = code & ((1 << mantissa_bits) - 1)
    if (special == "fnuz" and code == 0x80) or (special == "fn" and code & 0x7F == 0x7F):
        return float("nan")
    if special == "ieee" and exponent == (1 << exponent_bits) - 1:
        return float("nan") if mantissa else sign * float("inf")
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)


# numpy

_NUMPY_KINDS = {"float": "f", "int": "i", "uint": "u", "complex": "c", "bool": "b"}
_BY_NUMPY_CODE = {
    f"{_NUMPY_KINDS[row.kind]}{row.itemsize}": row for row in DTYPES.values() if row.numpy
}

# Sizes by letter alone, as 64-bit machines have them. With a size behind it ("f4") numpy means
# another thing by some letters, and the size counts.
NUMPY_LETTER_SIZES = {
    "?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "l": 8, "L": 8, "q": 8,
    "Q": 8, "p": 8, "P": 8, "d": 8, "g": 16, "F": 8, "D": 16, "G": 32, "O": 8, "m": 8, "M": 8,
    "S": 0, "a": 0, "U": 0, "V": 0,
}  # fmt: skip

_NUMPY_CODE = re.compile(r"[<>=|]?([a-zA-Z?])([0-9]{0,10})(?:\[[0-9a-zA-Z]*\])?")


def by_numpy_code(code: str) -> DType | None:
    """Return the type of a numpy dtype string such as `<f4` or `f4`."""
    return _BY_NUMPY_CODE.get(code.lstrip("<>=|"))


def numpy_name(code: str) -> str:
    """Return a numpy dtype string such as `<f4` as numpy prints the type: `float32`."""
    bare = code.lstrip("<>=|")
    kind, digits = bare[:1], bare[1:]
    if kind == "b":
        return "bool"
    names = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
    if kind in names and digits.isdigit():
        return f"{names[kind]}{int(digits) * 8}"
    return {"O": "object", "U": "str_", "S": "bytes_", "V": "void"}.get(kind, code.lstrip("|="))


def numpy_itemsize(code: str) -> int | None:
    """Return the bytes of one element of a numpy dtype string (`<f4`, `U10`, `M8[ns]`, `l`).

    Text and raw types without a length have size 0. None for a string that numpy does not know.
    """
    match = _NUMPY_CODE.fullmatch(code)
    if match is None or match[1] not in {*NUMPY_LETTER_SIZES, "c", "u"}:
        return None
    letter, digits = match[1], match[2]
    if letter in "mMO" or not digits:
        return NUMPY_LETTER_SIZES.get(letter)
    return int(digits) * (4 if letter == "U" else 1)
