"""What every format gives: the value its pickle makes, and where each storage's bytes lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, Place
from ptinspect.limits import LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

CHUNK = 1 << 20
"""Bytes that are read at a time where more are asked for than a view should hold."""


class Finding(NamedTuple):
    """Something in a container that does not add up, or that a reader should know."""

    kind: str
    message: str
    where: Place = Place()


class ClassSource(NamedTuple):
    """The source code of a module's class, as legacy files hold it. `file`: its path there."""

    module: str
    name: str
    file: str
    text: str


class Span:
    """The bytes of one storage. `record`: the archive's member; `length`: real bytes.

    at: where they begin in the archive's own source (None: compressed). offset: where in the
    user's file (None: in something compressed).
    """

    __slots__ = ("_at", "_base", "length", "record")

    def __init__(self, record: str | None, length: int, at: int | None, base: int | None) -> None:
        self.record = record
        self.length = length
        self._at = at
        self._base = base

    @property
    def at(self) -> int | None:
        """See the class."""
        return self._at

    @property
    def offset(self) -> int | None:
        """See the class."""
        at = self.at
        return None if at is None or self._base is None else self._base + at

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.record!r}, {self.length} bytes)"


class Archive:
    """One opened file. It does not own its source: who opened that closes it.

    format: its name in JSON. pickled, root: the main pickle, run, and its value. record: the
    name of the record that it lies in (None: the file itself); origin: where byte 0 of the
    machine's buffer lies in the user's file (None: in something compressed), so that an offset
    of a value plus `origin` is an offset in the file.

    byteorder: of the storages' elements. version: what the container calls its version.
    facts: what else the container records. storages: by the key in the persistent ids.
    sources: classes' source code. streams: every pickle of the file, the main one included.
    more_roots: the values of the pickles that follow the first in a row. parts: further files that
    it consists of, whose sources are closed with its own.
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
        self.warnings: list[Finding] = []

    @property
    def root(self) -> Value:
        """The value that the main pickle makes."""
        return self.pickled.root

    def owner(self, key: str) -> tuple[Archive, str]:
        """The archive that has the storage which a persistent id names so, and its key there."""
        return self, key

    def read(self, span: Span, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `start` to `stop` of a storage, in one piece: ask for what may be held.

        DamagedError if the storage or the file ends before `stop`.
        """
        start, stop = bounded(span, start, stop)
        return b"".join(self.chunks(span, start, stop, max(stop - start, 1)))

    def chunks(
        self, span: Span, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """The same in pieces of `size` bytes (the last may be shorter)."""
        start, stop = bounded(span, start, stop)
        if span.at is None:
            raise NotImplementedError(f"{self.format} has no compressed storages")
        return pieces(self.source, span.at, start, stop, size)


def bounded(span: Span, start: int, stop: int | None) -> tuple[int, int]:
    """The range, checked against what the storage has."""
    stop = span.length if stop is None else stop
    if not 0 <= start <= stop <= span.length:
        raise DamagedError(
            f"bytes {start:,} to {stop:,} are asked of a storage that has {span.length:,}",
            where=Place(span.record),
        )
    return start, stop


def pieces(source: Source, at: int, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
    """`source[at + start : at + stop]` in pieces of `size` bytes."""
    for begin in range(start, stop, size):
        yield source.read(at + begin, min(size, stop - begin))
