"""The interface of every format: the value of its pickle, the bytes of each storage, the storages
that a pickle refers to, and the error when some are missing."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import STORAGE_ITEMSIZE
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, PtInspectError, add_error_path
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.pyobjects import as_mapping
from ptinspect.pickling.values import Global, TensorCall, key_value
from ptinspect.text import bounded_repr, count_text, join_names, printable_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

    OpenArchive = Callable[[Source, Limits], "Archive"]
    Location = tuple[int | None, int, int | None, str | None]
    """Offset of a storage in the user's file (None inside compressed data), its length, the CRC-32
    that the file recorded, and its record."""

CHUNK = 1 << 20
"""Bytes per read of long records."""

SHARD_FILE = re.compile(r"shard-(\d{5,6})-model-(\d{5,6})-of-(\d{5,6})\.safetensors")
"""A file of HuggingFaceStorageWriter: the process, the number of the file, and that of files."""

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


class FileRange(NamedTuple):
    """Bytes of an open file, and the CRC-32 that the file recorded for exactly these bytes."""

    descriptor: int
    offset: int
    length: int
    crc: int | None


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

    def chunks(self, source: Source, start: int, stop: int, size: int) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` in pieces of `size`; `source` is the archive's."""
        if self.start is None:
            raise NotImplementedError("a compressed storage")
        return read_chunks(source, self.start + start, self.start + stop, size)

    @property
    def crc(self) -> int | None:
        """The CRC-32 that the file recorded for these bytes."""
        return None

    def file_ranges(self, start: int, stop: int) -> list[FileRange] | None:
        """Return the ranges of other open files that are bytes `start` to `stop`; None if they are
        not such ranges."""
        return None

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
        data_paths: further files, which are opened when elements in them are read.
        inner: archives whose storages have keys with a prefix and a colon, by the prefix.
    """

    format = ""

    def __init__(
        self, source: Source, pickled: Pickled, *, limits: Limits = LIMITS, format: str = ""
    ) -> None:
        self.format = format or self.format
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
        self.data_paths: list[str] = []
        self.inner: dict[str, Archive] = {}
        self.warnings: list[Finding] = []

    @property
    def root(self) -> Value:
        return self.pickled.root

    @property
    def size(self) -> int:
        """Bytes of all files that belong to it."""
        others = (part.source for part in self.parts if part.source.path != self.source.path)
        return self.source.size + sum(source.size for source in others)

    @property
    def files(self) -> Sequence[Source]:
        """The open files whose pickles were run: those that belong to it, or itself."""
        return [part.source for part in self.parts] or [self.source]

    def close(self) -> None:
        """Close the other files that belong to it."""
        for part in self.parts:
            part.source.close()

    def resolve_storage(self, key: str) -> tuple[Archive, str]:
        """Return the archive that contains the storage of a persistent id, and its key there."""
        if not self.inner:  # thousands of storages of one file
            return self, key
        prefix, colon, inner_key = key.partition(":")
        archive = self.inner.get(prefix) if colon else None
        return (self, key) if archive is None else (archive, inner_key)

    def length_of(self, key: object) -> int:
        """Return the number of bytes of a storage, -1 if the file does not have it."""
        span = self.storages.get(key)
        return -1 if span is None else span.length

    def locate(self, keys: Sequence[object]) -> Iterator[Location | None]:
        """Yield the `Location` of each storage, or None if the file does not have it."""
        for span in map(self.storages.get, keys):
            yield None if span is None else (span.offset, span.length, span.crc, span.record)

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
        chunks = span.chunks(self.source, start, stop, size)
        return chunks if self.source.owner is None else self._name_file(chunks)

    def _name_file(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the chunks. An error names the file, and the one that it belongs to."""
        with _part_errors(self.source.path, self.source.owner):
            yield from chunks

    def open_parts(self, folder: str, names: Sequence[str], open_archive: OpenArchive) -> None:
        """Open files that belong to this one, each with a source of its own. Their storages have
        keys that begin with the file's number. If one cannot be opened, all are closed."""
        from ptinspect.source.local import open_source

        owner = os.path.basename(self.source.path)
        try:
            for number, path in enumerate(os.path.join(folder, name) for name in names):
                with _part_errors(path, owner):
                    try:
                        source = open_source(path)
                        source.owner = owner
                    except PtInspectError as error:
                        if getattr(error.__cause__, "errno", None) == errno.EMFILE:
                            error.hint = "allow more open files: ulimit -n 4096"
                        raise
                    try:
                        self.parts.append(open_archive(source, self.limits))
                    except PtInspectError:
                        source.close()
                        raise
                self.inner[str(number)] = self.parts[-1]
        except PtInspectError:
            self.close()
            raise


class PicklelessArchive(Archive):
    """An archive whose root is not (only) a pickle's: its reader sets `value`, and `spans`, which
    are its storages."""

    def __init__(self, source: Source, limits: Limits, format: str = "") -> None:
        super().__init__(source, run(EMPTY_PICKLE), limits=limits, format=format)
        self.streams = []
        self.origin = None
        self.value: Value = None
        self.spans: dict[object, Span] = {}
        self.storages = self.spans

    def set_pickle(self, pickled: Pickled) -> None:
        """Add the main pickle of an archive that has one all the same."""
        self.pickled, self.record, self.value = pickled, pickled.record, pickled.root
        self.streams = [pickled]

    @property
    def root(self) -> Value:
        """The tensors by name, or the only one."""
        return self.value


