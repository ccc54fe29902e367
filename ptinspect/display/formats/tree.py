"""`show --format tree`: for a module exactly the text of print(model), for all else the
structure of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.module_nodes import module_tree

if TYPE_CHECKING:
    from ptinspect.display.options import Look
    from ptinspect.document import Document


def tree_text(document: Document, look: Look) -> str:
    """The tree of the whole file."""
    if document.kind == "module":
        lines = module_tree(document, document.modules[0].module, look.depth)
    else:
        from ptinspect.display.object_tree import structure_lines

        lines = structure_lines(document, look)
    return "".join([f"{line}\n" for line in lines])
