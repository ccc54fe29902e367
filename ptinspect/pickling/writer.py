"""Writes inert values as a pickle of protocol 2, opcode for opcode as `_pickle.c` would.

torch.save pickles with protocol 2 and CPython's C pickler. So the order of memo entries, the
batches of a thousand and the names of Python 2 are those of `Modules/_pickle.c` (`save_*`,
`batch_*`, `save_reduce`): a pickle of torch.save that the machine has read is written with the same
bytes. Values that need opcodes of later protocols are written as protocol 2 does: bytes as a call
of `_codecs.encode`, sets as a call.

Nothing recurses: a method that writes a value with parts is a generator. It yields each part where
the part belongs, and goes on when that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from struct import Struct, pack
from typing import NamedTuple

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
    TensorCall,
    TensorForm,
    Value,
    key_value,
)

BATCH = 1000
"""Items of one APPENDS or SETITEMS."""

OP = {row.name: bytes([row.code]) for row in OPCODES}
"""The opcodes' bytes by name."""

_SHORT_TUPLES = (OP["EMPTY_TUPLE"], OP["TUPLE1"], OP["TUPLE2"], OP["TUPLE3"])

_ENCODE = Global("_codecs", "encode", 0)
_LATIN = "latin1"  # one object, so that it is in the memo once
_BYTES = Global("builtins", "bytes", 0)
_BYTEARRAY = Global("builtins", "bytearray", 0)
_GETATTR = Global("builtins", "getattr", 0)
_SETS = {False: Global("builtins", "set", 0), True: Global("builtins", "frozenset", 0)}
_NEWOBJ_EX = Global("copyreg", "__newobj_ex__", 0)


class _WrittenForm(NamedTuple):
    """What the calls of tensors of one form have in common: the bytes before the key of the
    storage, and those after its location. The latter are `size` bytes with `puts` memo indices: as
    a number, `first + index * step`, if the indices begin with `index`."""

    start: bytes
    puts: int
    size: int
    first: int
    step: int


