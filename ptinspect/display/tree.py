"""`show --format tree`: the text of print(model), or the structure of any other file as a tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import TYPE_CHECKING
from weakref import ref

from ptinspect.display.table import dtype_text, shape_text
from ptinspect.document.entries import Entry, describe
from ptinspect.document.modules import MODULES, Module, module_of
from ptinspect.document.optim.state import optimizer_of
from ptinspect.document.to_array import number_of
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import (
    ORDERED_DICT,
    as_mapping,
    as_sequence,
    attributes_of,
    brief_repr,
    class_path,
    dotted,
    iter_children,
    path_step,
)
from ptinspect.pickling.values import Call, PersistentId, Value
from ptinspect.text import count_text, cut, is_selected, safe
from ptinspect.torchnn.classes import candidates, lookup
from ptinspect.torchnn.printer import extra_repr, module_lines

if TYPE_CHECKING:
    from ptinspect.display import ShowOptions
    from ptinspect.display.measure import FileHash
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.torchnn.attributes import Attributes, ModuleNode

MAX_ATTRIBUTE_ITEMS, MAX_ATTRIBUTE_DEPTH = 10_000, 16
"""Containers in the attributes of a module that are written, and how deep they may be nested."""

MAX_REPEATED_STEPS = 10_000
"""An object is drawn under every path that leads to it until the further paths have this many
steps in total; from then on a line names its first path instead."""


def tree_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    if document.kind == "module":
        lines = module_tree(document, document.modules[0].module, options.depth)
    else:
        tree = ObjectTree(document, options)
        lines = tree.lines(document.archive.root, ())
        for index, root in enumerate(document.archive.more_roots, 1):
            lines = chain(lines, [f"pickle {index + 1} of this file:"], tree.lines(root, (index,)))
    return "".join([f"{line}\n" for line in lines])


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


@dataclass(slots=True)
class _OpenContainer:
    """A container whose members are being drawn."""

    value: Value
    path: Path
    remaining: list[tuple[str | int, Value]]  # in reverse
    indent: str


class ObjectTree:
    """Draws containers and what they contain, without recursion: as many levels and the tensors
    that the options select."""

    def __init__(self, document: Document, options: ShowOptions) -> None:
        self._document = document
        self._depth = options.depth
        self._globs = options.include, options.exclude
        self._state_dicts = set(document.contents.state_dicts)
        self._first_paths: dict[int, Path] = {}
        self._open: set[int] = set()
        self._steps_left = MAX_REPEATED_STEPS

    def lines(self, root: Value, root_path: Path) -> Iterator[str]:
        leaf = self._leaf_lines(root, root_path, "", "")
        if leaf is not None:
            yield from leaf
            return
        yield self._title(root, root_path)
        stack = [] if self._depth == 0 else [self._enter(root, root_path, "")]
        while stack:
            container = stack[-1]
            if not container.remaining:
                self._open.discard(id(stack.pop().value))
                continue
            step, value = container.remaining.pop()
            branch, below = ("├── ", "│   ") if container.remaining else ("└── ", "    ")
            name = f"[{step}]" if isinstance(step, int) else cut(step)
            start = f"{container.indent}{branch}{name}: "
            indent = container.indent + below
            path = (*container.path, step)
            leaf = self._leaf_lines(value, path, start, indent)
            if leaf is not None:
                yield from leaf
            elif self._depth is not None and len(stack) >= self._depth:
                yield f"{start}{self._title(value, path)} …"
            else:
                yield start + self._title(value, path)
                stack.append(self._enter(value, path, indent))

    def _enter(self, value: Value, path: Path, indent: str) -> _OpenContainer:
        self._first_paths.setdefault(id(value), path)
        self._open.add(id(value))
        members = [
            (step, member)
            for step, member in iter_children(value)
            if not any(self._globs)
            or self._tensor(member) is None
            or is_selected(".".join(map(str, (*path, step))), *self._globs)
        ]
        return _OpenContainer(value, path, members[::-1], indent)

    def _leaf_lines(self, value: Value, path: Path, start: str, indent: str) -> list[str] | None:
        """Return the lines of a value that is not entered; None for a container."""
        tensor = self._tensor(value)
        if tensor is not None:
            name = "parameter" if tensor.parameter else "tensor"
            dtype = dtype_text(tensor) if tensor.dtype else "of unknown dtype"
            layout = "" if tensor.layout == "strided" else f", {cut(tensor.layout)}"
            device = "" if tensor.device == "cpu" else f", {cut(tensor.device)}"
            return [f"{start}{name} {dtype} {shape_text(tensor.shape)}{layout}{device}"]
        module = module_of(value)
        if module is not None:
            lines = module_tree(self._document, module, self._depth)
            return [(indent if index else start) + line for index, line in enumerate(lines)]
        description = describe(value)
        if description is not None:
            return [start + Entry(path, *description).text]
        if id(value) in self._open:
            return [f"{start}same as {self._first_path(value)}, which contains it"]
        if id(value) in self._first_paths:
            self._steps_left -= max(len(path), 1)
            if self._steps_left < 0:
                return [f"{start}same as {self._first_path(value)}"]
        return None

    def _first_path(self, value: Value) -> str:
        return cut(dotted(self._first_paths[id(value)]))

    def _tensor(self, value: Value) -> Tensor | None:
        if isinstance(value, Call | PersistentId):
            return self._document.tensor_of(value)
        return None

    def _title(self, value: Value, path: Path) -> str:
        """Return `dict of 6`, `OrderedDict of 2, a state_dict`, or an object's class."""
        items = as_mapping(value)
        name = type(value).__name__
        if isinstance(value, Call):
            name = cut(class_path(value) or "object")
            if name == ORDERED_DICT and items is not None:
                name = "OrderedDict"
        members = items if items is not None else as_sequence(value)
        if members is not None:
            name += f" of {len(members):,}"
        if path in self._state_dicts:
            name += ", a state_dict"
        optimizer = optimizer_of(value, path)
        if optimizer is not None:
            parameters = count_text(optimizer.parameter_count, "parameter")
            name += f", {optimizer.label} state for {parameters}"
        return name
