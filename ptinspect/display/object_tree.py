"""The structure of a file that is no module: containers, and what lies in them, as a tree.

An object stands under every path that leads to it, until `AGAIN` objects were shown a second
time; from then on one line names its first place. There is no recursion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ptinspect.display.entries import entry_text
from ptinspect.display.module_nodes import module_tree
from ptinspect.display.rows import shape_text
from ptinspect.display.summary_facts import optimizer_name
from ptinspect.display.text.escape import cut
from ptinspect.document.entries import Entry, describe, own_line
from ptinspect.document.modules import module_of
from ptinspect.document.optim.state import optimizer_of
from ptinspect.document.walk import dotted
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, class_path, iter_children
from ptinspect.pickling.values import Call, PersistentId
from ptinspect.text import count_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.display.options import Look
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.document.walk import Path
    from ptinspect.pickling.values import Value

AGAIN = 10_000
"""Objects that are shown under a second path, counted by the steps of these paths, before a line
names the first."""

Child = tuple[str | int, "Value"]


class _Frame:
    """A container that is open: what is left of it, and how its lines are indented."""

    __slots__ = ("indent", "left", "path", "value")

    def __init__(self, value: Value, path: Path, left: list[Child], indent: str) -> None:
        self.value = value
        self.path = path
        self.left = left
        self.indent = indent


class Structure:
    """Draws one document."""

    def __init__(
        self, document: Document, depth: int | None, wanted: Callable[[str], bool] | None
    ) -> None:
        self.document = document
        self.depth = depth
        self.wanted = wanted
        self.dicts = set(document.contents.state_dicts)
        self.first: dict[int, Path] = {}
        self.open: set[int] = set()
        self.again = AGAIN

    def lines(self, value: Value, path: Path = ()) -> Iterator[str]:
        """Those of a value that lies at `path`."""
        yield from self.leaf(value, path, "", "") or [self.title(value, path)]
        frames = [self.enter(value, path, "")] if self.inside(value) else []
        while frames:
            frame = frames[-1]
            if not frame.left:
                self.open.discard(id(frames.pop().value))
                continue
            at, item = frame.left.pop()
            last = not frame.left
            branch, under = ("└── ", "    ") if last else ("├── ", "│   ")
            start = f"{frame.indent}{branch}{step_text(at)}: "
            place = (*frame.path, at)
            done = self.leaf(item, place, start, frame.indent + under)
            if done is None:
                if self.depth is not None and len(frames) >= self.depth:
                    yield f"{start}{self.title(item, place)} …"
                    continue
                yield start + self.title(item, place)
                frames.append(self.enter(item, place, frame.indent + under))
            else:
                yield from done

    def inside(self, value: Value) -> bool:
        """Whether lines follow for what lies in `value`."""
        return self.leaf(value, (), "", "", look=True) is None and self.depth != 0

    def enter(self, value: Value, path: Path, indent: str) -> _Frame:
        self.first.setdefault(id(value), path)
        self.open.add(id(value))
        left = [child for child in iter_children(value) if self.is_wanted(path, child)]
        return _Frame(value, path, left[::-1], indent)

    def is_wanted(self, path: Path, child: Child) -> bool:
        """Whether a tensor's key is let through; all else is."""
        if self.wanted is None or self.tensor(child[1]) is None:
            return True
        return self.wanted(".".join(map(str, (*path, child[0]))))

    def leaf(
        self, value: Value, path: Path, start: str, indent: str, look: bool = False
    ) -> list[str] | None:
        """The lines of what is not opened further; None for what is. `look`: only to know."""
        tensor = self.tensor(value)
        if tensor is not None:
            return [start + tensor_line(tensor)]
        module = module_of(value)
        if module is not None:
            lines = [] if look else list(module_tree(self.document, module, self.depth))
            return [(start if not number else indent) + line for number, line in enumerate(lines)]
        said = describe(value)
        if said is not None:
            return [start + entry_text(Entry(path, *said))]
        if look:
            return None
        if id(value) in self.open:
            return [f"{start}inside itself, as at {self.place(value)}"]
        if id(value) in self.first:
            self.again -= max(len(path), 1)
            if self.again < 0:
                return [f"{start}as at {self.place(value)}"]
        return None

    def place(self, value: Value) -> str:
        return cut(dotted(self.first[id(value)]))

    def tensor(self, value: Value) -> Tensor | None:
        if isinstance(value, Call | PersistentId):
            return self.document.tensor_of(value)
        return None

    def title(self, value: Value, path: Path) -> str:
        """`dict of 6`, `OrderedDict of 2, a state_dict`, an object's class."""
        items, parts = as_mapping(value), as_sequence(value)
        name = type(value).__name__
        if isinstance(value, Call):
            line = own_line(value)
            named = class_path(value) or "object"
            name = cut(named if line is not None else named.removeprefix("collections."))
        count = items if items is not None else parts
        if count is not None:
            name += f" of {len(count):,}"
        if path in self.dicts:
            name += ", a state_dict"
        found = optimizer_of(value, path)
        if found is not None:
            total = sum(found.parameters(number) for number in range(len(found.groups)))
            name += f", {optimizer_name(found)} state for {count_text(total, 'parameter')}"
        return name


def step_text(at: str | int) -> str:
    """A key or an index."""
    return f"[{at}]" if isinstance(at, int) else cut(at)


def tensor_line(tensor: Tensor) -> str:
    """`tensor float32 (2, 3), cuda:0`"""
    name = "parameter" if tensor.parameter else "tensor"
    dtype = tensor.dtype.name if tensor.dtype else "of unknown dtype"
    layout = "" if tensor.layout == "strided" else f", {cut(tensor.layout)}"
    device = "" if tensor.device == "cpu" else f", {cut(tensor.device)}"
    return f"{name} {dtype} {shape_text(tensor.shape)}{layout}{device}"


def structure_lines(document: Document, look: Look) -> Iterator[str]:
    """The lines of the whole file: of each of its pickles, where there are several."""
    wanted = None
    if look.include or look.exclude:
        from ptinspect.display.select import matcher

        wanted = matcher(look)
    drawing = Structure(document, look.depth, wanted)
    yield from drawing.lines(document.archive.root)
    for number, root in enumerate(document.archive.more_roots, 1):
        yield f"pickle {number + 1} of this file:"
        yield from drawing.lines(root, (number,))
