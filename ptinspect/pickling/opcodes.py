"""The pickle format as a table: the one list of opcodes that reader, writer and scan share.

Source: CPython's `Lib/pickle.py` (the bytes) and `Lib/pickletools.py` (the text). A test compares
this table with both.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmap import mmap


class Arg(IntEnum):
    """The argument after an opcode's byte. A value of 0 to 8 is a fixed number of bytes."""

    NONE = 0
    BYTE = 1  # an unsigned byte
    UINT2 = 2  # little-endian, like the following
    INT4 = 4
    FLOAT8 = 8  # the only one that is big-endian
    LINE = 16  # text up to a newline
    TWO_LINES = 17
    SIZE1 = 21  # an unsigned byte that counts the bytes after it
    SIZE4 = 24
    SIZE8 = 28


class Opcode(NamedTuple):
    """One opcode. `proto` is the first protocol that has it, `before` and `after` the top of the
    stack, its last item to the right."""

    name: str
    code: int
    arg: Arg
    proto: int
    before: str
    after: str


_NONE, _BYTE, _UINT2, _INT4, _FLOAT8 = Arg.NONE, Arg.BYTE, Arg.UINT2, Arg.INT4, Arg.FLOAT8
_LINE, _TWO, _SIZE1, _SIZE4, _SIZE8 = Arg.LINE, Arg.TWO_LINES, Arg.SIZE1, Arg.SIZE4, Arg.SIZE8

