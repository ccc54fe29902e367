"""Modules as `torchnn` prints them, and the lines of print(model)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count
from typing import TYPE_CHECKING
from weakref import ref

from ptinspect.display.text.escape import safe
from ptinspect.document.entries import describe
from ptinspect.document.modules import MODULES, Module, module_of
from ptinspect.document.to_array import number_of
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import (
    as_mapping,
    as_sequence,
    attributes_of,
    brief_repr,
    class_path,
    dotted,
    path_step,
)
from ptinspect.pickling.values import Call, Value
from ptinspect.torchnn.classes import candidates, lookup
from ptinspect.torchnn.extra_repr import extra_repr
from ptinspect.torchnn.printer import module_lines

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.torchnn.attributes import Attributes, ModuleNode


MAX_ATTRIBUTE_ITEMS, MAX_ATTRIBUTE_DEPTH = 10_000, 16
"""Containers in the attributes of a module that are written, and how deep they may be nested."""


class Node:
    """A module as the printer sees it (`torchnn.attributes.ModuleNode`). `base` is the torch class
    that a user-defined class extends, inferred from its attributes; else None."""

    __slots__ = ("_module", "_nodes", "base", "class_path", "name")

    def __init__(self, nodes: ModuleNodes, module: Module) -> None:
        self._nodes = ref(nodes)  # a strong reference would be a cycle that keeps the document
        self._module = module
        self.name = module.class_name
        self.base: str | None = None
        if lookup(module.class_path) is None:
            matches = candidates(module.attributes)
            self.base = matches[0].path if matches else None
        self.class_path = self.base or module.class_path

    @property
    def attributes(self) -> Attributes:
        return self._module.attributes

    @property
    def children(self) -> Iterable[tuple[str, ModuleNode | None]]:
        """The items of `_modules`; a child may be None."""
        nodes = self._nodes()
        assert nodes is not None
        for name, value in self._module.members(MODULES):
            yield name, nodes.node_of_value(value) if value is not None else None

    def extra_repr(self, describe: ModuleNodes) -> str:
        """Return torch's text for the class, or for the class that it extends."""
        return extra_repr(self.class_path, self.attributes, describe) or ""


class ModuleNodes:
    """The nodes of one document, one per module however many paths lead to it. Calling it with a
    value describes a tensor (`torchnn.attributes.Describe`)."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes: dict[int, Node] = {}

    def node(self, module: Module) -> Node:
        key = id(module.call)
        if key not in self._nodes:
            self._nodes[key] = Node(self, module)
        return self._nodes[key]

    def node_of_value(self, value: Value) -> Node:
        """Return the node of a member of `_modules`; an empty node if it is not a module."""
        if id(value) not in self._nodes:
            call = value if isinstance(value, Call) else Call(value, (), "REDUCE", 0)
            module = module_of(value) or Module(call, {}, class_path(call) or type(value).__name__)
            self._nodes[id(value)] = Node(self, module)
        return self._nodes[id(value)]

    def __call__(self, value: Value, /) -> TensorFacts | None:
        tensor = self._document.tensor_of(value) if isinstance(value, Call) else None
        return TensorFacts(tensor) if tensor is not None else None


def plain_attributes(document: Document, module: Module) -> dict[str, object]:
    """Return the attributes that a class of the user's own gave a module, as JSON has them: a class
    list, a configuration. Not its tensors, modules and hooks, which are listed elsewhere."""
    if lookup(module.class_path) is not None:
        return {}
    budget = count()
    return {
        name: _plain_value(document, value, budget, 1)
        for name, value in module.other_attributes()
        if module_of(value) is None
        and (not isinstance(value, Call) or document.tensor_of(value) is None)
    }


def _plain_value(document: Document, value: Value, budget: count[int], depth: int) -> object:
    """Return a value as JSON has it, or its class; `budget` counts the values of all attributes."""
    if isinstance(value, Call) and document.tensor_of(value) is not None:
        return "a tensor"
    description = describe(value)
    if description is not None:
        return description[1] if value is None or description[1] is not None else description[0]
    items, elements = as_mapping(value), as_sequence(value)
    if items is None and elements is None and isinstance(value, Call):
        items = attributes_of(value)
    if depth == MAX_ATTRIBUTE_DEPTH or next(budget) > MAX_ATTRIBUTE_ITEMS:
        return brief_repr(value)
    deeper = partial(_plain_value, document, budget=budget, depth=depth + 1)
    if items:
        return {str(path_step(key)): deeper(item) for key, item in items.items()}
    return brief_repr(value) if elements is None else list(map(deeper, elements))


class TensorFacts:
    """A tensor as the printer sees it (`torchnn.attributes.TensorFacts`)."""

    __slots__ = ("_tensor", "device", "dtype", "layout", "parameter", "qscheme", "shape")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self.dtype = tensor.dtype.name if tensor.dtype else "unknown"
        self.shape = tensor.shape
        self.device = tensor.device
        self.layout = tensor.layout
        self.parameter = tensor.parameter
        scheme = tensor.quantizer.get("qscheme")
        self.qscheme = scheme if isinstance(scheme, str) else None

    def item(self) -> object | None:
        try:
            return number_of(self._tensor)
        except PtInspectError:
            return None

    def text(self) -> str | None:
        from ptinspect.display.tensor_repr import tensor_text

        try:
            text = tensor_text(self._tensor)
        except PtInspectError:
            return None
        return f"Parameter containing:\n{text}" if self.parameter else text


def module_tree(document: Document, module: Module, depth: int | None = None) -> Iterator[str]:
    """Return the lines of print(model), down to `depth` levels of children."""
    nodes = ModuleNodes(document)
    lines = module_lines(nodes.node(module), nodes, escape=safe, limits=document.limits)
    return cut_levels(lines, depth) if depth is not None else lines


def cut_levels(lines: Iterable[str], depth: int) -> Iterator[str]:
    """Yield the lines of print(model) that are indented by at most `depth` levels. A bracket whose
    contents are left out is written `(…)`."""
    max_indent = 2 * depth
    opening: str | None = None  # a line that ends in "(", until its contents are known
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        if indent > max_indent:
            continue
        if opening is not None:
            yield f"{opening}…)"
            opening = None
            if line == " " * indent + ")":
                continue
        if indent == max_indent and line.endswith("("):
            opening = line
        else:
            yield line


def root_module_trees(document: Document, depth: int | None) -> list[list[str]]:
    """Return the lines of each root module; of one that prints like an earlier one, a line that
    names that."""
    blocks: list[list[str]] = []
    first_names: dict[tuple[str, ...], str] = {}
    for info in document.modules:
        if info.name:
            continue
        lines = list(module_tree(document, info.module, depth))
        name = safe(dotted(info.root)) if info.root else ""
        first = first_names.setdefault(tuple(lines), name)
        if first != name:
            blocks.append([f"{name}: prints like {first}"])
        else:
            blocks.append([f"{name}: {lines[0]}", *lines[1:]] if name else lines)
    return blocks
