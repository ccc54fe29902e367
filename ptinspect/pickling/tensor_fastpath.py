"""A superinstruction: the run of some 27 opcodes that torch writes for one dense tensor.

    BINGET _rebuild_tensor_v2  MARK  MARK  "storage"  <type>  key  location  numel  TUPLE
    BINPERSID  offset  size  stride  requires_grad  OrderedDict()  TUPLE  REDUCE

`torch._tensor.Tensor._reduce_ex_internal` gives the arguments, `torch.serialization._save` and
`_legacy_save` (with a sixth part, None) the persistent id. A state_dict repeats this run, after a
key, for each tensor, so that one compiled pattern reads it several times faster than opcode by
opcode. Values, memo and persistent ids are what the plain machine makes of the same bytes (a
property test holds the two against each other); whatever deviates is left to the plain machine.

Why a match is never taken for what it is not: no opcode of the run can be read in two ways, the
lengths of strings and tuples are compared with what was matched, each memo index written must be
the next one, and each memo entry read (which earlier opcodes wrote) is looked up and must be of
its kind.
"""

from __future__ import annotations

import re
from struct import pack
from typing import TYPE_CHECKING, TypeAlias

from ptinspect.pickling.state import Event
from ptinspect.pickling.values import Call, Global, PersistentId, Value

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine

Ints: TypeAlias = tuple[int, ...]

REBUILD = ("torch._utils", "_rebuild_tensor_v2")

WORTH = 1 << 15
"""Bytes of stream from which on compiling the patterns pays."""

MANY = 1 << 10
"""Tensors of one run, after which the machine looks at its limits."""

_PUT = rb"r(....)"
_INT = rb"(?:K.|M..|J....)"
_TUPLE = rb"(?:" + _INT + rb"{1,3}[\x85-\x87]|\(" + _INT + rb"{4,64}t)"


