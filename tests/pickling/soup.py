"""Streams of opcodes that mostly make sense, drawn at random: they reach what noise never does.

The stack is followed roughly, so that an opcode mostly finds what it needs; one time in twenty any
opcode is drawn, with whatever is there.
"""

from __future__ import annotations

import struct
from random import Random

from ptinspect.pickling.opcodes import BY_NAME, OPCODES, Arg

NAMES = ("m C", "m D", "n f", "m C.inner")
TEXTS = ("", "a", "key", "état", "가", "\udc80", "x" * 300)
NUMBERS = (0, 1, -1, 2, 255, 256, 65535, 65536, -(1 << 31), 1 << 31, 1 << 63, -(1 << 70), 1 << 61)
FLOATS = (0.0, -0.0, 1.0, 1.5, -2.0, float("inf"), float("nan"), 2.0**70, 5e-324)
LINES = {
    "INT": ("0", "1", "00", "01", "-5", "017", "0x1F", " 7", "+1", "99999999999999999999", "1_0"),
    "LONG": ("0L", "-12L", "12", "123456789012345678901234567890L", "0x10L", "-0L"),
    "FLOAT": ("0.0", "-1.5e3", "nan", "inf", "1e300", "7"),
    "STRING": ("''", "'a'", '"b"', r"'\n\x41\101\\'", r"'\q'", "'''"),
    "UNICODE": ("", "a", r"\u0041", r"\\", "caf\xe9", r"\U0001F600"),
    "PERSID": ("0", "id", ""),
}
BROKEN_LINES = ("", "x", "'", "1.5", r"'\x4'", r"\u12", "\xff", "1\x00")

PUSHES = [row.name for row in OPCODES if not row.before and row.name not in ("PROTO", "FRAME")]
SCALARS = [name for name in PUSHES if BY_NAME[name].after != "mark"]
NOT_DRAWN = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}  # need things beside


