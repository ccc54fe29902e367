"""Copying bytes from a source to the output: in the kernel where that is faster, else in chunks.

`os.copy_file_range` moves whole pages without copying them through this process, and on file
systems that share blocks it copies nothing at all. But if the bytes are aligned differently
within their pages in the two files, as they usually are when a record moves to another container,
the kernel writes every page twice: measured on ext4 with 1 GiB it then takes 1.4 times as long as
reading into a buffer that stays in the processor's cache and writing whole pages from it.
`os.sendfile` is no better. So the kernel copies ranges of equal alignment; everything else goes
through the buffer, also on other file systems, networks and platforms (macOS, Windows).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol
from zlib import crc32

from ptinspect.atomic_file import map_os_errors, reserve_blocks
from ptinspect.conversion.output.pieces import ConvertedRange, Piece, SourceRange
from ptinspect.errors import DamagedError, Place, PtInspectError
from ptinspect.formats.zip_records import combine_crcs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ptinspect.formats.archive import Archive
    from ptinspect.source.base import Source

    Progress = Callable[[int], None]
    KernelCopy = Callable[[int, int, int, int], int]
    Data = bytes | bytearray | memoryview

    class Output(Protocol):
        """What a sink writes to: an AtomicFile, or a comparison with one."""

        path: str
        descriptor: int

        def write(self, data: Data, offset: int | None = None) -> None: ...
        def count_written(self, count: int) -> None: ...


KERNEL_STEP = 32 << 20
"""Bytes that the kernel, or two threads, copy at a time. Signals and the bar wait that long."""

LARGE = 256 << 10
"""Pieces of at least this size are copied one by one; smaller ones are collected in a buffer."""

BUFFER = 1 << 20
"""Number of bytes that are collected, or read, before they are written."""

SMALL_WINDOW, MAX_WINDOWS = 16 << 10, 8
"""Bytes that are first read ahead for small pieces, and the number of places where that is done."""

THREADED = 4 << 20
"""From this size on, a range whose CRC-32 is computed is worth a second thread."""

PAGE = 4096
"""Size of the pages in which systems cache files: writes of whole pages are the cheapest."""

_UNSUPPORTED_ERRORS = {
    errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF,
    errno.EPERM, errno.ETXTBSY, errno.EOVERFLOW,
}  # fmt: skip
"""Errors of `copy_file_range` that mean it cannot copy between these two files at all."""


def kernel_copy() -> KernelCopy | None:
    """Return the system call by which this platform copies in the kernel, if it has one."""
    if not hasattr(os, "copy_file_range"):
        return None

    def copy(source: int, target: int, offset: int, count: int) -> int:
        return os.copy_file_range(source, target, count, offset)  # type: ignore[attr-defined,no-any-return,unused-ignore]

    return copy


class ByteCounter:
    """Adds up the bytes that are done, for a callback with (bytes done, bytes in total)."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done = 0
        self._total = total
        self._progress = progress

    def add(self, count: int) -> None:
        self.done += count
        if self._progress is not None:
            self._progress(min(self.done, self._total), self._total)


class _Window(NamedTuple):
    """Bytes `start` to `stop` of a file."""

    source: int
    start: int
    stop: int
    data: memoryview


