"""`show --format markdown`: for an issue or a model card."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptinspect.display.entry_lines import entry_lines
from ptinspect.display.formats.table import no_tensors_text, tensor_table, values_blocks
from ptinspect.display.summary_facts import DO_NOT_LOAD, facts, heading
from ptinspect.display.text.columns import Table, markdown_table
from ptinspect.display.text.escape import cut, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.display.measure import FileHash
    from ptinspect.display.options import ShowOptions
    from ptinspect.document import Document


def markdown_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return the facts as a list, entries and tensors as tables, models as blocks of code."""
    items = _fact_list(document, options, file_hash)
    danger = "  **DANGEROUS**" if any(DO_NOT_LOAD in item for item in items) else ""
    blocks = [[f"### {markdown(document.path)}{danger}"], [markdown(heading(document))], items]
    entries = entry_lines(document, options.depth)
    if entries:
        blocks.append(markdown_table(Table(["entry", "value"], [*entries])))
    if document.modules:
        from ptinspect.display.module_nodes import root_module_trees

        blocks += map(_code_block, root_module_trees(document, options.depth))
    table = tensor_table(document, options)
    if table.rows:
        blocks.append(markdown_table(table))
    elif document.tensors:
        blocks.append([no_tensors_text(document, options)])
    if options.values:
        blocks += map(_code_block, values_blocks(document, options))
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _fact_list(document: Document, options: ShowOptions, file_hash: FileHash | None) -> list[str]:
    items = [
        (label, _code(text) if label == "load" else markdown(text))
        for label, text in facts(document, options, file_hash)
    ]
    for warning in document.warnings:
        place = f"{'.'.join(map(str, warning.path))}: " if warning.path else ""
        items.append(("warning", markdown(cut(place + warning.message))))
    return [f"- **{label}**: {text}" if label else f"  {text}" for label, text in items]


def _code(text: str) -> str:
    ticks = "`" * (_longest_run_of_backticks([text]) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _code_block(lines: Sequence[str]) -> list[str]:
    """Return lines as a block of code, fenced by more backticks than they contain."""
    fence = "`" * max(3, _longest_run_of_backticks(lines) + 1)
    return [f"{fence}text", *lines, fence]


def _longest_run_of_backticks(lines: Sequence[str]) -> int:
    runs = re.findall("`+", "\n".join(lines))
    return max(map(len, runs), default=0)
