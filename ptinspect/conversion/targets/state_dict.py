"""The targets `state_dict` and `same`, and the model part of the others.

`same` writes all values of the file through the same writer as every other target: torch loads
equal values, with the same sharing of storages, but the pickle is today's and not a copy of the
source's opcodes, and bytes of storages that no tensor uses are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.conversion.models import array_tensor, is_array_state_dict, select_model
from ptinspect.conversion.output.object_graph import ObjectGraph
from ptinspect.conversion.plan import ModelPart, Plan, PlannedTensor, plan_tensors, torch_file
from ptinspect.conversion.targets.object_state import StateDict, metadata_of, state_dict_of
from ptinspect.conversion.warnings import PROGRAM_DROPPED, loss_warnings
from ptinspect.document.modules import module_of
from ptinspect.document.select import Subtree, resolve_path
from ptinspect.errors import PtInspectError, UnsupportedError
from ptinspect.formats.safetensors import ordered_dict
from ptinspect.pickling.pyobjects import as_mapping, path_step
from ptinspect.pickling.values import Call, Value, key_value

if TYPE_CHECKING:
    from ptinspect.conversion.options import ConvertOptions, KeyEdits
    from ptinspect.document import Document
    from ptinspect.pickling.pyobjects import Path


def plan_state_dict(document: Document, path: str, options: ConvertOptions) -> Plan:
    """Return the plan of a file with the state_dict of the model."""
    graph = ObjectGraph(options.tensors)
    model = model_part(document, options, graph)
    graph.collect(model.value, document)
    graph.plan()
    warnings, dropped = loss_warnings(document, model, options)
    return Plan(
        options.to,
        files=[torch_file(path, *graph.dump(model.value))],
        tensors=_planned_tensors(model, document, graph),
        warnings=warnings,
        dropped=dropped,
        tensor_count=len(graph.tensors),
    )


def plan_same(document: Document, path: str, options: ConvertOptions) -> Plan:
    """Return the plan of a file with all values of the source. UnsupportedError if the source
    consists of several pickles, of which torch's zip holds one, or is a program."""
    archive = document.archive
    if archive.format in PROGRAM_DROPPED:
        raise UnsupportedError(
            f"only a file of the format {archive.format} can hold a program",
            hint="--to state_dict or --to safetensors keeps its tensors",
        )
    if archive.more_roots:
        raise UnsupportedError("the file holds several pickles, but torch's zip holds only one")
    graph = ObjectGraph(options.tensors)
    graph.collect(archive.root, document)
    graph.plan()
    warnings = []
    if archive.sources:
        warnings.append("dropped: the source code of the classes, which only legacy files hold")
    if archive.facts.get("sys_info") or archive.format == "pickle":
        warnings.append(f"converted from {archive.format} to torch's zip")
    return Plan(
        options.to,
        files=[torch_file(path, *graph.dump(archive.root))],
        tensors=plan_tensors(archive.root, graph, document, {key: key for key in document.tensors}),
        warnings=warnings,
        tensor_count=len(graph.tensors),
    )


def model_part(document: Document, options: ConvertOptions, graph: ObjectGraph) -> ModelPart:
    """Return the part that is converted, as a state_dict with its keys edited. A part that is
    neither a module nor a mapping by strings is taken as it is. NumPy arrays in a mapping become
    tensors, and safetensors gets the tensors of nested mappings by dotted keys."""
    (path, value), warnings = select_part(document, options)
    module = module_of(value)
    if module is not None:
        state = state_dict_of(module, document, graph)
        model = ModelPart(path, None, module=module, warnings=warnings)
        model.non_persistent = state.non_persistent
        model.attributes = _tensor_attributes(path, document)
        _apply_edits(model, state, options.edits, ordered=True)
        return model
    items = as_mapping(value)
    model = ModelPart(path, value, warnings=warnings)
    if items is None or not all(isinstance(key_value(key), str) for key in items):
        return model
    state = StateDict({str(key): item for key, item in items.items()}, metadata_of(value))
    is_changed = False
    if options.to == "safetensors" or is_array_state_dict(value):
        arrays = {
            key: graph.add_new(tensor)
            for key, item in state.items.items()
            if type(item) is Call and (tensor := array_tensor(item, document.archive)) is not None
        }
        state.items |= arrays
        is_changed = bool(arrays)
    if options.to == "safetensors":
        is_changed |= _flatten(state, path, document)
        model.attributes = _tensor_attributes(path, document)
    if any(options.edits) or is_changed:
        _apply_edits(model, state, options.edits, ordered=not isinstance(value, dict))
    else:
        model.items, model.sources = state.items, {key: key for key in state.items}
    return model


