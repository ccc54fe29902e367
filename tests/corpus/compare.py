"""Holds a document against the truth that torch recorded beside a file, field by field.

`differences(truth, document)` lists every one, each as a line that a person can act on; an
empty list means that they agree. Nothing here imports torch.

The sidecar and the document say a few things in their own way; `normal` functions below bring
both to one form, and each says what it takes for equal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

from ptinspect.display.tree import ModuleNodes, module_tree
from ptinspect.document.document import Document
from ptinspect.document.entries import Entry, value_at
from ptinspect.document.optim.state import Optimizer
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensors import TensorInfo
from ptinspect.errors import PtInspectError
from ptinspect.pickling.numpy_objects import as_array
from ptinspect.pickling.pyobjects import as_mapping, as_sequence
from ptinspect.pickling.values import Value

Facts = dict[str, Any]
Path = tuple[str | int, ...]


def differences(truth: Facts, document: Document) -> list[str]:
    """Everything in which the document is not what the sidecar says."""
    found: list[str] = []
    found += _one("kind", truth["kind"], document.kind)
    found += _one("format", truth["format"], document.archive.format)
    if "tensors" in truth or "partial" not in truth:  # else torch could not make them
        found += list(_tensors(truth.get("tensors", []), document))
        found += _aliases(truth.get("aliases", []), document)
    found += list(_modules(truth.get("modules", []), document))
    found += list(_printed(truth, document))
    found += list(_state_dict_keys(truth.get("state_dict_keys", {}), document))
    found += list(_entries(truth.get("entries", []), document))
    found += list(_optimizers(truth.get("optimizers", []), document))
    found += list(_elsewhere(truth, document))
    return found


def _one(what: str, want: object, have: object) -> list[str]:
    return [] if _same(want, have) else [f"{what}: torch has {want!r}, ptinspect {have!r}"]


def _same(want: object, have: object) -> bool:
    """Equal, type for type; a NaN is a NaN."""
    if isinstance(want, float) and isinstance(have, float) and math.isnan(want):
        return math.isnan(have)
    if isinstance(want, list) and isinstance(have, list):
        return len(want) == len(have) and all(map(_same, want, have))
    if isinstance(want, dict) and isinstance(have, dict):
        return list(want) == list(have) and all(_same(want[key], have[key]) for key in want)
    return type(want) is type(have) and want == have


def _in_order(what: str, want: list[Any], have: list[Any]) -> list[str]:
    """Two lists of which the order counts: what is missing, what is too much, else the order."""
    missing = [item for item in want if item not in have]
    extra = [item for item in have if item not in want]
    made = [f"{what}: {item!r} is missing" for item in missing]
    made += [f"{what}: {item!r} is not in torch's" for item in extra]
    if not made and want != have:
        at = next(
            (n for n, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), len(want)
        )
        made = [f"{what}: another order from {at} on, torch {want[at:]!r}, ptinspect {have[at:]!r}"]
    return made


# --- tensors ------------------------------------------------------------------------------


def _tensors(truth: list[Facts], document: Document) -> Iterator[str]:
    infos = [info for info in document.tensors.values() if not _later(info.path, document)]
    if document.has_numpy_weights:  # compared by `_elsewhere`
        infos = [info for info in infos if not as_array(value_at(document.archive.root, info.path))]
    yield from _in_order(
        "tensors", [fact["path"] for fact in truth], [list(info.path) for info in infos]
    )
    by_path = {info.path: info for info in infos}
    for fact in truth:
        info = by_path.get(tuple(fact["path"]))
        if info is None:
            continue
        have = tensor_facts(info)
        for name, want in _tensor_truth(fact).items():
            got = have.get(name)
            if name.startswith("parts") and isinstance(got, dict):  # strides of a nested tensor
                got = {part: got[part] for part in want if part in got}
            yield from _one(f"tensor {fact['key']!r} {name}", want, got)


def _tensor_truth(fact: Facts) -> Facts:
    """The sidecar's words for a tensor, without those that tell another thing's story."""
    want = {name: value for name, value in fact.items() if name != "path"}
    want.setdefault("class", "nested" if want.pop("nested", False) else None)
    want.setdefault("uninitialized", False)
    return want


def tensor_facts(info: TensorInfo) -> Facts:
    """A tensor as a sidecar describes it."""
    tensor = info.tensor
    dense = not tensor.parts and tensor.storage is not None
    made: Facts = {
        "key": info.key,
        "role": info.role,
        "persistent": info.persistent,
        "dtype": tensor.dtype.name if tensor.dtype else None,
        "shape": None
        if tensor.uninitialized
        else [None if size < 0 else size for size in tensor.shape],
        "stride": None if tensor.stride is None else list(tensor.stride),
        "storage_offset": tensor.storage_offset,
        "layout": tensor.layout,
        "device": tensor.device,
        "requires_grad": tensor.requires_grad,
        "class": tensor.subclass,
        "uninitialized": tensor.uninitialized,
        "sha256": _digest(tensor) if dense and not tensor.quantizer else None,
    }
    if tensor.parts:
        made["parts"] = {name: _digest(part) for name, part in tensor.parts.items()}
        made["parts_dtype"] = {
            name: part.dtype.name if part.dtype else None for name, part in tensor.parts.items()
        }
    if tensor.quantizer:
        made.update(_quantizer(tensor))
    return made


def _digest(tensor: Tensor) -> str:
    """SHA-256 of the values; the error where there are none to be had."""
    from ptinspect.document.elements import contiguous

    try:
        return hashlib.sha256(contiguous(tensor)).hexdigest()
    except PtInspectError as error:
        return f"{type(error).__name__}: {error}"


def _quantizer(tensor: Tensor) -> Facts:
    made: Facts = {"parts": {"int_repr": _digest(tensor)}}
    names = {"scales": "scale", "zero_points": "zero_point"}
    for name, value in tensor.quantizer.items():
        if isinstance(value, Tensor):
            value = _numbers(value)
        made[names.get(name, name)] = list(value) if isinstance(value, tuple) else value
    return made


def _numbers(tensor: Tensor) -> Value:
    """The values as Python's numbers, in nested lists; of a dtype that numpy has."""
    from ptinspect.document.to_array import to_numpy

    return to_numpy(tensor).tolist()


