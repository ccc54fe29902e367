"""Attributes of a pickled module, read as Python would read them from the module itself.

`attributes` is always what the instance's `__dict__` was: plain values, and under
`_parameters`, `_buffers` and `_modules` (a dict, or an OrderedDict that a `Call` records)
what `torch.nn.Module.__getattr__` finds there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ptinspect.pickling.pyobjects import (
    GRAPH_MODULE_REDUCERS,
    as_mapping,
    attributes_of,
    class_path,
    function_path,
)
from ptinspect.pickling.values import Call, Inert, Value

if TYPE_CHECKING:
    from ptinspect.torchnn.protocols import TensorFacts

Attributes = Mapping[Value, Value]


class Missing:
    """The type of `MISSING`: what a file does not record."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()


def no_tensors(value: Value, /) -> TensorFacts | None:
    """A `Describe` for callers without tensors."""
    return None


def items_of(value: Value) -> Mapping[Value, Value]:
    """Return the items of a dict or OrderedDict, such as `_modules`; empty for other values."""
    return as_mapping(value) or {}


def module_attributes(value: Value) -> Attributes:
    """Return the `__dict__` of an object that the pickle makes; empty for other values."""
    special = unusual(value)
    if special is not None:
        return special[1]
    return attributes_of(value) if isinstance(value, Call) else {}


def get(attributes: Attributes, name: str) -> Value:
    """`module.name`, or MISSING. A parametrized tensor is its ParametrizationList."""
    if name in attributes:
        return attributes[name]
    for store in ("_parameters", "_buffers", "_modules"):
        held = items_of(attributes.get(store))
        if name in held:
            return held[name]
    parametrized = items_of(attributes.get("_modules")).get("parametrizations")
    originals = module_attributes(parametrized).get("_modules")
    return items_of(originals).get(name, MISSING)


def find(attributes: Attributes, path: str) -> Value:
    """`module.a.b`, through children, or MISSING."""
    if "." not in path:
        return get(attributes, path)
    first, *rest = path.split(".")
    value = get(attributes, first)
    for name in rest:
        value = get(module_attributes(value), name)
    return value


def list_keys(attributes: Attributes) -> list[str]:
    """The names of a ParameterList's items. A file that announces more items than it has
    attributes is not believed; old files announce none, their items are parameters."""
    held = [items_of(attributes.get(store)) for store in ("_parameters", "_buffers", "_modules")]
    size = attributes.get("_size")
    if not isinstance(size, int):
        return [str(index) for index in range(len(held[0]))]
    return [str(index) for index in range(min(size, len(attributes) + sum(map(len, held))))]


def dict_keys(attributes: Attributes) -> list[str]:
    """The names of a ParameterDict's items; old files have none but the parameters'."""
    keys = items_of(attributes["_keys"] if "_keys" in attributes else attributes.get("_parameters"))
    return [key for key in keys if isinstance(key, str)]


QUANTIZED_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "transposed",
    "output_padding",
    "groups",
    "padding_mode",
    "weight",
    "bias",
    "scale",
    "zero_point",
    "training",
)
SPARSE_PACKED = ("_packed_params", "training", "dtype")
OPTIMIZED = "torch._dynamo.eval_frame.OptimizedModule"


def unusual(value: Value) -> tuple[str, Attributes] | None:
    """Class path and attributes of a module of torch's that is not pickled as a class with
    its `__dict__` as state; None for all else. These are:

    - `OptimizedModule` (`__reduce__`: the wrapped module and the compiler's context),
    - `GraphModule` (`reduce_graph_module(body, imports)`),
    - the quantized convolutions and the sparse packed parameters (`__getstate__`: a tuple).
    """
    path = class_path(value) if isinstance(value, Call) else None
    if path is None or not isinstance(value, Call) or not path.startswith("torch."):
        return None
    args, state = value.args, value.state
    if path == OPTIMIZED and args and not isinstance(state, dict):
        inner = args[0].state if isinstance(args[0], Inert) else None
        made: dict[Value, Value] = {"_modules": {"_orig_mod": args[0]}, "dynamo_ctx": args[-1]}
        if isinstance(inner, dict) and "training" in inner:  # a property, of the wrapped module
            made["training"] = inner["training"]
        return path, made
    if function_path(value) in GRAPH_MODULE_REDUCERS:
        bodies = [arg for arg in args if isinstance(arg, dict)]
        return (path, bodies[0]) if bodies else None
    if not isinstance(state, tuple) or ".quantized." not in path:
        return None
    for names in (QUANTIZED_CONV, SPARSE_PACKED):
        if len(state) == len(names):
            return path, dict(zip(names, state, strict=True))
    return None


def packed(attributes: Attributes) -> Sequence[Value]:
    """Weight, bias and what else the packed parameters of a quantized module hold.

    Source: the state that a `torch.ScriptObject` of torch's class library is pickled with,
    `(fields, class name)`; an embedding's fields are `(version, [weight], …)`.
    """
    if "weight" in attributes and "bias" in attributes:  # a convolution's tuple
        return (attributes["weight"], attributes["bias"])
    held: Value = attributes.get("_packed_params", attributes.get("_packed_weight"))
    if held is None:  # of a module with a child that holds them
        child = module_attributes(get(attributes, "_packed_params"))
        held = child.get("_packed_params", child.get("_packed_weight"))
    state = held.state if isinstance(held, Inert) else None
    if not isinstance(state, tuple) or not state or not isinstance(state[0], tuple):
        return ()
    fields: tuple[Value, ...] = state[0]
    if len(fields) > 1 and isinstance(fields[1], list):
        return fields[1]
    return fields
