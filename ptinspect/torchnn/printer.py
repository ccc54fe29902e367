"""`print(model)`, from a tree of nodes and without recursion.

The `style` of a class's row decides how it prints:

    module     torch.nn.Module.__repr__: the lines of extra_repr, then a line for each child
    list       ModuleList.__repr__: children that print alike are folded, `(0-2): 3 x Linear(…)`,
               numbered by position, and no extra_repr
    unpacked   as module, without the children that hold packed parameters, which a quantized
               module hides (`_hide_packed_params_repr`, RNNBase.__repr__)
    hidden     as module; an unpacked module hides it too
    packed     LinearPackedParams, EmbeddingPackedParams: the repr of the tensors they hold
    fields     OutputLogger: its public attributes as a dict
    graph      as module; `print` adds the code of a GraphModule that is the root

A node with several paths is printed under each of them, as torch does, until `limits.view_items`
nodes were printed again. After that, and for a node inside itself (torch cannot print that), one
line names the first path: `<Linear, as at a.b>`. Nodes nested deeper than `DEPTH` get such a line
too: Python's recursion limit keeps torch from printing them.

`tables/nn.txt` explains the templates of `extra_repr`. A piece with an attribute that the file does
not record is omitted: torch 2.13 would refuse to print such an old file.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, groupby
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES
from ptinspect.errors import LimitError
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.values import Value
from ptinspect.torchnn.attributes import (
    MISSING,
    READERS,
    Attributes,
    Name,
    equals_literal,
    get_attribute,
    no_tensors,
    packed_parameters,
    parameter_dict_keys,
    parameter_list_keys,
    parse_literal,
)
from ptinspect.torchnn.classes import ModuleClass, lookup
from ptinspect.torchnn.text import ValueFormatter, type_name

if TYPE_CHECKING:
    from ptinspect.torchnn.attributes import Describe, ModuleNode, TensorFacts

DEPTH = 1_000

READABLE_HINT = "# To see more debug info, please use `graph_module.print_readable()`"
"""The last line of a GraphModule's own text."""

_HIDDEN_STYLES = ("packed", "list", "hidden")


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
    style: str
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
    formatter = ValueFormatter(describe, escape, limits.text_width)
    planner = _Planner(formatter)
    plan, code = planner.plan(root), root.attributes.get("_code")
    stack = [(plan, iter(root.children))]
    while stack:
        parent, children = stack[-1]
        for name, child in children:
            if child is None or id(child) in planner.plans:
                parent.children.append((name, planner.plans.get(id(child))))
                continue
            child_plan = planner.plan(child)
            parent.children.append((name, child_plan))
            stack.append((child_plan, iter(child.children)))
            break
        else:
            stack.pop()
            planner.finish(parent)
    more: list[str] = []
    if plan.style == "graph" and isinstance(code, str):
        more = [*map(escape or str, code.split("\n")), READABLE_HINT]
    for line in chain(_Emitter(limits.view_items, formatter.width).lines(plan), more):
        remaining -= len(line) + 1
        if remaining < 0:
            message = f"the printed model is longer than {limits.string_bytes} characters"
            raise LimitError(message, limit="string_bytes")
        yield line


