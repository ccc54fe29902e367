"""How many bytes an element has: by dtype, and by the class of the storage that holds it.

Sources: `c10/core/ScalarType.h` for the dtypes, `torch/storage.py` (`_dtype_to_storage_type_map`)
for the storages. A test holds both against torch's own.
"""

from __future__ import annotations

ITEMSIZE = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,  # two elements in a byte, and the byte is what is counted
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
    "bits1x8": 1,
    "bits2x4": 1,
    "bits4x2": 1,
    "bits8": 1,
    "bits16": 2,
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)},
}
"""Bytes of one element, by the dtype's name (without `torch.`)."""

STORAGE_DTYPE = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    # bytes of any dtype: the tensor says which (`_rebuild_tensor_v3`)
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",  # torch 1.11
}
"""The dtype of a storage's elements, by its class's name. torch looks at the name alone, so
that `torch.FloatStorage` and `torch.cuda.FloatStorage` are one (`StorageType` in
`torch.serialization`)."""

STORAGE_ITEMSIZE = {name: ITEMSIZE[dtype] for name, dtype in STORAGE_DTYPE.items()}
"""Bytes of one element of a storage, by its class's name."""
