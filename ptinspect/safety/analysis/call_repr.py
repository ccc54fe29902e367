"""A value of a pickle as it would stand in Python, shortened: for one line that people read."""

from __future__ import annotations

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

DEPTH, ITEMS, STRING, WHOLE = 4, 6, 120, 400


def call_text(func: Value, args: Value, depth: int = DEPTH) -> str:
    """`posix.system('touch x')`."""
    given = args if isinstance(args, tuple) else (args,)
    text = f"{text_of(func, depth - 1)}({_items(given, depth)})"
    return text if len(text) <= WHOLE else f"{text[:WHOLE]}…"


def text_of(value: Value, depth: int = DEPTH) -> str:
    """The same for any value; what lies deeper than `depth` is `…`."""
    if isinstance(value, Global):
        return value.path if len(value.path) <= STRING else f"{value.path[:STRING]}…"
    if isinstance(value, str | bytes):
        whole = value if isinstance(value, bytes) else str(value)
        return repr(whole) if len(whole) <= STRING else f"{whole[:STRING]!r}…"
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
        return call_text(value.func, value.args, depth)
    if isinstance(value, PersistentId):
        return f"<{text_of(value.value, depth - 1)}>"
    return _container(value, depth)


def _items(values: tuple[Value, ...] | list[Value], depth: int) -> str:
    shown = [text_of(value, depth - 1) for value in values[:ITEMS]]
    return ", ".join([*shown, "…"] if len(values) > ITEMS else shown)


def _container(value: Value, depth: int) -> str:
    if isinstance(value, tuple):
        return f"({_items(value, depth)}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{_items(value, depth)}]"
    if isinstance(value, dict):
        pairs = [
            f"{text_of(key_value(key), depth - 1)}: {text_of(value[key], depth - 1)}"
            for key, _ in zip(value, range(ITEMS), strict=False)
        ]
        return "{" + ", ".join([*pairs, "…"] if len(value) > ITEMS else pairs) + "}"
    if isinstance(value, SetOf):
        return f"<a set of {len(value):,}>"
    return "…"
