"""A file's values as text: on one line for people, and as JSON.

JSON is not written by `json.dumps`: importing it takes longer than showing a small file allows,
NaN, infinity and integers with thousands of digits become strings, characters that must not be
printed are escaped while other scripts stay readable, and values may be nested to any depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.text.escape import cut, quoted, safe
from ptinspect.limits import LIMITS
from ptinspect.pickling.pyobjects import brief_repr
from ptinspect.pickling.values import key_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptinspect.document.entries import Entry
    from ptinspect.document.optim.state import Optimizer

MAX_ITEMS = 6
"""Items of a long list that a line shows."""

MAX_INTEGER_BITS = 12_000
"""Longer integers are hexadecimal strings in JSON; this many bits are about 3,600 digits."""


def entry_text(entry: Entry) -> str:
    """Return `5999`, `'CustomModel'`, `list of 400: 1, 2, …`, or the class of an object."""
    value, type_name = entry.value, cut(entry.type)
    if isinstance(value, dict):
        return _summary_text(type_name, value)
    if isinstance(value, list):
        items = ", ".join(map(scalar_text, value[: 2 * MAX_ITEMS]))
        items += f", … ({len(value):,} in all)" if len(value) > 2 * MAX_ITEMS else ""
        return f"({items})" if type_name == "tuple" else f"[{items}]"
    if entry.type in ("str", "int", "float", "bool", "NoneType", "None"):
        return scalar_text(value)
    return f"{scalar_text(value)}  {type_name}" if value is not None else type_name


def _summary_text(type_name: str, value: dict[object, object]) -> str:
    """Return the line for {"length", "head"} of a list or of bytes, or {"dtype", "shape"}."""
    if "shape" in value:
        return f"{type_name} {safe(str(value.get('dtype')))} {safe(str(value['shape']))}"
    head, length = value.get("head"), value.get("length")
    if not isinstance(length, int):
        return type_name
    text = f"{type_name} of {length:,}"
    if isinstance(head, str) and head:  # bytes, as hexadecimal digits
        return f"{text}: {head}" + ("…" if 2 * length > len(head) else "")
    items = head[:MAX_ITEMS] if isinstance(head, list) else []
    if items:
        text += ": " + ", ".join(map(scalar_text, items)) + (", …" if length > len(items) else "")
    return text


def scalar_text(value: object) -> str:
    """Return a value as Python prints it, escaped and bounded in length."""
    if isinstance(value, str):
        text = safe(repr(str(value[: LIMITS.text_width])))
        left_out = len(value) - LIMITS.text_width
        return text if left_out <= 0 else f"{text}… ({left_out:,} more characters)"
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length():,} bits"
    return safe(repr(value))


def optimizer_name(optimizer: Optimizer) -> str:
    """Return `SGD (inferred)`; the whole path if the class is not in torch.optim."""
    if optimizer.class_path is None:
        return "an unknown class"
    name = cut(optimizer.class_path.removeprefix("torch.optim."))
    return name if optimizer.evidence == "recorded" else f"{name} ({optimizer.evidence})"


def parameter_count(optimizer: Optimizer) -> int:
    return sum(optimizer.parameters(group) for group in range(len(optimizer.groups)))


def json_scalar(value: object) -> str:
    """Return None, a bool, a number or a string as JSON, and anything else as a JSON string."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        return str(int(value)) if value.bit_length() < MAX_INTEGER_BITS else f'"{value:#x}"'
    if isinstance(value, float):
        if value != value:
            return '"nan"'
        return repr(value) if value - value == 0 else ('"inf"' if value > 0 else '"-inf"')
    return quoted(str(value) if isinstance(value, complex) else brief_repr(value))


class _Text(str):
    """JSON text among values that are still to be written."""

    __slots__ = ()


def json_value(value: object) -> str:
    """Return a scalar, or dicts and lists of scalars nested to any depth, as JSON on one line."""
    parts: list[str] = []
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        if type(item) is _Text:
            parts.append(item)
        elif isinstance(item, dict):
            parts.append("{")
            pending.append(_Text("}"))
            for index, (key, member) in enumerate(reversed(item.items())):
                comma = ", " if index + 1 < len(item) else ""
                pending += (member, _Text(f"{comma}{quoted(str(key_value(key)))}: "))
        elif isinstance(item, list | tuple):
            parts.append("[")
            pending.append(_Text("]"))
            for index, member in enumerate(reversed(item)):
                pending += (member, _Text(", ")) if index + 1 < len(item) else (member,)
        else:
            parts.append(json_scalar(item))
    return "".join(parts)


def json_lines(items: Iterable[str]) -> str:
    """Return JSON items as a JSON list with a line per item."""
    lines = ",\n  ".join(items)
    return f"[\n  {lines}]" if lines else "[]"
