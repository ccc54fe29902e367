"""The index of a model in several files: JSON that says which shard holds which tensor.

    {"metadata": {"total_size": 24},
     "weight_map": {"a.weight": "model-00001-of-00002.safetensors", …}}

The shards lie beside it, and are safetensors, or files of torch.save with a state_dict each. All
together stand here as one state_dict, in the order of the shards. Sources: `get_checkpoint_shard_
files` of transformers; `split_torch_state_dict_into_shards` of huggingface_hub.

What loaders do where index and shards disagree: they load each shard that is named, whole, and
ask the index for names alone. So a tensor that the index does not list is there after loading; it
is here, too, with a warning. One that is listed and is not in its shard is missing, or comes from
elsewhere: an error. Names that lead out of the index's folder are refused, whatever loaders do.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ptinspect.errors import (
    DOWNLOAD_AGAIN,
    DamagedError,
    FormatError,
    LimitError,
    Place,
    PtInspectError,
    UnsupportedError,
    add_error_path,
)
from ptinspect.formats.archive import Archive, Finding
from ptinspect.formats.persistent_ids import declared_storages
from ptinspect.formats.safetensors import Safetensors, dense, ordered
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Global, PersistentId, TensorCall, Value, key_value
from ptinspect.source.local import open_source
from ptinspect.text import bounded_repr, printable_name

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Pickled
    from ptinspect.source.base import Source


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
            f"the shard {printable_name(part.source.path)} holds no state_dict",
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


# ---


SHOWN = 3
"""Names that a message lists."""

_EMPTY = b"\x80\x02N."


class Index(Archive):
    """See the module. parts: the shards. A storage's key is the shard's number, a colon, and the
    key there."""

    def __init__(self, source: Source, weight_map: dict[str, str], limits: Limits) -> None:
        super().__init__(source, run(_EMPTY), limits=limits)
        self.origin = None
        self.streams = []
        self.weight_map = weight_map
        self.state_dict: Value = None

    @property
    def root(self) -> Value:
        """The tensors of all shards as one state_dict."""
        return self.state_dict

    def owner(self, key: str) -> tuple[Archive, str]:
        """See `Archive.owner`."""
        number, colon, own = key.partition(":")
        if colon and number.isdecimal() and int(number) < len(self.parts):
            return self.parts[int(number)], own
        return self, key


class Content:
    """The JSON. weight_map: the shard of each tensor. total_size: as the metadata says it; None
    without. raw: the text, for the places of what is in it."""

    def __init__(self, raw: bytes, weight_map: dict[str, str], total_size: object) -> None:
        self.raw = raw
        self.weight_map = weight_map
        self.total_size = total_size

    @property
    def shards(self) -> list[str]:
        """Their names, each once, sorted: the order of their numbers."""
        return sorted(set(self.weight_map.values()))

    def place(self, name: str) -> Place:
        """Where a name stands for the first time."""
        import json

        for text in (json.dumps(name), json.dumps(name, ensure_ascii=False)):
            at = self.raw.find(text.encode("utf-8", "surrogatepass"))
            if at >= 0:
                return Place(None, at)
        return Place(None, 0)


def read_index(source: Source, limits: Limits = LIMITS) -> Index:
    """The model whose index `source` is. The shards are opened, and their headers and pickles are
    read; `archive.parts` has them.

    DamagedError where index and shards do not belong together; FormatError for a shard that is
    something else (a Git LFS pointer); LimitError.
    """
    content = read_index_file(source, limits)
    folder = index_folder(source)
    archive = Index(source, content.weight_map, limits)
    try:
        _must_be_there(content, folder)
        for name in content.shards:
            path = os.path.join(folder, name)
            with add_error_path(path):
                archive.parts.append(open_shard(path, limits))
        _join(archive, content)
    except PtInspectError:
        for part in archive.parts:
            part.source.close()
        raise
    return archive


def read_index_file(source: Source, limits: Limits = LIMITS) -> Content:
    """The JSON, with names that all lie beside it. DamagedError for anything else."""
    if source.size > limits.index_bytes:
        raise LimitError(
            f"an index of {source.size:,} bytes, above {limits.index_bytes:,}", limit="index_bytes"
        )
    raw = source.read(0, source.size)
    made = _parsed(raw)
    weight_map, metadata = made.get("weight_map"), made.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedError(
            "its weight_map names no shard", where=Place(None, 0), hint=DOWNLOAD_AGAIN
        )
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    content = Content(raw, weight_map, size)
    for key, name in weight_map.items():
        why = not_beside(name)
        if why:
            raise DamagedError(
                f"the shard of {bounded_repr(key)} is {bounded_repr(name)}, {why}",
                where=content.place(key),
                hint="shards lie in the folder of the index: do not trust this one",
            )
    if len(content.shards) > limits.shards:
        raise LimitError(f"{len(content.shards):,} shards, above {limits.shards:,}", limit="shards")
    return content


def index_folder(source: Source) -> str:
    """The folder that the shards are in. PtInspectError where the index has no place on disk."""
    if source.path == "-" or not os.path.isfile(source.path):
        raise PtInspectError(
            "it is the index of a model in several files, which lie beside it: give its path",
        )
    return os.path.dirname(source.path)


def _parsed(raw: bytes) -> dict[str, Value]:
    import json

    place = Place(None, 0)
    try:
        made = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        why = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        at = getattr(error, "pos", None)
        place = Place(None, len(raw.decode("utf-8-sig")[:at].encode())) if at else place
        raise DamagedError(
            f"the index is no JSON: {why}", where=place, hint=DOWNLOAD_AGAIN
        ) from None
    if not isinstance(made, dict) or "weight_map" not in made:
        raise FormatError("it is JSON without a weight_map, not a file that torch.save writes")
    return made


def _once(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{bounded_repr(twice)} stands twice in one object")
    return made


# --- the shards -----------------------------------------------------------------------------


def _must_be_there(content: Content, folder: str) -> None:
    """All shards, before the first is opened: what is missing is said at once."""
    names = content.shards
    gone = [name for name in names if not os.path.exists(os.path.join(folder, name))]
    if gone:
        which = f"{len(gone):,} of its {len(names):,} shards are" if len(names) > 1 else "it is"
        which = f"1 of its {len(names):,} shards is" if len(gone) == 1 < len(names) else which
        raise DamagedError(
            f"{which} missing: {_listed(gone)}",
            where=content.place(gone[0]),
            hint=f"fetch the rest, and put it into the folder of the index ({folder or '.'})",
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable_name, names[:SHOWN])) + more


# --- one state_dict -------------------------------------------------------------------------


def _join(archive: Index, content: Content) -> None:
    """The shards' tensors under their names, held against the weight_map."""
    names, parts = content.shards, archive.parts
    metadata = [metadata_in(part) for part in parts]
    held = [_weights(part, number) for number, part in enumerate(parts)]
    _must_agree(content, dict(zip(names, held, strict=True)))
    pairs: dict[str, Value] = {}
    unlisted, twice = [], []
    for name, part, weights in zip(names, parts, held, strict=True):
        for key, value in weights.items():
            listed = content.weight_map.get(key)
            if listed == name or (listed is None and key not in pairs):
                pairs[key] = value
                if listed is None and not _is_alias(part, key):
                    unlisted.append(key)
            else:
                twice.append(f"{printable_name(key)} in {printable_name(name)}")
    root = ordered(pairs)
    if any(metadata):
        merged = {str(key): value for each in metadata for key, value in each.items()}
        root.change().states.append({"_metadata": ordered(merged)})
    archive.state_dict = root
    _describe(archive, content)
    _warn(archive, content, unlisted, twice)


