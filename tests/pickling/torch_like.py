"""Streams as torch writes them, opcode by opcode, without torch (a test holds them against it).

They are what the superinstruction reads, and the ground on which it is attacked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import NamedTuple

from ptinspect.pickling.opcodes import BY_CODE, Arg


class Dense(NamedTuple):
    """A tensor's facts, in the order of the stream. `key` is the storage's."""

    key: str
    numel: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    kind: str = "FloatStorage"
    location: str = "cpu"
    grad: bool = False
    parameter: bool = False


class Writer:
    """As `pickle.Pickler` at protocol 2: what it has written before, it recalls."""

    def __init__(self, legacy: bool = False, padding: int = 0) -> None:
        """`padding`: a list around it all, remembered that often, so that the tensors' indices in
        the memo are no bytes."""
        self.out = bytearray(b"\x80\x02")
        self.known: dict[object, int] = {}
        self.count = 0
        self.legacy = legacy
        self.padding = padding

    def put(self) -> None:
        low = self.count < 256
        self.out += b"q%c" % self.count if low else struct.pack("<cI", b"r", self.count)
        self.count += 1

    def got(self, name: object) -> bool:
        index = self.known.get(name)
        if index is None:
            self.known[name] = self.count
            return False
        self.out += b"h%c" % index if index < 256 else struct.pack("<cI", b"j", index)
        return True

    def string(self, text: str, shared: bool = True) -> None:
        if not shared or not self.got(text):
            self.out += struct.pack("<cI", b"X", len(text)) + text.encode()
            self.put()

    def named(self, module: str, name: str) -> None:
        if not self.got((module, name)):
            self.out += f"c{module}\n{name}\n".encode()
            self.put()

    def integer(self, value: int) -> None:
        if 0 <= value < 1 << 8:
            self.out += struct.pack("<cB", b"K", value)
        elif 0 <= value < 1 << 16:
            self.out += struct.pack("<cH", b"M", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += struct.pack("<ci", b"J", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a%c" % len(raw) + raw

    def integers(self, values: Sequence[int]) -> None:
        if not values:
            self.out += b")"
            return
        self.out += b"(" if len(values) > 3 else b""
        for value in values:
            self.integer(value)
        self.out += b"t" if len(values) > 3 else bytes((0x84 + len(values),))
        self.put()

    def hooks(self) -> None:
        self.named("collections", "OrderedDict")
        self.out += b")R"
        self.put()

    def flag(self, value: bool) -> None:
        self.out += b"\x88" if value else b"\x89"

    def tensor(self, t: Dense) -> None:
        if t.parameter:
            self.named("torch._utils", "_rebuild_parameter")
        self.named("torch._utils", "_rebuild_tensor_v2")
        self.out += b"(("
        self.string("storage")
        self.named("torch", t.kind)
        self.string(t.key, shared=False)
        self.string(t.location, shared=t.location == "cpu")  # others are a new string each
        self.integer(t.numel)
        self.out += b"Nt" if self.legacy else b"t"
        self.put()
        self.out += b"Q"
        self.integer(t.offset)
        self.integers(t.size)
        self.integers(t.stride)
        self.flag(t.grad and not t.parameter)
        self.hooks()
        self.out += b"t"
        self.put()
        self.out += b"R"
        self.put()
        if t.parameter:
            self.flag(t.grad)
            self.hooks()
            self.out += b"\x87"
            self.put()
            self.out += b"R"
            self.put()

    def state_dict(self, tensors: dict[str, Dense]) -> None:
        self.hooks()
        names = list(tensors)
        for at in range(0, len(names), 1000):
            self.out += b"("
            for name in names[at : at + 1000]:
                self.string(name, shared=False)
                self.tensor(tensors[name])
            self.out += b"u"

    def pad(self) -> None:
        self.out += b"]"
        for _ in range(self.padding):
            self.put()

    def whole(self, tensors: dict[str, Dense]) -> bytes:
        if self.padding:
            self.pad()
        self.state_dict(tensors)
        self.out += b"a." if self.padding else b"."
        return bytes(self.out)


def state_dict(tensors: dict[str, Dense], legacy: bool = False, padding: int = 0) -> bytes:
    return Writer(legacy, padding).whole(tensors)


SHAPES = ((), (1,), (4,), (300,), (4, 4), (2, 300), (2, 3, 4), (70_000, 1, 1), (1, 2, 3, 4))
SHAPES += ((2,) * 5, (1,) * 64, (0,), (3, 0))


def strides(size: tuple[int, ...]) -> tuple[int, ...]:
    made, step = [], 1
    for dim in reversed(size):
        made.append(step)
        step *= max(dim, 1)
    return tuple(reversed(made))


def drawn(rng: Random, count: int) -> dict[str, Dense]:
    """Tensors of many kinds."""
    made = {}
    for number in range(count):
        size = rng.choice(SHAPES)
        made[f"layer.{number}.{rng.choice(('weight', 'bias', 'r' * 9, 'Xrh('))}"] = Dense(
            key=str(rng.choice((number, number, 94_000_000_000_000 + number))),
            numel=rng.choice((0, 1, 255, 256, 65_536, 1 << 30, 1 << 33)),
            size=size,
            stride=strides(size),
            offset=rng.choice((0, 0, 0, 7, 300, 70_000, 1 << 40)),
            kind=rng.choice(("FloatStorage", "FloatStorage", "HalfStorage", "LongStorage")),
            location=rng.choice(("cpu", "cpu", "cuda:0", "cuda:1")),
            grad=rng.random() < 0.3,
            parameter=rng.random() < 0.3,
        )
    return made


def moved_on(data: bytes, by: int = 260) -> bytes:
    """The same value in a list, with that many more entries before it in the memo. In a small
    stream the indices are bytes; those that the superinstruction reads are not."""
    out = bytearray(data[:2]) + b"]" + b"".join(struct.pack("<cI", b"r", n) for n in range(by))
    places = [*offsets(data), len(data)]
    for at, end in pairwise(places[1:-1]):
        code, argument = data[at : at + 1], data[at + 1 : end]
        if code in (b"q", b"r", b"h", b"j"):
            index = int.from_bytes(argument, "little") + by
            out += struct.pack("<cI", b"r" if code in b"qr" else b"j", index)
        else:
            out += data[at:end]
    return bytes(out) + b"a."


def offsets(data: bytes) -> list[int]:
    """Of each opcode of a whole stream."""
    made, at = [], 0
    while at < len(data):
        made.append(at)
        arg = BY_CODE[data[at]].arg
        at += 1
        if arg in (Arg.LINE, Arg.TWO_LINES):
            for _ in range(1 if arg == Arg.LINE else 2):
                at = data.index(b"\n", at) + 1
        elif arg <= 8:
            at += arg
        else:
            width = {Arg.SIZE1: 1, Arg.SIZE4: 4, Arg.SIZE8: 8}[arg]
            at += width + int.from_bytes(data[at : at + width], "little")
    if at > len(data):
        raise ValueError("the last opcode is cut")
    return made


# --- attacks ------------------------------------------------------------------------------------

INSERTED = (
    b"0", b"2", b"(", b"1", b"N", b")", b"}", b"]", b"\x88", b"\x94", b"\x94\x94", b"K\x03", b"b",
    b"\x80\x04", b"\x80\x00", b"\x85", b"\x86", b"\x87", b"t", b"l", b"R", b"Q", b"a", b"s", b"u",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"X\x01\0\0\x000", b"}b",
    b"ccollections\nOrderedDict\n", b"\x95" + bytes(8), b"X\x07\0\0\0storage",
)  # fmt: skip


def attacked(data: bytes, rng: Random) -> bytes:
    """The stream with one to three opcodes changed, moved, missing or more, and what is behind
    them left as it is: mostly still a stream that runs."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        try:
            places = [*offsets(data), len(data)]
        except (KeyError, ValueError):
            break  # it makes no sense any more: that is enough
        if len(places) < 3:
            break
        data = rng.choice(WAYS)(data, places, rng)
    return data


