"""`show --format summary`, the default, and markdown: facts, entries, models, tensors. Also the
text for `git diff`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ptinspect.display.summary_facts import (
    DO_NOT_LOAD,
    content_text,
    facts,
    heading,
    optimizer_text,
    tensors_text,
)
from ptinspect.display.table import (
    Table,
    display_width,
    draw_table,
    markdown_table,
    no_tensors_text,
    pad,
    tensor_table,
    values_blocks,
)
from ptinspect.document.entries import FLOAT_DIGITS
from ptinspect.document.modules import BOOKKEEPING
from ptinspect.document.to_array import number_of
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import dotted
from ptinspect.text import count_text, cut, markdown, safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ptinspect.display import ShowOptions
    from ptinspect.display.measure import FileHash
    from ptinspect.document import Document, TensorInfo
    from ptinspect.document.entries import Entry
    from ptinspect.document.walk import DocumentWarning
    from ptinspect.pickling.pyobjects import Path

MAX_ENTRIES = 40
"""Entries that are listed on a terminal; the rest is counted."""

NOTES = ("shared-storage", "safetensors-alias")
"""Kinds of warnings that tell of nothing wrong: tied weights are meant."""

BOLD, DIM, RED, YELLOW = 1, 2, 31, 33  # parameters of the escape sequence that sets colours


def summary_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return the summary for a terminal: blocks separated by empty lines."""
    path = _paint(safe(document.path), BOLD, options.colour)
    rows = [*facts(document, options, file_hash)]
    rows += [
        ("note" if warning.kind in NOTES else "warning", _warning_text(warning))
        for warning in document.warnings
    ]
    width = max((len(label) for label, _ in rows), default=0)
    codes = {"warning": YELLOW}
    fact_lines = [
        f"  {_paint(label.ljust(width), codes.get(label, DIM), options.colour)}   {text}"
        for label, text in rows
    ]
    if any(DO_NOT_LOAD in line for line in fact_lines):
        path += "  " + _paint("DANGEROUS", RED, options.colour)
    entries = entry_lines(document, options.depth)
    count = len(entries)
    if options.fold and count > MAX_ENTRIES:
        entries = entry_lines(document, options.depth, without_internals=True)[: MAX_ENTRIES - 1]
    width = min(max((display_width(key) for key, _ in entries), default=0), 40)
    lines = [f"{pad(key, width)}  {text}" for key, text in entries]
    if len(entries) < count:
        rest = count_text(count - len(entries), "more entry", "more entries")
        lines.append(f"… and {rest} (--all)")
    head = [[f"{path}  {heading(document)}"], fact_lines, lines]
    return _joined(
        head, document, options, lambda lines: lines, lambda table: draw_table(table, options.width)
    )


def markdown_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return the text for an issue or a model card: the facts as a list, entries and tensors as
    tables, models as blocks of code."""
    items = [
        (label, _code(text) if label == "load" else markdown(text))
        for label, text in facts(document, options, file_hash)
    ]
    items += [("warning", markdown(_warning_text(warning))) for warning in document.warnings]
    lines = [f"- **{label}**: {text}" if label else f"  {text}" for label, text in items]
    danger = "  **DANGEROUS**" if any(DO_NOT_LOAD in line for line in lines) else ""
    head = [[f"### {markdown(document.path)}{danger}"], [markdown(heading(document))], lines]
    entries = entry_lines(document, options.depth)
    if entries:
        head.append(markdown_table(Table(["entry", "value"], [*entries])))

    def code_block(lines: Sequence[str]) -> list[str]:
        fence = _backticks("\n".join(lines), 3)
        return [f"{fence}text", *lines, fence]

    return _joined(head, document, options, code_block, markdown_table)


def brief_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return one line: path, size, format, content, and sums over the tensors."""
    parts = [heading(document), *([tensors_text(document)] if document.tensors else [])]
    is_dangerous = any(DO_NOT_LOAD in text for _, text in facts(document, options, file_hash))
    return f"{safe(document.path)}  {', '.join(parts)}{'  DANGEROUS' * is_dangerous}\n"


