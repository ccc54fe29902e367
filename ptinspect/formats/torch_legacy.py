"""The stream of torch 0.1.11 to 1.5, and of `_use_new_zipfile_serialization=False` today.

    pickle  0x1950a86a20f9469cfc6c      the magic number
    pickle  1001                        the protocol version
    pickle  {"protocol_version", "little_endian", "type_sizes"}
    pickle  the object; its storages are persistent ids
    pickle  ["KEY", …]                  the storages' keys, in the order in which they follow
    for each key: int64 number of elements, the elements

Where a storage lies thus knows only who has run the pickle: how many bytes an element has
stands in the persistent ids. Sources: `torch.serialization._legacy_save`, `_legacy_load`; for
the storages `THPStorage_writeFileRaw` in torch/csrc/serialization.cpp: the elements are always
little-endian, whatever `little_endian` says of the machine that wrote them; the count is, too,
but old versions on big-endian machines wrote it as it was.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, PtInspectError, UnsupportedError
from ptinspect.formats.archive import Archive, Finding, Span
from ptinspect.formats.persistent_ids import (
    Declared,
    Part,
    class_sources,
    declared_storages,
    truncated_error,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Buffer, Value
    from ptinspect.source.base import Source

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

_COUNT = Struct("<q")
_COUNT_BIG = Struct(">q")


class TorchLegacy(Archive):
    """See the module."""

    format = "torch-legacy"


def is_legacy(data: Buffer, start: int, stop: int) -> bool:
    """Whether the first pickle there is the magic number (in any pickle protocol)."""
    try:
        return run(data, start, stop=min(stop, start + 64)).root == MAGIC
    except PtInspectError:
        return False


def read_legacy(source: Source, limits: Limits = LIMITS, record: str | None = None) -> TorchLegacy:
    """The stream that `source` holds. `record`: the name of what it lies in, for messages.

    Raises DamagedError, with what is whole and what is missing, where the stream is cut off.
    """
    window = data, start, stop = source.window()

    def follow(pos: int) -> Pickled:
        return run(data, pos, stop=stop, record=record, limits=limits)

    magic = follow(start)
    if magic.root != MAGIC:
        raise DamagedError(
            "it does not begin with torch's magic number", where=Place(record, start)
        )
    protocol = follow(magic.end)
    if protocol.root != PROTOCOL:
        raise UnsupportedError(
            f"version {bounded_repr(protocol.root)} of the stream is unknown, {PROTOCOL} is read",
            where=Place(record, magic.end),
        )
    info = follow(protocol.end)
    main = follow(info.end)
    archive = TorchLegacy(source, main, limits=limits)
    archive.origin = None if source.base is None else source.base - start
    archive.version = str(PROTOCOL)
    archive.facts = {"sys_info": info.root}
    archive.sources = class_sources(main)
    wanted = declared_storages(main)
    try:
        keys = follow(main.end)
    except DamagedError as error:
        parts = [Part(bounded_repr(key), n * size, None) for key, (n, size) in wanted.items()]
        raise truncated_error("the file is cut off", "the object", parts) from error
    archive.streams = [magic, protocol, info, main, keys]
    archive.storages, end = locate_storages(window, source.base, keys, wanted)
    if end < stop:
        message = f"{stop - end:,} bytes follow the last storage, which torch.load does not read"
        archive.warnings.append(Finding("trailing-bytes", message, Place(record, end)))
    return archive


def locate_storages(
    window: tuple[Buffer, int, int], base: int | None, keys: Pickled, wanted: dict[object, Declared]
) -> tuple[dict[object, Span], int]:
    """The storages that follow the list of keys, and the offset behind the last of them.

    window: the bytes, where the file starts in them and where it stops; base: of its offsets in
    the file on the disk, None where it has none. wanted: what the object says of each storage.
    DamagedError where one is cut off, or is not as large as the object says.
    """
    data, start, stop = window
    names = _checked_keys(keys, wanted)
    found: dict[object, Span] = {}
    pos = keys.end
    for key in names:
        numel, itemsize = wanted[key]
        length = numel * itemsize
        if pos + 8 + length > stop:
            raise _cut(keys, names, wanted, stop)
        raw = data[pos : pos + 8]
        if _COUNT.unpack(raw)[0] != numel and _COUNT_BIG.unpack(raw)[0] != numel:
            raise DamagedError(
                f"the storage {bounded_repr(key)} has {_COUNT.unpack(raw)[0]:,} elements here,"
                f" {numel:,} where the object refers to it",
                where=Place(keys.record, pos),
                hint=f"bytes are missing or too many in front of it: {DOWNLOAD_AGAIN}",
            )
        found[key] = Span(keys.record, length, pos + 8 - start, base)
        pos += 8 + length
    return found, pos


def _checked_keys(keys: Pickled, wanted: dict[object, Declared]) -> list[str | int]:
    """The list of keys, if it is one: of storages that the object refers to, each once, all."""
    names: Value = keys.root
    place = Place(keys.record, keys.start)
    if not isinstance(names, list):
        raise DamagedError("the list of storages is no list", where=place)
    for key in names:
        if type(key) not in (str, int) or key not in wanted:
            raise DamagedError(
                f"storage {bounded_repr(key)} is listed, and the object does not refer to it",
                where=place,
            )
        if not wanted[key].itemsize:
            raise UnsupportedError(
                f"the storage {bounded_repr(key)} is of a class that torch does not have,"
                " so its bytes cannot be counted",
                where=place,
            )
    if len(set(names)) != len(names):
        raise DamagedError("the list of storages has one of them twice", where=place)
    if len(names) < len(wanted):
        listed = set(names)
        missing = next(key for key in wanted if key not in listed)
        raise DamagedError(
            f"{len(wanted) - len(names):,} of {len(wanted):,} storages are not listed,"
            f" {bounded_repr(missing)} the first",
            where=place,
            hint=DOWNLOAD_AGAIN,
        )
    return names


def _cut(
    keys: Pickled, names: list[str | int], wanted: dict[object, Declared], stop: int
) -> DamagedError:
    """The error for a stream that ends before its last storage does."""
    parts = []
    pos = keys.end
    for key in names:
        need = wanted[key].numel * wanted[key].itemsize
        left = stop - pos - 8
        parts.append(Part(bounded_repr(key), need, None if left < 0 else min(left, need)))
        pos += 8 + need
    return truncated_error("the file is cut off", "the object", parts)
