"""Inert values: the result of running a pickle without importing or calling anything.

None, bool, int, float, str, bytes, tuple, list and dict represent themselves, because the format
fixes their meaning. Everything else that a pickle can name, call or build is an instance of one of
the classes below, which only record. Identity is preserved, cycles included: one object in the
program that wrote the file is one object here.

Dictionaries are Python dicts in stream order. Keys that are cheap to hash are used directly; others
are wrapped in a `Key` (see `pickling.containers`), so that no input can make hashing
expensive. `key_value` returns the original key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from mmap import mmap

Buffer: TypeAlias = "bytes | mmap"
"""The machine's input: a complete record, or a map of the file."""

Value: TypeAlias = object
"""Any inert value; the module's docstring lists the kinds."""

SCRIPT_OBJECT = "SCRIPT"
"""The `opcode` of a call that stands for a module of TorchScript."""


class Inert:
    """Base class of everything that a pickle names, calls or builds.

    Later opcodes that modify the object (BUILD, APPENDS, SETITEMS, ADDITEMS) are recorded in
    `changes`, whatever the object is: attacks build upon globals, for example.

    Attributes:
        offset: position of the opcode that created the object.
    """

    __slots__ = ("changes", "offset")

    offset: int
    changes: Changes | None

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.changes = None

    def change(self) -> Changes:
        """Return the record of changes, and create it on first use."""
        if self.changes is None:
            self.changes = Changes()
        return self.changes

    @property
    def state(self) -> Value:
        """The argument of the last BUILD, or None."""
        return self.changes.states[-1] if self.changes and self.changes.states else None

    @property
    def items(self) -> list[Value]:
        """Appended items (subclasses of list, deque)."""
        return self.changes.items if self.changes else []

    @property
    def pairs(self) -> dict[Value, Value]:
        """Items set by key (OrderedDict, defaultdict, subclasses of dict)."""
        return self.changes.pairs if self.changes else {}

    @property
    def added(self) -> list[Value]:
        """Members added by ADDITEMS (subclasses of set)."""
        return self.changes.added if self.changes else []


class Changes:
    """Modifications of an object after its creation, each kind in stream order."""

    __slots__ = ("added", "items", "pairs", "states")

    def __init__(self) -> None:
        self.states: list[Value] = []
        self.items: list[Value] = []
        self.pairs: dict[Value, Value] = {}
        self.added: list[Value] = []


class Global(Inert):
    """A name that the pickle would import. It is never imported here.

    There is one object per name and stream.

    Attributes:
        module, name: the name that Python 3 would look up: below protocol 3, `builtins` for
            Python 2's `__builtin__`, as in `pickle.Unpickler`. `name` may contain dots.
        path: `module.name`.
        uses: number of times it was pushed on the stack.
    """

    __slots__ = ("module", "name", "path", "uses")

    def __init__(self, module: str, name: str, offset: int) -> None:
        self.offset = offset
        self.changes = None
        self.module = module
        self.name = name
        self.path = f"{module}.{name}"
        self.uses = 0

    def __repr__(self) -> str:
        return f"Global({self.path!r})"


class Extension(Inert):
    """An extension code (EXT1, EXT2, EXT4), which `copyreg` would resolve."""

    __slots__ = ("code",)

    def __init__(self, code: int, offset: int) -> None:
        super().__init__(offset)
        self.code = code

    def __repr__(self) -> str:
        return f"Extension({self.code})"


class Call(Inert):
    """A call that the pickle asks for. It is never executed here.

    The attributes of the object are the `state` of its BUILD.

    Attributes:
        func, args, kwargs: the callable and its arguments.
        opcode: REDUCE, NEWOBJ, NEWOBJ_EX, OBJ or INST. A `*` at the end (`REDUCE*`) means that
            `args` holds one inert object, whose items would be the arguments.
    """

    __slots__ = ("args", "func", "kwargs", "opcode")

    def __init__(
        self, func: Value, args: tuple[Value, ...], opcode: str, offset: int,
        kwargs: dict[Value, Value] | None = None,
    ) -> None:  # fmt: skip
        self.offset = offset
        self.changes = None
        self.func = func
        self.args = args
        self.opcode = opcode
        self.kwargs = kwargs

    def __repr__(self) -> str:
        name = self.func.path if isinstance(self.func, Global) else type(self.func).__name__
        return f"Call({name}, {len(self.args)} arguments, @ {self.offset})"