class PickleWriter:
    def __init__(
        self,
        replace: Callable[[Inert], Value] | None = None,
        persistent: Callable[[PersistentId], Value] | None = None,
    ) -> None:
        """Write with `replace(call or persistent id)` in place of each, under the identity of the
        original (None: the original), and `persistent(id)` as its value (default: as it was).
        Nothing else may refer to the tuples of a `TensorCall` that `replace` returns: the memo only
        counts them."""
        self.out = bytearray()
        self._replace = replace
        self._persistent = persistent
        self._memo: dict[object, int] = {}
        self._memo_size = 0
        self._tensor_forms: dict[int, _WrittenForm] = {}
        self._alive: list[Value] = []  # so that no identity is reused
        self._open: set[int] = set()  # calls whose arguments are being written

    def dump(self, root: Value) -> bytes:
        """Return the pickle of `root`. UnsupportedError if it contains an out-of-band buffer, or an
        object that is among its own arguments."""
        self.out += OP["PROTO"] + b"\x02"
        save = self._save
        pending: list[Iterator[Value]] = [iter((root,))]
        while pending:
            for value in pending[-1]:
                parts = save(value)
                if parts is not None:
                    pending.append(parts)
                    break
            else:
                pending.pop()
        self.out += OP["STOP"]
        return bytes(self.out)

    def _put(self, value: Value) -> None:
        index = self._memo[_identity(value)] = self._memo_size
        self._alive.append(value)
        self._memo_size = index + 1
        self.out += b"q%c" % index if index < 256 else _pack_memo(b"r", index)

    def _save(self, value: Value) -> Iterator[Value] | None:
        """Write a value without parts; or return the generator that writes it."""
        kind = type(value)
        if kind is str or kind is TensorCall:  # most values of a state_dict
            index = self._memo.get(id(value))
            if index is None:
                return _SAVERS[kind](self, value)
            self.out += _encode_get(index)
            return None
        encode_atom = _ATOMS.get(kind)
        if encode_atom is not None:
            self.out += encode_atom(value)
            return None
        if isinstance(value, PersistentId):
            return self._save_persistent_id(value)
        index = self._memo.get(_identity(value))
        if index is not None:
            self.out += _encode_get(index)
            return None
        if kind not in _SAVERS:  # a subclass
            kind = next(base for base in _SAVERS if isinstance(value, base))
        return _SAVERS[kind](self, value)

    def _save_str(self, value: str) -> None:
        index = self._memo[id(value)] = self._memo_size
        self._alive.append(value)
        self._memo_size = index + 1
        if type(value) is str and index >= 256:  # two of these for each tensor of a state_dict
            raw = value.encode("utf-8", "surrogatepass")
            self.out += b"%b%b%b" % (_pack_memo(b"X", len(raw)), raw, _pack_memo(b"r", index))
            return
        put = b"q%c" % index if index < 256 else _pack_memo(b"r", index)
        self.out += _encode_text(value) + put

    def _save_tuple(self, value: tuple[Value, ...]) -> Iterator[Value]:
        size = len(value)
        if not size:
            self.out += OP["EMPTY_TUPLE"]
            return
        if size > 3:
            self.out += OP["MARK"]
        yield from value
        index = self._memo.get(id(value))
        if index is not None:  # it contains itself, and has been written in the meantime
            self.out += OP["POP_MARK"] if size > 3 else OP["POP"] * size
            self.out += _encode_get(index)
            return
        self.out += OP["TUPLE"] if size > 3 else _SHORT_TUPLES[size]
        self._put(value)

    def _save_list(self, value: list[Value]) -> Iterator[Value]:
        self.out += OP["EMPTY_LIST"]
        self._put(value)
        return self._save_items(value, "APPEND", exact=True)

    def _save_dict(self, value: dict[Value, Value]) -> Iterator[Value]:
        self.out += OP["EMPTY_DICT"]
        self._put(value)
        return self._save_items(_flatten(value), "SETITEM", exact=True)

    def _save_items(
        self, items: Iterable[Value], opcode: str, *, exact: bool = False
    ) -> Iterator[Value]:
        """Write items, or keys and values in turn, in batches. A single item needs no MARK.

        `exact`: of a built-in list or dict (`batch_list_exact`, `batch_dict_exact`), which look for
        a single item only once, and after the last full batch of a dict write an empty one.
        """
        width = 2 if opcode == "SETITEM" else 1
        remaining, is_first = iter(items), True
        while True:
            batch = list(islice(remaining, BATCH * width))
            if not batch and (is_first or not exact or width == 1):
                return
            if len(batch) == width and (is_first or not exact):
                yield from batch
                self.out += OP[opcode]
                return
            self.out += OP["MARK"]
            yield from batch
            self.out += OP[f"{opcode}S"]
            if len(batch) < BATCH * width:
                return
            is_first = False

    def _save_set(self, value: SetOf) -> Iterator[Value]:
        call = Call(_SETS[value.frozen], (list(value),), "REDUCE", value.offset)
        call.changes = value.changes
        return self._save_call_as(call, value)

    def _save_bytes(self, value: bytes | Blob) -> Iterator[Value]:
        raw = value if isinstance(value, bytes) else value.read()
        if isinstance(value, Blob) and value.mutable:
            call = Call(_BYTEARRAY, (raw,) if raw else (), "REDUCE", 0)
        elif raw:
            call = Call(_ENCODE, (raw.decode("latin1"), _LATIN), "REDUCE", 0)
        else:
            call = Call(_BYTES, (), "REDUCE", 0)
        return self._save_call_as(call, value)

    def _save_global(self, value: Global) -> Iterator[Value]:
        head, dot, last = value.name.rpartition(".")
        if dot:  # protocol 2 does not resolve dotted names
            parent = Global(value.module, head, value.offset)
            return self._save_call_as(Call(_GETATTR, (parent, last), "REDUCE", value.offset), value)
        self.out += _encode_global(value.module, value.name)
        self._put(value)
        return self._save_changes(value)

    def _save_extension(self, value: Extension) -> Iterator[Value]:
        if value.code < 256:
            self.out += OP["EXT1"] + bytes([value.code])
        elif value.code < 1 << 16:
            self.out += OP["EXT2"] + pack("<H", value.code)
        else:
            self.out += OP["EXT4"] + pack("<i", value.code)
        return self._save_changes(value)

    def _save_persistent_id(self, pid: PersistentId) -> Iterator[Value]:
        replacement = self._replace(pid) if self._replace else None
        if replacement is not None and replacement is not pid:
            yield replacement
            return
        yield self._persistent(pid) if self._persistent else pid.value
        self.out += OP["BINPERSID"]
        yield from self._save_changes(pid)

    def _save_call(self, call: Call) -> Iterator[Value] | None:
        replacement = self._replace(call) if self._replace else None
        if replacement is None:
            return self._save_call_as(call, call)
        is_plain = type(replacement) is TensorCall and replacement.changes is None
        if is_plain and self._save_tensor(replacement, call):  # type: ignore[arg-type]
            return None
        if isinstance(replacement, Call):
            return self._save_call_as(replacement, call)
        return iter((replacement,))

    def _save_call_as(self, call: Call, identity: Value) -> Iterator[Value]:
        """Write a call, if possible with the opcode of the source. The memo knows its result as
        `identity`."""
        if id(identity) in self._open:
            raise UnsupportedError(
                "an object of the file is among its own arguments, which cannot be written"
            )
        self._open.add(id(identity))
        func, args, opcode = call.func, call.args, call.opcode
        packed: Value = args[0] if opcode.endswith("*") else args
        if opcode in ("OBJ", "INST"):
            self.out += OP["MARK"]
            yield func
            yield from args
            self.out += OP["OBJ"]
        elif opcode.startswith("NEWOBJ_EX"):
            yield _NEWOBJ_EX
            yield (func, packed, call.kwargs or {})
            self.out += OP["REDUCE"]
        else:
            yield func
            yield packed
            self.out += OP["NEWOBJ" if opcode.startswith("NEWOBJ") else "REDUCE"]
        self._open.discard(id(identity))
        self._put(identity)
        yield from self._save_changes(call)

    def _save_changes(self, value: Inert) -> Iterator[Value]:
        """Write the changes of an object, in the order of `save_reduce`."""
        changes = value.changes
        if changes is None:
            return
        yield from self._save_items(changes.items, "APPEND")
        yield from self._save_items(_flatten(changes.pairs), "SETITEM")
        if changes.added:
            self.out += OP["MARK"]
            yield from changes.added
            self.out += OP["ADDITEMS"]
        for state in changes.states:
            yield state
            self.out += OP["BUILD"]

    def _refuse_buffer(self, value: Value) -> None:
        raise UnsupportedError("a buffer that is stored outside the pickle is not in the file")

    def _save_tensor(self, tensor: TensorCall, identity: Value) -> bool:
        """Write the call of a dense tensor at once, several times faster than part by part. Return
        False if the parts that all tensors share, which come with the first one, are not in the
        memo yet."""
        form = self._tensor_forms.get(id(tensor.form))
        if form is None:
            form = self._new_form(tensor.form)
            if form is None:
                return False
            self._tensor_forms[id(tensor.form)] = form
        self.out += form.start
        self._save(tensor.storage_key)  # tensors that share a storage share this object
        self._save(tensor.location)
        index = self._memo_size
        self._memo_size = end = index + form.puts
        self.out += (form.first + index * form.step).to_bytes(form.size, "little")
        self._memo[id(identity)] = end - 1
        self._alive.append(identity)
        return True

    def _new_form(self, form: TensorForm) -> _WrittenForm | None:
        """Return the form of a tensor; None if the memo lacks its globals, or if it has so few
        entries that they are written as single bytes."""
        run = form.run
        names = (run.rebuild, run.word, form.storage_type, run.hooks)
        indexes = [self._memo.get(_identity(name), -1) for name in names]
        if min(indexes) < 0 or self._memo_size < 256:
            return None
        gets = [_encode_get(index) for index in indexes]
        self._alive.append(form)
        pieces = [_encode_int(form.numel) + b"tr"]
        piece = b"Q" + _encode_int(form.storage_offset)
        for numbers in (form.size, form.stride):
            body, size = b"".join(map(_encode_int, numbers)), len(numbers)
            piece += OP["MARK"] + body + OP["TUPLE"] if size > 3 else body + _SHORT_TUPLES[size]
            if numbers:  # an empty tuple is not put into the memo
                pieces.append(piece + b"r")
                piece = b""
        flag = OP["NEWTRUE"] if form.requires_grad else OP["NEWFALSE"]
        pieces += [piece + flag + gets[3] + b")Rr", b"tr", b"Rr"]
        layout, step = b"", 0
        for number, piece in enumerate(pieces):
            layout += piece
            step += 1 << 8 * len(layout)
            layout += pack("<I", number)
        first = int.from_bytes(layout, "little")
        start = gets[0] + b"((" + gets[1] + gets[2]
        return _WrittenForm(start, len(pieces), len(layout), first, step)


