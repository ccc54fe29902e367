"""A superinstruction: reads the 27 or so opcodes that torch writes for a dense tensor in one step.

    BINGET _rebuild_tensor_v2  MARK  MARK  "storage"  <type>  key  location  numel  TUPLE
    BINPERSID  offset  size  stride  requires_grad  OrderedDict()  TUPLE  REDUCE

`torch._tensor.Tensor._reduce_ex_internal` writes the arguments, `torch.serialization._save` and
`_legacy_save` (with None as a sixth part) the persistent id. A state_dict repeats this sequence,
after a key, for each tensor. A compiled pattern reads the first one of a form, and the others are
compared with it in two steps, many times faster than opcode by opcode. Values, memo and persistent
ids equal those of the plain machine (a property test compares them). Everything that deviates is
left to the plain machine.

A match cannot be wrong: no opcode of the sequence can be read in two ways, the lengths of strings
and tuples are compared with the match, each memo index that is written must be the next one, and
each memo entry that is read (and that earlier opcodes wrote) is looked up and must have its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import pack
from typing import TypeAlias

from ptinspect.pickling.state import Machine
from ptinspect.pickling.values import (
    Buffer,
    Call,
    Global,
    PersistentId,
    TensorCall,
    TensorForm,
    TensorRun,
    Value,
)

Ints: TypeAlias = tuple[int, ...]

BATCH = 1 << 10
"""Number of tensors after which the machine checks its limits."""

_PUT = rb"r(....)"
_INT = rb"(?:K.|M..|J....)"
_TUPLE = rb"(?:" + _INT + rb"{1,3}[\x85-\x87]|\(" + _INT + rb"{4,64}t)"
_PUTS, _FACTS = (1, 4, 8, 10, 12, 14, 17, 18, 19), (2, 5, 7, 9, 11, 13, 15, 16)
"""The groups of a tensor's pattern that are memo indices, and those that tensors share."""


def _compile_patterns(
    rebuild: bytes, word: bytes, hooks: bytes, ending: bytes
) -> tuple[re.Pattern[bytes], ...]:
    """Return the patterns of a tensor, and of a call of `_rebuild_parameter` that may follow it.

    The arguments are the opcodes that recall what all tensors share, which the plain machine put
    into the memo with the first tensor, and the end of the persistent id. The sequence itself puts
    what belongs to one tensor into the memo. Unless it is on the CPU, that includes its location:
    `torch.serialization._backend_tag` returns a new string for each storage.
    """
    flag = rb"([\x88\x89])" + hooks + rb"\)R" + _PUT  # requires_grad, and OrderedDict()
    tensor = (
        (rb"(?:X.\0\0\0[ -~]{1,255}" + _PUT + rb")?")  # the key, in a dictionary
        + (rebuild + rb"\(\(" + word + rb"(h.|j....)")  # the storage's type
        + (rb"X.\0\0\0([0-9]{1,20})" + _PUT)  # its key
        + (rb"(?:(h.|j....)|X(.)\0\0\0([ -~]{1,255})" + _PUT + rb")")  # its location
        + (rb"(" + _INT + rb")" + ending + rb"t" + _PUT + rb"Q")  # its number of elements
        + (rb"(?:(" + _INT + _TUPLE + rb")" + _PUT)  # the tensor's offset in it, its size
        + (rb"(" + _TUPLE + rb")" + _PUT)  # its stride
        + (rb"|(" + _INT + rb")\)\))")  # or two empty tuples, which are not put into the memo
        + (flag + rb"t" + _PUT + rb"R" + _PUT)
    )
    parameter = flag + rb"\x87" + _PUT + rb"R" + _PUT
    return re.compile(tensor, re.DOTALL), re.compile(parameter, re.DOTALL)


