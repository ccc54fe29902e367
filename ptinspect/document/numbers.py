"""Single elements of a tensor as Python numbers, reading as little of the file as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.dtypes import Number, can_decode, decoder
from ptinspect.errors import DamagedError, Place, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ptinspect.document.tensor import Tensor

MAX_GAP = 4096
"""Bytes between two elements that are read along rather than skipped with a second read."""


def read_elements(tensor: Tensor, indices: Iterable[int]) -> dict[int, Number]:
    """Return the elements at these indices of the tensor's storage, counted in elements.

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
        raise DamagedError(
            f"a tensor reaches beyond its storage {storage.key}: element {ordered[-1]:,} of "
            f"{storage.nbytes // size:,}",
            where=Place(storage.archive.record, tensor.pickle_offset),
        )
    # A compressed record is decompressed from its start by every read: read once.
    max_gap = MAX_GAP if storage.file_offset is not None else storage.nbytes
    elements: dict[int, Number] = {}
    for run in _runs(ordered, max(max_gap // size, 1)):
        chunks = storage.chunks(run[0] * size, (run[-1] + 1) * size)
        raw = _pick(chunks, [(index - run[0]) * size for index in run], size)
        elements.update(zip(run, decode(raw), strict=True))
    return {index: _logical_value(number, tensor) for index, number in elements.items()}


def _runs(indices: list[int], max_gap: int) -> Iterator[list[int]]:
    """Split sorted indices where more than `max_gap` elements lie between two."""
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


def _logical_value(number: Number, tensor: Tensor) -> Number:
    """Return the value that torch shows if the conj or neg bit is set."""
    if tensor.conj and isinstance(number, complex):
        number = number.conjugate()
    return -number if tensor.neg else number


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
