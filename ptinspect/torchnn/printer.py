"""`print(model)`, from a tree of nodes and without recursion.

Which rule a class prints by is the `style` of its row:

    module     torch.nn.Module.__repr__: the lines of extra_repr, then a line for each child
    list       ModuleList.__repr__: children that print alike are folded, `(0-2): 3 x Linear(…)`,
               numbered by position, and no extra_repr
    unpacked   as module, without the children that hold packed parameters, which a quantized
               module hides (`_hide_packed_params_repr`, RNNBase.__repr__)
    packed     LinearPackedParams, EmbeddingPackedParams: the repr of the tensors they hold
    fields     OutputLogger: its public attributes as a dict
    graph      as module; `print` adds the code of a GraphModule that is the root

A node that stands in several places is printed in each of them, as torch does, until
`limits.view_items` nodes were printed again; from then on, and where a node stands inside
itself (torch cannot print that), one line names the first place: `<Linear, as at a.b>`. Such
a line also stands for what is nested deeper than `depth`: Python's own recursion limit keeps
torch from printing that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ptinspect.errors import LimitError
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.values import Value
from ptinspect.torchnn.attributes import packed_parameters
from ptinspect.torchnn.classes import lookup
from ptinspect.torchnn.extra import row_text
from ptinspect.torchnn.protocols import Attributes, no_tensors
from ptinspect.torchnn.text import Writer

if TYPE_CHECKING:
    from ptinspect.torchnn.protocols import Describe, ModuleNode

DEPTH = 1_000
HIDDEN = ("packed", "list")
PACKED_PARAMETER = "torch.ao.nn.quantized.dynamic.modules.rnn.PackedParameter"
REMINDER = "# To see more debug info, please use `graph_module.print_readable()`"


class _Plan:
    """How one node is printed: `opening` (up to the bracket), the lines of its own, and its
    children, each behind a prefix. `text` instead is the whole of it, in lines."""

    __slots__ = ("children", "lines", "name", "node", "opening", "shape", "text")

    def __init__(self, node: ModuleNode, name: str) -> None:
        self.node = node  # kept: plans are found by the id of the node
        self.name = name
        self.opening = f"{name}("
        self.lines: list[str] = []
        self.children: list[tuple[str, _Plan | None]] = []
        self.text: list[str] | None = None
        self.shape = -1  # equal for nodes that print alike; -1 while it is not known


def print_module(
    root: ModuleNode,
    describe: Describe = no_tensors,
    *,
    escape: Callable[[str], str] | None = None,
    limits: Limits = LIMITS,
    depth: int = DEPTH,
) -> str:
    """The text of `print(model)` of torch 2.13.

    `escape` is applied to every string of the file that is printed bare: names of classes
    and children, strings in an extra_repr. LimitError where the text is longer than
    `limits.string_bytes`.
    """
    out: list[str] = []
    left = limits.string_bytes
    for line in module_lines(root, describe, escape=escape, limits=limits, depth=depth):
        left -= len(line) + 1
        if left < 0:
            raise LimitError(
                f"the printed model is longer than {limits.string_bytes} characters",
                limit="string_bytes",
            )
        out.append(line)
    return "\n".join(out)


def module_lines(
    root: ModuleNode,
    describe: Describe = no_tensors,
    *,
    escape: Callable[[str], str] | None = None,
    limits: Limits = LIMITS,
    depth: int = DEPTH,
) -> Iterator[str]:
    """The lines of `print_module`, one after the other."""
    writer = Writer(describe, escape, limits.text_width)
    planner = _Planner(writer)
    plan = planner.plan_all(root)
    yield from _Emitter(limits.view_items, depth, writer).lines(plan)
    row = lookup(root.class_path)
    code = root.attributes.get("_code")
    if row is not None and row.style == "graph" and isinstance(code, str):
        yield from (line if escape is None else escape(line) for line in code.split("\n"))
        yield REMINDER


class _Planner:
    """Plans every node once, children before parents, and numbers the ways they print."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.plans: dict[int, _Plan] = {}
        self.shapes: dict[object, int] = {}

    def plan_all(self, root: ModuleNode) -> _Plan:
        first = self.plan(root)
        todo: list[tuple[_Plan, Iterator[tuple[str, ModuleNode | None]]]] = []
        todo.append((first, iter(root.children)))
        while todo:
            plan, rest = todo[-1]
            for name, child in rest:
                if child is None:
                    plan.children.append((name, None))
                    continue
                known = self.plans.get(id(child))
                made = known or self.plan(child)
                plan.children.append((name, made))
                if known is None:
                    todo.append((made, iter(child.children)))
                    break
            else:
                todo.pop()
                self.finish(plan)
        return first

    def plan(self, node: ModuleNode) -> _Plan:
        """A plan without children, found by the node's identity from now on."""
        row = lookup(node.class_path)
        name = node.name
        if row is not None:
            if row.printed is not None:
                name = row.printed
            elif row.style == "graph":
                recorded = node.attributes.get("_graphmodule_cls_name")
                name = recorded if isinstance(recorded, str) else "GraphModule"
        plan = self.plans[id(node)] = _Plan(node, self.writer.bare(name))
        style = "module" if row is None else row.style
        if style == "packed":
            plan.text = self.packed_text(node.attributes, plan)
        elif style == "fields":
            plan.text = [f"{plan.opening}{self.fields_text(node.attributes)})"]
        elif row is not None and style != "list":
            text = row_text(row, node.attributes, self.writer)
            plan.lines = text.split("\n") if text else []
        return plan

    def packed_text(self, attributes: Attributes, plan: _Plan) -> list[str]:
        held = packed_parameters(attributes)
        if not held:
            return [f"{plan.opening})"]
        one = "_packed_weight" in attributes  # an embedding holds its weight alone
        return self.writer.repr(held[0] if one else tuple(held)).split("\n")

    def fields_text(self, attributes: Attributes) -> str:
        shown: dict[Value, Value] = {
            key: value
            for key, value in attributes.items()
            if isinstance(key, str) and key != "training" and not key.startswith("_")
        }
        return self.writer.repr(shown)

    def finish(self, plan: _Plan) -> None:
        """Called when all children have their shapes: folds them, and gives the shape."""
        row = lookup(plan.node.class_path)
        style = "module" if row is None else row.style
        if plan.text is not None:
            plan.children = []
        elif style == "list":
            plan.children = fold(plan.children)
        else:
            shown = []
            for name, child in plan.children:
                if style != "unpacked" or child is None or not hidden(child.node):
                    shown.append((f"({self.writer.bare(name)}): ", child))
            plan.children = shown
        text = plan.text if plan.text is not None else plan.lines
        parts = tuple((prefix, shape_of(child)) for prefix, child in plan.children)
        key = (plan.opening, plan.text is None, tuple(text), parts)
        plan.shape = self.shapes.setdefault(key, len(self.shapes))