@dataclass(slots=True, repr=False, eq=False)
class _Layout:
    """The bytes of tensors of one form, except for their keys: `head` is between the key and that
    of the storage, without the size of the latter, and `tail` follows.

    Both are little-endian numbers, to which the memo indices contribute the first of them times
    `head_step` and `tail_step`. So one comparison checks all opcodes and memo indices of a part.
    `following` is the layout of the tensor after the last one with this layout.
    """

    form: TensorForm
    location: str
    has_key: bool
    head: int
    head_size: int
    head_step: int
    tail: int
    tail_size: int
    tail_step: int
    memo_entries: int
    following: _Layout | None = None

    def match(
        self, data: Buffer, pos: int, stop: int, first: int
    ) -> tuple[bytes, bytes, int] | None:
        """Return the key, that of the storage, and the end of the tensor at `pos`, if it has this
        layout. `first` is its first memo index."""
        start, key = pos, b""
        if self.has_key:
            size = _number(data[pos : pos + 5], "little")
            start += 5 + (size >> 8 & 255)
            key = data[pos + 5 : start]
            if size & ~0xFF00 != _BINUNICODE or not key.isascii():
                return None
        key_start = start + self.head_size + 4
        size = _number(data[key_start - 4 : key_start], "little")
        key_end = key_start + (size & 255)
        end = key_end + self.tail_size
        storage_key = data[key_start:key_end]
        if (
            _number(data[start : key_start - 4], "little") != self.head + first * self.head_step
            or _number(data[key_end:end], "little") != self.tail + first * self.tail_step
            or size > 20
            or end > stop
            or not storage_key.isdigit()
        ):
            return None
        return key, storage_key, end


_number = int.from_bytes
_BINUNICODE = 0x58
_new = TensorCall.__new__


class TensorReader:
    """Reads tensors, and caches the meaning of the byte sequences that they repeat.

    The machine drops it when a memo entry is overwritten, which torch never does, so that the
    cached values stay true.
    """

    def __init__(self, run: TensorRun, patterns: tuple[re.Pattern[bytes], ...]) -> None:
        self.run = run
        self.match_tensor, self.match_parameter = (pattern.match for pattern in patterns)
        self.layouts: dict[tuple[bytes | None, ...], _Layout] = {}
        self.previous: _Layout | None = None

    def read(self, m: Machine, pos: int) -> int:
        """Read the tensor at `pos`, where `_rebuild_tensor_v2` is recalled, and those after it;
        return the position after them, `pos` itself if torch does not write such a sequence."""
        data, stop, stack, memo, persistent = m.data, m.stop, m.stack, m.memo, m.persistent
        previous, count_before = self.previous, len(persistent)
        for _ in range(BATCH):
            first = len(memo)
            layout = previous.following if previous else None
            parts = layout.match(data, pos, stop, first) if layout else None
            if layout is None or parts is None:
                layout = self._find_layout(m, pos)
                parts = layout.match(data, pos, stop, first) if layout else None
                if layout is None or parts is None:
                    break
                if previous:
                    previous.following = layout
            previous = layout
            key, storage_key, pos = parts
            if layout.has_key:
                text = key.decode()
                memo.append(text)
                stack.append(text)
                first += 1
            call = _new(TensorCall)
            call.form = form = layout.form
            call.location = layout.location
            call.storage_key = storage_key.decode()
            call.offset = pos - 6
            call.first_memo_index = first
            call.changes = call._args = None
            form.storage_type.uses += 1
            memo += [call] * layout.memo_entries
            stack.append(call)
            persistent.append(call)
            if not layout.has_key and len(stack) > 1 and type(stack[-2]) is Global:
                pos = self._read_parameter(m, call, pos)
        self.previous = previous
        count = len(persistent) - count_before
        self.run.hooks.uses += count
        self.run.rebuild.uses += max(count - 1, 0)  # the first was counted when it was recalled
        return pos

    def _read_parameter(self, m: Machine, tensor: TensorCall, pos: int) -> int:
        """Read the call at `pos` of `_rebuild_parameter`, or of any global, on a tensor; return the
        position after it, or `pos` if there is no such call."""
        match = self.match_parameter(m.data, pos, m.stop)
        if match is None:
            return pos
        flag, *puts = match.groups()
        if not _are_next(puts, m.memo):
            return pos
        end = match.end()
        self.run.hooks.uses += 1
        hooks = Call(self.run.hooks, (), "REDUCE", end - 18)
        args = (tensor, flag == b"\x88", hooks)
        m.stack.pop()
        call = m.stack[-1] = Call(m.stack[-1], args, "REDUCE", end - 6)
        m.memo += [hooks, args, call]
        if m.recorder is not None:
            m.offset = call.offset
            m.record_event(call.opcode, call)
        return end

    def _find_layout(self, m: Machine, pos: int) -> _Layout | None:
        """Return the layout of the tensor at `pos`, None if torch does not write such bytes."""
        match = self.match_tensor(m.data, pos, m.stop)
        if match is None or not _are_next([put for put in match.group(*_PUTS) if put], m.memo):
            return None
        facts = match.group(*_FACTS)
        identity = (match[1] and b"", *facts)  # None without a key
        layout = self.layouts.get(identity)
        if layout is None and (form := self._read_form(m.memo, facts, match)) is not None:
            key_start, key_end = match.span(3)
            start = match.start() if match[1] is None else match.start(1) - 1
            tail = m.data[key_end : match.end()]
            places = [match.start(group) - key_end for group in _PUTS]
            step = sum(1 << 8 * place for place in places if place > 0)
            head_step = 0 if match[1] is None else 1 << 8
            head = m.data[start : key_start - 4]
            layout = self.layouts[identity] = _Layout(
                *form, match[1] is not None,
                _number(head, "little") - len(m.memo) * head_step, len(head), head_step,
                _number(tail, "little") - len(m.memo) * step, len(tail), step,
                sum(place > 0 for place in places),
            )  # fmt: skip
        return layout

    def _read_form(
        self, memo: list[Value], facts: Sequence[bytes], match: re.Match[bytes]
    ) -> tuple[TensorForm, str] | None:
        """Return the meaning of byte sequences at their first use, and the location, or None if
        torch does not write them. Tensors of one form share its tuples."""
        raw_type, recall, text, number, sized, steps, scalar, flag = facts
        storage_type = _recall(memo, raw_type)
        location = _recall(memo, recall) if recall else text.decode()
        offset, *pieces = _split(sized or scalar)
        size = _read_tuple(pieces) if pieces else ()
        stride = _read_tuple(_split(steps)) if steps else ()
        if type(storage_type) is not Global or type(location) is not str:
            return None
        if size is None or stride is None or (text and match[6][0] != len(text)):
            return None
        distance = match.end() - 6 - (match.start(11 if sized else 15) - 1)
        form = TensorForm(
            self.run, storage_type, _read_int(number), _read_int(offset), size, stride,
            flag == b"\x88", distance, not recall,
        )  # fmt: skip
        return form, location


