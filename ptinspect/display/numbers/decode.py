"""A tensor's elements as Python numbers, reading no more of the file than is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.dtypes import Number, can_decode, decoder
from ptinspect.errors import DamagedError, Place, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ptinspect.document.tensor import Tensor

GAP = 4096
"""Bytes that are read though nobody asked for them, where that saves a read of its own."""


def gather(tensor: Tensor, places: Iterable[int]) -> dict[int, Number]:
    """The elements at `places` of the storage (in elements), each read once.

    Raises UnsupportedError for a tensor without bytes or numbers, DamagedError where the
    storage is too short.
    """
    dtype, storage = tensor.stored or tensor.dtype, tensor.storage
    if dtype is None or storage is None:
        raise UnsupportedError("the tensor has no bytes in the file")
    decode = decoder(dtype, storage.archive.byteorder)
    size = dtype.itemsize
    wanted = sorted(set(places))
    if wanted and (wanted[0] < 0 or (wanted[-1] + 1) * size > storage.nbytes):
        raise DamagedError(
            f"a tensor reaches beyond its storage {storage.key}: element {wanted[-1]:,} of "
            f"{storage.nbytes // size:,}",
            where=Place(storage.archive.record, tensor.pickle_offset),
        )
    # What is compressed is unpacked from its beginning each time it is asked for.
    gap = GAP if storage.file_offset is not None else storage.nbytes
    found: dict[int, Number] = {}
    for run in _runs(wanted, max(gap // size, 1)):
        first = run[0]
        numbers = _decoded(storage.chunks(first * size, (run[-1] + 1) * size), decode, run, size)
        found.update(zip(run, numbers, strict=True))
    return {place: _logical(number, tensor) for place, number in found.items()}


def _logical(number: Number, tensor: Tensor) -> Number:
    """The value that torch shows where the conj or neg bit is set."""
    if tensor.conj and isinstance(number, complex):
        number = number.conjugate()
    return -number if tensor.neg else number


def _runs(places: list[int], gap: int) -> Iterable[list[int]]:
    """Places in groups between which at least `gap` elements lie."""
    run: list[int] = []
    for place in places:
        if run and place - run[-1] > gap:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _decoded(
    chunks: Iterable[bytes], decode: Callable[[bytes], list[Number]], run: list[int], size: int
) -> list[Number]:
    """The run's elements out of the bytes that begin with its first one, chunk by chunk."""
    wanted: list[bytes] = []
    at, next_ = 0, 0  # bytes passed; which of the run comes next
    held = b""
    for chunk in chunks:
        held = held + chunk if held else chunk
        while next_ < len(run):
            begin = (run[next_] - run[0]) * size - at
            if begin + size > len(held):
                break
            wanted.append(held[begin : begin + size])
            next_ += 1
        drop = min(len(held), (run[next_] - run[0]) * size - at) if next_ < len(run) else len(held)
        held, at = held[drop:], at + drop
    return decode(b"".join(wanted))


def number_of(tensor: Tensor) -> Number | None:
    """The number of a tensor of one element; None where it is not at hand."""
    if tensor.numel != 1 or tensor.storage is None or tensor.storage_offset is None:
        return None
    if not can_decode(tensor.stored or tensor.dtype) or tensor.quantizer or tensor.parts:
        return None
    return gather(tensor, [tensor.storage_offset])[tensor.storage_offset]
