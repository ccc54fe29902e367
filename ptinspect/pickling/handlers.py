"""Handlers of the opcodes that push a number or text, and of those that import, call or build.

Those of the second kind only record what a real unpickler would do. The handlers of containers and
the memo are in `containers`.
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Callable
from struct import Struct

from ptinspect.errors import DamagedError
from ptinspect.pickling.state import Handler, Machine, c_string
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    Inert,
    OutOfBand,
    PersistentId,
    Python2Str,
    Value,
    type_name,
)

_UINT8 = Struct("<Q").unpack_from

_LITERAL_BYTES = 16
"""Bytes of the shortest literal that a recorder notes: less cannot call anything."""

BLOB_BYTES = 4096
"""Bytes objects of this size and more are not copied (`Blob`)."""


# Handlers by the kind of their argument


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


def _line(parse: Callable[[Machine, bytes], Value]) -> Handler:
    """Return the handler that pushes what `parse` reads in a line."""

    def push_line(m: Machine, pos: int) -> int:
        line, pos = m.take_line(pos)
        return m.push(parse(m, line), pos)

    return push_line


def _sized(format: str, limit: str, decode: Callable[[Machine, bytes], Value]) -> Handler:
    """Return the handler that pushes what `decode` reads in the bytes after their number."""
    unpack, width = Struct(format).unpack_from, Struct(format).size

    def push_sized(m: Machine, pos: int) -> int:
        size: int = unpack(m.data, pos)[0]
        pos += width
        if size < 0:
            raise m.damaged(f"{m.opcode_name} announces a negative size")
        m.check_left(pos, size)
        m.check_limit(limit, size)
        m.stack.append(decode(m, m.data[pos : pos + size]))
        return pos + size

    return push_sized


def _bytes(format: str, mutable: bool = False) -> Handler:
    unpack, width = Struct(format).unpack_from, Struct(format).size

    def push_bytes(m: Machine, pos: int) -> int:
        size: int = unpack(m.data, pos)[0]
        pos += width
        m.check_left(pos, size)
        value: bytes | Blob
        if size < BLOB_BYTES and not mutable:
            value = m.data[pos : pos + size]
        else:
            value = Blob(m.data, pos, size, m.offset, mutable)
        m.stack.append(value)
        if m.recorder is not None and size >= _LITERAL_BYTES:
            m.recorder.literals.append((m.offset, value))
        return pos + size

    return push_bytes


# Numbers

_OCTAL = re.compile(rb"\s*[+-]?0[0-7]+")


def _parse_int(m: Machine, line: bytes) -> int:
    """Convert digits as `int(line, 0)` does. The length is bounded: conversion is quadratic."""
    m.check_limit("int_digits", len(line))
    try:
        return int(line, 0)
    except ValueError:
        raise m.damaged(f"{m.opcode_name} is not a number: {line[:40]!r}") from None


def _int(m: Machine, line: bytes) -> int:
    """Return an int or bool, as `load_int` in _pickle.c. It tries C's strtol first: 017 is octal,
    and nothing before a NUL is 0. Two characters with the value 0 or 1 (protocol 1 writes "00"
    and "01") are False and True."""
    text = c_string(line)
    if line and not text:
        value = 0
    elif len(text) <= 20 and _OCTAL.fullmatch(text):
        value = int(text, 8)
    else:
        value = _parse_int(m, text)
    return bool(value) if len(line) == 2 and value in (0, 1) else value


def _binlong(m: Machine, raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _float(m: Machine, line: bytes) -> float:
    m.check_limit("int_digits", len(line))
    try:
        return float(c_string(line))
    except ValueError:
        raise m.damaged(f"FLOAT is not a number: {line[:40]!r}") from None


# Text and buffers


def _text(m: Machine, raw: bytes) -> str:
    try:
        return str(raw, "utf-8", m.text_errors)
    except UnicodeDecodeError as error:
        raise m.damaged(f"{m.opcode_name} is not utf-8 at its byte {error.start}") from None


def _unicode(m: Machine, line: bytes) -> str:
    try:
        return str(line, "raw-unicode-escape")
    except UnicodeDecodeError as error:
        raise m.damaged(f"UNICODE has a broken escape at its byte {error.start}") from None


def _python2_str(m: Machine, raw: bytes) -> str:
    """Return a `str` of Python 2, whose encoding is not recorded. torch.load's default is utf-8."""
    if raw.isascii():
        return str(raw, "ascii")
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError:
        text = str(raw, "latin1")
        m.warn(
            "python2-string",
            "a str of Python 2 that is not utf-8 was read as latin1: "
            'loading needs encoding="latin1"',
        )
    return Python2Str(text, raw)


