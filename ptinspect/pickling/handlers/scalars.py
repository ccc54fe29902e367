"""Opcodes that push one number or string."""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import TypeAlias

from ptinspect.pickling.state import Handler, Machine, c_string
from ptinspect.pickling.values import Blob, Buffer, OutOfBand, Python2Str, Value

Unpack: TypeAlias = "Callable[[Buffer, int], tuple[int]]"

_INT4: Unpack = Struct("<i").unpack_from
_UINT4: Unpack = Struct("<I").unpack_from
_UINT8: Unpack = Struct("<Q").unpack_from

_LITERAL_BYTES = 16
"""Bytes of the shortest literal that a recorder notes: less cannot call anything."""

BLOB_BYTES = 4096
"""Bytes objects of this size and more are not copied (`Blob`)."""


def constant(value: Value) -> Handler:
    def push_constant(m: Machine, pos: int) -> int:
        m.stack.append(value)
        return pos

    return push_constant


def _number(format: str) -> Handler:
    unpack, size = Struct(format).unpack_from, Struct(format).size

    def push_number(m: Machine, pos: int) -> int:
        m.stack.append(unpack(m.data, pos)[0])
        return pos + size

    return push_number


_OCTAL = re.compile(rb"\s*[+-]?0[0-7]+")


def _parse_int(m: Machine, line: bytes) -> int:
    """Convert digits as `int(line, 0)` does. The length is bounded: conversion is quadratic."""
    m.check_limit("int_digits", len(line))
    try:
        return int(line, 0)
    except ValueError:
        raise m.damaged(f"{m.opcode_name} is not a number: {line[:40]!r}") from None


def int_(m: Machine, pos: int) -> int:
    """Push an int or bool, as `load_int` in _pickle.c. It tries C's strtol first: 017 is octal,
    and nothing before a NUL is 0. Two characters with the value 0 or 1 (protocol 1 writes "00"
    and "01") are False and True."""
    line, pos = m.take_line(pos)
    text = c_string(line)
    if line and not text:
        value = 0
    elif len(text) <= 20 and _OCTAL.fullmatch(text):
        value = int(text, 8)
    else:
        value = _parse_int(m, text)
    m.stack.append(bool(value) if len(line) == 2 and value in (0, 1) else value)
    return pos


