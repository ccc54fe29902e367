"""`extra_repr`, from the template of a row and the attributes of an instance.

A template is pieces joined by `, `. In a piece `{name}` is replaced by what an f-string makes of
the attribute, `{name!r}` by its repr, `{name?}` by True unless it is None; a name may be a path
(`{linear.in_features}`) or a function (`{@qscheme}`). A piece that begins with a condition,
`[name]` (true), `[name==literal]`, `[name!=literal]`, `[name!literal]` (is not), appears only if
that holds; `0*` and `1*` are tuples of that number, as long as the value.

A piece with an attribute that the file does not record is omitted: torch 2.13 would refuse to print
such an old file. A template `@function` is that function's result.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.values import Value
from ptinspect.torchnn.arguments import READERS, Name, equals_literal, parse_literal
from ptinspect.torchnn.attributes import (
    MISSING,
    Attributes,
    get_attribute,
    no_tensors,
    packed_parameters,
    parameter_dict_keys,
    parameter_list_keys,
)
from ptinspect.torchnn.classes import ModuleClass, lookup
from ptinspect.torchnn.text import ValueFormatter, type_name

if TYPE_CHECKING:
    from ptinspect.torchnn.attributes import Describe, TensorFacts

# c10::toString of a scalar type, if it is not the dtype's own name.
_TENSOR_TYPES = {
    "float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16",
    "complex32": "ComplexHalf", "complex64": "ComplexFloat", "complex128": "ComplexDouble",
    "uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long",
    "qint8": "QInt8", "quint8": "QUInt8", "qint32": "QInt32", "quint4x2": "QUInt4x2",
    "quint2x4": "QUInt2x4",
}  # fmt: skip


def extra_repr(
    class_path: str,
    attributes: Attributes,
    describe: Describe = no_tensors,
    *,
    escape: Callable[[str], str] | None = None,
    limits: Limits = LIMITS,
) -> str | None:
    """Return the text of the class's own `extra_repr`; None if the class is not torch's. `escape`
    is applied to strings of the file that torch would print bare."""
    row = lookup(class_path)
    if row is None:
        return None
    return row_text(row, attributes, ValueFormatter(describe, escape, limits.text_width))


def row_text(row: ModuleClass, attributes: Attributes, formatter: ValueFormatter) -> str:
    if row.template[:1] == "@":
        return _FUNCTIONS[row.template[1:]](attributes, formatter)
    texts = (_piece_text(*p, row, attributes, formatter) for p in _parse_template(row.template))
    return ", ".join(text for text in texts if text is not None)


_Condition = tuple[str, str, Value]
"""Name, operator and literal; the operator is "" (true), "==", "!=" or "!" (is not)."""
_Fields = list[tuple[str, str | None, str | None]]
"""A text, the name of the attribute after it, and "r" if its repr is printed."""


@cache
def _parse_template(template: str) -> list[tuple[_Condition | None, _Fields]]:
    pieces: list[tuple[_Condition | None, _Fields]] = []
    for text in template.split(", ") if template else ():
        condition = None
        if text[0] == "[":
            test, _, text = text[1:].partition("]")
            name, operator, literal = re.split("(==|!=|!|$)", test, maxsplit=1)
            is_plain = literal in ("", "0*", "1*")
            condition = name, operator, literal if is_plain else parse_literal(literal)
        fields = string.Formatter().parse(text)
        pieces.append((condition, [(before, name, kind) for before, name, _, kind in fields]))
    return pieces


def _piece_text(
    condition: _Condition | None,
    fields: _Fields,
    row: ModuleClass,
    attributes: Attributes,
    formatter: ValueFormatter,
) -> str | None:
    if condition is not None:
        name, operator, literal = condition
        if not _holds(_value(name, row, attributes, formatter), operator, literal):
            return None
    texts = []
    for text, field, conversion in fields:
        texts.append(text)
        if field is None:
            continue
        value = _value(field.removesuffix("?"), row, attributes, formatter)
        if value is MISSING:
            return None
        if field[-1] == "?":
            texts.append(str(value is not None))
        else:
            texts.append(formatter.repr(value) if conversion else formatter.format(value))
    return "".join(texts)


def _value(name: str, row: ModuleClass, attributes: Attributes, formatter: ValueFormatter) -> Value:
    if name == "@qscheme":  # `self.weight().qscheme()` of a quantized module
        packed = packed_parameters(attributes)
        facts = formatter.describe(packed[0]) if packed else None
        return f"torch.{facts.qscheme}" if facts is not None and facts.qscheme else MISSING
    if name[0] == "@":
        return READERS[name[1:]](attributes, name)
    return row.get(attributes, name)


def _holds(value: Value, operator: str, literal: Value) -> bool:
    if value is MISSING:
        return False
    if operator == "":
        return value is not None and value is not False and value != 0 and value != ""
    if operator == "!":
        return value is not literal
    if literal in ("0*", "1*"):
        number = 0 if literal == "0*" else 1
        is_equal = isinstance(value, tuple) and all(
            isinstance(v, int | float) and v == number for v in value
        )
    elif isinstance(literal, Name):
        is_equal = equals_literal(value, literal)
    else:
        is_equal = value is None if literal is None else value == literal
    return is_equal == (operator == "==")


# A line for each item: `  (0): Parameter containing: [torch.float32 of size 2x3]`; a dict has
# torch.FloatTensor there.
_FUNCTIONS: dict[str, Callable[[Attributes, ValueFormatter], str]] = {
    "parameter_list": lambda attributes, formatter: _item_lines(
        parameter_list_keys(attributes), attributes, formatter, lambda facts: f"torch.{facts.dtype}"
    ),
    "parameter_dict": lambda attributes, formatter: _item_lines(
        parameter_dict_keys(attributes), attributes, formatter, _tensor_type
    ),
}


def _item_lines(
    keys: list[str],
    attributes: Attributes,
    formatter: ValueFormatter,
    kind: Callable[[TensorFacts], str],
) -> str:
    lines = []
    for key in keys:
        value = get_attribute(attributes, key)
        facts = formatter.describe(value)
        if value is MISSING:
            text = "not in the file"
        elif facts is None:
            text = f"Object of type: {formatter.bare(type_name(value))}"
        else:
            name = "Parameter" if facts.parameter else "Tensor"
            size = "x".join(map(str, facts.shape))
            device = f" ({facts.device})" if facts.device.startswith("cuda") else ""
            text = f"{name} containing: [{kind(facts)} of size {size}{device}]"
        lines.append(f"  ({formatter.bare(key)}): {text}")
    return "\n".join(lines)


def _tensor_type(facts: TensorFacts) -> str:
    """Return `tensor.type()`: torch.FloatTensor, torch.cuda.HalfTensor, torch.sparse.LongTensor."""
    dtype = facts.dtype
    name = _TENSOR_TYPES.get(dtype) or dtype[:1].upper() + dtype[1:].replace("int", "Int", 1)
    backend = facts.device.partition(":")[0]
    prefix = "" if backend == "cpu" else f"{backend}."
    if facts.layout != "strided":
        prefix += f"{facts.layout.partition('_')[0]}."
    if name.startswith("Q"):
        prefix = f"quantized.{prefix}"
    return f"torch.{prefix}{name}Tensor"