class PersistentId(Inert):
    """A reference to an object outside the pickle (PERSID, BINPERSID).

    torch refers to storages this way and, in legacy files, to module classes and their source.
    """

    __slots__ = ("value",)

    def __init__(self, value: Value, offset: int) -> None:
        self.offset = offset
        self.changes = None
        self.value = value

    def __repr__(self) -> str:
        kind = self.value[0] if isinstance(self.value, tuple) and self.value else self.value
        return f"PersistentId({kind!r}, …)"


class TensorRun(NamedTuple):
    """Values that all tensors of one stream share when `tensor_fastpath` reads them.

    Attributes:
        rebuild: the global `torch._utils._rebuild_tensor_v2`.
        word: the string "storage".
        ending: sixth part of the persistent id: `(None,)` in the legacy stream, else `()`.
        hooks: the global `collections.OrderedDict`.
    """

    rebuild: Global
    word: str
    ending: tuple[Value, ...]
    hooks: Global


class TensorForm(NamedTuple):
    """What the calls of tensors of one stream with the same type, shape and so on have in common.

    Attributes:
        storage_type: the class that the persistent id names, e.g. `torch.FloatStorage`.
        numel, storage_offset: in elements.
        id_distance: distance from the BINPERSID opcode to the REDUCE opcode, in bytes.
        has_own_location: True if each call has a string for the location, put into the memo.
    """

    run: TensorRun
    storage_type: Global
    numel: int
    storage_offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool
    id_distance: int = 0
    has_own_location: bool = False


class TensorCall(Call):
    """A call of `_rebuild_tensor_v2` that `tensor_fastpath` read in one step.

    Its parts are plain attributes. `args` and the values that the opcodes put into the memo are
    built on demand. The unpickler's superinstruction sets all attributes.

    Attributes:
        form: the parts that it shares with other calls; one object for all of them.
        storage_key, location: the other parts of the persistent id.
        first_memo_index: memo index of `storage_key`; the other memo entries follow it. None
            once the entries have been written to the memo.
    """

    __slots__ = ("_args", "first_memo_index", "form", "location", "storage_key")

    opcode = "REDUCE"
    kwargs = None

    form: TensorForm
    storage_key: str
    location: str
    first_memo_index: int | None
    _args: tuple[Value, ...] | None

    @property
    def func(self) -> Value:  # type: ignore[override]
        return self.form.run.rebuild

    @property
    def args(self) -> tuple[Value, ...]:  # type: ignore[override]
        """(storage, storage_offset, size, stride, requires_grad, backward_hooks)."""
        if self._args is None:
            form = self.form
            run = form.run
            value = (run.word, form.storage_type, self.storage_key, self.location, form.numel)
            storage = PersistentId(value + run.ending, self.persistent_id_offset)
            hooks = Call(run.hooks, (), "REDUCE", self.offset - 12)
            # New tuples: those of another tensor are other objects in the program, too.
            shape = (form.storage_offset, (*form.size,), (*form.stride,))
            self._args = (storage, *shape, form.requires_grad, hooks)
        return self._args

    @property
    def persistent_id_offset(self) -> int:
        """Position of the BINPERSID opcode."""
        return self.offset - self.form.id_distance

    @property
    def storage(self) -> PersistentId:
        """The storage's persistent id: ("storage", type, key, location, numel)."""
        storage = self.args[0]
        assert isinstance(storage, PersistentId)
        return storage

    def rename_storage(self, key: str) -> None:
        """Change the storage's key, also in the persistent id if that exists already."""
        self.storage_key = key
        if self._args is not None and isinstance(self.storage.value, tuple):
            self.storage.value = (*self.storage.value[:2], key, *self.storage.value[3:])

    def memo_entries(self) -> list[Value]:
        """Return the values that the opcodes put into the memo, in order; not empty tuples."""
        entries: list[Value] = [self.storage_key]
        entries += [self.location] if self.form.has_own_location else []
        entries.append(self.storage.value)
        entries += [ints for ints in self.args[2:4] if ints]
        return [*entries, self.args[5], self.args, self]

    def memo_value(self, index: int) -> Value:
        """Return the memo's value at `index`, if this call represents that entry, else `self`."""
        if self.first_memo_index is None or not 0 <= index - self.first_memo_index < 8:
            return self
        entries = self.memo_entries()
        number = index - self.first_memo_index
        return entries[number] if number < len(entries) else self

    def expand_memo(self, memo: list[Value]) -> None:
        """Write the entries that this call represents to the memo, so that they can change."""
        if self.first_memo_index is not None:
            for index, value in enumerate(self.memo_entries(), self.first_memo_index):
                if memo[index] is self:
                    memo[index] = value
            self.first_memo_index = None


