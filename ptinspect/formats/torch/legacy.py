"""The stream of torch 0.1.11 to 1.5, and of `_use_new_zipfile_serialization=False` today.

    pickle  0x1950a86a20f9469cfc6c      the magic number
    pickle  1001                        the protocol version
    pickle  {"protocol_version", "little_endian", "type_sizes"}
    pickle  the object; its storages are persistent ids
    pickle  ["KEY", …]                  the storages' keys, in the order in which they follow
    for each key: int64 number of elements, the elements

A storage can only be located after running the pickle, because the element size is recorded in the
persistent ids. Sources: `torch.serialization._legacy_save`, `_legacy_load`; for the storages
`THPStorage_writeFileRaw` in torch/csrc/serialization.cpp: the elements are always little-endian,
whatever `little_endian` says of the machine that wrote them. So is the count, except in old
versions on big-endian machines.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.errors import (
    DOWNLOAD_AGAIN,
    DamagedError,
    Place,
    PtInspectError,
    UnsupportedError,
)
from ptinspect.formats.archive import (
    Archive,
    Declared,
    Finding,
    Span,
    StorageExtent,
    class_sources,
    declared_storages,
    truncated_error,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
TRUNCATED = "the file is truncated"

_COUNT = Struct("<q")
_COUNT_BIG = Struct(">q")


class TorchLegacy(Archive):
    """A legacy stream; see the module's docstring."""

    format = "torch-legacy"


def is_legacy(data: Buffer, start: int, stop: int) -> bool:
    """Return True if the first pickle is the magic number, in any pickle protocol."""
    try:
        return run(data, start, stop=min(stop, start + 64)).root == MAGIC
    except PtInspectError:
        return False


def read_legacy(source: Source, limits: Limits = LIMITS, record: str | None = None) -> TorchLegacy:
    """Read the stream in `source`; DamagedError if it is truncated (the message says what is
    complete). `record` names what contains it, for errors."""
    window = data, start, stop = source.window()

    def run_next(pos: int) -> Pickled:
        return run(data, pos, stop=stop, record=record, limits=limits)

    magic = run_next(start)
    if magic.root != MAGIC:
        raise DamagedError(
            "it does not begin with torch's magic number", where=Place(record, start)
        )
    protocol = run_next(magic.end)
    if protocol.root != PROTOCOL:
        raise UnsupportedError(
            f"unknown version {bounded_repr(protocol.root)} of the legacy format,"
            f" only {PROTOCOL} is supported",
            where=Place(record, magic.end),
        )
    info = run_next(protocol.end)
    main = run_next(info.end)
    archive = TorchLegacy(source, main, limits=limits)
    archive.origin = None if source.base is None else source.base - start
    archive.version = str(PROTOCOL)
    archive.facts = {"sys_info": info.root}
    archive.sources = class_sources(main)
    storages = declared_storages(main)
    try:
        keys = run_next(main.end)
    except DamagedError as error:
        extents = [
            StorageExtent(bounded_repr(key), storage.nbytes, None)
            for key, storage in storages.items()
        ]
        raise truncated_error(TRUNCATED, "the object", extents) from error
    archive.streams = [magic, protocol, info, main, keys]
    archive.storages, end = locate_storages(window, source.base, keys, storages)
    if end < stop:
        message = f"{stop - end:,} bytes follow the last storage, which torch.load does not read"
        archive.warnings.append(Finding("trailing-bytes", message, Place(record, end)))
    return archive


def locate_storages(
    window: tuple[Buffer, int, int],
    base: int | None,
    keys: Pickled,
    storages: dict[object, Declared],
) -> tuple[dict[object, Span], int]:
    """Return the byte ranges of the storages that follow the list of `keys`, and the offset after
    the last. DamagedError if one is truncated, or its size differs from the object's reference.

    `window` is the bytes, and where the file starts and stops in them; `base` the offset of its
    first byte in the user's file, or None.
    """
    data, start, stop = window
    names = _check_keys(keys, storages)
    spans: dict[object, Span] = {}
    pos = keys.end
    for key in names:
        length = storages[key].nbytes
        if pos + 8 + length > stop:
            extents, begin = [], keys.end
            for name in names:
                expected, left = storages[name].nbytes, stop - begin - 8
                present = None if left < 0 else min(left, expected)
                extents.append(StorageExtent(bounded_repr(name), expected, present))
                begin += 8 + expected
            raise truncated_error(TRUNCATED, "the object", extents)
        raw = data[pos : pos + 8]
        numel = storages[key].numel
        if _COUNT.unpack(raw)[0] != numel and _COUNT_BIG.unpack(raw)[0] != numel:
            raise DamagedError(
                f"the storage {bounded_repr(key)} has {_COUNT.unpack(raw)[0]:,} elements,"
                f" but the object refers to {numel:,}",
                where=Place(keys.record, pos),
                hint=f"bytes before it are missing or were added: {DOWNLOAD_AGAIN}",
            )
        spans[key] = Span(keys.record, length, pos + 8 - start, base)
        pos += 8 + length
    return spans, pos


def _check_keys(keys: Pickled, storages: dict[object, Declared]) -> list[str | int]:
    """Return the keys if they are a list of exactly the storages that the object refers to."""
    names = keys.root
    place = Place(keys.record, keys.start)
    if not isinstance(names, list):
        raise DamagedError("the list of storages is not a list", where=place)
    for key in names:
        if type(key) not in (str, int) or key not in storages:
            raise DamagedError(
                f"the storage {bounded_repr(key)} is listed, but the object does not refer to it",
                where=place,
            )
        if not storages[key].itemsize:
            raise UnsupportedError(
                f"the storage {bounded_repr(key)} is of a class that torch does not have,"
                " so its size is unknown",
                where=place,
            )
    listed = set(names)
    if len(listed) != len(names):
        raise DamagedError("the list of storages contains one of them twice", where=place)
    if len(names) < len(storages):
        missing = next(key for key in storages if key not in listed)
        raise DamagedError(
            f"{len(storages) - len(names):,} of {len(storages):,} storages are not listed,"
            f" first {bounded_repr(missing)}",
            where=place,
            hint=DOWNLOAD_AGAIN,
        )
    return names
