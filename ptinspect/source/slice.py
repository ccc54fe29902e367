"""A stretch of another source, read in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.pickling.values import Blob
from ptinspect.source.base import MemorySource, Source

if TYPE_CHECKING:
    from ptinspect.pickling.values import Buffer


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
