"""The end of a zip: the record that says where its directory lies (APPNOTE.TXT 4.3.14 to 16)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, Place
from ptinspect.formats.archive import Finding
from ptinspect.formats.damage import DOWNLOAD_AGAIN

if TYPE_CHECKING:
    from ptinspect.source.base import Source

END = b"PK\x05\x06"
END64 = b"PK\x06\x06"
LOCATOR64 = b"PK\x06\x07"
FULL32 = 0xFFFFFFFF

_END = Struct("<4s4H2LH")
_END64 = Struct("<4sQ2H2L4Q")
_LOCATOR64 = Struct("<4sLQL")
_LONGEST_ENTRY = 46 + 3 * 0xFFFF
_TAIL = _END.size + 0xFFFF  # the record and the longest comment


class Bounds(NamedTuple):
    """Where the directory lies. `end`: offset of the record that says so (of the zip64 one,
    where there is one), at which the directory should end."""

    entries: int
    start: int
    size: int
    end: int
    findings: list[Finding]


def has_end_record(source: Source) -> bool:
    """Whether there is an end record at all; a zip that is cut off has none."""
    tail = source.read(max(source.size - _TAIL, 0), min(source.size, _TAIL))
    return tail.rfind(END, 0, max(len(tail) - _END.size + 4, 0)) >= 0


def find_end(source: Source) -> Bounds:
    """Reads the end record: the last in the file, as `zipfile` and torch's reader take it.

    Only the last 64 KiB are read, however large the file. Raises DamagedError if there is no
    record, or if what it says cannot be.
    """
    first = max(source.size - _TAIL, 0)
    tail = source.read(first, source.size - first)
    at = tail.rfind(END, 0, max(len(tail) - _END.size + 4, 0))
    if at < 0:
        raise DamagedError("the zip has no directory at its end", hint=DOWNLOAD_AGAIN)
    _, _, _, _, count, size, start, comment = _END.unpack_from(tail, at)
    end = first + at
    findings = []
    behind = source.size - end - _END.size - comment
    if behind:
        message = (
            f"{abs(behind):,} bytes {'more' if behind > 0 else 'fewer'} than the end record says"
        )
        findings.append(Finding("zip-end", message, Place(None, end)))
    wide = _zip64(source, end)
    if wide:
        narrow = (count & 0xFFFF, size, start)
        count, size, start, end = wide
        told = zip((count, size, start), narrow, (0xFFFF, FULL32, FULL32), strict=True)
        if any(n != full and n != w & full for w, n, full in told):
            message = "its two end records disagree about the directory"
            findings.append(Finding("zip-end", message, Place(None, end)))
    bounds = Bounds(count, start, size, end, findings)
    _plausible(bounds)
    last = first + at - _LOCATOR64.size - _END64.size if wide else end
    for gap, place in ((end - start - size, start + size), (last - end, end)):
        if gap > 0:
            message = f"{gap:,} bytes stand between the directory and its end record"
            findings.append(Finding("zip-end", message, Place(None, place)))
    return bounds


def _zip64(source: Source, end: int) -> tuple[int, int, int, int] | None:
    """(count, size, start, end) of the zip64 end record, if a locator in front of `end` tells
    of one. torch writes it always."""
    if end < _LOCATOR64.size:
        return None
    sign, _, at, _ = _LOCATOR64.unpack(source.read(end - _LOCATOR64.size, _LOCATOR64.size))
    if sign != LOCATOR64:
        return None
    sign = b""
    if at + _END64.size <= end:
        sign, _, _, _, _, _, _, count, size, start = _END64.unpack(source.read(at, _END64.size))
    if sign != END64:
        raise _moved(at, end - _LOCATOR64.size - _END64.size, end)
    return count, size, start, at


def _plausible(bounds: Bounds) -> None:
    """DamagedError unless a directory of that size can lie there and hold so many entries."""
    if bounds.start + bounds.size > bounds.end:
        raise _moved(bounds.start, bounds.end - bounds.size, bounds.end)
    if not bounds.entries * 46 <= bounds.size <= bounds.entries * _LONGEST_ENTRY:
        raise DamagedError(
            f"the zip's directory cannot hold {bounds.entries:,} entries in {bounds.size:,} bytes",
            where=Place(None, bounds.start),
        )


def _moved(told: int, real: int, end: int) -> DamagedError:
    """The error for a part that lies at `real`, and was at `told` when the zip was written."""
    how = "missing" if told > real else "too many"
    return DamagedError(
        f"{abs(told - real):,} bytes are {how} in front of the zip's directory",
        where=Place(None, end),
        hint=DOWNLOAD_AGAIN,
    )


def several(source: Source) -> bool:
    """Whether another zip begins where the first one ends: torch.save was called more than once
    on one open file, as torch.distributed.checkpoint does."""
    buffer, start, stop = source.window()
    first = buffer.find(END, start, stop)
    if first < 0 or first + _END.size > stop:
        return False
    comment = int.from_bytes(buffer[first + 20 : first + 22], "little")
    after = first + _END.size + comment
    return bytes(buffer[after : min(after + 4, stop)]) == b"PK\x03\x04"