# fmt: off
OPCODES: tuple[Opcode, ...] = tuple(Opcode(n, ord(c), a, p, b, r) for n, c, a, p, b, r in (
    # integers and other numbers
    ("INT",              "I",    _LINE,   0, "", "int or bool"),      # "01" is True, "00" False
    ("BININT",           "J",    _INT4,   1, "", "int"),
    ("BININT1",          "K",    _BYTE,   1, "", "int"),
    ("BININT2",          "M",    _UINT2,  1, "", "int"),
    ("LONG",             "L",    _LINE,   0, "", "int"),
    ("LONG1",            "\x8a", _SIZE1,  2, "", "int"),              # two's complement
    ("LONG4",            "\x8b", _SIZE4,  2, "", "int"),
    ("FLOAT",            "F",    _LINE,   0, "", "float"),
    ("BINFLOAT",         "G",    _FLOAT8, 1, "", "float"),
    ("NONE",             "N",    _NONE,   0, "", "None"),
    ("NEWTRUE",          "\x88", _NONE,   2, "", "True"),
    ("NEWFALSE",         "\x89", _NONE,   2, "", "False"),
    # strings of Python 2 (bytes whose encoding is not recorded), bytes, text
    ("STRING",           "S",    _LINE,   0, "", "str of Python 2"),  # quoted, with escapes
    ("BINSTRING",        "T",    _SIZE4,  1, "", "str of Python 2"),
    ("SHORT_BINSTRING",  "U",    _SIZE1,  1, "", "str of Python 2"),
    ("BINBYTES",         "B",    _SIZE4,  3, "", "bytes"),
    ("SHORT_BINBYTES",   "C",    _SIZE1,  3, "", "bytes"),
    ("BINBYTES8",        "\x8e", _SIZE8,  4, "", "bytes"),
    ("BYTEARRAY8",       "\x96", _SIZE8,  5, "", "bytearray"),
    ("NEXT_BUFFER",      "\x97", _NONE,   5, "", "buffer"),           # out of band
    ("READONLY_BUFFER",  "\x98", _NONE,   5, "buffer", "buffer"),
    ("UNICODE",          "V",    _LINE,   0, "", "str"),              # raw-unicode-escape
    ("SHORT_BINUNICODE", "\x8c", _SIZE1,  4, "", "str"),              # utf-8, like the following
    ("BINUNICODE",       "X",    _SIZE4,  1, "", "str"),
    ("BINUNICODE8",      "\x8d", _SIZE8,  4, "", "str"),
    # containers
    ("EMPTY_LIST",       "]",    _NONE,   1, "", "list"),
    ("APPEND",           "a",    _NONE,   0, "list any", "list"),
    ("APPENDS",          "e",    _NONE,   1, "list mark any…", "list"),
    ("LIST",             "l",    _NONE,   0, "mark any…", "list"),
    ("EMPTY_TUPLE",      ")",    _NONE,   1, "", "tuple"),
    ("TUPLE",            "t",    _NONE,   0, "mark any…", "tuple"),
    ("TUPLE1",           "\x85", _NONE,   2, "any", "tuple"),
    ("TUPLE2",           "\x86", _NONE,   2, "any any", "tuple"),
    ("TUPLE3",           "\x87", _NONE,   2, "any any any", "tuple"),
    ("EMPTY_DICT",       "}",    _NONE,   1, "", "dict"),
    ("DICT",             "d",    _NONE,   0, "mark (key value)…", "dict"),
    ("SETITEM",          "s",    _NONE,   0, "dict key value", "dict"),
    ("SETITEMS",         "u",    _NONE,   1, "dict mark (key value)…", "dict"),
    ("EMPTY_SET",        "\x8f", _NONE,   4, "", "set"),
    ("ADDITEMS",         "\x90", _NONE,   4, "set mark any…", "set"),
    ("FROZENSET",        "\x91", _NONE,   4, "mark any…", "frozenset"),
    # the stack and the memo
    ("POP",              "0",    _NONE,   0, "any", ""),
    ("DUP",              "2",    _NONE,   0, "any", "any any"),
    ("MARK",             "(",    _NONE,   0, "", "mark"),
    ("POP_MARK",         "1",    _NONE,   1, "mark any…", ""),
    ("GET",              "g",    _LINE,   0, "", "any"),
    ("BINGET",           "h",    _BYTE,   1, "", "any"),
    ("LONG_BINGET",      "j",    _INT4,   1, "", "any"),              # unsigned
    ("PUT",              "p",    _LINE,   0, "any", "any"),
    ("BINPUT",           "q",    _BYTE,   1, "any", "any"),
    ("LONG_BINPUT",      "r",    _INT4,   1, "any", "any"),           # unsigned
    ("MEMOIZE",          "\x94", _NONE,   4, "any", "any"),           # at the memo's length
    # globals, calls, objects
    ("EXT1",             "\x82", _BYTE,   2, "", "any"),
    ("EXT2",             "\x83", _UINT2,  2, "", "any"),
    ("EXT4",             "\x84", _INT4,   2, "", "any"),
    ("GLOBAL",           "c",    _TWO,    0, "", "global"),
    ("STACK_GLOBAL",     "\x93", _NONE,   4, "str str", "global"),
    ("REDUCE",           "R",    _NONE,   0, "callable tuple", "any"),
    ("BUILD",            "b",    _NONE,   0, "any state", "any"),
    ("INST",             "i",    _TWO,    0, "mark any…", "any"),
    ("OBJ",              "o",    _NONE,   1, "mark class any…", "any"),
    ("NEWOBJ",           "\x81", _NONE,   2, "class tuple", "any"),
    ("NEWOBJ_EX",        "\x92", _NONE,   4, "class tuple dict", "any"),
    # the stream
    ("PROTO",            "\x80", _BYTE,   2, "", ""),
    ("STOP",             ".",    _NONE,   0, "any", ""),
    ("FRAME",            "\x95", Arg(8),  4, "", ""),                 # a length of 8 bytes
    ("PERSID",           "P",    _LINE,   0, "", "any"),
    ("BINPERSID",        "Q",    _NONE,   1, "any", "any"),
))
# fmt: on

BY_CODE: dict[int, Opcode] = {row.code: row for row in OPCODES}
BY_NAME: dict[str, Opcode] = {row.name: row for row in OPCODES}

_ARGS = bytes(BY_CODE[code].arg if code in BY_CODE else 0 for code in range(256))


def skip_opcode(data: bytes | mmap, offset: int, stop: int, line_length: int = sys.maxsize) -> int:
    """Return the offset behind an opcode and its argument, which is behind `stop` if the argument
    is cut off, or has a line of more than `line_length` bytes."""
    arg = _ARGS[data[offset]]
    offset += 1
    if arg < 16:
        return offset + arg
    if arg > 20:  # SIZE1 to SIZE8
        return offset + arg - 20 + int.from_bytes(data[offset : offset + arg - 20], "little")
    for _ in range(arg - 15):
        offset = data.find(b"\n", offset, min(stop, offset + line_length)) + 1
        if not offset:
            return stop + 1
    return offset


_WEIGHTS_ONLY = """
GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE
NEWFALSE NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT
BINUNICODE SHORT_BINSTRING BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 PROTO STOP
"""

WEIGHTS_ONLY: frozenset[str] = frozenset(_WEIGHTS_ONLY.split())
"""Opcodes that torch's weights-only unpickler supports, which are those that torch writes.

It reports any other as `Unsupported operand N`. Source:
`torch._weights_only_unpickler.Unpickler.load`.
"""
