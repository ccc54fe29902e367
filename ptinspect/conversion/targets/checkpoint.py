"""The checkpoint target: {"model", "model_state_dict", "optimizer_state_dict", …}.

From a checkpoint every entry is kept as it is, but for the keys of its model where they are
edited; from a full model or a state_dict one is made. An optimizer's state comes from a file
that holds one, other entries from `--set`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ptinspect.conversion import warnings
from ptinspect.conversion.io.copy import Unchanged
from ptinspect.conversion.plan import Plan, planned_moves, torch_file
from ptinspect.conversion.targets.state_dict import chosen, model_of
from ptinspect.conversion.tensors.object_graph import Graph
from ptinspect.document import open as open_document
from ptinspect.document.select import find_models, value_at
from ptinspect.errors import PtInspectError, add_error_path
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, attributes_of, dotted, path_step
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.conversion.options import Options
    from ptinspect.document import Document
    from ptinspect.document.optim.state import Optimizer

MODEL, STATE, OPTIMIZER = "model", "model_state_dict", "optimizer_state_dict"


def plan_checkpoint(
    document: Document, target: str, options: Options, open_files: ExitStack
) -> Plan:
    """The plan. `open_files` keeps the optimizer's file open until all is written."""
    plan, graph = Plan(options.to), Graph(options.wish)
    sources: dict[str, str] = {}
    entries = _kept(document, options, graph, plan, sources)
    _make_way(entries, document, options, plan)
    if options.plain:
        entries = _plain(entries, document, graph, plan)
    graph.take({**entries}, document)
    if options.optimizer is not None:
        other = open_files.enter_context(open_document(options.optimizer, limits=document.limits))
        with add_error_path(options.optimizer):
            state = optimizer_state(other)
            if options.plain:
                state = _plain({OPTIMIZER: state}, other, graph, plan).get(OPTIMIZER)
            graph.take(state, other)
        entries[OPTIMIZER] = state
        plan.others.append(Unchanged(other.archive.source))
    for name, value in options.set:
        entries[name] = value
    if options.wish.dtype and OPTIMIZER in entries:
        plan.told.append(
            f"--dtype changes all floating tensors: those of {OPTIMIZER} too, its steps among them"
        )
    graph.plan()
    plan.found = len(graph.tensors)
    plan.moves = planned_moves(entries, graph, document, sources)
    plan.files.append(torch_file(target, *graph.dump(entries)))
    return plan


def _make_way(
    entries: dict[Value, Value], document: Document, options: Options, plan: Plan
) -> None:
    """Empties the entries that `--set` and `--optimizer` fill anew, and tells of them."""
    models = {STATE, *(part.path[0] for part in find_models(document) if part.path)}
    new = [name for name, _ in options.set]
    for name in new:
        if name in entries and name in models:
            raise PtInspectError(
                f"--set {name} would put something else in the place of the model",
                hint="give the entry another name",
            )
    held = as_mapping(document.archive.root) or {}  # a full model's MODEL is no entry of SRC
    replaced = [
        name
        for name in (*new, *([OPTIMIZER] if options.optimizer else []))
        if name in entries and name in held
    ]
    entries.update(dict.fromkeys(replaced))
    plan.dropped += replaced
    if replaced:
        plan.told.append(f"replaced, as --set and --optimizer say: {join_names(replaced)}")


def _kept(
    document: Document, options: Options, graph: Graph, plan: Plan, sources: dict[str, str]
) -> dict[Value, Value]:
    """The entries that come from SRC, under the keys that they have there. `sources` gets the old
    names of the model's tensors."""
    items = as_mapping(document.archive.root)
    if document.kind == "checkpoint" and options.entry is None and items is not None:
        entries = dict(items)
        if options.edits.any:
            model = model_of(document, options, graph)
            if len(model.part.path) != 1:
                raise PtInspectError("the model whose keys are to be changed lies too deep in it")
            name = str(model.part.path[0])
            entries[next(key for key in items if path_step(key) == model.part.path[0])] = (
                model.value
            )
            sources.update((f"{name}.{new}", f"{name}.{old}") for new, old in model.sources.items())
            plan.dropped += [f"{name}.{key}" for key in (*model.left_out, *model.dropped)]
            warnings.of_edits(plan, model)
        return entries
    if options.plain and document.kind not in ("module", "state_dict", "checkpoint"):
        return _entries(document, options)
    model = model_of(document, options, graph)
    warnings.of_model(plan, document, model)
    sources.update((f"{STATE}.{new}", old) for new, old in model.sources.items())
    if model.module is not None:
        return {MODEL: model.module.class_name, STATE: model.value}
    return {STATE: model.value}


def _entries(document: Document, options: Options) -> dict[Value, Value]:
    """All of a file that holds neither a model nor a checkpoint, whose root, or what `--entry`
    names, becomes the checkpoint: a mapping by its items, an object by its attributes."""
    value = chosen(document, options).value if options.entry else document.archive.root
    items = as_mapping(value)
    if items is None and isinstance(value, Call) and document.tensor_of(value) is None:
        items = attributes_of(value)
    if items and all(isinstance(key_value(key), str) for key in items):
        return {str(key_value(key)): item for key, item in items.items()}
    return {"value": value}


def _plain(
    entries: dict[Value, Value], document: Document, graph: Graph, plan: Plan
) -> dict[Value, Value]:
    """The entries that have a plain form, in that; the others are told."""
    from ptinspect.conversion.targets.builtins_only import LOST, Plain, plain_key

    plain = Plain(document, graph)
    made: dict[Value, Value] = {}
    for key, value in entries.items():
        name = plain_key(key)
        if name is LOST or name in made:
            plain.lost.append(str(path_step(key)))
        else:
            made[name] = plain.of(value, str(path_step(key)))
    if plain.lost:
        plan.dropped += plain.lost
        plan.told.append(f"left out, as it has no plain form: {join_names(plain.lost)}")
    kept = {key: value for key, value in made.items() if value is not LOST}
    if not kept:
        raise PtInspectError(
            "nothing in it has a plain form", hint="--to same keeps the objects as they are"
        )
    return kept


def optimizer_state(document: Document) -> Value:
    """The one optimizer's state in a file, as `optimizer.state_dict()` has it.

    PtInspectError where there is none, or several.
    """
    found = document.optimizers
    if len(found) != 1:
        names = ", ".join(dotted(each.path) for each in found)
        raise PtInspectError(
            f"it holds {len(found)} optimizers: {names}"
            if found
            else "there is no optimizer in it",
            hint="take it out of its file first: ptinspect convert SRC DST --to state_dict "
            "--entry optimizer_state_dict"
            if found
            else "--optimizer takes a file with what optimizer.state_dict() gave",
        )
    value = value_at(document.archive.root, found[0].path)
    if isinstance(value, Call) and "param_groups" in attributes_of(value):
        return packed(found[0])
    return value


def packed(optimizer: Optimizer) -> Value:
    """The state_dict of a pickled optimizer: its parameters by number.

    Source: `torch.optim.Optimizer.state_dict`.
    """
    order: dict[int, int] = {}
    groups: list[Value] = []
    for group in optimizer.groups:
        numbers: list[Value] = [
            order.setdefault(id(each), len(order))
            for each in as_sequence(group.get("params")) or ()
        ]
        groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": numbers})
    state = {
        order[id(key)] if id(key) in order else key_value(key): kept
        for key, kept in optimizer.state.items()
    }
    return {"state": state, "param_groups": groups}
