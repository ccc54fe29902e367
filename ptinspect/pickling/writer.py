"""Writes inert values as a pickle of protocol 2, opcode for opcode as `_pickle.c` would.

torch.save pickles by protocol 2 with CPython's C pickler, and so the order of memo entries, the
batches of a thousand and the names of Python 2 are those of `Modules/_pickle.c` (`save_*`,
`batch_*`, `save_reduce`): what torch saved, read by the machine and written by this, is the same
bytes again. What later protocols have opcodes for is written as protocol 2 has it: bytes by
`_codecs.encode`, sets by a call. There is no recursion: a stack holds what is still to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from struct import pack
from typing import TYPE_CHECKING

from ptinspect.errors import UnsupportedError
from ptinspect.pickling.opcodes import OPCODES
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    Inert,
    PersistentId,
    Python2Str,
    SetOf,
    Value,
    key_value,
)

OP = {row.name: bytes([row.code]) for row in OPCODES}
"""By name: the opcode's byte."""


def integer(value: int) -> bytes:
    """BININT1, BININT2, BININT, LONG1 or LONG4, the shortest."""
    if 0 <= value < 1 << 8:
        return OP["BININT1"] + bytes([value])
    if 0 <= value < 1 << 16:
        return OP["BININT2"] + pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return OP["BININT"] + pack("<i", value)
    size = (value.bit_length() >> 3) + 1
    raw = value.to_bytes(size, "little", signed=True)
    if value < 0 and size > 1 and raw[-1] == 0xFF and raw[-2] & 0x80:
        raw = raw[:-1]
    return (
        OP["LONG1"] + bytes([len(raw)]) + raw
        if len(raw) < 256
        else OP["LONG4"] + pack("<i", len(raw)) + raw
    )


ATOMS: dict[type, Callable[..., bytes]] = {
    type(None): lambda value: OP["NONE"],
    bool: lambda value: OP["NEWTRUE"] if value else OP["NEWFALSE"],
    int: integer,
    float: lambda value: OP["BINFLOAT"] + pack(">d", value),
}
"""By type: how the values are written that the memo does not know."""


def text(value: str) -> bytes:
    """BINUNICODE; or what a `str` of Python 2 was: SHORT_BINSTRING, BINSTRING."""
    if not isinstance(value, Python2Str):
        raw = value.encode("utf-8", "surrogatepass")
        return OP["BINUNICODE"] + pack("<I", len(raw)) + raw
    size = len(value.raw)
    if size < 256:
        return OP["SHORT_BINSTRING"] + bytes([size]) + value.raw
    return OP["BINSTRING"] + pack("<i", size) + value.raw


def named(module: str, name: str) -> bytes:
    """GLOBAL, under the name below protocol 3: `__builtin__.set` (`pickle.Pickler` with
    `fix_imports`)."""
    from _compat_pickle import REVERSE_IMPORT_MAPPING, REVERSE_NAME_MAPPING

    if (module, name) in REVERSE_NAME_MAPPING:
        module, name = REVERSE_NAME_MAPPING[module, name]
    else:
        module = REVERSE_IMPORT_MAPPING.get(module, module)
    return OP["GLOBAL"] + f"{module}\n{name}\n".encode()


def extension(code: int) -> bytes:
    """EXT1, EXT2 or EXT4, the shortest."""
    if code < 256:
        return OP["EXT1"] + bytes([code])
    return OP["EXT2"] + pack("<H", code) if code < 1 << 16 else OP["EXT4"] + pack("<i", code)


# ---


if TYPE_CHECKING:
    Todo = list["Callable[[], None] | bytes | _Item"]

BATCH = 1000
"""Items of one APPENDS or SETITEMS."""

_SHORT = (OP["EMPTY_TUPLE"], OP["TUPLE1"], OP["TUPLE2"], OP["TUPLE3"])

_ENCODE = Global("_codecs", "encode", 0)
_LATIN = "latin1"
_BYTES = Global("builtins", "bytes", 0)
_BYTEARRAY = Global("builtins", "bytearray", 0)
_GETATTR = Global("builtins", "getattr", 0)
_SETS = {False: Global("builtins", "set", 0), True: Global("builtins", "frozenset", 0)}
_NEWOBJ_EX = Global("copyreg", "__newobj_ex__", 0)


class _Item:
    """A value that is still to be written."""

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value


