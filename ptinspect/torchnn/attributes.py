"""Read a pickled module's attributes as Python would read them from the module itself, and the
constructor arguments that they record, in the notation of `tables/nn.txt`.

Also the types that callers supply: facts on tensors, and a tree of modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from ptinspect.pickling.pyobjects import (
    GRAPH_MODULE_REDUCERS,
    as_mapping,
    attributes_of,
    class_path,
    function_path,
)
from ptinspect.pickling.values import Call, Global, Inert, Value

Attributes = Mapping[Value, Value]
"""A module's `__dict__`: plain values, and under `_parameters`, `_buffers` and `_modules` (dicts
or OrderedDicts) what `torch.nn.Module.__getattr__` finds there."""

STORES = ("_parameters", "_buffers", "_modules")

NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of BatchNorm and InstanceNorm: entries of a state_dict that are not parameters."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes in which DataParallel and DDP, torch.compile, FSDP and activation checkpointing hold
the wrapped model: its keys in a state_dict begin with them."""

WRAPPER_PREFIXES = tuple(f"{name}." for name in WRAPPERS)

OPTIMIZED_MODULE = "torch._dynamo.eval_frame.OptimizedModule"

# The tuples that `__getstate__` of these classes returns.
_QUANTIZED_CONV_STATE = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed",
    "output_padding", "groups", "padding_mode", "weight", "bias", "scale", "zero_point", "training",
)  # fmt: skip
_SPARSE_PARAMS_STATE = ("_packed_params", "training", "dtype")