class OutOfBand(Inert):
    """A buffer outside the stream (NEXT_BUFFER), as `pickle.dumps(buffer_callback=…)` leaves it."""

    __slots__ = ("index", "readonly")

    def __init__(self, index: int, offset: int) -> None:
        super().__init__(offset)
        self.index = index
        self.readonly = False

    def __repr__(self) -> str:
        return f"OutOfBand({self.index})"


class SetOf(Inert):
    """A set or frozenset in stream order. The members are the keys of `members`."""

    __slots__ = ("frozen", "members")

    def __init__(self, frozen: bool, offset: int) -> None:
        super().__init__(offset)
        self.frozen = frozen
        self.members: dict[Value, None] = {}

    def __iter__(self) -> Iterator[Value]:
        return map(key_value, self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"{'frozenset' if self.frozen else 'set'} of {len(self.members)}"


class Blob(Inert):
    """A long bytes or bytearray object, not copied: `length` bytes of `buffer` from `start`.

    Shorter ones are plain `bytes`.
    """

    __slots__ = ("buffer", "length", "mutable", "start")

    def __init__(
        self, buffer: Buffer, start: int, length: int, offset: int, mutable: bool = False
    ) -> None:
        super().__init__(offset)
        self.buffer = buffer
        self.start = start
        self.length = length
        self.mutable = mutable

    def __len__(self) -> int:
        return self.length

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        stop = self.length if stop is None else min(stop, self.length)
        return bytes(self.buffer[self.start + start : self.start + max(start, stop)])

    def digest(self) -> bytes:
        """Return the SHA-256 of the bytes without copying them."""
        from hashlib import sha256

        with memoryview(self.buffer) as view, view[self.start : self.start + len(self)] as part:
            return sha256(part).digest()

    def __repr__(self) -> str:
        return f"Blob({self.length} bytes)"


class Python2Str(str):
    """A `str` of Python 2 that is not ASCII: decoded as utf-8 or latin1, with its raw bytes."""

    __slots__ = ("raw",)

    raw: bytes

    def __new__(cls, text: str, raw: bytes) -> Python2Str:
        self = super().__new__(cls, text)
        self.raw = raw
        return self


class Key:
    """A dictionary key whose own hash could be expensive: hashed once, by a token that is equal for
    equal keys."""

    __slots__ = ("hashed", "token", "value")

    def __init__(self, value: Value, token: object) -> None:
        self.value = value
        self.token = token
        self.hashed = hash(token)

    def __hash__(self) -> int:
        return self.hashed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return self.token is other.token or self.token == other.token

    def __repr__(self) -> str:
        return f"Key({type(self.value).__name__})"


def key_value(key: Value) -> Value:
    """Return the dictionary key that the file contains."""
    return key.value if isinstance(key, Key) else key


def type_name(value: Value) -> str:
    """Return the Python type that a value represents, for messages."""
    if isinstance(value, SetOf):
        return "frozenset" if value.frozen else "set"
    if isinstance(value, Blob):
        return "bytearray" if value.mutable else "bytes"
    if isinstance(value, Call):
        return "object"
    return type(key_value(value)).__name__
