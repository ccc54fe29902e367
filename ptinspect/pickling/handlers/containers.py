"""Opcodes for containers, the stack and the memo."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.pickling import tensor_fastpath
from ptinspect.pickling.dict_keys import as_key, kind_of
from ptinspect.pickling.values import Global, Inert, SetOf, Value

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine

_UINT4 = Struct("<I").unpack_from

_FEW = 16
"""Keys that are looked at one by one; more are set at once."""

# --- filling ------------------------------------------------------------------------------


def store(m: Machine, target: dict[Value, Value], flat: list[Value]) -> None:
    """Sets key, value, key, value … in stream order; of equal keys the later value wins."""
    keys, twice = flat[::2], []
    if len(keys) > _FEW and set(map(type, keys)) == {str}:
        before = len(target)
        target.update(zip(keys, flat[1::2], strict=True))
        if len(target) < before + len(keys):
            twice = _twice(target, keys, len(target) - before)
    else:
        for given, value in zip(keys, flat[1::2], strict=True):
            key = given if type(given) is str else as_key(m, target, given)
            if key in target:
                twice.append(key)
            target[key] = value
    if twice:
        m.warn("duplicate-key", f"the key {_short(twice[0])} is set twice: the later value wins")


def _twice(target: dict[Value, Value], keys: list[Value], added: int) -> list[Value]:
    """The first of the keys just set that was there before. `added`: how many were not."""
    new = set(islice(reversed(target), added))
    for key in keys:
        if key not in new:
            return [key]
        new.discard(key)
    return []


def _short(key: Value) -> str:
    if isinstance(key, str | bytes):
        return repr(key[:80])
    return repr(key) if isinstance(key, int | float) else kind_of(key)


def append(m: Machine, pos: int) -> int:
    value = m.stack.pop()
    _extend(m, m.stack[-1], [value])
    return pos


def appends(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    _extend(m, m.stack[-1], values)
    return pos


# To add nothing is no error, whatever the target (_pickle.c: do_append, do_setitems).


def _extend(m: Machine, target: Value, values: list[Value]) -> None:
    if not values:
        return
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Inert) and not isinstance(target, SetOf):
        target.change().items.extend(values)
    else:
        raise m.damaged(f"{m.opcode_name} on a {kind_of(target)}")


def setitem(m: Machine, pos: int) -> int:
    stack = m.stack
    value, key = stack.pop(), stack.pop()
    target = stack[-1]
    if type(target) is dict and type(key) is str and key not in target:
        target[key] = value
    else:
        _set(m, target, [key, value])
    return pos


def setitems(m: Machine, pos: int) -> int:
    flat = m.pop_to_mark()
    _set(m, m.stack[-1], flat)
    return pos


def _set(m: Machine, target: Value, flat: list[Value]) -> None:
    if len(flat) % 2:
        raise m.damaged(f"{m.opcode_name} needs whole pairs")
    if not flat:
        return
    if isinstance(target, dict):
        store(m, target, flat)
    elif isinstance(target, Inert) and not isinstance(target, SetOf):
        store(m, target.change().pairs, flat)
    elif isinstance(target, list):  # legal, if odd: list[index] = value
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, int) or not -len(target) <= key < len(target):
                raise m.damaged(f"{m.opcode_name} sets an index that the list does not have")
            target[key] = value
    else:
        raise m.damaged(f"{m.opcode_name} on a {kind_of(target)}")


def additems(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    target = m.stack[-1]
    if not values:
        return pos
    if isinstance(target, SetOf) and not target.frozen:
        _add(m, target, values)
    elif isinstance(target, Inert) and not isinstance(target, SetOf):
        target.change().added.extend(values)
    else:
        raise m.damaged(f"{m.opcode_name} on a {kind_of(target)}")
    return pos


def _add(m: Machine, target: SetOf, values: list[Value]) -> None:
    """Of equal members the first stays, as in Python."""
    members = target.members
    for value in values:
        members.setdefault(as_key(m, members, value))


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
    m.stack.append(SetOf(False, m.offset))
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
    _set(m, made, m.pop_to_mark())
    m.stack.append(made)
    return pos


def frozenset_(m: Machine, pos: int) -> int:
    made = SetOf(True, m.offset)
    _add(m, made, m.pop_to_mark())
    m.stack.append(made)
    return pos


# --- stack and memo -----------------------------------------------------------------------


def mark(m: Machine, pos: int) -> int:
    m.items_below_marks += len(m.stack)
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
    value = m.stack[-1]
    if isinstance(value, Global):
        value.uses += 1
    m.stack.append(value)
    return pos


def _index(m: Machine, line: bytes) -> int:
    """C's unpickler takes what fits a size_t; pickle.py, for whom a scan asks as well, any number
    that Python reads."""
    longest = 20 if m.recorder is None else 4000
    try:
        index = int(m.c_string(line)) if len(line) <= longest else -1
    except ValueError:
        index = -1
    if index < 0:
        raise m.damaged(f"{m.opcode_name} has no memo index: {line[:40]!r}")
    return index


def get(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    m.stack.append(m.recall(_index(m, line)))
    return pos


def binget(m: Machine, pos: int) -> int:
    return _recall(m, m.data[pos], pos + 1)


def long_binget(m: Machine, pos: int) -> int:
    return _recall(m, _UINT4(m.data, pos)[0], pos + 4)


def _recall(m: Machine, index: int, pos: int) -> int:
    value = m.recall(index)
    if value is m.rebuild and isinstance(value, Global):
        m.tensor_runs = m.tensor_runs or tensor_fastpath.learn(m, value, pos)
        behind = m.tensor_runs.read(m, m.offset) if m.tensor_runs else m.offset
        if behind > m.offset:
            return behind
    m.stack.append(value)
    return pos


def put(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    m.remember(_index(m, line))
    return pos


def binput(m: Machine, pos: int) -> int:
    m.remember(m.data[pos])
    return pos + 1


def long_binput(m: Machine, pos: int) -> int:
    m.remember(_UINT4(m.data, pos)[0])
    return pos + 4


def memoize(m: Machine, pos: int) -> int:
    m.remember(m.memo_length())
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
