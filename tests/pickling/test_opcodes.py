"""The one table of opcodes, held against the two that CPython has."""

from __future__ import annotations

import inspect
import pickle
import pickletools

from ptinspect.pickling import machine
from ptinspect.pickling.opcodes import BY_CODE, BY_NAME, OPCODES, Arg

# How pickletools describes what follows an opcode.
ARGUMENTS = {
    None: Arg.NONE,
    "uint1": Arg.BYTE,
    "uint2": Arg.UINT2,
    "int4": Arg.INT4,
    "uint4": Arg.INT4,
    "uint8": Arg(8),
    "float8": Arg.FLOAT8,
    "decimalnl_short": Arg.LINE,
    "decimalnl_long": Arg.LINE,
    "floatnl": Arg.LINE,
    "stringnl": Arg.LINE,
    "stringnl_noescape": Arg.LINE,
    "unicodestringnl": Arg.LINE,
    "stringnl_noescape_pair": Arg.TWO_LINES,
    "string1": Arg.SIZE1,
    "bytes1": Arg.SIZE1,
    "unicodestring1": Arg.SIZE1,
    "long1": Arg.SIZE1,
    "string4": Arg.SIZE4,
    "bytes4": Arg.SIZE4,
    "unicodestring4": Arg.SIZE4,
    "long4": Arg.SIZE4,
    "bytes8": Arg.SIZE8,
    "bytearray8": Arg.SIZE8,
    "unicodestring8": Arg.SIZE8,
}
THEIRS = {op.name: op for op in pickletools.opcodes}


def test_the_table_is_pickletools() -> None:
    theirs = {(op.name, ord(op.code), op.proto) for op in pickletools.opcodes}
    assert {(row.name, row.code, row.proto) for row in OPCODES} == theirs
    assert len(OPCODES) == len(theirs) == len(BY_CODE) == len(BY_NAME)


def test_the_table_is_pickles() -> None:
    ours = {row.name: bytes([row.code]) for row in OPCODES}
    theirs = {name: getattr(pickle, name) for name in ours if hasattr(pickle, name)}
    assert {name: ours[name] for name in theirs} == theirs
    assert set(ours) == set(theirs)


def test_the_argument_is_what_pickletools_reads() -> None:
    for row in OPCODES:
        argument = THEIRS[row.name].arg
        assert row.arg == ARGUMENTS[argument.name if argument else None], row.name


def test_a_fixed_argument_has_the_size_that_pickletools_says() -> None:
    for row in OPCODES:
        argument = THEIRS[row.name].arg
        size = argument.n if argument else 0
        assert (row.arg if row.arg <= 8 else -1) == (size if size >= 0 else -1), row.name


def test_every_opcode_has_one_handler() -> None:
    for row in OPCODES:
        handler = inspect.unwrap(machine.DISPATCH[row.code])
        assert handler is machine.HANDLERS[row.name], row.name


def test_no_handler_stands_for_a_byte_that_is_no_opcode() -> None:
    assert set(machine.HANDLERS) == set(BY_NAME)
    rest = {machine.DISPATCH[code] for code in range(256) if code not in BY_CODE}
    assert len(rest) == 1
    assert not rest & set(machine.HANDLERS.values())


def test_the_stack_is_what_pickletools_says() -> None:
    """How many values an opcode takes and leaves, and whether it takes those above a mark."""
    for row in OPCODES:
        theirs = THEIRS[row.name]
        looked_at = row.name in ("PUT", "BINPUT", "LONG_BINPUT")  # pickletools leaves it out
        marked = pickletools.markobject in theirs.stack_before
        assert ("mark" in row.before.split()) == marked, row.name
        if not marked:
            assert len(row.before.split()) == len(theirs.stack_before) + looked_at, row.name
        names = row.after.replace("str of Python 2", "str").split()
        after = [name for name in names if name != "or"]
        assert len(after) == len(theirs.stack_after) + looked_at + (row.name == "INT"), row.name
