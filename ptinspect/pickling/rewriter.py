"""A pickle again, opcode for opcode, but for its persistent ids.

What builds an id (a tuple, mostly) is taken out of the stream, and something else is put in its
place; every other opcode stays as it is, so that objects survive whose classes nobody has, and
calls whose results are thrown away. Memo entries that went with a piece that was taken out come
back where they are recalled. For that it need only be known at which byte of the output each
value on the stack begins; no value is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import pack

from ptinspect.errors import DamagedError, UnsupportedError
from ptinspect.pickling.opcodes import BY_CODE, BY_NAME, Arg, Opcode
from ptinspect.pickling.values import PersistentId
from ptinspect.pickling.writer import encode_int

_SIZES = {Arg.SIZE1: 1, Arg.SIZE4: 4, Arg.SIZE8: 8}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PERSISTENT = {BY_NAME["PERSID"].code, BY_NAME["BINPERSID"].code}
_FUNCTIONS = {
    b"torch._utils\n_rebuild_tensor\n", b"torch._utils\n_rebuild_tensor_v2\n",
    b"torch._utils\n_rebuild_qtensor\n",
}  # fmt: skip
"""Functions that take a storage, and then an offset in it."""


class Slot:
    """A value on the stack: where in the output it begins, whether it is the name of a function
    that views a storage, and how far a storage's own offset is to be moved. Or a mark."""

    __slots__ = ("fold", "is_mark", "start", "views")

    def __init__(
        self, start: int, views: bool = False, fold: int = 0, is_mark: bool = False
    ) -> None:
        self.start = start
        self.views = views
        self.fold = fold
        self.is_mark = is_mark


class Rewriter:
    """Writes a pickle stream anew, whose persistent ids are `ids`, in order.

    replace: for each persistent id the opcodes that stand for it now (None: as it was), and the
    elements by which the tensor's offset that follows is to be moved. It is told whether an
    offset follows. Raises DamagedError where the stream takes more from the stack than is there.
    """

    def __init__(
        self,
        data: bytes,
        ids: Iterable[PersistentId],
        replace: Callable[[PersistentId, bool], tuple[bytes | None, int]],
    ) -> None:
        self.data = data
        self.replace = replace
        self.out = bytearray()
        self.stack: list[Slot] = []
        self.memo: dict[int, bool] = {}  # index: whether it is a function that views a storage
        self.puts: list[tuple[int, int, int]] = []  # (its value's start, its end, index)
        self.lost: dict[int, bytes] = {}  # what makes an entry that was taken out
        self.ids = iter(ids)

    def run(self) -> bytes:
        """The new stream."""
        pos = 0
        while pos < len(self.data):
            pos = self._step(self.data, pos)
        return bytes(self.out)

    def _step(self, data: bytes, pos: int) -> int:
        """One opcode; the position behind it."""
        row = BY_CODE[data[pos]]
        behind = _behind(row, data, pos + 1)
        raw = bytes(data[pos:behind])
        if row.name == "FRAME":
            return behind  # its length would be another
        if row.name in _PUTS:
            self._put(row, raw)
        elif row.name in _GETS:
            self._get(_index(row, raw), raw)
        elif row.name in ("BINPERSID", "PERSID"):
            self._persistent(row, raw)
        else:
            self._other(row, raw)
        return behind

    # --- the stack --------------------------------------------------------------------------

    def _other(self, row: Opcode, raw: bytes) -> None:
        """Any opcode that the table describes."""
        before = row.before.split()
        start = len(self.out)
        views = row.name == "GLOBAL" and raw[1:] in _FUNCTIONS
        if row.name == "MARK":
            self.stack.append(Slot(start, is_mark=True))
            self.out += raw
            return
        if row.name == "POP" and self.stack and self.stack[-1].is_mark:
            self.stack.pop()
            self.out += raw
            return
        if "mark" in before:
            start = self._fold() if row.name == "TUPLE" else self._to_mark()
            before = before[: before.index("mark")]
        for _ in before:
            start = self._pop()
        self.out += raw
        self.stack += [Slot(start, views) for _ in row.after.split()]

    def _pop(self) -> int:
        if not self.stack or self.stack[-1].is_mark:
            raise self._broken()
        return self.stack.pop().start

    def _to_mark(self) -> int:
        """Takes the last mark off, and all above it; where the mark stands."""
        while self.stack:
            slot = self.stack.pop()
            if slot.is_mark:
                return slot.start
        raise self._broken()

    def _fold(self) -> int:
        """The same; where the values are arguments of a function that views a storage whose own
        offset went, it is added to the tensor's, the second of them."""
        at = len(self.stack) - 1
        while at >= 0 and not self.stack[at].is_mark:
            at -= 1
        values = self.stack[at + 1 :]
        if len(values) > 2 and values[0].fold:
            begin, end = values[1].start, values[2].start
            self._cut(begin, end, encode_int(_number(self.out[begin:end]) + values[0].fold))
        return self._to_mark()

    def _offset_follows(self) -> bool:
        """Whether the value that comes next is the first argument of such a function."""
        below = self.stack[-2:]
        return len(below) == 2 and below[1].is_mark and below[0].views

    # --- the memo ---------------------------------------------------------------------------

    def _put(self, row: Opcode, raw: bytes) -> None:
        """MEMOIZE counts entries, of which some may be gone: it becomes one that says where."""
        if not self.stack or self.stack[-1].is_mark:
            raise self._broken()
        top = self.stack[-1]
        index = len(self.memo) if row.name == "MEMOIZE" else _index(row, raw)
        if row.name == "MEMOIZE":
            raw = b"q" + bytes([index]) if index < 256 else b"r" + pack("<I", index)
        self.out += raw
        self.memo[index] = top.views
        self.lost.pop(index, None)
        self.puts.append((top.start, len(self.out), index))

    def _get(self, index: int, raw: bytes) -> None:
        lost = self.lost.pop(index, None)
        if lost is None:
            self.stack.append(Slot(len(self.out), self.memo.get(index, False)))
            self.out += raw
            return
        pos = 0
        while pos < len(lost):
            if lost[pos] in _PERSISTENT:
                raise UnsupportedError("a storage's id is made of another storage's")
            pos = self._step(lost, pos)

    def _cut(self, begin: int, end: int, new: bytes) -> None:
        """Puts `new` in place of a piece of the output, whose memo entries are kept aside. What
        follows the piece holds no start that is still needed, but for the slots above it."""
        kept = []
        for start, stop, index in self.puts:
            if begin <= start and stop <= end:
                self.lost[index] = bytes(self.out[start:stop])
            else:
                moved = len(new) - (end - begin) if stop > end else 0
                kept.append((start + (moved if start >= end else 0), stop + moved, index))
        self.puts = kept
        self.out[begin:end] = new

    # --- persistent ids ---------------------------------------------------------------------

    def _persistent(self, row: Opcode, raw: bytes) -> None:
        pid = next(self.ids, None)
        if pid is None:
            raise self._broken()
        start = len(self.out) if row.name == "PERSID" else self._pop()
        new, fold = self.replace(pid, self._offset_follows())
        if new is None:
            self.out += raw
        else:
            self._cut(start, len(self.out), new)
        self.stack.append(Slot(start, fold=fold))

    def _broken(self) -> DamagedError:
        return DamagedError("the pickle cannot be written again: its stack runs empty")


