"""Writes inert values as a pickle of protocol 2, opcode for opcode as `_pickle.c` would.

torch.save pickles with protocol 2 and CPython's C pickler. So the order of memo entries, the
batches of a thousand and the names of Python 2 are those of `Modules/_pickle.c` (`save_*`,
`batch_*`, `save_reduce`): a pickle of torch.save that the machine has read is written with the same
bytes. Values that need opcodes of later protocols are written as protocol 2 does: bytes as a call
of `_codecs.encode`, sets as a call. The writer does not recurse; a stack has the pending steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from struct import pack
from typing import Any, TypeAlias

from ptinspect.errors import UnsupportedError
from ptinspect.pickling.encoding import (
    ATOMS,
    OP,
    encode_get,
    encode_global,
    encode_int,
    encode_text,
    pack_int,
    pack_memo,
)
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    Inert,
    PersistentId,
    SetOf,
    TensorCall,
    Value,
    key_value,
)

BATCH = 1000
"""Items of one APPENDS or SETITEMS."""

_SHORT_TUPLES = (OP["EMPTY_TUPLE"], OP["TUPLE1"], OP["TUPLE2"], OP["TUPLE3"])

_ENCODE = Global("_codecs", "encode", 0)
_LATIN = "latin1"  # one object, so that it is in the memo once
_BYTES = Global("builtins", "bytes", 0)
_BYTEARRAY = Global("builtins", "bytearray", 0)
_GETATTR = Global("builtins", "getattr", 0)
_SETS = {False: Global("builtins", "set", 0), True: Global("builtins", "frozenset", 0)}
_NEWOBJ_EX = Global("copyreg", "__newobj_ex__", 0)


@dataclass(frozen=True, slots=True)
class _Item:
    """A value that is still to be written."""

    value: Value


_Step: TypeAlias = "Callable[[], None] | bytes | _Item"


class FreshCall(Call):
    """A call of `_rebuild_tensor_v2` to write whose arguments are new objects that nothing else
    refers to.

    It consists of atoms, strings, globals, tuples, persistent ids and calls without changes, so it
    is written without the stack of steps, and the memo only counts its tuples and calls.
    """

    __slots__ = ()


class PickleWriter:
    def __init__(
        self,
        replace: Callable[[Inert], Value] | None = None,
        persistent: Callable[[PersistentId], Value] | None = None,
    ) -> None:
        """Write with `replace(call or persistent id)` in place of each, under the identity of the
        original (None: the original), and `persistent(id)` as its value (default: as it was)."""
        self.out = bytearray()
        self._replace = replace
        self._persistent = persistent
        self._memo: dict[object, int] = {}
        self._memo_size = 0
        self._int_tuples: dict[object, bytes] = {}  # sizes and strides, encoded
        self._around_tensors: dict[int, tuple[bytes, bytes]] = {}  # by the class of the storage
        self._alive: list[Value] = []  # so that no identity is reused
        self._open: set[int] = set()  # calls whose arguments are being written
        self._steps: list[_Step] = []

    def dump(self, root: Value) -> bytes:
        """Return the pickle of `root`. UnsupportedError if it contains an out-of-band buffer, or an
        object that is among its own arguments."""
        self.out += OP["PROTO"] + b"\x02"
        steps = self._steps
        steps.append(_Item(root))
        while steps:
            step = steps.pop()
            if type(step) is _Item:
                self._save(step.value)
            elif type(step) is bytes:
                self.out += step
            else:
                step()  # type: ignore[operator]
        self.out += OP["STOP"]
        return bytes(self.out)

    def _push_steps(self, *steps: _Step) -> None:
        self._steps += reversed(steps)

    def _put(self, value: Value) -> None:
        self._memo[_identity(value)] = self._memo_size
        self._alive.append(value)
        self._put_fresh()

    def _put_fresh(self) -> None:
        """Count an object in the memo that is never looked up."""
        index = self._memo_size
        self._memo_size = index + 1
        self.out += b"q%c" % index if index < 256 else pack_memo(b"r", index)

    def _get(self, index: int) -> None:
        self.out += encode_get(index)

    def _save(self, value: Value) -> None:
        if type(value) is str:  # the most frequent values: keys
            index = self._memo.get(id(value))
            if index is None:
                self.out += encode_text(value)
                self._put(value)
            else:
                self.out += encode_get(index)
            return
        encode_atom = ATOMS.get(type(value))
        if encode_atom is not None:
            self.out += encode_atom(value)
            return
        if isinstance(value, PersistentId):
            self._save_persistent_id(value)
            return
        index = self._memo.get(_identity(value))
        if index is not None:
            self._get(index)
        elif isinstance(value, str):
            self.out += encode_text(value)
            self._put(value)
        else:
            kind = type(value)
            if kind not in _SAVERS:  # a subclass
                kind = next(base for base in _SAVERS if isinstance(value, base))
            _SAVERS[kind](self, value)

    def _save_tuple(self, value: tuple[Value, ...]) -> None:
        size = len(value)
        if not size:
            self.out += OP["EMPTY_TUPLE"]
            return
        if size > 3:
            self.out += OP["MARK"]

        def close() -> None:
            index = self._memo.get(_identity(value))
            if index is not None:  # it contains itself, and has been written in the meantime
                self.out += OP["POP_MARK"] if size > 3 else OP["POP"] * size
                self._get(index)
                return
            self.out += OP["TUPLE"] if size > 3 else _SHORT_TUPLES[size]
            self._put(value)

        self._push_steps(*map(_Item, value), close)

    def _save_list(self, value: list[Value]) -> None:
        self.out += OP["EMPTY_LIST"]
        self._put(value)
        if len(value) == 1:
            self._push_steps(_Item(value[0]), OP["APPEND"])
        elif value:
            self._save_builtin_items(iter(value), OP["APPENDS"], 1, len(value))

    def _save_dict(self, value: dict[Value, Value]) -> None:
        self.out += OP["EMPTY_DICT"]
        self._put(value)
        if len(value) == 1:
            ((key, item),) = value.items()
            self._push_steps(_Item(key_value(key)), _Item(item), OP["SETITEM"])
        elif value:
            self._save_builtin_items(_flatten(value), OP["SETITEMS"], 2)

    def _save_builtin_items(
        self, values: Iterator[Value], opcode: bytes, width: int, total: int | None = None
    ) -> None:
        """Write the items of a built-in dict or list (`batch_dict_exact`, `batch_list_exact`).
        After a full batch of a dict follows another, even if it is empty."""
        count = 0

        def save_batch() -> None:
            nonlocal count
            items = [_Item(value) for value in islice(values, BATCH * width)]
            count += len(items)
            has_next = count < total if total is not None else len(items) == BATCH * width
            self._push_steps(OP["MARK"], *items, opcode, *((save_batch,) if has_next else ()))

        save_batch()

    def _save_object_items(
        self, values: Iterator[Value], single: bytes, several: bytes, width: int
    ) -> None:
        """Write the items of other objects (`batch_dict`, `batch_list`), which look one ahead."""

        def save_batch() -> None:
            items = [_Item(value) for value in islice(values, BATCH * width)]
            if len(items) == width:
                self._push_steps(*items, single)
            elif items:
                has_next = len(items) == BATCH * width
                self._push_steps(OP["MARK"], *items, several, *((save_batch,) if has_next else ()))

        save_batch()

    def _save_set(self, value: SetOf) -> None:
        call = Call(_SETS[value.frozen], (list(value),), "REDUCE", value.offset)
        call.changes = value.changes
        self._save_call_as(call, value)

    def _save_bytes(self, value: bytes | Blob) -> None:
        raw = value if isinstance(value, bytes) else value.read()
        if isinstance(value, Blob) and value.mutable:
            call = Call(_BYTEARRAY, (raw,) if raw else (), "REDUCE", 0)
        elif raw:
            call = Call(_ENCODE, (raw.decode("latin1"), _LATIN), "REDUCE", 0)
        else:
            call = Call(_BYTES, (), "REDUCE", 0)
        self._save_call_as(call, value)

    def _save_global(self, value: Global) -> None:
        head, dot, last = value.name.rpartition(".")
        if dot:  # protocol 2 does not resolve dotted names
            parent = Global(value.module, head, value.offset)
            self._save_call_as(Call(_GETATTR, (parent, last), "REDUCE", value.offset), value)
            return
        self.out += encode_global(value.module, value.name)
        self._put(value)
        self._save_changes(value)

    def _save_extension(self, value: Extension) -> None:
        if value.code < 256:
            self.out += OP["EXT1"] + bytes([value.code])
        elif value.code < 1 << 16:
            self.out += OP["EXT2"] + pack("<H", value.code)
        else:
            self.out += OP["EXT4"] + pack("<i", value.code)
        self._save_changes(value)

    def _save_call(self, call: Call) -> None:
        replacement = self._replace(call) if self._replace else None
        if replacement is None:
            self._save_call_as(call, call)
        elif type(replacement) is FreshCall:
            self._save_fresh_call(replacement)
            self._put(call)
        elif isinstance(replacement, Call):
            self._save_call_as(replacement, call)
        else:
            self._push_steps(_Item(replacement))

    def _save_call_as(self, call: Call, identity: Value) -> None:
        """Write a call; the memo knows its result as `identity`."""
        if id(identity) in self._open:
            raise UnsupportedError(
                "an object of the file is among its own arguments, which cannot be written"
            )
        self._open.add(id(identity))

        def close() -> None:
            self._open.discard(id(identity))
            self._put(identity)
            self._save_changes(call)

        self._push_steps(*_call_steps(call), close)

    def _save_tensor_call(self, call: FreshCall) -> bool:
        """Write a call of `_rebuild_tensor_v2` at once, which `_save_fresh` does in a dozen steps.
        Return False if it has to: the first calls, whose globals are not in the memo yet."""
        index, memo = self._memo_size, self._memo
        args: tuple[Any, ...] = call.args
        if index < 256 or len(args) != 6 or not args[2] or not isinstance(args[0], PersistentId):
            return False
        pid, offset, size, stride, requires_grad, hooks = args
        named: Any = self._persistent(pid) if self._persistent else pid.value
        if not isinstance(named, tuple) or len(named) != 5 or not isinstance(hooks, Call):
            return False
        word, kind, key, location, numel = named
        around = self._around_tensors.get(id(kind))
        if around is None:
            indexes = [memo.get(_identity(value)) for value in (call.func, word, kind, hooks.func)]
            gets = [encode_get(index) for index in indexes if index is not None]
            if len(gets) < 4:
                return False
            self._alive.append(kind)
            around = gets[0] + b"((" + gets[1] + gets[2], gets[3] + b")Rr"
            self._around_tensors[id(kind)] = around
        for numbers in (size, stride):
            if numbers not in self._int_tuples:
                body, length = b"".join(map(encode_int, numbers)), len(numbers)
                body = b"(" + body + b"t" if length > 3 else body + _SHORT_TUPLES[length]
                self._int_tuples[numbers] = body + b"r"
        self.out += around[0]
        self._save(key)  # tensors that share a storage share this object
        self._save(location)
        index = self._memo_size
        self.out += b"".join((
            encode_int(numel), b"tr", pack_int(index), b"Q", encode_int(offset),
            self._int_tuples[size], pack_int(index + 1), self._int_tuples[stride],
            pack_int(index + 2), OP["NEWTRUE"] if requires_grad else OP["NEWFALSE"], around[1],
            pack_int(index + 3), b"tr", pack_int(index + 4), b"R",
        ))  # fmt: skip
        self._memo_size = index + 5
        return True

    def _save_fresh_call(self, call: Call) -> None:
        if type(call) is FreshCall and self._save_tensor_call(call):
            return
        self._save_fresh(call.func)
        self._save_fresh(call.args)
        self.out += OP["REDUCE"]

    def _save_fresh(self, value: Value) -> None:
        """Write a part of a `FreshCall`. The recursion is as deep as its arguments, which no file
        determines."""
        kind = type(value)
        if kind is tuple:
            assert isinstance(value, tuple)
            size = len(value)
            if not size:
                self.out += OP["EMPTY_TUPLE"]
                return
            if size > 3:
                self.out += OP["MARK"]
            for item in value:
                encode_atom = ATOMS.get(type(item))
                if encode_atom is not None:
                    self.out += encode_atom(item)
                else:
                    self._save_fresh(item)
            self.out += OP["TUPLE"] if size > 3 else _SHORT_TUPLES[size]
            self._put_fresh()
        elif isinstance(value, PersistentId):
            self._save_fresh(self._persistent(value) if self._persistent else value.value)
            self.out += OP["BINPERSID"]
        elif kind is Call:
            assert isinstance(value, Call)
            self._save_fresh_call(value)
            self._put_fresh()
        else:
            self._save(value)

    def _save_changes(self, value: Inert) -> None:
        """Write the changes of an object, in the order of `save_reduce`."""
        if value.changes is None:
            return
        changes = value.changes
        steps: list[_Step] = []
        if changes.items:
            items = iter(changes.items)
            steps.append(lambda: self._save_object_items(items, OP["APPEND"], OP["APPENDS"], 1))
        if changes.pairs:
            pairs = _flatten(changes.pairs)
            steps.append(lambda: self._save_object_items(pairs, OP["SETITEM"], OP["SETITEMS"], 2))
        if changes.added:
            steps += [OP["MARK"], *map(_Item, changes.added), OP["ADDITEMS"]]
        for state in changes.states:
            steps += [_Item(state), OP["BUILD"]]
        self._push_steps(*steps)

    def _save_persistent_id(self, pid: PersistentId) -> None:
        replacement = self._replace(pid) if self._replace else None
        if replacement is None or replacement is pid:
            value = self._persistent(pid) if self._persistent else pid.value
            self._push_steps(_Item(value), OP["BINPERSID"], lambda: self._save_changes(pid))
            return
        self._push_steps(_Item(replacement))

    def _refuse_buffer(self, value: Value) -> None:
        raise UnsupportedError("a buffer that is stored outside the pickle is not in the file")


def _call_steps(call: Call) -> list[bytes | _Item]:
    """Return the steps that build the object, if possible with the opcode of the source."""
    func, args, opcode = call.func, call.args, call.opcode
    if opcode in ("OBJ", "INST"):
        return [OP["MARK"], _Item(func), *map(_Item, args), OP["OBJ"]]
    packed: Value = args[0] if opcode.endswith("*") else args
    if opcode.startswith("NEWOBJ_EX"):
        return [_Item(_NEWOBJ_EX), _Item((func, packed, call.kwargs or {})), OP["REDUCE"]]
    last = OP["NEWOBJ"] if opcode.startswith("NEWOBJ") else OP["REDUCE"]
    return [_Item(func), _Item(packed), last]


def _flatten(pairs: dict[Value, Value]) -> Iterator[Value]:
    for key, item in pairs.items():
        yield key_value(key)
        yield item


def _identity(value: Value) -> object:
    """Return the memo's key of a value: a global's name, or the identity of another object."""
    return (value.module, value.name) if isinstance(value, Global) else id(value)


_SAVERS: dict[type, Callable[..., None]] = {
    tuple: PickleWriter._save_tuple,
    list: PickleWriter._save_list,
    dict: PickleWriter._save_dict,
    bytes: PickleWriter._save_bytes,
    SetOf: PickleWriter._save_set,
    Blob: PickleWriter._save_bytes,
    Global: PickleWriter._save_global,
    Extension: PickleWriter._save_extension,
    Call: PickleWriter._save_call,
    TensorCall: PickleWriter._save_call,
    Inert: PickleWriter._refuse_buffer,
}
