"""The restricted pickle machine: runs every opcode of protocols 0 to 5 on inert values.

There is a handler per opcode. Work is bounded: every opcode takes at least one byte, announced
lengths are compared with the bytes that are left before anything is allocated, and the sizes of
stack and memo are checked once per `STEP` bytes of stream, in which neither can grow by more than
`STEP` items.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import NoReturn, TypeAlias

from ptinspect.errors import DamagedError
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling import containers, handlers
from ptinspect.pickling.opcodes import BY_CODE, BY_NAME, OPCODES, WEIGHTS_ONLY, Arg
from ptinspect.pickling.state import Handler, Machine, Recorder, StreamWarning
from ptinspect.pickling.values import Buffer, Call, Global, PersistentId, TensorCall, Value

Loop: TypeAlias = "Callable[[Machine, list[Handler], int, int], int]"

STEP = 1 << 16
"""Bytes of stream between two checks of the sizes of stack and memo."""

SHORT = 128
"""Longest string, in bytes, that the loop reads without a handler."""


# Without the methods that nothing calls, which take time at every start-up.
@dataclass(slots=True, repr=False, eq=False)
class Pickled:
    """One pickle stream after its run.

    Attributes:
        root: the value that the stream builds.
        start, end: the stream's first byte, and the position after its STOP.
        globals: the names that it would import, in order of first use.
        persistent: references to storages (and, in legacy files, to classes), one per use.
        unsupported_opcodes: opcodes in it that torch's weights-only unpickler does not know.
        buffers: number of out-of-band buffers.
        dropped_warnings: number of warnings above `Limits.warnings`.
    """

    root: Value
    record: str | None
    start: int
    end: int
    protocol: int
    globals: list[Global]
    persistent: list[PersistentId | TensorCall]
    unsupported_opcodes: set[str]
    buffers: int
    warnings: list[StreamWarning]
    dropped_warnings: int

    @classmethod
    def from_machine(cls, m: Machine, start: int, end: int) -> Pickled:
        return cls(
            m.stack[-1], m.record, start, end, m.protocol, list(m.globals.values()), m.persistent,
            m.unsupported_opcodes, m.buffers, m.warnings, m.dropped_warnings,
        )  # fmt: skip


def run(
    data: Buffer, start: int = 0, *, stop: int | None = None, record: str | None = None,
    limits: Limits = LIMITS, plain: bool = False, recorder: Recorder | None = None,
    text_errors: str = "surrogatepass",
) -> Pickled:  # fmt: skip
    """Run the pickle at `data[start:stop]`. Offsets in values and errors are positions in `data`.

    Args:
        record: name of the archive's record that `data` is, for errors.
        plain: run opcode by opcode, without `tensor_fastpath`. The values are the same.
        recorder: collects what the stream does, even if the run ends in an error.
        text_errors: how text that is not utf-8 is decoded; by default as in pickle.py, which takes
            lone surrogates.

    Raises:
        DamagedError: no unpickler could load the stream. Has the record and the offset.
        LimitError: a limit was exceeded.
    """
    machine = Machine(data, start, stop, record, limits, plain, recorder)
    machine.text_errors = text_errors
    if not gc.isenabled():
        return Pickled.from_machine(machine, start, run_to_stop(machine, start))
    with _paused_garbage_collection():
        return Pickled.from_machine(machine, start, run_to_stop(machine, start))


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, which would take half of the time and find nothing. The new
    values then move to the oldest generation, or the next allocation would examine them all."""
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():  # objects that the caller has frozen stay frozen
            gc.freeze()
            gc.unfreeze()
    finally:
        gc.enable()


class _Stopped(Exception):
    """STOP was reached."""


_FIXED_SIZES = {Arg.LINE: 0, Arg.TWO_LINES: 0, Arg.SIZE1: 1, Arg.SIZE4: 4, Arg.SIZE8: 8}


