"""Storages: the bytes that one or more tensors view."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptinspect.dtypes import DType, dtype_of_class
from ptinspect.errors import DamagedError, Place
from ptinspect.pickling.pyobjects import as_bytes
from ptinspect.pickling.values import Blob, Global, PersistentId, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.formats.archive import Archive, Span

CHUNK = 1 << 20
"""Bytes that are read at once when a tensor is streamed."""

_INCOMPLETE = "the file is incomplete: fetch or copy it again"


class Storage:
    """Bytes that one or more tensors view.

    Source: the persistent id ("storage", type, key, location, numel) that
    `torch.serialization._save` writes; `_legacy_save` adds (view key, offset, size).

    Attributes:
        key: of the root storage.
        location: device tag as recorded, e.g. "cpu" or "cuda:0". Never looked up.
        nbytes: size in bytes.
        begin: byte offset of a legacy view within its root.
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
        """Position of the root's bytes.

        Raises:
            DamagedError: the file does not have them.
        """
        span = self.archive.storages.get(self.key)
        if span is None:
            raise DamagedError(
                f"the storage {self.key} is missing ({self.nbytes:,} bytes)",
                where=Place(self.archive.record),
                hint=_INCOMPLETE,
            )
        return span

    @property
    def record(self) -> str | None:
        """Name of the archive's record that holds the bytes."""
        return self.span.record

    @property
    def file_offset(self) -> int | None:
        """Byte offset of the data in the file; None if the record is compressed."""
        return self.place[1]

    @property
    def place(self) -> tuple[str | None, int | None]:
        """`record` and `file_offset`, with one lookup for both."""
        span = self.span
        return span.record, None if span.offset is None else span.offset + self.begin

    def check(self) -> None:
        """Raise DamagedError if the file holds fewer bytes than the storage has."""
        span = self.span
        if span.length < self.begin + self.nbytes:
            raise DamagedError(
                f"the storage {self.key} has {span.length:,} of {self.begin + self.nbytes:,} bytes",
                where=Place(span.record),
                hint=_INCOMPLETE,
            )

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, in the file's byte order."""
        return self.archive.read(self.span, self.begin + start, self.begin + stop)

    def chunks(self, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` in chunks of `size`."""
        return self.archive.chunks(self.span, self.begin + start, self.begin + stop, size)


class InlineStorage(Storage):
    """Bytes inside the pickle itself, such as a numpy array's."""

    __slots__ = ("data",)

    def __init__(self, archive: Archive, data: Value, location: str) -> None:
        content = data if isinstance(data, Blob) else (as_bytes(data) or b"")
        super().__init__(archive, f"inline:{id(data)}", location, len(content))
        self.data: Blob | bytes = content

    @property
    def record(self) -> str | None:
        """Name of the pickle's record."""
        return self.archive.record

    @property
    def place(self) -> tuple[str | None, int | None]:
        """`record` and `file_offset`; the offset is None for bytes that are escaped or copied."""
        if isinstance(self.data, Blob) and self.archive.origin is not None:
            return self.archive.record, self.archive.origin + self.data.start
        return self.archive.record, None

    def check(self) -> None:
        """Do nothing: the bytes were read with the pickle."""

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`."""
        if not 0 <= start <= stop <= len(self.data):
            raise DamagedError(
                f"bytes {start:,} to {stop:,} of an array of {len(self.data):,} bytes are needed",
                where=Place(self.record),
            )
        data = self.data
        return data.read(start, stop) if isinstance(data, Blob) else data[start:stop]

    def chunks(self, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` in chunks of `size`."""
        for begin in range(start, stop, size):
            yield self.read(begin, min(stop, begin + size))


def storage_places(storages: list[Storage | None]) -> list[tuple[str | None, int | None]]:
    """Return `Storage.place` of each, (None, None) for None. One lookup if all are in one zip."""
    first = storages[0] if storages else None
    locate = getattr(first.archive.storages, "locate", None) if first is not None else None
    if first is not None and locate is not None:
        archive = first.archive
        if all(type(s) is Storage and s.archive is archive and not s.begin for s in storages):
            with suppress(KeyError):
                places: list[tuple[str | None, int | None]] = locate([s.key for s in storages if s])
                return places
    return [(None, None) if storage is None else storage.place for storage in storages]


@dataclass(slots=True)
class Reference:
    """A persistent id of a storage: the storage, the class that names its element type, `numel`."""

    storage: Storage
    type: str
    dtype: DType
    numel: int


def storage_type(value: Value) -> str | None:
    """Return the path of the class that a persistent id gives as the storage's type."""
    if isinstance(value, Global):
        return value.path
    return value if isinstance(value, str) else None


# Protocol 0 writes `str(persistent id)`. torch.load cannot read such a file back.
_ID_TEXT = re.compile(r"\('storage', <class '([\w.]+)'>, '(\w+)', '([\w:]+)', (\d{1,18})\)")


class Storages:
    """The storages of one archive, one object per key (and per view of it)."""

    __slots__ = ("_archive", "_storages")

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._storages: dict[object, Storage] = {}

    def __iter__(self) -> Iterator[Storage]:
        return iter(self._storages.values())

    def resolve(self, value: Value) -> Reference | None:
        """Return the storage that a persistent id refers to; None if it is not one of torch's."""
        return self.resolve_id(value.value) if isinstance(value, PersistentId) else None

    def resolve_id(self, parts: Value) -> Reference | None:
        """Return the storage for the content of a persistent id."""
        if isinstance(parts, str):
            match = _ID_TEXT.fullmatch(parts)
            parts = ("storage", *match.groups()[:3], int(match[4])) if match else None
        if not isinstance(parts, tuple) or len(parts) < 5 or parts[0] != "storage":
            return None
        path, key, location, numel = storage_type(parts[1]), parts[2], parts[3], parts[4]
        dtype = dtype_of_class(path) if path else None
        if path is None or dtype is None or not isinstance(numel, int) or isinstance(key, list):
            return None
        storage = self.get(str(key), str(location), numel * dtype.itemsize)
        if len(parts) > 5 and isinstance(parts[5], tuple) and len(parts[5]) == 3:
            _, offset, numel = parts[5]
            if isinstance(offset, int) and isinstance(numel, int):
                begin = offset * dtype.itemsize
                storage = self.get(str(key), str(location), numel * dtype.itemsize, begin)
        return Reference(storage, path, dtype, numel)

    def get(self, key: str, location: str, nbytes: int, begin: int = 0) -> Storage:
        """Return the storage of that key, enlarged to the largest reference to it."""
        index: object = (key, begin, nbytes) if begin else key
        storage = self._storages.get(index)
        if storage is None:
            storage = Storage(*self._archive.owner(key), location, nbytes, begin)
            self._storages[index] = storage
        elif nbytes > storage.nbytes:  # two types may refer to one storage
            storage.nbytes = nbytes
        return storage
