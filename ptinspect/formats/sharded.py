"""The index of a model in several files: JSON that says which shard contains which tensor.

    {"metadata": {"total_size": 24},
     "weight_map": {"a.weight": "model-00001-of-00002.safetensors", …}}

The shards are in the index's folder. Each is a safetensors file, or a file of torch.save with a
state_dict. Together they are presented as one state_dict, in the order of the shards. Sources:
`get_checkpoint_shard_files` of transformers; `split_torch_state_dict_into_shards` of
huggingface_hub.

Where index and shards disagree, this module follows the loaders. They load each shard that is named
completely, and take only names from the index. So a tensor that the index does not list is loaded;
it is shown here as well, with a warning. A tensor that is listed but not in its shard would be
missing, or come from elsewhere: an error. Names that lead outside the index's folder are refused,
whatever loaders do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from operator import add
from typing import TYPE_CHECKING

from ptinspect.errors import (
    DOWNLOAD_AGAIN,
    DamagedError,
    FormatError,
    LimitError,
    Place,
    PtInspectError,
    UnsupportedError,
)
from ptinspect.formats.archive import (
    SHARD_FILE,
    Archive,
    Finding,
    OutsideFolderError,
    PicklelessArchive,
    declared_storages,
    prefix_storage_keys,
    text_items,
)
from ptinspect.formats.safetensors import (
    Safetensors,
    dense_tensor,
    order_keys,
    ordered_dict,
    parse_json,
)
from ptinspect.formats.torch.distributed import saved_offsets
from ptinspect.formats.torch.pieces import (
    Box,
    Elements,
    Piece,
    PiecedSpan,
    check_cover,
    locate,
    sizes_of,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.pyobjects import metadata_of
from ptinspect.pickling.values import Call, Global, Value, key_value
from ptinspect.text import bounded_repr, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import OpenArchive
    from ptinspect.source.base import Source

_SHARD_FORMATS = ("safetensors", "torch-zip", "torch-legacy")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """An index: its text, the shard of each tensor, and the metadata's `total_size` or None."""

    raw: bytes
    weight_map: dict[str, str]
    total_size: object

    @property
    def shards(self) -> list[str]:
        """The names of the shards, sorted. A shard's number is its position in this list."""
        return sorted(set(self.weight_map.values()))

    def place(self, name: str) -> Place:
        """Return the first place of a name in the text."""
        import json

        for text in (json.dumps(name), json.dumps(name, ensure_ascii=False)):
            offset = self.raw.find(text.encode("utf-8", "surrogatepass"))
            if offset >= 0:
                return Place(None, offset)
        return Place(None, 0)


def read_sharded(
    source: Source, open_archive: OpenArchive, limits: Limits = LIMITS
) -> PicklelessArchive:
    """Read the model whose index is `source`, and the header or pickle of each of its shards, which
    become `parts`. The key of a storage is the shard's number, a colon, and the key in the shard.
    DamagedError if index and shards do not belong together, FormatError if a shard is another
    kind of file (a Git LFS pointer), LimitError if the index is too long or names too many
    shards."""
    index = read_index_file(source, limits)
    folder = index_folder(source)
    names = index.shards
    missing = [name for name in names if not os.path.exists(os.path.join(folder, name))]
    if missing:  # before the first is opened
        verb = "is" if len(missing) == 1 else "are"
        count = f"{len(missing):,} of its {len(names):,} shards {verb}"
        raise DamagedError(
            f"{count if len(names) > 1 else 'its only shard is'} missing: {_join(missing)}",
            where=index.place(missing[0]),
            hint=f"download the missing files into the folder of the index ({folder or '.'})",
        )
    archive = PicklelessArchive(source, limits)
    archive.open_parts(folder, index.shards, partial(_open_shard, open_archive))
    try:
        _join_shards(archive, index)
    except PtInspectError:
        archive.close()
        raise
    return archive


def read_index_file(source: Source, limits: Limits = LIMITS) -> IndexFile:
    """Read an index. DamagedError if it names no shard, OutsideFolderError if one may be elsewhere,
    FormatError for other JSON, LimitError if it is too long or names too many shards."""
    if source.size > limits.index_bytes:
        raise LimitError(
            f"the index is {source.size:,} bytes long, above the limit of {limits.index_bytes:,}",
            limit="index_bytes",
        )
    raw = source.read(0, source.size)
    content = parse_json(raw, "index", encoding="utf-8-sig")
    if not isinstance(content, dict) or "weight_map" not in content:
        raise FormatError("it is JSON without a weight_map, not a file that torch.save writes")
    weight_map, metadata = content["weight_map"], content.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map:
        message = "the index's weight_map names no shard"
        raise DamagedError(message, where=Place(None, 0), hint=DOWNLOAD_AGAIN)
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    index = IndexFile(raw, weight_map, size)
    for key, name in weight_map.items():
        reason = _outside_folder_reason(name)
        if reason:
            is_path = isinstance(name, str) and not {*"/\\:"}.isdisjoint(name)
            raise (OutsideFolderError if is_path else DamagedError)(
                f"the shard of {bounded_repr(key)} is {bounded_repr(name)}, {reason}",
                where=index.place(key),
                hint="shards are in the folder of the index: do not trust this one",
            )
    if len(index.shards) > limits.shards:
        raise LimitError(
            f"the index names {len(index.shards):,} shards, above the limit of {limits.shards:,}",
            limit="shards",
        )
    return index


