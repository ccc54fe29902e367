"""Source text, laid out as `ruff format` does, and the code that is part of every stub.

An expression that fits on a line stays on it. Otherwise its brackets open, with one item per line
and a trailing comma.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from unicodedata import east_asian_width

from ptinspect.stubs.expr.nodes import Expr, names_in
from ptinspect.text import read_package_file

WIDTH = 88
"""Columns of a line: the default of ruff and black."""


def columns(text: str) -> int:
    """Return the width of a line. Letters of East Asian scripts take two columns."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def layout(prefix: str, expr: Expr, suffix: str = "", indent: int = 0) -> list[str]:
    """Return the lines of `prefix expr suffix`, indented by `indent` spaces."""
    start = " " * indent + prefix
    line = f"{start}{expr.text}{suffix}"
    opening, inside, closing = expr.brackets() if columns(line) > WIDTH else ("", [], "")
    if not inside:
        return [line]
    lines = [start + opening]
    for before, item, after in inside:
        lines += layout(before, item, after, indent + 4)
    return [*lines, " " * indent + closing + suffix]


def layout_assignment(target: str, expr: Expr, indent: int) -> list[str]:
    """Return the lines of `target = expr`, in parentheses where that makes a long line fit."""
    blank = " " * indent
    lines = layout(f"{target} = ", expr, "", indent)
    if columns(lines[0]) <= WIDTH:
        return lines
    inside = layout("", expr, "", indent + 4)
    if columns(inside[0]) <= WIDTH:
        return [f"{blank}{target} = (", *inside, f"{blank})"]
    return lines


class Source:
    """Lines of Python, and the dotted names that they read."""

    __slots__ = ("lines", "names")

    def __init__(self, lines: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        self.lines = list(lines)
        self.names = set(names)

    def add(self, *lines: str) -> None:
        """Append lines that read no names that matter for imports."""
        self.lines += lines

    def read(self, *names: str) -> None:
        """Record names that appended lines read."""
        self.names.update(names)

    def add_expr(self, prefix: str, expr: Expr, indent: int, suffix: str = "") -> None:
        """Append `prefix expr suffix`."""
        self.lines += layout(prefix, expr, suffix, indent)
        self.names |= names_in(expr)

    def add_assignment(self, target: str, expr: Expr, indent: int) -> None:
        """Append `target = expr`."""
        self.lines += layout_assignment(target, expr, indent)
        self.names |= names_in(expr)

    def extend(self, source: Source) -> None:
        """Append other source."""
        self.lines += source.lines
        self.names |= source.names


@cache
def _templates() -> dict[str, Source]:
    templates: dict[str, Source] = {}
    for section in read_package_file("stubs/write/templates.txt").split("\n=== ")[1:]:
        head, *lines = section.rstrip("\n").split("\n")
        name, *names = head.split()
        is_method = lines[0].startswith(" ")
        templates[name] = Source(lines if is_method else ["", "", *lines], names)
    return templates


def template(name: str) -> Source:
    """Return the code of this name in `templates.txt`; functions follow two empty lines."""
    return _templates()[name]
