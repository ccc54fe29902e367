"""The zip of torch >= 1.6, and that of 1.4 and 1.5 before it was the default.

    FOLDER/data.pkl                 the object; its storages are persistent ids
    FOLDER/data/KEY                 the bytes of a storage (torch 1.4: FOLDER/tensors/KEY)
    FOLDER/byteorder                "little" or "big" (torch >= 2.1; little where it is missing)
    FOLDER/version                  of the container
    FOLDER/.format_version, FOLDER/.storage_alignment, FOLDER/.data/serialization_id

Sources: `torch.serialization._save`, `_load`; for the folder (whatever the first entry has)
`PyTorchStreamReader::init` in caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place
from ptinspect.formats.archive import CHUNK, Archive, Finding, Span, bounded
from ptinspect.formats.persistent_ids import Declared, Part, declared_storages, truncated_error
from ptinspect.formats.zip.directory import DEFLATED, STORED, ZipDirectory
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run

if TYPE_CHECKING:
    from ptinspect.source.base import Source

SMALL = 4096
"""Bytes of the longest record that holds a fact rather than data."""

_FATAL = {"zip-duplicate", "zip-overlap", "zip-outside"}


class ZipSpan(Span):
    """A storage in a zip. Where its bytes begin is read from its local header, when asked."""

    __slots__ = ("directory", "number")

    def __init__(self, directory: ZipDirectory, number: int) -> None:
        self.record = directory.names[number]
        self.length = directory.sizes[number]
        self._at = None
        self._base = directory.source.base
        self.directory = directory
        self.number = number

    @property
    def at(self) -> int | None:
        """Offset in the archive's source; None where the record is compressed."""
        if self._at is None and self.directory.methods[self.number] == STORED:
            self._at = self.directory.start(self.number)
        return self._at


