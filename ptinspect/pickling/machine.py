"""The restricted pickle machine: runs every opcode of protocols 0 to 5 on inert values.

A handler per opcode takes the machine and the position of the argument, and returns the
position behind it. What limits the work: every opcode takes at least one byte, announced
lengths are held against what is left before anything is allocated, and the sizes of stack
and memo are looked at once per `STEP` bytes of stream, in which neither can grow by more
than `STEP` items.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling import tensor_fastpath
from ptinspect.pickling.handlers import containers, objects, scalars
from ptinspect.pickling.opcodes import BY_CODE, BY_NAME, OPCODES, WEIGHTS_ONLY, Arg
from ptinspect.pickling.values import TensorCall
from ptinspect.pickling.state import Event, Recorder, recording
from ptinspect.pickling.values import Buffer, Call, Global, PersistentId, Value

if TYPE_CHECKING:
    from ptinspect.pickling.dict_keys import Known


class StreamWarning(NamedTuple):
    """Something that pickle does without a word and a reader should know. `offset`: where."""

    kind: str
    message: str
    offset: int


class Pickled:
    """One pickle stream, run: `root` is its value, `end` the offset behind its STOP.

    `globals` are the names it would import, in order of first use (`Global.uses` counts how
    often each was pushed). `unsupported_opcodes` are the opcodes met that torch itself does not write.
    """

    __slots__ = (
        "buffers",
        "end",
        "globals",
        "dropped_warnings",
        "persistent",
        "protocol",
        "unsupported_opcodes",
        "record",
        "root",
        "start",
        "warnings",
    )

    def __init__(self, m: Machine, start: int, end: int) -> None:
        self.root: Value = m.stack[-1]
        self.record = m.record
        self.start = start
        self.end = end
        self.protocol = m.protocol
        self.globals: list[Global] = list(m.globals.values())
        self.persistent: list[PersistentId | TensorCall] = m.persistent
        self.unsupported_opcodes: set[str] = m.unsupported_opcodes
        self.buffers = m.buffers
        self.warnings: list[StreamWarning] = m.warnings
        self.dropped_warnings = m.dropped_warnings

    @property
    def persistent_ids(self) -> list[PersistentId]:
        """The references to storages (and, in legacy files, to classes), one per use, in order."""
        return [
            made if isinstance(made, PersistentId) else made.storage for made in self.persistent
        ]


# ---


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
            m.offset = pos
            pos = table[code](m, pos + 1)
            stack = m.stack
    except (IndexError, StructError):
        m.offset = pos
        raise
    return pos


# ---


STEP = 1 << 16
"""Bytes of stream between two looks at the sizes of stack and memo."""

_SIZED = {Arg.LINE: 0, Arg.TWO_LINES: 0, Arg.SIZE1: 1, Arg.SIZE4: 4, Arg.SIZE8: 8}
_FIXED = [
    _SIZED.get(BY_CODE[c].arg, int(BY_CODE[c].arg)) if c in BY_CODE else 0 for c in range(256)
]
"""By opcode: the bytes that follow it whatever they say."""


def run(
    data: Buffer,
    start: int = 0,
    *,
    stop: int | None = None,
    record: str | None = None,
    limits: Limits = LIMITS,
    plain: bool = False,
    recorder: Recorder | None = None,
) -> Pickled:
    """Runs the pickle at `data[start:stop]`. Offsets in values and errors are those in `data`.

    `plain` leaves out the superinstruction for tensors: same values, opcode by opcode.
    `recorder` is told what the stream does, before an error too.
    Raises DamagedError (with the record and the offset) for whatever no unpickler could load,
    LimitError where a bound is met.
    """
    machine = Machine(data, start, stop, record, limits, plain, recorder)
    if not gc.isenabled():
        return Pickled(machine, start, machine.run(start))
    with _no_collecting():
        return Pickled(machine, start, machine.run(start))


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Nothing that a run makes is garbage before its end, and looking for it takes half the time.
    Nor is it garbage then: it is handed over as old, or the next allocation would look through
    all of it."""
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():  # what others have frozen stays so
            gc.freeze()
            gc.unfreeze()
    finally:
        gc.enable()


