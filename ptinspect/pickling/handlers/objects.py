"""Opcodes that import, call or build in a real unpickler. These handlers only record."""

from __future__ import annotations

from struct import Struct

from ptinspect.pickling.state import Handler, Machine
from ptinspect.pickling.values import (
    Call,
    Extension,
    Global,
    Inert,
    PersistentId,
    Value,
    type_name,
)

_UINT2 = Struct("<H").unpack_from
_INT4 = Struct("<i").unpack_from
_UINT8 = Struct("<Q").unpack_from


def _name(m: Machine, line: bytes) -> str:
    try:
        return str(line, "utf-8")
    except UnicodeDecodeError:
        raise m.damaged(f"{m.opcode_name} has a name that is not utf-8: {line[:40]!r}") from None


def _two_lines(m: Machine, pos: int) -> tuple[str, str, int]:
    module, pos = m.take_line(pos)
    name, pos = m.take_line(pos)
    return _name(m, module), _name(m, name), pos


def global_(m: Machine, pos: int) -> int:
    module, name, pos = _two_lines(m, pos)
    m.stack.append(m.intern_global(module, name))
    return pos


def stack_global(m: Machine, pos: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise m.damaged("STACK_GLOBAL needs two strings")
    m.stack.append(m.intern_global(str(module), str(name)))
    return pos


def _extension(m: Machine, code: int, pos: int) -> int:
    if code <= 0:  # pickle.py, get_extension
        raise m.damaged(f"{m.opcode_name} with the code {code}")
    m.stack.append(Extension(code, m.offset))
    return pos


def _pop_call(m: Machine, opcode: str) -> Call:
    """Remove the callable and its arguments, and return the call. An inert object in place of
    the tuple becomes the only argument, with the opcode `REDUCE*`."""
    stack = m.stack
    args, func = stack.pop(), stack.pop()
    if not isinstance(func, Inert):
        raise m.damaged(f"{m.opcode_name} would call a {type_name(func)}")
    if isinstance(args, tuple):
        return Call(func, args, opcode, m.offset)
    if isinstance(func, Global) and func.module.partition(".")[0] == "__torch__":
        return Call(func, (args,), opcode, m.offset)  # TorchScript's enums (pickler.cpp)
    call = Call(func, (args,), f"{opcode}*", m.offset)
    if isinstance(args, Inert):
        return call
    if m.recorder is not None:  # pickle.py unpacks every iterable
        m.recorder.record_refused(m, call)
    raise m.damaged(f"{m.opcode_name} needs a tuple of arguments, not a {type_name(args)}")


def _calling(opcode: str) -> Handler:
    def push_call(m: Machine, pos: int) -> int:
        stack = m.stack
        args, func = stack[-1], stack[-2]
        if type(args) is tuple and isinstance(func, Inert):
            stack.pop()
            stack[-1] = Call(func, args, opcode, m.offset)
        else:
            stack.append(_pop_call(m, opcode))
        return pos

    return push_call


def newobj_ex(m: Machine, pos: int) -> int:
    kwargs = m.stack.pop()
    if not isinstance(kwargs, dict | Inert):
        raise m.damaged(f"NEWOBJ_EX needs a dict, not a {type(kwargs).__name__}")
    call = _pop_call(m, "NEWOBJ_EX")
    call.kwargs = kwargs if isinstance(kwargs, dict) else {"**": kwargs}
    m.stack.append(call)
    return pos


def inst(m: Machine, pos: int) -> int:
    module, name, pos = _two_lines(m, pos)
    if m.recorder is not None and not m.marks and module.replace(".", "").isidentifier():
        m.recorder.record_refused(
            m, m.intern_global(module, name)
        )  # pickle.py imports before it needs the mark
    values = m.pop_to_mark()
    m.stack.append(Call(m.intern_global(module, name), tuple(values), "INST", m.offset))
    return pos


def obj(m: Machine, pos: int) -> int:
    values = m.pop_to_mark()
    if not values or not isinstance(values[0], Inert):
        raise m.damaged("OBJ needs a class")
    m.stack.append(Call(values[0], tuple(values[1:]), "OBJ", m.offset))
    return pos


def build(m: Machine, pos: int) -> int:
    state = m.stack.pop()
    target = m.stack[-1]
    if isinstance(target, Inert):
        target.change().states.append(state)
    # without __setstate__, pickle.py's load_build ignores an empty state, or an empty pair of a
    # state and one in slots
    elif any(state if isinstance(state, tuple) and len(state) == 2 else (state,)):
        raise m.damaged(f"BUILD on a {type_name(target)}")
    return pos


def _persistent(m: Machine, value: Value) -> None:
    pid = PersistentId(value, m.offset)
    m.persistent.append(pid)
    m.stack.append(pid)


def persid(m: Machine, pos: int) -> int:
    line, pos = m.take_line(pos)
    _persistent(m, _name(m, line))
    return pos


def binpersid(m: Machine, pos: int) -> int:
    _persistent(m, m.stack.pop())
    return pos


def proto(m: Machine, pos: int) -> int:
    m.protocol = m.data[pos]
    if m.protocol > 5:
        raise m.damaged(f"unknown pickle protocol {m.protocol}: the protocols are 0 to 5")
    return pos + 1


def frame(m: Machine, pos: int) -> int:
    """Skip a FRAME, which only announces how much may be read at once: C's unpickler does not
    require opcodes to end with it."""
    m.check_left(pos + 8, _UINT8(m.data, pos)[0])
    return pos + 8


HANDLERS: dict[str, Handler] = {
    "GLOBAL": global_,
    "STACK_GLOBAL": stack_global,
    "EXT1": lambda m, pos: _extension(m, m.data[pos], pos + 1),
    "EXT2": lambda m, pos: _extension(m, _UINT2(m.data, pos)[0], pos + 2),
    "EXT4": lambda m, pos: _extension(m, _INT4(m.data, pos)[0], pos + 4),
    "REDUCE": _calling("REDUCE"),
    "NEWOBJ": _calling("NEWOBJ"),
    "NEWOBJ_EX": newobj_ex,
    "INST": inst,
    "OBJ": obj,
    "BUILD": build,
    "PERSID": persid,
    "BINPERSID": binpersid,
    "PROTO": proto,
    "FRAME": frame,
}
