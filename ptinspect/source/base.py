"""The interface of every source of bytes, and the sources inside memory or another source."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place
from ptinspect.pickling.values import Blob

if TYPE_CHECKING:
    from ptinspect.pickling.values import Buffer


class Source:
    """Bytes that can be read at any offset. A context manager.

    Attributes:
        path: the path that the user passed.
        size: number of bytes.
        base: offset of the first byte in the user's file, or None inside compressed data.
        owner: the name of the file that this one is opened for, such as an index; or None.
    """

    path: str
    size: int
    base: int | None = 0
    owner: str | None = None

    @property
    def descriptor(self) -> int | None:
        """A descriptor of the user's file, in which the source begins at `base`, for copying
        without reading; or None."""
        return None

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes. DamagedError, before anything is allocated, if fewer are
        left."""
        raise NotImplementedError

    def read_into(self, offset: int, buffer: bytearray) -> None:
        """Overwrite `buffer` with the bytes at `offset`. Like `read`, but a reused buffer spares
        the system from providing new pages for each read, which takes longer than the copy."""
        buffer[:] = self.read(offset, len(buffer))

    def window(self) -> tuple[Buffer, int, int]:
        """Return (buffer, start, stop) of the complete source, not copied if it is large."""
        raise NotImplementedError

    def headers(self) -> tuple[Buffer, int]:
        """Return (buffer, start) for many small reads that are far from each other."""
        buffer, start, _ = self.window()
        return buffer, start

    def check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            left = max(self.size - max(offset, 0), 0)
            raise DamagedError(
                f"the file is truncated: {length:,} bytes are expected, but only {left:,} are left",
                where=Place(None, offset),
                hint=DOWNLOAD_AGAIN,
            )

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class MemorySource(Source):
    """A part of a buffer: an open `BytesIO`, or a stream inside another file."""

    def __init__(
        self, buffer: Buffer, path: str, start: int = 0, stop: int | None = None,
        base: int | None = 0,
    ) -> None:  # fmt: skip
        self.path = path
        self.base = base
        self._buffer = buffer
        self._start = start
        self._stop = len(buffer) if stop is None else stop
        self.size = self._stop - start

    @classmethod
    def of_value(cls, value: bytes | Blob, path: str, origin: int | None = None) -> MemorySource:
        """Return a source of the bytes in a value of a pickle, which is at `origin` in the user's
        file."""
        if not isinstance(value, Blob):
            return cls(value, path, base=None)
        base = None if origin is None else origin + value.start
        return cls(value.buffer, path, value.start, value.start + value.length, base)

    def read(self, offset: int, length: int) -> bytes:
        self.check_range(offset, length)
        start = self._start + offset
        return bytes(self._buffer[start : start + length])

    def window(self) -> tuple[Buffer, int, int]:
        return self._buffer, self._start, self._stop


class SliceSource(Source):
    """`size` bytes of another source from `start` on, not copied."""

    def __init__(self, parent: Source, start: int, size: int) -> None:
        parent.check_range(start, size)
        self.path = parent.path
        self.base = None if parent.base is None else parent.base + start
        self.size = size
        self._parent = parent
        self._start = start

    @property
    def descriptor(self) -> int | None:
        return self._parent.descriptor

    def read(self, offset: int, length: int) -> bytes:
        self.check_range(offset, length)
        return self._parent.read(self._start + offset, length)

    def window(self) -> tuple[Buffer, int, int]:
        buffer, start, _ = self._parent.window()
        return buffer, start + self._start, start + self._start + self.size

    def headers(self) -> tuple[Buffer, int]:
        buffer, start = self._parent.headers()
        return buffer, start + self._start


class SourceFile(io.RawIOBase):
    """A source as a file object for readers of the standard library."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        left = max(self._source.size - self._position, 0)
        size = left if size < 0 else min(size, left)
        data = self._source.read(self._position, size) if size else b""
        self._position += size
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._source.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position