class Machine:
    """The state of one run. `stack` is what lies above the last mark, `marks` the stacks below."""

    __slots__ = (
        "at",
        "buffers",
        "data",
        "globals",
        "keys",
        "limits",
        "marks",
        "memo",
        "dropped_warnings",
        "items_below_marks",
        "persistent",
        "plain",
        "protocol",
        "purged",
        "unsupported_opcodes",
        "rebuild",
        "record",
        "recorder",
        "runs",
        "sparse",
        "stack",
        "stop",
        "tokens",
        "warnings",
    )

    def __init__(
        self,
        data: Buffer,
        start: int,
        stop: int | None,
        record: str | None,
        limits: Limits,
        plain: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self.data = data
        self.stop = len(data) if stop is None else min(stop, len(data))
        self.record = record
        self.limits = limits
        self.plain = plain or self.stop - start < tensor_fastpath.WORTH
        self.at = start
        self.protocol = 0
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.items_below_marks = 0
        # What pickle writes counts up from 0. Other indices are in `sparse`, hashed as text (see
        # `keys`), superseded where the count has reached them, and dropped there up to `purged`.
        self.memo: list[Value] = []
        self.sparse: dict[str, Value] = {}
        self.purged = 0
        self.globals: dict[tuple[str, str], Global] = {}
        self.rebuild: Global | None = None
        self.runs: tensor_fastpath.Runs | None = None
        self.keys: dict[int, Known] = {}
        self.tokens: dict[object, object] = {}
        self.recorder = recorder
        self.persistent: list[PersistentId | TensorCall] = recorder.persistent if recorder else []
        self.unsupported_opcodes: set[str] = set()
        self.buffers = 0
        self.warnings: list[StreamWarning] = []
        self.dropped_warnings = 0

    def run(self, pos: int) -> int:
        """Runs to STOP; the offset behind it."""
        step = min(STEP, self.limits.stack_items + 1, self.limits.memo_items + 1)
        try:
            while pos < self.stop:
                pos = self.burst(pos, min(pos + step, self.stop))
                self.bounded()
        except _Stopped:
            self.bounded()
            return self.at + 1
        except (IndexError, StructError, DamagedError) as error:
            argument = _FIXED[self.data[self.at]]
            if self.at + 1 + argument <= self.stop:
                if isinstance(error, DamagedError):
                    raise
                raise self.damaged(f"{self.op} finds too little on the stack") from None
        self.at = self.stop
        raise self.damaged("the stream is cut off: it ends before STOP", cut=True)

    def burst(self, pos: int, pause: int) -> int:
        """Runs opcodes from `pos` up to `pause`, and returns the position behind the last."""
        return burst(self, DISPATCH if self.recorder is None else RECORDING, pos, pause)

    # --- what handlers ask ----------------------------------------------------------------

    @property
    def op(self) -> str:
        """The opcode that is running, by name."""
        code = self.data[self.at] if self.at < len(self.data) else -1
        return BY_CODE[code].name if code in BY_CODE else f"the byte {code:#04x}"

    def damaged(self, message: str, cut: bool = False) -> DamagedError:
        """The error for the opcode that is running."""
        hint = "the file is cut off: fetch or copy it again" if cut else None
        return DamagedError(message, where=Place(self.record, self.at), hint=hint)

    def within(self, limit: str, value: int) -> None:
        """LimitError if `value` is above the limit of that name."""
        bound = getattr(self.limits, limit)
        if value > bound:
            raise LimitError(
                f"{self.op}: {value:,} is above the limit of {bound:,} ({limit})",
                limit=limit,
                where=Place(self.record, self.at),
            )

    def bounded(self) -> None:
        """Holds stack, marks and memo against their limits."""
        self.within("stack_items", len(self.stack) + self.items_below_marks)
        self.within("mark_depth", len(self.marks))
        self.within("memo_items", len(self.memo) + len(self.sparse))

    def check(self, pos: int, size: int) -> None:
        """DamagedError, before anything is allocated, if fewer than `size` bytes are left."""
        left = self.stop - pos
        if size > left:
            raise self.damaged(f"{self.op} announces {size:,} bytes, {left:,} are left", cut=True)

    def take(self, pos: int, size: int) -> bytes:
        """A copy of the next `size` bytes."""
        if size > self.stop - pos:
            self.check(pos, size)
        return self.data[pos : pos + size]

    @staticmethod
    def c_string(line: bytes) -> bytes:
        """What C's functions see of a line: it ends for them at a NUL."""
        return line.partition(b"\0")[0]

    def line(self, pos: int) -> tuple[bytes, int]:
        """The bytes up to the next newline, and the position behind it."""
        end = self.data.find(b"\n", pos, min(self.stop, pos + self.limits.string_bytes + 1))
        if end < 0:
            self.within("string_bytes", self.stop - pos)
            raise self.damaged(f"{self.op} has no end of line", cut=True)
        return self.data[pos:end], end + 1

    def pop_to_mark(self) -> list[Value]:
        """All above the last mark, and the mark."""
        if not self.marks:
            raise self.damaged(f"{self.op} finds no MARK")
        values = self.stack
        self.stack = self.marks.pop()
        self.items_below_marks -= len(self.stack)
        return values

    def recall(self, index: int) -> Value:
        """The memo's value of that index."""
        if index < len(self.memo):
            value = self.memo[index]
        elif hex(index) in self.sparse:
            value = self.sparse[hex(index)]
        else:
            raise self.damaged(f"{self.op}: the memo has no entry {index}")
        if type(value) is Global:
            value.uses += 1
        elif type(value) is TensorCall:
            return value.remembered(index)
        return value

    def remember(self, index: int) -> None:
        """The top of the stack as the memo's value of that index."""
        value, memo = self.stack[-1], self.memo
        if index == len(memo):
            memo.append(value)
        elif index > len(memo):
            self.sparse[hex(index)] = value
        else:
            self.runs = self.rebuild = None  # what it has recalled may be true no more
            if isinstance(value, TensorCall):
                value.settle(memo)
            memo[index] = value

    def memo_length(self) -> int:
        """Number of entries in the memo."""
        if self.sparse:
            for index in range(self.purged, len(self.memo)):
                self.sparse.pop(hex(index), None)
            self.purged = len(self.memo)
        return len(self.memo) + len(self.sparse)

    def named(self, module: str, name: str) -> Global:
        """The global of that name, one object per name."""
        if self.protocol < 3:
            module, name = _python3_name(module, name)
        made = self.globals.get((module, name))
        if made is None:
            made = self.globals[module, name] = Global(module, name, self.at)
            if (module, name) == tensor_fastpath.REBUILD and not self.plain:
                self.rebuild = made
        made.uses += 1
        return made

    def warn(self, kind: str, message: str) -> None:
        """Keeps a warning at the opcode that is running; the same message once."""
        if any(message == kept.message for kept in self.warnings):
            return
        if len(self.warnings) < self.limits.warnings:
            self.warnings.append(StreamWarning(kind, message, self.at))
        else:
            self.dropped_warnings += 1


class _Stopped(Exception):
    """STOP was reached."""


def _stop(m: Machine, pos: int) -> NoReturn:
    if not m.stack:  # a MARK still open is no error to pickle
        raise m.damaged("STOP with nothing on the stack")
    raise _Stopped


def _unknown(m: Machine, pos: int) -> NoReturn:
    raise m.damaged(f"{m.opcode_name} is no opcode of pickle")


_renamed: tuple[dict[tuple[str, str], tuple[str, str]], dict[str, str]] | None = None


def _python3_name(module: str, name: str) -> tuple[str, str]:
    """What Python 3 looks up for a name of protocol 0 to 2, as `Unpickler.find_class` does."""
    global _renamed
    if _renamed is None:
        from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

        _renamed = NAME_MAPPING, IMPORT_MAPPING
    names, modules = _renamed
    if module in modules or (module, name) in names:
        return names.get((module, name)) or (modules.get(module, module), name)
    return module, name


HANDLERS: dict[str, Callable[[Machine, int], int]] = {
    **scalars.HANDLERS,
    **containers.HANDLERS,
    **objects.HANDLERS,
    "STOP": _stop,
}


def _dispatch(
    handlers: dict[str, Callable[[Machine, int], int]],
) -> list[Callable[[Machine, int], int]]:
    """The handlers by their opcodes' bytes."""
    table: list[Callable[[Machine, int], int]] = [_unknown] * 256
    for row in OPCODES:
        handler = handlers[row.name]
        table[row.code] = handler if row.name in WEIGHTS_ONLY else _noting(row.name, handler)
    return table


def _noting(name: str, handler: Callable[[Machine, int], int]) -> Callable[[Machine, int], int]:
    """The handler of an opcode that torch does not write, which says that it was met."""

    def run(m: Machine, pos: int) -> int:
        m.unsupported_opcodes.add(name)
        return handler(m, pos)

    run.__wrapped__ = handler  # type: ignore[attr-defined]  # as functools.wraps names it
    return run


DISPATCH = _dispatch(HANDLERS)
RECORDING = _dispatch(recording(HANDLERS))