class ZipStorages(Mapping[object, Span]):
    """The storages by key, made when they are asked for."""

    def __init__(self, directory: ZipDirectory, prefix: str) -> None:
        self.directory = directory
        self.prefix = prefix
        self._made: dict[object, Span] = {}

    def __getitem__(self, key: object) -> Span:
        made = self._made.get(key)
        if made is None:
            number = self.directory.index[f"{self.prefix}{key}"]
            made = self._made[key] = ZipSpan(self.directory, number)
        return made

    def locate(self, keys: Iterable[str]) -> list[tuple[str | None, int | None]]:
        """Record and offset in the user's file of many storages, as their spans have them.
        KeyError for one that is not there."""
        directory, prefix = self.directory, self.prefix
        index, names, methods = directory.index, directory.names, directory.methods
        base, start = directory.source.base, directory.start
        numbers = [index[f"{prefix}{key}"] for key in keys]
        return [
            (names[n], base + start(n) if methods[n] == STORED and base is not None else None)
            for n in numbers
        ]

    def __iter__(self) -> Iterator[object]:
        skip = len(self.prefix)
        return (name[skip:] for name in self.directory.index if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(name.startswith(self.prefix) for name in self.directory.index)


class TorchZip(Archive):
    """See the module. `directory`: all that the zip lists."""

    format = "torch-zip"
    directory: ZipDirectory
    storages: ZipStorages

    def chunks(
        self, span: Span, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """See `Archive.chunks`. A compressed storage is unpacked from its beginning each time."""
        start, stop = bounded(span, start, stop)
        assert isinstance(span, ZipSpan)
        return self.directory.chunks(span.number, start, stop, size)


def open_zip(
    source: Source, directory: ZipDirectory, folder: str, limits: Limits = LIMITS
) -> TorchZip:
    """The archive in the `folder` ("archive/") of a zip. Raises DamagedError where the pickle
    is damaged or a storage that it refers to is not whole."""
    for finding in directory.findings:
        if finding.kind in _FATAL:
            raise DamagedError(finding.message, where=finding.where)
    name = f"{folder}data.pkl"
    number = directory.index[name]
    pickled = run(directory.read(number), record=name, limits=limits)
    archive = TorchZip(source, pickled, limits=limits)
    archive.directory = directory
    stored = directory.methods[number] == STORED and source.base is not None
    archive.origin = (source.base or 0) + directory.start(number) if stored else None
    archive.warnings = list(directory.findings)
    wanted = declared_storages(pickled)
    archive.storages = ZipStorages(directory, _prefix(directory, folder, wanted))
    _must_be_whole(archive, wanted)
    _read_facts(archive, folder)
    return archive


def _prefix(directory: ZipDirectory, folder: str, wanted: dict[object, Declared]) -> str:
    """Where the storages lie: torch 1.4 wrote them to tensors/."""
    old = f"{folder}tensors/"
    for key in wanted:
        if f"{old}{key}" in directory.index and f"{folder}data/{key}" not in directory.index:
            return old
    return f"{folder}data/"


def _must_be_whole(archive: TorchZip, wanted: dict[object, Declared]) -> None:
    """DamagedError unless the zip has each storage, with at least the bytes that it needs."""
    directory, prefix = archive.directory, archive.storages.prefix
    index, sizes = directory.index, directory.sizes
    try:
        if all(
            sizes[index[f"{prefix}{key}"]] >= numel * itemsize
            for key, (numel, itemsize) in wanted.items()
        ):
            return
    except KeyError:
        pass
    parts = []
    for key, (numel, itemsize) in wanted.items():
        number = index.get(f"{prefix}{key}")
        have = None if number is None else sizes[number]
        parts.append(Part(f"{prefix}{key}", numel * itemsize, have))
    raise truncated_error("the zip is incomplete", archive.record or "", parts)


PREFIX = "bytes in front of the zip, where torch.load looks for its beginning"


def torch_refusal_reasons(directory: ZipDirectory) -> list[str]:
    """Why torch.load does not take a zip that others do: it looks for the zip's first bytes at the
    very beginning (`torch.serialization._is_zipfile`), and its miniz knows no compression but
    deflate."""
    made = []
    if any(odd.kind == "zip-prefix" for odd in directory.findings):
        made.append(PREFIX)
    if not set(directory.methods) <= {STORED, DEFLATED}:
        made.append("records compressed in a way that torch.load cannot undo")
    return made


def _read_facts(archive: TorchZip, folder: str) -> None:
    """The small records beside the pickle."""
    directory = archive.directory

    def text(name: str) -> str | None:
        number = directory.index.get(f"{folder}{name}")
        if number is None:
            return None
        if directory.sizes[number] > SMALL:
            message = f"{directory.sizes[number]:,} bytes, where a word is expected"
            archive.warnings.append(Finding("zip-record", message, Place(f"{folder}{name}")))
            return None
        return directory.read(number).decode("utf-8", "replace").strip()

    archive.version = text("version") or text(".data/version")
    byteorder = text("byteorder") or "little"
    if byteorder not in ("little", "big"):
        raise DamagedError(
            f"the byte order is {byteorder[:40]!r}, neither little nor big",
            where=Place(f"{folder}byteorder"),
        )
    archive.byteorder = byteorder
    names = {
        "format_version": ".format_version",
        "storage_alignment": ".storage_alignment",
        "serialization_id": ".data/serialization_id",
    }
    read = {fact: text(name) for fact, name in names.items()}
    archive.facts = {fact: value for fact, value in read.items() if value is not None}
    if archive.version is not None:
        archive.facts["version"] = archive.version
    archive.facts["folder"] = folder.rstrip("/")
    archive.facts["crc32"] = directory.has_crcs
    refused = torch_refusal_reasons(directory)
    if refused:
        archive.facts["refused"] = refused
    if archive.storages.prefix.endswith("/tensors/"):
        archive.facts["tensors_folder"] = "tensors"  # torch 1.4
