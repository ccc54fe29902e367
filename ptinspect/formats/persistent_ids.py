"""The storages that a pickle refers to by persistent ids, and the error when some are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import STORAGE_ITEMSIZE
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place
from ptinspect.formats.archive import ClassSource
from ptinspect.pickling.values import Global, TensorCall
from ptinspect.text import bounded_repr, count_text, join_names, printable_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.pickling.machine import Pickled


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
    for item in pickled.persistent:
        if isinstance(item, TensorCall):
            kind, key, numel = item.storage_type, item.storage_key, item.numel
            offset = item.persistent_id_offset
        else:
            value, offset = item.value, item.offset
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
        storages[key] = Declared(numel, size)
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

    @property
    def is_incomplete(self) -> bool:
        return self.present is None or self.present < self.expected


def truncated_error(cause: str, pickle: str, storages: Sequence[StorageExtent]) -> DamagedError:
    """Return the error for a file of which the record `pickle` is complete, but perhaps not all
    `storages`, which are in file order. `cause` is "the zip is truncated"."""
    incomplete = [storage for storage in storages if storage.is_incomplete]
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