def _joined(
    head: list[list[str]], document: Document, options: ShowOptions,
    write_lines: Callable[[list[str]], list[str]], write_table: Callable[[Table], list[str]],
) -> str:  # fmt: skip
    """Return blocks separated by empty lines: the head, models, tensors and their numbers."""
    blocks = [*head]
    if document.modules:
        from ptinspect.display.tree import root_module_trees

        blocks += map(write_lines, root_module_trees(document, options.depth))
    table = tensor_table(document, options)
    if table.rows:
        blocks.append(write_table(table))
    elif document.tensors:
        blocks.append([no_tensors_text(document, options)])
    if options.values:
        blocks += map(write_lines, values_blocks(document, options))
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def textconv_text(
    document: Document, options: ShowOptions, file_hash: FileHash | None = None
) -> str:
    """Return the contents of a file, equal for equal contents whatever the file is called. Every
    tensor has its SHA-256, so that a change of weights alone shows as well."""
    options = replace(options, hash=True, fold=False, width=None, colour=False, hints=False)
    lines = [content_text(document)]
    lines += [f"optimizer  {optimizer_text(document, item)}" for item in document.optimizers]
    lines += [f"{key}  {text}" for key, text in entry_lines(document, None)]
    if document.modules:
        from ptinspect.display.tree import root_module_trees

        for tree in root_module_trees(document, None):
            lines += tree
    if document.tensors:
        lines += draw_table(tensor_table(document, options))
    return "\n".join(lines) + "\n"


def _paint(text: str, code: int, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def _warning_text(warning: DocumentWarning) -> str:
    place = f"{'.'.join(map(str, warning.path))}: " if warning.path else ""
    return cut(place + warning.message)


def entry_lines(
    document: Document, depth: int | None, *, without_internals: bool = False
) -> list[tuple[str, str]]:
    """Return key and text of each entry, and of the 0-dim tensors outside models. Internals are
    what is in a pandas object, and what nn.Module itself sets."""
    tables = {entry.path for entry in document.entries if entry.type.startswith("pandas.")}
    lines = [
        (cut(dotted(path)), entry.text)
        for path, entry in _unwrapped_entries(document.entries)
        if depth is None or len(path) <= max(depth, 1)
        if not without_internals
        or not (
            BOOKKEEPING.intersection(map(str, path[-1:]))
            or (tables and any(path[:length] in tables for length in range(len(path))))
        )
    ]
    contents = document.contents
    owners: set[Path] = {info.root for info in contents.modules} | set(contents.state_dicts)
    for info in document.tensors.values():
        if info.role != "tensor" or info.shape != ():
            continue
        if not any(info.path[:length] in owners for length in range(len(info.path))):
            lines.append((cut(info.key) or "(root)", _scalar_tensor_text(info)))
    return lines


def _unwrapped_entries(entries: Sequence[Entry]) -> Iterator[tuple[Path, Entry]]:
    """Yield the entries with the paths to show. omegaconf wraps each value of a configuration in a
    node with metadata and its parent: only the values are shown, under their paths in Python."""
    nodes = {entry.path for entry in entries if entry.type.startswith("omegaconf.")}
    shown: dict[Path, Path | None] = {}  # None: part of a node's metadata
    for entry in entries:
        if not nodes:
            yield entry.path, entry
            continue
        starts = (entry.path[:length] for length in range(len(entry.path) - 1, -1, -1))
        owner: Path = next((start for start in starts if start in shown), ())
        base, steps = shown.get(owner, ()), entry.path[len(owner) :]
        if owner in nodes:
            base = base if steps[0] in ("_content", "_val") else None
            steps = steps[1:]
        path = shown[entry.path] = None if base is None else (*base, *steps)
        if path is not None and not (owner in nodes and entry.path in nodes):
            yield path, entry


def _scalar_tensor_text(info: TensorInfo) -> str:
    """Return `0.0293  float32 tensor, requires grad`."""
    try:
        number = number_of(info.tensor)
    except PtInspectError as error:
        return f"a tensor that cannot be read: {cut(error.message)}"
    dtype = info.dtype.name if info.dtype else "unknown"
    text = f"{dtype} tensor" + (", requires grad" if info.tensor.requires_grad else "")
    if number is None:
        return text
    digits = FLOAT_DIGITS.get(dtype)
    if isinstance(number, float) and digits is not None:
        return f"{number:.{digits}g}  {text}"
    return f"{safe(repr(number))}  {text}"


def _code(text: str) -> str:
    ticks = _backticks(text, 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _backticks(text: str, least: int) -> str:
    """Return more backticks in a row than the text contains."""
    return "`" * max(least, *(len(run) + 1 for run in re.findall("`+", text)), 0)
