"""`print(model)`, from a tree of nodes and without recursion.

The `style` of a class's row decides how it prints:

    module     torch.nn.Module.__repr__: the lines of extra_repr, then a line for each child
    list       ModuleList.__repr__: children that print alike are folded, `(0-2): 3 x Linear(…)`,
               numbered by position, and no extra_repr
    unpacked   as module, without the children that hold packed parameters, which a quantized
               module hides (`_hide_packed_params_repr`, RNNBase.__repr__)
    packed     LinearPackedParams, EmbeddingPackedParams: the repr of the tensors they hold
    fields     OutputLogger: its public attributes as a dict
    graph      as module; `print` adds the code of a GraphModule that is the root

A node with several paths is printed under each of them, as torch does, until `limits.view_items`
nodes were printed again. After that, and for a node inside itself (torch cannot print that), one
line names the first path: `<Linear, as at a.b>`. Nodes nested deeper than `depth` get such a line
too: Python's recursion limit keeps torch from printing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from ptinspect.errors import LimitError
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.values import Value
from ptinspect.torchnn.attributes import no_tensors, packed_parameters
from ptinspect.torchnn.classes import lookup
from ptinspect.torchnn.extra_repr import row_text
from ptinspect.torchnn.text import ValueFormatter

if TYPE_CHECKING:
    from ptinspect.torchnn.attributes import Describe, ModuleNode

DEPTH = 1_000

READABLE_HINT = "# To see more debug info, please use `graph_module.print_readable()`"
"""The last line of a GraphModule's own text."""

_HIDDEN_STYLES = ("packed", "list")
_PACKED_PARAMETER = "torch.ao.nn.quantized.dynamic.modules.rnn.PackedParameter"


_Children = list[tuple[str, "_Plan | None"]]


@dataclass(slots=True, eq=False)
class _Plan:
    """The text of one node.

    Attributes:
        node: referenced, because plans are found by the id of their node.
        head: the lines before its children; all lines of a node that `is_closed`.
        children: each with the prefix of its line.
        form: equal for nodes that print alike; -1 until it is computed.
    """

    node: ModuleNode
    name: str
    head: list[str]
    is_closed: bool = False
    children: _Children = field(default_factory=list)
    form: int = -1


def module_lines(
    root: ModuleNode,
    describe: Describe = no_tensors,
    *,
    escape: Callable[[str], str] | None = None,
    limits: Limits = LIMITS,
) -> Iterator[str]:
    """Yield the lines of `print(model)` of torch 2.13. `escape` is applied to every string of the
    file that is printed bare. LimitError if the text is longer than `limits.string_bytes`."""
    remaining = limits.string_bytes
    for line in _all_lines(root, ValueFormatter(describe, escape, limits.text_width), limits):
        remaining -= len(line) + 1
        if remaining < 0:
            message = f"the printed model is longer than {limits.string_bytes} characters"
            raise LimitError(message, limit="string_bytes")
        yield line


def _all_lines(root: ModuleNode, formatter: ValueFormatter, limits: Limits) -> Iterator[str]:
    plan = _Planner(formatter).plan_tree(root)
    yield from _Emitter(limits.view_items, formatter.width).lines(plan)
    row = lookup(root.class_path)
    code = root.attributes.get("_code")
    if row is not None and row.style == "graph" and isinstance(code, str):
        escape = formatter.escape
        yield from (line if escape is None else escape(line) for line in code.split("\n"))
        yield READABLE_HINT


