"""The records of a zip file: the end of the directory, its entries, and local headers.

Source: PKWARE's APPNOTE.TXT, 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, PtInspectError
from ptinspect.formats.archive import Finding, StorageExtent, declared_storages, truncated_error
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.text import bounded_repr, printable_name, shell_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

LOCAL = b"PK\x03\x04"
CENTRAL = b"PK\x01\x02"
END = b"PK\x05\x06"
END64 = b"PK\x06\x06"
LOCATOR64 = b"PK\x06\x07"
DESCRIPTOR = b"PK\x07\x08"

LOCAL_HEADER = Struct("<4s2xHH4x3L2H")
"""Signature, flags, method, CRC, packed size, size, lengths of name and extra field."""

FULL32 = 0xFFFFFFFF

ENCRYPTED, DESCRIBED, UTF8 = 0x1, 0x8, 0x800

_END = Struct("<4s4H2LH")
_END64 = Struct("<4sQ2H2L4Q")
_LOCATOR64 = Struct("<4sLQL")
_LENGTHS = Struct("<3H")
_EXTRA = Struct("<2H")
_LONGEST_ENTRY = 46 + 3 * 0xFFFF
_TAIL = _END.size + 0xFFFF + 0x1000
"""Bytes in which an end record is searched: it, the longest comment, and what torch's reader
searches in addition."""


class Bounds(NamedTuple):
    """The place of the directory.

    Attributes:
        entries: number of entries.
        start, size: of the directory, in bytes.
        end: offset of the record that describes it (the zip64 one, if there is one), at which the
            directory should end.
        is_plain: True if no other reader can see another directory.
    """

    entries: int
    start: int
    size: int
    end: int
    findings: list[Finding]
    is_plain: bool = True


def has_end_record(source: Source) -> bool:
    """Return True if there is an end record. A truncated zip has none."""
    tail = source.read(max(source.size - _TAIL, 0), min(source.size, _TAIL))
    return tail.rfind(END, 0, max(len(tail) - _END.size + 4, 0)) >= 0


def bytes_before_zip(source: Source) -> int:
    """Return how many bytes a file has before its zip; 0 if no record begins after them."""
    start = next((start for start, _ in find_directories(source)), 0)
    return start if source.read(start, min(4, source.size - start)) == b"PK\3\4" else 0


def cut_command(path: str, length: int) -> str:
    """Return the command that writes a file without its first bytes."""
    return f"tail -c +{length + 1} {shell_word(path)} > model.pt"


def find_bounds(source: Source) -> Bounds:
    """Read the end record: the last in the file, as `zipfile` and torch's reader do, within its
    last 64 KiB. DamagedError if there is none, or it describes an impossible directory."""
    first = max(source.size - _TAIL, 0)
    tail = source.read(first, source.size - first)
    position = tail.rfind(END, 0, max(len(tail) - _END.size + 4, 0))
    if position < 0:
        raise DamagedError("the zip has no directory at its end", hint=DOWNLOAD_AGAIN)
    _, _, _, _, count, size, start, comment = _END.unpack_from(tail, position)
    end_record = end = first + position
    findings = []
    surplus = source.size - end - _END.size - comment
    if surplus:
        comparison = "more" if surplus > 0 else "fewer"
        message = f"{abs(surplus):,} bytes {comparison} than the end record announces"
        findings.append(Finding("zip-end", message, Place(None, end)))
    zip64 = _read_zip64(source, end)
    if zip64:
        narrow = (count & 0xFFFF, size, start)
        count, size, start, end = zip64
        fields = zip((count, size, start), narrow, (0xFFFF, FULL32, FULL32), strict=True)
        if any(short != full and short != wide & full for wide, short, full in fields):
            message = "its two end records disagree about the directory"
            findings.append(Finding("zip-end", message, Place(None, end)))
    if start + size > end:
        raise _moved_error(start, end - size, end)
    if not count * 46 <= size <= count * _LONGEST_ENTRY:
        raise DamagedError(
            f"the zip's directory cannot have {count:,} entries in {size:,} bytes",
            where=Place(None, start),
        )
    zip64_end = end_record - _LOCATOR64.size - _END64.size if zip64 else end
    for gap, offset in ((end - start - size, start + size), (zip64_end - end, end)):
        if gap > 0:
            message = f"{gap:,} bytes are between the directory and its end record"
            findings.append(Finding("zip-end", message, Place(None, offset)))
    is_plain = not findings and tail.find(END) == position
    return Bounds(count, start, size, end, findings, is_plain)


def find_directories(source: Source) -> Iterator[tuple[int, Bounds]]:
    """Yield (offset of the zip, bounds in it) of each directory that some reader would use.

    Readers differ in which end record they take: the last, or one whose comment ends with the file.
    """
    first = max(source.size - _TAIL, 0)
    tail = source.read(first, source.size - first)
    last = position = tail.rfind(END, 0, max(len(tail) - _END.size + 4, 0))
    seen: set[int] = set()
    counts: dict[int, tuple[int, int]] = {}
    while position >= 0:
        comment = int.from_bytes(tail[position + 20 : position + 22], "little")
        if position in (last, len(tail) - _END.size - comment):
            for start, place, count in find_zips_ending_at(source, first + position, counts):
                if place not in seen:
                    seen.add(place)
                    length = counts[place][1] - place
                    yield start, Bounds(count, place - start, length, place - start + length, [])
        position = tail.rfind(END, 0, position)


def find_zips_ending_at(
    source: Source, end: int, counts: dict[int, tuple[int, int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield (start, offset of the directory, entries in it) of the zips that readers see before the
    end record at `end`.

    They differ in which zip64 record they use (where the locator leads, or what precedes it), and
    in whether offsets count from the file's first byte or so that the directory ends at its record.
    `counts` keeps what `_count_entries` returned.
    """
    *_, size, start, _ = _END.unpack(source.read(end, _END.size))
    ends = [(size, start, end)]
    locator = end - _LOCATOR64.size
    if locator >= 0 and source.read(locator, 4) == LOCATOR64:
        _, _, offset, _ = _LOCATOR64.unpack(source.read(locator, _LOCATOR64.size))
        for place in (locator - _END64.size, offset):
            if 0 <= place <= locator - _END64.size and source.read(place, 4) == END64:
                *_, size, start = _END64.unpack(source.read(place, _END64.size))
                ends.insert(0, (size, start, place))
    for size, start, stop in ends:
        for place in dict.fromkeys((stop - size, start)):
            count, _ = _count_entries(source, place, counts)
            if count and place >= start:
                yield place - start, place, count


