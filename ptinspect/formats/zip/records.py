"""The end of a zip: the record that says where its directory lies (APPNOTE.TXT 4.3.14 to 16)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place
from ptinspect.formats.archive import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.source.base import Source

CENTRAL = b"PK\x01\x02"
END = b"PK\x05\x06"
END64 = b"PK\x06\x06"
LOCATOR64 = b"PK\x06\x07"
FULL32 = 0xFFFFFFFF

_LENGTHS = Struct("<3H")
_EXTRA = Struct("<2H")
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


# ---


def read_rows(data: bytes, bounds: Bounds) -> list[tuple[int, ...]]:
    """The fixed fields, name and extra field of each entry.

    Entries whose names, extras and comments are equally long have one size, and are taken by
    one struct until an entry differs: torch's names ("data/10000" to "data/99999") come in a
    few such runs.
    """
    rows: list[tuple[int, ...]] = []
    view = memoryview(data)
    pos, count = 0, bounds.entries
    while len(rows) < count:
        lengths = data[pos + 28 : pos + 34]
        if len(lengths) < 6:
            raise _broken(bounds, len(rows), pos)
        shape = _SHAPES.get(lengths) or _shape(lengths)
        size = shape.size
        most = min(count - len(rows), (len(data) - pos) // size)
        before = len(rows)
        for row in shape.iter_unpack(view[pos : pos + most * size]):
            if row[6] != lengths or row[0] != CENTRAL:
                break
            rows.append(row)
        if len(rows) == before:
            raise _broken(bounds, before, pos)
        pos += (len(rows) - before) * size
    return rows


_SHAPES: dict[bytes, Struct] = {}
"""By the three lengths, as they stand in an entry; a folder's files have the same few."""


def _shape(lengths: bytes) -> Struct:
    """An entry's fixed fields, name and extra field."""
    name, extra, comment = _LENGTHS.unpack(lengths)
    if len(_SHAPES) >= 1 << 10:
        _SHAPES.clear()
    made = Struct(f"<4s4xHH4x3L6s8xL{name}s{extra}s{comment}x")
    return _SHAPES.setdefault(lengths, made)


def _broken(bounds: Bounds, index: int, pos: int) -> DamagedError:
    return DamagedError(
        f"the zip's directory breaks off at entry {index:,} of {bounds.entries:,}",
        where=Place(None, bounds.start + pos),
        hint=DOWNLOAD_AGAIN,
    )


def widen(
    packed: Sequence[int], sizes: Sequence[int], headers: Sequence[int], extras: Sequence[bytes]
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The same with the 64-bit values of the zip64 extra field (4.5.3) in place of each field
    that is all ones. They stand there in this order, only those that are needed."""
    if FULL32 not in sizes and FULL32 not in packed and FULL32 not in headers:
        return packed, sizes, headers
    columns = [list(sizes), list(packed), list(headers)]
    for i, extra in enumerate(extras):
        values = _zip64_field(extra)
        for column in columns:
            if column[i] == FULL32 and len(values) >= 8:
                column[i] = int.from_bytes(values[:8], "little")
                values = values[8:]
    return columns[1], columns[0], columns[2]


def _zip64_field(extra: bytes) -> bytes:
    """What the zip64 field among the extra fields holds; nothing if there is none."""
    pos = 0
    while pos + 4 <= len(extra):
        kind, size = _EXTRA.unpack_from(extra, pos)
        if kind == 1:
            return extra[pos + 4 : pos + 4 + size]
        pos += 4 + size
    return b""


def decode_names(raw: Sequence[bytes]) -> list[str]:
    """Names as text: utf-8, which torch writes whatever its flags say, else the zip's cp437."""
    try:
        names = b"\n".join(raw).decode().split("\n") if raw else []
        if len(names) == len(raw):
            return names
    except UnicodeDecodeError:
        pass
    return [decode_name(name) for name in raw]


def decode_name(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")
