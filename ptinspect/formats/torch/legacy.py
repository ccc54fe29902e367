"""Files that are pickles: plain ones, and the stream of torch 0.1.11 to 1.5, and of
`_use_new_zipfile_serialization=False` today.

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

import re
from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.errors import (
    DOWNLOAD_AGAIN,
    DamagedError,
    FormatError,
    LimitError,
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
from ptinspect.formats.signatures import identify_text, unknown_format_error
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.opcodes import BY_CODE
from ptinspect.pickling.values import Inert
from ptinspect.text import bounded_repr, count_text

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
TRUNCATED = "the file is truncated"

_COUNT = Struct("<q")
_COUNT_BIG = Struct(">q")


def is_legacy(data: Buffer, start: int, stop: int) -> bool:
    """Return True if the first pickle is the magic number, in any pickle protocol."""
    try:
        return run(data, start, stop=min(stop, start + 64)).root == MAGIC
    except PtInspectError:
        return False


def read_legacy(source: Source, limits: Limits = LIMITS, record: str | None = None) -> Archive:
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
    archive = Archive(source, main, limits=limits, format="torch-legacy")
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


# Plain pickles
#
# From protocol 2 on a pickle announces itself. Protocols 0 and 1 begin with an opcode that may be
# the first letter of any text; such files are run, and the result decides.

_GLOBAL = rb"c[\w.]+\n[\w.]+\n"
_OLD_PICKLE = re.compile(
    rb"\([dl]?p\d+\n|\([dl]?q|\((?:I-?\d+|F[-+.\de]+|S'.*'|S\".*\")\n|\(?"
    + (_GLOBAL + rb"(?:p\d+\n|q.|r....|[().])")
    + rb"|[\]}]q",
    re.DOTALL,
)
"""The beginning of non-empty pickles of protocol 0 and 1."""

_LONG_RUN = 1000
"""Bytes of a pickle that other files do not contain by chance."""


def open_pickle(source: Source, head: bytes, limits: Limits) -> Archive:
    """Open a legacy stream or plain pickles. FormatError if it is something else; the message says
    what. Otherwise raises as `read_pickle`."""
    if is_legacy(*source.window()):
        return read_legacy(source, limits)
    from ptinspect.formats.joblib import WRAPPER, has_arrays, read_joblib

    if head[0] not in BY_CODE:
        raise _not_pickle_error(source, head)
    is_announced = head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5
    try:
        archive = read_pickle(source, limits)
        is_joblib = any(WRAPPER.fullmatch(name.path) for name in archive.pickled.globals)
    except (DamagedError, LimitError) as error:
        is_joblib = has_arrays(*source.window())
        if is_joblib:
            return read_joblib(source, limits)
        if is_announced or _OLD_PICKLE.match(head):
            raise
        is_long = error.where is not None and (error.where.offset or 0) >= _LONG_RUN
        if is_long and not identify_text(head, source.size):
            raise
        raise _not_pickle_error(source, head) from error
    if is_joblib:
        return read_joblib(source, limits)
    # a few bytes of any file may be a pickle of something small, followed by other bytes
    root = archive.root
    is_substantial = isinstance(root, (dict, list, tuple, Inert)) and bool(root)
    if not is_announced and archive.warnings and not is_substantial:
        raise _not_pickle_error(source, head)
    return archive


def read_pickle(source: Source, limits: Limits = LIMITS) -> Archive:
    """Read the pickles in `source`: `root` is the first one's value, `more_roots` has the others'.
    DamagedError if the first is damaged or a later one truncated, LimitError if there are too many.
    Other bytes after the last pickle are a warning."""
    data, start, stop = source.window()
    first = run(data, start, stop=stop, limits=limits)
    archive = Archive(source, first, limits=limits, format="pickle")
    archive.origin = None if source.base is None else source.base - start
    pos = first.end
    while pos < stop:
        if len(archive.streams) >= limits.streams:
            raise LimitError(
                f"more than {limits.streams:,} pickles in a row",
                limit="streams",
                where=Place(None, pos),
            )
        try:
            following = run(data, pos, stop=stop, limits=limits)
        except DamagedError:
            if data[pos] == 0x80 and stop - pos > 1 and data[pos + 1] in (2, 3, 4, 5):
                raise
            message = f"{stop - pos:,} bytes follow the pickle, which pickle.load does not read"
            archive.warnings.append(Finding("trailing-bytes", message, Place(None, pos)))
            break
        archive.streams.append(following)
        archive.more_roots.append(following.root)
        pos = following.end
    return archive


def _not_pickle_error(source: Source, head: bytes) -> FormatError:
    from ptinspect.formats.zip_records import bytes_before_zip, cut_command, has_end_record

    identity = identify_text(head, source.size)
    if identity:
        return identity.error(source.path)
    if has_end_record(source):
        message = "it contains a zip that does not begin at the start of the file: "
        length = bytes_before_zip(source)
        if length:
            message += f"{count_text(length, 'byte')} before it"
            return FormatError(message, hint=cut_command(source.path, length))
        message += "its first bytes are damaged"
        return FormatError(message, where=Place(None, 0), hint=DOWNLOAD_AGAIN)
    return unknown_format_error(head)
