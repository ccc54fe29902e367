"""Tensors as numpy arrays and torch tensors. Only proofs.worker imports torch, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ptinspect.document.elements import (
    check_repetition,
    iter_contiguous,
    numpy_type,
    read_contiguous,
)
from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt
    import torch

    from ptinspect.document.tensor import Tensor

MAX_REPEATED = 1 << 30
"""Size in bytes up to which a view that repeats its storage (`expand`) is streamed."""


def to_numpy(tensor: Tensor) -> npt.NDArray[np.generic]:
    """Return a read-only array in C order; bfloat16 and float8 have the types of ml_dtypes.

    UnsupportedError for a dtype that neither numpy nor ml_dtypes has.
    """
    import numpy as np

    if tensor.dtype is None:
        raise UnsupportedError("a tensor without a dtype", hint="read() gives the bytes")
    dtype, count = numpy_type(tensor.dtype), 1
    for size in tensor.shape:  # numpy multiplies them even if one is 0
        count *= max(size, 1)
    if count * dtype.itemsize > sys.maxsize:
        raise UnsupportedError(f"numpy has no arrays of the shape {tensor.shape}")
    return np.frombuffer(read_contiguous(tensor), dtype).reshape(tensor.shape)


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Return a contiguous tensor on the CPU. UnsupportedError if torch is not installed."""
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
    data = bytearray(read_contiguous(tensor))
    flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).reshape(tensor.shape)


def quiet() -> AbstractContextManager[object]:
    """Return a context in which numpy does not warn of NaN and overflow, which are results."""
    import numpy as np

    return np.errstate(all="ignore")


def byte_blocks(tensor: Tensor) -> Iterator[bytes]:
    """Yield the chunks of `iter_contiguous`.

    UnsupportedError for a view that repeats a few bytes until they exceed `MAX_REPEATED`.
    """
    if not tensor.is_contiguous:
        check_repetition(tensor, MAX_REPEATED)
    return iter_contiguous(tensor)


def number_blocks(tensor: Tensor) -> Iterator[npt.NDArray[Any]]:
    """Yield the elements as arrays of numbers: bfloat16 and float8 as float32, complex32 as
    complex64.

    UnsupportedError for dtypes without arithmetic, and as for `byte_blocks`.
    """
    import numpy as np

    dtype = tensor.dtype
    if dtype is None:
        raise UnsupportedError("a tensor without a dtype")
    name = dtype.name
    table = None
    if name.startswith("float8"):
        table = np.arange(256, dtype=np.uint8).view(numpy_type(dtype)).astype(np.float32)
    elif name not in ("bfloat16", "complex32") and dtype.numpy is None:
        raise UnsupportedError(f"the elements of {name} are no numbers")
    for block in byte_blocks(tensor):
        if table is not None:
            yield table[np.frombuffer(block, np.uint8)]
        elif name == "bfloat16":
            yield (np.frombuffer(block, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif name == "complex32":
            yield np.frombuffer(block, "<f2").astype(np.float32).view(np.complex64)
        else:
            yield np.frombuffer(block, numpy_type(dtype))
