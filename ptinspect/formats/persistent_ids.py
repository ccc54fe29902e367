"""What a pickle says about the storages outside it: the persistent ids that torch writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, Place
from ptinspect.formats.archive import ClassSource
from ptinspect.formats.damage import said
from ptinspect.formats.dtypes import STORAGE_ITEMSIZE
from ptinspect.pickling.values import TensorCall
from ptinspect.pickling.values import Global

if TYPE_CHECKING:
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
            kind, key, numel, at = made.kind, made.storage_key, made.numel, made.persistent_id_offset
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
