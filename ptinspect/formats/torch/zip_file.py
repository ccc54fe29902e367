"""The zip of torch >= 1.6, and that of 1.4 and 1.5, where it was optional.

    FOLDER/data.pkl                 the object; its storages are persistent ids
    FOLDER/data/KEY                 the bytes of a storage (torch 1.4: FOLDER/tensors/KEY)
    FOLDER/byteorder                "little" or "big" (torch >= 2.1; little if it is missing)
    FOLDER/version                  of the container
    FOLDER/.format_version, FOLDER/.storage_alignment, FOLDER/.data/serialization_id

Sources: `torch.serialization._save`, `_load`; for the folder (that of the first entry)
`PyTorchStreamReader::init` in caffe2/serialize/inline_container.cc.

An archive of torch.package: pickles, the source of the modules that they need, resources.

    FOLDER/PACKAGE/RESOURCE         a pickle of protocol 3 (save_pickle), a text or bytes
    FOLDER/pkg/mod.py               source of a module; of a mocked one, a stand-in
    FOLDER/.data/KEY.storage        a storage: its key in the persistent ids is an integer
    FOLDER/.data/extern_modules     modules that must be installed, one per line

The pickles share their storages. Nothing of the source is run; `stub --package` writes it. Sources:
torch/package/package_exporter.py (save_pickle, _persistent_id) and package_importer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import ge
from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place, PtInspectError
from ptinspect.formats.archive import (
    ClassSource,
    Finding,
    PicklelessArchive,
    Span,
    StorageExtent,
    declared_storages,
    truncated_error,
)
from ptinspect.formats.zip_directory import DEFLATED, STORED, ZipDirectory, ZipSpan
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import PersistentId
from ptinspect.text import bounded_repr, cut, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import Location
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

_FACT_BYTES = 4096
"""Bytes of the longest record that contains a fact, not data."""

FATAL_FINDINGS = {"zip-duplicate", "zip-overlap", "zip-outside"}
"""Kinds of findings by which two readers see different content."""

_FACTS = {
    "format_version": ".format_version",
    "storage_alignment": ".storage_alignment",
    "serialization_id": ".data/serialization_id",
}


class ZipStorages(Mapping[object, Span]):
    """The storages of a zip by key, created on demand. The record is `prefix`, key, `suffix`;
    `indices` has the positions in the directory that are known already."""

    def __init__(self, directory: ZipDirectory, prefix: str, suffix: str = "") -> None:
        self.directory = directory
        self.prefix = prefix
        self.suffix = suffix
        self.indices: dict[object, int] = {}

    def __getitem__(self, key: object) -> Span:
        index = self.find(key)
        if index is None:
            raise KeyError(key)
        return ZipSpan(self.directory, index)

    def find(self, key: object) -> int | None:
        """Return the position of a storage in the directory, None if it does not exist."""
        index = self.indices.get(key)
        if index is not None:
            return index
        return self.directory.index.get(f"{self.prefix}{key}{self.suffix}")

    def __iter__(self) -> Iterator[object]:
        skip = len(self.prefix)
        return (name[skip:] for name in self.directory.index if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(name.startswith(self.prefix) for name in self.directory.index)


class ZipArchive(PicklelessArchive):
    """A zip whose storages are records. `directory` lists all its records. DamagedError if two
    readers would see different content."""

    storages: ZipStorages

    def __init__(
        self, source: Source, directory: ZipDirectory, limits: Limits, prefix: str = ""
    ) -> None:
        super().__init__(source, limits)
        for finding in directory.findings:
            if finding.kind in FATAL_FINDINGS:
                raise DamagedError(finding.message, where=finding.where)
        self.warnings = list(directory.findings)
        self.directory = directory
        self.storages = ZipStorages(directory, prefix)

    def read_record(self, record: str, limit: int) -> bytes:
        """Return a record's content. DamagedError if it is missing, LimitError if it is longer than
        `limit` bytes."""
        index = self.directory.index.get(record)
        if index is None:
            message = f"the record {printable_name(record)} is missing"
            raise DamagedError(message, hint=DOWNLOAD_AGAIN)
        if self.directory.sizes[index] > limit:
            message = f"the record has more than {limit:,} bytes"
            raise LimitError(message, limit="pickle_bytes", where=Place(record))
        return self.directory.read(index)

    def check_record(self, record: str, needed: int, name: str, where: str | None = None) -> int:
        """Return the size of a record; DamagedError if `name` needs more bytes than it has."""
        index = self.directory.index.get(record)
        size = -1 if index is None else self.directory.sizes[index]
        if size < needed:
            left = "is missing" if index is None else f"has {size:,} bytes"
            raise DamagedError(
                f"{name} needs {needed:,} bytes, and {printable_name(record)} {left}",
                where=Place(where or record),
                hint=DOWNLOAD_AGAIN,
            )
        return size


class TorchZip(ZipArchive):
    """A zip of torch.save; see the module's docstring."""

    format = "torch-zip"

    # Without a span for each of thousands of storages.

    def length_of(self, key: object) -> int:
        """See `Archive.length_of`."""
        storages = self.storages
        index = storages.indices.get(key)
        if index is None and (index := storages.find(key)) is None:
            return -1
        return self.directory.sizes[index]

    def locate(self, keys: Sequence[object]) -> Iterator[Location | None]:
        """See `Archive.locate`."""
        storages, directory, base = self.storages, self.directory, self.directory.source.base
        indices = [*map(storages.indices.get, keys)]
        if None in indices:
            indices = [*map(storages.find, keys)]
        present = [index for index in indices if index is not None]
        starts = repeat(None) if base is None else iter(directory.stored_starts(present))
        names, sizes, crcs = directory.names, directory.sizes, directory.crcs
        has_crcs, base = directory.has_crcs, base or 0
        for index in indices:
            if index is None:
                yield None
                continue
            start, crc = next(starts), crcs[index] if has_crcs else None
            yield None if start is None else base + start, sizes[index], crc, names[index]