_SAVERS: dict[type, Callable[..., Iterator[Value] | None]] = {
    tuple: PickleWriter._save_tuple,
    list: PickleWriter._save_list,
    dict: PickleWriter._save_dict,
    str: PickleWriter._save_str,
    bytes: PickleWriter._save_bytes,
    SetOf: PickleWriter._save_set,
    Blob: PickleWriter._save_bytes,
    Global: PickleWriter._save_global,
    Extension: PickleWriter._save_extension,
    Call: PickleWriter._save_call,
    TensorCall: PickleWriter._save_call,
    PersistentId: PickleWriter._save_persistent_id,
    Inert: PickleWriter._refuse_buffer,
}


def _flatten(pairs: dict[Value, Value]) -> Iterator[Value]:
    for key, item in pairs.items():
        yield key_value(key)
        yield item


def _identity(value: Value) -> object:
    """Return the memo's key of a value: a global's name, or the identity of another object."""
    return (value.module, value.name) if isinstance(value, Global) else id(value)


# The opcodes that hold a value

_pack_memo = Struct("<cI").pack


def _encode_int(value: int) -> bytes:
    """Return the shortest of BININT1, BININT2, BININT, LONG1 and LONG4."""
    if 0 <= value < 1 << 8:
        return b"K%c" % value
    if 0 <= value < 1 << 16:
        return OP["BININT2"] + pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return OP["BININT"] + pack("<i", value)
    size = (value.bit_length() >> 3) + 1
    raw = value.to_bytes(size, "little", signed=True)
    if value < 0 and size > 1 and raw[-1] == 0xFF and raw[-2] & 0x80:
        raw = raw[:-1]
    if len(raw) < 256:
        return OP["LONG1"] + bytes([len(raw)]) + raw
    return OP["LONG4"] + pack("<i", len(raw)) + raw


