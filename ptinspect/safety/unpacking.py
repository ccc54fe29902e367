"""Files that are compressed as a whole, unpacked to a temporary file without a name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.formats.archive import CHUNK
from ptinspect.source.local import LocalSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.safety.part import Part
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
    if kind in ("xz", "lzma"):
        import lzma

        return lzma.LZMADecompressor(memlimit=1 << 30)
    import zlib

    return zlib.decompressobj(31 if kind == "gzip" else 15)


def unpacked(source: Source, kind: str, part: Part) -> Source:
    """What is packed in `source`. LimitError where it grows beyond its bounds, DamagedError
    where it is cut off."""
    import tempfile

    total = 0
    with tempfile.TemporaryFile() as file:
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
        file.flush()
        made = LocalSource(os.dup(file.fileno()), part.path)
    made.base = None
    return made


def _chunks(source: Source, kind: str, part: Part) -> Iterator[bytes]:
    """Stream after stream, as the readers of gzip, bzip2 and xz take them."""
    pos = _first(source) if kind == "joblib's zlib" else 0
    machine = _machine(kind)
    data = b""
    while True:
        if not data and pos < source.size:
            data = source.read(pos, min(CHUNK, source.size - pos))
            pos += len(data)
        out, data = _step(machine, data, part)
        if out:
            yield out
        elif machine.eof:
            data = machine.unused_data or data
            if not data and pos < source.size:
                continue
            if packed_by(data) != kind or kind == "zlib":
                if data.strip(b"\0"):
                    why = "bytes follow what is compressed"
                    part.find("trailing-bytes", why, part.record)
                return
            machine = _machine(kind)
        elif not data and pos >= source.size:
            raise DamagedError("what is compressed in it is cut off", where=Place(part.record, pos))


def _step(machine: Any, data: bytes, part: Part) -> tuple[bytes, bytes]:
    """(what came out, what is still to be put in)"""
    import lzma
    import zlib

    if machine.eof:
        return b"", data
    try:
        out: bytes = machine.decompress(data, CHUNK)
    except (zlib.error, OSError, lzma.LZMAError, ValueError, EOFError) as error:
        message = f"what is compressed in it is damaged ({error})"
        raise DamagedError(message, where=Place(part.record)) from error
    if hasattr(machine, "unconsumed_tail"):
        return out, machine.unconsumed_tail
    return out, b""


def _first(source: Source) -> int:
    """joblib before 0.10: "ZF", the length in hexadecimal digits, then zlib's bytes."""
    head = source.read(0, min(source.size, 64))
    at = head.find(b"\x78", 3)
    at = head.find(b"\x78", at + 1) if head[2:4] == b"0x" and at == 3 else at
    return max(at, 0)
