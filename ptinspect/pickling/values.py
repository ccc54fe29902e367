"""What a pickle says, as values that can do nothing.

None, bool, int, float, str, bytes, tuple, list and dict stand for themselves: their
meaning is fixed by the format. All else that a pickle can name, call or build is one of
the classes below, which only record. Identity is kept: what was one object in the program
that wrote the file is one object here, cycles included.

Dictionaries are Python's own, in stream order. A key is its value, where hashing it is
cheap; a tuple, a frozenset, long bytes, a huge number, and any number that does not count on
in a dictionary of thousands, is wrapped in a `Key`, so that no input can make hashing expensive
(`pickling.keys` says how). `key_value` gives back what the file had.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mmap import mmap

Buffer: TypeAlias = "bytes | mmap"
"""What the machine reads: a whole record, or a map of the file."""

Value: TypeAlias = object
"""Any inert value: see the module's docstring for the closed set of kinds."""


class Inert:
    """Base of what a pickle names or makes. `offset`: of the opcode that made it.

    Anything that later opcodes did to it (BUILD, APPENDS, SETITEMS, ADDITEMS) is recorded
    in `changes`, whatever it is: a global that is built upon is how an attack looks.
    """

    __slots__ = ("changes", "offset")

    offset: int
    changes: Changes | None

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.changes = None

    def change(self) -> Changes:
        """The record of changes, made on first use."""
        if self.changes is None:
            self.changes = Changes()
        return self.changes

    @property
    def state(self) -> Value:
        """What BUILD was given (the last one, where there are several); None without."""
        return self.changes.states[-1] if self.changes and self.changes.states else None

    @property
    def items(self) -> list[Value]:
        """What was appended (a subclass of list, a deque)."""
        return self.changes.items if self.changes else []

    @property
    def pairs(self) -> dict[Value, Value]:
        """What was set by key (an OrderedDict, a defaultdict, a subclass of dict)."""
        return self.changes.pairs if self.changes else {}

    @property
    def added(self) -> list[Value]:
        """What ADDITEMS added (a subclass of set)."""
        return self.changes.added if self.changes else []


class Changes:
    """What opcodes did to an object after it was made, each kind in stream order."""

    __slots__ = ("added", "items", "pairs", "states")

    def __init__(self) -> None:
        self.states: list[Value] = []
        self.items: list[Value] = []
        self.pairs: dict[Value, Value] = {}
        self.added: list[Value] = []


class Global(Inert):
    """A name that the pickle would import: never imported here. One object per name and
    stream. `module` and `name` are what Python 3 would look up (`builtins` for Python 2's
    `__builtin__`, as `pickle.Unpickler` does below protocol 3); `name` may be dotted. `path` is
    `module.name`. `uses` counts how often it was pushed on the stack."""

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
    """An extension code (EXT1, EXT2, EXT4): whatever `copyreg` has registered there."""

    __slots__ = ("code",)

    def __init__(self, code: int, offset: int) -> None:
        super().__init__(offset)
        self.code = code

    def __repr__(self) -> str:
        return f"Extension({self.code})"


class Call(Inert):
    """A call that the pickle asks for: never made here. `how` is the opcode (REDUCE, NEWOBJ,
    NEWOBJ_EX, OBJ or INST); `func` what would be called, `args` the arguments.

    An object's attributes are the `state` that BUILD gave it.
    """

    __slots__ = ("args", "func", "opcode", "kwargs")

    def __init__(
        self,
        func: Value,
        args: tuple[Value, ...],
        opcode: str,
        offset: int,
        kwargs: dict[Value, Value] | None = None,
    ) -> None:
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
    """A reference to something outside the pickle (PERSID, BINPERSID): torch's storages,
    and in legacy files the classes of modules with their source."""

    __slots__ = ("value",)

    def __init__(self, value: Value, offset: int) -> None:
        self.offset = offset
        self.changes = None
        self.value = value

    def __repr__(self) -> str:
        kind = self.value[0] if isinstance(self.value, tuple) and self.value else self.value
        return f"PersistentId({kind!r}, …)"


class OutOfBand(Inert):
    """A buffer that `pickle.dumps(buffer_callback=…)` kept outside the stream (NEXT_BUFFER)."""

    __slots__ = ("index", "readonly")

    def __init__(self, index: int, offset: int) -> None:
        super().__init__(offset)
        self.index = index
        self.readonly = False

    def __repr__(self) -> str:
        return f"OutOfBand({self.index})"


class SetOf(Inert):
    """A set or frozenset, in stream order: members are the keys of `members`."""

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
    """A long bytes or bytearray object, left where it lies: `length` bytes at `start` of the
    stream's buffer. Shorter ones are plain `bytes`."""

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
        """A copy of the bytes, or of a part of them."""
        stop = self.length if stop is None else min(stop, self.length)
        return bytes(self.buffer[self.start + start : self.start + max(start, stop)])

    def digest(self) -> bytes:
        """The SHA-256 of the bytes, which are not copied for it."""
        from hashlib import sha256

        with memoryview(self.buffer) as whole, whole[self.start : self.start + len(self)] as part:
            return sha256(part).digest()

    def __repr__(self) -> str:
        return f"Blob({self.length} bytes)"


class Python2Str(str):
    """A `str` of Python 2 that is not ASCII: the text as read (utf-8, else latin1), and the
    bytes that the file holds."""

    __slots__ = ("raw",)

    raw: bytes

    def __new__(cls, text: str, raw: bytes) -> Python2Str:
        made = super().__new__(cls, text)
        made.raw = raw
        return made


class Key:
    """A dictionary key whose own hash could be made expensive: hashed once, by a token that is
    equal for equal keys."""

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
    """What the file had as this dictionary key."""
    return key.value if isinstance(key, Key) else key
