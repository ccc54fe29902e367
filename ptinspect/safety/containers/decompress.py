"""Decompress files that are compressed as a whole, to a temporary file without a name."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Protocol

from ptinspect.errors import DamagedError, LimitError, Place, PtInspectError
from ptinspect.formats.archive import CHUNK
from ptinspect.source.base import SourceFile
from ptinspect.source.local import LocalSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.safety.scan_state import ScanState
    from ptinspect.source.base import Source

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"ZF0x", "joblib's zlib"),
)
_RATIO_FREE_BYTES = 1 << 20
"""Decompressed bytes that are accepted whatever the ratio."""

_MAX_LZMA_DICTIONARY = 1 << 30
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
    source: Source, compression: str, state: ScanState
) -> tuple[Source, PtInspectError | None]:
    """Return the decompressed bytes, in a temporary file, and the error that ended them early, if
    any: a reader may already have acted on what came before the error."""
    import tempfile

    read_error: PtInspectError | None = None
    total = 0
    with tempfile.TemporaryFile() as file:
        try:
            for chunk in _chunks(source, compression, state):
                total += len(chunk)
                state.budget.count_unpacked(len(chunk), state.record)
                if total > _RATIO_FREE_BYTES + source.size * state.limits.compression_ratio:
                    raise LimitError(
                        "it decompresses to more bytes than the limit for its size",
                        limit="compression_ratio",
                        where=Place(state.record),
                    )
                file.write(chunk)
        except PtInspectError as error:
            read_error = error
        file.flush()
        result = LocalSource(os.dup(file.fileno()), state.path)
    result.base = None
    return result, read_error


def _chunks(source: Source, compression: str, state: ScanState) -> Iterator[bytes]:
    import lzma

    read = _gunzip if compression == "gzip" else _read_streams
    try:
        yield from read(source, compression, state)
    except EOFError as error:
        raise DamagedError(
            "its compressed data is cut off", where=Place(state.record, source.size)
        ) from error
    except (OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        message = f"its compressed data is damaged ({error})"
        raise DamagedError(message, where=Place(state.record)) from error


def _gunzip(source: Source, compression: str, state: ScanState) -> Iterator[bytes]:
    import gzip

    with gzip.GzipFile(fileobj=SourceFile(source)) as file:
        try:
            # read1 returns what one step decompresses, before the checksum is compared.
            while chunk := file.read1(CHUNK):
                yield chunk
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):
                raise
            _add_trailing_bytes(state)


def _read_streams(source: Source, compression: str, state: ScanState) -> Iterator[bytes]:
    """Yield the chunks of bzip2, xz, lzma and zlib: stream after stream, as their readers do.

    The file objects of bz2 and lzma would ignore what follows the last stream.
    """
    offset, is_raw = 0, compression == "deflate"
    if "zlib" in compression:
        head = source.read(0, min(source.size, 64))
        # joblib before 0.10 wrote "ZF", the length in hexadecimal digits, then a zlib stream
        start = max(head.find(b"\x78", 4), 0) if head.startswith(b"ZF") else 0
        offset = min(start + 2, source.size)
    decompressor = _new_decompressor(compression)
    while True:
        data = b""
        if decompressor.needs_input:
            data = source.read(offset, min(CHUNK, source.size - offset))
            offset += len(data)
            if not data:
                raise EOFError
        if chunk := decompressor.decompress(data, CHUNK):
            yield chunk
        if not decompressor.eof:
            continue
        offset -= len(decompressor.unused_data)
        if "zlib" in compression or compression == "deflate":
            offset = min(offset + 4 * (not is_raw), source.size)  # its checksum
            break
        following = detect_compression(source.read(offset, min(16, source.size - offset)))
        if following != compression and {following, compression} != {"xz", "lzma"}:
            break
        decompressor = _new_decompressor(compression)
    for position in range(offset, source.size, CHUNK):
        if any(source.read(position, min(CHUNK, source.size - position))):
            _add_trailing_bytes(state)
            return


def _add_trailing_bytes(state: ScanState) -> None:
    state.find("trailing-bytes", "bytes follow the compressed data", state.record)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


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


def _new_decompressor(compression: str) -> _Decompressor:
    if "zlib" in compression or compression == "deflate":
        return _Inflate()
    if compression == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    import lzma

    return lzma.LZMADecompressor(memlimit=_MAX_LZMA_DICTIONARY)


def decompress_zip_lzma(packed: bytes, size: int, record: str) -> bytes:
    """Return the `size` bytes of a zip record that is compressed by method 14.

    APPNOTE.TXT 5.8.8: two bytes of version, the size of the properties, the properties (lc, lp and
    pb in one byte, the dictionary's size), and a raw LZMA stream.
    """
    import lzma

    properties_size = int.from_bytes(packed[2:4], "little")
    try:
        rest, lc = divmod(packed[4], 9)
        pb, lp = divmod(rest, 5)
        dictionary = int.from_bytes(packed[5:9], "little")
        if dictionary > _MAX_LZMA_DICTIONARY:
            raise LimitError("its LZMA dictionary is too large", limit="inflated_bytes")
        options = {"lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}
        decompressor = lzma.LZMADecompressor(
            lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, **options}]
        )
        return decompressor.decompress(packed[4 + properties_size :], size)
    except (IndexError, ValueError, EOFError, lzma.LZMAError) as error:
        message = f"its compressed data is damaged ({error})"
        raise DamagedError(message, where=Place(record)) from error