def _aliases(truth: list[list[list[Any]]], document: Document) -> list[str]:
    """Groups of paths to one storage, sets on both sides."""
    groups: dict[object, list[Path]] = {}
    for info in document.contents.tensors:
        storage = info.tensor.storage
        if storage is not None:
            groups.setdefault((id(storage.archive), storage.key), []).append(info.path)
    have = {frozenset(group) for group in groups.values() if len(group) > 1}
    want = {frozenset(map(tuple, group)) for group in truth}
    made = [f"aliases: {sorted(map(str, group))} is missing" for group in want - have]
    return made + [f"aliases: {sorted(map(str, group))} is not torch's" for group in have - want]


# --- modules ------------------------------------------------------------------------------


def _modules(truth: list[Facts], document: Document) -> Iterator[str]:
    infos = document.modules
    have = [[list(info.root), info.name] for info in infos]
    yield from _in_order("modules", [[fact["root"], fact["name"]] for fact in truth], have)
    by_place = {(info.root, info.name): info.module for info in infos}
    for fact in truth:
        module = by_place.get((tuple(fact["root"]), fact["name"]))
        if module is not None:
            what = f"module {fact['root']}:{fact['name']!r}"
            yield from _one(f"{what} class", fact["class"], module.class_path)
            yield from _one(f"{what} training", fact["training"], module.training)


def _printed(truth: Facts, document: Document) -> Iterator[str]:
    """extra_repr of every module, print() of every root; where today's torch could say it."""
    nodes = ModuleNodes(document)
    by_place = {(info.root, info.name): info.module for info in document.modules}
    for fact in truth.get("modules", []):
        module = by_place.get((tuple(fact["root"]), fact["name"]))
        if module is not None and fact["extra_repr"] is not None:
            text = nodes.node(module).extra_repr(nodes)
            what = f"module {fact['root']}:{fact['name']!r}"
            yield from _one(f"{what} extra_repr", fact["extra_repr"], text)
    tops = [info for info in document.modules if not info.name]
    roots = {"/".join(map(str, info.root)): info.module for info in tops}
    for root, text in truth.get("prints", {}).items():
        if text is None or root not in roots:
            continue
        have = "\n".join(module_tree(document, roots[root]))
        if roots[root].class_path.endswith(".GraphModule"):  # recorded by repr(); print adds code
            have = have[: len(text)]
        yield from _one(f"print of {root!r}", text, have)


