"""Opcodes that push one number or string: each gives what CPython's unpickler gives."""

from __future__ import annotations

import pickle
import struct
import warnings
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.errors import DamagedError, PtInspectError
from ptinspect.pickling.handlers import BLOB_BYTES, SCALARS
from ptinspect.pickling.machine import run
from ptinspect.pickling.opcodes import BY_CODE, OPCODES
from ptinspect.pickling.values import Blob, OutOfBand, Python2Str
from tests.pickling.python import to_python

GOOD = (
    *(b"I%b\n." % line for line in (b"0", b"-5", b"00", b"01", b"1", b"+1", b"-0", b" 7", b"0x1F")),
    *(b"I%b\n." % line for line in (b"017", b"-017", b"000", b"1_0", b"0o17", b"1\0", b"10\0x")),
    b"I%d\n." % (1 << 63), b"I-%d\n." % (1 << 70), b"I%d\n." % ((1 << 63) - 1),
    b"J\xff\xff\xff\xff.", b"J\0\0\0\x80.", b"J\x01\0\0\0.", b"K\0.", b"K\xff.", b"M\x01\xff.",
    b"L0L\n.", b"L-12L\n.", b"L12\n.", b"L%dL\n." % (1 << 200), b"L0x10L\n.", b"L7\0junk\n.",
    b"\x8a\0.", b"\x8a\x01\xff.", b"\x8a\x02\xff\0.", b"\x8a\x09" + b"\xff" * 9 + b".",
    b"\x8b\0\0\0\0.", b"\x8b\x02\0\0\0\xff\x7f.", b"\x8b\0\x01\0\0" + bytes(256) + b".",
    *(b"F%b\n." % line for line in (b"0.0", b"-1.5e3", b"nan", b"inf", b"-inf", b"7", b"1\0junk")),
    *(b"G" + struct.pack(">d", x) + b"." for x in (0.0, -0.0, 1.5, float("nan"), 5e-324)),
    b"N.", b"\x88.", b"\x89.",
    *(b"S%b\n." % line for line in (b"''", b'"b"', b"'a'", rb"'\n\t\\\'\"\x41\101\7'", rb"'\q\8'")),
    rb"S'\a\b\f\v\r\1234'" + b"\n.", rb"S'\401\577'" + b"\n.", b"S'\xe9'\n.",
    b"T\0\0\0\0.", b"T\x03\0\0\0abc.", b"T\x02\0\0\0\xc3\xa9.", b"U\0.", b"U\x03abc.",
    b"B\0\0\0\0.", b"B\x02\0\0\0\0\xff.", b"C\0.", b"C\x02\0\xff.", b"C\xff" + bytes(255) + b".",
    b"\x8e" + struct.pack("<Q", 2) + b"ab.", b"\x96" + struct.pack("<Q", 2) + b"ab.",
    b"V\n.", b"Va\n.", rb"V\u0041\U0001F600\\" + b"\n.", b"V\xe9\xff\n.", b"V\\\n.",
    b"\x8c\0.", b"\x8c\x02\xc3\xa9.", b"\x8c\x03\xed\xb2\x80.", b"X\0\0\0\0.", b"X\x03\0\0\0abc.",
    b"\x8d" + struct.pack("<Q", 3) + "가".encode() + b".",
)  # fmt: skip

BAD = (
    *(b"I%b\n." % line for line in (b"", b"x", b"1.5", b"089", b"0x", b"--1", b"1 2")),
    *(b"L%b\n." % line for line in (b"", b"L", b"x", b"017L", b"1LL")),
    *(b"F%b\n." % line for line in (b"", b"x", b"1.5.5", b"0x10")),
    b"\x8b\xff\xff\xff\xff.", b"\x8b\0\0\0\x80.", b"T\xff\xff\xff\xff.",
    *(b"S%b\n." % line for line in (b"", b"'", b"'a", b"a", b"'a\"", rb"'\x4'", rb"'\xg1'")),
    b"S'\\'\n.", rb"V\u12" + b"\n.", rb"V\U00110000" + b"\n.", b"\x8c\x01\xff.",
    b"X\x02\0\0\0\xc3(.", b"\x8d" + struct.pack("<Q", 1) + b"\x80.",
)  # fmt: skip


def theirs(data: bytes) -> object:
    with warnings.catch_warnings():  # of escapes that CPython does not like and takes all the same
        warnings.simplefilter("ignore")
        return pickle.loads(data, encoding="utf-8", errors="strict")


