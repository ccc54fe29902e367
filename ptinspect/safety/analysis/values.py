"""Inert values: what loading would do with them, and their texts for findings."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    PersistentId,
    Python2Str,
    SetOf,
    Value,
    key_value,
    type_name,
)

MAPPING_METHODS = ("keys", "items")
"""The methods by which `__setstate__` uses a state that is not a dictionary."""

_MAX_EXAMINED = 4096
"""Values that are searched for a text that is run as source."""

_BRACKETS = {tuple: ("(", ")"), list: ("[", "]"), dict: ("{", "}")}
_DEPTH = 4
_ITEMS = 6
_STRING_LENGTH = 120
_CALL_LENGTH = 400


def codec_name(value: Value) -> str:
    """Return the name of a codec as Python normalizes it: `latin1` for "Latin-1"."""
    return value.lower().replace("-", "").replace("_", "") if isinstance(value, str) else ""


def _is_sympy(func: Value) -> bool:
    return isinstance(func, Global) and func.module.partition(".")[0] == "sympy"


def runs_source(func: Global, args: Value) -> bool:
    """Return True for a class of sympy with a text that could be a call: sympify() evaluates it."""
    if not _is_sympy(func):
        return False
    seen: set[int] = set()
    todo = [args]
    while todo and len(seen) < _MAX_EXAMINED:
        value = todo.pop()
        if isinstance(value, str) and "(" in value:
            return True
        if id(value) in seen:
            continue
        if isinstance(value, tuple | list | dict | SetOf):
            seen.add(id(value))
            todo += value
            todo += value.values() if isinstance(value, dict) else ()
        elif isinstance(value, Call):  # sympify() evaluates str(value) of what it does not know
            seen.add(id(value))
            if not _is_sympy(value.func):
                todo += (value.args, value.state)
    return False


def overridden_method(value: Value, methods: tuple[str, ...]) -> str | None:
    """Return the first of the methods that the file has replaced on an object, or None."""
    if not isinstance(value, Call) or (value.changes is None and not value.args):
        return None
    for state in (value.state, *value.args[:4]):  # set by BUILD, or by the call itself
        for attributes in state[:4] if isinstance(state, tuple) else (state,):
            if isinstance(attributes, dict):
                for name in methods:
                    if isinstance(attributes.get(name), Call | Global):
                        return name
    return None


def literal_bytes(value: Value) -> bytes | Blob | str | None:
    """Return bytes that the pickle holds literally, or None.

    Protocols 0 to 2 write bytes as `_codecs.encode(text, "latin1")`: the text is returned, since
    many calls may share it.
    """
    if isinstance(value, bytes | Blob):
        return value
    if isinstance(value, str):  # of Python 2
        return value.raw if isinstance(value, Python2Str) else value
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return None
    if value.func.path == "_codecs.encode" and len(value.args) == 2:
        text, codec = value.args[0], codec_name(value.args[1])
        # Writers use latin1; in other codecs only ASCII has the same bytes.
        is_latin1 = codec in ("latin1", "iso88591")
        is_ascii = isinstance(text, str) and codec in ("utf8", "ascii") and text.isascii()
        return text if isinstance(text, str) and (is_latin1 or is_ascii) else None
    return b"" if value.func.path == "builtins.bytes" and not value.args else None


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
