"""Keys of dictionaries and members of sets: equal exactly when pickle's would be, and hashed so
that no input can make hashing or comparing expensive.

Python's hash of a number is its remainder by 2**61 - 1 and that of a tuple is made from its
parts' without a secret, so a file can choose keys that collide by the thousand; a tuple is
hashed anew at every use, and visits what it shares as often as it is shared. Hence numbers
that could collide, tuples, frozensets and long bytes are wrapped in a `Key`, which is hashed
once, from strings (whose hash has a secret) and from the keys of its parts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ptinspect.pickling.values import Blob, Call, Inert, Key, SetOf, Value, key_value

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine

HUGE = 1 << 60
"""From this size on a number is always wrapped."""

FEW = 1 << 12
"""From this many keys on, numbers are wrapped as well, but for those that count on (0, 1, 2 … in
turn): these have a place of their own in the table, while others can be chosen to meet there."""


def as_key(m: Machine, target: Collection[Value], value: Value) -> Value:
    """`value` as a key of `target`. DamagedError where Python cannot hash it, LimitError where
    hashing it would be a bomb."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return _number(target, value)
    if isinstance(value, tuple | SetOf | Blob):
        return _composite(m, value)
    _hashable(m, value)
    return value


def _hashable(m: Machine, value: Value) -> None:
    bad = isinstance(value, list | dict)
    bad = bad or (isinstance(value, Blob) and value.mutable)
    if bad or (isinstance(value, SetOf) and not value.frozen):
        raise m.damaged(f"{m.opcode_name} with a key that cannot be hashed ({kind_of(value)})")


def kind_of(value: Value) -> str:
    """The kind of a value in Python's words, for messages."""
    if isinstance(value, SetOf):
        return "frozenset" if value.frozen else "set"
    if isinstance(value, Blob):
        return "bytearray" if value.mutable else "bytes"
    if isinstance(value, Call):
        return "object"
    return type(key_value(value)).__name__


def _number(target: Collection[Value], value: int | float) -> Value:
    huge = not -HUGE < value < HUGE
    if value != value or not (huge or len(target) >= FEW):
        return value  # NaN is hashed by its identity
    key = Key(value, _leaf(value))
    if huge or key in target:
        return key
    counts_on = 0 <= value <= len(target) and value == int(value)
    return value if counts_on or value in target else key


def _leaf(value: Value) -> object:
    """What stands in a token for a part without parts. 1, 1.0 and True are one key."""
    if isinstance(value, float) and not value.is_integer():
        return ("float", value.hex()) if value == value else value
    if isinstance(value, int | float):
        return ("int", hex(int(value)))
    return value


# A key with parts, its number of parts (counted as hashing would visit them) and its depth.
Known = tuple[Key, int, int]


def _composite(m: Machine, value: Value) -> Key:
    """The key of a tuple, a frozenset or long bytes. Each object is looked into once, parts
    first, and equal tokens are made one object: work in proportion to the stream."""
    todo = [value]
    while todo:
        if id(todo[-1]) in m.keys:
            todo.pop()
            continue
        _hashable(m, todo[-1])
        parts = _parts(todo[-1])
        missing = [part for part in parts if _has_parts(part) and id(part) not in m.keys]
        if missing:
            todo += missing
        else:
            made = todo.pop()
            m.keys[id(made)] = _known(m, made, parts)
    return m.keys[id(value)][0]


def _has_parts(value: Value) -> bool:
    return isinstance(value, tuple | SetOf | Blob)


def _parts(value: Value) -> list[Value]:
    if isinstance(value, tuple):
        return list(value)
    return list(value) if isinstance(value, SetOf) else []


def _known(m: Machine, value: Value, parts: list[Value]) -> Known:
    count, depth = 1, 1
    flat: list[object] = []
    for part in parts:
        if _has_parts(part):
            key, inner, below = m.keys[id(part)]
            count, depth = count + inner, max(depth, below + 1)
            flat.append(key)
        else:
            if not isinstance(part, str | Inert):
                _hashable(m, part)
            count += 1
            flat.append(_leaf(part))
    m.check_limit("key_items", count)
    m.check_limit("key_depth", depth)
    token: object
    if isinstance(value, Blob):
        token = ("bytes", value.digest())
    elif isinstance(value, tuple):
        token = ("tuple", tuple(flat))
    else:
        token = ("frozenset", frozenset(flat))
    return Key(value, m.tokens.setdefault(token, token)), count, depth
