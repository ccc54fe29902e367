"""The target `safetensors`: header, tensors, shards; and which tensors it and `npz` can hold.

Sources: `safetensors::tensor::prepare` for the order (by dtype, largest and latest first, then by
name) and for the padding of the header to eight bytes; `safetensors.torch.save_model` for the
metadata that records tensors which are the same ({dropped: kept});
`split_torch_state_dict_into_shards` of huggingface_hub for the names of shards and their index.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from glob import escape
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ptinspect.conversion.options import parse_size
from ptinspect.conversion.output.object_graph import UNREPRESENTABLE, ObjectGraph
from ptinspect.conversion.output.pieces import (
    CAST_DTYPES,
    Piece,
    PlannedTensor,
    SourceRange,
    TensorPiece,
    locate_pieces,
    storage_piece,
)
from ptinspect.conversion.output.sink import OutputFile
from ptinspect.conversion.output.torch_zip import TensorOptions, check_bounds
from ptinspect.conversion.plan import ModelPart, Plan
from ptinspect.conversion.report import loss_warnings
from ptinspect.conversion.state_dict import model_part
from ptinspect.document.tensor import Storage
from ptinspect.dtypes import SAFETENSORS_DTYPES
from ptinspect.errors import PtInspectError, UnsupportedError
from ptinspect.formats.safetensors import FORMAT, HEADER_BYTES
from ptinspect.pickling.values import TensorCall
from ptinspect.text import bounded_repr, join_names, shell_quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ptinspect.conversion.options import ConvertOptions
    from ptinspect.conversion.output.sink import Sink
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType

_SAFETENSORS_NAMES = {dtype.name: name for name, dtype in SAFETENSORS_DTYPES.items()}
_RANKS = {dtype.name: rank for rank, dtype in enumerate(SAFETENSORS_DTYPES.values())}

_new_tuple = tuple.__new__  # skips the Python function that PlannedTensor(…) would call

MAX_LISTED = 8
"""Number of keys that an error lists."""

_DTYPE_PROBLEM = "has the dtype"

Entry: TypeAlias = "tuple[PlannedTensor, Piece]"
"""A tensor of the output, and its bytes."""


class TensorFormat(NamedTuple):
    """What a format of named tensors can hold: the names of its dtypes, and a function that returns
    the keys that it cannot have, each with the reason. `single_name` is the key of a tensor that
    has none, and `alias_advice` says how to load a file without some of the tied tensors, whose
    keys are dropped unless it `records_aliases`. `files` returns the files for path and tensors."""

    name: str
    dtypes: Collection[str]
    key_problems: Callable[[Collection[str]], dict[str, str]]
    single_name: str
    alias_advice: str
    records_aliases: bool
    files: Callable[[str, Sequence[Entry], dict[str, str], ConvertOptions], list[OutputFile]]


class _Form(NamedTuple):
    """What tensors of one form in the pickle have in common: why the format cannot hold them, the
    dtype in the output, and their bytes if they are in C order, which may be copied as they are."""

    problem: str
    dtype: DType | None = None
    span: tuple[int, int] = (0, 0)
    is_copied: bool = False


def plan_named_tensors(
    document: Document, path: str, options: ConvertOptions, target: TensorFormat,
    is_saved: Callable[[Tensor], bool] | None = None,
) -> Plan:  # fmt: skip
    """Return the plan of a file with tensors by name, those of a damaged file that `is_saved`."""
    graph = ObjectGraph(options.tensors, is_saved or (lambda tensor: True))
    model = model_part(document, options, graph)
    for key, value in [*model.items.items()] if is_saved else ():
        tensor = document.tensor_of(value)
        if value is UNREPRESENTABLE or (is_saved and tensor and not is_saved(tensor)):
            del model.items[key], model.sources[key]
    if model.is_single:
        model.items = {target.single_name: model.value}
        model.sources = {target.single_name: model.name}
    entries = _dense_tensors(model, document, options, graph, target)
    tensors = {planned.key: planned.tensor for planned, _ in entries}
    aliases, sharing_warnings = _shared_tensors(tensors, options.shared, target)
    warnings, dropped = loss_warnings(document, model, options)
    if aliases:
        entries = [entry for entry in entries if entry[0].key not in aliases]
    warnings += sharing_warnings
    default = options.tensors.device
    devices = sorted({default or tensor.device for tensor in tensors.values()} - {"cpu"})
    facts = [f"devices ({', '.join(devices)})"] if devices else []
    if any(tensor.requires_grad for tensor in tensors.values()):
        facts.append("requires_grad")
    if facts:
        warnings.append(f"dropped: {' and '.join(facts)} ({target.name} does not record them)")
    dropped += [] if target.records_aliases else aliases
    files = target.files(path, entries, aliases, options)
    return Plan(options.to, files, [planned for planned, _ in entries], warnings, dropped)


# --- which tensors the format can hold ------------------------------------------------------


def _dense_tensors(
    model: ModelPart,
    document: Document,
    options: ConvertOptions,
    graph: ObjectGraph,
    target: TensorFormat,
) -> list[Entry]:
    """Return the tensors. UnsupportedError that lists all values that do not fit."""
    items, sources = model.items, model.sources
    entries: list[Entry] = []
    problems: dict[str, str] = {}
    castable: set[str] = set()
    key_problems = target.key_problems(items)
    forms: dict[int, _Form] = {}  # by the ids of the forms in the pickle
    # All have the same keys. A lookup of each would take longer than the rest of the line.
    rows = zip(items.items(), sources.values(), document.tensors_of(items.values()), strict=True)
    for (key, value), source, tensor in rows:
        tensor = tensor or graph.dense_tensor(value)
        is_plain = type(value) is TensorCall and value.changes is None
        form = forms.get(id(value.form)) if is_plain else None  # type: ignore[attr-defined]
        if form is None:
            form = _form(tensor, graph.options, target)
            # Another reference to this storage may have enlarged it, but not that of the next one.
            if is_plain and tensor and tensor.extent[1] <= value.form.numel:  # type: ignore[attr-defined]
                forms[id(value.form)] = form  # type: ignore[attr-defined]
        storage = None if tensor is None else tensor.storage
        if form.problem or key in key_problems or tensor is None or storage is None:
            problem = problems[key] = form.problem or key_problems.get(key, "")
            if tensor and tensor.dtype and problem.startswith(_DTYPE_PROBLEM):
                castable |= {key} if tensor.dtype.name in CAST_DTYPES else set()
            continue
        planned = _new_tuple(PlannedTensor, (key, source, tensor, form.dtype))
        if form.is_copied:
            entries.append((planned, SourceRange(storage, *form.span)))
        else:
            entries.append((planned, _converted_piece(tensor, storage, form)))
    locate_pieces([piece for _, piece in entries])
    if problems:
        names = [(k if k.isprintable() else bounded_repr(k)) or "the value" for k in problems]
        lines = [f"{name} {text}" for name, text in zip(names, problems.values(), strict=True)]
        more = f"; and {len(lines) - MAX_LISTED:,} more" if len(lines) > MAX_LISTED else ""
        hint = "--to same or --to state_dict keeps them"
        others = [sources[key] for key in problems if key not in castable]
        exclude = [f"--exclude={shell_quoted(escape(source))}" for source in others]
        if castable and len(others) <= MAX_LISTED:
            command = options.command("--dtype float32", *exclude)
            hint = f"write float32{' and drop the others' * bool(others)}: {command}"
        elif entries and len(problems) > MAX_LISTED:
            hint = "drop them with --exclude GLOB, or keep them with a .pt file as DST"
        elif entries:
            hint = f"drop them: {options.command(*exclude)}"
        raise UnsupportedError(
            f"{target.name} cannot hold {len(problems):,} of {len(items):,} entries: "
            f"{'; '.join(lines[:MAX_LISTED])}{more}",
            hint=hint,
        )
    return entries


def _form(tensor: Tensor | None, options: TensorOptions, target: TensorFormat) -> _Form:
    """Return the form of a tensor. DamagedError if it exceeds its storage."""
    if tensor is None:
        return _Form("is not a tensor")
    if tensor.uninitialized:
        return _Form("has no shape yet")
    if tensor.encoding:
        return _Form(f"is encoded as {tensor.encoding}")
    name = tensor.dtype.name if tensor.dtype else "unknown"
    if tensor.quantizer:
        return _Form(f"is quantized ({name})")
    if tensor.storage is None or tensor.stride is None:
        return _Form(f"is not dense ({tensor.subclass or tensor.layout}, {tensor.device})")
    if tensor.dtype is None or options.output_dtype(tensor).name not in target.dtypes:
        return _Form(f"{_DTYPE_PROBLEM} {name}")
    if name == "float4_e2m1fn_x2" and not tensor.shape:
        return _Form("has no last dimension, in which the format counts the numbers of float4")
    check_bounds(tensor)
    dtype, span = options.output_dtype(tensor), (0, 0)
    is_logical = tensor.dtype is tensor.stored and not tensor.conj and not tensor.neg
    if is_logical and tensor.is_contiguous and tensor.numel:
        low, high = tensor.extent
        span = (low * tensor.dtype.itemsize, high * tensor.dtype.itemsize)
    is_copied = dtype is tensor.dtype and tensor.storage.archive.byteorder == "little"
    return _Form("", dtype, span, is_copied and span != (0, 0))


def _converted_piece(tensor: Tensor, storage: Storage, form: _Form) -> Piece:
    """Return the bytes of a tensor in C order, which are not those of its storage."""
    assert form.dtype is not None
    storage.check()
    if form.span == (0, 0) or tensor.dtype is None:
        return TensorPiece(tensor, form.dtype)
    return storage_piece(storage, *form.span, tensor.dtype, form.dtype)


def _key_problems(keys: Collection[str]) -> dict[str, str]:
    """Return the keys that a header cannot have, with the reasons."""
    problems = encoding_problems(keys)
    if "__metadata__" in keys:
        problems["__metadata__"] = "has a name that safetensors reserves (--rename changes it)"
    return problems


def encoding_problems(keys: Collection[str]) -> dict[str, str]:
    """Return the keys that cannot be encoded in UTF-8, with the reason."""
    problems = {}
    for key in keys:
        if not key.isascii():
            try:
                key.encode()
            except UnicodeEncodeError:
                problems[key] = "has a name that cannot be encoded in UTF-8 (--rename changes it)"
    return problems


# --- tensors that share memory --------------------------------------------------------------


def _shared_tensors(
    tensors: dict[str, Tensor], policy: str, target: TensorFormat
) -> tuple[dict[str, str], list[str]]:
    """Return the keys that are not written, each with the one that is written in its place, and
    warnings."""
    by_view: dict[tuple[object, ...], list[str]] = {}
    storages = [tensor.storage for tensor in tensors.values()]
    is_usual = len(set(storages)) == len(storages)  # there is one object per storage of a file
    if is_usual and all(type(storage) is Storage and not storage.begin for storage in storages):
        return {}, []
    places = [
        None if t.storage is None or not t.numel else t.storage.root for t in tensors.values()
    ]
    counts = Counter(places)
    rows = zip(tensors.items(), places, strict=True)
    neighbours = {key: tensor for (key, tensor), place in rows if place and counts[place] > 1}
    for key, tensor in neighbours.items():
        by_view.setdefault(tensor.view_key, []).append(key)
    # A tensor named as the metadata's own key can only be the one that is written.
    groups = [
        sorted(keys, key=lambda key: (key != FORMAT, key))
        for keys in by_view.values()
        if len(keys) > 1
    ]
    overlapping = [f"{a} and {b}" for a, b in _overlapping_pairs(neighbours)]
    if policy == "error" and (groups or overlapping):
        pairs = [*(f"{a} and {b}" for a, b, *_ in groups), *overlapping]
        raise UnsupportedError(
            f"tensors share memory: {join_names(pairs)}",
            hint="--shared keep-one writes one of each, --shared duplicate writes all",
        )
    warnings = []
    if overlapping:
        pairs_text = join_names(overlapping)
        warnings.append(f"written twice, because only some of their bytes are shared: {pairs_text}")
    if policy == "duplicate" and groups:
        warnings.append(f"written more than once: {join_names(', '.join(g) for g in groups)}")
    if policy == "duplicate" or not groups:
        return {}, warnings
    aliases = {key: keys[0] for keys in groups for key in keys[1:]}
    names = join_names(f"{alias} is {key}" for alias, key in aliases.items())
    warnings.append(
        target.alias_advice.format(names, "this key" if len(aliases) == 1 else "these keys")
    )
    return aliases, warnings


def _overlapping_pairs(tensors: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Return pairs of keys of different tensors that share some of their bytes."""
    spans_by_storage: dict[object, list[tuple[int, int, str]]] = {}
    for key, tensor in tensors.items():
        if tensor.storage is not None and tensor.stored is not None:
            span = (*tensor.byte_span, key)
            spans_by_storage.setdefault(tensor.view_key[:2], []).append(span)
    pairs = []
    for spans in spans_by_storage.values():
        spans.sort()
        end, owner = -1, ""
        for low, high, key in spans:
            if low < end and tensors[owner].view_key != tensors[key].view_key:
                pairs.append((owner, key))
            if high > end:
                end, owner = high, key
    return pairs


