"""`show --format json`: one object per file, a line per item.

The list of tensors is written from templates: dicts for `json_value`, or for `json.dumps`, would
take several times as long for a file of many tensors. Everything else is `json_value` of a dict.
That is not `json.dumps`: importing it takes longer than showing a small file allows, NaN, infinity
and integers with thousands of digits become strings, characters that must not be printed are
escaped while other scripts stay readable, and values may be nested to any depth.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ptinspect.display.table import STATS_HEADERS, select_tensors
from ptinspect.document.entries import describe
from ptinspect.document.tensor import InlineStorage, Tensor, storage_places
from ptinspect.document.to_array import number_of
from ptinspect.errors import UnsupportedError
from ptinspect.pickling.pyobjects import brief_repr, path_step
from ptinspect.pickling.values import key_value
from ptinspect.report import __version__
from ptinspect.text import quoted, quoted_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ptinspect.display import ShowOptions
    from ptinspect.display.measure import FileHash, TensorMeasurement
    from ptinspect.document import Document, TensorInfo
    from ptinspect.errors import PtInspectError
    from ptinspect.pickling.values import Value

SCHEMA = 1

MAX_INTEGER_BITS = 12_000
"""Longer integers are hexadecimal strings in JSON; this many bits are about 3,600 digits."""


def json_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return the object of a document, ending in a newline."""
    kinds = {"torchscript": "torchscript", "torch-export": "program"}
    kind = document.kind
    if kind in ("module", "checkpoint"):
        kind = kinds.get(document.archive.format, kind)
    counts: dict[str, int] = {}  # several pickles may use the same name
    for name in document.globals:
        counts[name.path] = counts.get(name.path, 0) + name.uses
    names = [{"name": name, "count": count} for name, count in counts.items()]
    sections = {
        "file": json_value(_file(document, file_hash)),
        "content": json_value({"kind": kind, "class": document.class_path}),
        "tensors": json_lines(_tensors(document, options)),
        "modules": json_lines(map(json_value, _modules(document))),
        "entries": json_lines(json_value(entry._asdict()) for entry in document.entries),
        "optimizers": json_lines(map(json_value, _optimizers(document))),
        "totals": json_value(document.totals._asdict()),
        "globals": json_lines(map(json_value, names)),
        "load": json_value(_load(document)),
        "warnings": json_lines(json_value(warning._asdict()) for warning in document.warnings),
    }
    for section in ("metadata", "set", "script", "programs", "compiled", "package"):
        if section in document.archive.facts:
            sections[section] = json_value(document.archive.facts[section])
    head = f'{{"schema": {SCHEMA}, "ptinspect": {quoted(__version__)}'
    return ",\n ".join([head, *(f'"{name}": {text}' for name, text in sections.items())]) + "}\n"


