"""What the machine made, flattened for comparison: values, offsets, changes, and who is who.

Objects are numbered as they are met, so that two outlines are equal when the values are, the same
objects stand in the same places, cycles included. Immutable values (strings, numbers, tuples of
numbers) have no identity worth a promise, and none here.
"""

from __future__ import annotations

import _compat_pickle
from collections.abc import Iterable

from ptinspect.errors import PtInspectError
from ptinspect.limits import LIMITS
from ptinspect.pickling.machine import Loop, Pickled, run, run_to_stop, run_until
from ptinspect.pickling.state import Machine
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    Inert,
    Key,
    OutOfBand,
    PersistentId,
    Python2Str,
    SetOf,
    TensorCall,
    Value,
    key_value,
)

Line = tuple[object, ...]


def outline(roots: Iterable[Value], offsets: bool = True) -> list[Line]:
    """`offsets`: those of the opcodes too, and how often each global was used."""
    lines: list[Line] = []
    numbers: dict[int, int] = {}
    todo = list(roots)[::-1]
    kept = []  # so that no id is used twice
    while todo:
        value = todo.pop()
        kept.append(value)
        if isinstance(value, Python2Str):
            latin1 = ("str", repr(str(value.raw, "latin1")))
            lines.append(("old str", str(value), value.raw) if offsets else latin1)
        elif value is None or isinstance(value, bool | int | float | str | bytes):
            shown = hex(value) if type(value) is int else repr(value)
            lines.append((type(value).__name__, shown))
        elif isinstance(value, tuple) and all(type(item) is int for item in value):
            lines.append(("integers", *map(hex, value)))
        elif id(value) in numbers:
            lines.append(("again", numbers[id(value)]))
        else:
            numbers[id(value)] = len(numbers)
            line, parts = _opened(value, offsets)
            lines.append(line)
            todo.extend(parts[::-1])
    return lines


def _opened(value: Value, offsets: bool) -> tuple[Line, list[Value]]:
    if isinstance(value, tuple | list):
        return (type(value).__name__, len(value)), list(value)
    if isinstance(value, dict):
        wrapped = map(_is_wrapped, value) if offsets else ()
        return ("dict", len(value), *wrapped), _pairs(value)
    assert isinstance(value, Inert), type(value)
    line, parts = _made(value, offsets)
    if isinstance(value, SetOf) and not offsets:  # Python's sets have an order of their own
        parts.sort(key=lambda part: repr(outline([part], offsets)))
    if offsets:
        line += (value.offset, value.uses if isinstance(value, Global) else None)
        line += (value.opcode,) if isinstance(value, Call) else ()
    if value.changes is not None:
        changes = value.changes
        groups = (changes.states, changes.items, _pairs(changes.pairs), changes.added)
        line += tuple(map(len, groups))
        parts += [part for group in groups for part in group]
    return line, parts


def _is_wrapped(key: Value) -> bool:
    return isinstance(key, Key)


def _pairs(value: dict[Value, Value]) -> list[Value]:
    return [part for key, held in value.items() for part in (key_value(key), held)]


def _made(value: Inert, offsets: bool) -> tuple[Line, list[Value]]:
    if isinstance(value, Global):
        name = (value.module, value.name)
        return ("global", *(name if offsets else python3_name(*name))), []
    if isinstance(value, Call):
        kwargs = [value.kwargs] if value.kwargs else []
        parts = [value.func, *value.args, *kwargs]
        return ("call", len(value.args), len(kwargs)), parts
    if isinstance(value, PersistentId):
        return ("persistent",), [value.value]
    if isinstance(value, SetOf):
        return ("frozenset" if value.frozen else "set", len(value)), list(value)
    if isinstance(value, Extension):
        return ("extension", value.code), []
    if isinstance(value, OutOfBand):
        return ("buffer", value.index, value.readonly), []
    assert isinstance(value, Blob), type(value)
    return ("bytearray" if value.mutable else "bytes", value.read()), []


def python3_name(module: str, name: str) -> tuple[str, str]:
    """In any protocol: `find_class` is not told in which it is asked."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def persistent_ids(pickled: Pickled) -> list[PersistentId]:
    """The items of `persistent`, each as a PersistentId."""
    return [item.storage if isinstance(item, TensorCall) else item for item in pickled.persistent]


def everything(
    data: bytes,
    *,
    plain: bool,
    start: int = 0,
    stop: int | None = None,
    loop: Loop = run_until,
) -> list[Line]:
    """All that one run leaves behind, or the error that it ends in: the values, the whole memo,
    globals and their uses, persistent ids, warnings."""
    machine = Machine(data, start, stop, "r", LIMITS, plain)
    try:
        end = run_to_stop(machine, start, loop)
    except PtInspectError as error:
        return [(type(error).__name__, error.message, error.where, error.hint)]
    made = Pickled.from_machine(machine, start, end)
    used = [(used.path, used.uses) for used in made.globals]
    memo = [machine.recall(index) for index in range(len(machine.memo))]
    memo += [machine.recall(int(index, 16)) for index in sorted(machine.sparse)]
    ids: list[Value] = [*persistent_ids(made)]
    head: list[Line] = [(end, made.protocol, made.buffers, machine.memo_length(), *used)]
    head += [tuple(warned) for warned in made.warnings]
    return head + outline([made.root, ids, made.globals, memo])


def value_of(data: bytes) -> list[Line]:
    """Only the value, without offsets: what another unpickler would also see."""
    return outline([run(data).root], offsets=False)
