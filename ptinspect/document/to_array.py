"""To numpy and torch: the one place of the light part that imports them.

A tensor's bytes are gathered from its storage by shape and stride, brought to this machine's
byte order, and handed on as an array or tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ptinspect.errors import DamagedError, Place, UnsupportedError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt
    import torch

    from ptinspect.document.tensor import Storage, Tensor
    from ptinspect.dtypes import DType


def contiguous(tensor: Tensor) -> bytes:
    """The elements in C order, little-endian, as the logical values (conj and neg applied); of a
    packed type the bytes that hold them.

    UnsupportedError for a tensor of parts, for one without bytes (meta), and for a view that
    repeats a few bytes endlessly; DamagedError where the storage is too short.
    """
    dtype, storage = tensor.stored, tensor.storage
    if dtype is None or storage is None or tensor.stride is None:
        what = "consists of parts" if tensor.parts else "has no bytes in the file"
        raise UnsupportedError(f"the tensor {what} (layout {tensor.layout}, {tensor.device})")
    low, high = bounds(tensor, storage, dtype)
    size = dtype.itemsize
    _bounded(tensor, storage, REPEATED_HELD)
    raw = storage.read(low * size, high * size)
    if storage.archive.byteorder == "big":
        raw = swapped(raw, dtype.swap)
    if not tensor.is_contiguous:
        raw = _gathered(raw, tensor, dtype, low)
    if tensor.dtype is not None and tensor.dtype is not dtype:
        import numpy as np

        return np.frombuffer(raw, numpy_type(dtype)).astype(numpy_type(tensor.dtype)).tobytes()
    return _logical(raw, tensor, dtype) if tensor.conj or tensor.neg else raw


def bounds(tensor: Tensor, storage: Storage, dtype: DType) -> tuple[int, int]:
    """`tensor.extent`; DamagedError where the storage is shorter than that."""
    low, high = tensor.extent
    if tensor.per_byte > 1:
        low, high = _packed_bounds(tensor, low, high)
    if low < 0 or high * dtype.itemsize > storage.nbytes:
        raise DamagedError(
            f"a tensor reaches beyond its storage {storage.key}: element {high:,} of "
            f"{storage.nbytes // dtype.itemsize:,}",
            where=Place(storage.archive.record, tensor.pickle_offset),
        )
    return low, high


def _packed_bounds(tensor: Tensor, low: int, high: int) -> tuple[int, int]:
    """In bytes; UnsupportedError for a view that begins within one, or leaves some out."""
    if low % tensor.per_byte or not tensor.is_contiguous:
        name = tensor.dtype.name if tensor.dtype else ""
        raise UnsupportedError(f"a view of {name} that does not consist of whole bytes")
    return low // tensor.per_byte, -(-high // tensor.per_byte)


def _bounded(tensor: Tensor, storage: Storage, most: int) -> None:
    """UnsupportedError for a view that shows its storage's bytes again and again (`expand`) until
    they are more than `most`."""
    if tensor.nbytes > max(most, 16 * storage.nbytes):
        raise UnsupportedError(
            f"the view repeats {storage.nbytes:,} bytes until they are {tensor.nbytes:,}"
        )


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

    assert tensor.storage_offset is not None
    base = np.frombuffer(raw, np.dtype((np.void, dtype.itemsize)))
    strides = _strides(tensor, dtype.itemsize)
    start = base[tensor.storage_offset - low :]
    return np.lib.stride_tricks.as_strided(start, tensor.shape, strides, writeable=False).tobytes()


def _strides(tensor: Tensor, size: int) -> list[int]:
    """In bytes. Where a dimension is 1 the stride leads nowhere, and may be any number."""
    pairs = zip(tensor.stride or (), tensor.shape, strict=True)
    return [step * size if length > 1 else 0 for step, length in pairs]


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
    kind, known = numpy_type(tensor.dtype), 1
    for size in tensor.shape:  # numpy multiplies them even where one is 0
        known *= max(size, 1)
    if known * kind.itemsize > sys.maxsize:
        raise UnsupportedError(f"numpy has no arrays of the shape {tensor.shape}")
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


# --- streams ------------------------------------------------------------------------------

BLOCK = 1 << 20
"""Bytes of a tensor that are held at once where it is streamed."""

HELD = 64 << 20
"""Bytes of a storage that are copied into memory for a view with gaps; a larger one is mapped."""

REPEATED = 1 << 30
"""Bytes that a view which shows its storage's bytes again and again may come to, as a stream."""

