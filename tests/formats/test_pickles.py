"""Plain pickles: every protocol, several in a row, and what only looks like one."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest

from ptinspect.errors import DamagedError, FormatError, LimitError
from ptinspect.formats.archive import Archive
from ptinspect.formats.detect import open_archive
from ptinspect.limits import Limits
from ptinspect.source.base import MemorySource
from tests.formats.identify import identify

VALUE = {"epoch": 3, "names": ["a", "b"], "cost": 0.5}


def opened(data: bytes, **limits: int) -> Archive:
    return open_archive(MemorySource(data, "x.pkl"), Limits(**limits))


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol: int) -> None:
    archive = opened(pickle.dumps(VALUE, protocol))
    assert (archive.format, archive.root, archive.more_roots) == ("pickle", VALUE, [])
    assert (archive.origin, archive.record, archive.warnings) == (0, None, [])
    found = identify(MemorySource(pickle.dumps(VALUE, protocol), "x"))
    assert found is not None and found.format == "pickle"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [None, True, 7, 2.5, "text", b"bytes", [], (), {}, 10**30])
def test_small_values_alone(value: object, protocol: int) -> None:
    assert opened(pickle.dumps(value, protocol)).warnings == []


def test_several_in_a_row() -> None:
    data = b"".join(pickle.dumps(value) for value in (VALUE, [1], "x"))
    archive = opened(data)
    assert (archive.root, archive.more_roots) == (VALUE, [[1], "x"])
    assert [stream.end for stream in archive.streams][-1] == len(data)


def test_bytes_behind_are_a_warning() -> None:
    archive = opened(pickle.dumps(VALUE) + b"\0\0 nothing of pickle")
    assert [warning.kind for warning in archive.warnings] == ["trailing-bytes"]
    assert archive.warnings[0].message.startswith("20 bytes follow")


def test_a_second_one_that_is_cut_off_is_damage() -> None:
    with pytest.raises(DamagedError):
        opened(pickle.dumps(VALUE, 2) + pickle.dumps(VALUE, 2)[:-1])


@pytest.mark.parametrize("protocol", range(6))
def test_cut_off_is_damage_in_every_protocol(protocol: int) -> None:
    data = pickle.dumps(OrderedDict(VALUE), protocol)
    with pytest.raises(DamagedError) as caught:
        opened(data[:-1])
    assert caught.value.where is not None and caught.value.where.offset is not None


def test_too_many_in_a_row() -> None:
    with pytest.raises(LimitError) as caught:
        opened(b"\x80\x02N." * 4, streams=3)
    assert caught.value.limit == "streams"


@pytest.mark.parametrize(
    "data",
    [
        b"Internal Server Error\n",
        b"I1\n.\nand the rest of a text",
        b"N.B. this is a letter, and no pickle",
        b"cat model.pth\nfoo\n",
        b"K.. a text",
        b"Copyright (c) 2024 The Authors\n\n" + b"Permission is hereby granted, free. " * 20,
        b"click\ntabulate\nnumpy\n" * 10,
        b"cd here\n./run\n" * 20,
        b"(See the file LICENSE for what this means.)\n" * 9,
    ],
)
def test_texts_that_begin_with_an_opcode(data: bytes) -> None:
    with pytest.raises(FormatError, match="it is a text, which begins"):
        opened(data)


@pytest.mark.parametrize("data", [b"K\x05.\xff\xfe\xfd\xfc", b"\x89\x00\x01\x02", b"]\xff\xff\xff"])
def test_bytes_that_begin_with_an_opcode(data: bytes) -> None:
    with pytest.raises(FormatError, match="not a file that torch"):
        opened(data)


def test_a_damaged_dump_of_joblib_is_an_error() -> None:
    head = b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\nq\0)\x81q\1}q\2sb\0\1\2\3\4 raw bytes"
    with pytest.raises(DamagedError, match="too few values on the stack"):
        opened(head)
