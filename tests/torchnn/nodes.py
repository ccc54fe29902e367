"""The simplest `ModuleNode`s: of a pickled module and all below it. Without torch."""

from __future__ import annotations

from ptinspect.pickling.values import Value
from ptinspect.torchnn import Attributes, unusual
from ptinspect.torchnn.reading import attributes_of, class_path, pairs


class Node:
    """A `ModuleNode` of a pickled module."""

    def __init__(self, value: Value) -> None:
        odd = unusual(value)
        path = odd[0] if odd else class_path(value)
        assert path is not None, value
        self.class_path = path
        self.name = self.class_path.rpartition(".")[2]
        self.attributes: Attributes = attributes_of(value) or {}
        self.children: list[tuple[str, Node | None]] = []


def tree(root: Value) -> Node:
    """Nodes for a module and all below it, one for each object."""
    made = {id(root): Node(root)}
    todo = [made[id(root)]]
    while todo:
        node = todo.pop()
        for name, child in pairs(node.attributes.get("_modules")).items():
            if child is not None and id(child) not in made:
                made[id(child)] = Node(child)
                todo.append(made[id(child)])
            node.children.append((str(name), None if child is None else made[id(child)]))
    return made[id(root)]