def _string(m: Machine, line: bytes) -> str:
    line = line.strip()
    if len(line) < 2 or line[0] != line[-1] or line[0] not in b"\"'":
        raise m.damaged("STRING is not in quotes")
    return _python2_str(m, _unescape(m, line[1:-1]))


_WHOLE_ESCAPES = re.compile(rb"(?:[^\\]|\\[^x]|\\x[0-9a-fA-F]{2})*")


def _unescape(m: Machine, text: bytes) -> bytes:
    r"""Decode the escapes of Python 2's repr: \n, \x7f, \101, \\ and the like."""
    if b"\\" not in text:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown escapes, which stay as they are
            return codecs.escape_decode(text)[0]
    except ValueError:
        match = _WHOLE_ESCAPES.match(text)
        end = match.end() if match else 0
        raise m.damaged(f"STRING has a broken escape: {text[end : end + 3]!r}") from None


def next_buffer(m: Machine, pos: int) -> int:
    m.buffers += 1
    return m.push(OutOfBand(m.buffers - 1, m.offset), pos)


def readonly_buffer(m: Machine, pos: int) -> int:
    if isinstance(m.stack[-1], OutOfBand):
        m.stack[-1].readonly = True
    return pos


# Imports, calls and objects


def _name(m: Machine, line: bytes) -> str:
    try:
        return str(line, "utf-8")
    except UnicodeDecodeError:
        raise m.damaged(f"{m.opcode_name} has a name that is not utf-8: {line[:40]!r}") from None


def _two_lines(m: Machine, pos: int) -> tuple[str, str, int]:
    module, pos = m.take_line(pos)
    name, pos = m.take_line(pos)
    return _name(m, module), _name(m, name), pos


def _import(m: Machine, opcode: str, module: str, name: str, pos: int) -> int:
    value = m.intern_global(module, name)
    m.record_event(opcode, value)
    return m.push(value, pos)


