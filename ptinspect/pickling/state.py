"""The state of the pickle machine, and the operations on it that the opcode handlers share.

This module imports no handler. `machine` has the dispatch table and the loop.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place
from ptinspect.limits import Limits
from ptinspect.pickling.opcodes import BY_CODE
from ptinspect.pickling.values import Blob, Buffer, Global, Key, PersistentId, TensorCall, Value

Handler: TypeAlias = "Callable[[Machine, int], int]"
"""Takes the machine and the position of an opcode's argument; returns the position after it."""

REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")

FASTPATH_MIN_BYTES = 1 << 15
"""Size of a stream from which on compiling the patterns of `tensor_fastpath` pays."""


class StreamWarning(NamedTuple):
    """Something that pickle accepts silently and that a reader should know."""

    kind: str
    message: str
    offset: int


class Event(NamedTuple):
    """An import, a call or a change that the stream asks for: offset and name of the opcode, target
    and argument.

    The target is for imports a Global, an Extension, or a pair (module, name) if one of them is the
    result of a call; for calls the Call; for changes the object; for FRAME the offset of its end.
    The argument of a change is the state of BUILD, or a list of items or of keys and values in
    turn.
    """

    offset: int
    opcode: str
    target: Value
    argument: Value = None


_new_tuple = tuple.__new__  # skips the Python function that Event(…) would call


