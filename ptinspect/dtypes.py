"""The one table of element types (names, sizes, struct letters, storage classes), and `decoder`,
which turns their bytes, bfloat16 and float8 included, into numbers.

Sources: `c10/core/ScalarType.h` for torch's types, `torch.storage._dtype_to_storage_type_map` for
the classes that pickles name as a storage's type, `torch.storage._new_dtypes` for those that have
no such class and are written as UntypedStorage, safetensors' `Dtype` for its
names, numpy's ndarraytypes.h for its letters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from struct import unpack
from typing import Any, NamedTuple

from ptinspect.errors import UnsupportedError

Number = bool | int | float | complex


class DType(NamedTuple):
    """An element type.

    Attributes:
        name: its name in torch, without `torch.`.
        itemsize: bytes per element.
        kind: "float", "complex", "int", "uint", "bool", "quantized" or "bits".
        swap: bytes of the unit that is reversed between byte orders. A complex number has two.
        letter: `struct` format of one unit of `swap` bytes, or None.
        numpy: its name in numpy, or None.
        safetensors: its name in safetensors, or None.
        storage: the class that torch.save names as the type of a storage, or None.
    """

    name: str
    itemsize: int
    kind: str
    swap: int
    letter: str | None = None
    numpy: str | None = None
    safetensors: str | None = None
    storage: str | None = None

    def __repr__(self) -> str:
        return f"torch.{self.name}"


# fmt: off
_ROWS = (
    DType("bool",       1, "bool",      1, "?", "bool", "BOOL", "BoolStorage"),
    DType("float16",    2, "float",     2, "e", "float16", "F16", "HalfStorage"),
    DType("bfloat16",   2, "float",     2, None, None, "BF16", "BFloat16Storage"),
    DType("float32",    4, "float",     4, "f", "float32", "F32", "FloatStorage"),
    DType("float64",    8, "float",     8, "d", "float64", "F64", "DoubleStorage"),
    DType("complex32",  4, "complex",   2, "e"),
    DType("complex64",  8, "complex",   4, "f", "complex64", "C64", "ComplexFloatStorage"),
    DType("complex128", 16, "complex",  8, "d", "complex128", None, "ComplexDoubleStorage"),
    DType("int8",       1, "int",       1, "b", "int8", "I8", "CharStorage"),
    DType("int16",      2, "int",       2, "h", "int16", "I16", "ShortStorage"),
    DType("int32",      4, "int",       4, "i", "int32", "I32", "IntStorage"),
    DType("int64",      8, "int",       8, "q", "int64", "I64", "LongStorage"),
    DType("uint8",      1, "uint",      1, "B", "uint8", "U8", "ByteStorage"),
    DType("uint16",     2, "uint",      2, "H", "uint16", "U16"),
    DType("uint32",     4, "uint",      4, "I", "uint32", "U32"),
    DType("uint64",     8, "uint",      8, "Q", "uint64", "U64"),
    DType("quint8",     1, "quantized", 1, "B", storage="QUInt8Storage"),
    DType("qint8",      1, "quantized", 1, "b", storage="QInt8Storage"),
    DType("qint32",     4, "quantized", 4, "i", storage="QInt32Storage"),
    DType("quint4x2",   1, "quantized", 1, storage="QUInt4x2Storage"),
    DType("quint2x4",   1, "quantized", 1, storage="QUInt2x4Storage"),
    DType("float8_e5m2",       1, "float", 1, safetensors="F8_E5M2"),
    DType("float8_e4m3fn",     1, "float", 1, safetensors="F8_E4M3"),
    DType("float8_e5m2fnuz",   1, "float", 1, safetensors="F8_E5M2FNUZ"),
    DType("float8_e4m3fnuz",   1, "float", 1, safetensors="F8_E4M3FNUZ"),
    DType("float8_e8m0fnu",    1, "float", 1, safetensors="F8_E8M0"),
    DType("float4_e2m1fn_x2",  1, "float", 1, safetensors="F4"),  # two numbers in a byte
    *(DType(f"{kind}{bits}", 1, kind, 1) for kind in ("int", "uint") for bits in range(1, 8)),
    DType("bits8", 1, "bits", 1), DType("bits16", 2, "bits", 2), DType("bits1x8", 1, "bits", 1),
    DType("bits2x4", 1, "bits", 1), DType("bits4x2", 1, "bits", 1),
)
# fmt: on

DTYPES: dict[str, DType] = {row.name: row for row in _ROWS}
"""Every element type by its name."""

# Other names that torch accepts, and that a pickle could therefore contain.
_ALIASES = {
    "half": "float16", "float": "float32", "double": "float64", "short": "int16", "int": "int32",
    "long": "int64", "chalf": "complex32", "cfloat": "complex64", "cdouble": "complex128",
}  # fmt: skip

_BY_SAFETENSORS_NAME = {row.safetensors: row for row in _ROWS}

SAFETENSORS_DTYPES: dict[str, DType] = {
    name: _BY_SAFETENSORS_NAME[name]
    for name in (
        "BOOL", "F4", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
        "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
    )
}  # fmt: skip
"""Element types by their name in safetensors, in the order of its enum (its writer sorts by it).

F4 counts single numbers, while torch's type contains two: the last dimension is twice as long.
"""

SAFETENSORS_BITS = {name: 8 * dtype.itemsize for name, dtype in SAFETENSORS_DTYPES.items()} | {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits per element by safetensors' names, those that torch lacks included."""

