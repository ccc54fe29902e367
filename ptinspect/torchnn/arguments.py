"""Constructor arguments: the notation of `tables/nn.txt`, and reading them from an instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ptinspect.pickling.pyobjects import class_path
from ptinspect.pickling.values import Call, Global, Value
from ptinspect.torchnn.attributes import (
    MISSING,
    Attributes,
    find_attribute,
    get_attribute,
    packed_parameters,
    parameter_dict_keys,
    parameter_list_keys,
)

_FACTORY_ARGUMENTS = "device=None<- dtype=None<-"
_WORDS: dict[str, Value] = {"None": None, "True": True, "False": False}


class Name(str):
    """A default that is an object of torch's, by its dotted name (`torch.qint8`)."""

    __slots__ = ()


class Argument:
    """One argument of a constructor.

    Attributes:
        kind: "plain", "keyword" (only), "*" or "**".
        default: a plain value, a `Name`, or MISSING if the argument is required.
        stored: the attribute's value in an instance with that default; `"=other"` for the same
            value as the argument `other`.
        source: the attribute that holds it, in the notation of `tables/nn.txt`.
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
        self.default: Value = parse_literal(default) if default else MISSING
        self.stored: Value = parse_literal(stored) if stored else self.default
        self.source = source or self.name

    def __repr__(self) -> str:
        return f"Argument({self.name!r}, {self.kind!r}, {self.default!r}, {self.source!r})"

    @property
    def required(self) -> bool:
        return self.default is MISSING and self.kind in ("plain", "keyword")


def parse_arguments(text: str) -> Iterator[Argument]:
    """Yield arguments written in the notation of `tables/nn.txt`."""
    keyword_only = False
    for token in text.replace("&factory", _FACTORY_ARGUMENTS).split():
        if token == "*":
            keyword_only = True
        else:
            yield Argument(token, keyword_only)


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
    """Return True if a value equals a literal. A bool is no number; a global equals its `Name`."""
    if isinstance(value, Global):
        return isinstance(literal, Name) and value.path == literal
    if isinstance(value, tuple) and isinstance(literal, tuple):
        return len(value) == len(literal) and all(map(_equal, value, literal))
    return _equal(value, literal)


def _equal(value: Value, literal: Value) -> bool:
    if not (value is None or isinstance(value, bool | int | float | str)):
        return False
    return isinstance(value, bool) == isinstance(literal, bool) and value == literal


# Readers: the sources that are written `@name`


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


def _of_a_layer(attributes: Attributes, name: str) -> Value:
    """nn.Transformer's, which its layers store: the first one of the encoder or the decoder."""
    path = {"dim_feedforward": "linear1.out_features", "dropout": "dropout.p"}.get(name, name)
    for coder in ("encoder", "decoder"):
        value = find_attribute(attributes, f"{coder}.layers.0.{path}")
        if value is not MISSING:
            return value
    return MISSING


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


def _lazy_bias(attributes: Attributes, name: str) -> Value:
    """A lazy norm's; it has none without `affine`, whatever the argument was."""
    if get_attribute(attributes, "affine") is False:
        return MISSING
    return get_attribute(attributes, "bias") is not None


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
    "lazy_bias": _lazy_bias,
    "nonlinearity": _nonlinearity,
    "observer": _observer,
    "of_a_layer": _of_a_layer,
    "packed_bias": _packed_bias,
    "quantized_range": _quantized_range,
}
