"""Opcodes for containers, the stack and the memo, and the keys that dictionaries may have."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.pickling import tensor_run
from ptinspect.pickling.values import Blob, Global, Inert, Key, SetOf, Value

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine

_UINT4 = Struct("<I").unpack_from

HUGE = 1 << 60
"""Integers of this size and more are hashed as text: Python's hash of them is their remainder
by 2**61 - 1, so that a file could make a thousand keys collide."""


# --- keys ---------------------------------------------------------------------------------


def as_key(m: Machine, value: Value) -> Value:
    """`value` as the key of one of our dictionaries, equal to another key exactly when pickle's
    would be. DamagedError where Python cannot hash it, LimitError where hashing is a bomb."""
    if isinstance(value, int) and not -HUGE < value < HUGE:
        return Key(value, ("int", hex(value)))
    if isinstance(value, float) and abs(value) >= HUGE and value.is_integer():
        return Key(value, ("int", hex(int(value))))  # 2.0**70 and 2**70 are one key
    if isinstance(value, tuple | SetOf):
        return Key(value, _token(m, value))
    _hashable(m, value)
    return value


def _hashable(m: Machine, value: Value) -> None:
    bad = isinstance(value, list | dict | bytearray)
    bad = bad or (isinstance(value, Blob) and value.mutable)
    if bad or (isinstance(value, SetOf) and not value.frozen):
        raise m.damaged(f"{m.op} with a key that cannot be hashed ({_kind(value)})")


def _kind(value: Value) -> str:
    return "set" if isinstance(value, SetOf) else type(value).__name__


def _token(m: Machine, value: Value) -> object:
    """A flat tuple that is equal for equal keys: parentheses and leaves in order, the members
    of a frozenset as a frozenset of such tokens. Visits are counted, shared parts each time."""
    out: list[object] = []
    frames: list[tuple[str, list[Value], list[object]]] = [("", [value], out)]
    visits = 0
    while frames:
        kind, todo, flat = frames[-1]
        if not todo:
            frames.pop()
            if frames:
                parent = frames[-1][2]
                parent.append((kind, frozenset(flat) if kind == "frozenset" else tuple(flat)))
            continue
        item = todo.pop()
        visits += 1
        m.within("key_items", visits)
        m.within("key_depth", len(frames))
        if isinstance(item, tuple):
            frames.append(("tuple", list(item), []))
        elif isinstance(item, SetOf) and item.frozen:
            frames.append(("frozenset", list(item), []))
        else:
            _hashable(m, item)
            leaf = item if isinstance(item, str | Inert) else as_key(m, item)
            flat.append(leaf)
    return out[0]


# --- filling ------------------------------------------------------------------------------


def store(m: Machine, target: dict[Value, Value], flat: list[Value]) -> None:
    """Sets key, value, key, value … in stream order; of equal keys the later value wins."""
    if len(flat) % 2:
        raise m.damaged(f"{m.op} needs whole pairs")
    keys: list[Value] = flat[::2]
    if set(map(type, keys)) - {str}:
        keys = [key if type(key) is str else as_key(m, key) for key in keys]
    before = len(target)
    again = [] if not before or target.keys().isdisjoint(keys) else [k for k in keys if k in target]
    target.update(zip(keys, flat[1::2], strict=True))
    if again or len(target) != before + len(keys):
        again = again or [key for key in target if keys.count(key) > 1][:1]
        m.warn("duplicate-key", f"the key {_short(again[0])} is set twice: the later value wins")


def _short(key: Value) -> str:
    return repr(key)[:80] if isinstance(key, str | int | float | bytes) else _kind(key)


def append(m: Machine, pos: int) -> int:
    value = m.stack.pop()
    _extend(m, m.stack[-1], [value])
    return pos


def appends(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    _extend(m, m.stack[-1], values)
    return pos


def _extend(m: Machine, target: Value, values: list[Value]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Inert) and not isinstance(target, SetOf):
        target.change().items.extend(values)
    else:
        raise m.damaged(f"{m.op} on a {_kind(target)}")


def setitem(m: Machine, pos: int) -> int:
    value, key = m.stack.pop(), m.stack.pop()
    _set(m, m.stack[-1], [key, value])
    return pos


def setitems(m: Machine, pos: int) -> int:
    flat = m.pop_to_mark()
    _set(m, m.stack[-1], flat)
    return pos


def _set(m: Machine, target: Value, flat: list[Value]) -> None:
    if isinstance(target, dict):
        store(m, target, flat)
    elif isinstance(target, Inert) and not isinstance(target, SetOf):
        store(m, target.change().pairs, flat)
    elif isinstance(target, list):  # legal, if odd: list[index] = value
        for key, value in zip(flat[::2], flat[1::2], strict=False):
            if not isinstance(key, int) or not -len(target) <= key < len(target):
                raise m.damaged(f"{m.op} sets an index that the list does not have")
            target[key] = value
    else:
        raise m.damaged(f"{m.op} on a {_kind(target)}")


def additems(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    target = m.stack[-1]
    if isinstance(target, SetOf):
        target.members.update(dict.fromkeys(as_key(m, value) for value in values))
    elif isinstance(target, Inert):
        target.change().added.extend(values)
    else:
        raise m.damaged(f"{m.op} on a {_kind(target)}")
    return pos


# --- making -------------------------------------------------------------------------------


def empty_list(m: Machine, pos: int) -> int:
    m.stack.append([])
    return pos


def empty_tuple(m: Machine, pos: int) -> int:
    m.stack.append(())
    return pos


def empty_dict(m: Machine, pos: int) -> int:
    m.stack.append({})
    return pos


def empty_set(m: Machine, pos: int) -> int:
    m.stack.append(SetOf(False, m.at))
    return pos


def list_(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    m.stack.append(values)
    return pos


def tuple_(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    m.stack.append(tuple(values))
    return pos


def tuple1(m: Machine, pos: int) -> int:
    stack = m.stack
    stack[-1] = (stack[-1],)
    return pos


def tuple2(m: Machine, pos: int) -> int:
    stack = m.stack
    last = stack.pop()
    stack[-1] = (stack[-1], last)
    return pos


def tuple3(m: Machine, pos: int) -> int:
    stack = m.stack
    last, middle = stack.pop(), stack.pop()
    stack[-1] = (stack[-1], middle, last)
    return pos


def dict_(m: Machine, pos: int) -> int:
    made: dict[Value, Value] = {}
    store(m, made, m.pop_to_mark())
    m.stack.append(made)
    return pos


def frozenset_(m: Machine, pos: int) -> int:
    made = SetOf(True, m.at)
    made.members.update(dict.fromkeys(as_key(m, value) for value in m.pop_to_mark()))
    m.stack.append(made)
    return pos


# --- stack and memo -----------------------------------------------------------------------


def mark(m: Machine, pos: int) -> int:
    m.parked += len(m.stack)
    m.marks.append(m.stack)
    m.stack = []
    return pos


def pop_mark(m: Machine, pos: int) -> int:
    m.pop_to_mark()
    return pos


def pop(m: Machine, pos: int) -> int:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_to_mark()  # as pickle.py: POP on an empty stack takes the mark
    return pos


def dup(m: Machine, pos: int) -> int:
    m.stack.append(m.stack[-1])
    return pos


def _index(m: Machine, line: bytes) -> int:
    if not line.isdigit() or len(line) > 20:
        raise m.damaged(f"{m.op} has no memo index: {line[:40]!r}")
    return int(line)


def get(m: Machine, pos: int) -> int:
    line, pos = m.line(pos)
    m.stack.append(m.recall(_index(m, line)))
    return pos


def binget(m: Machine, pos: int) -> int:
    return _recall(m, m.data[pos], pos + 1)


def long_binget(m: Machine, pos: int) -> int:
    return _recall(m, _UINT4(m.data, pos)[0], pos + 4)


def _recall(m: Machine, index: int, pos: int) -> int:
    value = m.recall(index)
    if value is m.rebuild and type(value) is Global:
        return tensor_run.tensor(m, value, pos)
    m.stack.append(value)
    return pos


def put(m: Machine, pos: int) -> int:
    line, pos = m.line(pos)
    m.remember(_index(m, line))
    return pos


def binput(m: Machine, pos: int) -> int:
    m.remember(m.data[pos])
    return pos + 1


def long_binput(m: Machine, pos: int) -> int:
    m.remember(_UINT4(m.data, pos)[0])
    return pos + 4


def memoize(m: Machine, pos: int) -> int:
    if m.deferred:  # MEMOIZE counts the entries, so that they must all be there
        m.settle_all()
    m.remember(len(m.memo))
    return pos


HANDLERS: dict[str, Callable[[Machine, int], int]] = {
    "EMPTY_LIST": empty_list,
    "APPEND": append,
    "APPENDS": appends,
    "LIST": list_,
    "EMPTY_TUPLE": empty_tuple,
    "TUPLE": tuple_,
    "TUPLE1": tuple1,
    "TUPLE2": tuple2,
    "TUPLE3": tuple3,
    "EMPTY_DICT": empty_dict,
    "DICT": dict_,
    "SETITEM": setitem,
    "SETITEMS": setitems,
    "EMPTY_SET": empty_set,
    "ADDITEMS": additems,
    "FROZENSET": frozenset_,
    "POP": pop,
    "DUP": dup,
    "MARK": mark,
    "POP_MARK": pop_mark,
    "GET": get,
    "BINGET": binget,
    "LONG_BINGET": long_binget,
    "PUT": put,
    "BINPUT": binput,
    "LONG_BINPUT": long_binput,
    "MEMOIZE": memoize,
}
