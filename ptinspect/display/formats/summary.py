"""`show --format summary`, the default: what a file is, holds and needs; the tree of a model;
the table of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.rows import table_of
from ptinspect.display.select import none_selected
from ptinspect.display.summary_facts import Fact, facts, heading
from ptinspect.display.text.columns import columns, padded, width_of
from ptinspect.display.text.escape import cut, safe
from ptinspect.text import count_text

if TYPE_CHECKING:
    from ptinspect.display.options import Look
    from ptinspect.document import Document

ENTRIES = 40
"""Entries that are listed on a terminal before the rest is counted."""


def summary_text(document: Document, look: Look) -> str:
    """The text, ending in a newline."""
    paint = Paint(look.colour)
    blocks = [
        [f"{paint.bold(safe(document.path))}  {heading(document)}"],
        _facts(document, look, paint),
        _entries(document, look),
        *_trees(document, look),
        _tensors(document, look),
    ]
    if look.values:
        from ptinspect.display.tensor_columns import values_lines

        blocks += values_lines(document, look)
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


class Paint:
    """Escape codes where colour is wanted."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted

    def bold(self, text: str) -> str:
        """For names."""
        return f"\x1b[1m{text}\x1b[0m" if self.wanted else text

    def dim(self, text: str) -> str:
        """For labels."""
        return f"\x1b[2m{text}\x1b[0m" if self.wanted else text

    def warn(self, text: str) -> str:
        """For warnings."""
        return f"\x1b[33m{text}\x1b[0m" if self.wanted else text


def _facts(document: Document, look: Look, paint: Paint) -> list[str]:
    found: list[Fact] = list(facts(document, look))
    warned = [
        f"{cut('.'.join(map(str, w.path)))}: {cut(w.message)}" if w.path else cut(w.message)
        for w in document.warnings
    ]
    width = max(len(label) for label, _ in [*found, ("warning" if warned else "", "")])
    lines = [f"  {paint.dim(label.ljust(width))}   {text}" for label, text in found]
    lines += [f"  {paint.warn('warning'.ljust(width))}   {text}" for text in warned]
    return lines


def _entries(document: Document, look: Look) -> list[str]:
    """The numbers and strings of a checkpoint with their values, 0-dim tensors among them."""
    from ptinspect.display.entries import lines_of

    found = lines_of(document, look)
    if not found:
        return []
    shown = found
    if look.fold and len(found) > ENTRIES:
        shown = found[: ENTRIES - 1]
    width = min(max(width_of(key) for key, _ in shown), 40)
    lines = [f"{padded(key, width)}  {text}" for key, text in shown]
    if len(shown) < len(found):
        lines.append(
            f"… and {count_text(len(found) - len(shown), 'more entry', 'more entries')} (--all)"
        )
    return lines


def _trees(document: Document, look: Look) -> list[list[str]]:
    if not document.modules:
        return []
    from ptinspect.display.module_nodes import root_module_trees

    return root_module_trees(document, look.depth)


def _tensors(document: Document, look: Look) -> list[str]:
    table = table_of(document, look)
    if not table.rows:
        return [none_selected(document, look)] if document.tensors else []
    return columns(table.headers, table.rows, right=table.right, width=look.width)
