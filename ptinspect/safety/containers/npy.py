"""Scan numpy's .npy: a header as a Python literal, then numbers, or a pickle of the elements.

Source: numpy/lib/format.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ptinspect.dtypes import numpy_itemsize
from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.formats.numpy_files import MAGIC, MAX_HEADER, header_bounds, is_shape, parse_header
from ptinspect.safety.containers.pickles import scan_pickles
from ptinspect.safety.scan_state import scan_member
from ptinspect.source.base import SliceSource

if TYPE_CHECKING:
    from ptinspect.safety.scan_state import ScanSource, ScanState
    from ptinspect.source.base import Source

_NUMBERS = re.compile(
    r"[<>=|]?(?:[?bBhHiIlLqQpPefdgFDG]|[biufc][0-9]{1,2}|[SUaV][0-9]{0,10}"
    r"|[Mm]8?(?:\[[0-9]*[a-zA-Z]{1,7}\])?)"
)


def scan_arrays(source: Source, state: ScanState, scan_source: ScanSource) -> None:
    """Scan one array after another: numpy.save appends them, numpy.load reads the next one."""
    offset = 0
    for _ in range(state.limits.streams):
        end = _scan_array(source, offset, state, scan_source)
        if end is None or end == source.size:
            return
        offset = end
        if offset > source.size:
            message = "the array is cut off: it has more elements than the file has bytes for"
            raise DamagedError(message, where=Place(state.record, source.size))
        if not _is_array_at(source, offset):
            left = source.size - offset
            state.find("trailing-bytes", f"{left:,} bytes follow the array", state.record)
            scan_member(state, SliceSource(source, offset, left), f"byte {offset}", scan_source)
            return
    where = Place(state.record, offset)
    raise LimitError("too many arrays in a row", limit="streams", where=where)


def _is_array_at(source: Source, offset: int) -> bool:
    return source.read(offset, min(len(MAGIC), source.size - offset)) == MAGIC


def _scan_array(
    source: Source, offset: int, state: ScanState, scan_source: ScanSource
) -> int | None:
    """Return the offset behind the array at `offset`, or None if no array follows it."""
    header = _read_header(SliceSource(source, offset, source.size - offset))
    if header.error is not None:
        state.errors.append(header.error)
    if header.pickle_offset is None:
        return None if header.end is None else offset + header.end
    data, start, stop = source.window()
    pickles = len(state.streams)
    skip = offset + header.pickle_offset
    scanner = scan_pickles(state, data, start, stop, state.record, skip=skip, until=MAGIC)
    state.format = "npy"
    scanner.scan_found(scan_source)
    end = state.streams[-1].end - start if len(state.streams) > pickles else source.size
    return end if _is_array_at(source, end) else None


@dataclass(frozen=True, slots=True)
class _Header:
    """Where the pickle of the elements begins (None for an array of numbers), where the numbers
    end, if that is known, and what is wrong; a pickle may follow all the same."""

    pickle_offset: int | None
    end: int | None
    error: DamagedError | None = None


def _read_header(source: Source) -> _Header:
    """Read the header, or raise DamagedError if it is cut off.

    numpy has several notations for a dtype, and its versions do not agree on them: anything but a
    plain notation for numbers counts as objects.
    """
    head = source.read(0, min(source.size, MAX_HEADER + 12))
    start, end = header_bounds(head)
    if len(head) < 12 or end > source.size:
        raise DamagedError("the array's header is cut off", where=Place(None, 8))
    if end - start > MAX_HEADER:
        error = DamagedError("the array's header is too long", where=Place(None, 8))
        return _Header(end, None, error)
    header = parse_header(head[:end])
    if not isinstance(header, dict):
        error = DamagedError("the array's header is not a dictionary", where=Place(None, start))
        return _Header(end, None, error)
    size = _item_size(header.get("descr"))
    if size is None:
        return _Header(end, None)
    shape = header.get("shape")
    if not is_shape(shape):
        error = DamagedError("the array's header has no shape", where=Place(None, start))
        return _Header(None, None, error)
    return _Header(None, end + prod(shape) * size)


def _item_size(descr: object) -> int | None:
    """Return the bytes of one element; None unless the dtype surely has only numbers and text.

    A dtype is a name, a pair of a dtype and a shape, or a list of fields.
    """
    waiting, total = [(descr, 1)], 0
    while waiting:
        dtype, count = waiting.pop()
        if isinstance(dtype, str) and _NUMBERS.fullmatch(dtype):
            total += count * (numpy_itemsize(dtype) or 0)
        elif isinstance(dtype, tuple) and len(dtype) == 2 and _is_sizes(dtype[1]):
            waiting.append((dtype[0], count * _element_count(dtype[1])))
        elif isinstance(dtype, list) and all(map(_is_field, dtype)):
            for field in dtype:
                repeat = _element_count(field[2]) if len(field) == 3 else 1
                waiting.append((field[1], count * repeat))
        else:
            return None
    return total


def _is_field(field: object) -> bool:
    """Return True for (name, dtype) and (name, dtype, shape); a name may be (title, name)."""
    if not isinstance(field, tuple) or len(field) not in (2, 3):
        return False
    names = field[0] if isinstance(field[0], tuple) else (field[0],)
    return (
        len(names) <= 2
        and all(isinstance(name, str) for name in names)
        and (len(field) == 2 or _is_sizes(field[2]))
    )


def _is_sizes(value: object) -> bool:
    return all(type(size) is int for size in (value if isinstance(value, tuple) else (value,)))


def _element_count(shape: int | tuple[int, ...]) -> int:
    return prod(shape if isinstance(shape, tuple) else (shape,))