def _are_next(puts: Sequence[bytes], memo: list[Value]) -> bool:
    """Return True if memo indices are those that follow the last entry, in order."""
    first = len(memo)
    return b"".join(puts) == pack(f"<{len(puts)}I", *range(first, first + len(puts)))


_split = re.compile(_INT + rb"|h.|j....|.", re.DOTALL).findall


def _read_int(piece: bytes) -> int:
    """Return the integer of a BININT1, BININT2 or BININT."""
    return int.from_bytes(piece[1:], "little", signed=len(piece) == 5)


def _read_tuple(pieces: list[bytes]) -> Ints | None:
    """Return the integers before a TUPLE opcode, or None if it takes another number of them."""
    ints = tuple(_read_int(piece) for piece in pieces if len(piece) > 1)
    return ints if pieces[-1] in (b"t", bytes((0x84 + len(ints),))) else None


_RECALL = re.compile(rb"h.|j....", re.DOTALL)


def learn_pattern(m: Machine, rebuild: Global, pos: int) -> Callable[[Machine, int], int] | None:
    """Return the reader of this stream's tensors after the plain machine has read the first one.
    At `m.offset` `_rebuild_tensor_v2` is recalled for the second time, and at `pos` its
    arguments begin. Returns None if they are not torch's."""
    get = _RECALL.match(m.data, pos + 2, m.stop) if m.data[pos : pos + 2] == b"((" else None
    word = _recall(m.memo, get[0]) if get else None
    hooks = m.globals.get(("collections", "OrderedDict"))
    if get is None or type(word) is not str or hooks is None or not m.persistent:
        return None
    index = next((index for index, value in enumerate(m.memo) if value is hooks), None)
    if index is None:
        m.rebuild = None  # searching the memo once is enough
        return None
    recall = bytes((0x68, index)) if index < 256 else pack("<cI", b"j", index)
    first = m.persistent[-1]
    storage = first.value if isinstance(first, PersistentId) else None
    ending = (None,) if isinstance(storage, tuple) and storage[5:] == (None,) else ()
    opcodes = (m.data[m.offset : pos], get[0], recall, b"N" * len(ending))
    patterns = _compile_patterns(*map(re.escape, opcodes))
    return TensorReader(TensorRun(rebuild, word, ending, hooks), patterns).read


def _recall(memo: list[Value], get: bytes) -> Value:
    """Return what a BINGET or LONG_BINGET recalls, or None if the memo has no such entry."""
    index = int.from_bytes(get[1:], "little")
    return memo[index] if index < len(memo) else None
