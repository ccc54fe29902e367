"""A superinstruction: the run of some 27 opcodes that torch writes for one dense tensor.

    BINGET _rebuild_tensor_v2  MARK  MARK  "storage"  <type>  key  location  numel  TUPLE
    BINPERSID  offset  size  stride  requires_grad  OrderedDict()  TUPLE  REDUCE

`torch._tensor.Tensor._reduce_ex_internal` gives the arguments, `torch.serialization._save`
the persistent id. A state_dict repeats this run for each tensor, so that matching it with one
compiled pattern makes reading several times faster. Values, memo and persistent ids are what
the plain machine makes of the same bytes (a property test holds the two against each other);
a run that deviates in any way is left to the plain machine.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.pickling.values import Call, Global, PersistentId, Value

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine

REBUILD = ("torch._utils", "_rebuild_tensor_v2")

# The memo's first 256 entries are read and written by shorter opcodes. What all tensors share
# is among them, what each has of its own is not (the first tensors are left to the plain
# machine), but for a storage type that is met late.
_GET = rb"h(.)"
_LATE_GET = rb"(h.|j....)"
_PUT = rb"r(....)"
_INT = rb"(?:K.|M..|J....)"
_INTS = rb"(?:((?:" + _INT + rb"){1,3}[\x85-\x87]|\((?:" + _INT + rb"){4,64}t)" + _PUT + rb"|\))"
_STRING = rb"X(.)\0\0\0([a-z0-9:_]{1,40})" + _PUT

_RUN = re.compile(
    rb"\(\("
    + _GET  # "storage"
    + _LATE_GET  # the storage's type
    + _STRING  # its key
    + (rb"(?:" + _GET + rb"|" + _STRING + rb")")  # its location
    + (rb"(" + _INT + rb")t")  # its number of elements
    + (_PUT + rb"Q")
    + (rb"(" + _INT + rb")")  # the tensor's offset in it
    + (_INTS + _INTS)  # size and stride
    + rb"([\x88\x89])"  # requires_grad
    + (_GET + rb"\)R" + _PUT)  # OrderedDict(), the backward hooks
    + (rb"t" + _PUT + rb"R")
    + _PUT,
    re.DOTALL,
)
_TUPLE, _RESULT = 11, 21  # groups, whose places give the opcodes' offsets

_ARGUMENT = {0x4B: 2, 0x4D: 3, 0x4A: 5}  # BININT1, BININT2, BININT: size with the argument
_INDICES = {n: Struct(f"<{n}I").unpack for n in range(5, 9)}


class TensorCall(Call):
    """The call of `_rebuild_tensor_v2` that such a run makes. Its parts are kept as the run has
    them; `args` and what the run put into the memo are made when they are asked for."""

    __slots__ = (
        "_args",
        "_storage",
        "grad",
        "hooks",
        "kind",
        "location",
        "memoized",
        "numel",
        "persistent_at",
        "size",
        "storage_key",
        "storage_offset",
        "stride",
        "word",
    )

    word: str  # "storage"
    kind: Global  # the storage's type
    storage_key: str
    location: str
    numel: int
    storage_offset: int  # in elements, as `numel`
    size: tuple[int, ...]
    stride: tuple[int, ...]
    grad: bool
    hooks: Global  # OrderedDict
    persistent_at: int  # offset of BINPERSID
    memoized: int  # which of the optional parts the memo takes: 1 location, 2 size, 4 stride
    _args: tuple[Value, ...] | None
    _storage: PersistentId | None

    @property
    def args(self) -> tuple[Value, ...]:  # type: ignore[override]
        """(storage, storage_offset, size, stride, requires_grad, backward_hooks)"""
        if self._args is None:
            hooks = Call(self.hooks, (), "REDUCE", self.offset - 12)
            shape = (self.storage_offset, self.size, self.stride, self.grad)
            self._args = (self.storage, *shape, hooks)
        return self._args

    @property
    def storage(self) -> PersistentId:
        """The reference to the storage: ("storage", type, key, location, numel)."""
        if self._storage is None:
            named = (self.word, self.kind, self.storage_key, self.location, self.numel)
            self._storage = PersistentId(named, self.persistent_at)
        return self._storage

    def memo(self) -> list[Value]:
        """The values that the run puts into the memo, in its order."""
        made: list[Value] = [self.storage_key]
        if self.memoized & 1:
            made.append(self.location)
        made.append(self.storage.value)
        if self.memoized & 2:
            made.append(self.size)
        if self.memoized & 4:
            made.append(self.stride)
        return [*made, self.args[5], self.args, self]


def tensor(m: Machine, rebuild: Global, pos: int) -> int:
    """Runs the whole tensor whose `_rebuild_tensor_v2` was read just before `pos`, or pushes
    that alone where the run is not torch's. Returns the position behind what was run."""
    match = _RUN.match(m.data, pos, m.stop)
    made = _read(m, rebuild, match) if match else None
    if match is None or made is None:
        m.stack.append(rebuild)
        return pos
    m.stack.append(made)
    return match.end()


