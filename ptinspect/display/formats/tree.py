"""`show --format tree`: the text of print(model), or the structure of any other file as a tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptinspect.display.formats.table import dtype_text, key_matcher, shape_text
from ptinspect.display.module_nodes import module_tree
from ptinspect.display.summary_facts import optimizer_name, parameter_count
from ptinspect.display.text.escape import cut
from ptinspect.display.text.values import entry_text
from ptinspect.document.entries import Entry, describe
from ptinspect.document.modules import module_of
from ptinspect.document.optim.state import optimizer_of
from ptinspect.pickling.pyobjects import (
    ORDERED_DICT,
    as_mapping,
    as_sequence,
    class_path,
    dotted,
    iter_children,
)
from ptinspect.pickling.values import Call, PersistentId
from ptinspect.text import count_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ptinspect.display.measure import FileHash
    from ptinspect.display.options import ShowOptions
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.pickling.values import Value

MAX_REPEATED_STEPS = 10_000
"""An object is drawn under every path that leads to it until the further paths have this many
steps in total; from then on a line names its first path instead."""


def tree_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    if document.kind == "module":
        lines = module_tree(document, document.modules[0].module, options.depth)
    else:
        tree = ObjectTree(document, options.depth, key_matcher(options.include, options.exclude))
        lines = tree.all_lines()
    return "".join([f"{line}\n" for line in lines])


@dataclass(slots=True)
class _OpenContainer:
    """A container whose members are being drawn."""

    value: Value
    path: Path
    remaining: list[tuple[str | int, Value]]  # in reverse
    indent: str


class ObjectTree:
    """Draws containers and what they contain, without recursion: to `depth` levels, and only
    tensors whose keys match."""

    def __init__(
        self, document: Document, depth: int | None, matches: Callable[[str], bool] | None
    ) -> None:
        self._document = document
        self._depth = depth
        self._matches = matches
        self._state_dicts = set(document.contents.state_dicts)
        self._first_paths: dict[int, Path] = {}
        self._open: set[int] = set()
        self._steps_left = MAX_REPEATED_STEPS

    def all_lines(self) -> Iterator[str]:
        archive = self._document.archive
        yield from self.lines(archive.root, ())
        for index, root in enumerate(archive.more_roots, 1):
            yield f"pickle {index + 1} of this file:"
            yield from self.lines(root, (index,))

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
            if self._matches is None
            or self._tensor(member) is None
            or self._matches(".".join(map(str, (*path, step))))
        ]
        return _OpenContainer(value, path, members[::-1], indent)

    def _leaf_lines(self, value: Value, path: Path, start: str, indent: str) -> list[str] | None:
        """Return the lines of a value that is not entered; None for a container."""
        tensor = self._tensor(value)
        if tensor is not None:
            return [start + _tensor_text(tensor)]
        module = module_of(value)
        if module is not None:
            lines = module_tree(self._document, module, self._depth)
            return [(indent if index else start) + line for index, line in enumerate(lines)]
        description = describe(value)
        if description is not None:
            return [start + entry_text(Entry(path, *description))]
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
            parameters = count_text(parameter_count(optimizer), "parameter")
            name += f", {optimizer_name(optimizer)} state for {parameters}"
        return name


def _tensor_text(tensor: Tensor) -> str:
    """Return `tensor float32 (2, 3), cuda:0`."""
    name = "parameter" if tensor.parameter else "tensor"
    dtype = dtype_text(tensor) if tensor.dtype else "of unknown dtype"
    layout = "" if tensor.layout == "strided" else f", {cut(tensor.layout)}"
    device = "" if tensor.device == "cpu" else f", {cut(tensor.device)}"
    return f"{name} {dtype} {shape_text(tensor.shape)}{layout}{device}"
