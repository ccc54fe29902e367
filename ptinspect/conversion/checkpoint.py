"""The target `checkpoint`: {"model", "model_state_dict", "optimizer_state_dict", …}.

All entries of a checkpoint are taken over, with the keys of its model edited if that is wanted. A
full model or a state_dict becomes a checkpoint. `--optimizer` adds the optimizer's state of
another file, `--set` any other entry.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.conversion.builtins_only import plain_items
from ptinspect.conversion.output.object_graph import ObjectGraph
from ptinspect.conversion.output.sink import ModificationGuard
from ptinspect.conversion.plan import Plan, find_models
from ptinspect.conversion.report import excluded_keys_warning, loss_warnings
from ptinspect.conversion.state_dict import model_part, optimizer_state
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError, add_error_path
from ptinspect.pickling.pyobjects import as_mapping, attributes_of
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.conversion.options import ConvertOptions
    from ptinspect.document import Document

MODEL, STATE_DICT, OPTIMIZER = "model", "model_state_dict", "optimizer_state_dict"


@dataclass(slots=True)
class _Entries:
    """The entries of the new checkpoint, the keys of the model's tensors in SRC by those in the
    output, and what becomes `warnings` and `dropped` of the plan."""

    items: dict[Value, Value]
    sources: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def plan_checkpoint(
    document: Document, path: str, options: ConvertOptions, open_files: ExitStack
) -> Plan:
    """Return the plan. The file of `--optimizer` stays open until `open_files` is closed."""
    graph, guards = ObjectGraph(options.tensors), []
    entries = _source_entries(document, options, graph)
    models = {STATE_DICT, *(model.path[0] for model in find_models(document) if model.path)}
    for name in options.set:
        if name in entries.items and name in models:
            raise PtInspectError(
                f"--set {name} would replace the model", hint="give the entry another name"
            )
    new_names = [*options.set, *([OPTIMIZER] if options.optimizer else [])]
    # The entry MODEL that is added for a full model is not an entry of SRC.
    replaced = [name for name in new_names if name in entries.items and name in document.items]
    entries.items.update(dict.fromkeys(replaced))
    entries.dropped += replaced
    if replaced:
        entries.warnings.append(f"replaced by --set and --optimizer: {join_names(replaced)}")
    if options.plain:
        entries.items, dropped, warnings = plain_items(entries.items, document, graph)
        entries.dropped += dropped
        entries.warnings += warnings
    graph.collect({**entries.items}, document)
    if options.optimizer is not None:
        other = open_files.enter_context(open_document(options.optimizer, limits=document.limits))
        with add_error_path(options.optimizer):
            state: dict[Value, Value] = {OPTIMIZER: optimizer_state(other)}
            if options.plain:
                state, dropped, warnings = plain_items(state, other, graph)
                entries.dropped += dropped
                entries.warnings += warnings
            graph.collect(state[OPTIMIZER], other)
        entries.items |= state
        guards += ModificationGuard.of_archive(other.archive)
    for name, value in options.set.items():
        entries.items[name] = value
    if options.tensors.dtype and OPTIMIZER in entries.items:
        entries.warnings.append(
            f"--dtype also casts the floating tensors of {OPTIMIZER}, including its step counts"
        )
    return Plan(
        options.to, [graph.output_file(path, entries.items)],
        graph.planned_tensors(entries.items, document, entries.sources),
        entries.warnings, entries.dropped, guards,
        tensor_count=len(graph.tensors), device=options.tensors.device,
    )  # fmt: skip


def _source_entries(document: Document, options: ConvertOptions, graph: ObjectGraph) -> _Entries:
    """Return the entries that come from SRC: all of a checkpoint, with the keys of its model
    edited, or one for the model of another file."""
    if options.plain and document.kind not in ("module", "state_dict", "checkpoint"):
        # The items of a mapping, or the attributes of an object; any other value as an entry.
        value = options.part.value if options.part else document.archive.root
        value = next((o.state_dict() for o in document.optimizers if o.value is value), value)
        parts = as_mapping(value)
        if parts is None and isinstance(value, Call) and document.tensor_of(value) is None:
            parts = attributes_of(value)
        if parts and all(isinstance(key_value(key), str) for key in parts):
            return _Entries({str(key_value(key)): item for key, item in parts.items()})
        return _Entries({"value": value})
    if document.kind == "checkpoint" and options.part is None:
        entries = _Entries({**document.items})
        if not any(options.edits):
            return entries
        model = model_part(document, options, graph)
        if len(model.path) != 1:
            raise PtInspectError(
                "keys can only be changed in a model that is a top-level entry",
                hint="extract it with --to state_dict --entry PATH",
            )
        (name,) = model.path
        key = next(key for key, item in entries.items.items() if item is model.source)
        entries.items[key] = model.value
        entries.sources = {f"{name}.{new}": f"{name}.{old}" for new, old in model.sources.items()}
        entries.dropped = [f"{name}.{key}" for key in (*model.non_persistent, *model.excluded)]
        entries.warnings = [*model.warnings, *excluded_keys_warning(model.excluded)]
        return entries
    model = model_part(document, options, graph)
    sources = {f"{STATE_DICT}.{new}": old for new, old in model.sources.items()}
    warnings, dropped = loss_warnings(document, model, options)
    items: dict[Value, Value] = {STATE_DICT: model.value}
    if model.module is not None:
        items = {MODEL: model.module.class_name, **items}
    return _Entries(items, sources, warnings, dropped)
