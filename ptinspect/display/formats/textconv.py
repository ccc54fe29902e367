"""`show --textconv`: stable text for `git diff`, without paths and advice, a hash per tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ptinspect.display.entry_lines import entry_lines
from ptinspect.display.formats.table import tensor_table
from ptinspect.display.summary_facts import content_text, optimizer_text
from ptinspect.display.text.columns import draw_table

if TYPE_CHECKING:
    from ptinspect.display.measure import FileHash
    from ptinspect.display.options import ShowOptions
    from ptinspect.document import Document


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
        from ptinspect.display.module_nodes import root_module_trees

        for tree in root_module_trees(document, None):
            lines += tree
    if document.tensors:
        lines += draw_table(tensor_table(document, options))
    return "\n".join(lines) + "\n"
