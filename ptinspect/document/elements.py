"""The elements of a tensor as bytes in C order: all at once, or as a stream.

Views with any strides are streamed in bands, so that neither the tensor nor the gaps between its
elements are in memory as a whole. numpy is imported only where elements must be moved or
converted.
"""

from __future__ import annotations

from copy import copy
from itertools import product
from operator import add, mul
from typing import TYPE_CHECKING

from ptinspect.document.tensor import CHUNK, InlineStorage
from ptinspect.errors import DamagedError, Place, UnsupportedError
from ptinspect.pickling.numpy_objects import required_numel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    import numpy as np

    from ptinspect.document.tensor import Storage, Tensor
    from ptinspect.dtypes import DType

BAND = 16 << 20
"""Size in bytes of the band that is gathered at once from all over a storage. The larger the band,
the longer the contiguous runs that are read."""

WINDOW = 1 << 20
"""Largest number of storage bytes that one read of a gathered band takes."""

READ_COST = 8 << 10
"""Number of bytes that can be read in the time that another read takes to start: gaps up to this
size are read and dropped."""

SCATTERED = 8
"""A view is scattered if its extent in the storage is this many times its own size."""

MAX_REPEATED = 1 << 30
"""Size in bytes up to which a view that repeats its storage (`expand`) is streamed."""

MAX_REPEATED_IN_MEMORY = 1 << 28
"""Size in bytes up to which such a view is read into memory."""


def contiguous(tensor: Tensor) -> bytes:
    """Return the elements in C order, little-endian, as logical values (conj and neg applied); for
    a packed dtype the bytes that hold them. UnsupportedError if the tensor is not dense, has no
    bytes (meta), or repeats a few bytes until they exceed `MAX_REPEATED_IN_MEMORY`; DamagedError if
    the storage is too short."""
    if tensor.encoding is not None and tensor.storage is not None:
        return tensor.storage.read(0, tensor.storage.nbytes)  # as stored: torch lacks the type
    storage, dtype = dense_storage(tensor)
    low, high = bounds(tensor)
    if not tensor.numel:
        return b""
    _check_repetition(tensor, MAX_REPEATED_IN_MEMORY)
    size = dtype.itemsize
    data = storage.read(low * size, high * size)
    if storage.archive.byteorder == "big":
        data = swap_bytes(data, dtype.swap)
    is_cast = tensor.dtype is not None and tensor.dtype is not dtype
    if tensor.is_contiguous and not (is_cast or tensor.conj or tensor.neg):
        return data
    import numpy as np

    if not tensor.is_contiguous:
        assert tensor.storage_offset is not None and tensor.stride is not None
        # The stride of a dimension of length 1 may be any number.
        pairs = zip(tensor.stride, tensor.shape, strict=True)
        strides = [step * size if length > 1 else 0 for step, length in pairs]
        begin, element_type = (tensor.storage_offset - low) * size, np.dtype((np.void, size))
        data = np.ndarray(tensor.shape, element_type, data, begin, strides).tobytes()
    if tensor.dtype is not None and is_cast:
        return np.frombuffer(data, numpy_type(dtype)).astype(numpy_type(tensor.dtype)).tobytes()
    if not tensor.conj and not tensor.neg:
        return data
    if dtype.name == "complex32":
        values = np.frombuffer(data, "<f2").copy()
        values[1::2] *= -1 if tensor.conj else 1
    else:
        values = np.frombuffer(data, numpy_type(dtype))
        values = np.conj(values) if tensor.conj else values
    return (-values if tensor.neg else values).tobytes()


def iter_contiguous(tensor: Tensor, max_repeated: int | None = MAX_REPEATED) -> Iterator[bytes]:
    """Yield the bytes of `contiguous` in chunks of whole elements of about `CHUNK` bytes. A view
    that repeats its storage may have `max_repeated` bytes; None means any number."""
    if tensor.encoding is not None and tensor.storage is not None:
        yield from tensor.storage.chunks(0, tensor.storage.nbytes)
        return
    storage, dtype = dense_storage(tensor)
    low, high = bounds(tensor)
    size = dtype.itemsize
    is_converted = tensor.dtype is not dtype or tensor.conj or tensor.neg
    if tensor.is_contiguous and not is_converted:
        swap = dtype.swap if storage.archive.byteorder == "big" else 1
        for chunk in whole_elements(storage.chunks(low * size, high * size, CHUNK), size):
            yield chunk if swap == 1 else swap_bytes(chunk, swap)
        return
    if max_repeated is not None:
        _check_repetition(tensor, max_repeated)
    is_small = tensor.nbytes <= CHUNK and (high - low) * size <= SCATTERED * CHUNK
    if is_small or tensor.per_byte > 1 or min(tensor.stride or (0,)) < 0:
        yield contiguous(tensor)
        return
    if storage.file_offset is None:
        # A compressed record is unpacked from its start at each read: do that only once.
        data = storage.read(low * size, high * size)
        tensor = copy(tensor)
        tensor.storage = InlineStorage(storage.archive, data, storage.location)
        tensor.storage_offset = (tensor.storage_offset or 0) - low
    band = next(_bands(tensor, CHUNK))
    first, last = band.extent
    # Reading scattered bands one after the other, such as the rows of a transposed matrix, would
    # read the storage again and again.
    if last - first <= SCATTERED * band.numel:
        yield from map(contiguous, _bands(tensor, CHUNK))
        return
    storage, _ = dense_storage(tensor)
    read, offset, source = storage.read, storage.file_offset, storage.archive.source
    if offset is not None and not isinstance(storage, InlineStorage):
        # Called for thousands of small boxes: go to the source directly.
        read = lambda start, stop: source.read(offset + start, stop - start)  # noqa: E731
    for band in _bands(tensor, BAND):
        gathered = _gather_boxes(band, read)
        for begin in range(0, len(gathered), CHUNK):
            yield bytes(gathered[begin : begin + CHUNK])
        del gathered  # before the next band is gathered


