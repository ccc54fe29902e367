"""The machine's inner loop: a handler per opcode, but what torch writes most without a call."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING

from ptinspect.pickling.opcodes import BY_NAME
from ptinspect.pickling.recorder import Event
from ptinspect.pickling.values import Call, Global

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine

_UINT4 = Struct("<I").unpack_from
_LONG_BINPUT, _BINGET, _BININT1, _EMPTY_TUPLE, _REDUCE = (
    BY_NAME[name].code for name in ("LONG_BINPUT", "BINGET", "BININT1", "EMPTY_TUPLE", "REDUCE")
)
_BINPUT, _BINUNICODE = BY_NAME["BINPUT"].code, BY_NAME["BINUNICODE"].code

SHORT = 128
"""Bytes of a string that is read without a call."""


def burst(m: Machine, table: list[Callable[[Machine, int], int]], pos: int, pause: int) -> int:
    """Runs opcodes from `pos` up to `pause`, and returns the position behind the last.

    Done here, as long as it is simple: the next memo index, a short string, a string or global
    recalled, a small number, a global called without arguments. Just what the handlers in
    `table` do then; all else is left to them.
    """
    data, memo, stack, stop, recorder = m.data, m.memo, m.stack, m.stop, m.recorder
    short = min(SHORT, m.limits.string_bytes)
    try:
        while pos < pause:
            code = data[pos]
            if code == _LONG_BINPUT:
                if len(memo) == _UINT4(data, pos + 1)[0]:
                    memo.append(stack[-1])
                    pos += 5
                    continue
            elif code == _BINGET:
                index = data[pos + 1]
                value = memo[index] if index < len(memo) else None
                if type(value) is str:
                    stack.append(value)
                    pos += 2
                    continue
                if type(value) is Global and value is not m.rebuild:
                    value.uses += 1
                    stack.append(value)
                    pos += 2
                    continue
            elif code == _BINPUT:
                if len(memo) == data[pos + 1]:
                    memo.append(stack[-1])
                    pos += 2
                    continue
            elif code == _BINUNICODE:
                behind = pos + 5 + _UINT4(data, pos + 1)[0]
                if behind <= stop and behind - pos - 5 <= short:
                    raw = data[pos + 5 : behind]
                    if raw.isascii():
                        stack.append(raw.decode("ascii"))
                        pos = behind
                        continue
            elif code == _BININT1:
                stack.append(data[pos + 1])
                pos += 2
                continue
            elif code == _EMPTY_TUPLE and pos + 1 < pause and data[pos + 1] == _REDUCE:
                func = stack[-1] if stack else None
                if type(func) is Global:
                    made = stack[-1] = Call(func, (), "REDUCE", pos + 1)
                    if recorder is not None:
                        recorder.events.append(Event(pos + 1, "REDUCE", made))
                    pos += 2
                    continue
            m.at = pos
            pos = table[code](m, pos + 1)
            stack = m.stack
    except (IndexError, StructError):
        m.at = pos
        raise
    return pos