class PickleWriter:
    """Writes one pickle.

    replace: asked for each object before it is written; what it gives is written in its place,
    under the object's identity (None: the object itself). persistent: the value of a persistent
    id, for those that are not written as they are. first: index of the first memo entry.
    """

    def __init__(
        self,
        replace: Callable[[Inert], Value] | None = None,
        persistent: Callable[[PersistentId], Value] | None = None,
        first: int = 0,
    ) -> None:
        self.out = bytearray()
        self._first = first
        self._replace = replace
        self._persistent = persistent
        self._memo: dict[object, int] = {}
        self._alive: list[Value] = []  # so that no identity is given twice
        self._open: set[int] = set()  # calls whose arguments are being written
        self._todo: Todo = []

    def dump(self, root: Value) -> bytes:
        """The pickle of `root`.

        UnsupportedError for what has no place in a pickle of its own: out-of-band buffers, and
        objects that only exist through themselves.
        """
        self.out += OP["PROTO"] + b"\x02"
        self._todo.append(_Item(root))
        self._run()
        self.out += OP["STOP"]
        return bytes(self.out)

    def part(self, value: Value) -> bytes:
        """Opcodes that push `value`, to stand within a stream of somebody else's. The memo goes
        on from one part to the next."""
        self.out = bytearray()
        self._todo.append(_Item(value))
        self._run()
        return bytes(self.out)

    def _run(self) -> None:
        todo = self._todo
        while todo:
            step = todo.pop()
            if type(step) is _Item:
                self._save(step.value)
            elif type(step) is bytes:
                self.out += step
            else:
                step()  # type: ignore[operator]

    def _later(self, *steps: Callable[[], None] | bytes | _Item) -> None:
        """These, in this order, before what is already waiting."""
        self._todo += reversed(steps)

    # --- the memo -------------------------------------------------------------------------

    def _put(self, value: Value) -> None:
        self._put_as(_identity(value), value)

    def _put_as(self, identity: object, value: Value) -> None:
        index = self._first + len(self._memo)
        self._memo[identity] = index
        self._alive.append(value)
        self.out += (
            OP["BINPUT"] + bytes([index]) if index < 256 else OP["LONG_BINPUT"] + pack("<I", index)
        )

    def _get(self, index: int) -> None:
        self.out += (
            OP["BINGET"] + bytes([index]) if index < 256 else OP["LONG_BINGET"] + pack("<I", index)
        )

    # --- values ---------------------------------------------------------------------------

    def _save(self, value: Value) -> None:
        plain = ATOMS.get(type(value))
        if plain is not None:
            self.out += plain(value)
            return
        if isinstance(value, PersistentId):
            self._save_persistent(value)
            return
        index = self._memo.get(_identity(value))
        if index is not None:
            self._get(index)
        elif isinstance(value, str):
            self._text(value)
        else:
            _SAVERS[type(value) if type(value) in _SAVERS else _base(value)](self, value)

    def _text(self, value: str) -> None:
        self.out += text(value)
        self._put(value)

    def _tuple(self, value: tuple[Value, ...]) -> None:
        size = len(value)
        if not size:
            self.out += OP["EMPTY_TUPLE"]
            return
        if size > 3:
            self.out += OP["MARK"]

        def end() -> None:
            index = self._memo.get(_identity(value))
            if index is not None:  # it holds itself: by now it was written further inside
                self.out += OP["POP_MARK"] if size > 3 else OP["POP"] * size
                self._get(index)
                return
            self.out += OP["TUPLE"] if size > 3 else _SHORT[size]
            self._put(value)

        self._todo.append(end)
        self._todo += map(_Item, reversed(value))

    def _list(self, value: list[Value]) -> None:
        self.out += OP["EMPTY_LIST"]
        self._put(value)
        if len(value) == 1:
            self._later(_Item(value[0]), OP["APPEND"])
        elif value:
            self._batches(iter(value), OP["APPENDS"], 1, exact_list=len(value))

    def _dict(self, value: dict[Value, Value]) -> None:
        self.out += OP["EMPTY_DICT"]
        self._put(value)
        if len(value) == 1:
            ((key, item),) = value.items()
            self._later(_Item(key_value(key)), _Item(item), OP["SETITEM"])
        elif value:
            self._batches(_flat(value), OP["SETITEMS"], 2)

    def _batches(
        self, flat: Iterator[Value], end: bytes, width: int, exact_list: int | None = None
    ) -> None:
        """Batches of a built-in dict or list (`batch_dict_exact`, `batch_list_exact`): after a
        full batch of a dict follows another, even an empty one."""
        done = 0

        def batch() -> None:
            nonlocal done
            items = [_Item(value) for value in islice(flat, BATCH * width)]
            done += len(items)
            full = len(items) == BATCH * width
            again = full if exact_list is None else done < exact_list
            self._later(OP["MARK"], *items, end, *((batch,) if again else ()))

        batch()

    def _generic(self, flat: Iterator[Value], one: bytes, many: bytes, width: int) -> None:
        """Batches of anything else (`batch_dict`, `batch_list`), which look one item ahead."""

        def batch() -> None:
            items = [_Item(value) for value in islice(flat, BATCH * width)]
            if len(items) == width:
                self._later(*items, one)
            elif items:
                again = (batch,) if len(items) == BATCH * width else ()
                self._later(OP["MARK"], *items, many, *again)

        batch()

    def _set(self, value: SetOf) -> None:
        call = Call(_SETS[value.frozen], (list(value),), "REDUCE", value.offset)
        call.changes = value.changes
        self._call(call, value)

    def _bytes(self, value: bytes) -> None:
        if value:
            args: tuple[Value, ...] = (value.decode("latin1"), _LATIN)
            self._call(Call(_ENCODE, args, "REDUCE", 0), value)
        else:
            self._call(Call(_BYTES, (), "REDUCE", 0), value)

    def _blob(self, value: Blob) -> None:
        if value.mutable:
            whole: tuple[Value, ...] = (value.read(),) if len(value) else ()
            self._call(Call(_BYTEARRAY, whole, "REDUCE", 0), value)
        else:
            args = (value.read().decode("latin1"), _LATIN)
            self._call(Call(_ENCODE, args, "REDUCE", 0), value)

    def _global(self, value: Global) -> None:
        head, dot, last = value.name.rpartition(".")
        if dot:  # protocol 2 looks up no dotted names
            owner = Global(value.module, head, value.offset)
            self._call(Call(_GETATTR, (owner, last), "REDUCE", value.offset), value)
            return
        self.out += named(value.module, value.name)
        self._put(value)
        self._changes(value)

    def _extension(self, value: Extension) -> None:
        self.out += extension(value.code)
        self._changes(value)

    def _object(self, value: Call) -> None:
        self._call(value, value)

    def _call(self, call: Call, owner: Value) -> None:
        """Writes a call; the memo knows its result as `owner`."""
        made = self._replace(call) if self._replace and call is owner else None
        if made is not None:
            if isinstance(made, Call):
                self._call_itself(made, owner)
            else:
                self._later(_Item(made))
            return
        self._call_itself(call, owner)

    def _call_itself(self, call: Call, owner: Value) -> None:
        if id(owner) in self._open:
            raise UnsupportedError(
                "an object of the file is among its own arguments, and cannot be written alone"
            )
        self._open.add(id(owner))

        def made() -> None:
            self._open.discard(id(owner))
            self._put(owner)
            self._changes(call)

        self._later(*_opcodes_of(call), made)

    def _changes(self, value: Inert) -> None:
        """What was done to an object after it was made, in the order of `save_reduce`."""
        if value.changes is None:
            return
        changes = value.changes
        steps: list[Callable[[], None] | bytes | _Item] = []
        if changes.items:
            steps.append(lambda: self._generic(iter(changes.items), OP["APPEND"], OP["APPENDS"], 1))
        if changes.pairs:
            pairs = changes.pairs
            steps.append(lambda: self._generic(_flat(pairs), OP["SETITEM"], OP["SETITEMS"], 2))
        if changes.added:
            steps += [OP["MARK"], *map(_Item, changes.added), OP["ADDITEMS"]]
        for state in changes.states:
            steps += [_Item(state), OP["BUILD"]]
        self._later(*steps)

    def _save_persistent(self, pid: PersistentId) -> None:
        made = self._replace(pid) if self._replace else None
        if made is not None and made is not pid:
            index = self._memo.get(_identity(made))
            if index is not None:
                self._get(index)
            else:
                self._later(_Item(made))
            return
        value = self._persistent(pid) if self._persistent else pid.value
        self._later(_Item(value), OP["BINPERSID"], lambda: self._changes(pid))

    def _out_of_band(self, value: Value) -> None:
        raise UnsupportedError("a buffer that was kept outside the pickle is not in the file")


