"""Opcodes for containers, the stack and the memo, and the keys of dictionaries and sets.

Keys are equal exactly when pickle's would be, and are hashed so that no input can make hashing or
comparing expensive. Python's hash of a number is its remainder by 2**61 - 1, and that of a tuple is
computed from its parts without a secret, so a file can choose thousands of keys that collide. A
tuple is also hashed again at every use, and visits a shared part as often as it is shared. So
numbers that could collide, tuples, frozensets and long bytes are wrapped in a `Key`, which is
hashed once, from strings (whose hash has a secret) and from the keys of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from struct import Struct

from ptinspect.pickling import tensor_fastpath
from ptinspect.pickling.handlers import constant
from ptinspect.pickling.state import Handler, Machine, c_string
from ptinspect.pickling.values import Blob, Changes, Global, Inert, Key, SetOf, Value, type_name

_UINT4 = Struct("<I").unpack_from

_BULK = 16
"""Number of items from which on a dictionary is updated in one call."""

HUGE = 1 << 60
"""Numbers of this size and more are always wrapped."""

MANY_KEYS = 1 << 12
"""Number of keys from which on numbers are wrapped as well, unless they count up (0, 1, 2, …).

Those that count up have places of their own in the hash table. Others can be chosen to collide.
"""


def as_key(m: Machine, target: Collection[Value], value: Value) -> Value:
    """Return `value` as a key of `target`. DamagedError if Python could not hash it, LimitError if
    that would be too expensive."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return _number_key(target, value)
    if isinstance(value, tuple | SetOf | Blob):
        return _composite_key(m, value)
    _check_hashable(m, value)
    return value


def _check_hashable(m: Machine, value: Value) -> None:
    unhashable = isinstance(value, list | dict)
    unhashable = unhashable or (isinstance(value, Blob) and value.mutable)
    if unhashable or (isinstance(value, SetOf) and not value.frozen):
        raise m.damaged(f"{m.opcode_name} with a key that cannot be hashed ({type_name(value)})")


def _number_key(target: Collection[Value], value: int | float) -> Value:
    huge = not -HUGE < value < HUGE
    if value != value or not (huge or len(target) >= MANY_KEYS):
        return value  # NaN is hashed by its identity
    key = Key(value, _number_token(value))
    if huge or key in target:
        return key
    counts_up = 0 <= value <= len(target) and value == int(value)
    return value if counts_up or value in target else key


def _number_token(value: Value) -> object:
    """Return the token of a part without parts. 1, 1.0 and True are the same key."""
    if isinstance(value, float) and not value.is_integer():
        return ("float", value.hex()) if value == value else value
    if isinstance(value, int | float):
        return ("int", hex(int(value)))
    return value


def _composite_key(m: Machine, value: Value) -> Key:
    """Return the key of a tuple, a frozenset or long bytes. Each object is examined once, parts
    first, and equal tokens become one object, so that the work is in proportion to the stream."""
    pending = [value]
    while pending:
        current = pending[-1]
        if id(current) in m.composite_keys:
            pending.pop()
            continue
        _check_hashable(m, current)
        parts = list(current) if isinstance(current, tuple | SetOf) else []
        missing = [
            part
            for part in parts
            if isinstance(part, tuple | SetOf | Blob) and id(part) not in m.composite_keys
        ]
        if missing:
            pending += missing
        else:
            pending.pop()
            m.composite_keys[id(current)] = _key_of_parts(m, current, parts)
    return m.composite_keys[id(value)][0]


def _key_of_parts(m: Machine, value: Value, parts: list[Value]) -> tuple[Key, int, int]:
    """Return the key, its number of parts (as hashing would visit them) and its depth."""
    count, depth = 1, 1
    tokens: list[object] = []
    for part in parts:
        if isinstance(part, tuple | SetOf | Blob):
            key, part_count, part_depth = m.composite_keys[id(part)]
            count, depth = count + part_count, max(depth, part_depth + 1)
            tokens.append(key)
        else:
            _check_hashable(m, part)
            count += 1
            tokens.append(_number_token(part))
    m.check_limit("key_items", count)
    m.check_limit("key_depth", depth)
    token: object
    if isinstance(value, Blob):
        token = ("bytes", value.digest())
    elif isinstance(value, tuple):
        token = ("tuple", tuple(tokens))
    else:
        token = ("frozenset", frozenset(tokens))
    return Key(value, m.key_tokens.setdefault(token, token)), count, depth


def store(m: Machine, target: dict[Value, Value], flat: list[Value]) -> bool:
    """Set key, value, key, value … in stream order. Of equal keys the later value wins. Return
    True if there are equal keys."""
    keys, duplicates = flat[::2], []
    if len(keys) > _BULK and set(map(type, keys)) == {str}:
        items = dict(zip(keys, flat[1::2], strict=True))
        if len(items) == len(keys) and target.keys().isdisjoint(items):
            target.update(items)
            return False
    for item, value in zip(keys, flat[1::2], strict=True):
        key = item if type(item) is str else as_key(m, target, item)
        if key in target:
            duplicates.append(key)
        target[key] = value
    if duplicates:
        key = duplicates[0]
        if isinstance(key, str | bytes):
            text = repr(key[:80])
        else:
            text = repr(key) if isinstance(key, int | float) else type_name(key)
        m.warn("duplicate-key", f"the key {text} is set twice: the later value wins")
    return bool(duplicates)


def append(m: Machine, pos: int) -> int:
    value = m.stack.pop()
    _extend(m, m.stack[-1], [value])
    return pos


