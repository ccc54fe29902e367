"""`show --format markdown`: for an issue or a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.entries import lines_of
from ptinspect.display.rows import table_of
from ptinspect.display.select import none_selected
from ptinspect.display.summary_facts import facts, heading
from ptinspect.display.text.escape import cut, markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ptinspect.display.options import Look
    from ptinspect.document import Document


def markdown_text(document: Document, look: Look) -> str:
    """The text, ending in a newline."""
    blocks = [
        [f"### {markdown(document.path)}"],
        [markdown(heading(document))],
        _list(document, look),
        _pairs(lines_of(document, look)),
        *_trees(document, look),
        _table(document, look),
    ]
    if look.values:
        from ptinspect.display.tensor_columns import values_lines

        blocks += [fenced(block) for block in values_lines(document, look)]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _list(document: Document, look: Look) -> list[str]:
    found = [(label, code(text) if label == "load" else markdown(text))
             for label, text in facts(document, look)]  # fmt: skip
    found += [("warning", markdown(_warned(w.path, w.message))) for w in document.warnings]
    return [f"- **{label}**: {text}" if label else f"  {text}" for label, text in found]


def _warned(path: tuple[str | int, ...] | None, message: str) -> str:
    return cut(f"{'.'.join(map(str, path))}: {message}" if path else message)


def _pairs(lines: Sequence[tuple[str, str]]) -> list[str]:
    return table(["entry", "value"], lines) if lines else []


def _trees(document: Document, look: Look) -> list[list[str]]:
    if not document.modules:
        return []
    from ptinspect.display.module_nodes import root_module_trees

    return [fenced(lines) for lines in root_module_trees(document, look.depth)]


def _table(document: Document, look: Look) -> list[str]:
    found = table_of(document, look)
    if not found.rows:
        return [none_selected(document, look)] if document.tensors else []
    return table(found.headers, found.rows, found.right)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: frozenset[int] = frozenset(),
) -> list[str]:
    """A table of GitHub's Markdown."""
    rules = ["---:" if at in right else "---" for at in range(len(headers))]
    lines = [headers, rules, *([markdown(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def code(text: str) -> str:
    """Text as code, whatever backticks it holds; it has no line breaks and nothing invisible."""
    ticks = "`" * (longest(text, "`") + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def fenced(lines: Sequence[str]) -> list[str]:
    """Lines as a block of code, behind a fence longer than any that they hold."""
    fence = "`" * max(3, max(longest(line, "`") for line in lines) + 1)
    return [f"{fence}text", *lines, fence]


def longest(text: str, char: str) -> int:
    """The length of the longest run of a character."""
    run = most = 0
    for found in text:
        run = run + 1 if found == char else 0
        most = max(most, run)
    return most
