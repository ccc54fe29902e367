"""Values as JSON text.

Not `json.dumps`: integers too long for a number, NaN and infinity become strings, characters that
must not be printed are escaped while other scripts stay readable, and nesting may be any depth.
"""

from __future__ import annotations

from ptinspect.display.text.escape import quoted
from ptinspect.pickling.pyobjects import brief_repr
from ptinspect.pickling.values import key_value

MAX_INTEGER_BITS = 12_000
"""Longer integers are written as hexadecimal strings; about 3,600 digits."""


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
    """JSON that is ready, among values that are still to be written."""

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


def json_lines(items: list[str]) -> str:
    """Return JSON items as a JSON list with a line per item."""
    return "[\n  " + ",\n  ".join(items) + "]" if items else "[]"