class Sink:
    """Writes one output from its beginning to its end. `mismatches` are the ranges whose bytes do
    not match the CRC-32 that their source recorded, `checked` those of several records that do."""

    def __init__(self, output: Output, progress: Progress | None = None) -> None:
        self.output = output
        self.position = self.copied = self.changed = 0
        self.mismatches: list[SourceRange] = []
        self.checked: list[SourceRange] = []
        self._progress = progress
        self._kernel_copy = kernel_copy()
        self._unreported = 0
        self._pending = bytearray()
        self._buffers: list[memoryview] = []
        self._windows: list[_Window] = []  # the latest first

    def write(self, data: bytes) -> None:
        """Write bytes of the container itself."""
        self.position += len(data)
        if len(data) < BUFFER:
            self._pending += data
            if len(self._pending) < BUFFER:
                return
        self.flush()
        if len(data) >= BUFFER:  # without a copy
            self.output.write(data)

    def flush(self) -> None:
        """Write the bytes that were collected."""
        if self._pending:
            self.output.write(self._pending)
            self._pending = bytearray()
        self._report_progress()

    def write_pieces(self, pieces: Sequence[Piece], *, with_crc: bool) -> int:
        """Write the pieces of one record, or of several if no CRC-32 is wanted. Return their
        CRC-32, else 0. It is always computed from the bytes, because the one that a source recorded
        may be stale. A source range that does not match the recorded one is added to
        `mismatches`."""
        crc = 0 if with_crc else None
        for piece in pieces:
            if type(piece) is SourceRange:
                range_crc = self._write_range(piece, crc)
                crc = range_crc if with_crc else None
                continue
            crc = self._write_chunks(piece, piece.chunks(), crc)
            if type(piece) is ConvertedRange:
                _, _, recorded = piece.source.place()
                if recorded is not None and recorded != piece.source_crc:
                    self.mismatches.append(piece.source)
        return crc or 0

    def _write_range(self, piece: SourceRange, crc: int | None) -> int | None:
        """Write bytes of a source. Return the CRC-32 continued from `crc`, or None if it is None
        and the source has no CRC-32 to compare it with."""
        source, offset, recorded = piece.located or piece.place()
        length = piece.length
        if 0 < length < LARGE and source is not None:  # thousands of these may follow each other
            stop = offset + length
            for descriptor, begin, end, window in self._windows:
                if begin <= offset and stop <= end and descriptor == source:
                    data = window[offset - begin : stop - begin]
                    break
            else:
                data = self._read_window(source, offset, length)
            if recorded is not None or crc is not None:
                crc = crc32(data, crc or 0)
                if recorded is not None and crc != recorded:
                    self.mismatches.append(piece)
            self._pending += data
            self.position += length
            self.copied += length
            self._unreported += length
            if len(self._pending) >= BUFFER:
                self.flush()
            return crc
        is_large = length >= LARGE and source is None and crc is None
        ranges = piece.file_ranges() if is_large else None
        if ranges:
            matches = True
            for descriptor, begin, length, expected in ranges:
                found = self._copy_range(piece, descriptor, begin, expected and 0, length)
                matches &= found is not None and found == expected
            self.checked += [piece] if matches else []
        elif source is None or not length:
            # A range with a recorded CRC-32 is a whole record, and so the only piece.
            crc = self._write_chunks(piece, piece.chunks(), crc if recorded is None else 0)
        else:
            # All bytes are read for a recorded CRC-32, also where the kernel could copy them.
            crc = self._copy_range(piece, source, offset, crc if recorded is None else 0, length)
        if recorded is not None and crc is not None and crc != recorded:
            self.mismatches.append(piece)
        return crc

    def _count(self, piece: Piece, length: int) -> None:
        self.position += length
        if piece.changed:
            self.changed += length
        else:
            self.copied += length
        self._unreported += length
        if self._unreported >= BUFFER:
            self._report_progress()

    def _report_progress(self) -> None:
        if self._progress and self._unreported:
            self._progress(self._unreported)
        self._unreported = 0

    def _copy_range(
        self, piece: SourceRange, source: int, offset: int, crc: int | None, left: int
    ) -> int | None:
        """Write `left` bytes of a file. Return the CRC-32 as `_write_range` does."""
        self.flush()
        if crc is not None or (offset - self.position) % PAGE:  # not for a copy in the kernel
            reserve_blocks(self.output.descriptor, self.position, left)
        can_split = hasattr(os, "pwrite") and hasattr(os, "preadv") and self.output.descriptor >= 0
        while left:
            done = self._copy_in_kernel(source, offset, left) if crc is None else 0
            if crc is not None and left >= THREADED and can_split:
                done = min(left, KERNEL_STEP)
                crc = self._copy_halves(source, offset, done, crc)
            elif not done:
                length = min(left, BUFFER - self.position % PAGE)
                chunk = _read_chunk(source, self._buffer(0)[:length], offset)
                crc = crc if crc is None else crc32(chunk, crc)
                self.output.write(chunk)
                done = len(chunk)
            self._count(piece, done)
            offset += done
            left -= done
        return crc

    def _buffer(self, number: int) -> memoryview:
        while len(self._buffers) <= number:
            self._buffers.append(memoryview(bytearray(BUFFER)))
        return self._buffers[number]

    def _copy_halves(self, source: int, offset: int, length: int, crc: int) -> int:
        """Write bytes of a file in two threads, and return the CRC-32 continued from `crc`.

        Each thread reads, checks and writes one half. With one thread that reads and another one
        that writes, every chunk would go from the cache of one processor to that of the other,
        which takes as long as the copy.
        """
        import threading

        half = length // 2
        half -= (self.position + half) % PAGE
        results: list[int | PtInspectError] = []

        def copy_second_half() -> None:
            try:
                places = offset + half, self.position + half
                results.append(self._copy_part(source, *places, length - half, 0, buffer))
            except PtInspectError as error:
                results.append(error)

        buffer = self._buffer(1)
        thread = threading.Thread(target=copy_second_half)
        try:
            try:
                thread.start()
            except RuntimeError:  # the system allows no more threads
                copy_second_half()
            crc = self._copy_part(source, offset, self.position, half, crc, self._buffer(0))
        finally:
            if thread.is_alive():
                thread.join()
        if isinstance(results[0], PtInspectError):
            raise results[0]
        os.lseek(self.output.descriptor, length, os.SEEK_CUR)
        self.output.count_written(length)
        return combine_crcs(crc, results[0], length - half)

    def _copy_part(
        self, source: int, offset: int, position: int, length: int, crc: int, buffer: memoryview
    ) -> int:
        """Write bytes of a file at `position` of the output. Return the CRC-32."""
        stop = offset + length
        while offset < stop:
            size = min(stop - offset, BUFFER - position % PAGE)
            chunk = _read_chunk(source, buffer[:size], offset)
            crc = crc32(chunk, crc)
            self.output.write(chunk, position)
            offset += len(chunk)
            position += len(chunk)
        return crc

    def _copy_in_kernel(self, source: int, offset: int, left: int) -> int:
        """Return the number of bytes that the kernel copied; 0 if the buffer has to be used."""
        if self._kernel_copy is None or (offset - self.position) % PAGE:
            return 0
        try:
            step = min(left, KERNEL_STEP)
            done = self._kernel_copy(source, self.output.descriptor, offset, step)
        except OSError as error:
            if error.errno not in _UNSUPPORTED_ERRORS:
                with map_os_errors(self.output.path):
                    raise
            self._kernel_copy = None
            return 0
        if not done:
            raise _truncated_source_error(offset)
        self.output.count_written(done)
        return done

    def _write_chunks(
        self, piece: Piece, chunks: Iterable[bytes | memoryview], crc: int | None
    ) -> int | None:
        """Write a piece that is small or converted on the way."""
        done = 0
        if piece.length >= BUFFER:
            reserve_blocks(self.output.descriptor, self.position, piece.length)
        for chunk in chunks:
            if crc is not None:
                crc = crc32(chunk, crc)
            if len(chunk) >= BUFFER // 4:
                self.flush()
                self.output.write(chunk)
            else:
                self._pending += chunk
            self._count(piece, len(chunk))
            if len(self._pending) >= BUFFER:
                self.flush()
            done += len(chunk)
        if done != piece.length:
            raise DamagedError(f"{done:,} bytes were read where {piece.length:,} were expected")
        return crc

    def _read_window(self, source: int, offset: int, length: int) -> memoryview:
        """Return a small range of a file and read ahead, because its neighbours usually follow:
        twice as far as the last time if the ranges follow each other. There are several windows,
        because the order of keys is often that of text: `10` is between `1` and `2`."""
        size = max(SMALL_WINDOW, length)
        for window in self._windows:
            if window.source == source and 0 <= offset - window.start <= 2 * len(window.data):
                size = max(size, min(2 * len(window.data), BUFFER))
                self._windows.remove(window)
                break
        buffer = bytearray(size)
        data = memoryview(buffer)[: _read_into(source, memoryview(buffer), offset)]
        if len(data) < length:
            raise _truncated_source_error(offset)
        window = _Window(source, offset, offset + len(data), data)
        self._windows = [window, *self._windows[: MAX_WINDOWS - 1]]
        return data[:length]


