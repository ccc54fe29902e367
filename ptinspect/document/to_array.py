"""Read a tensor's elements: as bytes in C order, numbers, numpy arrays or a torch tensor.

This is the one module below `proofs` that imports torch, and it imports numpy only when a function
needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ptinspect.document.tensor import Storage, Tensor
from ptinspect.dtypes import DType, Number, can_decode, decoder
from ptinspect.errors import DamagedError, Place, UnsupportedError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt
    import torch

BLOCK = 1 << 20
"""Bytes of a tensor that are in memory at once while it is streamed."""

MAX_COPIED = 64 << 20
"""Bytes of a storage that are copied into memory for a view with gaps; a larger one is mapped."""

MAX_REPEATED = 1 << 30
"""Bytes that a view which repeats its storage's bytes (`expand`) may have if it is streamed."""

MAX_REPEATED_IN_MEMORY = 1 << 28

MAX_GAP = 4096
"""Bytes between two elements that are read along rather than skipped with a second read."""

_ML_DTYPES = frozenset(
    (
        "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
)  # fmt: skip


# All elements


def contiguous(tensor: Tensor) -> bytes:
    """Return the elements in C order, little-endian, with the conj and neg bits applied.

    Of a packed type these are the bytes that contain the elements.

    Raises:
        UnsupportedError: a tensor of parts, one without bytes (meta), or a view that repeats a few
            bytes endlessly.
        DamagedError: the storage is too short.
    """
    dtype, storage = tensor.stored, tensor.storage
    if dtype is None or storage is None or tensor.stride is None:
        reason = "consists of parts" if tensor.parts else "has no bytes in the file"
        raise UnsupportedError(f"the tensor {reason} (layout {tensor.layout}, {tensor.device})")
    low, high = bounds(tensor, storage, dtype)
    _check_repetition(tensor, storage, MAX_REPEATED_IN_MEMORY)
    raw = storage.read(low * dtype.itemsize, high * dtype.itemsize)
    if storage.archive.byteorder == "big":
        raw = swap_bytes(raw, dtype.swap)
    if not tensor.is_contiguous:
        raw = _strided_view(tensor, raw, dtype.itemsize, low).tobytes()
    if tensor.dtype is not None and tensor.dtype is not dtype:
        import numpy as np

        return np.frombuffer(raw, numpy_type(dtype)).astype(numpy_type(tensor.dtype)).tobytes()
    return _apply_bits(raw, tensor, dtype) if tensor.conj or tensor.neg else raw


def iter_contiguous(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of `contiguous` in blocks of about `BLOCK` bytes, each of whole elements.

    Raises the same errors.
    """
    dtype, storage = tensor.stored, tensor.storage
    is_converted = tensor.conj or tensor.neg or tensor.dtype is not dtype
    if is_converted or dtype is None or storage is None or tensor.stride is None:
        yield contiguous(tensor)
        return
    low, high = bounds(tensor, storage, dtype)
    size = dtype.itemsize
    if tensor.is_contiguous:
        blocks = _whole_elements(storage.chunks(low * size, high * size, BLOCK), size)
    else:
        _check_repetition(tensor, storage, MAX_REPEATED)
        buffer = _read_or_map(storage, low * size, high * size)
        blocks = _strided_blocks(tensor, buffer, size, low)
    is_big_endian = storage.archive.byteorder == "big"
    for block in blocks:
        yield swap_bytes(block, dtype.swap) if is_big_endian else block


def bounds(tensor: Tensor, storage: Storage, dtype: DType) -> tuple[int, int]:
    """Return `tensor.extent`, of a packed type in bytes.

    Raises:
        UnsupportedError: a view of a packed type that does not consist of whole bytes.
        DamagedError: the storage is shorter.
    """
    low, high = tensor.extent
    if tensor.per_byte > 1:
        if low % tensor.per_byte or not tensor.is_contiguous:
            name = tensor.dtype.name if tensor.dtype else ""
            raise UnsupportedError(f"a view of {name} that does not consist of whole bytes")
        low, high = low // tensor.per_byte, -(-high // tensor.per_byte)
    if low < 0 or high * dtype.itemsize > storage.nbytes:
        raise out_of_bounds_error(tensor, storage, high, dtype.itemsize)
    return low, high


def out_of_bounds_error(
    tensor: Tensor, storage: Storage, element: int, itemsize: int
) -> DamagedError:
    """Return the error for a tensor that needs more elements than its storage has."""
    return DamagedError(
        f"a tensor reaches beyond its storage {storage.key}: element {element:,} of "
        f"{storage.nbytes // itemsize:,}",
        where=Place(storage.archive.record, tensor.pickle_offset),
    )


def _check_repetition(tensor: Tensor, storage: Storage, limit: int) -> None:
    if tensor.nbytes > max(limit, 16 * storage.nbytes):
        raise UnsupportedError(
            f"the view repeats {storage.nbytes:,} bytes until they are {tensor.nbytes:,}"
        )


def swap_bytes(raw: bytes, unit: int) -> bytes:
    """Return the bytes with each `unit` of them reversed."""
    if unit == 1:
        return raw
    swapped = bytearray(len(raw))
    for index in range(unit):
        swapped[index::unit] = raw[unit - 1 - index :: unit]
    return bytes(swapped)


def _strided_view(
    tensor: Tensor, buffer: bytes | memoryview, size: int, low: int
) -> npt.NDArray[np.void]:
    """Return the tensor as a view of a buffer that starts at element `low` of its storage."""
    import numpy as np

    assert tensor.storage_offset is not None
    base = np.frombuffer(buffer, np.dtype((np.void, size)))[tensor.storage_offset - low :]
    # The stride of a dimension of size 1 is never used, and may be any number.
    pairs = zip(tensor.stride or (), tensor.shape, strict=True)
    strides = [step * size if length > 1 else 0 for step, length in pairs]
    return np.lib.stride_tricks.as_strided(base, tensor.shape, strides, writeable=False)


def _strided_blocks(
    tensor: Tensor, buffer: bytes | memoryview, size: int, low: int
) -> Iterator[bytes]:
    """Yield a view with gaps in C order: as many innermost elements at once as fit into a block."""
    import numpy as np

    view = _strided_view(tensor, buffer, size, low)
    inner_bytes, split = size, len(tensor.shape)
    while split and inner_bytes * tensor.shape[split - 1] <= BLOCK:
        split -= 1
        inner_bytes *= tensor.shape[split]
    if not split:
        yield view.tobytes()
        return
    rows = max(BLOCK // inner_bytes, 1)
    for outer in np.ndindex(tensor.shape[: split - 1]):
        for start in range(0, tensor.shape[split - 1], rows):
            yield view[outer][start : start + rows].tobytes()


def _read_or_map(storage: Storage, start: int, stop: int) -> bytes | memoryview:
    """Return a part of a storage: a small one as a copy, a large one from the file's map."""
    if stop - start <= MAX_COPIED or storage.file_offset is None:
        return storage.read(start, stop)
    storage.check()
    span_start = storage.span.start
    assert span_start is not None
    buffer, origin, _ = storage.archive.source.window()
    begin = origin + span_start + storage.begin
    return memoryview(buffer)[begin + start : begin + stop]


def _whole_elements(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield chunks of any length as blocks of whole elements."""
    rest = b""
    for chunk in chunks:
        block = rest + chunk if rest else chunk
        stop = len(block) - len(block) % size
        rest = block[stop:]
        if stop:
            yield block if stop == len(block) else block[:stop]


def _apply_bits(raw: bytes, tensor: Tensor, dtype: DType) -> bytes:
    """Return the values that torch shows for a tensor whose conj or neg bit is set."""
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


# Arrays and tensors


def to_numpy(tensor: Tensor) -> npt.NDArray[np.generic]:
    """Return a read-only array in C order. bfloat16 and float8 are types of ml_dtypes.

    Raises:
        UnsupportedError: neither numpy nor ml_dtypes has the dtype, or the shape is too large.
    """
    import numpy as np

    if tensor.dtype is None:
        raise UnsupportedError("a tensor without a dtype", hint="read() gives the bytes")
    kind, count = numpy_type(tensor.dtype), 1
    for size in tensor.shape:  # numpy multiplies them even if one is 0
        count *= max(size, 1)
    if count * kind.itemsize > sys.maxsize:
        raise UnsupportedError(f"numpy has no arrays of the shape {tensor.shape}")
    return np.frombuffer(contiguous(tensor), kind).reshape(tensor.shape)


def numpy_type(dtype: DType) -> np.dtype[np.generic]:
    """Return numpy's type, or ml_dtypes'; UnsupportedError if neither has it."""
    import numpy as np

    if dtype.numpy is not None:
        return np.dtype(dtype.numpy).newbyteorder("<")
    if dtype.name not in _ML_DTYPES:
        raise UnsupportedError(f"numpy has no {dtype.name}", hint="read() gives the bytes")
    import ml_dtypes

    kind: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, dtype.name))
    return kind


def iter_numbers(tensor: Tensor) -> Iterator[npt.NDArray[Any]]:
    """Yield the elements in C order as arrays of about `BLOCK` bytes.

    bfloat16 and float8 become float32, complex32 becomes complex64.

    Raises:
        UnsupportedError: the elements are not numbers.
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
        raise UnsupportedError(f"the elements of {name} are not numbers")
    for raw in iter_contiguous(tensor):
        if table is not None:
            yield table[np.frombuffer(raw, np.uint8)]
        elif name == "bfloat16":
            yield (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif name == "complex32":
            yield np.frombuffer(raw, "<f2").astype(np.float32).view(np.complex64)
        else:
            yield np.frombuffer(raw, numpy_type(dtype))


def ignore_numpy_warnings() -> AbstractContextManager[object]:
    """Return a context in which numpy does not warn of NaN and overflow: they are results here."""
    import numpy as np

    return np.errstate(all="ignore")


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Return a contiguous tensor on the CPU. UnsupportedError if torch is not installed."""
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            "torch is not installed", hint="pip install 'ptinspect[torch]'"
        ) from None
    if sys.byteorder != "little":
        raise UnsupportedError("torch tensors can be made on little-endian machines only")
    dtype = getattr(torch, tensor.dtype.name, None) if tensor.dtype else None
    if dtype is None or tensor.quantizer:
        raise UnsupportedError("this tensor is not a plain one", hint="read() gives the bytes")
    raw = bytearray(contiguous(tensor))
    flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).reshape(tensor.shape)


# Single elements, without numpy


def read_elements(tensor: Tensor, indices: Iterable[int]) -> dict[int, Number]:
    """Return the elements at these indices of the tensor's storage, counted in elements.

    Reads as little of the file as possible.

    Raises:
        UnsupportedError: the tensor has no bytes, or its elements are not numbers.
        DamagedError: the storage is too short.
    """
    dtype, storage = tensor.stored or tensor.dtype, tensor.storage
    if dtype is None or storage is None:
        raise UnsupportedError("the tensor has no bytes in the file")
    decode = decoder(dtype, storage.archive.byteorder)
    size = dtype.itemsize
    ordered = sorted(set(indices))
    if ordered and (ordered[0] < 0 or (ordered[-1] + 1) * size > storage.nbytes):
        raise out_of_bounds_error(tensor, storage, ordered[-1], size)
    # A compressed record is decompressed from its start by every read: read once.
    max_gap = MAX_GAP if storage.file_offset is not None else storage.nbytes
    elements: dict[int, Number] = {}
    for run in _runs(ordered, max(max_gap // size, 1)):
        chunks = storage.chunks(run[0] * size, (run[-1] + 1) * size)
        raw = _pick(chunks, [(index - run[0]) * size for index in run], size)
        elements.update(zip(run, decode(raw), strict=True))
    return {index: _apply_bits_to_number(number, tensor) for index, number in elements.items()}


def number_of(tensor: Tensor) -> Number | None:
    """Return the number of a tensor of one element; None if it cannot be decoded.

    Raises:
        DamagedError: the storage is too short.
    """
    if tensor.numel != 1 or tensor.storage is None or tensor.storage_offset is None:
        return None
    if not can_decode(tensor.stored or tensor.dtype) or tensor.quantizer or tensor.parts:
        return None
    return read_elements(tensor, [tensor.storage_offset])[tensor.storage_offset]


def _runs(indices: list[int], max_gap: int) -> Iterator[list[int]]:
    """Split sorted indices where more than `max_gap` elements are between two."""
    run: list[int] = []
    for index in indices:
        if run and index - run[-1] > max_gap:
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def _pick(chunks: Iterable[bytes], offsets: Sequence[int], size: int) -> bytes:
    """Return the elements that start at these offsets of the chunks, one after the other."""
    picked = []
    buffer, buffer_offset = b"", 0
    position = 0
    for chunk in chunks:
        buffer += chunk
        while position < len(offsets):
            start = offsets[position] - buffer_offset
            if start + size > len(buffer):
                break
            picked.append(buffer[start : start + size])
            position += 1
        needed = offsets[position] - buffer_offset if position < len(offsets) else len(buffer)
        buffer_offset += min(needed, len(buffer))
        buffer = buffer[needed:]
    return b"".join(picked)


def _apply_bits_to_number(number: Number, tensor: Tensor) -> Number:
    """Return the value that torch shows if the conj or neg bit is set."""
    if tensor.conj and isinstance(number, complex):
        number = number.conjugate()
    return -number if tensor.neg else number