class Recorder:
    """Imports, calls and changes of one run in stream order, up to an error if there is one.

    A walk from the stream's result would miss objects that were popped, overwritten or part of a
    stream without STOP. `tensor_fastpath` records only calls that are made on a tensor: it can do
    nothing else than call `_rebuild_tensor_v2` and `OrderedDict` with numbers.

    Attributes:
        persistent: the persistent ids so far.
        literals: (offset, value) of the bytes that opcodes push, but the shortest.
        c_error: the first error that only C's unpickler raises. pickle.py does not, so the run
            continues.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.persistent: list[PersistentId | TensorCall] = []
        self.literals: list[tuple[int, bytes | Blob]] = []
        self.c_error: DamagedError | None = None

    def after_build(self, m: Machine, pos: int) -> int:
        """Return the position at which the stream continues after a BUILD: joblib writes the bytes
        of an array there."""
        return pos


class Machine:
    """The state of one run.

    Attributes:
        offset: position of the current opcode.
        stack, marks: the values above the last mark, and the stacks below it.
        memo: values by index, which pickle counts up from 0. Other indices are in `sparse`, by
            their text, because a file can choose numbers whose hashes collide. Entries of `sparse`
            that `memo` has overtaken are removed up to `purged`.
        rebuild: the global `_rebuild_tensor_v2`, while `tensor_fastpath` may be used for it.
        read_tensors: reads tensors at a position and returns the position after them; None until
            `tensor_fastpath` has learned the stream's pattern.
        composite_keys, key_tokens: see `containers.as_key`.
    """

    def __init__(
        self, data: Buffer, start: int, stop: int | None, record: str | None, limits: Limits,
        plain: bool, recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self.data = data
        self.stop = len(data) if stop is None else min(stop, len(data))
        self.record = record
        self.limits = limits
        self.plain = plain or self.stop - start < FASTPATH_MIN_BYTES
        self.offset = start
        self.protocol = 0
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.items_below_marks = 0
        self.memo: list[Value] = []
        self.sparse: dict[str, Value] = {}
        self.purged = 0
        self.globals: dict[tuple[str, str], Global] = {}
        self.rebuild: Global | None = None
        self.read_tensors: Callable[[Machine, int], int] | None = None
        self.composite_keys: dict[int, tuple[Key, int, int]] = {}
        self.key_tokens: dict[object, object] = {}
        self.recorder = recorder
        self.text_errors = "surrogatepass"
        self.persistent: list[PersistentId | TensorCall] = recorder.persistent if recorder else []
        self.unsupported_opcodes: set[str] = set()
        self.buffers = 0
        self.warnings: list[StreamWarning] = []
        self.dropped_warnings = 0

    @property
    def opcode_name(self) -> str:
        code = self.data[self.offset] if self.offset < len(self.data) else -1
        return BY_CODE[code].name if code in BY_CODE else f"the byte {code:#04x}"

    def damaged(self, message: str, truncated: bool = False) -> DamagedError:
        hint = f"the file is truncated: {DOWNLOAD_AGAIN}" if truncated else None
        return DamagedError(message, where=Place(self.record, self.offset), hint=hint)

    def refuse_in_c(self, error: DamagedError) -> None:
        """Raise an error of C's unpickler that pickle.py does not have, or give it to the recorder:
        the run continues for what pickle.py would do next."""
        if self.recorder is None:
            raise error
        self.recorder.c_error = self.recorder.c_error or error

    def check_limit(self, limit: str, value: int) -> None:
        bound = getattr(self.limits, limit)
        if value > bound:
            raise LimitError(
                f"{self.opcode_name}: {value:,} exceeds the limit of {bound:,} ({limit})",
                limit=limit,
                where=Place(self.record, self.offset),
            )

    def check_limits(self) -> None:
        self.check_limit("stack_items", len(self.stack) + self.items_below_marks)
        self.check_limit("mark_depth", len(self.marks))
        self.check_limit("memo_items", len(self.memo) + len(self.sparse))

    def warn(self, kind: str, message: str) -> None:
        """Add a warning about the current opcode, each message once."""
        if any(message == warning.message for warning in self.warnings):
            return
        if len(self.warnings) < self.limits.warnings:
            self.warnings.append(StreamWarning(kind, message, self.offset))
        else:
            self.dropped_warnings += 1

    def record_event(self, opcode: str, target: Value, argument: Value = None) -> None:
        """Add an event to the recorder, if there is one."""
        if self.recorder is not None:
            self.recorder.events.append(_new_tuple(Event, (self.offset, opcode, target, argument)))

    def check_left(self, pos: int, size: int) -> None:
        """Raise DamagedError, before anything is allocated, if fewer than `size` bytes are left."""
        left = self.stop - pos
        if size > left:
            raise self.damaged(
                f"{self.opcode_name} announces {size:,} bytes, but only {left:,} are left", True
            )

    def take_line(self, pos: int) -> tuple[bytes, int]:
        """Return the bytes up to the next newline, and the position after it."""
        end = self.data.find(b"\n", pos, min(self.stop, pos + self.limits.string_bytes + 1))
        if end < 0:
            self.check_limit("string_bytes", self.stop - pos)
            raise self.damaged(f"{self.opcode_name} has no end of line", True)
        return self.data[pos:end], end + 1

    def pop_to_mark(self) -> list[Value]:
        """Remove the last mark, and return the values above it."""
        if not self.marks:
            raise self.damaged(f"{self.opcode_name} without a MARK")
        values = self.stack
        self.stack = self.marks.pop()
        self.items_below_marks -= len(self.stack)
        return values

    def recall(self, index: int) -> Value:
        if index < len(self.memo):
            value = self.memo[index]
        elif hex(index) in self.sparse:
            value = self.sparse[hex(index)]
        else:
            raise self.damaged(f"{self.opcode_name}: the memo has no entry {index}")
        if type(value) is Global:
            value.uses += 1
        elif type(value) is TensorCall:
            return value.memo_value(index)
        return value

    def push(self, value: Value, pos: int) -> int:
        """Push a value, and return `pos`, as handlers do."""
        self.stack.append(value)
        return pos

    def remember(self, index: int, pos: int) -> int:
        """Set the memo's value at that index to the top of the stack, and return `pos`."""
        value, memo = self.stack[-1], self.memo
        if index == len(memo):
            memo.append(value)
        elif index > len(memo):
            self.sparse[hex(index)] = value
        else:
            self.read_tensors = self.rebuild = None  # it relies on unchanged memo entries
            if isinstance(value, TensorCall):
                value.expand_memo(memo)
            memo[index] = value
        return pos

    def memo_length(self) -> int:
        if self.sparse:
            for index in range(self.purged, len(self.memo)):
                self.sparse.pop(hex(index), None)
            self.purged = len(self.memo)
        return len(self.memo) + len(self.sparse)

    def intern_global(self, module: str, name: str) -> Global:
        """Return the global of that name, one object per name."""
        if self.protocol < 3:
            module, name = python3_name(module, name)
        value = self.globals.get((module, name))
        if value is None:
            value = self.globals[module, name] = Global(module, name, self.offset)
            if (module, name) == REBUILD_TENSOR and not self.plain:
                self.rebuild = value
        value.uses += 1
        return value


def c_string(line: bytes) -> bytes:
    """Return the part of a line that C's functions see: up to the first NUL."""
    return line.partition(b"\0")[0]


def python3_name(module: str, name: str) -> tuple[str, str]:
    """Return the Python 3 name of a global of protocol 0 to 2, as `Unpickler.find_class` does."""
    return NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)
