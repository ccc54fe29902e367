"""The directory of a zip: its entries, the bytes of each record, and every inconsistency.

It is not read by `zipfile`, which needs three times as long and does not report what hostile files
do: names that are listed twice, entries that overlap, local headers that contradict the directory.
Source: PKWARE's APPNOTE.TXT, 4.3 to 4.5.

torch writes zips through miniz (`caffe2/serialize/inline_container.cc`): stored, the bytes aligned
by an extra field "FB" that only the local header has, local CRC and sizes zero, the true ones in a
data descriptor after the bytes. So only the local header locates the bytes; it is read on demand.
"""

from __future__ import annotations

import re
from itertools import repeat
from operator import add, le
from struct import error as StructError
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import CHUNK, Finding, Span, read_chunks
from ptinspect.formats.zip_records import (
    DESCRIBED,
    ENCRYPTED,
    END,
    FULL32,
    LOCAL,
    LOCAL_HEADER,
    UTF8,
    apply_zip64,
    combine_crcs,
    decode_name,
    decode_names,
    find_bounds,
    find_zips_ending_at,
    read_rows,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.text import bounded_repr, python_literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ptinspect.formats.zip_records import Bounds
    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

_END_SIZE = 22
STORED, DEFLATED = 0, 8

SECRET = ENCRYPTED | 0x40 | 0x2000  # also strong encryption, and a masked directory
KNOWN_FLAGS = ENCRYPTED | DESCRIBED | UTF8 | 0x6  # 0x6: deflate's level

SMALL_PICKLE = 16 << 20
"""Bytes up to which a compressed pickle may be as dense as deflate allows."""

_BAD_NAME = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|[\x00-\x1f\x7f\\]")


def pack_again(path: str) -> str:
    """Return the line of Python that writes a zip's records to model.pt without compression."""
    files = f'zipfile.ZipFile({python_literal(path)}), zipfile.ZipFile("model.pt", "w")'
    copy = "[new.writestr(name, old.read(name)) for name in old.namelist()]"
    return f"import zipfile; old, new = {files}; {copy}; new.close()"


class ZipDirectory:
    """All entries of a zip, as columns in the order of the directory.

    Attributes:
        names, flags, methods, crcs: the columns of the directory.
        packed, sizes: bytes in the file, and after decompression.
        headers: offsets of the local headers.
        index: positions by name; the last one of several with the same name, as in `zipfile`.
        stops: where the next record, or the directory, begins.
        has_crcs: False if the writer omitted the checksums: torch.serialization.set_crc32_options(
            False) makes them all zero.
        has_uncounted_bytes: True if the directory does not end behind its last entry.
        findings: inconsistencies in the directory (`check_local` reads the local header too), the
            gravest first, at most `limits.warnings`.
    """

    def __init__(
        self, source: Source, limits: Limits = LIMITS, bounds: Bounds | None = None
    ) -> None:
        """Read the directory, by default where the last end record places it. DamagedError if there
        is none or it is truncated, LimitError if it has too many entries."""
        self.source = source
        self.limits = limits
        self.bounds = bounds or find_bounds(source)
        self.findings: list[Finding] = list(self.bounds.findings)
        if self.bounds.entries > limits.zip_entries:
            raise LimitError(
                f"the zip lists {self.bounds.entries:,} entries,"
                f" above the limit of {limits.zip_entries:,}",
                limit="zip_entries",
            )
        rows, length = read_rows(source.read(self.bounds.start, self.bounds.size), self.bounds)
        self.has_uncounted_bytes = length < self.bounds.size
        columns: list[tuple[int, ...]] = list(zip(*rows, strict=True)) or [()] * 10
        _, self.flags, self.methods, self.crcs, packed, sizes, _, headers, raw, extras = columns
        self.raw_names: tuple[bytes, ...] = raw  # type: ignore[assignment]
        wide = apply_zip64(packed, sizes, headers, extras)  # type: ignore[arg-type]
        self.packed, self.sizes, self.headers = wide
        self.has_crcs = any(self.crcs)
        self.names = decode_names(self.raw_names)
        self.index = dict(zip(self.names, range(len(rows)), strict=True))
        end, ordered = self.bounds.start, sorted(self.headers)
        self.stops: Sequence[int] = (*self.headers[1:], end)
        if ordered != list(self.headers):
            # backwards, so that of two entries at one place each is followed by the other at once
            following = dict(zip(reversed(ordered), [end, *reversed(ordered[1:])], strict=True))
            self.stops = [following[header] for header in self.headers]
        self._headers: tuple[Buffer, int] | None = None
        self._check()

    def __len__(self) -> int:
        return len(self.names)

    def _check(self) -> None:
        """Fill `findings`. Each check first looks at a column as a whole, so that honest files,
        which have no findings, do not wait for it."""
        ends = map(add, map(add, self.headers, self.packed), map(len, self.raw_names))
        if not all(map(le, map(add, ends, repeat(30)), self.stops)):
            reach, owner = 0, -1
            for i in sorted(range(len(self.names)), key=self.headers.__getitem__):
                start = self.headers[i]
                stop = start + 30 + len(self.raw_names[i]) + self.packed[i]
                if start < reach:
                    name = bounded_repr(self.names[owner])
                    self._add_finding("zip-overlap", f"it overlaps {name}", i)
                if (outside := stop - self.bounds.start) > 0:
                    message = f"{outside:,} of its bytes are not before the directory"
                    self._add_finding("zip-outside", message, i)
                if stop > reach:
                    reach, owner = stop, i
        if len(self.index) < len(self.names):
            for i, name in enumerate(self.names):
                if self.index[name] != i:
                    self._add_finding("zip-duplicate", f"{bounded_repr(name)} is listed twice", i)
        if not set(self.flags) <= {0, DESCRIBED, UTF8, DESCRIBED | UTF8}:
            for i, flags in enumerate(self.flags):
                if flags & SECRET:
                    self._add_finding("zip-encrypted", "it is encrypted", i)
                elif flags & ~KNOWN_FLAGS:
                    self._add_finding("zip-flags", f"unknown flags {flags:#06x}", i)
        if not set(self.methods) <= {STORED, DEFLATED}:
            for i, method in enumerate(self.methods):
                if method not in (STORED, DEFLATED):
                    self._add_finding("zip-compression", f"unknown compression {method}", i)
        text = " " + " ".join(self.names)
        if not text.isprintable() or any(sign in text for sign in (" /", "..", "\\", ":")):
            for i, name in enumerate(self.names):
                if _BAD_NAME.search(name):
                    message = f"the name {bounded_repr(name)} leads outside the archive"
                    self._add_finding("zip-name", message, i)
        if self.names and min(self.headers) > 0:
            message = f"{min(self.headers):,} bytes are before the first entry"
            self.findings.append(Finding("zip-prefix", message, Place(None, 0)))

    def _add_finding(self, kind: str, message: str, index: int) -> None:
        if len(self.findings) < self.limits.warnings:
            self.findings.append(Finding(kind, message, Place(self.names[index], None)))

    def start(self, index: int) -> int:
        """Return the offset of the record's bytes; see `starts`."""
        return self.starts((index,))[0]

    def starts(self, indices: Iterable[int]) -> list[int]:
        """Return the offset of each record's bytes. DamagedError if a local header is missing,
        contradicts the directory, or leaves too little space."""
        if self._headers is None:
            self._headers = self.source.headers()
        buffer, base = self._headers
        headers, methods, sizes, stops = self.headers, self.methods, self.packed, self.stops
        unpack, raw_names, starts = LOCAL_HEADER.unpack_from, self.raw_names, []
        for index in indices:
            header = base + headers[index]
            try:
                sign, _, method, _, packed, _, name, extra = unpack(buffer, header)
            except StructError:
                sign, method, packed, name, extra = b"", 0, 0, 0, 0
            start, size = header + 30 + name + extra - base, sizes[index]
            if (
                sign != LOCAL
                or method != methods[index]
                or (packed and packed != size)
                or start + size > stops[index]
                or buffer[header + 30 : header + 30 + name] != raw_names[index]
            ):
                for finding in self.check_local(index):
                    if finding.kind != "zip-local-crc":
                        raise DamagedError(finding.message, where=finding.where)
            starts.append(start)
        return starts

    def stored_start(self, index: int) -> int | None:
        """Return `start` if the record's bytes are in the file as they are: not compressed, not
        encrypted, all of them. Else None, and `chunks` reads the record, or says why not."""
        if self.methods[index] != STORED or self.flags[index] & SECRET:
            return None
        start = self.start(index)
        return start if self.packed[index] == self.sizes[index] else None

    def stored_starts(self, indices: Sequence[int]) -> Sequence[int | None]:
        """Return `stored_start` of each record, faster than one by one."""
        methods, flags, packed, sizes = self.methods, self.flags, self.packed, self.sizes
        if any(methods[i] or flags[i] & SECRET or packed[i] != sizes[i] for i in indices):
            return [*map(self.stored_start, indices)]
        return self.starts(indices)

    def check_local(self, index: int) -> list[Finding]:
        """Return the differences between the local header of an entry and the directory."""
        place = Place(self.names[index], None)
        position, stop = self.headers[index], self.stops[index]
        try:
            head = self.source.read(position, 30)
            sign, flags, method, crc, packed, size, name, extra = LOCAL_HEADER.unpack(head)
            raw_name = self.source.read(position + 30, name)
        except DamagedError:
            return [Finding("zip-local", "its local header is not in the file", place)]
        if sign != LOCAL:
            message = "there is no local header where the directory places it"
            return [Finding("zip-local", message, place)]
        problems: list[tuple[str, str]] = []
        if raw_name != self.raw_names[index]:
            local_name = bounded_repr(decode_name(raw_name))
            problems.append(("zip-local", f"its local header is that of {local_name}"))
        if method != self.methods[index]:
            message = f"compression {self.methods[index]}, locally {method}"
            problems.append(("zip-local", message))
        if (flags ^ self.flags[index]) & SECRET:
            message = f"flags {self.flags[index]:#06x}, locally {flags:#06x}"
            problems.append(("zip-local", message))
        sizes = (("packed", packed, self.packed[index]), ("real", size, self.sizes[index]))
        for label, local, listed in sizes:
            if local not in (listed, FULL32) and (local or not flags & DESCRIBED):
                problems.append(("zip-local", f"{label} size {listed:,}, locally {local:,}"))
        if position + 30 + name + extra + self.packed[index] > stop:
            problems.append(("zip-overlap", "it overlaps what follows it"))
        if crc not in (self.crcs[index], 0):
            message = f"CRC {self.crcs[index]:#010x}, locally {crc:#010x}"
            problems.append(("zip-local-crc", message))
        return [Finding(kind, message, place) for kind, message in problems]

    def read(self, index: int, limit: int | None = None) -> bytes:
        """Return a complete record; LimitError if it is longer than `limit` bytes (default:
        `limits.pickle_bytes`, and `limits.inflated_bytes` if it is compressed)."""
        size, limit_name = self.sizes[index], "pickle_bytes"
        limit = self.limits.pickle_bytes if limit is None else limit
        if self.methods[index] != STORED and self.limits.inflated_bytes < limit:
            limit, limit_name = self.limits.inflated_bytes, "inflated_bytes"
        if size > limit:
            raise LimitError(
                f"the record is {size:,} bytes long, above the limit of {limit:,}",
                limit=limit_name,
                where=Place(self.names[index]),
            )
        if self.methods[index] == STORED:
            return next(self.chunks(index, size=max(size, 1)), b"")
        packed, ratio = self.packed[index], self.limits.pickle_ratio
        if size > SMALL_PICKLE and size > packed * ratio:
            raise LimitError(
                f"{size:,} bytes are compressed to {packed:,}, above the limit of {ratio} to 1",
                limit="pickle_ratio",
                where=Place(self.names[index]),
            )
        return b"".join(self.chunks(index))

    def chunks(
        self, index: int, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """Yield the record's bytes from `start` to `stop`, in pieces of at most `size`.
        UnsupportedError if it is encrypted or compressed by an unknown method, DamagedError if they
        contradict the directory."""
        stop = self.sizes[index] if stop is None else stop
        place = Place(self.names[index], None)
        method = self.methods[index]
        if self.flags[index] & SECRET:
            raise UnsupportedError("the record is encrypted", where=place)
        if method == STORED:
            if self.packed[index] != self.sizes[index]:
                raise DamagedError("the record is not compressed, but has two sizes", where=place)
            begin = self.start(index)
            return read_chunks(self.source, begin + start, begin + stop, size)
        if method != DEFLATED:
            raise UnsupportedError(
                f"the record is compressed by method {method}; only deflate (8) is supported",
                where=place,
                hint=pack_again(self.source.path),
            )
        return self._inflate_range(index, start, stop, size)

    def _inflate_range(self, index: int, start: int, stop: int, size: int) -> Iterator[bytes]:
        """Yield a range of a deflated record, and read it to its end, where it is checked."""
        pos = 0
        for chunk in self._inflate(index, size):
            piece = chunk[max(start - pos, 0) : max(stop - pos, 0)]
            pos += len(chunk)
            if piece:
                yield piece

    def _inflate(self, index: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a deflated record in pieces of at most `size`. LimitError, before any
        work, if it declares more than deflate can compress so far; DamagedError if it declares
        another size than it has."""
        import zlib

        place = Place(self.names[index], None)
        packed, declared, ratio = (
            self.packed[index],
            self.sizes[index],
            self.limits.compression_ratio,
        )
        if declared > (packed + 1) * ratio:
            raise LimitError(
                f"{packed:,} bytes cannot contain {declared:,}, more than {ratio:,} times as many",
                limit="compression_ratio",
                where=place,
            )
        inflate = zlib.decompressobj(-15)
        total = 0
        begin = self.start(index)
        try:
            for data in read_chunks(self.source, begin, begin + packed):
                while not inflate.eof:
                    # one byte more than declared, to detect a surplus without decompressing it
                    limit = min(size, declared - total + 1)
                    out = inflate.decompress(data, limit)
                    data = inflate.unconsumed_tail
                    total += len(out)
                    if total > declared:
                        message = f"it contains more than the {declared:,} bytes it declares"
                        raise DamagedError(message, where=place)
                    if out:
                        yield out
                    if not data and len(out) < limit:  # else bytes may wait for space in `out`
                        break
        except zlib.error as error:
            message = f"its compressed bytes are damaged ({error})"
            raise DamagedError(message, where=place) from error
        if total < declared:
            message = f"it contains {total:,} of the {declared:,} bytes it declares"
            raise DamagedError(message, where=place)

    def check_crc(self, index: int) -> bool | None:
        """Return True if the bytes match the recorded CRC-32, or None if none is recorded."""
        import zlib

        if not self.has_crcs:
            return None
        crc = 0
        for chunk in self.chunks(index):
            crc = zlib.crc32(chunk, crc)
        return crc == self.crcs[index]


class ZipSpan(Span):
    """The bytes of a record of a zip, or `length` of them from `first` on; `head` are those before
    them, if they are known. The local header, which locates them, is read on demand."""

    __slots__ = ("directory", "first", "head", "index")

    def __init__(
        self, directory: ZipDirectory, index: int, first: int = 0, length: int | None = None,
        head: bytes = b"",
    ) -> None:  # fmt: skip
        self.record = directory.names[index]
        self.length = directory.sizes[index] if length is None else length
        self._base = directory.source.base
        self.directory = directory
        self.index = index
        self.first = first
        self.head = head

    @property
    def start(self) -> int | None:
        """Offset in the archive's source, or None if the record is compressed (or encrypted)."""
        start = self.directory.stored_start(self.index)
        return None if start is None else start + self.first

    @property
    def crc(self) -> int | None:
        """See `Span.crc`. That of the end of a record follows from those of the record and of its
        head."""
        directory, index, first = self.directory, self.index, len(self.head)
        is_end = first == self.first and first + self.length == directory.sizes[index]
        if not directory.has_crcs or not is_end:
            return None
        if not self.head:
            return directory.crcs[index]
        from zlib import crc32

        return directory.crcs[index] ^ combine_crcs(crc32(self.head), 0, self.length)

    def chunks(self, source: Source, start: int, stop: int, size: int) -> Iterator[bytes]:
        """See `Span.chunks`. A compressed record is decompressed from its beginning."""
        return self.directory.chunks(self.index, self.first + start, self.first + stop, size)


_ENDS_BY_MARKER = 2  # a flag of a record that is compressed by LZMA


def lzma_file(data: bytes, flags: int, size: int) -> bytes:
    """Return a record that is compressed by LZMA as a file that `lzma` reads.

    The record is two bytes of version, the size of the properties, the properties, and the stream
    (APPNOTE.TXT 5.8.8); the file is the properties, the size of the content, and the stream.
    """
    start = 4 + int.from_bytes(data[2:4], "little")
    length = (1 << 64) - 1 if flags & _ENDS_BY_MARKER else size
    return data[4:start] + length.to_bytes(8, "little") + data[start:]


def find_concatenated_zips(source: Source, limits: Limits) -> list[tuple[int, int, int, int]]:
    """Return the zips that follow one another: start, stop, offset of the directory, and number of
    entries of each.

    torch.distributed.checkpoint writes one zip per tensor.
    """
    buffer, base, end = source.window()
    spans: list[tuple[int, int, int, int]] = []
    counts: dict[int, tuple[int, int]] = {}
    position = base
    for _ in range(limits.zip_entries):
        position = buffer.find(END, position, end)
        if position < 0 or position + _END_SIZE > end:
            return spans
        comment = int.from_bytes(buffer[position + 20 : position + 22], "little")
        stop = min(position + _END_SIZE + comment, end) - base
        zips = sorted(find_zips_ending_at(source, position - base, counts), reverse=True)
        for start, place, count in zips:
            if source.read(start, 4) == LOCAL:
                while spans and spans[-1][0] >= start:  # zips inside this one
                    spans.pop()
                spans.append((start, stop, place, count))
                break
        position += 4
    raise LimitError("it has too many end records", limit="zip_entries")