class _Planner:
    """Plans every node once, children before parents, and numbers the forms in which they print."""

    def __init__(self, formatter: ValueFormatter) -> None:
        self.formatter = formatter
        self.plans: dict[int, _Plan] = {}  # by the node's id
        self.forms: dict[object, int] = {}

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
        plan = self.plans[id(node)] = _Plan(node, style, name, [f"{name}("])
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
        if plan.is_closed:
            plan.children = []
        elif plan.style == "list":
            # Each with its prefix, runs of the same form as one.
            folded: _Children = []
            for _, run in groupby(enumerate(plan.children), key=lambda item: _form(item[1][1])):
                numbered = list(run)
                (start, (_, child)), (end, _) = numbered[0], numbered[-1]
                repeated = f"({start}-{end}): {len(numbered)} x "
                folded.append((f"({start}): " if start == end else repeated, child))
            plan.children = folded
        else:
            plan.children = [
                (f"({self.formatter.bare(name)}): ", child)
                for name, child in plan.children
                if plan.style != "unpacked" or child is None or child.style not in _HIDDEN_STYLES
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
        is_open = id(plan) in self.open_ids
        if not is_open and depth > DEPTH and plan.children:
            return f"<{plan.name}, {depth} levels deep>"
        if not is_open and id(plan) not in self.first:
            return None
        if not is_open and self.repeats_left > 0:
            self.repeats_left -= 1
            return None
        # The dotted name under which the node was printed first.
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
        return f"<{plan.name}, as at {'.'.join(reversed(names)) or 'the root'}>"


# extra_repr


def extra_repr(
    class_path: str,
    attributes: Attributes,
    describe: Describe = no_tensors,
    *,
    escape: Callable[[str], str] | None = None,
    limits: Limits = LIMITS,
) -> str | None:
    """Return the text of the class's own `extra_repr`; None if the class is not torch's. `escape`
    is applied to strings of the file that torch would print bare."""
    row = lookup(class_path)
    if row is None:
        return None
    return row_text(row, attributes, ValueFormatter(describe, escape, limits.text_width))


def row_text(row: ModuleClass, attributes: Attributes, formatter: ValueFormatter) -> str:
    if row.template[:1] == "@":
        return _item_lines(row.template == "@parameter_list", attributes, formatter)
    pieces = []
    for condition, fields in _parse_template(row.template):
        if condition is not None:
            tested, operator, literal = condition
            if not _holds(_value(tested, row, attributes, formatter), operator, literal):
                continue
        texts = []
        for text, name, conversion in fields:
            texts.append(text)
            if name is None:
                continue
            value = _value(name.removesuffix("?"), row, attributes, formatter)
            if value is MISSING:
                break
            if name[-1] == "?":
                texts.append(str(value is not None))
            else:
                texts.append(formatter.repr(value) if conversion else formatter.format(value))
        else:
            pieces.append("".join(texts))
    return ", ".join(pieces)


_Condition = tuple[str, str, Value]
"""Name, operator and literal; the operator is "" (true), "==", "!=" or "!" (is not)."""
_Fields = list[tuple[str, str | None, str | None]]
"""A text, the name of the attribute after it, and "r" if its repr is printed."""


@cache
def _parse_template(template: str) -> list[tuple[_Condition | None, _Fields]]:
    pieces: list[tuple[_Condition | None, _Fields]] = []
    for text in template.split(", ") if template else ():
        condition = None
        if text[0] == "[":
            test, _, text = text[1:].partition("]")
            name, operator, literal = re.split("(==|!=|!|$)", test, maxsplit=1)
            is_plain = literal in ("", "0*", "1*")
            condition = name, operator, literal if is_plain else parse_literal(literal)
        fields = string.Formatter().parse(text)
        pieces.append((condition, [(before, name, kind) for before, name, _, kind in fields]))
    return pieces


def _value(name: str, row: ModuleClass, attributes: Attributes, formatter: ValueFormatter) -> Value:
    if name == "@qscheme":  # `self.weight().qscheme()` of a quantized module
        packed = packed_parameters(attributes)
        facts = formatter.describe(packed[0]) if packed else None
        return f"torch.{facts.qscheme}" if facts is not None and facts.qscheme else MISSING
    if name[0] == "@":
        return READERS[name[1:]](attributes, name)
    return row.get(attributes, name)


def _holds(value: Value, operator: str, literal: Value) -> bool:
    if value is MISSING:
        return False
    if operator == "":
        return value is not None and value is not False and value != 0 and value != ""
    if operator == "!":
        return value is not literal
    if literal in ("0*", "1*"):
        number = 0 if literal == "0*" else 1
        is_equal = isinstance(value, tuple) and all(
            isinstance(v, int | float) and v == number for v in value
        )
    elif isinstance(literal, Name):
        is_equal = equals_literal(value, literal)
    else:
        is_equal = value is None if literal is None else value == literal
    return is_equal == (operator == "==")


def _item_lines(is_list: bool, attributes: Attributes, formatter: ValueFormatter) -> str:
    """Return a line for each item: `  (0): Parameter containing: [torch.float32 of size 2x3]`; a
    ParameterDict has torch.FloatTensor there."""
    lines = []
    for key in (parameter_list_keys if is_list else parameter_dict_keys)(attributes):
        value = get_attribute(attributes, key)
        facts = formatter.describe(value)
        if value is MISSING:
            text = "not in the file"
        elif facts is None:
            text = f"Object of type: {formatter.bare(type_name(value))}"
        else:
            name = "Parameter" if facts.parameter else "Tensor"
            size = "x".join(map(str, facts.shape))
            device = f" ({facts.device})" if facts.device.startswith("cuda") else ""
            kind = f"torch.{facts.dtype}" if is_list else _tensor_type(facts)
            text = f"{name} containing: [{kind} of size {size}{device}]"
        lines.append(f"  ({formatter.bare(key)}): {text}")
    return "\n".join(lines)


def _tensor_type(facts: TensorFacts) -> str:
    """Return `tensor.type()`: torch.FloatTensor, torch.cuda.HalfTensor, torch.sparse.LongTensor."""
    dtype, row = facts.dtype, DTYPES.get(facts.dtype)
    name = dtype[:1].upper() + dtype[1:].replace("int", "Int", 1)
    if dtype == "complex32":  # whose storages are written as untyped
        name = "ComplexHalf"
    elif row is not None and row.storage is not None:
        name = row.storage.removesuffix("Storage")
    backend = facts.device.partition(":")[0]
    prefix = "" if backend == "cpu" else f"{backend}."
    if facts.layout != "strided":
        prefix += f"{facts.layout.partition('_')[0]}."
    if name.startswith("Q"):
        prefix = f"quantized.{prefix}"
    return f"torch.{prefix}{name}Tensor"