def long(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    m.stack.append(_parse_int(m, c_string(line.removesuffix(b"L"))))
    return pos


def _binlong(m: Machine, pos: int, size: int) -> int:
    if size < 0:
        raise m.damaged("LONG4 announces a negative size")
    m.check_left(pos, size)
    m.check_limit("int_bytes", size)
    m.stack.append(int.from_bytes(m.take_bytes(pos, size), "little", signed=True))
    return pos + size


def float_(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    m.check_limit("int_digits", len(line))
    try:
        m.stack.append(float(c_string(line)))
    except ValueError:
        raise m.damaged(f"FLOAT is not a number: {line[:40]!r}") from None
    return pos


def _push_text(m: Machine, pos: int, size: int) -> int:
    m.check_left(pos, size)
    m.check_limit("string_bytes", size)
    raw = m.take_bytes(pos, size)
    try:
        m.stack.append(str(raw, "utf-8", "surrogatepass"))  # pickle.py's way of lone surrogates
    except UnicodeDecodeError as error:
        raise m.damaged(f"{m.opcode_name} is not utf-8 at its byte {error.start}") from None
    return pos + size


def unicode(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    try:
        m.stack.append(str(line, "raw-unicode-escape"))
    except UnicodeDecodeError as error:
        raise m.damaged(f"UNICODE has a broken escape at its byte {error.start}") from None
    return pos


def _push_bytes(m: Machine, pos: int, size: int, mutable: bool = False) -> int:
    m.check_left(pos, size)
    value: bytes | Blob
    if size < BLOB_BYTES and not mutable:
        value = m.take_bytes(pos, size)
    else:
        value = Blob(m.data, pos, size, m.offset, mutable)
    m.stack.append(value)
    if m.recorder is not None and size >= _LITERAL_BYTES:
        m.recorder.literals.append((m.offset, value))
    return pos + size


def next_buffer(m: Machine, pos: int) -> int:
    m.stack.append(OutOfBand(m.buffers, m.offset))
    m.buffers += 1
    return pos


def readonly_buffer(m: Machine, pos: int) -> int:
    if isinstance(m.stack[-1], OutOfBand):
        m.stack[-1].readonly = True
    return pos


def _push_python2_str(m: Machine, raw: bytes) -> None:
    """Push a `str` of Python 2, whose encoding is not recorded. torch.load's default is utf-8."""
    if raw.isascii():
        m.stack.append(str(raw, "ascii"))
        return
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError:
        text = str(raw, "latin1")
        m.warn(
            "python2-string",
            "a str of Python 2 that is not utf-8 was read as latin1: "
            'pass encoding="latin1" to torch.load',
        )
    m.stack.append(Python2Str(text, raw))


def _binstring(m: Machine, pos: int, size: int) -> int:
    if size < 0:
        raise m.damaged("BINSTRING announces a negative size")
    m.check_left(pos, size)
    m.check_limit("string_bytes", size)
    _push_python2_str(m, m.take_bytes(pos, size))
    return pos + size


def string(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    line = line.strip()
    if len(line) < 2 or line[0] != line[-1] or line[0] not in b"\"'":
        raise m.damaged("STRING is not in quotes")
    _push_python2_str(m, _unescape(m, line[1:-1]))
    return pos


_ESCAPE = re.compile(rb"\\(\n|[0-7]{1,3}|x[0-9a-fA-F]{2}|x?.?)", re.DOTALL)
_ESCAPED = {b"\n": b"", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r"}
_ESCAPED |= {b"t": b"\t", b"v": b"\v", b"\\": b"\\", b"'": b"'", b'"': b'"'}


def _unescape(m: Machine, text: bytes) -> bytes:
    r"""Decode the escapes of Python 2's repr: \n, \x7f, \101, \\ and the like.

    Unknown escapes stay as they are, as in `codecs.escape_decode`, which would emit a warning.
    """

    def decode_escape(match: re.Match[bytes]) -> bytes:
        name = match[1]
        if name in _ESCAPED:
            return _ESCAPED[name]
        if name[:1].isdigit() and name[0] < 0x38:
            return bytes([int(name, 8) & 0xFF])
        if len(name) == 3:
            return bytes([int(name[1:], 16)])
        if name == b"" or name[0] == 0x78:
            raise m.damaged(f"STRING has a broken escape: {match[0]!r}")
        return match[0]

    return _ESCAPE.sub(decode_escape, text)


HANDLERS: dict[str, Handler] = {
    "INT": int_,
    "BININT": _number("<i"),
    "BININT1": _number("<B"),
    "BININT2": _number("<H"),
    "LONG": long,
    "LONG1": lambda m, pos: _binlong(m, pos + 1, m.data[pos]),
    "LONG4": lambda m, pos: _binlong(m, pos + 4, _INT4(m.data, pos)[0]),
    "FLOAT": float_,
    "BINFLOAT": _number(">d"),
    "NONE": constant(None),
    "NEWTRUE": constant(True),
    "NEWFALSE": constant(False),
    "STRING": string,
    "BINSTRING": lambda m, pos: _binstring(m, pos + 4, _INT4(m.data, pos)[0]),
    "SHORT_BINSTRING": lambda m, pos: _binstring(m, pos + 1, m.data[pos]),
    "BINBYTES": lambda m, pos: _push_bytes(m, pos + 4, _UINT4(m.data, pos)[0]),
    "SHORT_BINBYTES": lambda m, pos: _push_bytes(m, pos + 1, m.data[pos]),
    "BINBYTES8": lambda m, pos: _push_bytes(m, pos + 8, _UINT8(m.data, pos)[0]),
    "BYTEARRAY8": lambda m, pos: _push_bytes(m, pos + 8, _UINT8(m.data, pos)[0], True),
    "NEXT_BUFFER": next_buffer,
    "READONLY_BUFFER": readonly_buffer,
    "UNICODE": unicode,
    "SHORT_BINUNICODE": lambda m, pos: _push_text(m, pos + 1, m.data[pos]),
    "BINUNICODE": lambda m, pos: _push_text(m, pos + 4, _UINT4(m.data, pos)[0]),
    "BINUNICODE8": lambda m, pos: _push_text(m, pos + 8, _UINT8(m.data, pos)[0]),
}
