"""Scan numpy's .npy: a header as a Python literal, then numbers, or a pickle of the elements.

Source: numpy/lib/format.py.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.formats.numpy_files import (
    MAGIC,
    MAX_HEADER,
    header_bounds,
    is_shape,
    item_size,
    parse_header,
)
from ptinspect.safety.containers.pickles import scan_pickles
from ptinspect.safety.scan_state import scan_member
from ptinspect.source.base import SliceSource

if TYPE_CHECKING:
    from ptinspect.safety.scan_state import ScanState
    from ptinspect.source.base import Source


def scan_arrays(source: Source, state: ScanState) -> None:
    """Scan one array after another: numpy.save appends them, numpy.load reads the next one."""
    offset = 0
    for _ in range(state.limits.streams):
        end = _scan_array(source, offset, state)
        if end is None or end == source.size:
            return
        offset = end
        if offset > source.size:
            message = "the array is cut off: it has more elements than the file has bytes for"
            raise DamagedError(message, where=Place(state.record, source.size))
        if not _is_array_at(source, offset):
            left = source.size - offset
            state.find("trailing-bytes", f"{left:,} bytes follow the array", state.record)
            scan_member(state, SliceSource(source, offset, left), f"byte {offset}")
            return
    where = Place(state.record, offset)
    raise LimitError("too many arrays in a row", limit="streams", where=where)


def _is_array_at(source: Source, offset: int) -> bool:
    return source.read(offset, min(len(MAGIC), source.size - offset)) == MAGIC


def _scan_array(source: Source, offset: int, state: ScanState) -> int | None:
    """Return the offset behind the array at `offset`, or None if no array follows it."""
    begin, nbytes = _read_header(SliceSource(source, offset, source.size - offset), state)
    begin += offset
    if nbytes is not None:
        return begin + nbytes
    data, start, stop = source.window()
    pickles = len(state.streams)
    scanner = scan_pickles(state, data, start, stop, state.record, skip=begin, until=MAGIC)
    state.format = "npy"
    scanner.scan_found()
    end = state.streams[-1].end - start if len(state.streams) > pickles else source.size
    return end if _is_array_at(source, end) else None


def _read_header(source: Source, state: ScanState) -> tuple[int, int | None]:
    """Return where the elements begin, and how many bytes they are; None for a pickle of them.

    numpy has several notations for a dtype, and its versions do not agree on them: anything but a
    plain notation for numbers counts as objects. So does what follows a header that is an error of
    `state`.

    Raises:
        DamagedError: the header is cut off, or has no shape.
    """
    head = source.read(0, min(source.size, MAX_HEADER + 12))
    start, end = header_bounds(head)
    if len(head) < 12 or end > source.size:
        raise DamagedError("the array's header is cut off", where=Place(None, 8))
    header = parse_header(head[:end]) if end - start <= MAX_HEADER else None
    if not isinstance(header, dict):
        message = "the array's header is too long, or not a dictionary"
        state.errors.append(DamagedError(message, where=Place(None, start)))
        return end, None
    size, shape = item_size(header.get("descr")), header.get("shape")
    if size is None:
        return end, None
    if not is_shape(shape):
        raise DamagedError("the array's header has no shape", where=Place(None, start))
    return end, prod(shape) * size