def _outside_folder_reason(name: object) -> str:
    """Return why a name is not a file in the index's folder on any system, or "" if it is one.
    `os.path.join` with an absolute path, or with one that contains `..`, leads anywhere, and not
    every loader checks before it opens the result."""
    if not isinstance(name, str):
        return "which is not text"
    if not name or name in (".", ".."):
        return "which is not a file name"
    if "/" in name or "\\" in name:
        return "which is a path, not a file name"
    if ":" in name:
        return "which Windows takes for a drive or a stream"
    if not name.isprintable():
        return "which contains unprintable characters"
    return ""


def index_folder(source: Source) -> str:
    """Return the folder of the shards. Raises PtInspectError if the index has no path."""
    if source.path == "-" or not os.path.isfile(source.path):
        raise PtInspectError(
            "it is the index of a model in several files in the same folder: pass its path"
        )
    return os.path.dirname(source.path)


def _open_shard(open_archive: OpenArchive, source: Source, limits: Limits) -> Archive:
    """Open one shard. UnsupportedError for formats that shards never have."""
    archive = open_archive(source, limits)
    if archive.format not in _SHARD_FORMATS:
        raise UnsupportedError(f"the index names it as a shard, but it is {archive.format}")
    return archive


def _shard_weights(part: Archive, number: int) -> dict[str, Value]:
    """Return the items of a shard's state_dict; UnsupportedError if it is anything else. The
    shard's number becomes a prefix of each storage's key, so that shards can be combined."""
    if isinstance(part, Safetensors):
        return dict(part.tensor_calls(f"{number}:"))
    root = part.root
    items = root if isinstance(root, dict) else None
    if isinstance(root, Call) and isinstance(root.func, Global):
        items = root.pairs if root.func.path == "collections.OrderedDict" else None
    if items is None or not all(isinstance(key_value(key), str) for key in items):
        raise UnsupportedError(
            f"the shard {printable_name(part.source.path)} does not contain a state_dict",
            hint="an index describes one state_dict whose tensors are in several files",
        )
    prefix_storage_keys(part.pickled, str(number))
    return {str(key_value(key)): value for key, value in items.items()}


def _join_shards(archive: PicklelessArchive, index: IndexFile) -> None:
    """Combine the shards' tensors under their names, and compare them with the weight_map."""
    names, parts = index.shards, archive.parts
    metadata = [metadata_of(part.root) or {} for part in parts]
    weights = {
        name: _shard_weights(part, number)
        for number, (name, part) in enumerate(zip(names, parts, strict=True))
    }
    _check_weight_map(index, weights)
    pairs: dict[str, Value] = {}
    unlisted, duplicates = [], []
    for name, part in zip(names, parts, strict=True):
        aliases = part.aliases if isinstance(part, Safetensors) else {}
        for key, value in weights[name].items():
            shard = index.weight_map.get(key)
            if shard == name or (shard is None and key not in pairs):
                pairs[key] = value
                if shard is None and key not in aliases:  # an index does not list aliases
                    unlisted.append(key)
            else:
                duplicates.append(f"{printable_name(key)} in {printable_name(name)}")
    root = ordered_dict((key, pairs[key]) for key in order_keys(pairs))
    if any(metadata):
        merged: dict[Value, Value] = {k: value for each in metadata for k, value in each.items()}
        root.change().states.append({"_metadata": ordered_dict(merged)})
    archive.value = root
    only_safetensors = all(part.format == "safetensors" for part in parts)
    archive.format = "safetensors-index" if only_safetensors else "torch-index"
    archive.streams = [stream for part in parts for stream in part.streams]
    if archive.streams:
        archive.pickled = archive.streams[0]
    orders = {part.byteorder for part in parts}
    archive.byteorder = orders.pop() if len(orders) == 1 else "little"
    archive.warnings = [finding for part in parts for finding in part.warnings]
    archive.facts = {"shards": names}
    archive.warnings += _index_warnings(parts, index, unlisted, duplicates)


def _check_weight_map(index: IndexFile, weights: dict[str, dict[str, Value]]) -> None:
    missing = [key for key, name in index.weight_map.items() if key not in weights[name]]
    if missing:
        first = missing[0]
        name = printable_name(index.weight_map[first])
        shards = [shard for shard, tensors in weights.items() if first in tensors]
        more = f" ({len(missing) - 1:,} more are missing)" if len(missing) > 1 else ""
        found = f"; it is in {_join(shards)}" if shards else ""
        raise DamagedError(
            f"the tensor {bounded_repr(first)} is not in {name}, where the index places it"
            f"{more}{found}",
            where=index.place(first),
            hint="index and shards are of different downloads or conversions: download all again",
        )


