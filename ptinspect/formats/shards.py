"""The shards of a model in several files: their names, and what is in each."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ptinspect.errors import PtInspectError, UnsupportedError
from ptinspect.formats.damage import plain
from ptinspect.pickling.tensor_fastpath import TensorCall
from ptinspect.pickling.values import Call, Global, PersistentId, Value, key_value
from ptinspect.source.local import open_source

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive
    from ptinspect.limits import Limits
    from ptinspect.pickling.machine import Pickled

_FORMATS = ("safetensors", "torch-zip", "torch-legacy")
_ORDERED = ("collections", "OrderedDict")


def not_beside(name: object) -> str:
    """Why a name is none of a file in the index's own folder, on any system; empty where it is.

    `os.path.join` of an absolute path, or of one with `..`, leads anywhere, and not every loader
    looks before it opens what it leads to.
    """
    if not isinstance(name, str):
        return "no text"
    if not name or name in (".", ".."):
        return "no name of a file"
    if "/" in name or "\\" in name:
        return "a path and no name of a file"
    if ":" in name:
        return "which Windows takes for a drive or a stream"
    if not name.isprintable():
        return "which has characters that cannot be printed"
    return ""


def open_shard(path: str, limits: Limits) -> Archive:
    """The archive of one shard, with a source of its own, which is closed on an error.

    FormatError for what is no such file, UnsupportedError for what never is a shard.
    """
    from ptinspect.formats.detect import open_archive

    try:
        source = open_source(path)
    except PtInspectError as error:
        if getattr(error.__cause__, "errno", None) == errno.EMFILE:
            error.hint = "allow more open files than the model has shards: ulimit -n 4096"
        raise
    try:
        archive = open_archive(source, limits, inside=True)
        if archive.format not in _FORMATS:
            raise UnsupportedError(f"it is a shard, and of the format {archive.format}")
    except PtInspectError:
        source.close()
        raise
    return archive


def weights_in(part: Archive, number: int) -> dict[str, Value]:
    """The items of a shard's state_dict. In its pickle each storage's key gets the shard's number
    in front, so that the values of several shards can stand in one graph.

    UnsupportedError where the shard holds anything but a mapping by names.
    """
    items = part.root if isinstance(part.root, dict) else None
    if isinstance(part.root, Call) and _path(part.root.func) == _ORDERED:
        items = part.root.pairs
    if items is None or not all(isinstance(key_value(key), str) for key in items):
        raise UnsupportedError(
            f"the shard {plain(part.source.path)} holds no state_dict",
            hint="an index stands for one state_dict whose tensors lie in several files",
        )
    _lead(part.pickled, number)
    return {str(key_value(key)): value for key, value in items.items()}


def metadata_in(part: Archive) -> dict[Value, Value]:
    """A shard's part of `_metadata`, which `Module.state_dict` sets on an OrderedDict."""
    state = part.root.state if isinstance(part.root, Call) else None
    found = state.get("_metadata") if isinstance(state, dict) else None
    if isinstance(found, Call):
        return found.pairs
    return found if isinstance(found, dict) else {}


def _path(value: Value) -> tuple[str, str] | None:
    return (value.module, value.name) if isinstance(value, Global) else None


def _lead(pickled: Pickled, number: int) -> None:
    """Puts the number in front of the key in every persistent id of a storage. The values are this
    archive's alone, and nobody has read them yet."""
    done: set[int] = set()
    for made in pickled.persistent:
        if isinstance(made, TensorCall):
            made.storage_key = f"{number}:{made.storage_key}"
            if made._storage is not None:
                _lead_id(made._storage, number, done)
        else:
            _lead_id(made, number, done)


def _lead_id(pid: PersistentId, number: int, done: set[int]) -> None:
    named = pid.value
    if id(pid) in done or not isinstance(named, tuple) or len(named) < 5 or named[0] != "storage":
        return
    done.add(id(pid))
    pid.value = (*named[:2], f"{number}:{named[2]}", *named[3:])
