"""The restricted pickle machine: runs every opcode of protocols 0 to 5 on inert values.

A handler per opcode takes the machine and the position of the argument, and returns the
position behind it. What limits the work: every opcode takes at least one byte, announced
lengths are held against what is left before anything is allocated, and the sizes of stack
and memo are looked at once per `STEP` bytes of stream, in which neither can grow by more
than `STEP` items.
"""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections.abc import Callable
from struct import error as StructError
from typing import NamedTuple, NoReturn

from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling import containers, objects, scalars, tensor_run
from ptinspect.pickling.opcodes import BY_CODE, OPCODES
from ptinspect.pickling.values import Buffer, Global, PersistentId, Value

STEP = 1 << 16
"""Bytes of stream between two looks at the sizes of stack and memo."""


class Warned(NamedTuple):
    """Something that pickle does without a word and a reader should know. `offset`: where."""

    kind: str
    message: str
    offset: int


class Pickled:
    """One pickle stream, run: `root` is its value, `end` the offset behind its STOP.

    `globals` are the names it would import, in order of first use (`Global.uses` counts how
    often each was pushed).
    """

    __slots__ = (
        "buffers",
        "end",
        "globals",
        "more_warnings",
        "persistent",
        "protocol",
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
        self.persistent = m.persistent
        self.buffers = m.buffers
        self.warnings: list[Warned] = m.warnings
        self.more_warnings = m.more_warnings

    @property
    def persistent_ids(self) -> list[PersistentId]:
        """The references to storages (and, in legacy files, to classes), one per use, in order."""
        return [
            made if isinstance(made, PersistentId) else made.storage for made in self.persistent
        ]


def run(
    data: Buffer,
    start: int = 0,
    *,
    stop: int | None = None,
    record: str | None = None,
    limits: Limits = LIMITS,
    plain: bool = False,
) -> Pickled:
    """Runs the pickle at `data[start:stop]`. Offsets in values and errors are those in `data`.

    `plain` leaves out the superinstruction for tensors: same values, opcode by opcode.
    Raises DamagedError (with the record and the offset) for whatever no unpickler could load,
    LimitError where a bound is met.
    """
    machine = Machine(data, start, stop, record, limits, plain)
    collecting = gc.isenabled()
    gc.disable()  # nothing here is garbage before the end, and looking for it takes half the time
    try:
        end = machine.run(start)
    finally:
        if collecting:
            gc.enable()
    return Pickled(machine, start, end)


class Machine:
    """The state of one run. `stack` is what lies above the last mark, `marks` the stacks below."""

    __slots__ = (
        "at",
        "buffers",
        "data",
        "deferred",
        "deferred_at",
        "globals",
        "limits",
        "marks",
        "memo",
        "more_warnings",
        "parked",
        "persistent",
        "plain",
        "protocol",
        "rebuild",
        "record",
        "sizes",
        "stack",
        "stop",
        "top",
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
    ) -> None:
        self.data = data
        self.stop = len(data) if stop is None else min(stop, len(data))
        self.record = record
        self.limits = limits
        self.plain = plain
        self.at = start
        self.protocol = 0
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.parked = 0
        self.memo: dict[int, Value] = {}
        self.top = -1  # the highest memo index so far
        self.deferred: list[tensor_run.TensorCall] = []  # whose memo entries are made when read,
        self.deferred_at: list[int] = []  # from these indices on
        self.globals: dict[tuple[str, str], Global] = {}
        self.rebuild: Global | None = None
        self.sizes: dict[bytes, tuple[int, ...] | None] = {}
        self.persistent: list[PersistentId | tensor_run.TensorCall] = []
        self.buffers = 0
        self.warnings: list[Warned] = []
        self.more_warnings = 0

    def run(self, pos: int) -> int:
        """Runs to STOP; the offset behind it."""
        data, table = self.data, DISPATCH
        step = min(STEP, self.limits.stack_items + 1, self.limits.memo_items + 1)
        try:
            while pos < self.stop:
                pause = min(pos + step, self.stop)
                while pos < pause:
                    self.at = pos
                    pos = table[data[pos]](self, pos + 1)
                self.bounded()
        except _Stopped:
            pos = self.at + 1
            self.bounded()
            if pos <= self.stop:
                return pos
        except (IndexError, StructError):
            self.underflow()
        self.at = self.stop
        raise self.damaged("the stream is cut off: it ends before STOP", cut=True)

    def underflow(self) -> None:
        """Tells a short stream from a short stack; only the latter raises here."""
        argument = min(BY_CODE[self.data[self.at]].arg, 8)
        if self.at + 1 + argument <= self.stop:
            raise self.damaged(f"{self.op} finds too little on the stack")

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
        self.within("stack_items", len(self.stack) + self.parked)
        self.within("mark_depth", len(self.marks))
        self.within("memo_items", len(self.memo) + 8 * len(self.deferred))

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
        self.parked -= len(self.stack)
        return values

    def recall(self, index: int) -> Value:
        """The memo's value of that index."""
        try:
            value = self.memo[index]
        except KeyError:
            value = self.settle(index)
        if type(value) is Global:
            value.uses += 1
        return value

    def settle(self, index: int) -> Value:
        """A memo entry that a superinstruction deferred, made now with its neighbours."""
        found = bisect_right(self.deferred_at, index) - 1
        if found >= 0:
            first = self.deferred_at[found]
            for at, value in enumerate(self.deferred[found].memo(), first):
                self.memo.setdefault(at, value)  # one that was put later stays
        if index not in self.memo:
            raise self.damaged(f"{self.op}: the memo has no entry {index}")
        return self.memo[index]

    def settle_all(self) -> None:
        """Every deferred memo entry, made now."""
        for first in self.deferred_at:
            self.settle(first)
        self.deferred.clear()
        self.deferred_at.clear()

    def remember(self, index: int) -> None:
        """The top of the stack as the memo's value of that index."""
        self.memo[index] = self.stack[-1]
        if index > self.top:
            self.top = index

    def named(self, module: str, name: str) -> Global:
        """The global of that name, one object per name."""
        if self.protocol < 3:
            module, name = _python3_name(module, name)
        made = self.globals.get((module, name))
        if made is None:
            made = self.globals[module, name] = Global(module, name, self.at)
            if (module, name) == tensor_run.REBUILD and self.protocol < 4 and not self.plain:
                self.rebuild = made
        made.uses += 1
        return made

    def warn(self, kind: str, message: str) -> None:
        """Keeps a warning at the opcode that is running; the same message once."""
        if any(message == kept.message for kept in self.warnings):
            return
        if len(self.warnings) < self.limits.warnings:
            self.warnings.append(Warned(kind, message, self.at))
        else:
            self.more_warnings += 1


class _Stopped(Exception):
    """STOP was reached."""


def _stop(m: Machine, pos: int) -> NoReturn:
    if not m.stack:  # a MARK still open is no error to pickle
        raise m.damaged("STOP with nothing on the stack")
    raise _Stopped


def _unknown(m: Machine, pos: int) -> NoReturn:
    raise m.damaged(f"{m.op} is no opcode of pickle")


def _python3_name(module: str, name: str) -> tuple[str, str]:
    """What Python 3 looks up for a name of protocol 0 to 2, as `Unpickler.find_class` does."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


HANDLERS: dict[str, Callable[[Machine, int], int]] = {
    **scalars.HANDLERS,
    **containers.HANDLERS,
    **objects.HANDLERS,
    "STOP": _stop,
}

DISPATCH: list[Callable[[Machine, int], int]] = [_unknown] * 256
for _row in OPCODES:
    DISPATCH[_row.code] = HANDLERS[_row.name]
