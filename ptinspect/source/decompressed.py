"""Files that are compressed as a whole, decompressed to a temporary file without a name."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any

from ptinspect.errors import DamagedError, LimitError, Place, PtInspectError
from ptinspect.source.base import SourceFile
from ptinspect.source.local import CHUNK, LocalSource

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ptinspect.limits import Limits
    from ptinspect.source.base import Source

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"ZF0x", "joblib's zlib"),
)
_RATIO_FREE_BYTES = 1 << 20
"""Decompressed bytes that are accepted whatever the ratio."""

MAX_LZMA_DICTIONARY = 1 << 30
_DICTIONARIES = {
    (1 << bits) + half for bits in range(1, 32) for half in (0, 1 << (bits - 1))
} | {0xFFFFFFFF}  # fmt: skip


def detect_compression(head: bytes) -> str | None:
    """Return the name of a compression that Python's standard library can undo, or None."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) > 1 and head[0] & 0x8F == 8 and int.from_bytes(head[:2], "big") % 31 == 0:
        return "zlib"
    # properties, the dictionary's size, that of the content: src/liblzma/common/alone_decoder.c
    dictionary, size = (int.from_bytes(head[a:b], "little") for a, b in ((1, 5), (5, 13)))
    if len(head) > 13 and head[0] < 225 and dictionary in _DICTIONARIES:
        return "lzma" if size >> 38 == 0 or size == (1 << 64) - 1 else None
    return None


def decompress(
    source: Source, compression: str, limits: Limits, *, record: str | None = None,
    count: Callable[[int], None] | None = None, on_trailing: Callable[[], None] | None = None,
) -> tuple[LocalSource, PtInspectError | None]:  # fmt: skip
    """Return the decompressed bytes, in a temporary file, and the error that ended them early, if
    any: a reader may already have acted on what came before the error.

    Args:
        record: the name that errors give as their place.
        count: called with the length of each chunk.
        on_trailing: called if bytes follow the compressed data.
    """
    import tempfile

    read_error: PtInspectError | None = None
    total, most = 0, _RATIO_FREE_BYTES + source.size * limits.compression_ratio
    with tempfile.TemporaryFile() as file:
        try:
            for chunk in decompressed_chunks(source, compression, record, on_trailing):
                total += len(chunk)
                if count is not None:
                    count(len(chunk))
                if total > most:
                    raise LimitError(
                        f"it decompresses to more than {most:,} bytes, the limit for its size",
                        limit="compression_ratio",
                        where=Place(record),
                    )
                file.write(chunk)
        except PtInspectError as error:
            read_error = error
        file.flush()
        result = LocalSource(os.dup(file.fileno()), source.path)
    result.base = None
    return result, read_error


def decompressed_chunks(
    source: Source, compression: str, record: str | None = None,
    on_trailing: Callable[[], None] | None = None,
) -> Iterator[bytes]:  # fmt: skip
    """Yield the decompressed bytes. DamagedError if they are cut off or damaged."""
    import lzma

    errors: tuple[type[Exception], ...] = (OSError, ValueError, zlib.error, lzma.LZMAError)
    if compression == "lz4":
        errors = (*errors, RuntimeError)
    read = _gunzip if compression == "gzip" else _read_streams
    try:
        if not (yield from read(source, compression)) and on_trailing is not None:
            on_trailing()
    except EOFError as error:
        raise DamagedError(
            "its compressed data is cut off", where=Place(record, source.size)
        ) from error
    except errors as error:
        message = f"its compressed data is damaged ({error})"
        raise DamagedError(message, where=Place(record)) from error


def _gunzip(source: Source, compression: str) -> Generator[bytes, None, bool]:
    """Yield the chunks of gzip; return False if other bytes follow."""
    import gzip

    with gzip.GzipFile(fileobj=SourceFile(source)) as file:
        try:
            # read1 returns what one step decompresses, before the checksum is compared.
            while chunk := file.read1(CHUNK):
                yield chunk
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):
                raise
            return False
    return True


def _read_streams(source: Source, compression: str) -> Generator[bytes, None, bool]:
    """Yield the chunks of the other formats: stream after stream, as their readers do. Return False
    if other bytes follow.

    The file objects of bz2 and lzma would ignore what follows the last stream.
    """
    offset, is_zlib = 0, "zlib" in compression
    if is_zlib:
        head = source.read(0, min(source.size, 64))
        # joblib before 0.10 wrote "ZF", the length in hexadecimal digits, then a zlib stream
        start = max(head.find(b"\x78", 4), 0) if head.startswith(b"ZF") else 0
        offset = min(start + 2, source.size)
    checksum = 1
    decompressor = _new_decompressor(compression)
    while True:
        data = b""
        if decompressor.needs_input:
            data = source.read(offset, min(CHUNK, source.size - offset))
            offset += len(data)
            if not data:
                raise EOFError
        if chunk := decompressor.decompress(data, CHUNK):
            checksum = zlib.adler32(chunk, checksum) if is_zlib else 1
            yield chunk
        if not decompressor.eof:
            continue
        offset -= len(decompressor.unused_data or b"")
        if is_zlib:
            recorded = source.read(offset, min(4, source.size - offset))
            offset += len(recorded)
            if len(recorded) < 4:
                raise EOFError
            if int.from_bytes(recorded, "big") != checksum:
                raise zlib.error("incorrect data check")
        if is_zlib or compression in ("deflate", "lz4"):
            break
        following = detect_compression(source.read(offset, min(16, source.size - offset)))
        if following != compression and {following, compression} != {"xz", "lzma"}:
            break
        decompressor = _new_decompressor(compression)
    pieces = range(offset, source.size, CHUNK)
    return not any(any(source.read(at, min(CHUNK, source.size - at))) for at in pieces)


class _Inflate:
    """zlib's raw inflate with the interface of bz2.BZ2Decompressor.

    It ignores the checksum: with it, zlib would withhold bytes that a reader has used by then.
    """

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _new_decompressor(compression: str) -> Any:
    """Return an object like bz2.BZ2Decompressor for one stream."""
    if "zlib" in compression or compression == "deflate":
        return _Inflate()
    if compression == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    if compression == "lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor()
    import lzma

    return lzma.LZMADecompressor(memlimit=MAX_LZMA_DICTIONARY)
