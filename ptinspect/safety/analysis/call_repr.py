"""Short text of inert values, as Python would write them: one line, for findings."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    PersistentId,
    SetOf,
    Value,
    key_value,
)

_DEPTH = 4
_ITEMS = 6
_STRING_LENGTH = 120
_CALL_LENGTH = 400


def call_repr(func: Value, args: Value, depth: int = _DEPTH) -> str:
    """Return a call as Python source: `posix.system('touch x')`."""
    items = args if isinstance(args, tuple) else (args,)
    text = f"{value_repr(func, depth - 1)}({_items_repr(items, depth)})"
    return text if len(text) <= _CALL_LENGTH else f"{text[:_CALL_LENGTH]}…"


def value_repr(value: Value, depth: int = _DEPTH) -> str:
    """Return any value as Python source; `…` stands for what is nested deeper than `depth`."""
    if isinstance(value, Global):
        path = value.path
        return path if len(path) <= _STRING_LENGTH else f"{path[:_STRING_LENGTH]}…"
    if isinstance(value, str | bytes):
        text = value if isinstance(value, bytes) else str(value)
        return repr(text) if len(text) <= _STRING_LENGTH else f"{text[:_STRING_LENGTH]!r}…"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"<a number of {value.bit_length():,} bits>"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Blob):
        return f"<{value.length:,} bytes>"
    if isinstance(value, Extension):
        return f"<extension {value.code}>"
    if depth <= 0:
        return "…"
    if isinstance(value, Call):
        return call_repr(value.func, value.args, depth)
    if isinstance(value, PersistentId):
        return f"<{value_repr(value.value, depth - 1)}>"
    if isinstance(value, tuple):
        return f"({_items_repr(value, depth)}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{_items_repr(value, depth)}]"
    if isinstance(value, dict):
        pairs = [
            f"{value_repr(key_value(key), depth - 1)}: {value_repr(item, depth - 1)}"
            for key, item in islice(value.items(), _ITEMS)
        ]
        return "{" + ", ".join([*pairs, "…"] if len(value) > _ITEMS else pairs) + "}"
    if isinstance(value, SetOf):
        return f"<a set of {len(value):,}>"
    return "…"


def _items_repr(values: Collection[Value], depth: int) -> str:
    items = [value_repr(value, depth - 1) for value in islice(values, _ITEMS)]
    return ", ".join([*items, "…"] if len(values) > _ITEMS else items)
