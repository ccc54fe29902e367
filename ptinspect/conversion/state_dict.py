"""The targets `state_dict` and `same`, and what the others share: the model part, and the
state_dicts that the modules and optimizers of a file would return.

`same` writes all values of the file through the same writer as every other target: torch loads
equal values, with the same sharing of storages, but the pickle is today's and not a copy of the
source's opcodes, and bytes of storages that no tensor uses are dropped.

Sources: `torch.nn.Module.state_dict` and `_save_to_state_dict` (keys, order, `_metadata`),
`_save_to_state_dict` of the quantized classes in torch.ao.nn.quantized for what they add,
`torch.nn.modules.lazy.LazyModuleMixin`, and `torch.optim.Optimizer.state_dict`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from struct import pack
from typing import TYPE_CHECKING

from ptinspect.conversion.options import TENSORS_ONLY
from ptinspect.conversion.output.object_graph import ObjectGraph
from ptinspect.conversion.output.pieces import PlannedTensor
from ptinspect.conversion.plan import (
    ModelPart,
    Plan,
    is_array_state_dict,
    select_model,
)
from ptinspect.conversion.report import PROGRAM_DROPPED, loss_warnings
from ptinspect.document.modules import BUFFERS, PACKED_OBJECTS, PARAMETERS, Module, module_of
from ptinspect.errors import LimitError, PtInspectError, UnsupportedError
from ptinspect.formats.safetensors import ordered_dict
from ptinspect.pickling.numpy_objects import Array, as_array, as_scalar
from ptinspect.pickling.pyobjects import (
    as_mapping,
    dotted,
    metadata_of,
    path_step,
)
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.text import count_text, join_names
from ptinspect.torchnn.attributes import NORM_BUFFERS, packed_parameters
from ptinspect.torchnn.classes import candidates

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.conversion.options import ConvertOptions, KeyEdits
    from ptinspect.document import Document
    from ptinspect.pickling.pyobjects import Path

_NORMS = tuple(f"{kind}Norm{n}d" for kind in ("Batch", "Instance") for n in (1, 2, 3))
_VERSIONS = {
    **dict.fromkeys((*_NORMS, *(f"Lazy{name}" for name in _NORMS), "SyncBatchNorm"), 2),
    **{f"ConvBn{relu}{n}d": 2 for n in (1, 2, 3) for relu in ("", "ReLU")},
    **dict.fromkeys(("BNReLU2d", "BNReLU3d"), 2),
    **{f"{kind}MinMaxObserver": 3 for kind in ("", "MovingAverage", "PerChannel")},
    **dict.fromkeys(("HistogramObserver", "LinearPackedParams"), 3),
    "MovingAveragePerChannelMinMaxObserver": 3,
}
"""`_version` of torch's classes that have another one than 1."""

_QUANTIZED_VERSIONS = {"Linear": 3, "LinearReLU": 3, "LinearLeakyReLU": 3, "LinearTanh": 3}
_DYNAMIC_VERSIONS = {"Linear": 4, "LinearReLU": 4, "GRU": 2, "LSTM": 2}


@dataclass(slots=True, repr=False, eq=False)
class StateDict:
    """A state_dict: its items in torch's order, the entries of its `_metadata` by module name if it
    has one, the keys of buffers that state_dict() leaves out, and the module if it is one's."""

    items: dict[str, Value]
    metadata: dict[str, Value] | None
    non_persistent: list[str] = field(default_factory=list)
    module: Module | None = None


def plan_state_dict(document: Document, path: str, options: ConvertOptions) -> Plan:
    """Return the plan of a file with the state_dict of the model."""
    graph = ObjectGraph(options.tensors)
    model = model_part(document, options, graph)
    graph.collect(model.value, document)
    plan = Plan(
        options.to, [graph.output_file(path, model.value)],
        tensor_count=len(graph.tensors), device=options.tensors.device,
    )  # fmt: skip
    plan.warnings, plan.dropped = loss_warnings(document, model, options)
    items, sources = model.items.items(), model.sources.values()
    for (key, value), source in zip(items, sources, strict=True):
        tensor, dtype = graph.written_tensor(value)
        if tensor is None or tensor.state:  # there may be tensors inside of it
            plan.tensors = graph.planned_tensors(model.value, document, model.sources)
            return plan
        plan.tensors.append(PlannedTensor(key, source, tensor, dtype))
    plan.tensors = plan.tensors or graph.planned_tensors(model.value, document, {})
    return plan


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
    plan = Plan(
        options.to, [graph.output_file(path, archive.root)],
        tensor_count=len(graph.tensors), device=options.tensors.device,
    )  # fmt: skip
    keys = {key: key for key in document.tensors}
    plan.tensors = graph.planned_tensors(archive.root, document, keys)
    if archive.sources:
        plan.warnings.append(
            "dropped: the source code of the classes, which only legacy files hold"
        )
    if archive.facts.get("sys_info") or archive.format == "pickle":
        plan.warnings.append(f"converted from {archive.format} to torch's zip")
    return plan


