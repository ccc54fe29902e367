"""`show --format table`: the tensors, by tabulate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.rows import table_of
from ptinspect.display.select import none_selected
from ptinspect.display.text.columns import Table, columns

if TYPE_CHECKING:
    from ptinspect.display.options import Look
    from ptinspect.document import Document

TABULATED = 1_000
"""Rows up to which tabulate draws. It looks at each cell several times, and so takes a second
for what `columns`, which draws the same lines, has done in a tenth of it."""


def table_text(document: Document, look: Look) -> str:
    """The table, ending in a newline; empty where there is no tensor."""
    table = table_of(document, look)
    lines = drawn(table, look.width) or [none_selected(document, look)]
    if look.values:
        from ptinspect.display.tensor_columns import values_lines

        for block in values_lines(document, look):
            lines += ["", *block]
    return "".join(f"{line}\n" for line in lines)


def drawn(table: Table, width: int | None) -> list[str]:
    """The lines, none without rows; fitted to `width` columns of a terminal, if given."""
    if not table.rows:
        return []
    ascii_only = all("".join(row).isascii() for row in table.rows)
    if width is not None or len(table.rows) > TABULATED or not ascii_only:
        return columns(table.headers, table.rows, right=table.right, width=width)
    import tabulate

    aligned = ["right" if at in table.right else "left" for at in range(len(table.headers))]
    tabulate.MIN_PADDING = 0  # headers are as wide as they are, no wider
    text = tabulate.tabulate(
        table.rows, table.headers, "simple", disable_numparse=True, colalign=aligned
    )
    return [line.rstrip() for line in text.split("\n")]
