"""A superinstruction: reads the 27 or so opcodes that torch writes for a dense tensor in one step.

    BINGET _rebuild_tensor_v2  MARK  MARK  "storage"  <type>  key  location  numel  TUPLE
    BINPERSID  offset  size  stride  requires_grad  OrderedDict()  TUPLE  REDUCE

`torch._tensor.Tensor._reduce_ex_internal` writes the arguments, `torch.serialization._save` and
`_legacy_save` (with None as a sixth part) the persistent id. A state_dict repeats this sequence,
after a key, for each tensor, and one compiled pattern reads it several times faster than opcode by
opcode. Values, memo and persistent ids equal those of the plain machine (a property test compares
them). Everything that deviates is left to the plain machine.

A match cannot be wrong: no opcode of the sequence can be read in two ways, the lengths of strings
and tuples are compared with the match, each memo index that is written must be the next one, and
each memo entry that is read (and that earlier opcodes wrote) is looked up and must have its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import pack
from typing import TypeAlias

from ptinspect.pickling.state import Machine
from ptinspect.pickling.values import (
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


def _compile_patterns(
    rebuild: bytes, word: bytes, hooks: bytes, ending: bytes
) -> tuple[re.Pattern[bytes], ...]:
    """Return the patterns of a tensor, and of a call of `_rebuild_parameter` that may follow it.

    The arguments are the opcodes that recall what all tensors share, which the plain machine put
    into the memo with the first tensor, and the end of the persistent id. The sequence itself puts
    what belongs to one tensor into the memo.
    """
    flag = rb"([\x88\x89])" + hooks + rb"\)R" + _PUT  # requires_grad, and OrderedDict()
    tensor = (
        (rb"(?:X(.)\0\0\0([ -~]{1,255})" + _PUT + rb")?")  # the key, in a dictionary
        + (rebuild + rb"\(\(" + word + rb"(h.|j....)")  # the storage's type
        + (rb"X(.)\0\0\0([0-9]{1,20})" + _PUT)  # its key
        + (rb"((?:h.|j....)" + _INT + rb")")  # its location, its number of elements
        + (ending + rb"t" + _PUT + rb"Q")
        + (rb"(?:(" + _INT + _TUPLE + rb")" + _PUT)  # the tensor's offset in it, its size
        + (rb"(" + _TUPLE + rb")" + _PUT)  # its stride
        + (rb"|(" + _INT + rb")\)\))")  # or two empty tuples, which are not put into the memo
        + (flag + rb"t" + _PUT + rb"R" + _PUT)
    )
    parameter = flag + rb"\x87" + _PUT + rb"R" + _PUT
    return re.compile(tensor, re.DOTALL), re.compile(parameter, re.DOTALL)


_SIZED, _SCALAR = 10, 14  # one of these two groups follows BINPERSID

# The arguments of n PUTs with consecutive indices, as one number: first * _ONES[n] + _COUNT[n].
_ONES = [sum(1 << 32 * i for i in range(n)) for n in range(9)]
_COUNT = [sum(i << 32 * i for i in range(n)) for n in range(9)]

_new = TensorCall.__new__


class TensorReader:
    """Reads tensors, and caches the meaning of the byte sequences that they repeat.

    The machine drops it when a memo entry is overwritten, which torch never does, so that the
    cached values stay true.
    """

    def __init__(self, run: TensorRun, patterns: tuple[re.Pattern[bytes], ...]) -> None:
        self.run = run
        self.match_tensor, self.match_parameter = (pattern.match for pattern in patterns)
        self.forms: dict[tuple[bytes, ...], tuple[TensorForm, str]] = {}  # also the location

    def read(self, m: Machine, pos: int) -> int:
        """Read the tensor at `pos`, where `_rebuild_tensor_v2` is recalled, and those after it;
        return the position after them, `pos` itself if torch does not write such a sequence."""
        data, stop, stack, memo, match_tensor = m.data, m.stop, m.stack, m.memo, self.match_tensor
        forms, persistent, from_bytes = self.forms, m.persistent, int.from_bytes
        count_before = len(persistent)
        for _ in range(BATCH):
            match = match_tensor(data, pos, stop)
            if match is None:
                break
            (size1, key, put0, raw_type, size2, storage_key, put1, raw_place, put2, sized, put3,
             steps, put4, scalar, flag, put5, put6, put7) = match.groups(b"")  # fmt: skip
            puts = b"".join((put0, put1, put2, put3, put4, put5, put6, put7))
            new, first = len(puts) >> 2, len(memo)
            raw = (raw_type, raw_place, sized, steps, scalar, flag)
            meaning = forms.get(raw) or self._read_form(memo, raw, match)
            if (
                from_bytes(puts, "little") != first * _ONES[new] + _COUNT[new]
                or size2[0] != len(storage_key)
                or (key and size1[0] != len(key))
                or meaning is None
            ):
                break
            if key:
                text = key.decode()
                memo.append(text)
                stack.append(text)
                new -= 1
                first += 1
            pos = match.end()
            call = _new(TensorCall)
            form, call.location = meaning
            call.form = form
            call.storage_key = storage_key.decode()
            call.offset = pos - 6
            call.first_memo_index = first
            call.changes = call._args = None
            form.storage_type.uses += 1
            memo += [call] * new
            stack.append(call)
            persistent.append(call)
            if not key and len(stack) > 1 and type(stack[-2]) is Global:
                pos = self._read_parameter(m, call, pos)
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
        if int.from_bytes(b"".join(puts), "little") != len(m.memo) * _ONES[3] + _COUNT[3]:
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

    def _read_form(
        self, memo: list[Value], raw: tuple[bytes, ...], match: re.Match[bytes]
    ) -> tuple[TensorForm, str] | None:
        """Return the meaning of byte sequences at their first use, or None if torch does not write
        them. Tensors of one form share its tuples."""
        raw_type, raw_place, sized, steps, scalar, flag = raw
        get, number = _split(raw_place)
        storage_type, location = _recall(memo, raw_type), _recall(memo, get)
        offset, *pieces = _split(sized or scalar)
        size = _read_tuple(pieces) if pieces else ()
        stride = _read_tuple(_split(steps)) if steps else ()
        if type(storage_type) is not Global or type(location) is not str:
            return None
        if size is None or stride is None:
            return None
        distance = match.end() - 6 - (match.start(_SIZED if sized else _SCALAR) - 1)
        form = TensorForm(
            self.run, storage_type, _read_int(number), _read_int(offset), size, stride,
            flag == b"\x88", distance,
        )  # fmt: skip
        return self.forms.setdefault(raw, (form, location))


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