# --- files ----------------------------------------------------------------------------------


def _files(
    path: str, entries: Sequence[Entry], aliases: dict[str, str], options: ConvertOptions
) -> list[OutputFile]:
    """Return one file, or shards and their index."""
    names = {planned.key for planned, _ in entries} if options.metadata else set()
    for key, value in options.metadata.items():
        if key in aliases or (key != FORMAT and value in names):
            raise PtInspectError(
                f"--metadata {key}={value} would mean that the tensor {key} is another one"
            )
    metadata = {FORMAT: "pt", **options.metadata}
    metadata |= {alias: aliases[alias] for alias in sorted(aliases)}
    if options.max_shard_size is None:
        return [_file(path, entries, metadata)]
    return _shards(path, entries, metadata, parse_size(options.max_shard_size))


def header(entries: Sequence[Entry], metadata: dict[str, str]) -> bytes:
    """Return the length of the header, and the header."""
    import json

    # json.dumps would need an object for each tensor, and several times as long.
    quote = json.encoder.encode_basestring
    parts = [f'"__metadata__":{json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))}']
    offset, begin, form = 0, "0", ""
    last_dtype = last_shape = None
    for (name, _, tensor, dtype), piece in entries:
        if dtype is not last_dtype or tensor.shape is not last_shape:
            last_dtype, last_shape = dtype, tensor.shape
            type_name = _SAFETENSORS_NAMES[dtype.name if dtype else ""]
            shape = list(last_shape)
            if type_name == "F4":  # torch's type holds two of its numbers
                shape[-1] *= 2
            sizes = ",".join(map(str, shape))
            form = f'{{"dtype":"{type_name}","shape":[{sizes}],"data_offsets":['
        offset += piece.length
        end = str(offset)
        parts.append(f"{quote(name)}:{form}{begin},{end}]}}")
        begin = end
    text = ",".join(parts if metadata else parts[1:]).encode()
    padding = -(len(text) + 2) % 8
    size = len(text) + 2 + padding
    if size > HEADER_BYTES:
        raise UnsupportedError(
            f"the header would have {size:,} bytes, but safetensors reads {HEADER_BYTES:,}",
            hint="--max-shard-size writes several files",
        )
    return b"".join((size.to_bytes(8, "little"), b"{", text, b"}", b" " * padding))


