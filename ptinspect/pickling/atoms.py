"""What one opcode of protocol 2 says, as its bytes: numbers, texts, names."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

from ptinspect.pickling.opcodes import OPCODES
from ptinspect.pickling.values import OldStr

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
    if not isinstance(value, OldStr):
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