def model_part(document: Document, options: ConvertOptions, graph: ObjectGraph) -> ModelPart:
    """Return the part that is converted, as a state_dict with its keys edited. A part that is
    neither a module nor a mapping by strings is taken as it is. NumPy arrays in a mapping become
    tensors; so do scalars in a model of arrays. Those of nested mappings, and all tensors of
    safetensors and npz, get dotted keys."""
    part, warnings = (options.part, []) if options.part else select_model(document, options)
    path, value = part
    detach = partial(graph.detach, document)
    state = state_dict_of(value, document, detach)
    if state is not None:
        model = ModelPart(path, value, None, module=state.module, warnings=warnings)
        model.non_persistent = state.non_persistent
        model.attributes = _tensor_attributes(path, document)
        _apply_edits(model, state, options.edits, ordered=True)
        return model
    items = as_mapping(value)
    model = ModelPart(path, value, value, warnings=warnings)
    if items is None:
        model.is_single = True
        return model
    if set(map(type, items)) <= {str}:  # which thousands of tensors have
        state = StateDict(dict(items), metadata_of(value))  # type: ignore[arg-type]
    elif all(isinstance(key_value(key), str) for key in items):
        state = StateDict({str(key): item for key, item in items.items()}, metadata_of(value))
    else:
        model.is_single = True
        return model
    is_changed = False
    if options.to in TENSORS_ONLY or document.has_numpy_weights or is_array_state_dict(value):
        is_changed = _flatten(state, path, document)
        calls = {key: item for key, item in state.items.items() if type(item) is Call}
        found = {key: as_array(call, scalars=True) for key, call in calls.items()}
        arrays = {
            key: tensor
            for key, array in found.items()
            if array is not None
            and (document.has_numpy_weights or as_scalar(calls[key]) is None)
            and (tensor := detach(array)) is not array
        }
        scalars = [key for key in arrays if as_scalar(calls[key])]
        if scalars:
            text = f"{join_names(scalars)}: NumPy scalars, written as tensors"
            model.warnings = [*warnings, text]
        state.items |= arrays
        is_changed |= bool(arrays)
    if options.to in TENSORS_ONLY:
        model.attributes = _tensor_attributes(path, document)
    if any(options.edits) or is_changed:
        _apply_edits(model, state, options.edits, ordered=not isinstance(value, dict))
    else:
        model.items, model.sources = state.items, dict(zip(state.items, state.items, strict=True))
    return model


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
    model.warnings = [*model.warnings, *edits.unused(state.items)]
    model.items = {new: state.items[old] for old, new in new_keys.items()}
    model.sources = {new: old for old, new in new_keys.items()}
    model.excluded = [key for key in state.items if key not in new_keys]
    if not ordered:
        model.value = dict(model.items)
        return
    attributes: dict[Value, Value] = {}
    if state.metadata is not None:
        modules: dict[str, Value] = {}
        # Where a key still ends as before, what precedes this end is the module's new name.
        new_names: dict[str, str] = {}
        for old, new in new_keys.items():
            dot = old.rfind(".")
            while dot > 0:
                rest = old[dot + 1 :]
                if new == rest or new.endswith(f".{rest}"):
                    new_names.setdefault(old[:dot], new[: -len(rest) - 1])
                dot = old.rfind(".", 0, dot)
        for name, metadata in state.metadata.items():
            modules.setdefault(new_names.get(name, edits.new_module_name(name)), metadata)
        attributes["_metadata"] = ordered_dict(modules.items())
    model.value = ordered_dict(model.items.items(), attributes)


# --- what modules and optimizers would return --------------------------------------------------


