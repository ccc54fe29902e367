"""The views of `show`: each turns a document into text and shares no state with the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptinspect.document import Document

    Renderer = Callable[[Document, "ShowOptions", Any], str]

Advance = Callable[[int], None]
Progress = Callable[[int, str], AbstractContextManager[Advance]]

FORMATS = ("summary", "table", "tree", "json", "jsonl", "markdown")


# Without the methods that nothing calls: generating them takes 0.5 ms of every start-up.
@dataclass(slots=True, repr=False, eq=False)
class ShowOptions:
    """The options of `show`, with the facts about the terminal that the output depends on.

    Attributes:
        include: globs; only tensors whose key matches one are shown.
        exclude: globs; tensors whose key matches one are not shown.
        sort: `file`, `key` or `size`.
        depth: levels to show; None shows all.
        fold: write repeated blocks as one row, and cut long lists of entries.
        values: show the numbers of each tensor.
        stats: show statistics of each tensor.
        hash: show the SHA-256 of each tensor.
        check: compare every record with its CRC-32.
        width: columns of the terminal; None if lines may have any length.
        colour: use escape codes.
        hints: suggest ptinspect commands to run next.
        progress: opens a progress bar over a number of bytes, with a label, and gives the
            function that advances it.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sort: str = "file"
    depth: int | None = None
    fold: bool = False
    values: bool = False
    stats: bool = False
    hash: bool = False
    check: bool = False
    width: int | None = None
    colour: bool = False
    hints: bool = False
    progress: Progress = lambda total, label: nullcontext(lambda count: None)


def renderer(format: str) -> Renderer:
    """Return the function that renders a document, whose SHA-256 may be given, as text ending in a
    newline. Its module is imported now, so that start-up pays for one format only."""
    from importlib import import_module  # noqa: TID251  # modules of this folder, not of a file

    modules = {"jsonl": "json", **dict.fromkeys(("markdown", "textconv", "brief"), "summary")}
    name = modules.get(format, format)
    render: Renderer = getattr(import_module(f"ptinspect.display.{name}"), f"{format}_text")
    return render
