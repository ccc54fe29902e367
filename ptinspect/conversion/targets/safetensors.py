"""The safetensors target: header, bytes, shards.

Sources: `safetensors::tensor::prepare` for the order (by element type, largest and latest first,
then by name), the padding of the header to eight bytes; `safetensors.torch.save_model` for the
metadata that records tensors which are one ({dropped: kept}); `split_torch_state_dict_into_shards`
of huggingface_hub for the names of shards and their index.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion import warnings
from ptinspect.conversion.plan import File, Move, Plan
from ptinspect.conversion.targets.state_dict import model_of
from ptinspect.conversion.tensors import dtype_cast
from ptinspect.conversion.tensors.byte_ranges import Cast, Gather, Piece, Range
from ptinspect.conversion.tensors.object_graph import Graph
from ptinspect.conversion.tensors.storage_layout import Wish, check_extent, same
from ptinspect.dtypes import SAFETENSORS_DTYPES
from ptinspect.errors import UnsupportedError
from ptinspect.formats.safetensors import HEADER_BYTES
from ptinspect.pickling.pyobjects import as_mapping, dotted
from ptinspect.text import bounded_repr, join_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ptinspect.conversion.io.copy import Sink
    from ptinspect.conversion.options import Options
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.values import Value

_NAME_OF = {dtype.name: name for name, dtype in SAFETENSORS_DTYPES.items()}
_RANK = {dtype.name: rank for rank, dtype in enumerate(SAFETENSORS_DTYPES.values())}

SHOWN = 8
"""Keys that an error lists."""


class Entry(NamedTuple):
    """A tensor that is written: its name, its place in SRC, its bytes."""

    move: Move
    piece: Piece

    @property
    def name(self) -> str:
        """Its key."""
        return self.move.key


def plan_safetensors(document: Document, target: str, options: Options) -> Plan:
    """The plan of one file, or of shards and their index."""
    plan = Plan(options.to)
    model = model_of(document, options, graph := Graph(options.wish))
    if not model.items and model.module is None and as_mapping(model.value) != {}:
        model.items, model.sources = (
            {"": model.value},
            {"": dotted(model.part.path) if model.part.path else ""},
        )
    tensors = _dense(model.items, document, graph)
    aliases, lines = _shared(tensors, options.shared)
    warnings.of_model(plan, document, model)
    plan.told += [*lines, *_lost(tensors)]
    entries = [
        Entry(_move(key, model.sources[key], tensor, options.wish), _piece(tensor, options.wish))
        for key, tensor in tensors.items()
        if key not in aliases
    ]
    plan.moves = [entry.move for entry in entries]
    metadata = {"format": "pt", **{dropped: aliases[dropped] for dropped in sorted(aliases)}}
    entries.sort(key=lambda entry: (-_RANK[_dtype(entry)], entry.name.encode()))
    if options.max_shard_size is None:
        plan.files = [_file(target, entries, metadata)]
    else:
        plan.files = _shards(target, entries, metadata, options.max_shard_size)
    return plan


# --- what can be held -----------------------------------------------------------------------


def _dense(items: dict[str, Value], document: Document, graph: Graph) -> dict[str, Tensor]:
    """The tensors by key. UnsupportedError that lists what safetensors cannot hold."""
    made: dict[str, Tensor] = {}
    wrong: dict[str, str] = {}
    for key, value in items.items():
        tensor = graph.tensor_of(value) or document.tensor_of(value)
        why = "is no tensor" if tensor is None else _why_not(tensor, graph.wish)
        why = why or _why_not_named(key)
        if tensor is None or why:
            wrong[key] = why
        else:
            check_extent(tensor)
            made[key] = tensor
    if wrong:
        shown = list(wrong.items())[:SHOWN]
        listed = "; ".join(f"{_named(key)} {why}" for key, why in shown)
        more = f"; and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
        raise UnsupportedError(
            f"safetensors cannot hold {len(wrong):,} of {len(items):,} entries: {listed}{more}",
            hint=_exclusions(list(wrong)) if made else "--to same or --to state_dict keeps them",
        )
    return made


def _exclusions(keys: Sequence[str]) -> str:
    from shlex import quote

    if len(keys) > SHOWN:
        return "leave them out with --exclude GLOB, or keep them with a .pt file as DST"
    return "leave them out: " + " ".join(f"--exclude {quote(key)}" for key in keys)


def _why_not(tensor: Tensor, wish: Wish) -> str:
    if tensor.uninitialized:
        return "has no shape yet"
    if tensor.quantizer:
        return f"is quantized ({tensor.dtype.name if tensor.dtype else 'unknown'})"
    if tensor.storage is None or tensor.stride is None:
        return f"is not dense ({tensor.subclass or tensor.layout}, {tensor.device})"
    if tensor.dtype is None or wish.dtype_of(tensor).name not in _RANK:
        return f"is of the type {tensor.dtype.name if tensor.dtype else 'unknown'}"
    return ""


def _named(key: str) -> str:
    return (key if key.isprintable() else bounded_repr(key)) or "the value"


def _why_not_named(key: str) -> str:
    """Names that a header cannot have."""
    if key == "__metadata__":
        return "has the name that safetensors keeps for itself (--rename)"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "has a name that is no text in utf-8 (--rename)"
    return ""


def _lost(tensors: dict[str, Tensor]) -> list[str]:
    """One line for what the format has no place for."""
    lost = []
    devices = sorted({tensor.device for tensor in tensors.values()} - {"cpu"})
    if devices:
        lost.append(f"devices ({', '.join(devices)})")
    if any(tensor.requires_grad for tensor in tensors.values()):
        lost.append("requires_grad")
    return [f"safetensors has no place for: {', '.join(lost)}"] if lost else []


# --- tensors that share memory --------------------------------------------------------------


def _shared(tensors: dict[str, Tensor], how: str) -> tuple[dict[str, str], list[str]]:
    """({dropped: kept}, lines to tell)."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for key, tensor in tensors.items():
        if tensor.numel:
            alike.setdefault(same(tensor), []).append(key)
    groups = [sorted(keys) for keys in alike.values() if len(keys) > 1]
    partly = _overlapping(tensors)
    if how == "error" and (groups or partly):
        pairs = [f"{a} and {b}" for a, b, *_ in groups] + [f"{a} and {b}" for a, b in partly]
        raise UnsupportedError(
            f"tensors share memory: {join_names(pairs)}",
            hint="--shared keep-one writes one of each, --shared duplicate writes all",
        )
    lines = []
    if partly:
        text = join_names(f"{a} and {b}" for a, b in partly)
        lines.append(f"written twice, since they share only a part of their bytes: {text}")
    if how == "duplicate" or not groups:
        if groups:
            lines.append(f"written more than once: {join_names(', '.join(g) for g in groups)}")
        return {}, lines
    aliases = {key: keys[0] for keys in groups for key in keys[1:]}
    text = join_names(f"{dropped} is {kept}" for dropped, kept in aliases.items())
    lines.append(f"written once, with a note in the metadata: {text}")
    return aliases, lines