def _truncated_source_error(offset: int) -> DamagedError:
    return DamagedError(
        "the file became shorter while it was converted",
        where=Place(None, offset),
        hint="nothing was written: convert it again when no program writes to it",
    )


def _read_chunk(source: int, buffer: memoryview, offset: int) -> memoryview:
    """Read into `buffer` and return the part of it that was read. DamagedError at the end."""
    done = _read_into(source, buffer, offset)
    if not done:
        raise _truncated_source_error(offset)
    return buffer[:done]


def _read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` with the bytes at `offset`. Return their number, which is smaller at the end of
    the file. PtInspectError if they cannot be read."""
    done = 0
    while done < len(buffer):
        try:
            if hasattr(os, "preadv"):
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
            else:
                os.lseek(descriptor, offset + done, os.SEEK_SET)
                chunk = os.read(descriptor, len(buffer) - done)
                count = len(chunk)
                buffer[done : done + count] = chunk
        except OSError as error:
            where = Place(None, offset + done)
            raise PtInspectError(f"it cannot be read: {error.strerror}", where=where) from error
        if not count:
            break
        done += count
    return done


@dataclass(slots=True, repr=False, eq=False)
class OutputFile:
    """A file of the output: its final name, a function that writes it to a sink, the pickle or
    header (`head`), and the keys of its storages with their bytes. `copied` and `changed` are the
    numbers of bytes that are copied as they are, and that are converted from others."""

    path: str
    write: Callable[[Sink], None]
    head: bytes
    records: Sequence[tuple[str, Sequence[Piece]]] = ()
    copied: int = field(init=False)
    changed: int = field(init=False)

    def __post_init__(self) -> None:
        pieces = [piece for _, record in self.records for piece in record]
        self.changed = sum([piece.length for piece in pieces if piece.changed])
        self.copied = sum([piece.length for piece in pieces]) - self.changed


class ModificationGuard:
    """Size and time of a source, or of a path, before the conversion, to notice changes during it.
    `names` are those of the file, for `atomic_file.check_destination`."""

    def __init__(self, source: Source | str) -> None:
        self.path = source if isinstance(source, str) else source.path
        self.names: list[str | int] = [self.path]
        self._file = self.path if isinstance(source, str) else source.descriptor
        if isinstance(self._file, int):
            self.names.append(self._file)
        self._before = self._state()

    @classmethod
    def of_archive(cls, archive: Archive) -> list[ModificationGuard]:
        """Return the guards of all files of an archive."""
        sources = [archive.source, *(part.source for part in archive.parts)]
        return [*map(cls, sources), *map(cls, archive.data_paths)]

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = None if self._file is None else os.stat(self._file)
        except FileNotFoundError:
            return None
        return status and (status.st_size, status.st_mtime_ns, status.st_ino)

    def check(self) -> None:
        """Raise PtInspectError if the file was modified meanwhile."""
        if self._state() != self._before:
            raise PtInspectError(
                "the file changed while it was converted",
                path=self.path,
                hint="nothing was written: convert it again when no program writes to it",
            )