def run_to_stop(m: Machine, pos: int, loop: Loop | None = None) -> int:
    """Run from `pos` to STOP, and return the position after it. Tests pass another `loop`."""
    loop = loop or run_until
    step = min(STEP, m.limits.stack_items + 1, m.limits.memo_items + 1)
    try:
        while pos < m.stop:
            pos = loop(m, DISPATCH, pos, min(pos + step, m.stop))
            m.check_limits()
    except _Stopped:
        m.check_limits()
        return m.offset + 1
    except (IndexError, StructError, DamagedError) as error:
        row = BY_CODE.get(m.data[m.offset])
        argument = _FIXED_SIZES.get(row.arg, int(row.arg)) if row else 0
        if m.offset + 1 + argument <= m.stop:
            if isinstance(error, DamagedError):
                raise
            raise m.damaged(f"{m.opcode_name}: too few values on the stack") from None
    m.offset = m.stop
    raise m.damaged("the pickle is truncated: it ends before STOP", truncated=True)


_UINT4 = Struct("<I").unpack_from
_LONG_BINPUT, _BINGET, _BININT1, _EMPTY_TUPLE, _REDUCE, _BINPUT, _BINUNICODE = (
    BY_NAME[name].code
    for name in (
        "LONG_BINPUT", "BINGET", "BININT1", "EMPTY_TUPLE", "REDUCE", "BINPUT", "BINUNICODE"
    )
)  # fmt: skip


# The simple cases of the most frequent opcodes are inline, because a call per opcode costs more
# than the opcode: the next memo index, a short string, a recalled string or global, a small number,
# a global called without arguments. They do exactly what the handlers in `table` do.
def run_until(m: Machine, table: list[Handler], pos: int, pause: int) -> int:
    """Run opcodes from `pos` up to `pause`, and return the position after the last."""
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
                end = pos + 5 + _UINT4(data, pos + 1)[0]
                if end <= stop and end - pos - 5 <= short:
                    raw = data[pos + 5 : end]
                    if raw.isascii():
                        stack.append(raw.decode())
                        pos = end
                        continue
            elif code == _BININT1:
                stack.append(data[pos + 1])
                pos += 2
                continue
            elif code == _EMPTY_TUPLE and pos + 1 < pause and data[pos + 1] == _REDUCE:
                func = stack[-1] if stack else None
                if type(func) is Global:
                    call = stack[-1] = Call(func, (), "REDUCE", pos + 1)
                    if recorder is not None:
                        m.offset = pos + 1
                        m.record_event("REDUCE", call)
                    pos += 2
                    continue
            m.offset = pos
            pos = table[code](m, pos + 1)
            stack = m.stack
    except (IndexError, StructError):
        m.offset = pos
        raise
    return pos


def _stop(m: Machine, pos: int) -> NoReturn:
    if not m.stack:  # pickle accepts a MARK that is still open
        raise m.damaged("STOP with nothing on the stack")
    raise _Stopped


def _unknown(m: Machine, pos: int) -> NoReturn:
    raise m.damaged(f"{m.opcode_name} is not a pickle opcode")


HANDLERS: dict[str, Handler] = {**handlers.HANDLERS, **containers.HANDLERS, "STOP": _stop}


def _dispatch_table(handlers: dict[str, Handler]) -> list[Handler]:
    table: list[Handler] = [_unknown] * 256
    for row in OPCODES:
        handler = handlers[row.name]
        if row.name not in WEIGHTS_ONLY:
            handler = _noting_unsupported(row.name, handler)
        table[row.code] = handler
    return table


def _noting_unsupported(name: str, handler: Handler) -> Handler:
    def run_noted(m: Machine, pos: int) -> int:
        m.unsupported_opcodes.add(name)
        return handler(m, pos)

    run_noted.__wrapped__ = handler  # type: ignore[attr-defined]  # as functools.wraps names it
    return run_noted


DISPATCH = _dispatch_table(HANDLERS)