def _describe(archive: Index, content: Content) -> None:
    parts = archive.parts
    kinds = {part.format for part in parts}
    archive.format = "safetensors-index" if kinds == {"safetensors"} else "torch-index"
    archive.streams = [stream for part in parts for stream in part.streams]
    if archive.streams:
        archive.pickled = archive.streams[0]
    orders = {part.byteorder for part in parts}
    archive.byteorder = orders.pop() if len(orders) == 1 else "little"
    archive.warnings = [finding for part in parts for finding in part.warnings]
    archive.facts = {"shards": content.shards}


def _is_alias(part: Archive, key: str) -> bool:
    """A name that safetensors' metadata alone has: it belongs into no index."""
    return isinstance(part, Safetensors) and key in part.aliases


def _must_agree(content: Content, held: dict[str, dict[str, Value]]) -> None:
    gone = [key for key, name in content.weight_map.items() if key not in held[name]]
    if gone:
        first, name = gone[0], content.weight_map[gone[0]]
        where = [other for other, weights in held.items() if first in weights]
        rest = f"; it stands in {_listed(where)}" if where else ""
        more = f", nor {len(gone) - 1:,} more" if len(gone) > 1 else ""
        raise DamagedError(
            f"the tensor {bounded_repr(first)} is not in {printable_name(name)},"
            " where the index places it"
            f"{more}{rest}",
            where=content.place(first),
            hint="index and shards are of different downloads or conversions: fetch all again",
        )


def _weights(part: Archive, number: int) -> dict[str, Value]:
    """What a shard holds, its storages' keys led by its number."""
    if isinstance(part, Safetensors):
        known = {each.name: each for each in part.listed}
        kept = {name: name for name in known} | part.aliases
        return {
            name: dense(f"{number}:{own}", known[own].dtype, known[own].shape)
            for name, own in kept.items()
        }
    return weights_in(part, number)


def _warn(archive: Index, content: Content, unlisted: list[str], twice: list[str]) -> None:
    warnings = archive.warnings
    if unlisted:
        text = f"{len(unlisted):,} tensors are in a shard and not in the weight_map"
        text += f", loaders load them all the same: {_listed(unlisted)}"
        warnings.append(Finding("index-unlisted", text))
    if twice:
        text = f"{len(twice):,} tensors are in a second shard, too, which is not the one that the"
        warnings.append(Finding("index-twice", f"{text} index names: {', '.join(twice[:SHOWN])}"))
    total, told = _bytes_of(archive), content.total_size
    if isinstance(told, (int, float)) and not isinstance(told, bool) and told != total:
        text = f"the index says {told:,} bytes of tensors, the shards have {total:,}"
        warnings.append(Finding("index-size", text))


def _bytes_of(archive: Index) -> int:
    """Of all storages, as huggingface_hub counts `total_size`."""
    total = 0
    for part in archive.parts:
        if isinstance(part, Safetensors):
            total += sum(each.end - each.begin for each in part.listed)
        else:
            total += sum(
                each.numel * each.itemsize for each in declared_storages(part.pickled).values()
            )
    return total
