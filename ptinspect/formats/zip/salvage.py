"""A zip without its directory: the records that its local headers describe, from the front.

torch's local headers contain no sizes. The data descriptor after a record (APPNOTE.TXT 4.3.9) does;
it is found by its signature, and accepted if its size is the distance to the record's first byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, PtInspectError
from ptinspect.formats.persistent_ids import StorageExtent, declared_storages, truncated_error
from ptinspect.formats.zip.directory import DESCRIBED
from ptinspect.formats.zip.records import CENTRAL, DESCRIPTOR, END, END64, LOCAL, LOCAL_HEADER
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.text import bounded_repr, printable_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

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