def select_part(document: Document, options: ConvertOptions) -> tuple[Subtree, list[str]]:
    """Return the part that `--entry` names, or the one model of the file, and warnings."""
    if options.entry is not None:
        return resolve_path(document.archive.root, options.entry), []
    return select_model(document, options)


def _flatten(state: StateDict, path: Path, document: Document) -> bool:
    """Put the items of nested mappings that hold tensors, by dotted keys, in their place. Return
    True if there are any."""
    start = len(path) + 1
    outer = {
        info.path[start - 1 : end]
        for info in document.contents.tensors
        if len(info.path) > start and info.path[: start - 1] == path
        for end in range(start, len(info.path))
    }
    if not outer:
        return False
    flat: dict[str, Value] = {}
    pending: list[tuple[Path, Value]] = [((k,), v) for k, v in reversed(state.items.items())]
    while pending:
        steps, value = pending.pop()
        items = as_mapping(value) if steps in outer else None
        key = ".".join(map(str, steps))
        if items is not None and document.tensor_of(value) is None:
            pending += [((*steps, path_step(k)), item) for k, item in reversed(items.items())]
        elif key in flat:
            raise PtInspectError(
                f"two tensors would get the name {key!r} when nested dicts are flattened",
                hint="--to state_dict keeps the nested dicts",
            )
        else:
            flat[key] = value
    is_changed = len(flat) != len(state.items) or any(key not in flat for key in state.items)
    state.items = flat
    return is_changed


def _tensor_attributes(path: Path, document: Document) -> list[str]:
    """Return the attributes that were set on the tensors of a model, by dotted path."""
    return [
        f"{info.key}.{name}"
        for info in document.contents.tensors
        if info.tensor.state and info.path[: len(path)] == path and info.role != "optimizer"
        for name in info.tensor.state
    ]


def _apply_edits(model: ModelPart, state: StateDict, edits: KeyEdits, *, ordered: bool) -> None:
    """Set value, items, sources and excluded keys of the model."""
    new_keys = edits.apply(state.items)
    model.items = {new: state.items[old] for old, new in new_keys.items()}
    model.sources = {new: old for old, new in new_keys.items()}
    model.excluded = [key for key in state.items if key not in new_keys]
    if not ordered:
        model.value = dict(model.items)
        return
    attributes: dict[Value, Value] = {}
    if state.metadata is not None:
        modules: dict[str, Value] = {}
        new_names = _module_names(new_keys)
        for name, metadata in state.metadata.items():
            modules.setdefault(new_names.get(name, edits.new_module_name(name)), metadata)
        attributes["_metadata"] = ordered_dict(modules.items())
    model.value = ordered_dict(model.items.items(), attributes)


def _module_names(new_keys: dict[str, str]) -> dict[str, str]:
    """Derive the new names of modules from the new keys of their tensors: where a key still ends as
    before, what precedes the unchanged end is the module's new name."""
    names: dict[str, str] = {}
    for old, new in new_keys.items():
        dot = old.rfind(".")
        while dot > 0:
            rest = old[dot + 1 :]
            if new == rest or new.endswith(f".{rest}"):
                names.setdefault(old[:dot], new[: -len(rest) - 1])
            dot = old.rfind(".", 0, dot)
    return names


def _planned_tensors(
    model: ModelPart, document: Document, graph: ObjectGraph
) -> list[PlannedTensor]:
    """Return the tensors of a state_dict, or those that a walk finds in any other value."""
    planned = []
    for key, value in model.items.items():
        tensor, dtype = graph.written_tensor(value)
        if tensor is None or tensor.state:  # there may be tensors inside of it
            return plan_tensors(model.value, graph, document, model.sources)
        planned.append(PlannedTensor(key, model.sources[key], tensor, dtype))
    return planned or plan_tensors(model.value, graph, document)