def state_dict_of(
    value: Value, document: Document, detach: Callable[[Value], Value]
) -> StateDict | None:
    """Return what `state_dict()` of a module gives; None for any other value. `detach` returns the
    output's value of a tensor.
    UnsupportedError if a module's weights can only be read by the code of its class."""
    metadata: dict[str, Value] = {}
    module = module_of(value)
    state = StateDict({}, metadata, module=module)
    if module is None:
        return None
    pending = [("", module)]
    max_visits = document.limits.view_items + len(document.contents.modules)
    visits = 0
    while pending:
        prefix, current = pending.pop()
        visits += 1
        if visits > max_visits:
            raise LimitError("the modules contain one another too often", limit="view_items")
        non_persistent = current.non_persistent
        versions: dict[Value, Value] = {"version": version_of(current)}
        for hook in (as_mapping(current.attributes.get("_state_dict_hooks")) or {}).values():
            # Source: `SpectralNormStateDictHook` of torch.nn.utils.spectral_norm.
            path = getattr(getattr(hook, "func", None), "path", "")
            if path == "torch.nn.utils.spectral_norm.SpectralNormStateDictHook":
                norm = (as_mapping(getattr(hook, "state", None)) or {}).get("fn")
                name = (as_mapping(getattr(norm, "state", None)) or {}).get("name")
                versions["spectral_norm"] = {f"{name}.version": 1}
        metadata[prefix[:-1]] = versions
        for store in (PARAMETERS, BUFFERS):
            for name, value in current.members(store):
                if store == BUFFERS and value is not None and name in non_persistent:
                    state.non_persistent.append(prefix + name)
                elif value is not None:
                    state.items[prefix + name] = detach(value)
        for name, value in _quantized_items(current, detach):
            state.items[prefix + name] = value
        children = [(f"{prefix}{name}.", child) for name, child in current.children()]
        pending += reversed(children)
    return state


def version_of(module: Module) -> int:
    """Return the `_version` of a module's class; for a user's class that of the torch class that
    it seems to extend."""
    recorded = module.attributes.get("_version")
    if isinstance(recorded, int):
        return recorded
    path, name = module.class_path, module.class_name
    if path.startswith("torch."):
        if ".sparse." in path or ".reference." in path:
            return 1
        if ".quantized.dynamic." in path:
            return _DYNAMIC_VERSIONS.get(name, 1)
        if ".quantized." in path and name in _QUANTIZED_VERSIONS:
            return _QUANTIZED_VERSIONS[name]
        return _VERSIONS.get(name, 1)
    buffers = dict(module.members(BUFFERS))
    if not all(key in buffers for key in NORM_BUFFERS):
        return 1
    similar = candidates(module.attributes)
    return _VERSIONS.get(similar[0].name, 1) if similar else 1


def optimizer_state(document: Document) -> Value:
    """Return the state of the one optimizer in a file, as `optimizer.state_dict()` gives it.
    PtInspectError if the file has none or several."""
    optimizers = document.optimizers
    if not optimizers:
        raise PtInspectError(
            "the file has no optimizer state",
            hint="--optimizer takes a file with the result of optimizer.state_dict()",
        )
    if len(optimizers) > 1:
        names = join_names(dotted(optimizer.path) for optimizer in optimizers)
        raise PtInspectError(
            f"the file has {count_text(len(optimizers), 'optimizer state')}: {names}",
            hint="extract one into a file first: ptinspect convert SRC DST --to state_dict "
            "--entry optimizer_state_dict",
        )
    return optimizers[0].state_dict()


def _quantized_items(module: Module, detach: Callable[[Value], Value]) -> list[tuple[str, Value]]:
    """Return what the quantized classes add to parameters and buffers."""
    path, name, attributes = module.class_path, module.class_name, module.attributes
    if path.endswith(("observer.HistogramObserver", ".FakeQuantize")):
        return []  # their tensors are buffers
    if not module.packs_weights:
        return []
    if ".sparse." in path:
        raise UnsupportedError(
            f"the weights of {path} are packed in a form that only torch can unpack",
            hint="--to same keeps the full model; or load it with torch and save its state_dict()",
        )
    scale_items: list[tuple[str, Value]] = []
    scale, zero_point = attributes.get("scale"), attributes.get("zero_point")
    if isinstance(scale, float) and isinstance(zero_point, int):
        scale_items = [
            ("scale", detach(Array("<f4", (), (), pack("<f", scale)))),
            ("zero_point", detach(Array("<i8", (), (), pack("<q", zero_point)))),
        ]
    parts = list(packed_parameters(attributes))
    if name == "LinearPackedParams" and len(parts) >= 2:
        weight = None if parts[0] is None else detach(parts[0])
        return [("dtype", attributes.get("dtype")), ("_packed_params", (weight, parts[1]))]
    if name == "EmbeddingPackedParams" and parts:
        weight = detach(parts[0])
        return [("dtype", attributes.get("dtype")), ("_packed_weight", weight)]
    if "weight" in attributes and "bias" in attributes and len(parts) == 2:  # a convolution
        return [("weight", parts[0]), ("bias", parts[1]), *scale_items]
    if name.startswith("Linear") or name == "QFunctional":
        return scale_items
    # Recurrent modules: torch keeps these objects packed in the state_dict.
    return [(key, attributes[key]) for key in PACKED_OBJECTS if key in attributes]
