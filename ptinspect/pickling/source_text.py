"""Inert values as Python source, shortened, for messages about calls."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from ptinspect.pickling.pyobjects import resolve_global
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    PersistentId,
    SetOf,
    Value,
    key_value,
    type_name,
)

if TYPE_CHECKING:
    from collections.abc import Collection

_BRACKETS = {tuple: ("(", ")"), list: ("[", "]"), dict: ("{", "}")}
_DEPTH = 4
_ITEMS = 6
_STRING_LENGTH = 120
_CALL_LENGTH = 400


def describe(args: tuple[Value, ...], keywords: dict[Value, Value] | None = None) -> str:
    """Return the kinds of the arguments of a call, for a message: `(str, int, cdata=int)`."""
    kinds = [type_name(arg) for arg in args[:6]]
    kinds += [
        f"{str(key)[:20]}={type_name(arg)}" for key, arg in list((keywords or {}).items())[:4]
    ]
    return f"({', '.join(kinds)}{', …' if len(args) > 6 else ''})"


def call_repr(func: Value, args: Value, depth: int = _DEPTH) -> str:
    """Return a call as Python source: `posix.system('touch x')`."""
    items = args if isinstance(args, tuple) else (args,)
    text = f"{value_repr(func, depth - 1)}({_items_repr(items, depth)})"
    return text if len(text) <= _CALL_LENGTH else f"{text[:_CALL_LENGTH]}…"


def value_repr(value: Value, depth: int = _DEPTH) -> str:
    """Return any value as Python source; `…` replaces values nested deeper than `depth`."""
    if isinstance(value, PersistentId):  # a class that a legacy file stores with its source
        value = resolve_global(value) or value
    if isinstance(value, str | bytes | Global):
        whole = value.path if isinstance(value, Global) else value
        text = whole[:_STRING_LENGTH]
        shown = str(text) if isinstance(value, Global) else repr(text)
        return shown if len(whole) <= _STRING_LENGTH else f"{shown}…"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"<a number of {value.bit_length():,} bits>"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Blob):
        return f"<{value.length:,} bytes>"
    if isinstance(value, SetOf):
        return f"<a set of {len(value):,}>"
    if isinstance(value, Extension):
        return f"<extension {value.code}>"
    if depth > 0 and isinstance(value, Call):
        return call_repr(value.func, value.args, depth)
    if depth > 0 and isinstance(value, PersistentId):
        return f"<{value_repr(value.value, depth - 1)}>"
    if depth > 0 and isinstance(value, tuple | list | dict):
        opening, closing = _BRACKETS[type(value)]
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"{opening}{_items_repr(value, depth)}{comma}{closing}"
    return "…"


def _items_repr(values: Collection[Value], depth: int) -> str:
    items = [value_repr(key_value(value), depth - 1) for value in islice(values, _ITEMS)]
    if isinstance(values, dict):
        pairs = zip(items, values.values(), strict=False)
        items = [f"{key}: {value_repr(value, depth - 1)}" for key, value in pairs]
    return ", ".join([*items, "…"] if len(values) > _ITEMS else items)