class _Planner:
    """Plans every node once, children before parents, and numbers the forms in which they print."""

    def __init__(self, formatter: ValueFormatter) -> None:
        self.formatter = formatter
        self.plans: dict[int, _Plan] = {}  # by the node's id
        self.forms: dict[object, int] = {}

    def plan_tree(self, root: ModuleNode) -> _Plan:
        root_plan = self.plan(root)
        stack: list[tuple[_Plan, Iterator[tuple[str, ModuleNode | None]]]] = []
        stack.append((root_plan, iter(root.children)))
        while stack:
            plan, children = stack[-1]
            for name, child in children:
                if child is None:
                    plan.children.append((name, None))
                    continue
                is_new = id(child) not in self.plans
                child_plan = self.plan(child) if is_new else self.plans[id(child)]
                plan.children.append((name, child_plan))
                if is_new:
                    stack.append((child_plan, iter(child.children)))
                    break
            else:
                stack.pop()
                self.finish(plan)
        return root_plan

    def plan(self, node: ModuleNode) -> _Plan:
        row = lookup(node.class_path)
        style = "module" if row is None else row.style
        name = node.name
        if row is not None and row.printed is not None:
            name = row.printed
        elif style == "graph":
            recorded = node.attributes.get("_graphmodule_cls_name")
            name = recorded if isinstance(recorded, str) else "GraphModule"
        name = self.formatter.bare(name)
        plan = self.plans[id(node)] = _Plan(node, name, [f"{name}("])
        if style == "packed":
            packed = packed_parameters(node.attributes)
            is_embedding = "_packed_weight" in node.attributes  # which has a weight only
            shown = packed[0] if packed and is_embedding else tuple(packed)
            text = self.formatter.repr(shown) if packed else f"{name}()"
            plan.head, plan.is_closed = text.split("\n"), True
        elif style == "fields":
            fields: dict[Value, Value] = {
                key: value
                for key, value in node.attributes.items()
                if isinstance(key, str) and key != "training" and not key.startswith("_")
            }
            plan.head, plan.is_closed = [f"{name}({self.formatter.repr(fields)})"], True
        elif row is not None and style != "list":
            text = row_text(row, node.attributes, self.formatter)
            plan.head += text.split("\n") if text else []
        return plan

    def finish(self, plan: _Plan) -> None:
        """Fold the children, whose forms are known by now, and number the node's own form."""
        row = lookup(plan.node.class_path)
        style = "module" if row is None else row.style
        if plan.is_closed:
            plan.children = []
        elif style == "list":
            plan.children = _fold(plan.children)
        else:
            plan.children = [
                (f"({self.formatter.bare(name)}): ", child)
                for name, child in plan.children
                if style != "unpacked" or child is None or not _is_hidden(child.node)
            ]
        if not plan.is_closed and not plan.children and len(plan.head) <= 2:
            plan.head, plan.is_closed = ["".join(plan.head) + ")"], True
        elif not plan.is_closed:
            plan.head[1:] = ["  " + line for line in plan.head[1:]]
        children = tuple((prefix, _form(child)) for prefix, child in plan.children)
        key = (tuple(plan.head), plan.is_closed, children)
        plan.form = self.forms.setdefault(key, len(self.forms))


def _form(plan: _Plan | None) -> object:
    """Return a value that is equal for two children that print alike."""
    if plan is None:
        return None
    return plan.form if plan.form >= 0 else ("inside itself", id(plan))


def _is_hidden(node: ModuleNode) -> bool:
    row = lookup(node.class_path)
    return row is not None and (row.style in _HIDDEN_STYLES or row.path == _PACKED_PARAMETER)


def _fold(children: _Children) -> _Children:
    """Return a ModuleList's children with their prefixes, runs of the same form as one."""
    folded: _Children = []
    for _, run in groupby(enumerate(children), key=lambda item: _form(item[1][1])):
        numbered = list(run)
        (start, (_, child)), (end, _) = numbered[0], numbered[-1]
        prefix = f"({start}): " if start == end else f"({start}-{end}): {len(numbered)} x "
        folded.append((prefix, child))
    return folded


class _Emitter:
    """Writes plans as lines, and counts what it prints again."""

    def __init__(self, repeats_left: int, width: int) -> None:
        self.repeats_left = repeats_left
        self.width = width
        self.first: dict[int, tuple[_Plan | None, str]] = {}  # parent and prefix of its first line
        self.open_ids: set[int] = set()  # the plans on the path from the root

    def lines(self, root: _Plan) -> Iterator[str]:
        # Plan, indentation and remaining children; the root is the child of none.
        stack: list[tuple[_Plan | None, int, Iterator[tuple[str, _Plan | None]]]] = []
        stack.append((None, -2, iter([("", root)])))
        while stack:
            plan, indent, children = stack[-1]
            entry = next(children, None)
            if entry is None:
                stack.pop()
                if plan is not None:
                    yield " " * indent + ")"
                    self.open_ids.discard(id(plan))
                continue
            prefix, child = entry
            start = " " * (indent + 2) + prefix.replace("\n", "\n" + " " * indent)
            reference = "None" if child is None else self.reference(child, len(stack) - 1)
            if child is None or reference is not None:
                yield f"{start}{reference}"
                continue
            self.first.setdefault(id(child), (plan, prefix))
            indent += 2
            yield start + child.head[0].replace("\n", "\n" + " " * indent)
            yield from (" " * indent + line for line in child.head[1:])
            if not child.is_closed:
                self.open_ids.add(id(child))
                stack.append((child, indent, iter(child.children)))

    def reference(self, plan: _Plan, depth: int) -> str | None:
        """Return the line for a node that is not printed again; None for one that is printed."""
        if id(plan) in self.open_ids:
            return f"<{plan.name}, as at {self.first_path(plan)}>"
        if depth > DEPTH and plan.children:
            return f"<{plan.name}, {DEPTH} levels deep>"
        if id(plan) not in self.first:
            return None
        if self.repeats_left <= 0:
            return f"<{plan.name}, as at {self.first_path(plan)}>"
        self.repeats_left -= 1
        return None

    def first_path(self, plan: _Plan) -> str:
        """Return the dotted name under which a node was printed first."""
        names: list[str] = []
        length = 0
        parent, prefix = self.first[id(plan)]
        while parent is not None and length <= self.width:
            name = prefix.partition("): ")[0][1:].partition("-")[0]
            names.append(name)
            length += len(name) + 1
            parent, prefix = self.first[id(parent)]
        if parent is not None:
            names.append("…")
        return ".".join(reversed(names)) or "the root"
