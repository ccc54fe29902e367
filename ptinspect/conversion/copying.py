"""Bytes on their way from a source to the output: by the kernel where it can, else in chunks.

`os.copy_file_range` and `os.sendfile` move bytes without a copy in this process, and on file
systems that share blocks without any. Where they are missing (macOS, Windows) or refuse (two
file systems, a network), the bytes pass through a buffer of bounded size.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from zlib import crc32

from ptinspect.conversion.output import told
from ptinspect.errors import DamagedError, Place, PtInspectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ptinspect.conversion.output import Output
    from ptinspect.conversion.pieces import Piece
    from ptinspect.source.base import Source

    Progress = Callable[[int], None]
    Step = Callable[[int, int, int, int], int]

STEP = 32 << 20
"""Bytes that the kernel moves at once: a signal and the progress bar wait for no more."""

LARGE = 256 << 10
"""From this size on a piece is moved by the kernel; the small ones are collected."""

BUFFER = 1 << 20
"""Bytes that are collected before they are written."""

_REFUSALS = {
    errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF,
    errno.EPERM, errno.ENOTSOCK, errno.ETXTBSY, errno.EOVERFLOW,
}  # fmt: skip
"""What a system call answers where it cannot move bytes between these two files at all."""


def _by_copy_file_range(source: int, target: int, offset: int, count: int) -> int:
    return os.copy_file_range(source, target, count, offset)  # type: ignore[attr-defined,no-any-return,unused-ignore]


def _by_sendfile(source: int, target: int, offset: int, count: int) -> int:
    return os.sendfile(target, source, offset, count)  # type: ignore[attr-defined,no-any-return,unused-ignore]


def fast_ways() -> list[Step]:
    """The system calls that this platform has, the better first."""
    ways: list[Step] = []
    if hasattr(os, "copy_file_range"):
        ways.append(_by_copy_file_range)
    if hasattr(os, "sendfile"):
        ways.append(_by_sendfile)
    return ways


class Sink:
    """The output, written from its beginning to its end. `position`: bytes so far.

    copied, changed: bytes that were taken as they stand in a source, and the others.
    """

    def __init__(self, output: Output, progress: Progress | None = None) -> None:
        self.output = output
        self.position = 0
        self.copied = 0
        self.changed = 0
        self._progress = progress
        self._ways = fast_ways()
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        """Bytes that belong to the container."""
        self._buffer += data
        self.position += len(data)
        if len(self._buffer) >= BUFFER:
            self.flush()

    def flush(self) -> None:
        """Writes what is collected."""
        if self._buffer:
            self.output.write(self._buffer)
            self._buffer = bytearray()

    def put(self, pieces: Iterable[Piece], want_crc: bool) -> int:
        """Writes the pieces of one record; their CRC-32, where it is wanted (else 0)."""
        listed = list(pieces)
        if len(listed) == 1:
            known = listed[0].crc()
            if known is not None or not want_crc:
                self._move(listed[0])
                return known or 0
        crc = 0
        for piece in listed:
            crc = self._pass(piece, crc) if want_crc else self._move(piece)
        return crc

    def _count(self, piece: Piece, length: int) -> None:
        self.position += length
        if piece.changed:
            self.changed += length
        else:
            self.copied += length
        if self._progress:
            self._progress(length)

    def _move(self, piece: Piece) -> int:
        """A piece whose CRC nobody needs, or that is known."""
        place = piece.place() if piece.length >= LARGE else None
        left = piece.length
        if place is None:
            return self._pass(piece, None)
        self.flush()
        source, offset = place
        while left:
            done = self._step(source, offset, min(left, STEP))
            self._count(piece, done)
            offset += done
            left -= done
        return 0

    def _step(self, source: int, offset: int, count: int) -> int:
        """Moves up to `count` bytes by the first way that takes them."""
        while self._ways:
            try:
                done = self._ways[0](source, self.output.descriptor, offset, count)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    with told(self.output.path):
                        raise
                self._ways = self._ways[1:]
                continue
            if done:
                return done
            raise shrunk(offset)
        chunk = _pread(source, min(count, BUFFER), offset)
        if not chunk:
            raise shrunk(offset)
        self.output.write(chunk)
        return len(chunk)

    def _pass(self, piece: Piece, crc: int | None) -> int:
        """Writes a piece through this process; the CRC-32 that goes on from `crc`."""
        done = 0
        for chunk in piece.chunks():
            if crc is not None:
                crc = crc32(chunk, crc)
            if len(chunk) >= BUFFER // 4:
                self.flush()
                self.output.write(chunk)
            else:
                self._buffer += chunk
                if len(self._buffer) >= BUFFER:
                    self.flush()
            self._count(piece, len(chunk))
            done += len(chunk)
        if done != piece.length:
            raise DamagedError(f"{done:,} bytes were read where {piece.length:,} were expected")
        return crc or 0


def shrunk(offset: int) -> DamagedError:
    """The error for a source that ends earlier than it did."""
    return DamagedError(
        "the file became shorter while it was converted",
        where=Place(None, offset),
        hint="nothing was written: convert it again when nobody writes to it",
    )


if hasattr(os, "pread"):
    _pread = os.pread
else:

    def _pread(descriptor: int, length: int, offset: int, /) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


class Unchanged:
    """What a source was when it was opened, to be held against what it is at the end."""

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self._descriptor = source.descriptor
        self._before = self._look()

    def _look(self) -> tuple[int, int] | None:
        if self._descriptor is None:
            return None
        seen = os.fstat(self._descriptor)
        return seen.st_size, seen.st_mtime_ns

    def check(self) -> None:
        """PtInspectError where somebody wrote to it meanwhile."""
        if self._look() != self._before:
            raise PtInspectError(
                "the file changed while it was converted",
                path=self.path,
                hint="nothing was written: convert it again when nobody writes to it",
            )
