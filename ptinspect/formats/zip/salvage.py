"""A zip without its directory: what its local headers, read from the front, still tell.

torch's local headers hold no sizes. How long such a record is says the data descriptor
behind it (APPNOTE.TXT 4.3.9), which is found by its signature and believed where its size is
the distance to the record's first byte.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, PtInspectError
from ptinspect.formats.persistent_ids import Part, declared_storages, truncated_error
from ptinspect.formats.zip.directory import DESCRIBED, LOCAL
from ptinspect.formats.zip.records import CENTRAL
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.text import bounded_repr, printable_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

DESCRIPTOR = b"PK\x07\x08"
_LOCAL = Struct("<4s2xHH4x3L2H")
_FOLLOWS = (LOCAL, CENTRAL, b"PK\x05\x06", b"PK\x06\x06", b"")

CUT = "the zip is cut off"


class Left(NamedTuple):
    """A record that is still there, or the beginning of one. `start`: of its bytes; `size`: in
    the file, as far as it reaches; `whole`: nothing of it is missing."""

    name: str
    method: int
    start: int
    size: int
    whole: bool


def iter_local_records(source: Source) -> Iterator[Left]:
    """The records from the front of the file on, up to the first that is not whole."""
    buffer, base, end = source.window()
    pos = base
    while pos + 30 <= end and buffer[pos : pos + 4] == LOCAL:
        _, flags, method, _, packed, _, name, extra = _LOCAL.unpack_from(buffer, pos)
        if pos + 30 + name > end:
            return  # half a name may be another's
        text = bytes(buffer[pos + 30 : pos + 30 + name]).decode("utf-8", "replace")
        begin = pos + 30 + name + extra
        if flags & DESCRIBED and not packed:
            stop, pos = _described(buffer, begin, end)
        else:
            stop = pos = begin + packed
        whole = stop <= end
        yield Left(text, method, begin - base, max(min(stop, end) - begin, 0), whole)
        if not whole:
            return


def _described(buffer: Buffer, begin: int, end: int) -> tuple[int, int]:
    """Where the record at `begin` ends and what follows its descriptor begins; beyond `end` if
    the descriptor is not there. Its sizes have 4 bytes, or 8 in a zip64."""
    at = begin
    while True:
        at = buffer.find(DESCRIPTOR, at, end)
        if at < 0:
            return end + 1, end + 1
        size = at - begin
        if size == int.from_bytes(buffer[at + 8 : at + 12], "little"):
            wide = int.from_bytes(buffer[at + 8 : at + 16], "little") == size
            after = at + 24 if wide and _follows(buffer, at + 24, end) else at + 16
            if _follows(buffer, after, end):
                return at, after
        at += 4


def _follows(buffer: Buffer, at: int, end: int) -> bool:
    """Whether a header stands at `at`, or the file ends before one could."""
    found = bytes(buffer[at : min(at + 4, end)])
    return found in _FOLLOWS or (at + 4 > end and any(each.startswith(found) for each in _FOLLOWS))


def truncated_zip_error(source: Source, limits: Limits = LIMITS) -> PtInspectError:
    """The error for a zip without a directory: what it held, what is whole, what is missing."""
    left = {record.name: record for record in iter_local_records(source)}
    if not left:
        return DamagedError(f"{CUT}; not one record is there", hint=DOWNLOAD_AGAIN)
    main = next((name for name in left if name.rpartition("/")[2] == "data.pkl"), None)
    if main is None:
        return _cut_without_pickle(left)
    record = left[main]
    if record.method:
        return DamagedError(
            f"{CUT}; {printable_name(main)} is compressed, and not looked into", hint=DOWNLOAD_AGAIN
        )
    if not record.whole:
        size = f"{record.size:,} bytes of it are there"
        return DamagedError(
            f"{CUT} within {printable_name(main)}: {size}", where=Place(main), hint=DOWNLOAD_AGAIN
        )
    try:
        pickled = run(source.read(record.start, record.size), record=main, limits=limits)
        wanted = declared_storages(pickled)
    except PtInspectError as error:
        message = f"{CUT}, and {printable_name(main)} is damaged: {error.message}"
        return DamagedError(message, where=error.where, hint=DOWNLOAD_AGAIN)
    folder = main[: -len("data.pkl")]
    old = any(name.startswith(f"{folder}tensors/") for name in left)
    prefix = f"{folder}tensors/" if old else f"{folder}data/"
    parts = []
    for key, (numel, itemsize) in wanted.items():
        name = f"{prefix}{key}"
        have = left[name].size if name in left else None
        parts.append(Part(name, numel * itemsize, have))
    order = {name: number for number, name in enumerate(left)}
    parts.sort(key=lambda part: order.get(part.name, len(order)))
    return truncated_error(CUT, main, parts)


def _cut_without_pickle(left: dict[str, Left]) -> PtInspectError:
    """Some other zip, or one of torch's that ends before its first record is named."""
    whole = sum(record.whole for record in left.values())
    last = list(left)[-1]
    message = f"{CUT}: {whole:,} records are whole, the last that is there is {bounded_repr(last)}"
    return DamagedError(message, hint=DOWNLOAD_AGAIN)