def _patterns(
    rebuild: bytes, word: bytes, hooks: bytes, ending: bytes
) -> tuple[re.Pattern[bytes], ...]:
    """The run of a tensor, and what `torch._utils._rebuild_parameter` takes behind it. Given are
    the opcodes that recall what all tensors share, which is in the memo when the first of them
    has been read by the plain machine, and the end of the persistent id; what each tensor has
    of its own is put into the memo."""
    flag = rb"([\x88\x89])" + hooks + rb"\)R" + _PUT  # requires_grad, and OrderedDict()
    tensor = (
        (rb"(?:X(.)\0\0\0([ -~]{1,255})" + _PUT + rb")?")  # the key, of a dictionary's tensors
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


_SIZED, _SCALAR = 10, 14  # the groups of which one stands behind BINPERSID

# The arguments of n PUTs of indices in turn, together one number: first * _ONES[n] + _COUNT[n].
_ONES = [sum(1 << 32 * i for i in range(n)) for n in range(9)]
_COUNT = [sum(i << 32 * i for i in range(n)) for n in range(9)]


class Shared:
    """What all tensors of a stream have in common."""

    __slots__ = ("ending", "hooks", "rebuild", "word")

    def __init__(self, rebuild: Global, word: str, ending: tuple[Value, ...], hooks: Global):
        self.rebuild = rebuild
        self.word = word  # "storage"
        self.ending = ending  # of the persistent id: (None,) in the legacy stream
        self.hooks = hooks  # OrderedDict


class TensorCall(Call):
    """The call of `_rebuild_tensor_v2` that such a run makes. Its parts are kept as the run has
    them; `args` and what the run put into the memo are made when they are asked for."""

    __slots__ = (
        "_args",
        "_storage",
        "first",
        "requires_grad",
        "kind",
        "location",
        "numel",
        "persistent_id_offset",
        "shared",
        "size",
        "storage_key",
        "storage_offset",
        "stride",
    )

    opcode = "REDUCE"
    kwargs = None

    shared: Shared
    kind: Global  # the storage's type
    storage_key: str
    location: str
    numel: int
    storage_offset: int  # in elements, as `numel`
    size: tuple[int, ...]
    stride: tuple[int, ...]
    grad: bool
    persistent_id_offset: int  # offset of BINPERSID
    first: int | None  # the memo's entry for `storage_key`; the run's others follow it
    _args: tuple[Value, ...] | None
    _storage: PersistentId | None

    @property
    def func(self) -> Value:  # type: ignore[override]
        """`_rebuild_tensor_v2`"""
        return self.shared.rebuild

    @property
    def args(self) -> tuple[Value, ...]:  # type: ignore[override]
        """(storage, storage_offset, size, stride, requires_grad, backward_hooks)"""
        if self._args is None:
            hooks = Call(self.shared.hooks, (), "REDUCE", self.offset - 12)
            shape = (self.storage_offset, self.size, self.stride, self.requires_grad)
            self._args = (self.storage, *shape, hooks)
        return self._args

    @property
    def storage(self) -> PersistentId:
        """The reference to the storage: ("storage", type, key, location, numel)."""
        if self._storage is None:
            named = (self.shared.word, self.kind, self.storage_key, self.location, self.numel)
            self._storage = PersistentId(named + self.shared.ending, self.persistent_id_offset)
        return self._storage

    def memo(self) -> list[Value]:
        """The values that the run puts into the memo, in its order. The empty tuple is not."""
        made: list[Value] = [self.storage_key, self.storage.value]
        made += [ints for ints in (self.size, self.stride) if ints]
        return [*made, self.args[5], self.args, self]

    def remembered(self, index: int) -> Value:
        """The memo's value at `index`, where this call stands for the entries of its run."""
        if self.first is None or not 0 <= index - self.first < 7:
            return self
        entries = self.memo()
        at = index - self.first
        return entries[at] if at < len(entries) else self

    def settle(self, memo: list[Value]) -> None:
        """Makes the entries of `memo` that this call stands for, so that one of them can be
        written again."""
        if self.first is not None:
            for index, value in enumerate(self.memo(), self.first):
                if memo[index] is self:
                    memo[index] = value
            self.first = None


_new = TensorCall.__new__


class Runs:
    """Reads such runs, and keeps what they repeat: the meaning of a raw piece of stream.

    It is dropped once an entry of the memo is written again, which torch never does, so that
    what was recalled stays true.
    """

    def __init__(self, shared: Shared, patterns: tuple[re.Pattern[bytes], ...]) -> None:
        self.shared = shared
        self.tensor, self.parameter = (pattern.match for pattern in patterns)
        self.kinds: dict[bytes, Global] = {}
        self.places: dict[bytes, tuple[str, int]] = {}  # location, number of elements
        self.shapes: dict[bytes, tuple[int, Ints]] = {}  # offset, size
        self.strides: dict[bytes, Ints] = {b"": ()}

    def read(self, m: Machine, pos: int) -> int:
        """Runs the tensor at `pos`, where `_rebuild_tensor_v2` is recalled, and those that follow
        it, each after its key or without one. Returns the offset behind them: `pos` itself where
        the run is not torch's."""
        data, stop, stack, memo, match_tensor = m.data, m.stop, m.stack, m.memo, self.tensor
        kinds, places, shapes, strides = self.kinds, self.places, self.shapes, self.strides
        begun, from_bytes = len(m.persistent), int.from_bytes
        for _ in range(MANY):
            match = match_tensor(data, pos, stop)
            if match is None:
                break
            (size1, key, put0, kind_, size2, storage_key, put1, place_, put2, sized, put3,
             steps, put4, scalar, grad, put5, put6, put7) = match.groups(b"")  # fmt: skip
            puts = b"".join((put0, put1, put2, put3, put4, put5, put6, put7))
            new = len(puts) >> 2
            kind = kinds.get(kind_) or self._kind(memo, kind_)
            place = places.get(place_) or self._place(memo, place_)
            shape = shapes.get(sized or scalar) or self._shape(sized or scalar)
            stride = strides[steps] if steps in strides else self._stride(steps)
            if (
                from_bytes(puts, "little") != len(memo) * _ONES[new] + _COUNT[new]
                or size2[0] != len(storage_key)
                or (key and size1[0] != len(key))
                or kind is None
                or place is None
                or shape is None
                or stride is None
            ):
                break
            if key:
                text = key.decode()
                memo.append(text)
                stack.append(text)
                new -= 1
            made = _new(TensorCall)
            made.shared = self.shared
            made.kind = kind
            made.storage_key = storage_key.decode()
            made.location, made.numel = place
            made.storage_offset, made.size = shape
            made.stride, made.requires_grad = stride, grad == b"\x88"
            pos = match.end()
            made.offset = pos - 6
            made.persistent_id_offset = match.start(_SIZED if sized else _SCALAR) - 1
            made.first = len(memo)
            made.changes = made._args = made._storage = None
            kind.uses += 1
            memo += [made] * new
            stack.append(made)
            m.persistent.append(made)
            if not key and len(stack) > 1 and type(stack[-2]) is Global:
                pos = self._pass_to(m, made, pos)
        count = len(m.persistent) - begun
        self.shared.hooks.uses += count
        self.shared.rebuild.uses += max(count - 1, 0)  # the first was counted when it was recalled
        return pos

    def _pass_to(self, m: Machine, made: TensorCall, pos: int) -> int:
        """Runs the call of `_rebuild_parameter`, or whatever lies below, on the tensor just made,
        if that is what stands at `pos`. Returns the offset behind it."""
        match = self.parameter(m.data, pos, m.stop)
        if match is None:
            return pos
        grad, *puts = match.groups()
        if int.from_bytes(b"".join(puts), "little") != len(m.memo) * _ONES[3] + _COUNT[3]:
            return pos
        end = match.end()
        self.shared.hooks.uses += 1
        hooks = Call(self.shared.hooks, (), "REDUCE", end - 18)
        args = (made, grad == b"\x88", hooks)
        m.stack.pop()
        call = m.stack[-1] = Call(m.stack[-1], args, "REDUCE", end - 6)
        m.memo += [hooks, args, call]
        if m.recorder is not None:
            m.recorder.events.append(Event(call.offset, call.opcode, call))
        return end

    # What a piece stands for, met for the first time; None where it is not torch's. Shapes repeat,
    # and a tuple of integers may well be one object.

    def _kind(self, memo: list[Value], get: bytes) -> Global | None:
        kind = _recalled(memo, get)
        return self.kinds.setdefault(get, kind) if type(kind) is Global else None

    def _place(self, memo: list[Value], raw: bytes) -> tuple[str, int] | None:
        get, number = _PIECES(raw)
        location = _recalled(memo, get)
        if type(location) is not str:
            return None
        return self.places.setdefault(raw, (location, _int(number)))

    def _shape(self, raw: bytes) -> tuple[int, Ints] | None:
        offset, *size = _PIECES(raw)
        made = _tuple(size) if size else ()
        return None if made is None else self.shapes.setdefault(raw, (_int(offset), made))

    def _stride(self, raw: bytes) -> Ints | None:
        made = _tuple(_PIECES(raw))
        return None if made is None else self.strides.setdefault(raw, made)


_PIECES = re.compile(_INT + rb"|h.|j....|.", re.DOTALL).findall


def _int(piece: bytes) -> int:
    """The integer of a BININT1, BININT2 or BININT."""
    return int.from_bytes(piece[1:], "little", signed=len(piece) == 5)


def _tuple(pieces: list[bytes]) -> Ints | None:
    """The integers that a TUPLE opcode closes; None where it takes another number of them."""
    made = tuple(_int(piece) for piece in pieces if len(piece) > 1)
    return made if pieces[-1] in (b"t", bytes((0x84 + len(made),))) else None


_RECALL = re.compile(rb"h.|j....", re.DOTALL)


def learn(m: Machine, rebuild: Global, pos: int) -> Runs | None:
    """What reads this stream's runs, once the plain machine has read a first tensor: at `m.offset`
    its function is recalled for a second time, at `pos` the arguments begin. None where they are
    not torch's."""
    get = _RECALL.match(m.data, pos + 2, m.stop) if m.data[pos : pos + 2] == b"((" else None
    word = _recalled(m.memo, get[0]) if get else None
    hooks = m.globals.get(("collections", "OrderedDict"))
    if get is None or type(word) is not str or hooks is None or not m.persistent:
        return None
    place = next((at for at, value in enumerate(m.memo) if value is hooks), None)
    if place is None:
        m.rebuild = None  # once is enough to look through the memo
        return None
    recall = bytes((0x68, place)) if place < 256 else pack("<cI", b"j", place)
    first = m.persistent[-1]
    storage = first.value if isinstance(first, PersistentId) else None
    ending = (None,) if isinstance(storage, tuple) and storage[5:] == (None,) else ()
    opcodes = (m.data[m.offset : pos], get[0], recall, b"N" * len(ending))
    return Runs(Shared(rebuild, word, ending, hooks), _patterns(*map(re.escape, opcodes)))


def _recalled(memo: list[Value], get: bytes) -> Value:
    """What a BINGET or LONG_BINGET recalls; None where that is not in the memo."""
    index = int.from_bytes(get[1:], "little")
    return memo[index] if index < len(memo) else None