def _count_entries(
    source: Source, place: int, counts: dict[int, tuple[int, int]]
) -> tuple[int, int]:
    """Return how many entries follow one another at an offset, and where they end. `counts` keeps
    the answer for each entry, so that many end records cost no more than one."""
    buffer, base, stop = source.window()
    position, passed = place, []
    while position not in counts and 0 <= position <= stop - base - 46:
        start = base + position
        if buffer[start : start + 4] != CENTRAL:
            break
        passed.append(position)
        position += 46 + sum(_LENGTHS.unpack_from(buffer, start + 28))
    count, end = counts.get(position, (0, min(position, stop - base)))
    for position in reversed(passed):
        count += 1
        counts[position] = count, end
    return count, end


def _read_zip64(source: Source, end: int) -> tuple[int, int, int, int] | None:
    """Return (count, size, start, end) of the zip64 end record, which torch always writes; a
    locator before the end record at `end` leads to it."""
    if end < _LOCATOR64.size:
        return None
    sign, _, offset, _ = _LOCATOR64.unpack(source.read(end - _LOCATOR64.size, _LOCATOR64.size))
    if sign != LOCATOR64:
        return None
    sign = b""
    if offset + _END64.size <= end:
        record = source.read(offset, _END64.size)
        sign, _, _, _, _, _, _, count, size, start = _END64.unpack(record)
    if sign != END64:
        raise _moved_error(offset, end - _LOCATOR64.size - _END64.size, end)
    return count, size, start, offset


def _moved_error(recorded: int, actual: int, end: int) -> DamagedError:
    difference = f"{abs(recorded - actual):,} bytes"
    problem = "are missing" if recorded > actual else "were added"
    return DamagedError(
        f"{difference} {problem} before the zip's directory",
        where=Place(None, end),
        hint=DOWNLOAD_AGAIN,
    )


def is_concatenated(source: Source) -> bool:
    """Return True if another zip begins where the first one ends: torch.distributed.checkpoint
    calls torch.save several times on one open file."""
    buffer, start, stop = source.window()
    first = buffer.find(END, start, stop)
    if first < 0 or first + _END.size > stop:
        return False
    comment = int.from_bytes(buffer[first + 20 : first + 22], "little")
    end = first + _END.size + comment
    return bytes(buffer[end : min(end + 4, stop)]) == LOCAL