class Missing:
    """The type of `MISSING`: an attribute that the file does not record."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()


def items_of(value: Value) -> Mapping[Value, Value]:
    """Return the items of a dict or OrderedDict, such as `_modules`; empty for other values."""
    return as_mapping(value) or {}


def module_attributes(value: Value) -> Attributes:
    """Return the `__dict__` of an object that the pickle makes; empty for other values."""
    special = special_module(value)
    if special is not None:
        return special[1]
    return attributes_of(value) if isinstance(value, Call) else {}


def special_module(value: Value) -> tuple[str, Attributes] | None:
    """Return class path and attributes of a module that torch does not pickle by its `__dict__`.

    None for other values. These are:

    - `OptimizedModule` (`__reduce__`: the wrapped module and the compiler's context),
    - `GraphModule` (`reduce_graph_module(body, imports)`),
    - quantized convolutions and packed parameters (`__getstate__`: a tuple).
    """
    path = class_path(value) if isinstance(value, Call) else None
    if path is None or not isinstance(value, Call) or not path.startswith("torch."):
        return None
    args, state = value.args, value.state
    if path == OPTIMIZED_MODULE and args and not isinstance(state, dict):
        wrapped = args[0].state if isinstance(args[0], Inert) else None
        attributes: dict[Value, Value] = {
            "_modules": {"_orig_mod": args[0]},
            "dynamo_ctx": args[-1],
        }
        if isinstance(wrapped, dict) and "training" in wrapped:  # a property of the wrapped module
            attributes["training"] = wrapped["training"]
        return path, attributes
    if function_path(value) in GRAPH_MODULE_REDUCERS:
        bodies = [arg for arg in args if isinstance(arg, dict)]
        return (path, bodies[0]) if bodies else None
    if isinstance(state, tuple) and ".quantized." in path:
        if path.endswith(".LinearPackedParams") and len(state) == 4:  # torch 1.3 to 1.12
            weight, bias, training, dtype = state
            packed: Value = ((weight, bias),)
            return path, {"training": training, "dtype": dtype, "_packed_params": packed}
        for names in (_QUANTIZED_CONV_STATE, _SPARSE_PARAMS_STATE):
            if len(state) == len(names):
                return path, dict(zip(names, state, strict=True))
    return None


def get_attribute(attributes: Attributes, name: str) -> Value:
    """Return `module.name`, or MISSING. A parametrized tensor is its ParametrizationList."""
    if name in attributes:
        return attributes[name]
    for store in STORES:
        items = items_of(attributes.get(store))
        if name in items:
            return items[name]
    parametrizations = items_of(attributes.get("_modules")).get("parametrizations")
    lists = module_attributes(parametrizations).get("_modules")
    return items_of(lists).get(name, MISSING)


def find_attribute(attributes: Attributes, path: str) -> Value:
    """Return `module.a.b`, through children, or MISSING."""
    first, *rest = path.split(".")
    value = get_attribute(attributes, first)
    for name in rest:
        value = get_attribute(module_attributes(value), name)
    return value


def parameter_list_keys(attributes: Attributes) -> list[str]:
    """Return the names of a ParameterList's items: in old files, without `_size`, the parameters. A
    `_size` above the number of attributes is cut to that."""
    counts = [len(items_of(attributes.get(store))) for store in STORES]
    size = attributes.get("_size")
    count = min(size, len(attributes) + sum(counts)) if isinstance(size, int) else counts[0]
    return [str(index) for index in range(count)]


def parameter_dict_keys(attributes: Attributes) -> list[str]:
    """Return the names of a ParameterDict's items. Old files record no `_keys`."""
    keys = items_of(attributes.get("_keys" if "_keys" in attributes else "_parameters"))
    return [key for key in keys if isinstance(key, str)]


def packed_parameters(attributes: Attributes) -> Sequence[Value]:
    """Return weight, bias and so on from the packed parameters of a quantized module.

    Source: the state of a `torch.ScriptObject` of torch's class library, `(fields, class name)`; an
    embedding's fields are `(version, [weight], …)`.
    """
    if "weight" in attributes and "bias" in attributes:  # a convolution's tuple
        return (attributes["weight"], attributes["bias"])
    packed: Value = attributes.get("_packed_params", attributes.get("_packed_weight"))
    if packed is None:  # a module whose child has them
        child = module_attributes(
            (as_mapping(attributes.get("_modules")) or {}).get("_packed_params")
        )
        packed = child.get("_packed_params", child.get("_packed_weight"))
    state = packed.state if isinstance(packed, Inert) else None
    if not isinstance(state, tuple) or not state or not isinstance(state[0], tuple):
        return ()
    fields: tuple[Value, ...] = state[0]
    if len(fields) > 1 and isinstance(fields[1], list):
        return fields[1]
    return fields


# Constructor arguments

_FACTORY_ARGUMENTS = "device=None<- dtype=None<-"
_WORDS: dict[str, Value] = {"None": None, "True": True, "False": False}


class Name(str):
    """A default that is an object of torch's, by its dotted name (`torch.qint8`)."""

    __slots__ = ()


class Argument(NamedTuple):
    """One argument of a constructor.

    Attributes:
        kind: "plain", "keyword" (only), "*" or "**".
        default: a plain value, a `Name`, or MISSING if the argument is required.
        stored: the attribute's value in an instance with that default; `"=other"` for the same
            value as the argument `other`.
        source: the attribute that holds it, in the notation of `tables/nn.txt`.
    """

    name: str
    kind: str
    default: Value
    stored: Value
    source: str

    @property
    def required(self) -> bool:
        return self.default is MISSING and self.kind in ("plain", "keyword")


def parse_arguments(text: str) -> Iterator[Argument]:
    """Yield arguments written in the notation of `tables/nn.txt`."""
    kind = "plain"
    for token in text.replace("&factory", _FACTORY_ARGUMENTS).split():
        if token == "*":
            kind = "keyword"
            continue
        head, _, source = token.partition("<")
        head, _, stored_text = head.partition("~")
        starred, _, default_text = head.partition("=")
        name = starred.lstrip("*")
        stars = starred.removesuffix(name)
        default = parse_literal(default_text) if default_text else MISSING
        stored = parse_literal(stored_text) if stored_text else default
        yield Argument(name, stars or kind, default, stored, source or name)


def parse_literal(text: str) -> Value:
    """Return the value of a literal of the tables; `=name` stays a string."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "'\"":
        return text[1:-1]
    if text[0] == "(":
        return tuple(parse_literal(part) for part in text[1:-1].split(",") if part)
    if text[0] == "=":
        return text
    if text[0].isalpha():
        return Name(text)
    return float(text) if "." in text or "e" in text else int(text)


def equals_literal(value: Value, literal: Value) -> bool:
    """Return True if a value equals a literal. A bool is not 0 or 1; a global equals its `Name`."""
    if isinstance(value, Global):
        return isinstance(literal, Name) and value.path == literal
    if isinstance(value, tuple) and isinstance(literal, tuple):
        return len(value) == len(literal) and all(map(_equal, value, literal))
    return _equal(value, literal)


def _equal(value: Value, literal: Value) -> bool:
    if not (value is None or isinstance(value, bool | int | float | str)):
        return False
    return isinstance(value, bool) == isinstance(literal, bool) and value == literal


# Readers: the sources of arguments that are written `@name`


def _nonlinearity(attributes: Attributes, name: str) -> Value:
    """nn.RNN's, which old files record only in `mode`."""
    mode, value = get_attribute(attributes, "mode"), get_attribute(attributes, name)
    if value is not MISSING or not isinstance(mode, str):
        return value
    return {"RNN_TANH": "tanh", "RNN_RELU": "relu"}.get(mode, MISSING)


def _cutoffs(attributes: Attributes, name: str) -> Value:
    """AdaptiveLogSoftmaxWithLoss appends `n_classes` to them."""
    value = get_attribute(attributes, name)
    return value[:-1] if isinstance(value, list) and value else MISSING


_OWN_CHILDREN = {
    "distance_function": "PairwiseDistance",
    "custom_encoder": "TransformerEncoder",
    "custom_decoder": "TransformerDecoder",
}


def _custom_child(attributes: Attributes, name: str) -> Value:
    """A child that was passed: None if it is the one that torch creates itself."""
    value = get_attribute(attributes, name.removeprefix("custom_"))
    path = class_path(value) if isinstance(value, Call) else None
    return None if (path or "").rpartition(".")[2] == _OWN_CHILDREN[name] else value


def _quantized_range(attributes: Attributes, name: str) -> Value:
    """An observer's bounds, unless they were derived from its dtype."""
    is_custom = get_attribute(attributes, "has_customized_qrange") is True
    return get_attribute(attributes, name) if is_custom else MISSING


def _observer(attributes: Attributes, name: str) -> Value:
    """The class of the observer that a fake quantizer made."""
    value = get_attribute(attributes, "activation_post_process")
    return value.func if isinstance(value, Call) and class_path(value) else MISSING


def _packed_bias(attributes: Attributes, name: str) -> Value:
    packed = packed_parameters(attributes)
    return packed[1] if len(packed) > 1 else MISSING


def _items(attributes: Attributes, name: str) -> Value:
    """The items of a ParameterList (`values`) or a ParameterDict (`parameters`), by name."""
    is_list = name == "values"
    keys = parameter_list_keys(attributes) if is_list else parameter_dict_keys(attributes)
    return {key: get_attribute(attributes, key) for key in keys}


READERS: dict[str, Callable[[Attributes, str], Value]] = {
    "cutoffs": _cutoffs,
    "custom_coder": _custom_child,
    "distance_function": _custom_child,
    "items": _items,
    "nonlinearity": _nonlinearity,
    "observer": _observer,
    "packed_bias": _packed_bias,
    "quantized_range": _quantized_range,
}


# What callers supply


class TensorFacts(Protocol):
    """A tensor, as printing needs it.

    Attributes:
        dtype: torch's name without the module ("float32").
        device: as torch prints it ("cpu", "cuda:0").
        layout: "strided", "sparse_coo" and so on.
        parameter: True for an nn.Parameter.
        qscheme: "per_tensor_affine" and so on if it is quantized.
    """

    dtype: str
    shape: tuple[int, ...]
    device: str
    layout: str
    parameter: bool
    qscheme: str | None

    def item(self) -> object | None:
        """Return the number of a tensor of one element, as torch's `item()`; None if unknown."""

    def text(self) -> str | None:
        """Return torch's `repr` of the tensor; None if its values are unknown."""


class Describe(Protocol):
    """A function that returns the facts on a tensor or parameter; None for other values."""

    def __call__(self, value: Value, /) -> TensorFacts | None: ...


def no_tensors(value: Value, /) -> TensorFacts | None:
    """A `Describe` for callers without tensors."""
    return None


class ModuleNode(Protocol):
    """A module as the printer needs it. The same module is the same object.

    Attributes:
        name: the class's own name (`__name__`).
        class_path: the class whose printing applies: a torch class's `module.qualname`, or that of
            the torch class which a user's class extends. An unknown path prints as a plain Module.
        attributes: its `__dict__`.
        children: as in `_modules`, in order.
    """

    name: str
    class_path: str

    @property
    def attributes(self) -> Attributes: ...
    @property
    def children(self) -> Iterable[tuple[str, ModuleNode | None]]: ...