class Soup:
    """Draws one stream. `stack` has a letter per value: l(ist), d(ict), s(et), t(uple), c(lass),
    o(bject), u (str), b(ytearray), k (any other that can be a key) and ( for a mark."""

    def __init__(self, rng: Random, wild: float = 0.05) -> None:
        self.rng = rng
        self.wild = wild
        self.stack: list[str] = []
        self.memo: dict[int, str] = {}
        self.out = bytearray()

    def stream(self, length: int) -> bytes:
        protocol = self.rng.randrange(6)
        self.out += b"\x80" + bytes([protocol]) if protocol > 1 else b""
        for _ in range(length):
            self.step()
        if not self.stack or self.stack[-1] == "(":
            self.emit("NONE")
        self.out += b"."
        return bytes(self.out)

    def step(self) -> None:
        rng = self.rng
        if rng.random() < self.wild:
            self.emit(rng.choice([row.name for row in OPCODES if row.name not in NOT_DRAWN]))
            return
        fitting = self.fitting()
        if fitting and rng.random() < 0.6:
            self.emit(rng.choice(fitting))
        else:
            self.emit(rng.choice([name for name in PUSHES if name not in NOT_DRAWN]))

    def above(self) -> list[str]:
        """The letters above the last mark."""
        marks = [at for at, letter in enumerate(self.stack) if letter == "("]
        return self.stack[marks[-1] + 1 :] if marks else self.stack

    def below(self) -> str:
        """The letter below the last mark."""
        marks = [at for at, letter in enumerate(self.stack) if letter == "("]
        return self.stack[marks[-1] - 1] if marks and marks[-1] else ""

    def fitting(self) -> list[str]:
        """Opcodes that take something off the stack and find what they need there."""
        top, made = self.above(), []
        letters = "".join(top[-3:])
        if top:
            made += ["DUP", "POP", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "MEMOIZE", "TUPLE1"]
            made += ["BINPERSID"] if self.rng.random() < 0.2 else []
        if len(top) > 1:
            made += ["TUPLE2"]
            made += ["APPEND"] * 3 if top[-2] in "lo" else []
            made += ["BUILD"] * 3 if top[-2] == "o" else []
            made += ["REDUCE"] * 4 + ["NEWOBJ"] * 3 if letters.endswith("ct") else []
            made += ["REDUCE"] * 2 if letters.endswith("ot") else []
            made += ["STACK_GLOBAL"] if letters.endswith("uu") else []
        if len(top) > 2:
            made += ["TUPLE3"]
            made += ["SETITEM"] * 3 if top[-3] in "do" and top[-2] in "ktuco" else []
            made += ["NEWOBJ_EX"] * 3 if letters == "ctd" else []
        if "(" in self.stack:
            made += ["TUPLE", "LIST", "POP_MARK"]
            hashable = all(letter in "ktuco" for letter in top)
            made += ["FROZENSET"] if hashable else []
            made += ["APPENDS"] * 3 if self.below() in tuple("lo") else []
            made += ["ADDITEMS"] * 3 if self.below() in tuple("so") and hashable else []
            if len(top) % 2 == 0:
                made += ["DICT"]
                made += ["SETITEMS"] * 3 if self.below() in tuple("do") else []
            made += ["INST"] + (["OBJ"] * 2 if top and top[0] == "c" else [])
        return made

    # --- what an opcode does to the stack, roughly ------------------------------------------

    def emit(self, name: str) -> None:
        row = BY_NAME[name]
        index = self.index(name)
        self.out.append(row.code)
        self.out += self.argument(name, row.arg, index)
        if name in ("POP", "POP_MARK") and self.stack:
            if name == "POP_MARK":
                self.cut()
            else:
                self.stack.pop()
        elif name == "DUP" and self.stack:
            self.stack.append(self.stack[-1])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo.get(index, "k"))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[index] = self.stack[-1] if self.stack else "k"
        elif name == "MARK":
            self.stack.append("(")
        else:
            self.take(row.before)
            self.give(name, row.after)

    def take(self, before: str) -> None:
        if "mark" in before:
            self.cut()
            before = before.split("mark")[0]
        for _ in before.split():
            if self.stack:
                self.stack.pop()

    def cut(self) -> None:
        while self.stack and self.stack.pop() != "(":
            pass

    def give(self, name: str, after: str) -> None:
        letters = {"list": "l", "dict": "d", "set": "s", "tuple": "t", "global": "c", "str": "u"}
        letters |= {"bytearray": "b", "any": "o", "str of Python 2": "u"}
        if after:
            self.stack.append(letters.get(after, "k"))

    # --- arguments --------------------------------------------------------------------------

    def index(self, name: str) -> int:
        rng = self.rng
        if name == "MEMOIZE":
            return len(self.memo)
        if name.endswith("GET"):
            known = list(self.memo)
            return rng.choice(known) if known and rng.random() < 0.95 else rng.randrange(256)
        if rng.random() < 0.7:
            return len(self.memo) % 256
        return rng.randrange(256 if name == "BINPUT" else 300) % 256

    def argument(self, name: str, arg: Arg, index: int) -> bytes:
        rng = self.rng
        if name in ("GET", "PUT"):
            return b"%d\n" % index
        if name in ("BINGET", "BINPUT"):
            return bytes([index])
        if name in ("LONG_BINGET", "LONG_BINPUT"):
            return struct.pack("<I", index)
        if name == "PROTO":
            return bytes([rng.randrange(6)])
        if name == "FRAME":
            return struct.pack("<Q", rng.choice((0, 0, 0, 1, 1 << 40)))
        if arg == Arg.TWO_LINES:
            return rng.choice(NAMES).replace(" ", "\n").encode() + b"\n"
        if arg == Arg.LINE:
            broken = rng.random() < 0.05
            return rng.choice(BROKEN_LINES if broken else LINES[name]).encode("latin1") + b"\n"
        if arg == Arg.FLOAT8:
            return struct.pack(">d", rng.choice(FLOATS))
        if arg in (Arg.SIZE1, Arg.SIZE4, Arg.SIZE8):
            return self.sized(name, arg)
        return rng.randbytes(arg) if rng.random() < 0.5 else bytes(arg)

    def sized(self, name: str, arg: Arg) -> bytes:
        rng = self.rng
        if "UNICODE" in name:
            held = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        elif "LONG" in name:
            number = rng.choice(NUMBERS)
            held = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        elif "STRING" in name:
            held = rng.choice((b"", b"a", b"key"))
        else:
            held = rng.choice((b"", b"\0", b"bytes", bytes(200)))
        width = {Arg.SIZE1: 1, Arg.SIZE4: 4, Arg.SIZE8: 8}[arg]
        held = held if width > 1 else held[:255]
        if width == 1 and "UNICODE" in name:
            held = held.decode("utf-8", "ignore").encode() if len(held) > 200 else held
        size = len(held) if rng.random() < 0.98 else len(held) + rng.choice((1, 100, 1 << 30))
        return (size & ((1 << 8 * width) - 1)).to_bytes(width, "little") + held


def soup(rng: Random, length: int | None = None, wild: float = 0.05) -> bytes:
    """One stream of about `length` opcodes."""
    return Soup(rng, wild).stream(rng.randint(1, 60) if length is None else length)
