"""`show --format summary`, the default: facts, entries, the tree of a model, the tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.entry_lines import entry_lines
from ptinspect.display.formats.table import no_tensors_text, tensor_table, values_blocks
from ptinspect.display.summary_facts import DO_NOT_LOAD, facts, heading
from ptinspect.display.text.columns import display_width, draw_table, pad
from ptinspect.display.text.escape import cut, safe
from ptinspect.text import count_text

if TYPE_CHECKING:
    from ptinspect.display.measure import FileHash
    from ptinspect.display.options import ShowOptions
    from ptinspect.document import Document

MAX_ENTRIES = 40
"""Entries that are listed on a terminal; the rest is counted."""

NOTES = ("shared-storage", "safetensors-alias")
"""Kinds of warnings that tell of nothing wrong: tied weights are meant."""

BOLD, DIM, RED, YELLOW = 1, 2, 31, 33  # parameters of the escape sequence that sets colours


def summary_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return the summary: blocks separated by empty lines."""
    path = _paint(safe(document.path), BOLD, options.colour)
    fact_lines = _fact_lines(document, options, file_hash)
    if any(DO_NOT_LOAD in line for line in fact_lines):
        path += "  " + _paint("DANGEROUS", RED, options.colour)
    blocks = [[f"{path}  {heading(document)}"], fact_lines, _entry_lines(document, options)]
    if document.modules:
        from ptinspect.display.module_nodes import root_module_trees

        blocks += root_module_trees(document, options.depth)
    table = tensor_table(document, options)
    if table.rows:
        blocks.append(draw_table(table, options.width))
    elif document.tensors:
        blocks.append([no_tensors_text(document, options)])
    if options.values:
        blocks += values_blocks(document, options)
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _paint(text: str, code: int, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _fact_lines(document: Document, options: ShowOptions, file_hash: FileHash | None) -> list[str]:
    rows = [(label, DIM, text) for label, text in facts(document, options, file_hash)]
    for warning in document.warnings:
        place = f"{cut('.'.join(map(str, warning.path)))}: " if warning.path else ""
        label = ("note", DIM) if warning.kind in NOTES else ("warning", YELLOW)
        rows.append((*label, place + cut(warning.message)))
    width = max((len(label) for label, _, _ in rows), default=0)
    return [
        f"  {_paint(label.ljust(width), code, options.colour)}   {text}"
        for label, code, text in rows
    ]


def _entry_lines(document: Document, options: ShowOptions) -> list[str]:
    entries = entry_lines(document, options.depth)
    count = len(entries)
    if options.fold and count > MAX_ENTRIES:
        entries = entries[: MAX_ENTRIES - 1]
    width = min(max((display_width(key) for key, _ in entries), default=0), 40)
    lines = [f"{pad(key, width)}  {text}" for key, text in entries]
    if len(entries) < count:
        rest = count_text(count - len(entries), "more entry", "more entries")
        lines.append(f"… and {rest} (--all)")
    return lines