def jsonl_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return the object of a document on one line."""
    return on_one_line(json_text(document, options, file_hash))


def on_one_line(text: str) -> str:
    """Return JSON without the line breaks between its items; in strings they are escaped."""
    return text.replace("\n", "") + "\n"


def json_error(error: PtInspectError, path: str) -> str:
    """Return the object for a file that could not be read, in the place of any report."""
    return (
        f'{{"schema": {SCHEMA}, "file": {json_value({"path": path})},\n'
        f' "error": {json_value(error.as_dict())}}}\n'
    )


def _file(document: Document, file_hash: FileHash | None) -> dict[str, object]:
    archive = document.archive
    facts: dict[str, object] = {
        "path": document.path,
        "size": document.size,
        "format": archive.format,
        "byteorder": archive.byteorder,
        "pickle_protocol": archive.pickled.protocol if archive.streams else None,
    }
    if archive.parts:
        facts["shards"] = _shard_names(document)
    if document.checked_records is not None:
        facts["checked_records"] = document.checked_records
    if file_hash is not None:
        facts["sha256"] = file_hash.sha256
        facts["name_hash"] = file_hash.expected
        named = file_hash.expected is not None
        facts["name_hash_matches"] = not file_hash.mismatch if named else None
    return facts


def _shard_names(document: Document) -> list[str]:
    return [os.path.basename(part.source.path) for part in document.archive.parts]


def _modules(document: Document) -> Iterator[dict[str, object]]:
    if not document.modules:
        return
    from ptinspect.display.tree import ModuleNodes, plain_attributes

    nodes = ModuleNodes(document)
    for info in document.modules:
        module = info.module
        node = nodes.node(module)
        facts: dict[str, object] = {
            "root": info.root,
            "name": info.name,
            "class": module.class_path,
            "training": module.training,
            "extra_repr": node.extra_repr(nodes),
        }
        attributes = plain_attributes(document, module)
        if attributes:
            facts["attributes"] = attributes
        yield {**facts, "base": node.base, "evidence": "inferred"} if node.base else facts


def _optimizers(document: Document) -> Iterator[dict[str, object]]:
    if not document.optimizers:
        return
    from ptinspect.document.optim.check import check_optimizers

    for fit in check_optimizers(document, values=False):
        optimizer = fit.optimizer
        state_path = (*optimizer.path, "state")
        yield {
            "path": optimizer.path,
            "class": optimizer.class_path,
            "evidence": optimizer.evidence,
            "param_groups": [
                {
                    str(path_step(key)): optimizer.parameters(index)
                    if key == "params"
                    else _setting(value, document)
                    for key, value in group.items()
                }
                for index, group in enumerate(optimizer.groups)
            ],
            "state_tensors": sum(
                info.role == "optimizer" and info.path[:-2] == state_path
                for info in document.contents.tensors
            ),
            "fit": fit.as_dict(),
        }


def _setting(value: Value, document: Document) -> object:
    """Return a hyper-parameter as a JSON value; for a tensor its number."""
    tensor = document.tensor_of(value)
    if tensor is not None:
        return {"tensor": number_of(tensor)}
    description = describe(value)
    return description[1] if description is not None else brief_repr(value)


def _load(document: Document) -> dict[str, object]:
    from ptinspect.safety.load_advice import dangerous_findings, load_advice

    advice, danger = load_advice(document), dangerous_findings(document)
    return {
        "weights_only": advice.weights_only,
        "needs": advice.needs,
        "safe_globals": advice.safe_globals,
        "map_location": advice.map_location,
        "call": None if danger else advice.call,
        "blockers": [f"dangerous: {finding.chain}" for finding in danger] + advice.blockers,
    }


def _tensors(document: Document, options: ShowOptions) -> Iterator[str]:
    infos = select_tensors(document, options)
    measurements: dict[TensorInfo, TensorMeasurement] = {}
    if options.stats or options.hash or options.values:
        from ptinspect.display.measure import measure_tensors

        measurements = measure_tensors(infos, options)
    keys = quoted_all([info.key for info in infos])
    facts: dict[object, str] = {}  # many tensors share these facts: each text is built once
    for info, key, storage in zip(infos, keys, _storages(document, infos), strict=True):
        tensor = info.tensor
        shared = (
            info.role, info.persistent, id(tensor.dtype), tensor.shape, tensor.stride,
            tensor.storage_offset, tensor.device, tensor.requires_grad, tensor.layout,
        )  # fmt: skip
        common = facts.get(shared)
        if common is None or tensor.parts or tensor.uninitialized:  # facts not in `shared`
            values = {
                "role": info.role, "persistent": info.persistent, **_view_facts(tensor),
                "layout": tensor.layout, "device": tensor.device,
                "requires_grad": tensor.requires_grad, "nbytes": tensor.nbytes,
            }  # fmt: skip
            common = facts[shared] = json_value(values)[1:-1]
        steps = info.path
        is_key = len(steps) == 1 and steps[0] == info.key
        path = key if is_key else ", ".join(map(json_scalar, steps))
        special = _special_facts(tensor)
        pieces = pieces_of(tensor)
        if pieces is not None:
            storage, special["pieces"] = "null", pieces
        if measurements:
            special |= _measured_facts(info, measurements[info], options)
        more = f", {json_value(special)[1:-1]}" if special else ""
        yield f'{{"key": {key}, "path": [{path}], {common}, "storage": {storage}{more}}}'


def _view_facts(tensor: Tensor) -> dict[str, object]:
    """Return dtype, shape (None for a lazy module's tensor, with None for a ragged dimension),
    stride and storage_offset."""
    shape = [None if size == -1 else size for size in tensor.shape]
    return {
        "dtype": tensor.dtype.name if tensor.dtype else None,
        "shape": None if tensor.uninitialized else shape,
        "stride": tensor.stride,
        "storage_offset": tensor.storage_offset,
    }


def _storages(document: Document, infos: list[TensorInfo]) -> list[str]:
    """Return the storage of each tensor, or null. An array in the pickle itself has no key; in a
    model of several files each storage names its file."""
    storages = [info.tensor.storage for info in infos]
    locations = storage_places(storages)
    keys = quoted_all([storage.key if storage is not None else "" for storage in storages])
    records = quoted_all([record or "" for record, _ in locations])
    files = {
        id(part): f', "file": {name}'
        for part, name in zip(
            document.archive.parts, quoted_all(_shard_names(document)), strict=True
        )
    }
    return [
        f'{{"key": {"null" if type(storage) is InlineStorage else key}, '
        f'"nbytes": {storage.nbytes}, "record": {record if location[0] is not None else "null"}, '
        f'"file_offset": {location[1] if location[1] is not None else "null"}'
        f"{files.get(id(storage.archive), '') if files else ''}}}"
        if storage is not None
        else "null"
        for storage, key, record, location in zip(storages, keys, records, locations, strict=True)
    ]


def pieces_of(tensor: Tensor) -> list[dict[str, object]] | None:
    """Return the pieces in files of a distributed checkpoint; None for tensors in one place."""
    storage = tensor.storage
    if storage is None or storage.archive.format not in ("torch-dcp", "torch-ranks", "deepspeed"):
        return None
    from ptinspect.formats.torch.pieces import PiecedSpan

    span = storage.archive.storages.get(storage.key)
    if not isinstance(span, PiecedSpan):
        return None
    return [piece.as_dict() for piece in span.pieces]


def _special_facts(tensor: Tensor) -> dict[str, object]:
    facts: dict[str, object] = {}
    for name in ("encoding", "subclass"):
        if getattr(tensor, name):
            facts[name] = getattr(tensor, name)
    if tensor.conj or tensor.neg:
        facts |= {"conj": tensor.conj, "neg": tensor.neg}
    if tensor.quantizer:
        facts["quantizer"] = {
            name: _part(value) if isinstance(value, Tensor) else value
            for name, value in tensor.quantizer.items()
        }
    if tensor.parts:
        facts["parts"] = {name: _part(part) for name, part in tensor.parts.items()}
    return facts


def _part(part: Tensor) -> dict[str, object]:
    storage = part.storage
    return {
        **_view_facts(part),
        "nbytes": part.nbytes,
        "storage": storage
        and {
            "key": None if type(storage) is InlineStorage else storage.key,
            "nbytes": storage.nbytes,
            "record": storage.record,
            "file_offset": storage.file_offset,
        },
    }


def _measured_facts(
    info: TensorInfo, measurement: TensorMeasurement, options: ShowOptions
) -> dict[str, object]:
    facts: dict[str, object] = {}
    problem = measurement.problem
    if options.values:
        facts["values"], unreadable = _nested_values(info.tensor)
        problem = unreadable or problem
    if options.stats:
        stats = measurement.stats
        facts["stats"] = stats and {name: getattr(stats, name) for name in STATS_HEADERS}
    if options.hash:
        facts["sha256"] = measurement.sha256
    return {**facts, "unreadable": problem} if problem else facts


def _nested_values(tensor: Tensor) -> tuple[object, str]:
    """Return the numbers as nested lists, or None and the reason, such as that torch would
    summarise it."""
    from ptinspect.display.tensor_repr import THRESHOLD, numbers_of

    if tensor.numel > THRESHOLD:
        return None, f"more than {THRESHOLD:,} elements"
    try:
        numbers = numbers_of(tensor)
    except UnsupportedError as error:
        return None, error.message
    items: list[object] = [
        {"real": n.real, "imag": n.imag} if isinstance(n, complex) else n for n in numbers
    ]
    if not tensor.shape:
        return items[0], ""
    for size in reversed(tensor.shape[1:]):
        count = len(items) // size if size else 0
        items = [items[index * size : (index + 1) * size] for index in range(count)]
    return items, ""


def json_scalar(value: object) -> str:
    """Return None, a bool, a number or a string as JSON, and anything else as a JSON string."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        return str(int(value)) if value.bit_length() < MAX_INTEGER_BITS else f'"{value:#x}"'
    if isinstance(value, float):
        if value != value:
            return '"nan"'
        return repr(value) if value - value == 0 else ('"inf"' if value > 0 else '"-inf"')
    return quoted(str(value) if isinstance(value, complex) else brief_repr(value))


class _Text(str):
    """JSON text among values that are still to be written."""

    __slots__ = ()


def json_value(value: object) -> str:
    """Return a scalar, or dicts and lists of scalars nested to any depth, as JSON on one line."""
    parts: list[str] = []
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        if type(item) is _Text:
            parts.append(item)
        elif isinstance(item, dict):
            parts.append("{")
            pending.append(_Text("}"))
            for index, (key, member) in enumerate(reversed(item.items())):
                comma = ", " if index + 1 < len(item) else ""
                pending += (member, _Text(f"{comma}{quoted(str(key_value(key)))}: "))
        elif isinstance(item, list | tuple):
            parts.append("[")
            pending.append(_Text("]"))
            for index, member in enumerate(reversed(item)):
                pending += (member, _Text(", ")) if index + 1 < len(item) else (member,)
        else:
            parts.append(json_scalar(item))
    return "".join(parts)


def json_lines(items: Iterable[str]) -> str:
    """Return JSON items as a JSON list with a line per item."""
    lines = ",\n  ".join(items)
    return f"[\n  {lines}]" if lines else "[]"