def _index_warnings(
    parts: list[Archive], index: IndexFile, unlisted: list[str], duplicates: list[str]
) -> list[Finding]:
    warnings = []
    if unlisted:
        text = f"{len(unlisted):,} tensors are in a shard, but not in the weight_map"
        text += f" (loaders load them): {_join(unlisted)}"
        warnings.append(Finding("index-unlisted", text))
    if duplicates:
        text = f"{len(duplicates):,} tensors are also in a shard that the index does not name"
        warnings.append(Finding("index-twice", f"{text}: {join_names(duplicates, 3)}"))
    total = 0  # as huggingface_hub counts `total_size`
    for part in parts:
        if isinstance(part, Safetensors):
            total += sum(entry.end - entry.begin for entry in part.tensors.values())
        else:
            total += sum(each.nbytes for each in declared_storages(part.pickled).values())
    size = index.total_size
    if isinstance(size, (int, float)) and not isinstance(size, bool) and size != total:
        text = f"the index announces {size:,} bytes of tensors, but the shards have {total:,}"
        warnings.append(Finding("index-size", text))
    return warnings


def _join(names: list[str]) -> str:
    return join_names(map(printable_name, names), 3)


# The files of HuggingFaceStorageWriter of torch.distributed.checkpoint, with `save_distributed`
#
# Each process writes safetensors files, whose metadata says where each piece begins in the whole.

_COPY_ALL = "copy the files of all processes into one folder"


def read_shard_files(
    source: Source, open_archive: OpenArchive, limits: Limits
) -> PicklelessArchive:
    """Join the files of HuggingFaceStorageWriter, one of which is `source`. DamagedError if the
    pieces in them are not whole tensors."""
    folder = os.path.dirname(source.path)
    matches = list(filter(None, map(SHARD_FILE.fullmatch, sorted(os.listdir(folder or ".")))))
    names = [match[0] for match in matches]
    processes, numbers = ({int(match[group]) for match in matches} for group in (1, 2))
    absent = [f"shard-{n:05d}-*" for n in range(1, max(processes)) if n not in processes]
    count = max(int(match[3]) for match in matches)
    missing = next((number for number in range(1, count + 1) if number not in numbers), None)
    if missing is not None:
        raise DamagedError(
            f"file {missing:,} of {count:,} is missing for every process", hint=_COPY_ALL
        )
    archive = PicklelessArchive(source, limits, "torch-dcp")
    archive.open_parts(folder, names, open_archive)
    try:
        spans = _shard_spans(archive.parts)
    except PtInspectError as error:
        archive.close()
        if isinstance(error, DamagedError) and not error.hint:
            error.hint = _COPY_ALL + (f": there is no {join_names(absent, 3)}" if absent else "")
        raise
    archive.spans.update(spans)
    archive.value = ordered_dict(
        (key, dense_tensor(key, spans[key].dtype, spans[key].shape)) for key in order_keys(spans)
    )
    archive.facts["set"] = {"ranks": len(processes), "files": names, "missing": []}
    text = f"no file records the number of processes; the files of {len(processes):,} are present:"
    text += " if there were more, its tensors may be pieces of larger ones"
    text += f" (there is no {join_names(absent, 3)})" if absent else ""
    archive.warnings.append(Finding("not-joined", text))
    return archive


def _shard_spans(parts: list[Archive]) -> dict[str, PiecedSpan]:
    """Return the bytes of each tensor, after checking that its pieces cover it exactly. Its shape
    ends where the last piece does, as in `HuggingFaceStorageReader.read_metadata`."""
    copies: dict[str, dict[Box, list[Elements]]] = {}
    for part in parts:
        path = printable_name(os.path.basename(part.source.path))
        places = saved_offsets(part)
        for name, value in text_items(part.root).items():
            where = f"{path}: {bounded_repr(name)}"
            elements = locate(part, value, where)
            offsets = sizes_of(places.get(name, (0,) * len(elements.shape)), where)
            if len(offsets) != len(elements.shape):
                raise DamagedError(
                    f"{where} has {len(elements.shape)} dimensions, its offsets another number"
                )
            first = next(iter(copies.setdefault(name, {}).values()), [elements])[0]
            if (first.dtype, len(first.shape)) != (elements.dtype, len(elements.shape)):
                raise DamagedError(
                    f"{where} differs from its other pieces in its dtype or dimensions"
                )
            copies[name].setdefault((offsets, elements.shape), []).append(elements)
    spans = {}
    for name, boxes in copies.items():
        ends = [tuple(map(add, *box)) for box in boxes]
        pieces = [
            Piece(*box, os.path.basename(found[0].archive.source.path), partial(list, found))
            for box, found in boxes.items()
        ]
        shape = tuple(map(max, zip(*ends, strict=True)))
        (first, *_), *_ = boxes.values()
        spans[name] = PiecedSpan(first.dtype, shape, check_cover(name, shape, pieces), name)
    return spans
