"""The plan of a conversion, made before a byte is written: its model, files, tensors and warnings.

A file with several models is an error that lists a command for each, because half of a model is
worse than none. There is one exception: averages of the same model (EMA, SWA), which have its keys
and shapes, are passed over, and a warning names them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ptinspect.conversion.options import WRAPPER_PREFIX, ConvertOptions
from ptinspect.document.entries import (
    MAX_LISTED,
    Subtree,
    several_entries_error,
    value_at,
    value_finder,
)
from ptinspect.document.optim.matching import AVERAGE
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import array_tensor
from ptinspect.errors import PtInspectError
from ptinspect.pickling.numpy_objects import as_array
from ptinspect.pickling.pyobjects import as_mapping, dotted
from ptinspect.pickling.values import Value, key_value
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.conversion.output.pieces import LostValues, PlannedTensor
    from ptinspect.conversion.output.sink import ModificationGuard, OutputFile
    from ptinspect.document import Document
    from ptinspect.document.modules import Module
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.pyobjects import Path

_FLAX_ENTRIES = ("params", "batch_stats")

_ENTRY_OF_ONE_MODEL = {
    "model", "model_state_dict", "state_dict", "module", "net", "network", "weights",
    "model_weights", "net_state_dict", "blobs", *_FLAX_ENTRIES,
}  # fmt: skip
"""Entries whose nested dicts are the parts of one model, as in old checkpoints of Megatron."""

_MODULE_NAME = re.compile(r".*(\.|/~/)")
"""Names of modules that each have a dict, as HQQ and Haiku write them (`mlp/~/linear_0`)."""

_NO_MODELS = (
    ("hyper_parameters",), ("datamodule_hyper_parameters",), ("hparams",), ("args",), ("config",),
    ("cfg",), ("callbacks",), ("loops",), ("rng_state",), ("rng_states",), ("random_rng_state",),
    ("opt_state",),
)  # fmt: skip
"""Entries of checkpoints of Lightning in which a module is an argument, and entries with the states
of random number generators and of the optimizers of Optax."""

_KINDS = {
    "optimizer": "the state of an optimizer",
    "tensor": "one tensor",
    "tensors": "a structure of tensors",
    "checkpoint": "a checkpoint without a model",
    "other": "something else",
}


@dataclass(slots=True, repr=False, eq=False)
class Plan:
    """What a conversion will do, or has done. `tensors` are those with a key, under each of their
    keys; `tensor_count` includes those inside of objects. `guards` are those of the files that are
    read. `device` is that of all tensors of the output, or None for those of SRC. `pickled` is the
    pickle of the output as scan has read it. `lost_values` is filled when the files are written."""

    to: str
    files: list[OutputFile] = field(default_factory=list)
    tensors: list[PlannedTensor] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    guards: list[ModificationGuard] = field(default_factory=list)
    lost_values: list[LostValues] = field(default_factory=list)
    tensor_count: int = 0
    device: str | None = None
    pickled: Pickled | None = None


@dataclass(slots=True, repr=False, eq=False)
class ModelPart:
    """The part of a file that becomes a state_dict: path and value in SRC, and what is written.

    `items` are its entries under their new keys, empty if it is not a mapping by strings;
    `sources` has the old key of each. `excluded` are keys that --include and --exclude drop,
    `non_persistent` buffers that state_dict() leaves out, `attributes` those that were set on its
    tensors and are dropped. `warnings` are about the choice of the part. `is_single` is True for a
    value without keys.
    """

    path: Path
    source: Value
    value: Value
    items: dict[str, Value] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    module: Module | None = None
    excluded: list[str] = field(default_factory=list)
    non_persistent: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    is_single: bool = False

    @property
    def name(self) -> str:
        """The path as `--entry` takes it; "" for the root."""
        return dotted(self.path) if self.path else ""


# --- the model of a file --------------------------------------------------------------------


def select_model(document: Document, options: ConvertOptions) -> tuple[Subtree, list[str]]:
    """Return the one model of a file, and a warning if averages of it are passed over.
    PtInspectError if the file has no model, or several."""
    models = model_candidates(document)
    if not models:
        kind = _KINDS.get(document.kind, document.kind)
        raise PtInspectError(
            f"the file has no model: it is {kind}",
            hint="--to same writes the whole file, --entry PATH selects a part of it",
        )
    if len(models) == 1:
        if not models[0].path or not _is_minor_part(models[0].path, document):
            return models[0], []
        # A list, or a dict without names, around a small dict of tensors.
        name, dst = models[0].name, options.dst
        dst = None if (dst or "").lower().endswith((".safetensors", ".npz")) else dst
        everything = ConvertOptions("same", source=options.source, dst=dst)
        raise PtInspectError(
            f"most tensors are not in {name}, the only part with names: choose with --entry, or"
            " convert everything with --to same",
            hint=f"{replace(options, entry=name).command()}\n{everything.command()}",
        )
    model = _model_beside_averages(models, document)
    if model is not None:
        others = join_names(other.name for other in models if other is not model)
        return model, [
            f"converted {model.name}, not {others} (the same keys and shapes);"
            " --entry PATH chooses another one"
        ]
    commands = [replace(options, entry=model.name).command() for model in models[:MAX_LISTED]]
    commands.append(options.command("--all-entries"))
    raise several_entries_error("model", [model.path for model in models], "\n".join(commands))


def model_candidates(document: Document) -> list[Subtree]:
    """Return the models of a file: its root, or all models in a checkpoint."""
    root = Subtree((), document.archive.root)
    items = as_mapping(root.value)
    if document.kind in ("module", "state_dict"):
        return [root]
    models = _merge_nested(find_models(document), document)
    head = models[0].path[:-1] if models else ()
    if {model.path for model in models} == {(*head, name) for name in _FLAX_ENTRIES}:
        return [Subtree(head, value_at(root.value, head))]  # its weights and its statistics
    has_names = items is not None and all(isinstance(key_value(key), str) for key in items)
    if not models and has_names:
        # A dict of tensors and other values; the state_dict of a model without parameters is empty.
        tensors = document.contents.tensors
        entries = {info.path[:1] for info in tensors if info.role != "optimizer"}
        only = entries.pop() if len(entries) == 1 else ()
        value = value_at(root.value, only) if {*only} & _ENTRY_OF_ONE_MODEL else None
        if as_mapping(value) is not None:
            return [Subtree(only, value)]
        values = () if document.optimizers else (items or {}).values()
        arrays = (as_array(item, scalars=True) for item in values)
        has_arrays = any(array_tensor(array, document.archive) for array in arrays)
        return [root] if not items or document.kind == "tensors" or has_arrays else []
    if has_names and len(models) == 1 and _is_minor_part(models[0].path, document):
        return [root]
    return [m for m in models if m.path[:1] not in _NO_MODELS] or models


def _is_minor_part(path: Path, document: Document) -> bool:
    """Return True if the root has more tensors of its own than the model at `path` (a dict: no
    fewer), as a state_dict with one inner dict; False for a usual name of a model."""
    if document.optimizers or not path or {*path} & _ENTRY_OF_ONE_MODEL:
        return False
    paths = [info.path for info in document.contents.tensors]
    inner = sum(tensor_path[: len(path)] == path for tensor_path in paths)
    return inner < sum(len(tensor_path) == 1 for tensor_path in paths) + isinstance(path[0], str)


def find_models(document: Document) -> list[Subtree]:
    """Return the outermost modules and state_dicts outside of optimizers, in file order. A model
    that several paths lead to is returned once, with the shortest of them."""
    contents = document.contents
    paths = [info.root for info in contents.modules if not info.name] + contents.state_dicts
    order = {path: index for index, path in enumerate(dict.fromkeys(paths))}
    covered = [optimizer.path for optimizer in contents.optimizers]
    find = value_finder(document.archive.root)
    models: dict[int, Subtree] = {}
    for path in sorted(order, key=lambda path: (len(path), order[path])):
        if any(path[: len(outer)] == outer for outer in covered):
            continue
        value = find(path)
        if value is not None:
            covered.append(path)
            models.setdefault(id(value), Subtree(path, value))
    return sorted(models.values(), key=lambda model: order[model.path])


def _merge_nested(models: list[Subtree], document: Document) -> list[Subtree]:
    """Return the models, with the state_dicts that are parts of one model replaced by the dict
    around them."""
    is_flax = any(model.path and "kernel" in (as_mapping(model.value) or {}) for model in models)
    parts_of: dict[Path, set[Path]] = {}
    merged: dict[Path, Subtree] = {}
    for model in models:
        path = model.path
        heads = [path[: i + 1] for i, step in enumerate(path[:-1]) if step in _ENTRY_OF_ONE_MODEL]
        if path and (
            (is_flax and not {*path} & {*_FLAX_ENTRIES}) or _MODULE_NAME.match(str(path[0]))
        ):
            heads.insert(0, ())
        for head in heads:
            if head not in parts_of:
                parts_of[head] = _parts_of_one_model(head, document)
            is_whole = (is_flax or document.has_numpy_weights) and {*head[-1:]} & {*_FLAX_ENTRIES}
            if len(parts_of[head]) > (0 if is_whole else 1):
                merged.setdefault(head, Subtree(head, value_at(document.archive.root, head)))
                break
        else:
            merged[path] = model
    heads = [head for head, parts in parts_of.items() if head in merged and parts != {head}]
    return [m for m in merged.values() if all(m.path == h or m.path[: len(h)] != h for h in heads)]


def _parts_of_one_model(head: Path, document: Document) -> set[Path]:
    """Return the paths of the dicts below `head` that hold its tensors; none if they are models
    of their own."""
    items = as_mapping(value_at(document.archive.root, head))
    if items is None or not all(isinstance(key, str) for key in items):
        return set()
    if any(key in _ENTRY_OF_ONE_MODEL or AVERAGE.search(str(key)) for key in items):
        return set()
    contents, length = document.contents, len(head)
    if any(info.root[:length] == head for info in contents.modules):
        return set()
    return {
        info.path[:-1]
        for info in contents.tensors
        if info.path[:length] == head and info.role != "optimizer"
    }


def is_array_state_dict(value: Value) -> bool:
    """Return True for a mapping of strings to NumPy arrays."""
    items = as_mapping(value)
    return bool(items) and all(
        isinstance(key_value(key), str) and as_array(item) is not None
        for key, item in (items or {}).items()
    )


def _model_beside_averages(models: list[Subtree], document: Document) -> Subtree | None:
    """Return the only model that is not an average, if all others are averages of it, or are its
    own state_dict."""
    averages = [m for m in models if any(AVERAGE.search(str(step)) for step in m.path)]
    rest = [model for model in models if model not in averages]
    if not rest:
        return None
    model, *copies = rest
    tensors = _tensors_by_key(model, document)
    for average in averages:
        others = _tensors_by_key(average, document)
        for counter in ("n_averaged", "steps"):  # of the AveragedModel of torch, and of mmengine
            others.pop(counter, None)
        if not others or any(
            key not in tensors or tensors[key].shape != tensor.shape
            for key, tensor in others.items()
        ):
            return None
    views = {key: tensor.view_key for key, tensor in tensors.items()}
    if copies and all(info.root != model.path for info in document.modules):
        return None
    for copy in copies:
        others = _tensors_by_key(copy, document)
        if {key: tensor.view_key for key, tensor in others.items()} != views:
            return None
    return model


def _tensors_by_key(model: Subtree, document: Document) -> dict[str, Tensor]:
    """Return the tensors of a model's state_dict by key, without the prefixes of wrappers."""
    length = len(model.path)
    return {
        WRAPPER_PREFIX.sub("", ".".join(map(str, info.path[length:]))): info.tensor
        for info in document.contents.tensors
        if info.path[:length] == model.path and info.persistent
    }
