"""What every source of bytes can do, and the one that lies in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place
from ptinspect.pickling.values import Blob

if TYPE_CHECKING:
    from types import TracebackType

    from ptinspect.pickling.values import Buffer


class Source:
    """Bytes that can be read at any offset. A context manager.

    path: what the user called it. size: in bytes. base: where byte 0 of this source lies in
    the user's file; None where that has no meaning (it was inside something compressed).
    """

    path: str
    size: int
    base: int | None = 0

    @property
    def descriptor(self) -> int | None:
        """Of the user's file, open for reading, for who moves bytes without reading them: byte 0
        of this source lies there at `base`. None where there is none."""
        return None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. DamagedError, before anything is allocated, if the source
        ends before that: a short read is never silent."""
        raise NotImplementedError

    def window(self) -> tuple[Buffer, int, int]:
        """(buffer, start, stop): all of the source, as the machine takes it, uncopied where it
        is large."""
        raise NotImplementedError

    def headers(self) -> tuple[Buffer, int]:
        """(buffer, start) for many small reads far from each other; the source's byte 0 lies
        at `start`."""
        buffer, start, _ = self.window()
        return buffer, start

    def within(self, offset: int, length: int) -> None:
        """DamagedError unless the source has `length` bytes at `offset`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            left = max(self.size - max(offset, 0), 0)
            raise DamagedError(
                f"{length:,} bytes are expected here, {left:,} are left: the file is cut off",
                where=Place(None, offset),
                hint="download or copy the file again",
            )

    def close(self) -> None:
        """Gives back what the system lent. Twice is no error."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class MemorySource(Source):
    """A part of a buffer: an open `BytesIO`, or a stream inside another file, read in place."""

    def __init__(
        self,
        buffer: Buffer,
        path: str,
        start: int = 0,
        stop: int | None = None,
        base: int | None = 0,
    ) -> None:
        self.path = path
        self.base = base
        self._buffer = buffer
        self._start = start
        self._stop = len(buffer) if stop is None else stop
        self.size = self._stop - start

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`."""
        self.within(offset, length)
        at = self._start + offset
        return bytes(self._buffer[at : at + length])

    def window(self) -> tuple[Buffer, int, int]:
        """See `Source.window`."""
        return self._buffer, self._start, self._stop


class SliceSource(Source):
    """`size` bytes of `outer` from `start` on."""

    def __init__(self, outer: Source, start: int, size: int) -> None:
        outer.within(start, size)
        self.path = outer.path
        self.base = None if outer.base is None else outer.base + start
        self.size = size
        self._outer = outer
        self._start = start

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`."""
        self.within(offset, length)
        return self._outer.read(self._start + offset, length)

    def window(self) -> tuple[Buffer, int, int]:
        """See `Source.window`."""
        buffer, start, _ = self._outer.window()
        return buffer, start + self._start, start + self._start + self.size

    def headers(self) -> tuple[Buffer, int]:
        """See `Source.headers`."""
        buffer, start = self._outer.headers()
        return buffer, start + self._start

    @staticmethod
    def of_value(value: bytes | Blob, path: str) -> Source:
        """The bytes that a value of a pickle holds."""
        if isinstance(value, Blob):
            return MemorySource(value.buffer, path, value.start, value.start + value.length, None)
        return MemorySource(value, path, base=None)
