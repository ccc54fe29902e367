"""The directory of a zip file, read by hand: what it lists, where each record's bytes lie,
and everything in it that does not add up.

By hand, because `zipfile` needs three times as long and is silent about what a hostile file
does: names listed twice, entries that overlap, a local header that says something else than
the directory. Source: PKWARE's APPNOTE.TXT, 4.3 to 4.5.

torch writes zips through miniz (`caffe2/serialize/inline_container.cc`): stored, the bytes
aligned by an extra field "FB" that only the local header has, local CRC and sizes zero, the
true ones in a data descriptor behind the bytes. So where the bytes begin stands in the local
header alone, which is read when somebody asks.
"""

from __future__ import annotations

import re
from itertools import repeat
from operator import add, le
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import CHUNK, Finding, pieces
from ptinspect.formats.damage import DOWNLOAD_AGAIN, said
from ptinspect.formats.zip.end import FULL32, Bounds, find_end
from ptinspect.formats.zip.entry import DEFLATED, STORED, Entry, inflated, part
from ptinspect.limits import LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

LOCAL = b"PK\x03\x04"
CENTRAL = b"PK\x01\x02"

ENCRYPTED, DESCRIBED, UTF8 = 0x1, 0x8, 0x800
SECRET = ENCRYPTED | 0x40 | 0x2000  # also strong encryption, and a masked directory
KNOWN_FLAGS = ENCRYPTED | DESCRIBED | UTF8 | 0x6  # 0x6: how hard deflate tried

_SMALL_PICKLE = 16 << 20
"""Bytes up to which a compressed pickle may be as dense as deflate can make it."""

_LENGTHS = Struct("<3H")
_LOCAL = Struct("<4s2xHH4x3L2H")
_EXTRA = Struct("<2H")
_BAD_NAME = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|[\x00-\x1f\x7f\\]")