def _state_dict_keys(truth: dict[str, list[str] | None], document: Document) -> Iterator[str]:
    have = state_dict_keys(document)
    yield from _in_order("state_dict roots", list(truth), list(have))
    coded = _coded(document)
    for root, keys in truth.items():
        if keys is not None:  # torch itself could not make it
            lists = [
                [key for key in found if not _by_code(root, key, coded)]
                for found in (keys, have.get(root, []))
            ]
            yield from _in_order(f"state_dict keys of {root!r}", *lists)


def _coded(document: Document) -> set[tuple[str, str]]:
    """The modules whose class adds entries of its own to a state_dict: the quantized ones, by
    `_save_to_state_dict`. Root (joined by "/") and name."""
    return {
        ("/".join(map(str, info.root)), info.name)
        for info in document.modules
        if ".quantized." in info.module.class_path
    }


def _by_code(root: str, key: str, coded: set[tuple[str, str]]) -> bool:
    """Whether an entry comes from a method, which no file records: a quantized module's scale
    and packed parameters, and what `get_extra_state` answers."""
    name, _, last = key.rpartition(".")
    return last == "_extra_state" or (root, name) in coded


def state_dict_keys(document: Document) -> dict[str, list[str]]:
    """Per module root: what its state_dict() would have, by the document's tensors."""
    root_of: dict[Path, Path] = {}
    made: dict[str, list[str]] = {}
    for module in document.modules:
        root_of.setdefault(module.path, module.root)
        made.setdefault("/".join(map(str, module.root)), [])
    left_out = {module.path: module.module.non_persistent for module in document.modules}
    for info in document.contents.tensors:
        place, name = info.path[:-1], info.path[-1:]
        root = root_of.get(place)
        if root is None or info.role not in ("parameter", "buffer"):
            continue
        if info.role == "parameter" or not {*name} & left_out[place]:
            made["/".join(map(str, root))].append(".".join(map(str, info.path[len(root) :])))
    return made


# --- entries and optimizers ---------------------------------------------------------------


def _entries(truth: list[Facts], document: Document) -> Iterator[str]:
    """Every value that the sidecar tells. The document tells more: the class of each object
    around them, where a cycle closes, the pickles after the first in a row; numpy's arrays and
    the storages, which the sidecar has in lists of their own."""
    have = {entry.path: entry for entry in document.entries}
    order = [list(path) for path in have]
    paths = [fact["path"] for fact in truth]
    yield from _in_order("entries", paths, [path for path in order if path in paths])
    others = {tuple(path) for path in paths}
    for path, entry in have.items():
        if path not in others and not _of_another_list(entry) and not _later(path, document):
            yield f"entry {list(path)!r}: not in torch's: {entry.type} {entry.value!r}"
    for fact in truth:
        entry = have.get(tuple(fact["path"]))  # type: ignore[assignment]
        if entry is not None:
            what = f"entry {fact['path']!r}"
            if entry.type == "code":  # a function by value: torch's side has run it
                continue
            yield from _one(f"{what} type", _type(fact["type"]), _type(entry.type))
            want, value = _said(fact["value"], fact.get("length")), _value(entry)
            yield from _one(f"{what} value", *_alike(want, value))


def _of_another_list(entry: Entry) -> bool:
    """Objects with insides, of which the document tells the class; arrays and storages."""
    if entry.type in ("numpy.ndarray", "cycle") or entry.type.endswith("Storage"):
        return True
    if any(str(step).startswith("kwargs[") for step in entry.path):
        return True
    return entry.value is None and entry.type != "NoneType"


