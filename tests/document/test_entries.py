"""What an entry says of a number, a string, an object: without the class, from the pickle."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import pickle
import uuid
from typing import NamedTuple

import numpy
import pytest
from click.testing import CliRunner

from ptinspect.cli import cli
from tests.document.making import document, lines, of_bytes


class Color(enum.Enum):
    RED = 1


class Zone(datetime.tzinfo):
    """A time zone of the user's own."""


class Point(NamedTuple):
    x: int
    y: str


EXPECTED: list[tuple[object, str, object]] = [
    (None, "NoneType", None),
    (True, "bool", True),
    (3, "int", 3),
    (1e300, "float", 1e300),
    ("한국어", "str", "한국어"),
    (b"\x00\xff", "bytes", {"length": 2, "head": "00ff"}),
    (bytearray(b"ab"), "bytearray", {"length": 2, "head": "6162"}),
    (2 + 1j, "complex", "(2+1j)"),
    ([1, 2], "list", [1, 2]),
    (list(range(100)), "list", {"length": 100, "head": list(range(16))}),
    ((1, "a"), "tuple", [1, "a"]),
    ({}, "dict", {"length": 0, "head": []}),
    (range(3), "range", None),
    (pathlib.PurePosixPath("/a/b"), "pathlib.PurePosixPath", "/a/b"),
    (pathlib.PureWindowsPath("C:\\a\\b"), "pathlib.PureWindowsPath", "C:\\a\\b"),
    (datetime.date(2026, 11, 24), "datetime.date", "2026-11-24"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 60), "datetime.datetime", "2026-01-02T03:04:05.000060"),
    (
        datetime.datetime(
            2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=9))
        ),
        "datetime.datetime",
        "2026-01-02T03:04:05+09:00",
    ),
    (
        datetime.time(3, 4, 5, 6, datetime.timezone(-datetime.timedelta(minutes=90)), fold=1),
        "datetime.time",
        "03:04:05.000006-01:30",
    ),
    (datetime.timedelta(days=1, seconds=2), "datetime.timedelta", [1, 2, 0]),
    (..., "global", "builtins.Ellipsis"),
    (numpy.dtype("<i8"), "numpy.dtype", "<i8"),
    (decimal.Decimal("1.50"), "decimal.Decimal", "1.50"),
    (uuid.UUID(int=1), "uuid.UUID", "00000000-0000-0000-0000-000000000001"),
    (Color.RED, f"{__name__}.Color", 1),
    (collections.deque([1, 2]), "collections.deque", {"length": 2, "head": [1, 2]}),
    (len, "global", "builtins.len"),
    (Point, "global", f"{__name__}.Point"),
]


@pytest.mark.parametrize(
    ("value", "kind", "said"), EXPECTED, ids=[repr(e[0])[:20] for e in EXPECTED]
)
def test_a_value_is_said_in_one_line(value: object, kind: str, said: object) -> None:
    types = {kind, kind.replace("pathlib.", "pathlib._local.")}  # where Python 3.13 has them
    for protocol in range(2, 6):
        (entry,) = document({"x": value}, protocol=protocol).entries
        assert entry.path == ("x",)
        assert entry.type in types, protocol
        if said is not None:
            assert entry.value == said, protocol


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.timedelta(days=1, seconds=2), "datetime.timedelta(1, 2, 0)"),
        ((1, 2), "(1, 2)"),
        ([1, 2], "[1, 2]"),
        (numpy.float32(-0.7), "-0.7  numpy.float32"),
        (numpy.float64(-0.7), "-0.7  numpy.float64"),
    ],
)
def test_the_text_of_an_object_names_its_class(value: object, text: str) -> None:
    (entry,) = document({"x": value}).entries
    assert entry.text == text


def test_a_fraction_keeps_its_parts() -> None:
    assert lines(document({"x": fractions.Fraction(1, 3)}))["x"] in ("1/3", [1, 3])


def test_an_object_of_an_unknown_class_shows_its_attributes() -> None:
    found = document({"args": argparse.Namespace(lr=0.1, name="a", layers=[1, 2])})
    assert [(".".join(map(str, e.path)), e.type, e.value) for e in found.entries] == [
        ("args", "argparse.Namespace", None),
        ("args.lr", "float", 0.1),
        ("args.name", "str", "a"),
        ("args.layers", "list", [1, 2]),
    ]


def test_a_named_tuple_shows_its_items() -> None:
    assert lines(document({"p": Point(1, "b")})) == {"p": None, "p.0": 1, "p.1": "b"}


def test_a_method_shows_the_object_that_it_is_of() -> None:
    found = lines(document({"m": argparse.Namespace(lr=0.1).__eq__}, protocol=4))
    assert found == {"m": None, "m.args[0]": None, "m.args[0].lr": 0.1, "m.args[1]": "__eq__"}


def test_torchs_constants_are_told_by_their_public_name() -> None:
    made = of_bytes(b"\x80\x02]ctorch._utils\ntorch.channels_last\na.")
    assert [(e.type, e.value) for e in made.entries] == [
        ("torch.memory_format", "torch.channels_last")
    ]


def test_a_time_zone_that_only_code_knows_is_named() -> None:
    zone = datetime.datetime(2026, 1, 2, tzinfo=Zone())
    assert lines(document({"t": zone}))["t"] == f"2026-01-02T00:00:00 ({__name__}.Zone)"


def test_a_partial_shows_its_parts() -> None:
    found = lines(document({"f": functools.partial(int, "7", base=8)}))
    assert found["f.func"] == "builtins.int"
    assert found["f.args"] == ["7"]
    assert found["f.keywords.base"] == 8


def test_keys_that_are_no_strings() -> None:
    found = document({1: "a", (2, 3): "b", None: "c", 2.5: "d"})
    assert [entry.path for entry in found.entries] == [(1,), ("(2, 3)",), ("None",), ("2.5",)]


def test_a_key_that_is_set_twice_is_said() -> None:
    found = of_bytes(b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.")
    assert lines(found) == {"a": 2}
    assert any(w.kind == "duplicate-key" and "'a'" in w.message for w in found.warnings)


@pytest.mark.parametrize("view", ["summary", "json", "tree", "markdown", "table"])
def test_integers_beyond_what_python_writes_are_told_by_their_size(
    view: str, tmp_path: pathlib.Path
) -> None:
    """`str` refuses integers of more than 4,300 digits."""
    huge = 1 << 100_000
    file = tmp_path / "huge.pkl"
    file.write_bytes(pickle.dumps({huge: [huge], (huge,): {"a": huge}, "b": [huge, 1]}, 4))
    shown = CliRunner().invoke(cli, ["show", "-f", view, str(file)])
    assert shown.exit_code == 0, shown.stderr
    assert ("100,001 bits" in shown.stdout) == (view != "table")