REPEATED_HELD = 1 << 28
"""The same, where all of them are held in memory."""


def raw_blocks(tensor: Tensor) -> Iterator[bytes]:
    """What `contiguous` gives, in pieces of about `BLOCK` bytes, each of whole elements. The same
    errors; UnsupportedError also for a view that repeats a few bytes endlessly (`expand`)."""
    dtype, storage = tensor.stored, tensor.storage
    special = tensor.conj or tensor.neg or tensor.dtype is not dtype
    if special or dtype is None or storage is None or tensor.stride is None:
        yield contiguous(tensor)
        return
    low, high = bounds(tensor, storage, dtype)
    size, swap = dtype.itemsize, dtype.swap if storage.archive.byteorder == "big" else 1
    if tensor.is_contiguous:
        pieces = _whole(storage.chunks(low * size, high * size, BLOCK), size)
    else:
        _bounded(tensor, storage, REPEATED)
        pieces = _strided_blocks(tensor, _held(storage, low * size, high * size), size, low)
    for piece in pieces:
        yield piece if swap == 1 else swapped(piece, swap)


def quiet() -> AbstractContextManager[object]:
    """While numpy says nothing of NaN and overflow, which are results like others."""
    import numpy as np

    return np.errstate(all="ignore")


def number_blocks(tensor: Tensor) -> Iterator[npt.NDArray[Any]]:
    """The same as arrays of numbers: bfloat16 and float8 as float32, complex32 as complex64.
    UnsupportedError for the types that stand for no numbers."""
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
    for raw in raw_blocks(tensor):
        if table is not None:
            yield table[np.frombuffer(raw, np.uint8)]
        elif name == "bfloat16":
            yield (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif name == "complex32":
            yield np.frombuffer(raw, "<f2").astype(np.float32).view(np.complex64)
        else:
            yield np.frombuffer(raw, numpy_type(dtype))


def _whole(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Chunks of any length as pieces of whole elements."""
    rest = b""
    for chunk in chunks:
        held = rest + chunk if rest else chunk
        stop = len(held) - len(held) % size
        rest = held[stop:]
        if stop:
            yield held if stop == len(held) else held[:stop]


def _held(storage: Storage, start: int, stop: int) -> bytes | memoryview:
    """A part of a storage in one piece: a copy of a small one, of a large one the file's map."""
    if stop - start <= HELD or storage.file_offset is None:
        return storage.read(start, stop)
    storage.check()
    at = storage.span.start
    assert at is not None
    buffer, origin, _ = storage.archive.source.window()
    begin = origin + at + storage.begin
    return memoryview(buffer)[begin + start : begin + stop]


def _strided_blocks(
    tensor: Tensor, held: bytes | memoryview, size: int, low: int
) -> Iterator[bytes]:
    """A view with gaps, in C order: as many of its innermost elements at once as a block takes."""
    import numpy as np

    assert tensor.storage_offset is not None
    base = np.frombuffer(held, np.dtype((np.void, size)))[tensor.storage_offset - low :]
    strides = _strides(tensor, size)
    view = np.lib.stride_tricks.as_strided(base, tensor.shape, strides, writeable=False)
    inner, split = size, len(tensor.shape)
    while split and inner * tensor.shape[split - 1] <= BLOCK:
        split -= 1
        inner *= tensor.shape[split]
    if not split:
        yield view.tobytes()
        return
    rows = max(BLOCK // inner, 1)
    for outer in np.ndindex(tensor.shape[: split - 1]):
        for at in range(0, tensor.shape[split - 1], rows):
            yield view[outer][at : at + rows].tobytes()
