"""Storages: the bytes that one or more tensors are views of."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place
from ptinspect.formats.dtypes import DType, dtype_of_class
from ptinspect.pickling.values import Global, PersistentId, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.formats.archive import Archive, Span

CHUNK = 1 << 20
"""Bytes that are read at once where a tensor is streamed."""


class Storage:
    """Bytes that one or more tensors are views of.

    Source: the persistent id ("storage", type, key, location, numel) that
    `torch.serialization._save` writes, with view metadata (view key, offset, size) as a sixth
    part in `_legacy_save`. `key` is the root's, `nbytes` and `begin` in bytes: a legacy view
    begins at `begin` of its root. `location` is recorded, never looked for.
    """

    __slots__ = ("archive", "begin", "key", "location", "nbytes")

    def __init__(
        self, archive: Archive, key: str, location: str, nbytes: int, begin: int = 0
    ) -> None:
        self.archive = archive
        self.key = key
        self.location = location
        self.nbytes = nbytes
        self.begin = begin

    @property
    def span(self) -> Span:
        """Where the root's bytes lie. DamagedError where the file does not have them."""
        found = self.archive.storages.get(self.key)
        if found is None:
            raise DamagedError(
                f"the storage {self.key} is missing ({self.nbytes:,} bytes)",
                where=Place(self.archive.record),
                hint="the file is incomplete: download or copy the file again",
            )
        return found

    @property
    def record(self) -> str | None:
        """The archive's member that holds the bytes."""
        return self.span.record

    @property
    def file_offset(self) -> int | None:
        """Where in the file the bytes begin; None: the record is compressed."""
        at = self.span.offset
        return None if at is None else at + self.begin

    @property
    def place(self) -> tuple[str | None, int | None]:
        """`record` and `file_offset`, looked up once for both."""
        span = self.span
        at = span.offset
        return span.record, None if at is None else at + self.begin

    def check(self) -> None:
        """DamagedError where the file holds fewer bytes than the storage has."""
        span = self.span
        if span.length < self.begin + self.nbytes:
            raise DamagedError(
                f"the storage {self.key} has {span.length:,} of {self.begin + self.nbytes:,} bytes",
                where=Place(span.record),
                hint="the file is incomplete: download or copy the file again",
            )

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, as they stand in the file."""
        return self.archive.read(self.span, self.begin + start, self.begin + stop)

    def chunks(self, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
        """The same in pieces of `size` bytes."""
        return self.archive.chunks(self.span, self.begin + start, self.begin + stop, size)


def places(storages: list[Storage | None]) -> list[tuple[str | None, int | None]]:
    """`Storage.place` of many; (None, None) for None. Where all lie in one zip, that is asked
    once for all."""
    first = storages[0] if storages else None
    locate = getattr(first.archive.storages, "locate", None) if first is not None else None
    if first is not None and locate is not None:
        archive = first.archive
        if all(type(s) is Storage and s.archive is archive and not s.begin for s in storages):
            with suppress(KeyError):
                found: list[tuple[str | None, int | None]] = locate([s.key for s in storages if s])
                return found
    return [(None, None) if storage is None else storage.place for storage in storages]


class Reference:
    """What a persistent id says of a storage: the type by which it is referred to, its elements'
    number, and the storage itself."""

    __slots__ = ("dtype", "numel", "storage", "type")

    def __init__(self, storage: Storage, type_: str, dtype: DType, numel: int) -> None:
        self.storage = storage
        self.type = type_
        self.dtype = dtype
        self.numel = numel


def type_name(value: Value) -> str | None:
    """The path of the class that a persistent id gives as the storage's type."""
    if isinstance(value, Global):
        return value.path
    return value if isinstance(value, str) else None


_TEXT = re.compile(r"\('storage', <class '([\w.]+)'>, '(\w+)', '([\w:]+)', (\d{1,18})\)")


def _from_text(text: str) -> tuple[Value, ...] | None:
    """A persistent id of protocol 0, where pickle writes its `str` (and torch.load, which
    torch.save's own file then meets, gives up)."""
    match = _TEXT.fullmatch(text)
    return ("storage", *match.groups()[:3], int(match[4])) if match else None


class Storages:
    """The storages of one archive, one object per key (and per view of it)."""

    __slots__ = ("_archive", "_known")

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._known: dict[object, Storage] = {}

    def __iter__(self) -> Iterator[Storage]:
        return iter(self._known.values())

    def refer(self, value: Value) -> Reference | None:
        """The storage that a persistent id refers to; None where it is none of torch's."""
        return self.named(value.value) if isinstance(value, PersistentId) else None

    def named(self, named: Value) -> Reference | None:
        """The same by what the persistent id holds."""
        if isinstance(named, str):
            named = _from_text(named)
        if not isinstance(named, tuple) or len(named) < 5 or named[0] != "storage":
            return None
        path, key, location, numel = type_name(named[1]), named[2], named[3], named[4]
        dtype = dtype_of_class(path) if path else None
        if path is None or dtype is None or not isinstance(numel, int) or isinstance(key, list):
            return None
        made = self.get(str(key), str(location), numel * dtype.itemsize)
        if len(named) > 5 and isinstance(named[5], tuple) and len(named[5]) == 3:
            _, offset, numel = named[5]
            if isinstance(offset, int) and isinstance(numel, int):
                begin = offset * dtype.itemsize
                made = self.get(str(key), str(location), numel * dtype.itemsize, begin)
        return Reference(made, path, dtype, numel)

    def get(self, key: str, location: str, nbytes: int, begin: int = 0) -> Storage:
        """The storage of that key; a larger reference to it counts (two types, one storage)."""
        index: object = (key, begin, nbytes) if begin else key
        known = self._known.get(index)
        if known is None:
            known = Storage(*self._archive.owner(key), location, nbytes, begin)
            self._known[index] = known
        elif nbytes > known.nbytes:
            known.nbytes = nbytes
        return known