def _overlapping(tensors: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of keys whose tensors share a part of their bytes, and are not the same."""
    places: dict[tuple[object, ...], list[tuple[int, int, str]]] = {}
    for key, tensor in tensors.items():
        if tensor.storage is not None and tensor.stored is not None and tensor.numel:
            low, high = tensor.extent
            size, begin = tensor.stored.itemsize, tensor.storage.begin
            where = (id(tensor.storage.archive), tensor.storage.key)
            span = (begin + low * size, begin + high * size, key)
            places.setdefault(where, []).append(span)
    made = []
    for spans in places.values():
        spans.sort()
        reach, owner = -1, ""
        for low, high, key in spans:
            if low < reach and same(tensors[owner]) != same(tensors[key]):
                made.append((owner, key))
            if high > reach:
                reach, owner = high, key
    return made


# --- bytes ------------------------------------------------------------------------------------


def _move(key: str, source: str, tensor: Tensor, wish: Wish) -> Move:
    return Move(key, source, tensor, wish.dtype_of(tensor))


def _dtype(entry: Entry) -> str:
    assert entry.move.dtype is not None
    return entry.move.dtype.name


def _piece(tensor: Tensor, wish: Wish) -> Piece:
    """A tensor's bytes in C order."""
    own, target, storage = tensor.dtype, wish.dtype_of(tensor), tensor.storage
    assert own is not None and storage is not None
    convert = None if own is target else dtype_cast.caster(own, target)
    plain = tensor.is_contiguous and own is tensor.stored and not tensor.conj and not tensor.neg
    if not plain:
        return Gather(tensor, target, convert)
    low, high = tensor.extent
    inner = Range(storage, low * own.itemsize, high * own.itemsize)
    if storage.archive.byteorder == "big":
        convert = dtype_cast.chained(dtype_cast.swapper(own), convert)
    return inner if convert is None else Cast(inner, convert, own.itemsize, target.itemsize)


def header(entries: Sequence[Entry], metadata: dict[str, str]) -> bytes:
    """The length, and the header."""
    import json

    fields: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for entry in entries:
        end = at + entry.piece.length
        fields[entry.name] = {
            "dtype": _NAME_OF[_dtype(entry)],
            "shape": list(entry.move.tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES:
        raise UnsupportedError(
            f"the header would have {len(text):,} bytes, safetensors reads {HEADER_BYTES:,}",
            hint="--max-shard-size writes several files",
        )
    return len(text).to_bytes(8, "little") + text


def _file(path: str, entries: Sequence[Entry], metadata: dict[str, str]) -> File:
    head = header(entries, metadata)

    def write(sink: Sink) -> None:
        sink.write(head)
        for entry in entries:
            sink.put([entry.piece], want_crc=False)
        sink.flush()

    return File(path, write, head, [(entry.name, [entry.piece]) for entry in entries])


# --- shards -----------------------------------------------------------------------------------


def _shards(
    target: str, entries: Sequence[Entry], metadata: dict[str, str], most: int
) -> list[File]:
    """Shards of at most `most` bytes (one tensor may be larger), and the index last. One file
    without an index where all fits into one."""
    order = {entry.name: number for number, entry in enumerate(entries)}
    groups: list[list[Entry]] = []
    size = most + 1
    for entry in _in_source_order(entries):
        if size + entry.piece.length > most or not groups:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.piece.length
    if len(groups) < 2:
        return [_file(target, entries, metadata)]
    stem, suffix = os.path.splitext(target)
    count, files, places = len(groups), [], {}
    for number, group in enumerate(groups, 1):
        path = f"{stem}-{number:05}-of-{count:05}{suffix}"
        group.sort(key=lambda entry: order[entry.name])
        names = {entry.name for entry in group}
        own = {k: v for k, v in metadata.items() if k == "format" or v in names}
        files.append(_file(path, group, own))
        places.update(dict.fromkeys(names, os.path.basename(path)))
    return [*files, _index(f"{target}.index.json", entries, places)]


def _in_source_order(entries: Sequence[Entry]) -> Iterable[Entry]:
    """Neighbours of the model stay in one shard."""
    return sorted(entries, key=lambda entry: entry.move.tensor.pickle_offset)


def _index(path: str, entries: Sequence[Entry], places: dict[str, str]) -> File:
    import json

    total = sum(entry.piece.length for entry in entries)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    data = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

    def write(sink: Sink) -> None:
        sink.write(data)
        sink.flush()

    return File(path, write, data)
