"""The opcodes of protocol 2 that hold a value: numbers, text, names and places in the memo."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, pack

from ptinspect.pickling.opcodes import OPCODES
from ptinspect.pickling.values import Python2Str

OP = {row.name: bytes([row.code]) for row in OPCODES}
"""The opcodes' bytes by name."""

pack_memo, pack_int = Struct("<cI").pack, Struct("<I").pack


def encode_int(value: int) -> bytes:
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
ATOMS: dict[type, Callable[..., bytes]] = {
    type(None): lambda value: OP["NONE"],
    bool: lambda value: OP["NEWTRUE"] if value else OP["NEWFALSE"],
    int: encode_int,
    float: lambda value: OP["BINFLOAT"] + pack(">d", value),
}


def encode_text(value: str) -> bytes:
    """Return BINUNICODE, or for a `str` of Python 2 SHORT_BINSTRING or BINSTRING."""
    if not isinstance(value, Python2Str):
        raw = value.encode("utf-8", "surrogatepass")
        return OP["BINUNICODE"] + pack("<I", len(raw)) + raw
    size = len(value.raw)
    if size < 256:
        return OP["SHORT_BINSTRING"] + bytes([size]) + value.raw
    return OP["BINSTRING"] + pack("<i", size) + value.raw


def encode_get(index: int) -> bytes:
    return b"h%c" % index if index < 256 else pack_memo(b"j", index)


def encode_global(module: str, name: str) -> bytes:
    """Return GLOBAL with the name of protocols below 3, such as `__builtin__.set` (`pickle.Pickler`
    with `fix_imports`)."""
    from _compat_pickle import REVERSE_IMPORT_MAPPING, REVERSE_NAME_MAPPING

    if (module, name) in REVERSE_NAME_MAPPING:
        module, name = REVERSE_NAME_MAPPING[module, name]
    else:
        module = REVERSE_IMPORT_MAPPING.get(module, module)
    return OP["GLOBAL"] + f"{module}\n{name}\n".encode()
