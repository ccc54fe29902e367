"""One entry of a zip, and the real bytes of one that is deflated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.formats.archive import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.limits import Limits
    from ptinspect.source.base import Source

STORED, DEFLATED = 0, 8


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
