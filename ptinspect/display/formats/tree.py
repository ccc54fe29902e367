"""`show --format tree`: for a module exactly the text of print(model), for all else the
structure of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.module_nodes import Nodes
from ptinspect.display.text.escape import safe
from ptinspect.document.walk import dotted
from ptinspect.torchnn import module_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ptinspect.display.options import Look
    from ptinspect.document import Document
    from ptinspect.document.modules import Module


def module_tree(document: Document, module: Module, depth: int | None = None) -> Iterator[str]:
    """The lines of print(model); with a depth only so many levels of children."""
    nodes = Nodes(document)
    lines = module_lines(nodes.node(module), nodes, escape=safe, limits=document.limits)
    return lines if depth is None else levels(lines, depth)


def levels(lines: Iterable[str], depth: int) -> Iterator[str]:
    """Lines indented by at most `depth` levels; what is left out of a bracket is `…`."""
    deepest = 2 * depth
    held: str | None = None  # the opening of a bracket, until it is known what is in it
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        if indent > deepest:
            continue
        if held is not None:
            yield f"{held}…)"
            held = None
            if line == " " * indent + ")":
                continue
        if indent == deepest and line.endswith("("):
            held = line
        else:
            yield line


def tree_text(document: Document, look: Look) -> str:
    """The tree of the whole file."""
    if document.kind == "module":
        lines = module_tree(document, document.modules[0].module, look.depth)
    else:
        from ptinspect.display.object_tree import structure_lines

        lines = structure_lines(document, look)
    return "".join([f"{line}\n" for line in lines])


def trees(document: Document, look: Look) -> list[list[str]]:
    """Each module that is a root, as a block of lines; one that prints as an earlier one does is
    a line that names that."""
    made: list[list[str]] = []
    known: dict[tuple[str, ...], str] = {}
    for info in document.modules:
        if info.name or info.root in known:
            continue
        lines = list(module_tree(document, info.module, look.depth))
        name = safe(dotted(info.root)) if info.root else ""
        first = known.setdefault(tuple(lines), name)
        if first != name:
            made.append([f"{name}: prints as {first} does"])
        else:
            made.append([f"{name}: {lines[0]}", *lines[1:]] if name else lines)
    return made
