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
    """Return the function that renders a document as text ending in a newline. Its module is
    imported now, so that start-up pays for one format only."""
    from importlib import import_module  # noqa: TID251  # modules of this folder, not of a file

    module = import_module(f"ptinspect.display.formats.{format}")
    render: Renderer = getattr(module, f"{format}_text")
    return render


__all__ = ["FORMATS", "ShowOptions", "renderer"]
