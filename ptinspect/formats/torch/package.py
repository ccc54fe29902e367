"""An archive of torch.package: pickles, the source of the modules that they need, resources.

    FOLDER/PACKAGE/RESOURCE         a pickle of protocol 3 (save_pickle), a text or bytes
    FOLDER/pkg/mod.py               source of a module; of a mocked one, a stand-in
    FOLDER/.data/KEY.storage        a storage: its key in the persistent ids is an integer
    FOLDER/.data/extern_modules     modules that must be installed, one per line

The pickles share their storages. Nothing of the source is run; `stub --package` writes it. Sources:
torch/package/package_exporter.py (save_pickle, _persistent_id) and package_importer.py.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from ptinspect.errors import LimitError, Place, PtInspectError
from ptinspect.formats.archive import ClassSource, Finding, declared_storages
from ptinspect.formats.torch.zip_file import ZipArchive, ZipStorages
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import Pickled, run
from ptinspect.pickling.values import PersistentId, Value
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.formats.zip_directory import ZipDirectory
    from ptinspect.source.base import Source

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
    resources = []
    for record, index in directory.index.items():
        name = record.removeprefix(folder)
        if name.startswith(".data/") or name in ("byteorder", "version") or name.endswith("/"):
            continue
        if name.endswith(".py"):
            archive.modules[name] = _source_text(archive, record)
            continue
        pickled = _read_pickle(archive, record, index)
        if pickled is None:
            resources.append(name)
            continue
        _check_pickle(archive, pickled, folder)
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


def _source_text(archive: TorchPackage, record: str) -> str:
    left = MAX_SOURCE - sum(map(len, archive.modules.values()))
    return archive.read_record(record, left).decode("utf-8", "replace")


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


def _check_pickle(archive: TorchPackage, pickled: Pickled, folder: str) -> None:
    """Check the storages of a pickle, and name the objects that only their own code can load."""
    for key, declared in declared_storages(pickled).items():
        record = f"{folder}.data/{key}.storage"
        archive.check_record(record, declared.nbytes, "a storage", pickled.record)
    for item in pickled.persistent:
        value = item.value if isinstance(item, PersistentId) else None
        if isinstance(value, tuple) and value and value[0] == "reduce_package":
            function = getattr(value[2], "path", "?") if len(value) > 2 else "?"
            message = f"an object of {bounded_repr(function)} is not read (__reduce_package__)"
            finding = Finding("unread-object", message, Place(pickled.record, item.offset))
            archive.warnings.append(finding)


def _class_sources(archive: TorchPackage) -> list[ClassSource]:
    """Return the source of each class that the pickles name and the package contains."""
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