def appends(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    _extend(m, m.stack[-1], values)
    return pos


# Adding nothing is allowed for every target (_pickle.c: do_append, do_setitems).


def _extend(m: Machine, target: Value, values: list[Value]) -> None:
    if not values:
        return
    if isinstance(target, list):
        target.extend(values)
    else:
        _change(m, target, values).items.extend(values)


def _change(m: Machine, target: Value, argument: list[Value]) -> Changes:
    """Return the record of the changes of an object that is not a list, dict or set."""
    if not isinstance(target, Inert) or isinstance(target, SetOf):
        raise m.damaged(f"{m.opcode_name} on a {type_name(target)}")
    m.record_event(m.opcode_name, target, argument)
    return target.change()


def setitem(m: Machine, pos: int) -> int:
    stack = m.stack
    value, key = stack.pop(), stack.pop()
    target = stack[-1]
    if type(target) is dict and type(key) is str and key not in target:
        target[key] = value
    else:
        _set_items(m, target, [key, value])
    return pos


def setitems(m: Machine, pos: int) -> int:
    flat = m.pop_to_mark()
    _set_items(m, m.stack[-1], flat)
    return pos


def _set_items(m: Machine, target: Value, flat: list[Value]) -> None:
    _check_pairs(m, flat)
    if not flat:
        return
    if isinstance(target, dict):
        if store(m, target, flat):
            m.record_event(m.opcode_name, target)  # an item is set again, which pickle never does
    elif isinstance(target, list):  # unusual, but pickle allows list[index] = value
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, int) or not -len(target) <= key < len(target):
                raise m.damaged(f"{m.opcode_name} sets an index outside the list")
            target[key] = value
        m.record_event(m.opcode_name, target)
    else:
        store(m, _change(m, target, flat).pairs, flat)


def _check_pairs(m: Machine, flat: list[Value]) -> None:
    if len(flat) % 2:
        raise m.damaged(f"{m.opcode_name} with a key that has no value")


def additems(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    target = m.stack[-1]
    if not values:
        return pos
    if isinstance(target, SetOf) and not target.frozen:
        _add_members(m, target, values)
    else:
        _change(m, target, values).added.extend(values)
    return pos


def _add_members(m: Machine, target: SetOf, values: list[Value]) -> None:
    """Add members. Of equal members the first stays, as in Python."""
    members = target.members
    for value in values:
        members.setdefault(as_key(m, members, value))


def _collected(make: Callable[[list[Value]], Value]) -> Handler:
    return lambda m, pos: m.push(make(m.pop_to_mark()), pos)


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
    flat = m.pop_to_mark()
    items: dict[Value, Value] = {}
    _check_pairs(m, flat)
    store(m, items, flat)
    return m.push(items, pos)


def frozenset_(m: Machine, pos: int) -> int:
    members = SetOf(True, m.offset)
    _add_members(m, members, m.pop_to_mark())
    return m.push(members, pos)


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
        m.pop_to_mark()  # as in pickle.py, POP on an empty stack removes the mark
    return pos


def dup(m: Machine, pos: int) -> int:
    value = m.stack[-1]
    if isinstance(value, Global):
        value.uses += 1
    m.stack.append(value)
    return pos


def _memo_index(m: Machine, line: bytes) -> int:
    """Return the memo index in a line: for C's unpickler what fits a size_t, for pickle.py, which
    matters to runs with a recorder, every number that Python reads."""
    longest = 20 if m.recorder is None else 4000
    try:
        index = int(c_string(line)) if len(line) <= longest else -1
    except ValueError:
        index = -1
    if index < 0:
        raise m.damaged(f"{m.opcode_name} without a memo index: {line[:40]!r}")
    return index


def get(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    return m.push(m.recall(_memo_index(m, line)), pos)


def _recall(m: Machine, index: int, pos: int) -> int:
    value = m.recall(index)
    if value is m.rebuild and isinstance(value, Global):
        m.read_tensors = m.read_tensors or tensor_fastpath.learn_pattern(m, value, pos)
        end = m.read_tensors(m, m.offset) if m.read_tensors else m.offset
        if end > m.offset:
            return end
    m.stack.append(value)
    return pos


def put(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    return m.remember(_memo_index(m, line), pos)


HANDLERS: dict[str, Handler] = {
    "EMPTY_LIST": lambda m, pos: m.push([], pos),
    "APPEND": append,
    "APPENDS": appends,
    "LIST": _collected(list),
    "EMPTY_TUPLE": constant(()),
    "TUPLE": _collected(tuple),
    "TUPLE1": tuple1,
    "TUPLE2": tuple2,
    "TUPLE3": tuple3,
    "EMPTY_DICT": lambda m, pos: m.push({}, pos),
    "DICT": dict_,
    "SETITEM": setitem,
    "SETITEMS": setitems,
    "EMPTY_SET": lambda m, pos: m.push(SetOf(False, m.offset), pos),
    "ADDITEMS": additems,
    "FROZENSET": frozenset_,
    "POP": pop,
    "DUP": dup,
    "MARK": mark,
    "POP_MARK": pop_mark,
    "GET": get,
    "BINGET": lambda m, pos: _recall(m, m.data[pos], pos + 1),
    "LONG_BINGET": lambda m, pos: _recall(m, _UINT4(m.data, pos)[0], pos + 4),
    "PUT": put,
    "BINPUT": lambda m, pos: m.remember(m.data[pos], pos + 1),
    "LONG_BINPUT": lambda m, pos: m.remember(_UINT4(m.data, pos)[0], pos + 4),
    "MEMOIZE": lambda m, pos: m.remember(m.memo_length(), pos),
}
