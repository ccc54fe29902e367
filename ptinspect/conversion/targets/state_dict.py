"""The state_dict target, and the model part of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.conversion import warnings
from ptinspect.conversion.plan import Move, Plan, planned_moves, torch_file
from ptinspect.conversion.targets.module_state import StateDict, state_dict_of
from ptinspect.conversion.tensors import pickle_values
from ptinspect.conversion.tensors.object_graph import Graph
from ptinspect.document.modules import Module, module_of
from ptinspect.document.select import (
    MAX_LISTED,
    Subtree,
    model_candidates,
    resolve_path,
    several_entries_error,
)
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import (
    ORDERED_DICT,
    as_mapping,
    attributes_of,
    dotted,
    function_path,
)
from ptinspect.pickling.values import Call, Value, key_value

if TYPE_CHECKING:
    from ptinspect.conversion.keys import Edits
    from ptinspect.conversion.options import Options
    from ptinspect.document import Document


class Model:
    """The part of a file that is written as a state_dict.

    value: as it is written. items: its entries under their new names; sources: their names in
    SRC. module: where the part is a full model. dropped: keys that are not written.
    """

    def __init__(self, part: Subtree, value: Value) -> None:
        self.part = part
        self.value = value
        self.items: dict[str, Value] = {}
        self.sources: dict[str, str] = {}
        self.module: Module | None = None
        self.dropped: list[str] = []
        self.left_out: list[str] = []


def plan_state_dict(document: Document, target: str, options: Options) -> Plan:
    """The plan of a file that holds the state_dict."""
    plan, graph = Plan(options.to), Graph(options.wish)
    model = model_of(document, options, graph)
    graph.take(model.value, document)
    graph.plan()
    plan.found = len(graph.tensors)
    plan.files.append(torch_file(target, *graph.dump(model.value)))
    plan.moves = moves_of(model, document, graph)
    warnings.of_model(plan, document, model)
    return plan


def model_of(document: Document, options: Options, graph: Graph) -> Model:
    """The chosen part as a state_dict, with its keys edited; any other value as it is."""
    part = chosen(document, options)
    module = module_of(part.value)
    if module is not None:
        made = state_dict_of(module, document, graph)
        model = Model(part, None)
        model.module, model.left_out = module, made.left_out
        _edit(model, made, options.edits, ordered=True)
        return model
    items = as_mapping(part.value)
    if items is None or not all(isinstance(key_value(key), str) for key in items):
        return Model(part, part.value)  # a list, a tensor, an optimizer: as it is
    made = StateDict({str(key): value for key, value in items.items()}, metadata_of(part.value))
    model = Model(part, part.value)
    if options.edits.any:
        _edit(model, made, options.edits, ordered=not isinstance(part.value, dict))
    else:
        model.items, model.sources = made.items, {key: key for key in made.items}
    return model


_KINDS = {
    "optimizer": "the state of an optimizer",
    "tensor": "one tensor",
    "tensors": "a structure of tensors",
    "checkpoint": "a checkpoint without a model",
    "other": "something else",
}


def chosen(document: Document, options: Options) -> Subtree:
    """Return the part that `--entry` names, or the one model in the file."""
    if options.entry is not None:
        return resolve_path(document.archive.root, options.entry)
    models = model_candidates(document)
    if len(models) == 1:
        return models[0]
    if not models:
        raise PtInspectError(
            f"the file has no model: it is {_KINDS.get(document.kind, document.kind)}",
            hint="--to same writes the whole file, --entry PATH selects a part of it",
        )
    commands = [
        warnings.command(document, options, dotted(model.path)) for model in models[:MAX_LISTED]
    ]
    raise several_entries_error("model", [model.path for model in models], "\n".join(commands))


def metadata_of(value: Value) -> dict[str, Value] | None:
    """A state_dict's `_metadata`, which `Module.state_dict` sets on it."""
    if not isinstance(value, Call) or function_path(value) != ORDERED_DICT:
        return None
    found = as_mapping(attributes_of(value).get("_metadata"))
    return None if found is None else {str(key): item for key, item in found.items()}


def _edit(model: Model, made: StateDict, edits: Edits, ordered: bool) -> None:
    """Fills in `value`, `items`, `sources` and `dropped`."""
    names = edits.apply(made.items)
    model.items = {new: made.items[old] for old, new in names.items()}
    model.sources = {new: old for old, new in names.items()}
    model.dropped = [key for key in made.items if key not in names]
    if not ordered:
        model.value = dict(model.items)
        return
    state: dict[Value, Value] = {}
    if made.metadata is not None:
        modules: dict[str, Value] = {}
        renamed = _modules(names)
        for name, facts in made.metadata.items():
            modules.setdefault(renamed.get(name, edits.module_name(name)), facts)
        state["_metadata"] = pickle_values.ordered(modules.items())
    model.value = pickle_values.ordered(model.items.items(), state)


def _modules(names: dict[str, str]) -> dict[str, str]:
    """The new name of each module, as the new names of what lies in it tell: where the end of a
    key is as it was, what stands before it is the module."""
    made: dict[str, str] = {}
    for old, new in names.items():
        at = old.rfind(".")
        while at > 0:
            rest = old[at + 1 :]
            if new == rest or new.endswith(f".{rest}"):
                made.setdefault(old[:at], new[: -len(rest) - 1])
            at = old.rfind(".", 0, at)
    return made


def moves_of(model: Model, document: Document, graph: Graph) -> list[Move]:
    """The tensors of a state_dict; of any other value those that a walk finds in it."""
    made = []
    for key, value in model.items.items():
        tensor = graph.read(value)
        if tensor is None or tensor.state:  # others may lie in it
            return planned_moves(model.value, graph, document, model.sources)
        made.append(Move(key, model.sources[key], tensor, graph.dtype_of(value)))
    return made or planned_moves(model.value, graph, document)
