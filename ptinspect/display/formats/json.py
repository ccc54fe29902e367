"""`show --format json`: one object per file, a line per item.

Written by templates: building dictionaries for `json.dumps` would take several times as long
for a file of many tensors.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ptinspect._version import __version__
from ptinspect.display.select import selected
from ptinspect.display.text.escape import quoted, quoted_all
from ptinspect.display.text.json_values import json_scalar, json_value
from ptinspect.document.entries import Entry, describe
from ptinspect.document.storages import InlineStorage, storage_places
from ptinspect.pickling.pyobjects import brief_repr
from ptinspect.pickling.values import key_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptinspect.display.options import Look
    from ptinspect.document import Document, TensorInfo, Warned
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.document.tensor import Tensor
    from ptinspect.errors import PtInspectError
    from ptinspect.formats.archive import Archive
    from ptinspect.pickling.values import Value

SCHEMA = 1


def json_text(document: Document, look: Look) -> str:
    """The object, ending in a newline. Raises what reading the tensors raises, where values,
    statistics or hashes are asked for."""
    parts = [
        f'{{"schema": {SCHEMA}, "ptinspect": {quoted(__version__)}',
        f'"file": {_file(document, look)}',
        f'"content": {_content(document)}',
        f'"tensors": {_lines(_tensors(document, look))}',
        f'"modules": {_lines(_modules(document))}',
        f'"entries": {_lines(map(_entry, document.entries))}',
        f'"optimizers": {_lines(_optimizers(document))}',
        f'"totals": {_totals(document)}',
        f'"globals": {_lines(_globals(document))}',
        f'"load": {_load(document)}',
        f'"warnings": {_lines(map(_warning, document.warnings))}',
    ]
    return ",\n ".join(parts) + "}\n"


def json_error(error: PtInspectError, path: str) -> str:
    """What stands in the place of a file that could not be shown."""
    where = json_value(error.where._asdict() if error.where is not None else None)
    body = f'"kind": "{error.kind}", "message": {quoted(error.message)}, "where": {where}'
    return (
        f'{{"schema": {SCHEMA}, "file": {{"path": {quoted(path)}}},\n'
        f' "error": {{{body}, "hint": {json_scalar(error.hint)}}}}}\n'
    )


def _lines(items: Iterable[str]) -> str:
    """A JSON list, a line per item."""
    made = ",\n  ".join(items)
    return f"[\n  {made}]" if made else "[]"


def _file(document: Document, look: Look) -> str:
    archive = document.archive
    protocol = archive.pickled.protocol if archive.streams else None
    made = (
        f'{{"path": {quoted(document.path)}, "size": {document.size}, '
        f'"format": "{archive.format}", "byteorder": "{archive.byteorder}", '
        f'"pickle_protocol": {json_scalar(protocol)}'
    )
    if archive.parts:
        made += f', "shards": [{", ".join(quoted_all(_shards(archive)))}]'
    if look.file_hash is not None:
        found = look.file_hash
        matches = None if found.expected is None else not found.mismatch
        made += f', "sha256": "{found.sha256}", "name_hash": {json_scalar(found.expected)}'
        made += f', "name_hash_matches": {json_scalar(matches)}'
    return made + "}"


def _shards(archive: Archive) -> list[str]:
    return [os.path.basename(part.source.path) for part in archive.parts]


def _content(document: Document) -> str:
    return f'{{"kind": "{document.kind}", "class": {json_scalar(document.class_path)}}}'


# --- tensors ------------------------------------------------------------------------------


def _tensors(document: Document, look: Look) -> list[str]:
    rows = selected(document, look)
    extra = _extras(rows, look) if look.values or look.stats or look.hash else None
    facts: dict[object, str] = {}  # what many tensors have in common, written once
    keys = quoted_all([info.key for info in rows])
    made = []
    for info, key, place in zip(rows, keys, _storages(document, rows), strict=True):
        tensor = info.tensor
        shared = (
            info.role, info.persistent, id(tensor.dtype), tensor.shape, tensor.stride,
            tensor.storage_offset, tensor.device, tensor.requires_grad, tensor.layout,
        )  # fmt: skip
        common = facts.get(shared)
        if common is None or tensor.parts or tensor.uninitialized:  # not told by `shared`
            common = facts[shared] = _common(info)
        steps = info.path
        way = (
            key if len(steps) == 1 and steps[0] == info.key else ", ".join(map(json_scalar, steps))
        )
        more = "" if is_plain(tensor) else _special(tensor)
        if extra is not None:
            more += extra.get(info, "")
        made.append(f'{{"key": {key}, "path": [{way}], {common}, "storage": {place}{more}}}')
    return made


def _storages(document: Document, rows: list[TensorInfo]) -> list[str]:
    """The storage of each row, or null. An array in the pickle itself has no key. Of a model in
    several files each tells its own."""
    held = [info.tensor.storage for info in rows]
    found = storage_places(held)
    keys = quoted_all(["" if storage is None else storage.key for storage in held])
    records = quoted_all([place[0] or "" for place in found])
    parts = document.archive.parts
    named = {
        id(part): f', "file": {name}'
        for part, name in zip(parts, quoted_all(_shards(document.archive)), strict=True)
    }
    return [
        "null"
        if storage is None
        else f'{{"key": {"null" if type(storage) is InlineStorage else key}, '
        f'"nbytes": {storage.nbytes}, "record": {"null" if at[0] is None else record}, '
        f'"file_offset": {"null" if at[1] is None else at[1]}'
        f"{named.get(id(storage.archive), '') if named else ''}}}"
        for storage, key, record, at in zip(held, keys, records, found, strict=True)
    ]


def _common(info: TensorInfo) -> str:
    tensor = info.tensor
    return (
        f'"role": "{info.role}", "persistent": {json_scalar(info.persistent)}, '
        f'"dtype": {json_scalar(tensor.dtype.name if tensor.dtype else None)}, '
        f'"shape": {_shape(tensor)}, "stride": {_ints(tensor.stride)}, '
        f'"storage_offset": {json_scalar(tensor.storage_offset)}, '
        f'"layout": {quoted(tensor.layout)}, '
        f'"device": {quoted(tensor.device)}, '
        f'"requires_grad": {json_scalar(tensor.requires_grad)}, "nbytes": {tensor.nbytes}'
    )


def _shape(tensor: Tensor) -> str:
    """A list; null for a tensor of a lazy module, which has none yet, and for a dimension of a
    nested tensor that has no one length."""
    if tensor.uninitialized:
        return "null"
    return f"[{', '.join('null' if size == -1 else str(size) for size in tensor.shape)}]"


def _ints(numbers: tuple[int, ...] | None) -> str:
    return "null" if numbers is None else f"[{', '.join(map(str, numbers))}]"


def is_plain(tensor: Tensor) -> bool:
    """Whether nothing about the tensor is special."""
    return not (tensor.parts or tensor.subclass or tensor.quantizer or tensor.conj or tensor.neg)


def _special(tensor: Tensor) -> str:
    """What only some tensors have."""
    made = ""
    if tensor.subclass:
        made += f', "subclass": {quoted(tensor.subclass)}'
    if tensor.conj or tensor.neg:
        made += f', "conj": {json_scalar(tensor.conj)}, "neg": {json_scalar(tensor.neg)}'
    if tensor.quantizer:
        made += f', "quantizer": {_quantizer(tensor)}'
    if tensor.parts:
        inner = ", ".join(f"{quoted(name)}: {_part(part)}" for name, part in tensor.parts.items())
        made += f', "parts": {{{inner}}}'
    return made


def _part(part: Tensor) -> str:
    place = "null"
    if part.storage is not None:
        record, at = part.storage.place
        key = "null" if type(part.storage) is InlineStorage else quoted(part.storage.key)
        place = (
            f'{{"key": {key}, "nbytes": {part.storage.nbytes}, '
            f'"record": {json_scalar(record)}, "file_offset": {json_scalar(at)}}}'
        )
    return (
        f'{{"dtype": {json_scalar(part.dtype.name if part.dtype else None)}, '
        f'"shape": {_shape(part)}, "stride": {_ints(part.stride)}, '
        f'"storage_offset": {json_scalar(part.storage_offset)}, "nbytes": {part.nbytes}, '
        f'"storage": {place}}}'
    )


def _quantizer(tensor: Tensor) -> str:
    from ptinspect.document.tensor import Tensor as TensorClass

    made = [
        f"{quoted(name)}: {_part(v) if isinstance(v, TensorClass) else json_value(v)}"
        for name, v in tensor.quantizer.items()
    ]
    return f"{{{', '.join(made)}}}"


def _extras(rows: list[TensorInfo], look: Look) -> dict[TensorInfo, str]:
    """What options add to each tensor."""
    from ptinspect.display.tensor_columns import json_extras

    return json_extras(rows, look)


# --- the rest -----------------------------------------------------------------------------


def _modules(document: Document) -> Iterable[str]:
    if not document.modules:
        return
    from ptinspect.display.module_nodes import ModuleNodes

    nodes = ModuleNodes(document)
    for info in document.modules:
        module = info.module
        node = nodes.node(module)
        text = node.extra_repr(nodes)
        base = node.base
        more = f', "base": {quoted(base)}, "evidence": "inferred"' if base else ""
        yield (
            f'{{"root": {path(info.root)}, "name": {quoted(info.name)}, '
            f'"class": {quoted(module.class_path)}, "training": {json_scalar(module.training)}, '
            f'"extra_repr": {quoted(text)}{more}}}'
        )


def _entry(entry: Entry) -> str:
    return (
        f'{{"path": {path(entry.path)}, "type": {quoted(entry.type)}, '
        f'"value": {json_value(entry.value)}}}'
    )


def _optimizers(document: Document) -> Iterable[str]:
    if not document.optimizers:
        return
    from ptinspect.document.optim.check import check_optimizers

    for fit in check_optimizers(document, values=False):
        said = {"verdict": fit.verdict, "model": fit.model, **fit.told()}
        yield f'{_optimizer(fit.optimizer, document)[:-1]}, "fit": {json_value(said)}}}'


def _optimizer(found: Optimizer, document: Document) -> str:
    groups = ", ".join(_group(found, number, document) for number in range(len(found.groups)))
    start = (*found.path, "state")
    tensors = sum(
        info.role == "optimizer" and info.path[:-2] == start for info in document.contents.tensors
    )
    return (
        f'{{"path": {path(found.path)}, "class": {json_scalar(found.class_path)}, '
        f'"evidence": "{found.evidence}", "param_groups": [{groups}], "state_tensors": {tensors}}}'
    )


def _group(found: Optimizer, number: int, document: Document) -> str:
    made = []
    for key, value in found.groups[number].items():
        name = brief_repr(key_value(key)) if not isinstance(key, str) else key
        said = str(found.parameters(number)) if name == "params" else _setting(value, document)
        made.append(f"{quoted(name)}: {said}")
    return f"{{{', '.join(made)}}}"


def _setting(value: Value, document: Document) -> str:
    """A hyper-parameter: as it is, or as the number of the tensor that holds it."""
    tensor = document.tensor_of(value)
    if tensor is not None:
        from ptinspect.display.numbers.decode import number_of

        return f'{{"tensor": {json_scalar(number_of(tensor))}}}'
    said = describe(value)
    return json_value(said[1]) if said is not None else quoted(brief_repr(value))


def _totals(document: Document) -> str:
    totals = document.totals
    return (
        f'{{"tensors": {totals.tensors}, "parameters": {totals.parameters}, '
        f'"nbytes": {totals.nbytes}, "storage_nbytes": {totals.storage_nbytes}}}'
    )


def _globals(document: Document) -> Iterable[str]:
    counts: dict[str, int] = {}  # several pickles may use the same name
    for name in document.globals:
        counts[name.path] = counts.get(name.path, 0) + name.uses
    for text, count in counts.items():
        yield f'{{"name": {quoted(text)}, "count": {count}}}'


def _load(document: Document) -> str:
    from ptinspect.safety.load_advice import load_advice
    from ptinspect.safety.scan import dangers

    advice, danger = load_advice(document), dangers(document)
    call = "null" if danger else quoted(advice.call)
    why = [f"dangerous: {found.chain}" for found in danger] + advice.why
    return (
        f'{{"weights_only": {json_scalar(advice.weights_only)}, '
        f'"needs": {json_value(advice.needs)}, '
        f'"safe_globals": {json_value(advice.safe_globals)}, '
        f'"map_location": {json_scalar(advice.map_location)}, "call": {call}, '
        f'"why": {json_value(why)}}}'
    )


def _warning(warned: Warned) -> str:
    return (
        f'{{"kind": {quoted(warned.kind)}, '
        f'"path": {"null" if warned.path is None else path(warned.path)}, '
        f'"message": {quoted(warned.message)}}}'
    )


# --- values -------------------------------------------------------------------------------


def path(steps: tuple[str | int, ...]) -> str:
    """A path as a JSON list."""
    return "[" + ", ".join(map(json_scalar, steps)) + "]"


__all__ = ["SCHEMA", "json_error", "json_text"]
