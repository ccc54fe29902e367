"""CPython's own unpicklers, made harmless: no name is looked up, and what is called is recorded.

`load` gives the outline (see `outline`) of what they make of a stream, in the words in which the
machine's values are told.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

from tests.pickling.outline import Line, python3_name


class Thing:
    """What a call of a recorded name gives: it takes whatever is done to it."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: Any = None) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.states: list[Any] = []
        self.items: list[Any] = []
        self.pairs: dict[Any, Any] = {}
        self.added: list[Any] = []

    def __call__(self, *args: Any) -> Thing:
        return Thing(self, args)

    def __setstate__(self, state: Any) -> None:
        self.states.append(state)

    def extend(self, items: list[Any]) -> None:
        self.items.extend(items)

    def append(self, item: Any) -> None:
        self.items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs[key] = value

    def add(self, item: Any) -> None:
        self.added.append(item)

    def __len__(self) -> int:
        return 1  # true, so that BUILD with one is no BUILD with nothing


class Named(type):
    """A name's class: what it is called by, REDUCE, NEWOBJ, INST or another, leaves the same."""

    path: tuple[str, str]

    def __call__(cls, *args: Any) -> Thing:
        return Thing(cls, args)


def _new(cls: Any, *args: Any, **kwargs: Any) -> Thing:
    return Thing(cls, args, kwargs)


class Reference(Thing):
    """What a persistent id stands for."""

    def __init__(self, value: Any) -> None:
        super().__init__(None, (value,))


def load(data: bytes, unpickler: type) -> tuple[list[Line], int]:
    """The outline of the stream's value, and the offset behind its STOP. Whatever the unpickler
    raises is raised."""
    names: dict[tuple[str, str], Named] = {}

    class Recording(unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Named:
            path = python3_name(module, name)
            made = names.get(path)
            if made is None:
                made = names[path] = Named(name, (), {"__new__": _new})
                made.path = path
            return made

        def persistent_load(self, value: Any) -> Reference:
            return Reference(value)

    file = io.BytesIO(data)
    with warnings.catch_warnings():  # of escapes that it does not know
        warnings.simplefilter("ignore")
        value = Recording(file, encoding="latin1").load()
    return outline(value), file.tell()


def outline(root: Any) -> list[Line]:
    """As `tests.pickling.outline.outline` without offsets."""
    lines: list[Line] = []
    numbers: dict[int, int] = {}
    todo = [root]
    while todo:
        value = todo.pop()
        if value is None or isinstance(value, bool | int | float | str | bytes):
            shown = hex(value) if type(value) is int else repr(value)
            lines.append((type(value).__name__, shown))
        elif isinstance(value, tuple) and all(type(item) is int for item in value):
            lines.append(("integers", *map(hex, value)))
        elif id(value) in numbers:
            lines.append(("again", numbers[id(value)]))
        else:
            numbers[id(value)] = len(numbers)
            line, parts = _opened(value)
            lines.append(line)
            todo.extend(parts[::-1])
    return lines


def _opened(value: Any) -> tuple[Line, list[Any]]:
    if isinstance(value, tuple | list):
        return (type(value).__name__, len(value)), list(value)
    if isinstance(value, dict):
        return ("dict", len(value)), _pairs(value)
    if isinstance(value, set | frozenset):
        return (type(value).__name__, len(value)), sorted(value, key=_order)
    if isinstance(value, bytearray):
        return ("bytearray", bytes(value)), []
    if isinstance(value, Named):
        return ("global", *value.path), []
    assert isinstance(value, Thing), type(value)
    kwargs = [value.kwargs] if value.kwargs else []
    line: Line = ("call", len(value.args), len(kwargs))
    parts = [value.func, *value.args, *kwargs]
    if isinstance(value, Reference):
        line, parts = ("persistent",), [*value.args]
    groups = (value.states, value.items, _pairs(value.pairs), value.added)
    if any(groups):
        line += tuple(map(len, groups))
        parts += [part for group in groups for part in group]
    return line, parts


def _pairs(value: dict[Any, Any]) -> list[Any]:
    return [part for pair in value.items() for part in pair]


def _order(value: Any) -> str:
    return repr(outline(value))


UNPICKLERS: tuple[Callable[..., Any], ...] = (pickle.Unpickler, pickle._Unpickler)  # type: ignore[attr-defined]
