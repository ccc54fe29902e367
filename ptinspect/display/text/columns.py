"""Columns of text, laid out as tabulate's format "simple" does, but in one pass over the rows,
with wide characters counted as two, and fitted to a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GAP = "  "
NARROWEST = 12
"""Columns that the last cell keeps when a table is made to fit."""

NAME = 32
"""Columns that the first cell keeps."""


class Table(NamedTuple):
    """Cells of escaped text; `right` holds the indices of the columns that are aligned right."""

    headers: list[str]
    rows: list[tuple[str, ...]]
    right: frozenset[int]


def width_of(text: str) -> int:
    """Columns of a terminal that the text takes: two for the characters of East Asian scripts,
    none for marks that combine."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def padded(text: str, width: int, right: bool = False) -> str:
    """The text with spaces up to a width."""
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def shortened(text: str, width: int) -> str:
    """The text, with its middle left out where it is wider: both ends of a key tell most."""
    if width_of(text) <= width:
        return text
    head: list[str] = []
    tail: list[str] = []
    left = width - 1
    front, back = 0, len(text) - 1
    while front <= back:
        at_end = len(tail) < len(head)
        char = text[back] if at_end else text[front]
        left -= width_of(char)
        if left < 0:
            break
        if at_end:
            tail.append(char)
            back -= 1
        else:
            head.append(char)
            front += 1
    return "".join(head) + "…" + "".join(reversed(tail))


def columns(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: frozenset[int] = frozenset(),
    width: int | None = None,
) -> list[str]:
    """The lines of a table: headers, a rule, the rows. `right`: columns that are set to the
    right. `width`: what a line may take; the last and the first column are shortened to fit."""
    widths = [width_of(header) for header in headers]
    plain = True
    for at, column in enumerate(zip(*rows, strict=True)):
        joined = "".join(column)
        if joined.isascii():
            widths[at] = max(widths[at], max(map(len, column)))
        else:
            plain = False
            widths[at] = max(widths[at], max(map(width_of, column)))
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths = fitted(widths, width)
        rows = [
            [shortened(cell, widths[at]) for at, cell in enumerate(row)] for row in (headers, *rows)
        ]
        headers, rows, plain = rows[0], rows[1:], False
    return _drawn(headers, rows, widths, right, plain)


def _drawn(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: list[int],
    right: frozenset[int],
    plain: bool,
) -> list[str]:
    rule = GAP.join("-" * width for width in widths)
    if plain and all(map(str.isascii, headers)):
        form = GAP.join(f"%{'' if at in right else '-'}{width}s" for at, width in enumerate(widths))
        return [
            (form % tuple(headers)).rstrip(), rule, *[(form % tuple(row)).rstrip() for row in rows]
        ]  # fmt: skip
    lines = [
        GAP.join(
            padded(cell, width, at in right)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (headers, *rows)
    ]
    return [lines[0], rule, *lines[1:]]


def fitted(widths: list[int], width: int) -> list[int]:
    """Widths that together fit, as far as may be: only the last column (a note, a hash) gives,
    down to `NARROWEST`, and then the first, which names the row, down to `NAME`. A shape or a
    type with a hole in it would tell nothing, and so a line may still be too long."""
    made = list(widths)
    over = sum(made) + len(GAP) * (len(made) - 1) - width
    for at, least in ((len(made) - 1, NARROWEST), (0, NAME)):
        given = max(min(over, made[at] - least), 0)
        made[at] -= given
        over -= given
    return made