# By type: the encoding of values that are not put into the memo.
_ATOMS: dict[type, Callable[..., bytes]] = {
    type(None): lambda value: OP["NONE"],
    bool: lambda value: OP["NEWTRUE"] if value else OP["NEWFALSE"],
    int: _encode_int,
    float: lambda value: OP["BINFLOAT"] + pack(">d", value),
}


def _encode_text(value: str) -> bytes:
    """Return BINUNICODE, or for a `str` of Python 2 SHORT_BINSTRING or BINSTRING."""
    if not isinstance(value, Python2Str):
        raw = value.encode("utf-8", "surrogatepass")
        return _pack_memo(b"X", len(raw)) + raw
    size = len(value.raw)
    if size < 256:
        return OP["SHORT_BINSTRING"] + bytes([size]) + value.raw
    return OP["BINSTRING"] + pack("<i", size) + value.raw


def _encode_get(index: int) -> bytes:
    return b"h%c" % index if index < 256 else _pack_memo(b"j", index)


def _encode_global(module: str, name: str) -> bytes:
    """Return GLOBAL with the name of protocols below 3, such as `__builtin__.set` (`pickle.Pickler`
    with `fix_imports`)."""
    from _compat_pickle import REVERSE_IMPORT_MAPPING, REVERSE_NAME_MAPPING

    if (module, name) in REVERSE_NAME_MAPPING:
        module, name = REVERSE_NAME_MAPPING[module, name]
    else:
        module = REVERSE_IMPORT_MAPPING.get(module, module)
    # Protocol 4 has names that do not fit into a line of UTF-8.
    lines = f"{module}\n{name}\n".encode(errors="replace")
    if not module or not name or lines.decode().split("\n") != [module, name, ""]:
        raise UnsupportedError(f"protocol 2 has no way to write {name!r} of the module {module!r}")
    return OP["GLOBAL"] + lines