# A ComplexHalfStorage can be read, but torch.save writes an UntypedStorage for complex32.
_BY_STORAGE = {row.storage: row for row in _ROWS if row.storage} | {
    "ComplexHalfStorage": DTYPES["complex32"],
    "UntypedStorage": DTYPES["uint8"],
}

STORAGE_ITEMSIZE = {name: dtype.itemsize for name, dtype in _BY_STORAGE.items()}
STORAGE_ITEMSIZE["_UntypedStorage"] = 1  # torch 1.11
"""Bytes of an element by the name of the storage class.

torch uses the name only: `torch.FloatStorage` and `torch.cuda.FloatStorage` are the same
(`torch.serialization.StorageType`).
"""

_BY_CLASS = {
    name.removesuffix("Storage") + suffix: dtype
    for name, dtype in _BY_STORAGE.items()
    for suffix in ("Storage", "Tensor", "StorageBase", "TensorBase")
}


def dtype_by_name(name: str) -> DType | None:
    """Return the type that torch calls `name` (`float32`, or an alias such as `half`)."""
    return DTYPES.get(_ALIASES.get(name, name))


def dtype_of_class(name: str) -> DType | None:
    """Return the type of a class `FloatStorage` or `FloatTensor`, with or without its module.

    An UntypedStorage, or the `torch._UntypedStorage` of torch 1.11, counts bytes.
    """
    return _BY_CLASS.get(name.rsplit(".", 1)[-1].lstrip("_"))


def is_untyped(name: str) -> bool:
    """Return True if a storage class does not tell the type of its elements."""
    return name.rsplit(".", 1)[-1].lstrip("_") == "UntypedStorage"


# Numbers


def can_decode(dtype: DType | None) -> bool:
    """Return True if `decoder` knows the type: not packed ones, nor those without arithmetic."""
    names = ("bfloat16", "float8")
    return dtype is not None and (dtype.letter is not None or dtype.name.startswith(names))


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
    if dtype.name.startswith("float8"):
        table = float8_table(dtype.name)
        return lambda raw: [table[byte] for byte in raw]

    def decode(raw: bytes) -> list[Number]:
        units = unpack_units(dtype, raw, byteorder)
        if dtype.kind == "complex":
            return [complex(a, b) for a, b in zip(units[::2], units[1::2], strict=True)]
        return list(units)

    return decode


@cache
def float8_table(name: str) -> list[float]:
    """Return the number of each of a float8 type's 256 codes. A name such as `float8_e4m3fn` has
    the bits of exponent and mantissa; `fn` lacks infinities, and `uz` lacks -0, whose code is NaN.
    Source: c10/util/Float8_*.h. Without numpy: `show` needs none for a scalar."""
    exponent_bits, mantissa_bits, kind = int(name[8]), int(name[10]), name[11:]
    if not mantissa_bits:  # float8_e8m0fnu: powers of two
        return [*(2.0 ** (code - 127) for code in range(255)), math.nan]
    bias = (1 << (exponent_bits - 1)) - 1 + kind.endswith("uz")
    numbers = []
    for code in range(128):
        exponent, mantissa = divmod(code, 1 << mantissa_bits)
        mantissa += (1 << mantissa_bits) if exponent else 0
        numbers.append(mantissa * 2.0 ** (max(exponent, 1) - bias - mantissa_bits))
    if kind == "fn":
        numbers[-1] = math.nan
    elif not kind:  # as in IEEE 754: the largest exponent means infinity and NaN
        special = 1 << mantissa_bits
        numbers[-special:] = [math.inf] + [math.nan] * (special - 1)
    numbers += [-number for number in numbers]
    if kind == "fnuz":
        numbers[128] = math.nan
    return numbers


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

_NUMPY_CODE = r"[<>=|]?([a-zA-Z?])([0-9]{0,10})(?:\[[0-9a-zA-Z]*\])?"


def numpy_code(dtype: DType) -> str:
    """Return the dtype string of a little-endian type that numpy has, such as `<f4` or `|b1`."""
    order = "|" if dtype.itemsize == 1 else "<"
    return f"{order}{_NUMPY_KINDS[dtype.kind]}{dtype.itemsize}"


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
    if kind in names and re.fullmatch("[0-9]{1,9}", digits):
        return f"{names[kind]}{int(digits) * 8}"
    return {"O": "object", "U": "str_", "S": "bytes_", "V": "void"}.get(kind, code.lstrip("|="))


def numpy_itemsize(code: str) -> int | None:
    """Return the bytes of one element of a numpy dtype string (`<f4`, `U10`, `M8[ns]`, `l`).

    Text and raw types without a length have size 0. None for a string that numpy does not know.
    """
    match = re.fullmatch(_NUMPY_CODE, code)
    if match is None or match[1] not in {*NUMPY_LETTER_SIZES, "c", "u"}:
        return None
    letter, digits = match[1], match[2]
    if letter in "mMO" or not digits:
        return NUMPY_LETTER_SIZES.get(letter)
    return int(digits) * (4 if letter == "U" else 1)


QSCHEMES = frozenset(
    (
        "per_tensor_affine", "per_channel_affine", "per_tensor_symmetric",
        "per_channel_symmetric", "per_channel_affine_float_qparams",
    )
)  # fmt: skip
"""The names of `torch.qscheme`."""