def _read(m: Machine, rebuild: Global, match: re.Match[bytes]) -> TensorCall | None:
    """The tensor of the run, its memo entries deferred; None, and nothing done, where the run
    is not just what torch writes."""
    (word_, kind_, size1, key, put1, place_, size2, text, put2, numel, put3, offset, dims, put4,
     steps, put5, grad, hooks_, put6, put7, put8) = match.groups()  # fmt: skip
    memo = m.memo
    word = memo.get(word_[0])
    kind = memo.get(kind_[1] if len(kind_) == 2 else int.from_bytes(kind_[1:], "little"))
    hooks = memo.get(hooks_[0])
    location = str(text, "ascii") if text else memo.get(place_[0])
    raw = b"".join([put for put in (put1, put2, put3, put4, put5, put6, put7, put8) if put])
    puts = _INDICES[len(raw) >> 2](raw)
    first = puts[0]
    size, stride = _ints(m, dims), _ints(m, steps)
    if (
        first <= m.top  # an entry would be written again
        or puts != tuple(range(first, first + len(puts)))
        or size1[0] != len(key)
        or (text and size2[0] != len(text))
        or size is None
        or stride is None
        or type(word) is not str
        or type(location) is not str
        or type(kind) is not Global
        or type(hooks) is not Global
        or rebuild in (kind, hooks)
    ):
        return None
    kind.uses += 1
    hooks.uses += 1
    made = TensorCall.__new__(TensorCall)
    made.func = rebuild
    made.how = "REDUCE"
    made.offset = match.start(_RESULT) - 2
    made.changes = made.kwargs = made._args = made._storage = None
    made.word, made.kind, made.hooks = word, kind, hooks
    made.storage_key = str(key, "ascii")
    made.location = location
    made.numel = _int(numel)
    made.persistent_at = match.end(_TUPLE)
    made.storage_offset = _int(offset)
    made.size, made.stride, made.grad = size, stride, grad == b"\x88"
    made.memoized = (1 if text else 0) | (2 if put4 else 0) | (4 if put5 else 0)
    m.top = puts[-1]
    m.deferred_at.append(first)
    m.deferred.append(made)
    m.persistent.append(made)
    return made


def _int(raw: bytes) -> int:
    """The integer of a BININT1, BININT2 or BININT."""
    return int.from_bytes(raw[1:], "little", signed=len(raw) == 5)


def _ints(m: Machine, raw: bytes | None) -> tuple[int, ...] | None:
    """The integers in a run of them that a TUPLE opcode closes; None where that opcode takes
    another number of them. `raw` is None for the empty tuple. Shapes repeat, so they are kept."""
    if raw is None:
        return ()
    if raw in m.sizes:
        return m.sizes[raw]
    pos, end, made = (1 if raw[0] == 0x28 else 0), len(raw) - 1, []
    while pos < end:
        size = _ARGUMENT[raw[pos]]
        made.append(_int(raw[pos : pos + size]))
        pos += size
    whole = raw[end] in (0x74, 0x84 + len(made))
    m.sizes[raw] = tuple(made) if whole else None
    return m.sizes[raw]
