"""Bytes on their way from a source to the output: by the kernel where that is faster, else in
chunks.

`os.copy_file_range` moves whole pages without a copy in this process, and on file systems that
share blocks without any; but where the bytes stand differently within their pages in the two
files, which is the rule when a record moves to another container, the kernel writes every page
twice. Measured on ext4 with 1 GiB, it then takes 1.4 times as long as reading into a buffer that
stays in the processor's cache and writing whole pages from it; `os.sendfile` is no better. So the
kernel copies what is aligned alike, the buffer all else: other file systems, networks and
platforms (macOS, Windows) as well.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from zlib import crc32

from ptinspect.atomic_file import map_os_errors
from ptinspect.errors import DamagedError, Place, PtInspectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import ThreadPoolExecutor

    from ptinspect.atomic_file import AtomicFile
    from ptinspect.conversion.tensors.byte_ranges import Piece
    from ptinspect.source.base import Source

    Progress = Callable[[int], None]
    Step = Callable[[int, int, int, int], int]

STEP = 32 << 20
"""Bytes that the kernel moves at once: a signal and the progress bar wait for no more."""

LARGE = 256 << 10
"""From this size on a piece is moved by itself; the small ones are collected."""

BUFFER = 1 << 20
"""Bytes that are collected, or read at once, before they are written."""

THREADED = 8 << 20
"""Bytes of a piece from which on a thread for its CRC-32 is worth its start."""

PAGE = 4096
"""Bytes in which systems keep files in memory: a write of whole ones is cheapest."""

_REFUSALS = {
    errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF,
    errno.EPERM, errno.ETXTBSY, errno.EOVERFLOW,
}  # fmt: skip
"""What the system call answers where it cannot move bytes between these two files at all."""


def _by_copy_file_range(source: int, target: int, offset: int, count: int) -> int:
    return os.copy_file_range(source, target, count, offset)  # type: ignore[attr-defined,no-any-return,unused-ignore]


def fast_way() -> Step | None:
    """The system call by which this platform copies within the kernel, if it has one."""
    return _by_copy_file_range if hasattr(os, "copy_file_range") else None


class Sink:
    """The output, written from its beginning to its end. `position`: bytes so far.

    copied, changed: bytes that were taken as they stand in a source, and the others.
    """

    def __init__(self, output: AtomicFile, progress: Progress | None = None) -> None:
        self.output = output
        self.position = 0
        self.copied = 0
        self.changed = 0
        self._progress = progress
        self._fast = fast_way()
        self._buffer = bytearray()
        self._room = memoryview(b"")
        self._helper: ThreadPoolExecutor | None = None

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
                self._add(listed[0], None)
                return known or 0
        crc = 0 if want_crc else None
        for piece in listed:
            crc = self._add(piece, crc)
        return crc or 0

    def _count(self, piece: Piece, length: int) -> None:
        self.position += length
        if piece.changed:
            self.changed += length
        else:
            self.copied += length
        if self._progress:
            self._progress(length)

    def _add(self, piece: Piece, crc: int | None) -> int | None:
        """Writes a piece; the CRC-32 that goes on from `crc`, None if nobody needs it."""
        place = piece.place() if piece.length >= LARGE else None
        if place is None:
            return self._pass(piece, crc)
        self.flush()
        source, offset = place
        left = piece.length
        while left:
            done = self._by_kernel(source, offset, left) if crc is None else 0
            if not done:
                chunk = self._read(source, offset, left)
                crc = self._write_summed(chunk, crc, piece.length)
                done = len(chunk)
            self._count(piece, done)
            offset += done
            left -= done
        return crc

    def _write_summed(self, chunk: memoryview, crc: int | None, whole: int) -> int | None:
        """Writes the chunk; the CRC-32 that goes on from `crc`, which for a piece of many chunks
        (`whole` bytes) another thread finds out while the system writes."""
        if crc is None or whole < THREADED:
            self.output.write(chunk)
            return crc if crc is None else crc32(chunk, crc)
        if self._helper is None:
            from concurrent.futures import ThreadPoolExecutor

            self._helper = ThreadPoolExecutor(1)
        summed = self._helper.submit(crc32, chunk, crc)
        self.output.write(chunk)
        return summed.result()

    def _by_kernel(self, source: int, offset: int, left: int) -> int:
        """Bytes that the kernel moved from `offset` on; 0 where the buffer has to do it."""
        if self._fast is None or (offset - self.position) % PAGE:
            return 0
        try:
            done = self._fast(source, self.output.descriptor, offset, min(left, STEP))
        except OSError as error:
            if error.errno not in _REFUSALS:
                with map_os_errors(self.output.path):
                    raise
            self._fast = None
            return 0
        if not done:
            raise shrunk(offset)
        self.output.count_written(done)
        return done

    def _read(self, source: int, offset: int, left: int) -> memoryview:
        """The next bytes, so many that their write ends with a page of the output."""
        if not self._room:
            self._room = memoryview(bytearray(BUFFER))
        room = self._room[: min(left, BUFFER - self.position % PAGE)]
        done = _read_into(source, room, offset)
        if not done:
            raise shrunk(offset)
        return room[:done]

    def _pass(self, piece: Piece, crc: int | None) -> int | None:
        """The same for a piece that is small, or made on the way."""
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
        return crc


def shrunk(offset: int) -> DamagedError:
    """The error for a source that ends earlier than it did."""
    return DamagedError(
        "the file became shorter while it was converted",
        where=Place(None, offset),
        hint="nothing was written: convert it again when nobody writes to it",
    )


def _read_into(descriptor: int, room: memoryview, offset: int) -> int:
    """Fills `room` with what stands at `offset`; how many bytes there were, 0 past the end."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [room], offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    chunk = os.read(descriptor, len(room))
    room[: len(chunk)] = chunk
    return len(chunk)


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
