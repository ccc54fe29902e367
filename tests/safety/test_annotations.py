"""Annotations and iterators as pickle writes them harm nobody; the same calls can reach further."""

from __future__ import annotations

import decimal
import http
import os
import pickle
import platform
import re
import string
import typing
import urllib.parse

import pytest

from tests.safety.making import args, call, new, path, plain, text, whole, worst

HONEST: list[object] = [
    list[int],
    dict[str, int],
    int | None,
    typing.Optional[int],  # noqa: UP045
    typing.List[int],  # noqa: UP006
    typing.Dict[str, typing.Union[int, str]],  # noqa: UP006, UP007
    typing.Literal["a"],
    typing.Callable[[int], int],
    iter([1, 2]),
    iter({}),
    reversed([1]),
    enumerate([1]),
    zip([1], (2,), strict=False),
    re.IGNORECASE,
    http.HTTPStatus.OK,
    decimal.Context(),
    string.Template("$a"),
    urllib.parse.urlparse("http://a/b"),
    os.terminal_size((80, 25)),
    platform.uname(),
]


@pytest.mark.parametrize("value", HONEST, ids=map(str, range(len(HONEST))))
def test_what_python_writes_is_not_dangerous(value: object) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert worst(pickle.dumps(value, protocol)) == "unknown", protocol


CALLS = path("builtins.eval")
ALIAS = call(path("_operator.getitem"), path("typing.Annotated"), args(path("mine.C"), plain(1)))
FURTHER = {
    "an item of a module": call(path("_operator.getitem"), path("builtins.__dict__"), text("x")),
    "an item of what a class holds": call(
        path("_operator.getitem"), text("typing") + text("sys.modules") + b"\x93", text("os")
    ),
    "an item of a dictionary": call(path("operator.getitem"), plain({"a": 1}), text("a")),
    "a reduction": call(path("_functools.reduce"), path("mine.f"), plain([1, 2])),
    "a reduction by three": call(path("_functools.reduce"), path("_operator.or_"), b"]", b"]"),
    "an iterator that calls": call(path("builtins.iter"), path("mine.f"), plain(1)),
    "an iterator over an object": call(path("builtins.iter"), new(path("mine.Thing"))),
    "an alias is changed": ALIAS + b"N" + plain({"append": 1}) + b"\x86b",
    "an alias is called": call(ALIAS, plain(1)),
    "items set in a template": new(path("string.Template")) + plain("a") + plain(1) + b"s",
}


@pytest.mark.parametrize("what", FURTHER)
def test_what_reaches_further_is_dangerous(what: str) -> None:
    assert worst(whole(FURTHER[what])) == "dangerous"
