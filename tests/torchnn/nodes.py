"""The simplest `ModuleNode`s: of a pickled module and all below it. Without torch."""

from __future__ import annotations

from typing import Any

from ptinspect.pickling.pyobjects import class_path
from ptinspect.pickling.values import Call, Value
from ptinspect.torchnn import classes
from ptinspect.torchnn.attributes import Attributes, items_of, module_attributes, special_module
from ptinspect.torchnn.printer import module_lines


def known_paths() -> list[str]:
    """Return the path of every row, in the order of the tables."""
    classes._load("nn.txt")
    classes._load("quantization.txt")
    return list(classes._FIELDS)


def print_module(*args: Any, **options: Any) -> str:
    """Return the text of print(model)."""
    return "\n".join(module_lines(*args, **options))


class Node:
    """A `ModuleNode` of a pickled module."""

    def __init__(self, value: Value) -> None:
        odd = special_module(value)
        path = odd[0] if odd else class_path(value) if isinstance(value, Call) else None
        assert path is not None, value
        self.class_path = path
        self.name = self.class_path.rpartition(".")[2]
        self.attributes: Attributes = module_attributes(value)
        self.children: list[tuple[str, Node | None]] = []


def tree(root: Value) -> Node:
    """Nodes for a module and all below it, one for each object."""
    made = {id(root): Node(root)}
    todo = [made[id(root)]]
    while todo:
        node = todo.pop()
        for name, child in items_of(node.attributes.get("_modules")).items():
            if child is not None and id(child) not in made:
                made[id(child)] = Node(child)
                todo.append(made[id(child)])
            node.children.append((str(name), None if child is None else made[id(child)]))
    return made[id(root)]
