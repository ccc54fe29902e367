"""The state_dict that `model.state_dict()` gives, from a full model.

Sources: `torch.nn.Module.state_dict` and `_save_to_state_dict` (keys, order, `_metadata`),
`_save_to_state_dict` of the quantized classes in torch.ao.nn.quantized for what they add, and
of `torch.nn.modules.lazy.LazyModuleMixin`.
"""

from __future__ import annotations

import re
from struct import pack
from typing import TYPE_CHECKING

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.document.tensor import InlineStorage, Tensor
from ptinspect.dtypes import DTYPES
from ptinspect.errors import LimitError, UnsupportedError
from ptinspect.pickling.pyobjects import as_mapping
from ptinspect.torchnn import candidates
from ptinspect.torchnn.attributes import packed_parameters

if TYPE_CHECKING:
    from ptinspect.conversion.tensors.object_graph import Graph
    from ptinspect.document import Document
    from ptinspect.pickling.values import Value


_NORMS = tuple(f"{kind}Norm{n}d" for kind in ("Batch", "Instance") for n in (1, 2, 3))
_BY_NAME = {
    **dict.fromkeys((*_NORMS, *(f"Lazy{name}" for name in _NORMS), "SyncBatchNorm"), 2),
    **{f"ConvBn{relu}{n}d": 2 for n in (1, 2, 3) for relu in ("", "ReLU")},
    "BNReLU2d": 2,
    "BNReLU3d": 2,
    "HistogramObserver": 3,
    "MinMaxObserver": 3,
    "MovingAverageMinMaxObserver": 3,
    "MovingAveragePerChannelMinMaxObserver": 3,
    "PerChannelMinMaxObserver": 3,
    "LinearPackedParams": 3,
}
_QUANTIZED = {"Linear": 3, "LinearReLU": 3, "LinearLeakyReLU": 3, "LinearTanh": 3}
_DYNAMIC = {"Linear": 4, "LinearReLU": 4, "GRU": 2, "LSTM": 2}
_BATCH = ("running_mean", "running_var", "num_batches_tracked")


def version_of(module: Module) -> int:
    """The module's `_version`: its class's, where that is torch's, else that of the torch class
    which it seems to extend."""
    own = module.attributes.get("_version")
    if isinstance(own, int):
        return own
    path, name = module.class_path, module.class_name
    if path.startswith("torch."):
        if ".sparse." in path or ".reference." in path:
            return 1
        if ".quantized.dynamic." in path:
            return _DYNAMIC.get(name, 1)
        if ".quantized." in path and name in _QUANTIZED:
            return _QUANTIZED[name]
        return _BY_NAME.get(name, 1)
    buffers = dict(module.members("_buffers"))
    if not all(key in buffers for key in _BATCH):
        return 1
    found = candidates(module.attributes)
    return _BY_NAME.get(found[0].name, 1) if found else 1


# ---


Items = dict[str, "Value"]


class StateDict:
    """items: by key, in torch's order. metadata: per module's name what `_metadata` says of it.
    left_out: keys of buffers that state_dict() leaves out."""

    def __init__(self, items: Items, metadata: dict[str, Value] | None) -> None:
        self.items = items
        self.metadata = metadata
        self.left_out: list[str] = []


def state_dict_of(module: Module, document: Document, graph: Graph) -> StateDict:
    """What `module.state_dict()` gives. The values are taken by `graph`.

    UnsupportedError where a module keeps its weights in a way that only its class can read.
    """
    made = StateDict({}, {})
    todo: list[tuple[str, Module]] = [("", module)]
    visited = 0
    while todo:
        prefix, inner = todo.pop()
        visited += 1
        if visited > document.limits.view_items + len(document.contents.modules):
            raise LimitError("the modules lie inside one another too often", limit="view_items")
        _save(inner, prefix, made, document, graph)
        children = []
        for name, value in inner.members(MODULES):
            child = module_of(value)
            if child is not None:
                children.append((f"{prefix}{name}.", child))
        todo += reversed(children)
    return made


def _save(module: Module, prefix: str, made: StateDict, document: Document, graph: Graph) -> None:
    """One module's own entries."""
    assert made.metadata is not None
    made.metadata[prefix[:-1]] = {"version": version_of(module), **_local_metadata(module)}
    left_out = module.non_persistent
    for store in (PARAMETERS, BUFFERS):
        for name, value in module.members(store):
            if value is None:
                continue
            if store == BUFFERS and name in left_out:
                made.left_out.append(prefix + name)
                continue
            made.items[prefix + name] = graph.detached(value, document)
    for name, value in _packed_items(module, document, graph):
        made.items[prefix + name] = value


