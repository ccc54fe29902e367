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
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import CHUNK, Finding, pieces
from ptinspect.formats.zip.records import (
    FULL32,
    Bounds,
    decode_name,
    decode_names,
    find_end,
    read_rows,
    widen,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

LOCAL = b"PK\x03\x04"

STORED, DEFLATED = 0, 8

ENCRYPTED, DESCRIBED, UTF8 = 0x1, 0x8, 0x800
SECRET = ENCRYPTED | 0x40 | 0x2000  # also strong encryption, and a masked directory
KNOWN_FLAGS = ENCRYPTED | DESCRIBED | UTF8 | 0x6  # 0x6: how hard deflate tried

_SMALL_PICKLE = 16 << 20
"""Bytes up to which a compressed pickle may be as dense as deflate can make it."""

_LOCAL = Struct("<4s2xHH4x3L2H")
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
        rows = read_rows(source.read(self.bounds.start, self.bounds.size), self.bounds)
        columns: list[tuple[int, ...]] = list(zip(*rows, strict=True)) or [()] * 10
        _, self.flags, self.methods, self.crcs, packed, sizes, _, headers, raw, extras = columns
        self.raw_names: tuple[bytes, ...] = raw  # type: ignore[assignment]
        wide = widen(packed, sizes, headers, extras)  # type: ignore[arg-type]
        self.packed, self.sizes, self.headers = wide
        self.names = decode_names(self.raw_names)
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
            found.append(
                ("zip-local", f"its local header is that of {bounded_repr(decode_name(text))}")
            )
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


class Entry(NamedTuple):
    """One line of the directory. Sizes in bytes; `header`: offset of its local header."""

    number: int
    name: str
    flags: int
    method: int
    crc: int
    packed: int  # size in the file
    size: int  # real size
    header: int


def inflated(
    source: Source, start: int, entry: Entry, size: int, limits: Limits
) -> Iterator[bytes]:
    """The real bytes of a deflated entry whose packed ones begin at `start`, in pieces of at
    most `size`.

    LimitError, before anything is unpacked, where the entry declares more than deflate can
    do; DamagedError where it holds more or less than it declares.
    """
    import zlib

    place = Place(entry.name, None)
    if entry.size > (entry.packed + 1) * limits.compression_ratio:
        raise LimitError(
            f"{entry.packed:,} bytes are said to hold {entry.size:,}, more than"
            f" {limits.compression_ratio:,} times as many",
            limit="compression_ratio",
            where=place,
        )
    inflate = zlib.decompressobj(-15)
    total = 0
    try:
        for data in pieces(source, start, 0, entry.packed):
            while not inflate.eof:
                # one byte more than is declared, so that too many are seen, not unpacked
                most = min(size, entry.size - total + 1)
                out = inflate.decompress(data, most)
                data = inflate.unconsumed_tail
                total += len(out)
                if total > entry.size:
                    raise DamagedError(
                        f"it holds more than the {entry.size:,} bytes it declares", where=place
                    )
                if out:
                    yield out
                if not data and len(out) < most:  # else some may wait that had no room in `out`
                    break
    except zlib.error as error:
        raise DamagedError(f"its compressed bytes are damaged ({error})", where=place) from error
    if total < entry.size:
        raise DamagedError(
            f"it holds {total:,} of the {entry.size:,} bytes it declares", where=place
        )


def part(chunks: Iterator[bytes], start: int, stop: int) -> Iterator[bytes]:
    """From a stream of chunks the bytes from `start` to `stop`. Asked to its end, the stream is
    read to its end, so that what it checks there is checked."""
    pos = 0
    for chunk in chunks:
        part = chunk[max(start - pos, 0) : max(stop - pos, 0)]
        pos += len(chunk)
        if part:
            yield part


def _all_plain(names: Sequence[str]) -> bool:
    """False if some name may be one that leads elsewhere (`_BAD_NAME` decides)."""
    text = " " + " ".join(names)
    return text.isprintable() and not any(odd in text for odd in (" /", "..", "\\", ":"))