@pytest.mark.parametrize("data", [data for data in GOOD if data != b"S'\xe9'\n."], ids=repr)
def test_the_value_is_cpythons(data: bytes) -> None:
    assert repr(to_python(run(data).root)) == repr(theirs(data))


def test_these_are_all_the_scalars_there_are() -> None:
    tried = {BY_CODE[data[0]].name for data in GOOD}
    assert tried == set(SCALARS) - {"NEXT_BUFFER", "READONLY_BUFFER"}
    assert tried <= {row.name for row in OPCODES}


@pytest.mark.parametrize("data", BAD, ids=repr)
def test_what_cpython_refuses_is_damaged_at_its_opcode(data: bytes) -> None:
    with pytest.raises((ValueError, pickle.UnpicklingError, OverflowError)):
        theirs(data)
    with pytest.raises(DamagedError) as caught:
        run(b"0" * 3 + data, 3, record="data.pkl")
    assert caught.value.where == ("data.pkl", 3)
    assert BY_CODE[data[0]].name in caught.value.message


LINES = st.binary(max_size=40) | st.text("0123789abcxoLJ-+_ .einf\\'\"\0\t", max_size=12).map(
    str.encode
)


@given(LINES.filter(lambda line: b"\n" not in line))
def test_text_is_read_as_cpython_reads_it(line: bytes) -> None:
    """No line makes the machine take less than CPython takes, or another value."""
    for code in (b"I", b"L", b"F", b"S", b"V"):
        data = code + line + b"\n."
        try:
            want = repr(theirs(data))
        except (ValueError, OverflowError, pickle.UnpicklingError, EOFError):
            with suppress(PtInspectError):
                run(data)
            continue
        assert repr(to_python(run(data).root)) == want, data


# --- what CPython has no one answer to ----------------------------------------------------------


def test_a_python2_string_is_utf8_where_it_can_be() -> None:
    root = run(b"U\x05caf\xc3\xa9.").root
    assert isinstance(root, Python2Str)
    assert (root, root.raw) == ("café", b"caf\xc3\xa9")


def test_another_python2_string_is_latin1_with_a_warning_that_names_the_encoding() -> None:
    pickled = run(b"(U\x04caf\xe9U\x01\xfft.")
    assert pickled.root == ("café", "ÿ")
    assert isinstance(pickled.root, tuple)
    assert pickled.root[0].raw == b"caf\xe9"
    (warning,) = pickled.warnings  # once, not once per string
    assert (warning.kind, warning.offset) == ("python2-string", 1)
    assert 'encoding="latin1"' in warning.message


def test_an_ascii_python2_string_is_just_a_string() -> None:
    assert type(run(b"U\x01a.").root) is str


@pytest.mark.parametrize("size", [BLOB_BYTES - 1, BLOB_BYTES, 70_000])
def test_long_bytes_stay_where_they_lie(size: int) -> None:
    held = bytes(range(256)) * (size // 256 + 1)
    data = pickle.dumps(held[:size], 4)
    root = run(data).root
    if size < BLOB_BYTES:
        assert root == held[:size]
    else:
        assert isinstance(root, Blob)
        assert (root.buffer, len(root), root.mutable) == (data, size, False)
        assert root.read() == held[:size]
        assert root.read(3, 9) == held[3:9]
        assert root.read(size - 1, size + 9) == held[size - 1 : size]
        assert root.read(9, 3) == b""


def test_a_bytearray_is_told_from_bytes() -> None:
    root = run(pickle.dumps(bytearray(b"ab"), 5)).root
    assert isinstance(root, Blob)
    assert (root.mutable, root.read()) == (True, b"ab")


def test_buffers_that_were_kept_outside_are_counted() -> None:
    kept: list[pickle.PickleBuffer] = []
    value = [pickle.PickleBuffer(bytearray(b"ab")), pickle.PickleBuffer(b"cd")]
    pickled = run(pickle.dumps(value, 5, buffer_callback=kept.append))
    assert isinstance(pickled.root, list)
    assert pickled.buffers == len(kept) == 2
    made = [(b.index, b.readonly) for b in pickled.root if isinstance(b, OutOfBand)]
    assert made == [(0, False), (1, True)]


def test_numbers_keep_their_sign_and_their_nan() -> None:
    values = [0.0, -0.0, float("nan"), float("-inf"), 1 << 64, -(1 << 64), True, 1, 1.0]
    assert repr(run(pickle.dumps(values, 2)).root) == repr(values)
