"""`extra_repr`, from the template of a row and what the instance holds.

A template is pieces joined by `, `. In a piece `{name}` stands for what an f-string makes of
the attribute, `{name!r}` for its repr, `{name?}` for whether it is not None; a name may be a
path (`{linear.in_features}`) or a function below (`{@qscheme}`). A piece that begins with a
condition, `[name]` (true), `[name==literal]`, `[name!=literal]`, `[name!literal]` (is not),
is only there where that holds; `0*` and `1*` are tuples of that number, as long as the value.

A piece that names an attribute which the file does not record is left out: where torch 2.13
would refuse to print an old file, this prints what is there. A template that is `@function`
is that function's text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.values import Value
from ptinspect.torchnn.arguments import READERS, Name, literal, same
from ptinspect.torchnn.attributes import (
    MISSING,
    get_attribute,
    packed_parameters,
    parameter_dict_keys,
    parameter_list_keys,
)
from ptinspect.torchnn.classes import ModuleClass, lookup
from ptinspect.torchnn.known import type_name
from ptinspect.torchnn.protocols import Attributes, no_tensors
from ptinspect.torchnn.text import Writer

if TYPE_CHECKING:
    from ptinspect.torchnn.protocols import Describe, TensorFacts


def extra_repr(
    class_path: str,
    attributes: Attributes,
    describe: Describe = no_tensors,
    *,
    escape: Callable[[str], str] | None = None,
    limits: Limits = LIMITS,
) -> str | None:
    """The text of the class's own `extra_repr`; None where the class is not torch's.

    `escape` is applied to strings of the file that torch would print bare.
    """
    row = lookup(class_path)
    if row is None:
        return None
    return row_text(row, attributes, Writer(describe, escape, limits.text_width))


def row_text(row: ModuleClass, attributes: Attributes, writer: Writer) -> str:
    """`extra_repr` of an instance of a known class."""
    if row.template[:1] == "@":
        return FUNCTIONS[row.template[1:]](attributes, writer)
    shown: list[str] = []
    for piece in _parse(row.template):
        text = _piece_text(piece, row, attributes, writer)
        if text is not None:
            shown.append(text)
    return ", ".join(shown)


class Condition:
    """What must hold for a piece: `operator` is "" (true), "==", "!=" or "!" (is not)."""

    __slots__ = ("name", "operator", "other")

    def __init__(self, name: str, operator: str, other: Value) -> None:
        self.name = name
        self.operator = operator
        self.other = other


class Piece:
    """A first text, then attributes, each with how it is written ("?", "r" or "") and the
    text behind it."""

    __slots__ = ("condition", "fields", "text")

    def __init__(self, text: str) -> None:
        self.condition = None
        if text[0] == "[":
            test, _, text = text[1:].partition("]")
            self.condition = _parse_condition(test)
        self.text, *rest = text.split("{")
        self.fields: list[tuple[str, str, str]] = []
        for part in rest:
            name, _, after = part.partition("}")
            how = "?" if name[-1] == "?" else "r" if name.endswith("!r") else ""
            self.fields.append((name.removesuffix("?").removesuffix("!r"), how, after))


_PARSED: dict[str, tuple[Piece, ...]] = {"": ()}


def _parse(template: str) -> tuple[Piece, ...]:
    found = _PARSED.get(template)
    if found is None:
        found = _PARSED[template] = tuple(map(Piece, template.split(", ")))
    return found


def _parse_condition(test: str) -> Condition:
    for operator in ("==", "!=", "!"):
        name, found, other = test.partition(operator)
        if found:
            value = other if other in ("0*", "1*") else literal(other)
            return Condition(name, operator, value)
    return Condition(test, "", None)


def _piece_text(
    piece: Piece, row: ModuleClass, attributes: Attributes, writer: Writer
) -> str | None:
    if piece.condition is not None and not _holds(piece.condition, row, attributes, writer):
        return None
    out = [piece.text]
    for name, how, after in piece.fields:
        value = _value(name, row, attributes, writer)
        if value is MISSING:
            return None
        if how == "?":
            out.append(str(value is not None))
        else:
            out.append(writer.repr(value) if how else writer.format(value))
        out.append(after)
    return "".join(out)


def _value(name: str, row: ModuleClass, attributes: Attributes, writer: Writer) -> Value:
    if name == "@qscheme":
        return qscheme(attributes, writer)
    if name[0] == "@":
        return READERS[name[1:]](attributes, name)
    return row.get(attributes, name)


def _holds(test: Condition, row: ModuleClass, attributes: Attributes, writer: Writer) -> bool:
    value = _value(test.name, row, attributes, writer)
    if value is MISSING:
        return False
    if test.operator == "":
        return value is not None and value is not False and value != 0 and value != ""
    if test.operator == "!":
        return value is not test.other
    if test.other in ("0*", "1*"):
        number = 0 if test.other == "0*" else 1
        alike = isinstance(value, tuple) and all(
            isinstance(v, int | float) and v == number for v in value
        )
    elif isinstance(test.other, Name):
        alike = same(value, test.other)
    else:
        alike = (value is None) if test.other is None else value == test.other
    return alike == (test.operator == "==")


def qscheme(attributes: Attributes, writer: Writer) -> Value:
    """`self.weight().qscheme()` of a quantized module."""
    held = packed_parameters(attributes)
    facts = writer.describe(held[0]) if held else None
    if facts is None or facts.qscheme is None:
        return MISSING
    return f"torch.{facts.qscheme}"


def parameter_list(attributes: Attributes, writer: Writer) -> str:
    """A line for each item: `  (0): Parameter containing: [torch.float32 of size 2x3]`."""
    return _item_lines(parameter_list_keys(attributes), attributes, writer, _dtype_name)


def parameter_dict(attributes: Attributes, writer: Writer) -> str:
    """A line for each item: `  (a): Parameter containing: [torch.FloatTensor of size 2x3]`."""
    return _item_lines(parameter_dict_keys(attributes), attributes, writer, _type_name)


FUNCTIONS: dict[str, Callable[[Attributes, Writer], str]] = {
    "parameter_list": parameter_list,
    "parameter_dict": parameter_dict,
}


def _item_lines(
    keys: list[str],
    attributes: Attributes,
    writer: Writer,
    kind: Callable[[TensorFacts], str],
) -> str:
    lines = []
    for key in keys:
        value = get_attribute(attributes, key)
        facts = writer.describe(value)
        if value is MISSING:
            text = "not in the file"
        elif facts is None:
            text = f"Object of type: {writer.bare(type_name(value))}"
        else:
            name = "Parameter" if facts.parameter else "Tensor"
            size = "x".join(map(str, facts.shape))
            device = f" ({facts.device})" if facts.device.startswith("cuda") else ""
            text = f"{name} containing: [{kind(facts)} of size {size}{device}]"
        lines.append(f"  ({writer.bare(key)}): {text}")
    return "\n".join(lines)


def _dtype_name(facts: TensorFacts) -> str:
    return f"torch.{facts.dtype}"


def _type_name(facts: TensorFacts) -> str:
    """`tensor.type()`: torch.FloatTensor, torch.cuda.HalfTensor, torch.sparse.LongTensor."""
    dtype = facts.dtype
    name = TENSOR_TYPES.get(dtype) or dtype[:1].upper() + dtype[1:].replace("int", "Int", 1)
    backend = facts.device.partition(":")[0]
    where = "" if backend == "cpu" else f"{backend}."
    if facts.layout != "strided":
        where += f"{facts.layout.partition('_')[0]}."
    if name.startswith("Q"):
        where = f"quantized.{where}"
    return f"torch.{where}{name}Tensor"


TENSOR_TYPES = {  # c10::toString of a scalar type, where it is not the dtype's own name
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "complex32": "ComplexHalf",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "qint8": "QInt8",
    "quint8": "QUInt8",
    "qint32": "QInt32",
    "quint4x2": "QUInt4x2",
    "quint2x4": "QUInt2x4",
}
