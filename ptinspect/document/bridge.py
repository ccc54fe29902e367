"""To numpy and torch: the one place of the light part that imports them.

A tensor's bytes are gathered from its storage by shape and stride, brought to this machine's
byte order, and handed on as an array or tensor.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from ptinspect.document.tensor import Tensor
    from ptinspect.formats.dtypes import DType


def contiguous(tensor: Tensor) -> bytes:
    """The elements in C order, little-endian, as the logical values (conj and neg applied).

    UnsupportedError for a tensor of parts and for one without bytes (meta); DamagedError where
    the storage is too short.
    """
    dtype, storage = tensor.stored, tensor.storage
    if dtype is None or storage is None or tensor.stride is None:
        what = "consists of parts" if tensor.parts else "has no bytes in the file"
        raise UnsupportedError(f"the tensor {what} (layout {tensor.layout}, {tensor.device})")
    low, high = tensor.extent
    size = dtype.itemsize
    if low < 0 or high * size > storage.nbytes:
        raise DamagedError(
            f"a tensor reaches beyond its storage {storage.key}: element {high:,} of "
            f"{storage.nbytes // size:,}",
            where=Place(storage.archive.record, tensor.at),
        )
    raw = storage.read(low * size, high * size)
    if storage.archive.byteorder == "big":
        raw = swapped(raw, dtype.swap)
    if not tensor.is_contiguous:
        raw = _gathered(raw, tensor, dtype, low)
    if tensor.dtype is not None and tensor.dtype is not dtype:
        import numpy as np

        return np.frombuffer(raw, numpy_type(dtype)).astype(numpy_type(tensor.dtype)).tobytes()
    return _logical(raw, tensor, dtype) if tensor.conj or tensor.neg else raw


def swapped(raw: bytes, unit: int) -> bytes:
    """Each `unit` bytes the other way round."""
    if unit == 1:
        return raw
    made = bytearray(len(raw))
    for at in range(unit):
        made[at::unit] = raw[unit - 1 - at :: unit]
    return bytes(made)


def _gathered(raw: bytes, tensor: Tensor, dtype: DType, low: int) -> bytes:
    """The elements of a view with gaps, laid out."""
    import numpy as np

    assert tensor.stride is not None and tensor.storage_offset is not None
    base = np.frombuffer(raw, np.dtype((np.void, dtype.itemsize)))
    strides = [step * dtype.itemsize for step in tensor.stride]
    start = base[tensor.storage_offset - low :]
    return np.lib.stride_tricks.as_strided(start, tensor.shape, strides, writeable=False).tobytes()


def _logical(raw: bytes, tensor: Tensor, dtype: DType) -> bytes:
    """The values that torch shows for a tensor whose conj or neg bit is set."""
    import numpy as np

    if dtype.name == "complex32":
        values = np.frombuffer(raw, "<f2").copy()
    else:
        values = np.frombuffer(raw, np.dtype(dtype.numpy).newbyteorder("<")).copy()
    if tensor.conj and dtype.name == "complex32":
        values[1::2] *= -1
    elif tensor.conj:
        values = np.conj(values)
    if tensor.neg:
        values = -values
    return values.tobytes()


def to_numpy(tensor: Tensor) -> npt.NDArray[np.generic]:
    """A read-only array in C order. bfloat16 and float8 come as ml_dtypes' types;
    UnsupportedError for a dtype that neither has."""
    import numpy as np

    if tensor.dtype is None:
        raise UnsupportedError("a tensor without a dtype", hint="read() gives the bytes")
    kind = numpy_type(tensor.dtype)
    return np.frombuffer(contiguous(tensor), kind).reshape(tensor.shape)


def numpy_type(dtype: DType) -> np.dtype[np.generic]:
    """numpy's type, or ml_dtypes'; UnsupportedError where neither has it."""
    import numpy as np

    if dtype.numpy is not None:
        return np.dtype(dtype.numpy).newbyteorder("<")
    import ml_dtypes

    name = dtype.name
    known = {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "bfloat16"}
    if name not in known and name != "float8_e8m0fnu":
        raise UnsupportedError(f"numpy has no {name}", hint="read() gives the bytes")
    made: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
    return made


def to_torch(tensor: Tensor) -> torch.Tensor:
    """A tensor on the CPU, contiguous. UnsupportedError where torch is not installed."""
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            "torch is not installed", hint="pip install 'ptinspect[torch]'"
        ) from None
    if sys.byteorder != "little":
        raise UnsupportedError("torch tensors are made on little-endian machines only")
    dtype = getattr(torch, tensor.dtype.name, None) if tensor.dtype else None
    if dtype is None or tensor.quantizer:
        raise UnsupportedError("this tensor is not a plain one", hint="read() gives the bytes")
    raw = bytearray(contiguous(tensor))
    flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).reshape(tensor.shape)
