"""Constructor arguments: the notation of the tables, and reading them back from an instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ptinspect.pickling.pyobjects import class_path
from ptinspect.pickling.values import Call, Global, Value
from ptinspect.torchnn.attributes import (
    MISSING,
    find_attribute,
    get_attribute,
    items_of,
    packed_parameters,
    parameter_dict_keys,
    parameter_list_keys,
)
from ptinspect.torchnn.protocols import Attributes

FACTORY = "device=None<- dtype=None<-"


class Name(str):
    """A default that is an object of torch's, by its dotted name (`torch.qint8`)."""

    __slots__ = ()


class Argument:
    """One argument of a constructor.

    `kind` is "plain", "keyword" (only), "*" or "**". `default` is a plain value, a `Name`,
    or MISSING where the argument is required. `stored` is what an instance made with that
    default holds (`"=other"`: the same as the argument `other`). `source` says where an
    instance holds it: see `ptinspect.torchnn.tables`.
    """

    __slots__ = ("default", "kind", "name", "source", "stored")

    def __init__(self, token: str, keyword_only: bool) -> None:
        head, _, source = token.partition("<")
        head, _, stored = head.partition("~")
        name, _, default = head.partition("=")
        self.kind = "keyword" if keyword_only else "plain"
        if name[0] == "*":
            self.kind = "**" if name.startswith("**") else "*"
        self.name = name.lstrip("*")
        self.default: Value = literal(default) if default else MISSING
        self.stored: Value = literal(stored) if stored else self.default
        self.source = source or self.name

    def __repr__(self) -> str:
        return f"Argument({self.name!r}, {self.kind!r}, {self.default!r}, {self.source!r})"

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is MISSING and self.kind in ("plain", "keyword")


def parse_arguments(text: str) -> Iterator[Argument]:
    """Arguments in the notation of `ptinspect.torchnn.tables`."""
    keyword_only = False
    for token in text.replace("&factory", FACTORY).split():
        if token == "*":
            keyword_only = True
        else:
            yield Argument(token, keyword_only)


_WORDS: dict[str, Value] = {"None": None, "True": True, "False": False}


def literal(text: str) -> Value:
    """The value of a literal of the tables; `=name` stays a string."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "'\"":
        return text[1:-1]
    if text[0] == "(":
        return tuple(literal(part) for part in text[1:-1].split(",") if part)
    if text[0] == "=":
        return text
    if text[0].isalpha():
        return Name(text)
    return float(text) if "." in text or "e" in text else int(text)


def same(value: Value, other: Value) -> bool:
    """Whether two values say the same (a bool is no number; a Global is its `Name`)."""
    if isinstance(value, Global):
        return isinstance(other, Name) and value.path == other
    if isinstance(value, tuple) and isinstance(other, tuple):
        return len(value) == len(other) and all(map(_equal, value, other))
    return _equal(value, other)


def _equal(value: Value, other: Value) -> bool:
    if not (value is None or isinstance(value, bool | int | float | str)):
        return False
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def children(attributes: Attributes) -> dict[Value, Value]:
    """The children by name, in order."""
    return dict(items_of(attributes.get("_modules")))


def _class_name(value: Value) -> str:
    path = class_path(value) if isinstance(value, Call) else None
    return (path or "").rpartition(".")[2]


def nonlinearity(attributes: Attributes, name: str) -> Value:
    """nn.RNN's, which old files hold only in `mode`."""
    mode, known = get_attribute(attributes, "mode"), get_attribute(attributes, name)
    if known is not MISSING or not isinstance(mode, str):
        return known
    return {"RNN_TANH": "tanh", "RNN_RELU": "relu"}.get(mode, MISSING)


def cutoffs(attributes: Attributes, name: str) -> Value:
    """AdaptiveLogSoftmaxWithLoss holds them with `n_classes` added at the end."""
    held = get_attribute(attributes, name)
    return held[:-1] if isinstance(held, list) and held else MISSING


def distance_function(attributes: Attributes, name: str) -> Value:
    """Where none was given, a PairwiseDistance is held as a child."""
    held = get_attribute(attributes, name)
    return None if _class_name(held) == "PairwiseDistance" else held


def custom_coder(attributes: Attributes, name: str) -> Value:
    """nn.Transformer's own coder, where it is not the one that torch makes."""
    held = get_attribute(attributes, name.removeprefix("custom_"))
    own = "TransformerEncoder" if name == "custom_encoder" else "TransformerDecoder"
    return None if _class_name(held) == own else held


def of_a_layer(attributes: Attributes, name: str) -> Value:
    """nn.Transformer's, which its layers hold: the first one of the encoder or the decoder."""
    held = {"dim_feedforward": "linear1.out_features", "dropout": "dropout.p"}.get(name, name)
    for coder in ("encoder", "decoder"):
        value = find_attribute(attributes, f"{coder}.layers.0.{held}")
        if value is not MISSING:
            return value
    return MISSING


def quantized_range(attributes: Attributes, name: str) -> Value:
    """An observer's bounds: its own where they were given, else made from its dtype."""
    return (
        get_attribute(attributes, name)
        if get_attribute(attributes, "has_customized_qrange") is True
        else MISSING
    )


def observer(attributes: Attributes, name: str) -> Value:
    """The class of the observer that a fake quantizer made."""
    held = get_attribute(attributes, "activation_post_process")
    return held.func if isinstance(held, Call) and class_path(held) else MISSING


def packed_bias(attributes: Attributes, name: str) -> Value:
    """The bias among a quantized module's packed parameters."""
    held = packed_parameters(attributes)
    return held[1] if len(held) > 1 else MISSING


def lazy_bias(attributes: Attributes, name: str) -> Value:
    """A lazy norm's: without `affine` there is none either, and nothing is said of it."""
    return (
        MISSING
        if get_attribute(attributes, "affine") is False
        else get_attribute(attributes, "bias") is not None
    )


def items(attributes: Attributes, name: str) -> Value:
    """What a ParameterList (`values`) or a ParameterDict (`parameters`) was made of, by name."""
    keys = parameter_list_keys(attributes) if name == "values" else parameter_dict_keys(attributes)
    return {key: get_attribute(attributes, key) for key in keys}


READERS: dict[str, Callable[[Attributes, str], Value]] = {
    "cutoffs": cutoffs,
    "custom_coder": custom_coder,
    "distance_function": distance_function,
    "items": items,
    "lazy_bias": lazy_bias,
    "nonlinearity": nonlinearity,
    "observer": observer,
    "of_a_layer": of_a_layer,
    "packed_bias": packed_bias,
    "quantized_range": quantized_range,
}