def open_zip(
    source: Source, directory: ZipDirectory, folder: str, limits: Limits = LIMITS,
    kind: type[TorchZip] = TorchZip, pickled: Pickled | None = None,
) -> TorchZip:  # fmt: skip
    """Open the archive in the `folder` ("archive/") of a zip. DamagedError if the pickle is
    damaged, or a storage that it refers to is incomplete. `pickled` is the pickle, if the caller
    has run it."""
    archive = kind(source, directory, limits)
    index, sizes, name = directory.index, directory.sizes, f"{folder}data.pkl"
    pickled = pickled or run(directory.read(index[name]), record=name, limits=limits)
    archive.set_pickle(pickled)
    start = None if source.base is None else directory.stored_start(index[name])
    archive.origin = None if start is None or source.base is None else source.base + start
    declared = declared_storages(pickled)

    def find(prefix: str) -> dict[object, int]:
        get = index.get
        return {key: i for key in declared if (i := get(f"{prefix}{key}")) is not None}

    prefix, older = f"{folder}data/", f"{folder}tensors/"  # torch 1.4 wrote tensors/
    indices = find(prefix)
    is_complete = len(indices) == len(declared)
    if not is_complete and any(f"{older}{key}" in index for key in declared if key not in indices):
        prefix, indices = older, find(older)
    if len(indices) == len(declared):
        needed = [numel * itemsize for numel, itemsize in declared.values()]
        if all(map(ge, [sizes[i] for i in indices.values()], needed)):
            archive.storages = ZipStorages(directory, prefix)
            archive.storages.indices = indices
            _read_facts(archive, folder)
            return archive
    extents = []
    for key, storage in declared.items():
        size = sizes[indices[key]] if key in indices else None
        extents.append(StorageExtent(f"{prefix}{key}", storage.nbytes, size))
    raise truncated_error("the zip is incomplete", archive.record or "", extents)


BYTES_BEFORE_ZIP = "bytes before the zip, where torch.load looks for its beginning"


def torch_refusal_reasons(directory: ZipDirectory) -> list[str]:
    """Return why torch.load refuses a zip that other readers accept: it looks for the zip's first
    bytes at the very beginning (`torch.serialization._is_zipfile`), its miniz only knows deflate,
    all records are in the folder of the first (`PyTorchStreamReader::getAllRecords`), and one of
    them is `version` (`PyTorchStreamReader::init`)."""
    reasons = []
    folder = "".join(directory.names[:1]).partition("/")[0] + "/"
    for name in (min(directory.names, default=folder), max(directory.names, default=folder)):
        if not name.startswith(folder):  # names between the two begin as both do
            reasons.append(f"{cut(name)} is not in {cut(folder)}, the folder of the first record")
            break
    if not directory.index.keys() & {f"{folder}version", f"{folder}.data/version"}:
        reasons.append(f"a zip without the record {cut(folder)}version")
    if any(finding.kind == "zip-prefix" for finding in directory.findings):
        reasons.append(BYTES_BEFORE_ZIP)
    if not set(directory.methods) <= {STORED, DEFLATED}:
        reasons.append("records compressed in a way that torch.load does not support")
    return reasons


def _read_facts(archive: TorchZip, folder: str) -> None:
    directory = archive.directory

    def read_text(name: str) -> str | None:
        index = directory.index.get(f"{folder}{name}")
        if index is None:
            return None
        if directory.sizes[index] > _FACT_BYTES:
            message = f"it is {directory.sizes[index]:,} bytes long, but should be a word"
            archive.warnings.append(Finding("zip-record", message, Place(f"{folder}{name}")))
            return None
        return directory.read(index).decode("utf-8", "replace").strip()

    archive.version = read_text("version") or read_text(".data/version")
    byteorder = read_text("byteorder") or "little"
    if byteorder not in ("little", "big"):
        raise DamagedError(
            f"the byte order is {byteorder[:40]!r}, neither little nor big",
            where=Place(f"{folder}byteorder"),
        )
    archive.byteorder = byteorder
    facts = {fact: read_text(name) for fact, name in _FACTS.items()}
    archive.facts = {fact: value for fact, value in facts.items() if value is not None}
    if archive.version is not None:
        archive.facts["version"] = archive.version
    archive.facts["folder"] = folder.rstrip("/")
    archive.facts["crc32"] = directory.has_crcs
    reasons = torch_refusal_reasons(directory)
    if reasons:
        archive.facts["refused"] = reasons
    if archive.storages.prefix.endswith("/tensors/"):
        archive.facts["tensors_folder"] = "tensors"  # torch 1.4