def stack_global(m: Machine, pos: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        if isinstance(name, Inert) or isinstance(module, Inert):
            m.record_event("STACK_GLOBAL", (module, name))  # what a call returns may be a string
        raise m.damaged("STACK_GLOBAL needs two strings")
    return _import(m, "STACK_GLOBAL", str(module), str(name), pos)


def _extension(format: str) -> Handler:
    push_code = _number(format)

    def push_extension(m: Machine, pos: int) -> int:
        pos = push_code(m, pos)
        code = m.stack.pop()
        if not isinstance(code, int) or code <= 0:  # pickle.py, get_extension
            raise m.damaged(f"{m.opcode_name} with the code {code}")
        m.stack.append(Extension(code, m.offset))
        m.record_event(m.opcode_name, m.stack[-1])
        return pos

    return push_extension


def _pop_call(m: Machine, opcode: str) -> Call:
    """Remove the callable and its arguments, and return the call. An inert object in place of
    the tuple becomes the only argument, with the opcode `REDUCE*`."""
    stack = m.stack
    args, func = stack.pop(), stack.pop()
    if not isinstance(func, Inert):
        raise m.damaged(f"{opcode} would call a {type_name(func)}")
    if isinstance(args, tuple):
        return Call(func, args, opcode, m.offset)
    if isinstance(func, Global) and func.module.partition(".")[0] == "__torch__":
        return Call(func, (args,), opcode, m.offset)  # TorchScript's enums (pickler.cpp)
    if not isinstance(args, Inert):
        error = m.damaged(f"{opcode} needs a tuple of arguments, not a {type_name(args)}")
        if not isinstance(args, str | bytes | Blob | list | dict):
            raise error
        m.refuse_in_c(error)  # pickle.py, with which joblib and dill read files, unpacks them
    return Call(func, (args,), f"{opcode}*", m.offset)


def _push_call(m: Machine, call: Call, pos: int) -> int:
    m.stack.append(call)
    if m.recorder is not None:
        m.record_event(call.opcode.rstrip("*"), call)
    return pos


def _call(opcode: str) -> Handler:
    return lambda m, pos: _push_call(m, _pop_call(m, opcode), pos)


def newobj_ex(m: Machine, pos: int) -> int:
    kwargs = m.stack.pop()
    if not isinstance(kwargs, dict | Inert):
        raise m.damaged(f"NEWOBJ_EX needs a dict, not a {type(kwargs).__name__}")
    call = _pop_call(m, "NEWOBJ_EX")
    call.kwargs = kwargs if isinstance(kwargs, dict) else {"**": kwargs}
    return _push_call(m, call, pos)


def inst(m: Machine, pos: int) -> int:
    module, name, pos = _two_lines(m, pos)
    func = m.intern_global(module, name)
    # pickle.py imports before it needs the mark
    if m.marks or module.replace(".", "").isidentifier():
        m.record_event("GLOBAL", func)
    return _push_call(m, Call(func, tuple(m.pop_to_mark()), "INST", m.offset), pos)


def obj(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    if not values or not isinstance(values[0], Inert):
        raise m.damaged("OBJ needs a class")
    return _push_call(m, Call(values[0], tuple(values[1:]), "OBJ", m.offset), pos)


def build(m: Machine, pos: int) -> int:
    state = m.stack.pop()
    target = m.stack[-1]
    if isinstance(target, Inert):
        target.change().states.append(state)
        if m.recorder is not None:
            m.record_event("BUILD", target, state)
            return m.recorder.after_build(m, pos)
    # without __setstate__, pickle.py's load_build ignores an empty state, or an empty pair of a
    # state and one in slots
    elif any(state if isinstance(state, tuple) and len(state) == 2 else (state,)):
        raise m.damaged(f"BUILD on a {type_name(target)}")
    return pos


def _persistent(m: Machine, value: Value) -> PersistentId:
    pid = PersistentId(value, m.offset)
    m.persistent.append(pid)
    return pid


def binpersid(m: Machine, pos: int) -> int:
    m.stack[-1] = _persistent(m, m.stack[-1])
    return pos


# The stream


def proto(m: Machine, pos: int) -> int:
    m.protocol = m.data[pos]
    if m.protocol > 5:
        raise m.damaged(f"unknown pickle protocol {m.protocol}: the protocols are 0 to 5")
    return pos + 1


def frame(m: Machine, pos: int) -> int:
    """Skip a FRAME, which only announces how much may be read at once: C's unpickler does not
    require opcodes to end with it, and pickle.py not even that so many bytes follow."""
    length, end = _UINT8(m.data, pos)[0], pos + 8
    try:
        m.check_left(end, length)
    except DamagedError as error:
        if end > m.stop:
            raise
        m.refuse_in_c(error)
    m.record_event("FRAME", end + length)
    return end


SCALARS: dict[str, Handler] = {
    "INT": _line(_int),
    "BININT": _number("<i"),
    "BININT1": _number("<B"),
    "BININT2": _number("<H"),
    "LONG": _line(lambda m, line: _parse_int(m, c_string(line.removesuffix(b"L")))),
    "LONG1": _sized("<B", "int_bytes", _binlong),
    "LONG4": _sized("<i", "int_bytes", _binlong),
    "FLOAT": _line(_float),
    "BINFLOAT": _number(">d"),
    "NONE": constant(None),
    "NEWTRUE": constant(True),
    "NEWFALSE": constant(False),
    "STRING": _line(_string),
    "BINSTRING": _sized("<i", "string_bytes", _python2_str),
    "SHORT_BINSTRING": _sized("<B", "string_bytes", _python2_str),
    "BINBYTES": _bytes("<I"),
    "SHORT_BINBYTES": _bytes("<B"),
    "BINBYTES8": _bytes("<Q"),
    "BYTEARRAY8": _bytes("<Q", mutable=True),
    "NEXT_BUFFER": next_buffer,
    "READONLY_BUFFER": readonly_buffer,
    "UNICODE": _line(_unicode),
    "SHORT_BINUNICODE": _sized("<B", "string_bytes", _text),
    "BINUNICODE": _sized("<I", "string_bytes", _text),
    "BINUNICODE8": _sized("<Q", "string_bytes", _text),
}

HANDLERS: dict[str, Handler] = {
    **SCALARS,
    "GLOBAL": lambda m, pos: _import(m, "GLOBAL", *_two_lines(m, pos)),
    "STACK_GLOBAL": stack_global,
    "EXT1": _extension("<B"),
    "EXT2": _extension("<H"),
    "EXT4": _extension("<i"),
    "REDUCE": _call("REDUCE"),
    "NEWOBJ": _call("NEWOBJ"),
    "NEWOBJ_EX": newobj_ex,
    "INST": inst,
    "OBJ": obj,
    "BUILD": build,
    "PERSID": _line(lambda m, line: _persistent(m, _name(m, line))),
    "BINPERSID": binpersid,
    "PROTO": proto,
    "FRAME": frame,
}
