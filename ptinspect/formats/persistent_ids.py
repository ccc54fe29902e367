"""What a pickle says about the storages outside it: the persistent ids that torch writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import STORAGE_ITEMSIZE
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place
from ptinspect.formats.archive import ClassSource
from ptinspect.pickling.values import Global, TensorCall
from ptinspect.text import bounded_repr, printable_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.pickling.machine import Pickled


class Declared(NamedTuple):
    """What the first reference to a storage says of it: elements, and bytes of each (0 where
    the storage's class is none of torch's)."""

    numel: int
    itemsize: int


def declared_storages(pickled: Pickled) -> dict[object, Declared]:
    """The storages that a pickle refers to, by key, in order of first reference.

    Source: ("storage", type, key, location, numel[, view]) of `torch.serialization._save` and
    `_legacy_save`. Of several references the first counts, as in `torch.load`. Anything that
    is no such tuple is left to whoever reads the values.

    Raises DamagedError for a negative count.
    """
    found: dict[object, Declared] = {}
    sizes: dict[Global, int] = {}
    for made in pickled.persistent:
        if isinstance(made, TensorCall):
            kind, key, numel = made.storage_type, made.storage_key, made.numel
            at = made.persistent_id_offset
        else:
            value, at = made.value, made.offset
            if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
                continue
            _, kind, key, _, numel = value[:5]
            if not isinstance(kind, Global) or type(key) not in (str, int):
                continue
        if key in found:
            continue
        size = sizes.get(kind)
        if size is None:
            size = sizes[kind] = STORAGE_ITEMSIZE.get(kind.name, 0)
        if type(numel) is not int or numel < 0:
            raise DamagedError(
                f"the storage {bounded_repr(key)} is said to have {bounded_repr(numel)} elements",
                where=Place(pickled.record, at),
            )
        found[key] = Declared(numel, size)
    return found


def class_sources(pickled: Pickled) -> list[ClassSource]:
    """The source code in a legacy pickle: ("module", class, file, source), once per class."""
    found: dict[Global, ClassSource] = {}
    for made in pickled.persistent:
        if isinstance(made, TensorCall):
            continue
        value = made.value
        if not isinstance(value, tuple) or len(value) != 4 or value[0] != "module":
            continue
        _, kind, file, text = value
        if isinstance(kind, Global) and isinstance(text, str) and kind not in found:
            name = file if isinstance(file, str) else ""
            found[kind] = ClassSource(kind.module, kind.name, name, text)
    return list(found.values())


class Part(NamedTuple):
    """A storage: its name in the file, the bytes it should have, and those that are there
    (None where there is no trace of it)."""

    name: str
    need: int
    have: int | None

    @property
    def missing(self) -> int:
        """Bytes that are not there."""
        return max(self.need - (self.have or 0), 0)

    @property
    def gone(self) -> bool:
        """Whether anything of it is missing, an empty storage's record included."""
        return self.have is None or self.have < self.need


def truncated_error(cause: str, whole: str, parts: Sequence[Part]) -> DamagedError:
    """The error for a file whose pickle is whole and whose storages may not all be.

    cause: "the file is cut off". whole: the record that is whole. parts: every storage, in the
    order of the file.
    """
    gone = [part for part in parts if part.gone]
    need = sum(part.need for part in parts)
    if not parts:
        rest = "and it refers to no storage"
    elif not gone:
        rest = f"and so {_are(len(parts))} ({need:,} bytes)"
    else:
        missing = sum(part.missing for part in gone)
        how = "missing in whole or in part" if any(part.have for part in gone) else "missing"
        verb = "is" if len(gone) == 1 else "are"
        rest = f"{_which(gone, parts)} {verb} {how}: {missing:,} of {need:,} bytes"
    return DamagedError(f"{cause}: {printable_name(whole)} is whole, {rest}", hint=DOWNLOAD_AGAIN)


def _are(total: int) -> str:
    return "is its one storage" if total == 1 else f"are its {total:,} storages"


def _which(gone: Sequence[Part], parts: Sequence[Part]) -> str:
    """ "the last 3 of 20 storages", or their names where it is not the end that is missing."""
    total = f"{len(parts):,} storages"
    if len(parts) == 1:
        return f"its one storage, {printable_name(parts[0].name)},"
    if len(gone) == len(parts):
        return f"all {total}"
    if list(gone) == list(parts[-len(gone) :]):
        return f"the last of {total}" if len(gone) == 1 else f"the last {len(gone):,} of {total}"
    names = ", ".join(printable_name(part.name) for part in gone[:3]) + (
        ", …" if len(gone) > 3 else ""
    )
    return f"{len(gone):,} of {total} ({names})"
