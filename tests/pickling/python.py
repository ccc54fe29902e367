"""Inert values back to what pickle would have made of them: containers, strings and numbers, with
the handful of calls that pickle writes for these where a protocol has no opcode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ptinspect.pickling.values import Blob, Call, Global, SetOf, Value, key_value

CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": lambda text, encoding: text.encode(encoding),
    "builtins.bytes": bytes,
    "builtins.bytearray": bytearray,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
}


def to_python(value: Value, made: dict[int, Any] | None = None) -> Any:
    """Aliases and cycles stay what they are. Recursive: for the values of tests."""
    made = {} if made is None else made
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, list):
        made[id(value)] = out = []
        out.extend(to_python(item, made) for item in value)
        return out
    if isinstance(value, dict):
        made[id(value)] = pairs = {}
        for key, held in value.items():
            pairs[to_python(key_value(key), made)] = to_python(held, made)
        return pairs
    if isinstance(value, SetOf):
        made[id(value)] = members = (frozenset if value.frozen else set)(
            to_python(member, made) for member in value
        )
        return members
    made[id(value)] = whole = _other(value, made)
    return whole


def _other(value: Value, made: dict[int, Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(to_python(item, made) for item in value)
    if isinstance(value, Blob):
        return bytearray(value.read()) if value.mutable else value.read()
    if isinstance(value, Call):
        assert isinstance(value.func, Global)
        return CALLS[value.func.path](*(to_python(item, made) for item in value.args))
    assert value is None or isinstance(value, bool | int | float | str | bytes), type(value)
    return value
