"""A tensor's values in C order, a part at a time: neither the tensor nor what lies between its
elements is held as a whole, whichever way its strides go."""

from __future__ import annotations

from itertools import product
from operator import add, mul
from typing import TYPE_CHECKING

from ptinspect.document.to_array import bounds, contiguous

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ptinspect.document.tensor import Tensor

    Read = Callable[[int, int], bytes]

CHUNK = 1 << 20
"""Bytes that are handed on at a time."""

BAND = 8 << 20
"""Bytes that are laid out at a time where they are gathered from all over a storage: the larger,
the longer the runs of bytes that are read."""

WINDOW = 1 << 20
"""Bytes of the storage that are read at once for that."""

PRICE = 8 << 10
"""Bytes that are read in the time that another read takes to begin: so many may be in vain."""

SCATTERED = 8
"""How many times as long as its elements a part may reach, to be read from end to end."""


def laid_out(tensor: Tensor) -> Iterator[bytes]:
    """The values in C order, little-endian, in pieces of about `CHUNK` bytes.

    UnsupportedError for a tensor of parts and for one without bytes; DamagedError where the
    storage is too short.
    """
    simple = tensor.stride and tensor.storage and min(tensor.stride) >= 0 and tensor.per_byte == 1
    if not simple or (tensor.nbytes <= CHUNK and _reach(tensor) <= SCATTERED * CHUNK):
        yield contiguous(tensor)
        return
    if not _is_scattered(next(_bands(tensor, CHUNK))):
        yield from map(contiguous, _bands(tensor, CHUNK))
        return
    read = _reader(tensor)
    for band in _bands(tensor, BAND):
        raw = _gathered(band, read)
        for begin in range(0, len(raw), CHUNK):
            yield bytes(raw[begin : begin + CHUNK])


def _part(tensor: Tensor, first: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """The box of that shape whose first element has those indices."""
    from copy import copy

    assert tensor.stride is not None and tensor.storage_offset is not None
    part = copy(tensor)
    part.shape = shape
    part.storage_offset = tensor.storage_offset + sum(
        a * b for a, b in zip(first, tensor.stride, strict=True)
    )
    return part


def _bands(tensor: Tensor, most: int) -> Iterator[Tensor]:
    """The tensor in parts that follow each other in C order, of about that many bytes."""
    shape, row, at = tensor.shape, tensor.nbytes // tensor.numel, len(tensor.shape) - 1
    while at and row * shape[at] <= most:
        row *= shape[at]
        at -= 1
    step, rest = max(most // row, 1), shape[at + 1 :]
    for outer in product(*map(range, shape[:at])):
        for begin in range(0, shape[at], step):
            size = (*(1 for _ in outer), min(step, shape[at] - begin), *rest)
            yield _part(tensor, (*outer, begin, *(0 for _ in rest)), size)


def _reach(tensor: Tensor) -> int:
    """Bytes of the storage from the first element to the last."""
    low, high = tensor.extent
    return (high - low) * (tensor.stored.itemsize if tensor.stored else 1)


def _is_scattered(part: Tensor) -> bool:
    """Whether a few rows lie all over the storage, as those of a transposed matrix do, so that
    reading them one after the other would read it again and again."""
    low, high = part.extent
    return high - low > SCATTERED * part.numel


def _reader(tensor: Tensor) -> Read:
    """How bytes of the storage are had: from the file, where they lie there as they are, else from
    what was unpacked of it once."""
    storage, dtype = tensor.storage, tensor.stored
    assert storage is not None and dtype is not None
    low, high = (at * dtype.itemsize for at in bounds(tensor, storage, dtype))
    span = storage.archive.storages.get(storage.key)
    if span is not None and span.offset is not None:
        begin, source = span.offset + storage.begin, storage.archive.source
        return lambda start, stop: source.read(begin + start, stop - start)
    held = storage.read(low, high)
    return lambda start, stop: held[start - low : stop - low]


def _gathered(band: Tensor, read: Read) -> memoryview:
    """The elements of a part, from boxes that lie close together in the storage."""
    import numpy as np

    storage, dtype = band.storage, band.stored
    assert storage is not None and dtype is not None and band.stride is not None
    assert band.storage_offset is not None
    plain = band.dtype is dtype and not band.conj and not band.neg
    plain = plain and storage.archive.byteorder != "big"
    size = dtype.itemsize if plain else band.nbytes // band.numel
    unit, begin = np.dtype((np.void, size)), band.storage_offset * size
    made = np.empty(band.shape, unit)
    steps = [step * size for step in band.stride]
    for first, shape in _boxes(band):
        if plain:
            low = begin + sum(map(mul, first, steps))
            raw = read(
                low, low + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) + size
            )
            values = np.ndarray(shape, unit, raw, 0, steps)
        else:
            values = np.frombuffer(contiguous(_part(band, first, shape)), unit).reshape(shape)
        made[tuple(map(slice, first, map(add, first, shape)))] = values
    return made.reshape(-1).view(np.uint8).data


def _boxes(band: Tensor) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """First indices and shapes of the boxes: along the dimensions whose steps are small as far as
    `WINDOW` reaches and little between the elements is read for nothing, 1 along the others."""
    assert band.stride is not None
    size = band.nbytes // band.numel
    counts = [1] * len(band.shape)
    reach = held = 1
    for at in sorted(range(len(counts)), key=lambda at: band.stride[at]):  # type: ignore[index]
        length, step = band.shape[at], band.stride[at]
        if length == 1:
            continue
        fit = length if not step else (WINDOW // size - reach) // step + 1
        if (step - held) * size > PRICE or fit < 2:
            break
        counts[at] = min(length, fit)
        reach += (counts[at] - 1) * step
        held *= counts[at]
        if counts[at] < length:
            break
    starts = (range(0, n, count) for n, count in zip(band.shape, counts, strict=True))
    for first in product(*starts):
        ends = zip(first, counts, band.shape, strict=True)
        yield first, tuple(min(count, n - at) for at, count, n in ends)
