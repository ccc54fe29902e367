"""The element types of tensors and storages.

Sources: `c10/core/ScalarType.h` for the types, `torch.storage._dtype_to_storage_type_map`
for the classes that pickles name as a storage's type, `torch.storage._new_dtypes` for those
that have no such class and are written as UntypedStorage.
"""

from __future__ import annotations

from typing import NamedTuple


class DType(NamedTuple):
    """An element type: its name in torch (without `torch.`), bytes per element, what it holds
    ("float", "complex", "int", "uint", "bool", "quantized", "bits"), the unit in which its bytes
    change places between byte orders, and numpy's name for it (None: numpy has none)."""

    name: str
    itemsize: int
    kind: str
    swap: int
    numpy: str | None

    def __repr__(self) -> str:
        return f"torch.{self.name}"


def _types() -> dict[str, DType]:
    rows = [
        DType("bool", 1, "bool", 1, "bool"),
        DType("float16", 2, "float", 2, "float16"),
        DType("bfloat16", 2, "float", 2, None),
        DType("float32", 4, "float", 4, "float32"),
        DType("float64", 8, "float", 8, "float64"),
        DType("complex32", 4, "complex", 2, None),
        DType("complex64", 8, "complex", 4, "complex64"),
        DType("complex128", 16, "complex", 8, "complex128"),
        DType("quint8", 1, "quantized", 1, None),
        DType("qint8", 1, "quantized", 1, None),
        DType("qint32", 4, "quantized", 4, None),
        DType("quint4x2", 1, "quantized", 1, None),
        DType("quint2x4", 1, "quantized", 1, None),
    ]
    for bits in (8, 16, 32, 64):
        rows.append(DType(f"int{bits}", bits // 8, "int", bits // 8, f"int{bits}"))
        rows.append(DType(f"uint{bits}", bits // 8, "uint", bits // 8, f"uint{bits}"))
    rows += [DType(f"int{bits}", 1, "int", 1, None) for bits in range(1, 8)]
    rows += [DType(f"uint{bits}", 1, "uint", 1, None) for bits in range(1, 8)]
    for name in ("e5m2", "e4m3fn", "e5m2fnuz", "e4m3fnuz", "e8m0fnu"):
        rows.append(DType(f"float8_{name}", 1, "float", 1, None))
    rows.append(DType("float4_e2m1fn_x2", 1, "float", 1, None))  # two in a byte
    for name, size in (("bits8", 1), ("bits16", 2), ("bits1x8", 1), ("bits2x4", 1), ("bits4x2", 1)):
        rows.append(DType(name, size, "bits", size, None))
    return {row.name: row for row in rows}


DTYPES: dict[str, DType] = _types()
"""Every element type, by its name."""

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
    kind: f"{base}Storage"
    for base, kind in _STORAGES.items()
    if base not in ("Untyped", "ComplexHalf")
}
"""The class that torch.save names for a storage of each type; types that have none, the newer
ones, are written with a `torch.storage.UntypedStorage` (`torch.storage._new_dtypes`)."""

STORAGE_ITEMSIZE = {f"{base}Storage": DTYPES[kind].itemsize for base, kind in _STORAGES.items()}
STORAGE_ITEMSIZE["_UntypedStorage"] = 1  # torch 1.11
"""Bytes of one element of a storage, by its class's name. torch looks at the name alone, so that
`torch.FloatStorage` and `torch.cuda.FloatStorage` are one (`torch.serialization.StorageType`)."""


def dtype_by_name(name: str) -> DType | None:
    """The type that torch calls `name` (`float32`, or an alias such as `half`)."""
    return DTYPES.get(ALIASES.get(name, name))


def dtype_of_class(name: str) -> DType | None:
    """The type of a class `FloatStorage` or `FloatTensor` (with or without its module). An
    UntypedStorage counts bytes, and so does the `torch._UntypedStorage` of torch 1.11."""
    return _BY_CLASS.get(name.rsplit(".", 1)[-1].lstrip("_"))


_BY_CLASS = {
    f"{base}{suffix}": DTYPES[kind]
    for base, kind in _STORAGES.items()
    for suffix in ("Storage", "Tensor", "StorageBase", "TensorBase")
}


def is_untyped(name: str) -> bool:
    """Whether a storage class says nothing of its elements' type."""
    return name.rsplit(".", 1)[-1].lstrip("_") == "UntypedStorage"