def _opcodes_of(call: Call) -> list[bytes | _Item]:
    """What makes the object, by the opcode that the source used, as far as protocol 2 has it."""
    func, args, how = call.func, call.args, call.opcode
    if how in ("OBJ", "INST"):
        return [OP["MARK"], _Item(func), *map(_Item, args), OP["OBJ"]]
    if how.startswith("NEWOBJ_EX"):
        whole: tuple[Value, ...] = (func, args if how[-1] != "*" else args[0], call.kwargs or {})
        return [_Item(_NEWOBJ_EX), _Item(whole), OP["REDUCE"]]
    packed: Value = args[0] if how.endswith("*") else args
    return [
        _Item(func),
        _Item(packed),
        OP["NEWOBJ"] if how.startswith("NEWOBJ") else OP["REDUCE"],
    ]


def _flat(pairs: dict[Value, Value]) -> Iterator[Value]:
    for key, item in pairs.items():
        yield key_value(key)
        yield item


def _identity(value: Value) -> object:
    """What the memo knows a value by: a global by its name, all else by being that object."""
    return (value.module, value.name) if isinstance(value, Global) else id(value)


_SAVERS: dict[type, Callable[..., None]] = {
    tuple: PickleWriter._tuple,
    list: PickleWriter._list,
    dict: PickleWriter._dict,
    bytes: PickleWriter._bytes,
    SetOf: PickleWriter._set,
    Blob: PickleWriter._blob,
    Global: PickleWriter._global,
    Extension: PickleWriter._extension,
    Call: PickleWriter._object,
    Inert: PickleWriter._out_of_band,
}


def _base(value: Value) -> type:
    """The kind that a subclass (a tensor's call) is written as."""
    return next(kind for kind in _SAVERS if isinstance(value, kind))