def dense_storage(tensor: Tensor) -> tuple[Storage, DType]:
    """Return the storage of a dense tensor and the dtype of its elements there. UnsupportedError
    if the tensor consists of parts (sparse, nested) or has no bytes (meta)."""
    if tensor.storage is None or tensor.stored is None or tensor.stride is None:
        reason = "consists of parts" if tensor.parts else "has no bytes in the file"
        raise UnsupportedError(f"the tensor {reason} (layout {tensor.layout}, {tensor.device})")
    return tensor.storage, tensor.stored


def bounds(tensor: Tensor) -> tuple[int, int]:
    """Return `tensor.extent`, in bytes for a packed dtype, (0, 0) for a tensor without elements.
    DamagedError if it exceeds the storage; UnsupportedError for a packed tensor that does not
    consist of whole bytes."""
    storage, dtype = dense_storage(tensor)
    if not tensor.numel:
        return 0, 0  # it may point anywhere, also beyond an empty storage (`narrow`)
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
    return DamagedError(
        f"a tensor reaches beyond its storage {storage.key}: element {element:,} of "
        f"{storage.nbytes // itemsize:,}",
        where=Place(storage.archive.record, tensor.pickle_offset),
    )


def _check_repetition(tensor: Tensor, limit: int) -> None:
    storage, _ = dense_storage(tensor)
    if tensor.nbytes > max(limit, 16 * storage.nbytes):
        raise UnsupportedError(
            f"the view repeats {storage.nbytes:,} bytes until they are {tensor.nbytes:,}"
        )


def swap_bytes(data: bytes, unit: int) -> bytes:
    """Reverse the bytes within each `unit` bytes."""
    if unit == 1:
        return data
    swapped = bytearray(len(data))
    for index in range(unit):
        swapped[index::unit] = data[unit - 1 - index :: unit]
    return bytes(swapped)