def _file(path: str, entries: Sequence[Entry], metadata: dict[str, str]) -> OutputFile:
    """Return a file with these tensors."""
    ordered = _in_file_order(entries)
    head = header(ordered, metadata)
    pieces = [piece for _, piece in ordered]
    records = [(planned.key, (piece,)) for planned, piece in ordered]
    return OutputFile(path, partial(_write, head, pieces), head, records)


def _in_file_order(entries: Sequence[Entry]) -> list[Entry]:
    # The order of Unicode is that of the bytes of UTF-8.
    ordered = sorted(entries, key=lambda entry: entry[0][0])
    if len({id(planned.dtype) for planned, _ in entries}) > 1:
        ordered.sort(key=lambda entry: -_RANKS[entry[0].dtype.name] if entry[0].dtype else 0)
    return ordered


def _write(head: bytes, pieces: Sequence[Piece], sink: Sink) -> None:
    sink.write(head)
    sink.write_pieces(pieces, with_crc=False)
    sink.flush()


def _shards(
    path: str, entries: Sequence[Entry], metadata: dict[str, str], max_size: int
) -> list[OutputFile]:
    """Return shards of at most `max_size` bytes (a single tensor may be larger) and their index; a
    single file without an index if everything fits into one."""
    import json

    groups: list[list[Entry]] = []
    size = 0
    # In the order of the source, so that neighbours in the model are in the same shard.
    for entry in sorted(_in_file_order(entries), key=lambda entry: entry[0].tensor.pickle_offset):
        length = entry[1].length
        if not groups or size + length > max_size:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += length
    if len(groups) < 2:
        return [_file(path, entries, metadata)]
    stem, suffix = os.path.splitext(path)
    files, shard_names = [], {}
    all_names = {planned.key for planned, _ in entries}
    for number, group in enumerate(groups, 1):
        shard_path = f"{stem}-{number:05}-of-{len(groups):05}{suffix}"
        names = {planned.key for planned, _ in group}
        shard_metadata = {
            k: v for k, v in metadata.items() if k == FORMAT or v in names or v not in all_names
        }  # a note on tied tensors is in the shard of the one that is written
        files.append(_file(shard_path, group, shard_metadata))
        shard_names.update(dict.fromkeys(names, os.path.basename(shard_path)))
    index = {
        "metadata": {"total_size": sum(piece.length for _, piece in entries)},
        "weight_map": dict(sorted(shard_names.items())),
    }
    data = (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()
    return [*files, OutputFile(f"{path}.index.json", partial(_write, data, ()), data)]


SAFETENSORS = TensorFormat(
    "safetensors",
    _RANKS,
    _key_problems,
    "",
    "written once, with a note in the metadata: {}; a strict load_state_dict misses {}: use"
    " safetensors.torch.load_model, or write them all with --shared duplicate",
    True,
    _files,
)