def beyond(module: Module, document: Document) -> list[str]:
    """Classes in a model whose own code adds to its state_dict, as far as the file tells: legacy
    files hold their source. What the code adds is in no file.

    Sources: `torch.nn.Module.get_extra_state`, which no class of torch has; `get_extra_state` of
    transformer_engine's `TransformerEngineBaseModule`.
    """
    coded = {
        f"{source.module}.{source.name}"
        for source in document.archive.sources
        if _CODED.search(source.text)
    }
    found: list[str] = []
    todo, seen = [module], {id(module.call)}
    while todo:
        inner = todo.pop()
        path = inner.class_path
        if path in coded or path.startswith("transformer_engine."):
            found.append(path)
        for _, value in inner.members(MODULES):
            child = module_of(value)
            if child is not None and id(child.call) not in seen:
                seen.add(id(child.call))
                todo.append(child)
    return list(dict.fromkeys(found))


_CODED = re.compile(r"^\s+def\s+(?:get_extra_state|state_dict|_save_to_state_dict)\s*\(", re.M)


def _local_metadata(module: Module) -> dict[str, Value]:
    """What hooks add: `SpectralNormStateDictHook` of torch.nn.utils.spectral_norm."""
    found: dict[str, Value] = {}
    for hook in (as_mapping(module.attributes.get("_state_dict_hooks")) or {}).values():
        path = getattr(getattr(hook, "func", None), "path", "")
        fn = hook.state if hasattr(hook, "state") else None
        if path == "torch.nn.utils.spectral_norm.SpectralNormStateDictHook":
            inner = (as_mapping(fn) or {}).get("fn")
            name = (as_mapping(getattr(inner, "state", None)) or {}).get("name")
            found["spectral_norm"] = {f"{name}.version": 1}
    return found


# --- quantized modules --------------------------------------------------------------------

_OBJECTS = ("param", "_packed_weight_ih", "_packed_weight_hh")
"""Attributes of the dynamic recurrent modules whose objects are the state_dict's entries:
`PackedParameter` and `RNNCellBase` in torch.ao.nn.quantized.dynamic.modules.rnn."""


def _packed_items(module: Module, document: Document, graph: Graph) -> list[tuple[str, Value]]:
    """What the quantized classes add to parameters and buffers."""
    path, own = module.class_path, module.attributes
    if path.endswith(("observer.HistogramObserver", ".FakeQuantize")):
        return []  # their tensors are buffers
    if not module.packs_weights:
        return []
    if ".sparse." in path:
        raise UnsupportedError(
            f"the weights of {path} are packed in a form that only torch can take apart",
            hint="--to same keeps the full model as it is; or load it, and save its state_dict()",
        )
    name = module.class_name
    scale: list[tuple[str, Value]] = []
    if isinstance(own.get("scale"), float) and isinstance(own.get("zero_point"), int):
        scale = [
            ("scale", _scalar(graph, document, "float32", pack("<f", own["scale"]))),
            ("zero_point", _scalar(graph, document, "int64", pack("<q", own["zero_point"]))),
        ]
    parts = list(packed_parameters(own))
    if name == "LinearPackedParams" and len(parts) >= 2:
        pair = (_own(parts[0], document, graph), _own(parts[1], document, graph, grad=True))
        return [("dtype", own.get("dtype")), ("_packed_params", pair)]
    if name == "EmbeddingPackedParams" and parts:
        weight = graph.detached(parts[0], document)
        return [("dtype", own.get("dtype")), ("_packed_weight", weight)]
    if "weight" in own and "bias" in own and len(parts) == 2:  # a convolution
        weight, bias = (_own(part, document, graph, grad=True) for part in parts)
        return [("weight", weight), ("bias", bias), *scale]
    if name.startswith("Linear") or name == "QFunctional":
        return scale
    return [(key, own[key]) for key in _OBJECTS if key in own]  # recurrent: kept packed by torch


def _own(value: Value, document: Document, graph: Graph, grad: bool = False) -> Value:
    """A tensor that lies in packed parameters, as unpacking gives it."""
    return value if grad or value is None else graph.detached(value, document)


def _scalar(graph: Graph, document: Document, dtype: str, raw: bytes) -> Value:
    """`torch.tensor(number)`."""
    storage = InlineStorage(document.archive, raw, "cpu")
    return graph.new(Tensor(DTYPES[dtype], (), (), 0, storage, "cpu", False, 0))
