"""Files that are compressed as a whole, unpacked to a temporary file without a name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ptinspect.errors import DamagedError, LimitError, Place, PtInspectError
from ptinspect.formats.archive import CHUNK
from ptinspect.source.local import LocalSource

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ptinspect.safety.report.scan_state import Part
    from ptinspect.source.base import Source

_SIGNS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "lzma"),
    (b"ZF0x", "joblib's zlib"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x5e", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
)
_SLACK = 1 << 20
"""Bytes that may come of anything, whatever the ratio."""


def packed_by(head: bytes) -> str | None:
    """The name of a compression that Python itself can undo."""
    return next((name for sign, name in _SIGNS if head.startswith(sign)), None)


def _machine(kind: str) -> Any:
    """An object with `decompress(data, max_length)`, `eof` and `unused_data`."""
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    import lzma

    return lzma.LZMADecompressor(memlimit=1 << 30)


def unpacked(source: Source, kind: str, part: Part) -> tuple[Source, PtInspectError | None]:
    """What is packed in `source`, and why it ends early, if it does: what a reader gets out of it
    before it fails may have done its harm by then."""
    import tempfile

    error: PtInspectError | None = None
    total = 0
    with tempfile.TemporaryFile() as file:
        try:
            for chunk in _chunks(source, kind, part):
                total += len(chunk)
                part.budget.unpack(len(chunk), part.record)
                if total > _SLACK + source.size * part.limits.compression_ratio:
                    raise LimitError(
                        "more comes out of it than any honest file holds",
                        limit="compression_ratio",
                        where=Place(part.record),
                    )
                file.write(chunk)
        except PtInspectError as met:
            error = met
        file.flush()
        made = LocalSource(os.dup(file.fileno()), part.path)
    made.base = None
    return made, error


def unpacked_lzma(packed: bytes, size: int, record: str) -> bytes:
    """The real bytes of a zip's record by method 14 (APPNOTE.TXT 5.8.8: two bytes of version, the
    size of the properties, the properties: lc, lp and pb in one byte, the dictionary's size)."""
    import lzma

    skip = int.from_bytes(packed[2:4], "little")
    try:
        rest, lc = divmod(packed[4], 9)
        pb, lp = divmod(rest, 5)
        room = int.from_bytes(packed[5:9], "little")
        if room > 1 << 30:
            raise LimitError("its dictionary is too large", limit="inflated_bytes")
        filters = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": room}]
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(
            packed[4 + skip :], size
        )
    except (IndexError, ValueError, EOFError, lzma.LZMAError) as error:
        raise DamagedError(
            f"its compressed bytes are damaged ({error})", where=Place(record)
        ) from error


def _chunks(source: Source, kind: str, part: Part) -> Iterator[bytes]:
    """Stream after stream, as the readers of gzip, bzip2 and xz take them."""
    if kind in ("gzip", "zlib", "joblib's zlib"):
        pos = yield from _deflated(source, kind, part)
    else:
        pos = yield from _others(source, kind, part)
    for at in range(pos, source.size, CHUNK):
        if any(source.read(at, min(CHUNK, source.size - at))):
            part.find("trailing-bytes", "bytes follow what is compressed", part.record)
            return


def _others(source: Source, kind: str, part: Part) -> Generator[bytes, None, int]:
    """bzip2, xz and lzma; returns where it ends."""
    machine, pos, data = _machine(kind), 0, b""
    while True:
        if machine.eof:
            pos -= len(machine.unused_data)
            if packed_by(source.read(pos, min(8, source.size - pos))) != kind:
                return pos
            machine = _machine(kind)
        data = b""
        if machine.needs_input:
            data = source.read(pos, min(CHUNK, source.size - pos))
            pos += len(data)
            if not data:
                raise _cut(part, pos)
        try:
            out: bytes = machine.decompress(data, CHUNK)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(part, error) from error
        except Exception as error:
            if type(error).__name__ != "LZMAError":
                raise
            raise _damaged(part, error) from error
        if out:
            yield out


def _deflated(source: Source, kind: str, part: Part) -> Generator[bytes, None, int]:
    """gzip and zlib; returns where it ends. Their checksums are looked at here, and not by zlib,
    which would keep back what a reader has used by then."""
    import zlib

    pos = 0
    while True:
        at = _begin(source, kind, pos)
        machine, crc, size, data = zlib.decompressobj(-15), 0, 0, b""
        while not machine.eof:
            if not data:
                data = source.read(at, min(CHUNK, max(source.size - at, 0)))
                at += len(data)
                if not data:
                    raise _cut(part, at)
            try:
                out = machine.decompress(data, CHUNK)
            except zlib.error as error:
                raise _damaged(part, error) from error
            data = machine.unconsumed_tail
            crc, size = zlib.crc32(out, crc), size + len(out)
            if out:
                yield out
        at -= len(machine.unused_data)
        if kind != "gzip":
            return min(at + 4, source.size)
        tail = source.read(at, min(8, source.size - at))
        if tail != crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"):
            raise _damaged(part, "its checksum is another")
        pos = at + 8
        if source.size - pos < 2 or source.read(pos, 2) != b"\x1f\x8b":
            return pos


def _begin(source: Source, kind: str, pos: int) -> int:
    """Where the deflated bytes begin: behind the header of gzip (RFC 1952, 2.3), of zlib."""
    if kind == "zlib":
        return 2
    if kind != "gzip":
        return _first(source) + 2
    head = source.read(pos, min(1 << 16, source.size - pos))
    flags, at = head[3] if len(head) > 3 else 0, 10
    if flags & 4:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    for flag in (8, 16):  # a name, a comment
        if flags & flag:
            at = head.find(b"\0", at) + 1 or len(head)
    return pos + at + (2 if flags & 2 else 0)


def _cut(part: Part, at: int) -> DamagedError:
    return DamagedError("what is compressed in it is cut off", where=Place(part.record, at))


def _damaged(part: Part, error: object) -> DamagedError:
    message = f"what is compressed in it is damaged ({error})"
    return DamagedError(message, where=Place(part.record))


def _first(source: Source) -> int:
    """joblib before 0.10: "ZF", the length in hexadecimal digits, then zlib's bytes."""
    head = source.read(0, min(source.size, 64))
    return max(head.find(b"\x78", 4), 0)