def _piece(data: bytes, places: list[int], rng: Random) -> tuple[int, int]:
    at = rng.randrange(len(places) - 1)
    return places[at], places[at + 1]


def _insert(data: bytes, places: list[int], rng: Random) -> bytes:
    at, _ = _piece(data, places, rng)
    return data[:at] + rng.choice(INSERTED) + data[at:]


def _remove(data: bytes, places: list[int], rng: Random) -> bytes:
    at, end = _piece(data, places, rng)
    return data[:at] + data[end:]


def _repeat(data: bytes, places: list[int], rng: Random) -> bytes:
    """Some opcodes once more, right behind or elsewhere."""
    first = rng.randrange(len(places) - 1)
    last = min(first + rng.choice((1, 1, 3, 10, 40)), len(places) - 1)
    to = rng.choice((places[last], *_piece(data, places, rng)))
    return data[:to] + data[places[first] : places[last]] + data[to:]


def _flip(data: bytes, places: list[int], rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def _indices(data: bytes, places: list[int], rng: Random) -> bytes:
    """Another index in a GET or PUT: one lower or higher, any known one, one far away."""
    found = [at for at in places[:-1] if data[at] in b"hqjr"]
    at = rng.choice(found or [places[0]])
    short = data[at] in b"hq"
    size = 1 if short else 4
    index = int.from_bytes(data[at + 1 : at + 1 + size], "little")
    index += rng.choice((-1, 1, -2, 2, -7, 7, 1 << 20, rng.randrange(400) - index))
    return (
        data[: at + 1] + (index % (1 << 8 * size)).to_bytes(size, "little") + data[at + 1 + size :]
    )


def _longer(data: bytes, places: list[int], rng: Random) -> bytes:
    """The same recalled by the longer opcode, or the same integer written wider."""
    found = [at for at in places[:-1] if data[at] in b"hqKM"]
    at = rng.choice(found or [places[0]])
    value = data[at + 1]
    if data[at : at + 1] == b"M":
        return data[:at] + b"J" + data[at + 1 : at + 3] + b"\0\0" + data[at + 3 :]
    wider = {b"h": b"j%c\0\0\0", b"q": b"r%c\0\0\0", b"K": rng.choice((b"M%c\0", b"J%c\0\0\0"))}
    form = wider.get(data[at : at + 1])
    return data[:at] + form % value + data[at + 2 :] if form else data


def _length(data: bytes, places: list[int], rng: Random) -> bytes:
    """A string's length that is not its own."""
    found = [at for at in places[:-1] if data[at : at + 1] == b"X"]
    at = rng.choice(found or [places[0]]) + 1
    return data[:at] + bytes(((data[at] + rng.choice((-1, 1, 5))) % 256,)) + data[at + 1 :]


def _closing(data: bytes, places: list[int], rng: Random) -> bytes:
    """A TUPLE opcode that takes another number of values."""
    found = [at for at in places[:-1] if data[at] in b"t\x85\x86\x87)"]
    at = rng.choice(found or [places[0]])
    return data[:at] + rng.choice((b"t", b"\x85", b"\x86", b"\x87", b")", b"l")) + data[at + 1 :]


def _swap(data: bytes, places: list[int], rng: Random) -> bytes:
    """Two neighbours change places."""
    at = rng.randrange(max(len(places) - 2, 1))
    a, b, c = places[at], places[at + 1], places[min(at + 2, len(places) - 1)]
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _memo_play(data: bytes, places: list[int], rng: Random) -> bytes:
    """Recalls what was just remembered, and remembers it, or what came of it, elsewhere."""
    at, _ = _piece(data, places, rng)
    puts = [
        int.from_bytes(data[p + 1 : p + 5], "little") for p in places if data[p : p + 1] == b"r"
    ]
    near = rng.choice(puts or [0])
    made = b""
    for _ in range(rng.randint(1, 8)):
        index = max(near + rng.randint(-9, 9), 0)
        code = rng.choice((b"j", b"j", b"r", b"r", b"0", b"\x94", b"\x85", b"]bj", b"2"))
        made += code + (struct.pack("<I", index) if code[-1:] in b"jr" else b"")
    return data[:at] + made + data[at:]


def _cut(data: bytes, places: list[int], rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


WAYS = (_insert, _insert, _remove, _repeat, _flip, _indices, _indices, _longer, _length, _closing)
WAYS += (_swap, _cut, _memo_play, _memo_play)