def shape_of(plan: _Plan | None) -> object:
    """What two children that print alike have in common."""
    if plan is None:
        return None
    return plan.shape if plan.shape >= 0 else ("inside itself", id(plan))


def hidden(node: ModuleNode) -> bool:
    """Whether a quantized module hides this child."""
    row = lookup(node.class_path)
    return row is not None and (row.style in HIDDEN or row.path == PACKED_PARAMETER)


def fold(children: list[tuple[str, _Plan | None]]) -> list[tuple[str, _Plan | None]]:
    """A ModuleList's children behind their prefixes, runs of the same text as one."""
    runs: list[tuple[int, int, _Plan | None]] = []
    for index, (_, child) in enumerate(children):
        if runs and shape_of(runs[-1][2]) == shape_of(child):
            start, _, first = runs[-1]
            runs[-1] = (start, index, first)
        else:
            runs.append((index, index, child))
    return [
        (f"({start}): " if start == end else f"({start}-{end}): {end - start + 1} x ", child)
        for start, end, child in runs
    ]


class _Emitter:
    """Writes plans as lines, and keeps account of what was written before."""

    def __init__(self, again: int, depth: int, writer: Writer) -> None:
        self.again = again  # how many nodes may still be printed again
        self.depth = depth
        self.writer = writer
        self.first: dict[int, tuple[_Plan | None, str]] = {}  # where each was printed first
        self.inside: set[int] = set()  # the plans that are open

    def lines(self, root: _Plan) -> Iterator[str]:
        todo: list[tuple[_Plan, int, Iterator[tuple[str, _Plan | None]]]] = []
        self.first[id(root)] = (None, "")
        yield from self.open(root, "", 0)
        if root.text is None and root.children:
            self.inside.add(id(root))
            todo.append((root, 0, iter(root.children)))
        while todo:
            plan, indent, rest = todo[-1]
            entry = next(rest, None)
            if entry is None:
                yield " " * indent + ")"
                self.inside.discard(id(plan))
                todo.pop()
                continue
            prefix, child = entry
            start = " " * (indent + 2) + prefix.replace("\n", "\n" + " " * indent)
            if child is None:
                yield start + "None"
                continue
            instead = self.instead(child, len(todo))
            if instead is not None:
                yield start + instead
                continue
            self.first.setdefault(id(child), (plan, prefix))
            yield from self.open(child, start, indent + 2)
            if child.text is None and child.children:
                self.inside.add(id(child))
                todo.append((child, indent + 2, iter(child.children)))

    def instead(self, plan: _Plan, depth: int) -> str | None:
        """The one line that stands for a node which is not printed here; None: it is."""
        if id(plan) in self.inside:
            return f"<{plan.name}, as at {self.path(plan)}>"
        if depth > self.depth and plan.children:
            return f"<{plan.name}, {depth} levels deep>"
        if id(plan) not in self.first:
            return None
        if self.again <= 0:
            return f"<{plan.name}, as at {self.path(plan)}>"
        self.again -= 1
        return None

    def path(self, plan: _Plan) -> str:
        """Where a node was printed first, as its dotted name."""
        parts: list[str] = []
        length = 0
        above, prefix = self.first[id(plan)]
        while above is not None and length <= self.writer.width:
            name = prefix.partition("): ")[0][1:].partition("-")[0]
            parts.append(name)
            length += len(name) + 1
            above, prefix = self.first[id(above)]
        if above is not None:
            parts.append("…")
        return ".".join(reversed(parts)) or "the root"

    def open(self, plan: _Plan, start: str, indent: int) -> Iterator[str]:
        """The lines of a node up to its children; all of it, where it has none."""
        if plan.text is not None:
            yield start + plan.text[0]
            yield from (" " * indent + line for line in plan.text[1:])
            return
        opening = start + plan.opening.replace("\n", "\n" + " " * indent)
        if not plan.children and len(plan.lines) < 2:
            yield opening + "".join(plan.lines) + ")"
            return
        yield opening
        yield from (" " * (indent + 2) + line for line in plan.lines)
        if not plan.children:
            yield " " * indent + ")"