# --- torch.package --------------------------------------------------------------------------

MAX_SOURCE = 16 << 20
"""Bytes of source code that are read, all modules together."""

_MOCKED = "from _mock import MockedObject"


class TorchPackage(ZipArchive):
    """See the module's docstring. `modules` is the recorded source by path: "pkg/mod.py"."""

    format = "torch-package"

    def __init__(
        self, source: Source, directory: ZipDirectory, limits: Limits, folder: str
    ) -> None:
        super().__init__(source, directory, limits)
        self.storages = ZipStorages(directory, f"{folder}.data/", ".storage")
        self.modules: dict[str, str] = {}


def read_package(
    source: Source, directory: ZipDirectory, folder: str, limits: Limits = LIMITS
) -> TorchPackage:
    """Read the archive in the `folder` of a zip. DamagedError if a pickle is damaged or a storage
    incomplete, LimitError if the source is longer than `MAX_SOURCE`."""
    archive = TorchPackage(source, directory, limits, folder)
    objects: dict[Value, Value] = {}
    resources, left = [], MAX_SOURCE
    for record, index in directory.index.items():
        name = record.removeprefix(folder)
        if name.startswith(".data/") or name in ("byteorder", "version") or name.endswith("/"):
            continue
        if name.endswith(".py"):
            archive.modules[name] = archive.read_record(record, left).decode("utf-8", "replace")
            left -= len(archive.modules[name])
            continue
        pickled = _read_pickle(archive, record, index)
        if pickled is None:
            resources.append(name)
            continue
        for key, declared in declared_storages(pickled).items():
            storage = f"{folder}.data/{key}.storage"
            archive.check_record(storage, declared.nbytes, "a storage", pickled.record)
        for item in pickled.persistent:  # only their own code can load some objects
            value = item.value if isinstance(item, PersistentId) else None
            if isinstance(value, tuple) and value and value[0] == "reduce_package":
                function = getattr(value[2], "path", "?") if len(value) > 2 else "?"
                message = f"an object of {bounded_repr(function)} is not read (__reduce_package__)"
                finding = Finding("unread-object", message, Place(pickled.record, item.offset))
                archive.warnings.append(finding)
        archive.streams.append(pickled)
        objects[name] = pickled.root
    archive.value = objects
    if archive.streams:
        archive.pickled = archive.streams[0]
    archive.sources = _class_sources(archive)
    mocked = [name for name, text in archive.modules.items() if _MOCKED in text]
    extern = f"{folder}.data/extern_modules"
    text = archive.read_record(extern, MAX_SOURCE).decode("utf-8", "replace")
    archive.facts["package"] = {
        "sources": [name for name in archive.modules if name not in mocked],
        "pickles": [str(name) for name in objects],
        "resources": resources,
        "extern": text.split(),
        "mock": [module_name(name) for name in mocked if name != "_mock.py"],
    }
    return archive


def module_name(path: str) -> str:
    """Return "pkg.mod" for "pkg/mod.py" and for "pkg/mod/__init__.py"."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _read_pickle(archive: TorchPackage, record: str, index: int) -> Pickled | None:
    """Return the pickle in a record; None for a text or for bytes. DamagedError if the name says
    that it is a pickle, and the content does not agree."""
    directory, is_named = archive.directory, record.endswith(".pkl")
    if directory.sizes[index] > archive.limits.pickle_bytes:
        raise LimitError(
            f"the record has {directory.sizes[index]:,} bytes",
            limit="pickle_bytes", where=Place(record),
        )  # fmt: skip
    head = b"".join(directory.chunks(index, 0, min(directory.sizes[index], 2)))
    if not is_named and (head[:1] != b"\x80" or head[1:2] not in (b"\2", b"\3", b"\4", b"\5")):
        return None
    try:
        return run(directory.read(index), record=record, limits=archive.limits)
    except PtInspectError:
        if is_named:
            raise
        return None


def _class_sources(archive: TorchPackage) -> list[ClassSource]:
    """Return the source of each class that the pickles name and the package contains."""
    import ast

    wanted: dict[str, dict[str, None]] = {}
    for stream in archive.streams:
        for item in stream.globals:
            wanted.setdefault(item.module, {})[item.name] = None
    sources = []
    for path, text in archive.modules.items():
        names = wanted.get(module_name(path), {})
        if not names:
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                lines = text.split("\n")[node.lineno - 1 : node.end_lineno]
                sources.append(
                    ClassSource(module_name(path), node.name, path, "\n".join(lines) + "\n")
                )
    return sources
