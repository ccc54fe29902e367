"""`show --format table`: the tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.tensor_table import no_tensors_text, tensor_table, values_blocks
from ptinspect.display.text.columns import draw_table

if TYPE_CHECKING:
    from ptinspect.display.numbers.measure import FileHash
    from ptinspect.display.options import ShowOptions
    from ptinspect.document import Document


def table_text(document: Document, options: ShowOptions, file_hash: FileHash | None = None) -> str:
    """Return the table of the selected tensors, and their numbers if asked for."""
    table = tensor_table(document, options)
    if table.rows:
        lines = draw_table(table, options.width)
    else:
        lines = [no_tensors_text(document, options)]
    if options.values:
        for block in values_blocks(document, options):
            lines += ["", *block]
    return "".join(f"{line}\n" for line in lines)
