"""The interface of every format: the value of its pickle, and the bytes of each storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, Place
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

    OpenArchive = Callable[[Source, Limits], "Archive"]

CHUNK = 1 << 20
"""Bytes per read of long records."""

EMPTY_PICKLE = b"\x80\x02N."
"""The pickle of None, for formats without a pickle."""


class OutsideFolderError(DamagedError):
    """A file names another one that may be outside its folder."""


class Finding(NamedTuple):
    """An inconsistency in a container, or a fact about it that a reader should know."""

    kind: str
    message: str
    where: Place = Place()


class ClassSource(NamedTuple):
    """The source code of a module's class in a legacy file. `file` is its original path."""

    module: str
    name: str
    file: str
    text: str


class Span:
    """The bytes of one storage: its record (None for the file itself), and their number after
    decompression."""

    __slots__ = ("_base", "_start", "length", "record")

    def __init__(
        self, record: str | None, length: int, start: int | None, base: int | None
    ) -> None:
        self.record = record
        self.length = length
        self._start = start
        self._base = base

    @property
    def start(self) -> int | None:
        """Offset of the bytes in the archive's source, or None if they are compressed."""
        return self._start

    @property
    def offset(self) -> int | None:
        """Offset of the bytes in the user's file, or None inside compressed data."""
        start = self.start
        return None if start is None or self._base is None else self._base + start

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.record!r}, {self.length} bytes)"


class Archive:
    """One opened file. Its source is closed by whoever opened it.

    Attributes:
        format: the name of the format in JSON.
        pickled: the main pickle after its run.
        record: name of the record that contains it, or None for the file itself.
        origin: offset in the user's file of the first byte of the machine's buffer, so that
            `origin` plus the offset of a value is an offset in the file. None inside compressed
            data.
        byteorder: byte order of the storages' elements.
        version: version of the container.
        facts: other facts that the container records.
        storages: byte ranges by the keys of the persistent ids.
        sources: source code of classes.
        streams: every pickle of the file, the main one included.
        more_roots: values of further pickles after the first.
        parts: other files that belong to this one; their sources are closed with its own.
        inner: archives whose storages have keys with a prefix and a colon, by the prefix.
    """

    format: str

    def __init__(self, source: Source, pickled: Pickled, *, limits: Limits = LIMITS) -> None:
        self.source = source
        self.limits = limits
        self.pickled = pickled
        self.record: str | None = pickled.record
        self.origin: int | None = source.base
        self.byteorder = "little"
        self.version: str | None = None
        self.facts: dict[str, object] = {}
        self.storages: Mapping[object, Span] = {}
        self.sources: list[ClassSource] = []
        self.streams: list[Pickled] = [pickled]
        self.more_roots: list[Value] = []
        self.parts: list[Archive] = []
        self.inner: dict[str, Archive] = {}
        self.warnings: list[Finding] = []

    @property
    def root(self) -> Value:
        return self.pickled.root

    @property
    def size(self) -> int:
        """Bytes of all files that belong to it."""
        return self.source.size + sum(part.source.size for part in self.parts)

    def close(self) -> None:
        """Close the other files that belong to it."""
        for part in self.parts:
            part.source.close()

    def resolve_storage(self, key: str) -> tuple[Archive, str]:
        """Return the archive that contains the storage of a persistent id, and its key there."""
        prefix, colon, inner_key = key.partition(":")
        archive = self.inner.get(prefix) if colon else None
        return (self, key) if archive is None else (archive, inner_key)

    def read(self, span: Span, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes `start` to `stop` of a storage in one piece. DamagedError if it ends before
        that."""
        start, stop = check_range(span, start, stop)
        return b"".join(self.chunks(span, start, stop, max(stop - start, 1)))

    def chunks(
        self, span: Span, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` of a storage in pieces of `size` bytes."""
        start, stop = check_range(span, start, stop)
        if span.start is None:
            raise NotImplementedError(f"{self.format} has no compressed storages")
        return read_chunks(self.source, span.start + start, span.start + stop, size)


class PicklelessArchive(Archive):
    """An archive whose root is not (only) a pickle's: its reader sets `value`."""

    def __init__(self, source: Source, limits: Limits) -> None:
        super().__init__(source, run(EMPTY_PICKLE), limits=limits)
        self.streams = []
        self.origin = None
        self.value: Value = None

    def set_pickle(self, pickled: Pickled) -> None:
        """Add the main pickle of an archive that has one all the same."""
        self.pickled, self.record, self.value = pickled, pickled.record, pickled.root
        self.streams = [pickled]

    @property
    def root(self) -> Value:
        """The tensors by name, or the only one."""
        return self.value


def check_range(span: Span, start: int, stop: int | None) -> tuple[int, int]:
    """Return the range, or raise DamagedError if the storage is shorter."""
    stop = span.length if stop is None else stop
    if not 0 <= start <= stop <= span.length:
        raise DamagedError(
            f"bytes {start:,} to {stop:,} are outside a storage of {span.length:,} bytes",
            where=Place(span.record),
        )
    return start, stop


def read_chunks(source: Source, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
    """Yield `source[start:stop]` in pieces of `size` bytes."""
    for begin in range(start, stop, size):
        yield source.read(begin, min(size, stop - begin))
