"""What a stream does, written down as it does it: for who judges a file by its deeds.

A walk from the stream's value would miss what was popped, overwritten or never came to STOP. Who
does not ask pays nothing: the handlers here stand in a table of their own. The superinstruction
for tensors writes nothing down but the calls that it makes on a tensor: all it does else is to
call `torch._utils._rebuild_tensor_v2` and `collections.OrderedDict` on numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError
from ptinspect.pickling.values import Call, Global, Inert, PersistentId, SetOf, Value

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine
    from ptinspect.pickling.values import TensorCall

    Handler = Callable[[Machine, int], int]


class Event(NamedTuple):
    """`op` at the offset `at`. target: what was imported (a Global, an Extension; a pair of module
    and name where one of them is what a call gave), the Call that
    was made, or the object that was changed; for FRAME the offset where the frame ends. given: what
    it was changed with, a BUILD's state or a list of items or of keys and values in turn."""

    at: int
    op: str
    target: Value
    given: Value = None


_new = tuple.__new__  # Event(…) would call a function of Python's to do just that


class Recorder:
    """Imports, calls and changes of one run, in order, those before an error included.

    persistent: the machine's list of persistent ids, likewise. torn: why the stream is damaged,
    where only a frame is too long: pickle.py does not mind, and it was read on.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.persistent: list[PersistentId | TensorCall] = []
        self.frame_error: DamagedError | None = None

    def refused(self, m: Machine, made: Call | Global) -> None:
        """What the machine and C's unpickler are about to refuse, and pickle.py is not: to which
        joblib and dill leave their files."""
        self.events.append(Event(m.offset, m.opcode_name if isinstance(made, Call) else "GLOBAL", made))

    def after_build(self, m: Machine, pos: int) -> int:
        """Called behind each BUILD; where the stream goes on. joblib puts the bytes of an array
        there, and its unpickler takes them out."""
        return pos


def recording(handlers: dict[str, Handler]) -> dict[str, Handler]:
    """Handlers that do the same, and write it down."""
    made = dict(handlers)
    for name in ("GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
        made[name] = _importing(name, handlers[name])
    for name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"):
        made[name] = _calling(name, handlers[name])
    for name, below in (("APPEND", 1), ("SETITEM", 2)):
        made[name] = _changing(name, handlers[name], below)
    for name in ("APPENDS", "SETITEMS", "ADDITEMS"):
        made[name] = _changing(name, handlers[name], 0)
    made["BUILD"] = _building(handlers["BUILD"])
    made["FRAME"] = _framing(handlers["FRAME"])
    return made


def _note(m: Machine, op: str, target: Value, given: Value = None) -> None:
    assert m.recorder is not None
    m.recorder.events.append(_new(Event, (m.offset, op, target, given)))


def _importing(op: str, run: Handler) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        names = tuple(m.stack[-2:]) if op == "STACK_GLOBAL" else ()
        if any(isinstance(name, Inert) for name in names):
            _note(m, op, names)  # a call may give a string; what it says is not known here
        pos = run(m, pos)
        _note(m, op, m.stack[-1])
        return pos

    return handler


def _calling(op: str, run: Handler) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        pos = run(m, pos)
        call = m.stack[-1]
        if op == "INST" and isinstance(call, Call):
            _note(m, "GLOBAL", call.func)
        _note(m, op, call)
        return pos

    return handler


def _changing(op: str, run: Handler, below: int) -> Handler:
    """`below`: how many values lie above the target; 0: all above the mark."""

    def handler(m: Machine, pos: int) -> int:
        held = m.stack if below else m.marks[-1] if m.marks else ()
        target = held[-1 - below] if len(held) > below else None
        if not isinstance(target, Inert) or isinstance(target, SetOf):
            return run(m, pos)
        given = m.stack[-below:] if below else m.stack
        pos = run(m, pos)
        if given:
            _note(m, op, target, given)
        return pos

    return handler


def _building(run: Handler) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        state = m.stack[-1]
        pos = run(m, pos)
        assert m.recorder is not None
        if isinstance(m.stack[-1], Inert):
            _note(m, "BUILD", m.stack[-1], state)
            pos = m.recorder.after_build(m, pos)
        return pos

    return handler


def _framing(run: Handler) -> Handler:
    def handler(m: Machine, pos: int) -> int:
        length = int.from_bytes(m.data[pos : pos + 8], "little")
        end = pos + 8
        try:
            run(m, pos)
        except DamagedError as error:
            if end > m.stop:
                raise
            assert m.recorder is not None
            m.recorder.frame_error = m.recorder.frame_error or error
        _note(m, "FRAME", end + length)
        return end

    return handler