def _later(path: Path, document: Document) -> bool:
    """Whether this lies in a pickle after the first, of which the sidecar does not tell."""
    return bool(path) and path[0] in range(1, len(document.archive.more_roots) + 1)


def _type(name: str) -> str:
    """numpy 2 calls `bool` what numpy 1 calls `bool_`; the file has the name of its writer."""
    return name.replace("numpy.bool_", "numpy.bool")


def _value(entry: Entry) -> Value:
    return _json(entry.value)


def _json(value: Value) -> Value:
    """As the sidecar says it: words for the floats that JSON has not, lists for tuples."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return value


def _said(value: Value, length: int | None) -> Value:
    """A sidecar's value: bytes as {"length", "head"}, and so the empty containers."""
    if length is not None:
        return {"length": length, "head": value}
    return {"length": 0, "head": []} if value == {} else value


def _alike(want: Value, have: Value) -> tuple[Value, Value]:
    """Both as {"length", "head"} with a head of one length, where either is shortened."""
    if isinstance(have, dict) and isinstance(want, list):
        want = {"length": len(want), "head": want}
    if isinstance(have, list) and isinstance(want, dict):
        have = {"length": len(have), "head": have}
    if isinstance(have, dict) and isinstance(want, dict) and {"length", "head"} <= set(have):
        heads = have["head"], want.get("head", [])
        shorter = min(map(len, heads))
        return (
            {**want, "head": heads[1][:shorter]},
            {**have, "head": heads[0][:shorter]},
        )
    return want, have


def _optimizers(truth: list[Facts], document: Document) -> Iterator[str]:
    by_path = {optimizer.path: optimizer for optimizer in document.optimizers}
    yield from _in_order(
        "optimizers", [fact["path"] for fact in truth], [list(path) for path in by_path]
    )
    for fact in truth:
        optimizer = by_path.get(tuple(fact["path"]))
        if optimizer is None:
            continue
        what = f"optimizer {fact['path']!r}"
        if fact["class"] is not None:
            yield from _one(f"{what} class", fact["class"], optimizer.class_path)
        groups = [_group(optimizer, index, document) for index in range(len(optimizer.groups))]
        yield from _one(f"{what} param_groups", fact["param_groups"], groups)
        yield from _one(f"{what} state_tensors", fact["state_tensors"], _kept(optimizer, document))


def _group(optimizer: Optimizer, index: int, document: Document) -> Facts:
    made: Facts = {}
    for key, value in optimizer.groups[index].items():
        tensor = document.tensor_of(value)
        if key == "params":
            made["params"] = optimizer.parameters(index)
        elif tensor is not None:
            made[str(key)] = {"tensor": _numbers(tensor)}
        else:
            items = as_sequence(value)
            made[str(key)] = _json(list(items) if items is not None else value)
    return made


def _kept(optimizer: Optimizer, document: Document) -> int:
    """Tensors in the state of all parameters."""
    return sum(
        document.tensor_of(value) is not None
        for state in optimizer.state.values()
        for value in (as_mapping(state) or {}).values()
    )


# --- numpy's arrays and storages ------------------------------------------------------------


def _elsewhere(truth: Facts, document: Document) -> Iterator[str]:
    have = {entry.path: entry for entry in document.entries}
    for fact in truth.get("arrays", []):
        if document.has_numpy_weights:
            values = document.tensors[".".join(map(str, fact["path"]))].numpy()
            array = hashlib.sha256(values.tobytes()).hexdigest()
            have_facts = [values.dtype.str, list(values.shape), array]
            want_facts = [fact["dtype"], fact["shape"], fact["sha256"]]
            yield from _one(f"array {fact['path']!r}", want_facts, have_facts)
            continue
        entry = have.get(tuple(fact["path"]))
        if entry is None or entry.type != "numpy.ndarray" or not isinstance(entry.value, dict):
            yield f"array {fact['path']!r}: is missing, there is {entry!r}"
            continue
        yield from _one(f"array {fact['path']!r} shape", fact["shape"], entry.value["shape"])
    for fact in truth.get("storages", []):
        entry = have.get(tuple(fact["path"]))
        if entry is None:
            yield f"storage {fact['path']!r}: is missing"