class ZipDirectory:
    """All entries of a zip, as columns in the order of the directory: `names`, `sizes`, ….

    index: by name; of a name that is listed twice the last, as `zipfile` has it. stops[i]:
    where the next record, or the directory, begins. findings: what does not add up, as far as
    the directory alone tells (`check_local` reads the local header too); the gravest come first,
    and `limits.warnings` of them are kept.

    Raises DamagedError where there is no directory or it breaks off, LimitError.
    """

    def __init__(self, source: Source, limits: Limits = LIMITS) -> None:
        self.source = source
        self.limits = limits
        self.bounds: Bounds = find_end(source)
        self.findings: list[Finding] = list(self.bounds.findings)
        if self.bounds.entries > limits.zip_entries:
            raise LimitError(
                f"the zip lists {self.bounds.entries:,} entries, above {limits.zip_entries:,}",
                limit="zip_entries",
            )
        rows = _rows(source.read(self.bounds.start, self.bounds.size), self.bounds)
        columns: list[tuple[int, ...]] = list(zip(*rows, strict=True)) or [()] * 10
        _, self.flags, self.methods, self.crcs, packed, sizes, _, headers, raw, extras = columns
        self.raw_names: tuple[bytes, ...] = raw  # type: ignore[assignment]
        wide = _widened(packed, sizes, headers, extras)  # type: ignore[arg-type]
        self.packed, self.sizes, self.headers = wide
        self.names = _names(self.raw_names)
        self.index = dict(zip(self.names, range(len(rows)), strict=True))
        self.stops = self._stops()
        self._heads: tuple[Buffer, int] | None = None
        self._look()

    def __len__(self) -> int:
        return len(self.names)

    def entry(self, index: int) -> Entry:
        """The line with that number, from 0."""
        return Entry(
            index,
            self.names[index],
            self.flags[index],
            self.methods[index],
            self.crcs[index],
            self.packed[index],
            self.sizes[index],
            self.headers[index],
        )

    @property
    def has_crcs(self) -> bool:
        """False where the writer left them out: torch.serialization.set_crc32_options(False)
        makes them all zero."""
        return any(self.crcs)

    # --- what the directory alone tells ---------------------------------------------------

    def _stops(self) -> Sequence[int]:
        """For each entry the start of what follows it in the file."""
        end = self.bounds.start
        ordered = sorted(self.headers)
        if ordered == list(self.headers):
            return (*self.headers[1:], end)
        # backwards, so that of two entries at one place each is followed by the other at once
        after = dict(zip(reversed(ordered), [end, *reversed(ordered[1:])], strict=True))
        return [after[header] for header in self.headers]

    def _look(self) -> None:
        """Fills `findings`. Each question is asked of a whole column first: honest files,
        large ones too, have nothing to find, and should not wait for it."""
        ends = map(add, map(add, self.headers, self.packed), map(len, self.raw_names))
        if not all(map(le, map(add, ends, repeat(30)), self.stops)):
            self._look_at_places()
        if len(self.index) < len(self.names):
            self._look_at_names_listed_twice()
        if not set(self.flags) <= {0, DESCRIBED, UTF8, DESCRIBED | UTF8}:
            self._look_at_flags()
        if not set(self.methods) <= {STORED, DEFLATED}:
            for i, method in enumerate(self.methods):
                if method not in (STORED, DEFLATED):
                    self._find("zip-compression", f"unknown compression {method}", i)
        if not _all_plain(self.names):
            for i, name in enumerate(self.names):
                if _BAD_NAME.search(name):
                    self._find("zip-name", f"the name {bounded_repr(name)} leads elsewhere", i)
        if self.names and min(self.headers) > 0:
            message = f"{min(self.headers):,} bytes stand in front of the first entry"
            self.findings.append(Finding("zip-prefix", message, Place(None, 0)))

    def _look_at_places(self) -> None:
        order = sorted(range(len(self.names)), key=self.headers.__getitem__)
        reach, owner = 0, -1
        for i in order:
            at = self.headers[i]
            stop = at + 30 + len(self.raw_names[i]) + self.packed[i]
            if at < reach:
                other = self.names[owner]
                self._find("zip-overlap", f"it lies on the bytes of {bounded_repr(other)}", i)
            if stop > self.bounds.start:
                over = stop - self.bounds.start
                self._find(
                    "zip-outside", f"{over:,} of its bytes are not in front of the directory", i
                )
            if stop > reach:
                reach, owner = stop, i

    def _look_at_names_listed_twice(self) -> None:
        for i, name in enumerate(self.names):
            if self.index[name] != i:
                self._find("zip-duplicate", f"{bounded_repr(name)} is listed twice", i)

    def _look_at_flags(self) -> None:
        for i, flags in enumerate(self.flags):
            if flags & SECRET:
                self._find("zip-encrypted", "it is encrypted", i)
            elif flags & ~KNOWN_FLAGS:
                self._find("zip-flags", f"flags {flags:#06x} mean nothing here", i)

    def _find(self, kind: str, message: str, index: int) -> None:
        if len(self.findings) < self.limits.warnings:
            self.findings.append(Finding(kind, message, Place(self.names[index], None)))

    # --- local headers --------------------------------------------------------------------

    def start(self, index: int) -> int:
        """Where the record's bytes begin. DamagedError if its local header is not there, says
        something else than the directory, or leaves too little room."""
        at = self.headers[index]
        buffer, base = self._heads or self._map()
        try:
            sign, _, method, _, packed, _, name, extra = _LOCAL.unpack_from(buffer, base + at)
        except StructError:
            sign, method, packed, name, extra = b"", 0, 0, 0, 0
        begin: int = at + 30 + name + extra
        if (
            sign != LOCAL
            or method != self.methods[index]
            or (packed and packed != self.packed[index])
            or begin + self.packed[index] > self.stops[index]
            or buffer[base + at + 30 : base + at + 30 + name] != self.raw_names[index]
        ):
            for finding in self.check_local(index):
                if finding.kind != "zip-local-crc":
                    raise DamagedError(finding.message, where=finding.where)
        return begin

    def _map(self) -> tuple[Buffer, int]:
        self._heads = self.source.headers()
        return self._heads

    def check_local(self, index: int) -> list[Finding]:
        """What in the local header of an entry is not as the directory has it."""
        e = self.entry(index)
        place = Place(e.name, None)
        try:
            head = self.source.read(e.header, 30)
            sign, flags, method, crc, packed, size, name, extra = _LOCAL.unpack(head)
            text = self.source.read(e.header + 30, name)
        except DamagedError:
            return [Finding("zip-local", "its local header is not in the file", place)]
        if sign != LOCAL:
            return [
                Finding("zip-local", "there is no local header where the directory says", place)
            ]
        found: list[tuple[str, str]] = []
        if text != self.raw_names[index]:
            found.append(("zip-local", f"its local header is that of {bounded_repr(_name(text))}"))
        if method != e.method:
            found.append(("zip-local", f"compression {e.method}, locally {method}"))
        if (flags ^ e.flags) & SECRET:
            found.append(("zip-local", f"flags {e.flags:#06x}, locally {flags:#06x}"))
        for what, local, listed in (("packed", packed, e.packed), ("real", size, e.size)):
            if local not in (listed, FULL32) and (local or not flags & DESCRIBED):
                found.append(("zip-local", f"{what} size {listed:,}, locally {local:,}"))
        if e.header + 30 + name + extra + e.packed > self.stops[index]:
            found.append(("zip-overlap", "its bytes reach into what follows it"))
        if crc not in (e.crc, 0):
            found.append(("zip-local-crc", f"CRC {e.crc:#010x}, locally {crc:#010x}"))
        return [Finding(kind, message, place) for kind, message in found]

    # --- bytes ----------------------------------------------------------------------------

    def read(self, index: int, most: int | None = None) -> bytes:
        """The whole record, to be held in memory. LimitError above `most` bytes
        (`limits.inflated_bytes` where it is compressed)."""
        size, limit = self.sizes[index], "pickle_bytes"
        most = self.limits.pickle_bytes if most is None else most
        if self.methods[index] != STORED and self.limits.inflated_bytes < most:
            most, limit = self.limits.inflated_bytes, "inflated_bytes"
        if size > most:
            raise LimitError(
                f"the record has {size:,} bytes, the limit is {most:,}",
                limit=limit,
                where=Place(self.names[index]),
            )
        if self.methods[index] == STORED:
            return next(self.chunks(index, size=max(size, 1)), b"")
        packed, ratio = self.packed[index], self.limits.pickle_ratio
        if size > _SMALL_PICKLE and size > packed * ratio:
            raise LimitError(
                f"{size:,} bytes are packed into {packed:,}, above {ratio} to 1",
                limit="pickle_ratio",
                where=Place(self.names[index]),
            )
        return b"".join(self.chunks(index))

    def chunks(
        self, index: int, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The record's real bytes from `start` to `stop`, in pieces of at most `size`.

        UnsupportedError for encryption and unknown compression; DamagedError where the bytes
        are not what the directory says of them.
        """
        stop = self.sizes[index] if stop is None else stop
        place = Place(self.names[index], None)
        method = self.methods[index]
        if self.flags[index] & SECRET:
            raise UnsupportedError("the record is encrypted", where=place)
        if method == STORED:
            if self.packed[index] != self.sizes[index]:
                raise DamagedError("the record is stored, and yet has two sizes", where=place)
            return pieces(self.source, self.start(index), start, stop, size)
        if method != DEFLATED:
            raise UnsupportedError(
                f"the record is compressed by method {method}, and only deflate (8) is read",
                where=place,
                hint="unpack it, and pack it again without compression: zip -0",
            )
        entry = self.entry(index)
        return part(inflated(self.source, self.start(index), entry, size, self.limits), start, stop)

    def check_crc(self, index: int) -> bool | None:
        """Whether the bytes have the recorded CRC-32; None where the writer recorded none."""
        import zlib

        if not self.has_crcs:
            return None
        crc = 0
        for chunk in self.chunks(index):
            crc = zlib.crc32(chunk, crc)
        return crc == self.crcs[index]


def _rows(data: bytes, bounds: Bounds) -> list[tuple[int, ...]]:
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


def _widened(
    packed: Sequence[int], sizes: Sequence[int], headers: Sequence[int], extras: Sequence[bytes]
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The same with the 64-bit values of the zip64 extra field (4.5.3) in place of each field
    that is all ones. They stand there in this order, only those that are needed."""
    if FULL32 not in sizes and FULL32 not in packed and FULL32 not in headers:
        return packed, sizes, headers
    columns = [list(sizes), list(packed), list(headers)]
    for i, extra in enumerate(extras):
        values = _zip64(extra)
        for column in columns:
            if column[i] == FULL32 and len(values) >= 8:
                column[i] = int.from_bytes(values[:8], "little")
                values = values[8:]
    return columns[1], columns[0], columns[2]


def _zip64(extra: bytes) -> bytes:
    """What the zip64 field among the extra fields holds; nothing if there is none."""
    pos = 0
    while pos + 4 <= len(extra):
        kind, size = _EXTRA.unpack_from(extra, pos)
        if kind == 1:
            return extra[pos + 4 : pos + 4 + size]
        pos += 4 + size
    return b""


def _names(raw: Sequence[bytes]) -> list[str]:
    """Names as text: utf-8, which torch writes whatever its flags say, else the zip's cp437."""
    try:
        names = b"\n".join(raw).decode().split("\n") if raw else []
        if len(names) == len(raw):
            return names
    except UnicodeDecodeError:
        pass
    return [_name(name) for name in raw]


def _name(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _all_plain(names: Sequence[str]) -> bool:
    """False if some name may be one that leads elsewhere (`_BAD_NAME` decides)."""
    text = " " + " ".join(names)
    return text.isprintable() and not any(odd in text for odd in (" /", "..", "\\", ":"))