_LAYOUTS: dict[bytes, Struct] = {}
"""Cached by the three lengths in an entry; the files of a folder have the same few."""


def read_rows(data: bytes, bounds: Bounds) -> tuple[list[tuple[int, ...]], int]:
    """Return the fixed fields, name and extra field of each entry, and the size of all.

    Entries whose names, extra fields and comments have equal lengths have one size, and are read by
    one struct until an entry differs: torch's names ("data/10000" to "data/99999") come in a few
    such runs.
    """
    rows: list[tuple[int, ...]] = []
    view = memoryview(data)
    pos, count = 0, bounds.entries
    while len(rows) < count:
        lengths = data[pos + 28 : pos + 34]
        if len(lengths) < 6:
            raise _truncated_error(bounds, len(rows), pos)
        layout = _LAYOUTS.get(lengths)
        if layout is None:
            if len(_LAYOUTS) >= 1 << 10:
                _LAYOUTS.clear()
            name, extra, comment = _LENGTHS.unpack(lengths)
            layout = Struct(f"<4s4xHH4x3L6s8xL{name}s{extra}s{comment}x")
            _LAYOUTS[lengths] = layout
        size = layout.size
        limit = min(count - len(rows), (len(data) - pos) // size)
        before = len(rows)
        for row in layout.iter_unpack(view[pos : pos + limit * size]):
            if row[6] != lengths or row[0] != CENTRAL:
                break
            rows.append(row)
        if len(rows) == before:
            raise _truncated_error(bounds, before, pos)
        pos += (len(rows) - before) * size
    return rows, pos


def _truncated_error(bounds: Bounds, index: int, pos: int) -> DamagedError:
    return DamagedError(
        f"the zip's directory ends at entry {index:,} of {bounds.entries:,}",
        where=Place(None, bounds.start + pos),
        hint=DOWNLOAD_AGAIN,
    )


def apply_zip64(
    packed: Sequence[int], sizes: Sequence[int], headers: Sequence[int], extras: Sequence[bytes]
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Replace fields that are all ones by the 64-bit values of the zip64 extra field, which has
    only those that are needed, in the order size, packed size, offset of the local header."""
    if FULL32 not in sizes and FULL32 not in packed and FULL32 not in headers:
        return packed, sizes, headers
    columns = [list(sizes), list(packed), list(headers)]
    for i, extra in enumerate(extras):
        pos, values = 0, b""
        while pos + 4 <= len(extra):  # find the zip64 field among the extra fields
            kind, size = _EXTRA.unpack_from(extra, pos)
            if kind == 1:
                values = extra[pos + 4 : pos + 4 + size]
                break
            pos += 4 + size
        for column in columns:
            if column[i] == FULL32 and len(values) >= 8:
                column[i] = int.from_bytes(values[:8], "little")
                values = values[8:]
    return columns[1], columns[0], columns[2]


def decode_names(raw: Sequence[bytes]) -> list[str]:
    """Decode names: utf-8, which torch writes whatever its flags say, else the zip's cp437."""
    try:
        names = b"\n".join(raw).decode().split("\n") if raw else []
        if len(names) == len(raw):
            return names
    except UnicodeDecodeError:
        pass
    return [decode_name(name) for name in raw]


def decode_name(raw: bytes) -> str:
    """Decode one name; see `decode_names`."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


# A zip without its directory: the records that its local headers describe, from the front.
#
# torch's local headers contain no sizes. The data descriptor after a record (APPNOTE.TXT 4.3.9)
# does; it is found by its signature, and accepted if its size is the distance to the record's
# first byte.

_NEXT_SIGNATURES = (LOCAL, CENTRAL, END, END64, b"")

TRUNCATED = "the zip is truncated"


class LocalRecord(NamedTuple):
    """A record, or the beginning of one: where the bytes that are there start, how many they are,
    and whether that is all."""

    name: str
    method: int
    start: int
    size: int
    is_complete: bool


def iter_local_records(source: Source) -> Iterator[LocalRecord]:
    """Yield the records from the front of the file, up to the first that is incomplete."""
    buffer, base, end = source.window()
    pos = base
    while pos + 30 <= end and buffer[pos : pos + 4] == LOCAL:
        _, flags, method, _, packed, _, name_size, extra = LOCAL_HEADER.unpack_from(buffer, pos)
        if pos + 30 + name_size > end:
            return  # a truncated name may be another record's
        name = bytes(buffer[pos + 30 : pos + 30 + name_size]).decode("utf-8", "replace")
        begin = pos + 30 + name_size + extra
        if flags & DESCRIBED and not packed:
            stop, pos = _find_descriptor(buffer, begin, end)
        else:
            stop = pos = begin + packed
        is_complete = stop <= end
        yield LocalRecord(name, method, begin - base, max(min(stop, end) - begin, 0), is_complete)
        if not is_complete:
            return


def _find_descriptor(buffer: Buffer, begin: int, end: int) -> tuple[int, int]:
    """Return the end of the record at `begin`, and the end of its descriptor; both are after `end`
    if that is missing. Its sizes have 4 bytes, or 8 in a zip64."""
    pos = begin
    while True:
        pos = buffer.find(DESCRIPTOR, pos, end)
        if pos < 0:
            return end + 1, end + 1
        size = pos - begin
        if size == int.from_bytes(buffer[pos + 8 : pos + 12], "little"):
            wide = int.from_bytes(buffer[pos + 8 : pos + 16], "little") == size
            after = pos + 24 if wide and _is_header(buffer, pos + 24, end) else pos + 16
            if _is_header(buffer, after, end):
                return pos, after
        pos += 4


def _is_header(buffer: Buffer, pos: int, end: int) -> bool:
    """Return True if a header begins at `pos`, or the file ends within its signature."""
    sign = bytes(buffer[pos : min(pos + 4, end)])
    if sign in _NEXT_SIGNATURES:
        return True
    return pos + 4 > end and any(full.startswith(sign) for full in _NEXT_SIGNATURES)


def truncated_zip_error(source: Source, limits: Limits = LIMITS) -> PtInspectError:
    """Return the error for a zip without a directory: what is complete, and what is missing."""
    records = {record.name: record for record in iter_local_records(source)}
    if not records:
        return DamagedError(f"{TRUNCATED}: it contains no record", hint=DOWNLOAD_AGAIN)
    main = next((name for name in records if name.rpartition("/")[2] == "data.pkl"), None)
    if main is None:
        complete = sum(record.is_complete for record in records.values())
        last = bounded_repr(list(records)[-1])
        message = f"{TRUNCATED}: {complete:,} records are complete, the last one is {last}"
        return DamagedError(message, hint=DOWNLOAD_AGAIN)
    record = records[main]
    if record.method:
        message = f"{TRUNCATED}, and {printable_name(main)} is compressed, so it is not examined"
        return DamagedError(message, hint=DOWNLOAD_AGAIN)
    if not record.is_complete:
        message = f"{TRUNCATED} within {printable_name(main)}, after {record.size:,} bytes of it"
        return DamagedError(message, where=Place(main), hint=DOWNLOAD_AGAIN)
    try:
        pickled = run(source.read(record.start, record.size), record=main, limits=limits)
        declared = declared_storages(pickled)
    except PtInspectError as error:
        message = f"{TRUNCATED}, and {printable_name(main)} is damaged: {error.message}"
        return DamagedError(message, where=error.where, hint=DOWNLOAD_AGAIN)
    folder = main[: -len("data.pkl")]
    is_old = any(name.startswith(f"{folder}tensors/") for name in records)
    prefix = f"{folder}tensors/" if is_old else f"{folder}data/"
    extents = []
    for key, storage in declared.items():
        name = f"{prefix}{key}"
        present = records[name].size if name in records else None
        extents.append(StorageExtent(name, storage.nbytes, present))
    order = {name: number for number, name in enumerate(records)}
    extents.sort(key=lambda extent: order.get(extent.name, len(order)))
    return truncated_error(TRUNCATED, main, extents)


def combine_crcs(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two ranges of bytes, one after the other, from the CRC-32 of each and
    the length of the second one. Source: crc32_combine of zlib."""
    return _multiply(first, _power(length)) ^ second


@cache
def _power(length: int) -> int:
    """Return x ** (8 * length), by which so many bytes that follow multiply a CRC-32."""
    power, square = 1 << 31, 1 << 23
    while length:
        if length & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        length >>= 1
    return power


def _multiply(a: int, b: int) -> int:
    """Multiply polynomials modulo that of CRC-32. Bit 31 is the coefficient of x ** 0."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return product
