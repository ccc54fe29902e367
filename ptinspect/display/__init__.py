"""The views of `show`, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.options import Look

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.document import Document

    View = Callable[[Document, Look], str]

FORMATS = ("summary", "table", "tree", "json", "markdown")


def view(format: str) -> View:
    """What makes the text of a document, ending in a newline. Imported when asked for."""
    if format == "json":
        from ptinspect.display.formats.json import json_text

        return json_text
    if format == "tree":
        from ptinspect.display.formats.tree import tree_text

        return tree_text
    if format == "table":
        from ptinspect.display.formats.table import table_text

        return table_text
    if format == "markdown":
        from ptinspect.display.formats.markdown import markdown_text

        return markdown_text
    from ptinspect.display.formats.summary import summary_text

    return summary_text


__all__ = ["FORMATS", "Look", "view"]
