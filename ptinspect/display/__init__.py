"""The views of `show`: each turns a document into text and shares no state with the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.display.options import ShowOptions

if TYPE_CHECKING:
    from ptinspect.display.measure import FileHash
    from ptinspect.document import Document

    Renderer = Callable[[Document, ShowOptions, FileHash | None], str]

FORMATS = ("summary", "table", "tree", "json", "markdown")


def renderer(format: str) -> Renderer:
    """Return the function that renders a document as text ending in a newline.

    Its module is imported now, so that start-up pays for one format only.
    """
    if format == "json":
        from ptinspect.display.formats.json import json_text

        return json_text
    if format == "tree":
        from ptinspect.display.formats.tree import tree_text

        return tree_text
    if format == "table":
        from ptinspect.display.formats.table import table_text

        return table_text
    if format == "textconv":
        from ptinspect.display.formats.textconv import textconv_text

        return textconv_text
    if format == "markdown":
        from ptinspect.display.formats.markdown import markdown_text

        return markdown_text
    from ptinspect.display.formats.summary import summary_text

    return summary_text


__all__ = ["FORMATS", "ShowOptions", "renderer"]