@contextmanager
def _part_errors(path: str, owner: str | None) -> Iterator[None]:
    """Add the path to a PtInspectError from the block, and the file that the part belongs to."""
    with add_error_path(path):
        try:
            yield
        except PtInspectError as error:
            if not error.path and owner and owner != os.path.basename(path):
                error.message += f" (a file of {printable_name(owner)})"
            raise


def text_items(value: Value) -> dict[str, Value]:
    """Return the items of a dict of a pickle, or of a subclass, with keys as text."""
    return {str(key_value(key)): item for key, item in (as_mapping(value) or {}).items()}


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


# Storages that a pickle refers to by persistent ids


class Declared(NamedTuple):
    """The first reference to a storage. `itemsize` is 0 if torch has no such storage class."""

    numel: int
    itemsize: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize


def declared_storages(pickled: Pickled) -> dict[object, Declared]:
    """Return the storages that a pickle refers to, by key, in order of first reference.
    DamagedError if a number of elements is negative or not an integer.

    Source: ("storage", type, key, location, numel[, view]) of `torch.serialization._save` and
    `_legacy_save`. Of several references the first counts, as in `torch.load`. Other persistent ids
    are ignored.
    """
    storages: dict[object, Declared] = {}
    sizes: dict[Global, int] = {}
    by_form: dict[int, Declared] = {}  # by the ids of forms
    for item in pickled.persistent:
        if type(item) is TensorCall:
            form, key = item.form, item.storage_key
            declared = by_form.get(id(form))
            if declared is not None:
                storages.setdefault(key, declared)
                continue
            kind, numel, offset = form.storage_type, form.numel, item.persistent_id_offset
        else:
            value, offset = item.value, item.offset  # type: ignore[union-attr]
            if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
                continue
            _, kind, key, _, numel = value[:5]
            if not isinstance(kind, Global) or type(key) not in (str, int):
                continue
        if key in storages:
            continue
        size = sizes.get(kind)
        if size is None:
            size = sizes[kind] = STORAGE_ITEMSIZE.get(kind.name, 0)
        if type(numel) is not int or numel < 0:
            raise DamagedError(
                f"the storage {bounded_repr(key)} cannot have {bounded_repr(numel)} elements",
                where=Place(pickled.record, offset),
            )
        declared = storages[key] = Declared(numel, size)
        if type(item) is TensorCall:
            by_form[id(item.form)] = declared
    return storages


def prefix_storage_keys(pickled: Pickled, prefix: str) -> None:
    """Add `prefix:` to the key of every storage that a pickle refers to, in place. The values
    belong to this archive only, and nothing has read them yet."""
    renamed: set[int] = set()
    for item in pickled.persistent:
        if isinstance(item, TensorCall):
            item.rename_storage(f"{prefix}:{item.storage_key}")
        elif id(item) not in renamed:
            value = item.value
            if isinstance(value, tuple) and len(value) >= 5 and value[0] == "storage":
                renamed.add(id(item))
                item.value = (*value[:2], f"{prefix}:{value[2]}", *value[3:])


def class_sources(pickled: Pickled) -> list[ClassSource]:
    """Return the source code in a legacy pickle, ("module", class, file, source), one per class."""
    sources: dict[Global, ClassSource] = {}
    for item in pickled.persistent:
        value = None if isinstance(item, TensorCall) else item.value
        if not isinstance(value, tuple) or len(value) != 4 or value[0] != "module":
            continue
        _, kind, file, text = value
        if isinstance(kind, Global) and isinstance(text, str) and kind not in sources:
            path = file if isinstance(file, str) else ""
            sources[kind] = ClassSource(kind.module, kind.name, path, text)
    return list(sources.values())


class StorageExtent(NamedTuple):
    """A storage in a file that may be truncated: the bytes that it should have, and those that are
    there, None if there is no trace of it."""

    name: str
    expected: int
    present: int | None


def truncated_error(cause: str, pickle: str, storages: Sequence[StorageExtent]) -> DamagedError:
    """Return the error for a file of which the record `pickle` is complete, but perhaps not all
    `storages`, which are in file order. `cause` is "the zip is truncated"."""
    incomplete = [each for each in storages if each.present is None or each.present < each.expected]
    expected = sum(storage.expected for storage in storages)
    if not storages:
        rest = "and it refers to no storage"
    elif not incomplete:
        verb = "is its" if len(storages) == 1 else "are its"
        count = "one storage" if len(storages) == 1 else count_text(len(storages), "storage")
        rest = f"and so {verb} {count} ({expected:,} bytes)"
    else:
        missing = sum(max(storage.expected - (storage.present or 0), 0) for storage in incomplete)
        verb = "is" if len(incomplete) == 1 else "are"
        state = "missing"
        if any(storage.present for storage in incomplete):
            state = "missing in whole or in part"
        which = _describe(incomplete, storages)
        rest = f"but {which} {verb} {state}: {missing:,} of {expected:,} bytes"
    message = f"{cause}: {printable_name(pickle)} is complete, {rest}"
    return DamagedError(message, hint=DOWNLOAD_AGAIN)


def _describe(incomplete: Sequence[StorageExtent], storages: Sequence[StorageExtent]) -> str:
    """Return "the last 3 of 20 storages", or names if other storages than the last are missing."""
    total = count_text(len(storages), "storage")
    if len(storages) == 1:
        return f"its one storage, {printable_name(storages[0].name)},"
    if len(incomplete) == len(storages):
        return f"all {total}"
    count = len(incomplete)
    if list(incomplete) == list(storages[-count:]):
        return f"the last of {total}" if count == 1 else f"the last {count:,} of {total}"
    names = join_names((printable_name(storage.name) for storage in incomplete), 3)
    return f"{count:,} of {total} ({names})"