def whole_elements(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the same bytes in chunks that end between elements of `size` bytes."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk if rest else chunk
        stop = len(data) - len(data) % size
        rest = data[stop:]
        if stop:
            yield data if stop == len(data) else data[:stop]


def aligned(first: Iterator[Any], second: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield two streams of bytes or arrays in pairs of pieces of equal length; at the end also what
    one of them has left."""
    first, second = filter(len, first), filter(len, second)
    a = b = b""
    while True:
        a = a if len(a) else next(first, b"")
        b = b if len(b) else next(second, b"")
        length = min(len(a), len(b))
        if not length:
            break
        yield a[:length], b[:length]
        a, b = a[length:], b[length:]
    if len(a) != len(b):
        yield a, b


def numpy_type(dtype: DType) -> np.dtype[np.generic]:
    """Return the little-endian type of numpy or ml_dtypes. UnsupportedError if neither has it."""
    import numpy as np

    if dtype.numpy is not None:
        return np.dtype(dtype.numpy).newbyteorder("<")
    import ml_dtypes

    kind = getattr(ml_dtypes, dtype.name, None) if dtype.kind == "float" else None
    if kind is None:
        raise UnsupportedError(f"numpy has no {dtype.name}", hint="read() gives the bytes")
    number: np.dtype[np.generic] = np.dtype(kind)
    return number


def _box(tensor: Tensor, first: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Return the part of a tensor that has this shape and begins at the indices `first`."""
    assert tensor.stride is not None and tensor.storage_offset is not None
    box = copy(tensor)
    box.shape = shape
    box.storage_offset = tensor.storage_offset + sum(map(mul, first, tensor.stride))
    return box


def _bands(tensor: Tensor, max_bytes: int) -> Iterator[Tensor]:
    """Yield parts that follow each other in C order, of about `max_bytes` each."""
    shape, row, axis = tensor.shape, tensor.nbytes // tensor.numel, len(tensor.shape) - 1
    while axis and row * shape[axis] <= max_bytes:
        row *= shape[axis]
        axis -= 1
    step, rest = max(max_bytes // row, 1), shape[axis + 1 :]
    for outer in product(*map(range, shape[:axis])):
        for begin in range(0, shape[axis], step):
            size = (*(1 for _ in outer), min(step, shape[axis] - begin), *rest)
            yield _box(tensor, (*outer, begin, *(0 for _ in rest)), size)


def _gather_boxes(band: Tensor, read: Callable[[int, int], bytes]) -> memoryview:
    """Lay out the elements of a band from boxes that are close together in the storage."""
    import numpy as np

    storage, dtype = dense_storage(band)
    assert band.storage_offset is not None and band.stride is not None
    is_converted = band.dtype is not dtype or band.conj or band.neg
    is_plain = not is_converted and storage.archive.byteorder != "big"
    size = dtype.itemsize if is_plain else band.nbytes // band.numel
    element_type, begin = np.dtype((np.void, size)), band.storage_offset * size
    gathered = np.empty(band.shape, element_type)
    strides = [step * size for step in band.stride]
    for first, shape in _boxes(band):
        if is_plain:
            low = begin + sum(map(mul, first, strides))
            high = low + required_numel(0, shape, band.stride) * size
            box = np.ndarray(shape, element_type, read(low, high), 0, strides)
        else:
            box = np.frombuffer(contiguous(_box(band, first, shape)), element_type)
            box = box.reshape(shape)
        gathered[tuple(map(slice, first, map(add, first, shape)))] = box
    return gathered.reshape(-1).view(np.uint8).data


def _boxes(band: Tensor) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the first indices and the shapes of boxes that together make up the band. Along
    dimensions with small strides a box is as long as `WINDOW` allows and as long as gaps are
    small; along all others its length is 1."""
    assert band.stride is not None
    size, strides = band.nbytes // band.numel, band.stride
    lengths = [1] * len(band.shape)
    extent = count = 1
    for axis in sorted(range(len(lengths)), key=lambda axis: strides[axis]):
        length, step = band.shape[axis], strides[axis]
        if length == 1:
            continue
        fitting = length if not step else (WINDOW // size - extent) // step + 1
        if (step - count) * size > READ_COST or fitting < 2:
            break
        lengths[axis] = min(length, fitting)
        extent += (lengths[axis] - 1) * step
        count *= lengths[axis]
        if lengths[axis] < length:
            break
    starts = (range(0, n, length) for n, length in zip(band.shape, lengths, strict=True))
    for first in product(*starts):
        ends = zip(first, lengths, band.shape, strict=True)
        yield first, tuple(min(length, n - index) for index, length, n in ends)


# --- indices of sparse tensors -------------------------------------------------------------


def leads_outside(tensor: Tensor) -> bool:
    """Return True if an index of a sparse tensor is not one of its rows, columns or values, or a
    part of a nested tensor reaches past its values. UnsupportedError if torch converts the indices
    first."""
    values = tensor.parts["values"]
    parts = [part for part in tensor.parts.values() if part is not values]
    numbers = []
    for part in parts:
        if part.dtype is None or part.dtype.name not in ("int32", "int64"):
            raise UnsupportedError("indices of another type, which torch converts")
        data = memoryview(contiguous(part))
        numbers.append(data.cast("i") if part.dtype.itemsize == 4 else data.cast("q"))
    if tensor.layout == "jagged":
        count = values.shape[tensor.shape.index(-1) - 1]
        if count > values.shape[0]:  # the dimension may be set after the call
            raise UnsupportedError("a nested tensor whose ragged dimension is not the first one")
        ends = [0, *numbers[0], count]
        return ends != sorted(ends) or any(
            not 0 <= length <= count - start
            for lengths in numbers[1:]
            for start, length in zip(ends[1:], lengths, strict=False)
        )
    count, batch = parts[-1].shape[-1], len(parts[0].shape) - 1
    if tensor.layout == "sparse_coo":
        numbers = [numbers[0][i * count : (i + 1) * count] for i in range(parts[0].shape[0])]
        sizes = tensor.shape[: len(numbers)]
    else:
        dims = [batch, batch + 1] if tensor.layout[-1] == "r" else [batch + 1, batch]
        blocks = values.shape[batch + 1 :] if tensor.layout[7] == "b" else (1, 1)
        lengths = [tensor.shape[dim] // blocks[dim - batch] for dim in dims]
        if parts[0].shape[-1] != lengths[0] + 1 or values.shape[: batch + 1] != parts[1].shape:
            return True
        sizes = (count + 1, lengths[1])
    return any(
        min(row, default=0) < 0 or max(row, default=-1) >= size
        for row, size in zip(numbers, sizes, strict=True)
    )