def free_index(data: bytes) -> int:
    """A memo index from which on the stream uses none."""
    pos, highest, count = 0, -1, 0
    while pos < len(data):
        row = BY_CODE[data[pos]]
        behind = _behind(row, data, pos + 1)
        if row.name in _PUTS:
            count += 1
            if row.name != "MEMOIZE":
                highest = max(highest, _index(row, data[pos:behind]))
        pos = behind
    return max(highest + 1, count)


def _behind(row: Opcode, data: bytes, pos: int) -> int:
    """The position behind an opcode's argument."""
    if row.arg <= 8:
        return pos + int(row.arg)
    if row.arg in _SIZES:
        width = _SIZES[row.arg]
        return pos + width + int.from_bytes(data[pos : pos + width], "little")
    for _ in range(2 if row.arg is Arg.TWO_LINES else 1):
        pos = data.find(b"\n", pos) + 1
    return pos


def _index(row: Opcode, raw: bytes) -> int:
    return int(raw[1:]) if row.arg is Arg.LINE else int.from_bytes(raw[1:], "little")


def _number(raw: bytes | bytearray) -> int:
    """The integer that one opcode pushes."""
    row = BY_CODE[raw[0]]
    if row.name in ("INT", "LONG"):
        return int(raw[1:].strip().rstrip(b"L"))
    if row.name in ("BININT", "BININT1", "BININT2"):
        return int.from_bytes(raw[1:], "little", signed=row.name == "BININT")
    if row.name in ("LONG1", "LONG4"):
        return int.from_bytes(raw[1 + _SIZES[row.arg] :], "little", signed=True)
    raise UnsupportedError("the offset of a view is not written as a number")
