"""Tables of text: repeated keys folded, and drawn like tabulate's format "simple".

tabulate itself is not used: importing it adds 15 ms to the 65 ms of CPU time that `show` takes for
a small file, it draws 20,000 rows in 0.86 s instead of 0.04 s, and it does not fit a table to the
terminal.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import NamedTuple

from ptinspect.display.text.escape import markdown

GAP = "  "

MIN_FIRST_COLUMN = 32
MIN_LAST_COLUMN = 12
"""Columns of the terminal that the first and the last cell keep when a table is made to fit."""

MIN_FOLD = 3
"""Repetitions of a key that are worth a pattern."""


class Table(NamedTuple):
    """Cells of escaped text; `right` holds the indices of the columns that are aligned right."""

    headers: list[str]
    rows: list[tuple[str, ...]]
    right: frozenset[int] = frozenset()


def display_width(text: str) -> int:
    """Return the columns of a terminal that the text takes: two for East Asian characters, none for
    combining marks."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def pad(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def shorten_middle(text: str, width: int) -> str:
    """Return the text with its middle left out if it is wider: the ends of a key say most."""
    if display_width(text) <= width:
        return text
    head: list[str] = []
    tail: list[str] = []
    room = width - 1
    first, last = 0, len(text) - 1
    while first <= last:
        at_end = len(tail) < len(head)
        char = text[last] if at_end else text[first]
        room -= display_width(char)
        if room < 0:
            break
        if at_end:
            tail.append(char)
            last -= 1
        else:
            head.append(char)
            first += 1
    return "".join(head) + "…" + "".join(reversed(tail))


def draw_table(table: Table, width: int | None = None) -> list[str]:
    """Return the lines of a table: headers, a rule, the rows. To fit a terminal of `width` columns,
    the last and the first column are shortened."""
    headers: Sequence[str] = table.headers
    rows: Sequence[Sequence[str]] = table.rows
    widths = [display_width(header) for header in headers]
    ascii_only = all(map(str.isascii, headers))
    for index, column in enumerate(zip(*rows, strict=True)):
        column_is_ascii = "".join(column).isascii()
        measure = len if column_is_ascii else display_width
        widths[index] = max(widths[index], max(map(measure, column)))
        ascii_only = ascii_only and column_is_ascii
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths = fit_widths(widths, width)
        headers, *rows = (
            [shorten_middle(cell, widths[index]) for index, cell in enumerate(row)]
            for row in (headers, *rows)
        )
        ascii_only = False  # the ellipsis is not ASCII
    rule = GAP.join("-" * width for width in widths)
    if ascii_only:  # one format string for all rows is several times as fast as padding cells
        alignments = ["" if index in table.right else "-" for index in range(len(widths))]
        row_format = GAP.join(
            f"%{alignment}{width}s" for alignment, width in zip(alignments, widths, strict=True)
        )
        lines = [(row_format % tuple(row)).rstrip() for row in (headers, *rows)]
    else:
        lines = [
            GAP.join(
                pad(cell, width, index in table.right)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (headers, *rows)
        ]
    lines.insert(1, rule)
    return lines


def markdown_table(table: Table) -> list[str]:
    """Return the lines of a table in GitHub's Markdown."""
    rule = ["---:" if index in table.right else "---" for index in range(len(table.headers))]
    rows = [[markdown(cell) for cell in row] for row in table.rows]
    return [f"| {' | '.join(row)} |" for row in (table.headers, rule, *rows)]


def fit_widths(widths: list[int], width: int) -> list[int]:
    """Return widths that together fit, as far as possible: the last column (a note, a hash) is
    shortened first, then the first (the key). Half a shape or dtype says nothing, so the others
    stay."""
    fitted = list(widths)
    excess = sum(fitted) + len(GAP) * (len(fitted) - 1) - width
    for index, minimum in ((len(fitted) - 1, MIN_LAST_COLUMN), (0, MIN_FIRST_COLUMN)):
        cut = max(min(excess, fitted[index] - minimum), 0)
        fitted[index] -= cut
        excess -= cut
    return fitted


_Pattern = tuple[tuple[str, ...], Hashable, tuple[int, ...]]
"""The tokens of a key, its facts and its rows."""


class FoldedKey(NamedTuple):
    """A key or a pattern of keys, the indices of its rows, and the facts that they share."""

    key: str
    rows: tuple[int, ...]
    facts: Hashable

    @property
    def times(self) -> int:
        """Number of keys."""
        return len(self.rows)

    @property
    def text(self) -> str:
        """The key, and how many keys it stands for: `layers.{0..3}.weight × 4`."""
        return self.key if self.times == 1 else f"{self.key} × {self.times:,}"


def fold_keys(rows: Iterable[tuple[str, Hashable]]) -> list[FoldedKey]:
    """Join keys with the same facts that differ only in one number, which counts up, again and
    again: `layers.{0..3}.experts.{0..7}.weight`. The order is that of the first key of each
    pattern."""
    patterns: list[_Pattern] = [
        (tuple(key.split(".")), facts, (row,)) for row, (key, facts) in enumerate(rows)
    ]
    numbered = {i for tokens, *_ in patterns for i, token in enumerate(tokens) if _is_number(token)}
    for index in sorted(numbered, reverse=True):
        groups: dict[Hashable, list[_Pattern]] = {}
        for number, pattern in enumerate(patterns):
            tokens, facts, numbers = pattern
            group_key: Hashable = number  # a pattern that cannot be joined is a group of its own
            if index < len(tokens) and _is_number(tokens[index]):
                group_key = (tokens[:index], tokens[index + 1 :], facts, len(numbers))
            groups.setdefault(group_key, []).append(pattern)
        patterns = [joined for group in groups.values() for joined in _join_runs(group, index)]
    return [FoldedKey(".".join(tokens), numbers, facts) for tokens, facts, numbers in patterns]


def fold_rows(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Join rows that differ only in one number of their first cell, a key."""
    cells = list(rows)
    folded = fold_keys((row[0], row[1:]) for row in cells)
    return [(item.text, *cells[item.rows[0]][1:]) for item in folded]


def _is_number(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) < 10 and str(int(token)) == token


def _join_runs(group: list[_Pattern], index: int) -> Iterator[_Pattern]:
    """Join each run of at least `MIN_FOLD` consecutive numbers in token `index`."""
    if len(group) < MIN_FOLD:
        yield from group
        return
    ordered = sorted(group, key=lambda pattern: int(pattern[0][index]))  # "10" after "2"
    for _, run in groupby(enumerate(ordered), lambda item: int(item[1][0][index]) - item[0]):
        patterns = [pattern for _, pattern in run]
        if len(patterns) < MIN_FOLD:
            yield from patterns
            continue
        (first, facts, _), (last, *_) = patterns[0], patterns[-1]
        token = f"{{{first[index]}..{last[index]}}}"
        rows = chain.from_iterable(rows for *_, rows in patterns)
        yield (*first[:index], token, *first[index + 1 :]), facts, tuple(rows)
