"""Classes from their instances: the constructor's arguments, and what it sets."""

from __future__ import annotations

from typing import NamedTuple

from ptinspect.document.modules import Module, module_of
from ptinspect.stubs.collect.classes import (
    ATTRIBUTE,
    BUFFER,
    CHILD,
    LATE,
    PARAMETER,
    Instance,
    Member,
    Plan,
)
from ptinspect.stubs.collect.object_graph import Graph, base_of
from ptinspect.stubs.expr.nodes import NONE, OPEN, Argument, Atom, Expr, Items, Make, Many, Var
from ptinspect.stubs.infer.anti_unify import Column, Parameter, Unifier, texts_of
from ptinspect.stubs.infer.toposort import agreed, depth_of, groups
from ptinspect.stubs.torch.calls import INTERNAL, class_text, constructed, tensors_below
from ptinspect.stubs.torch.shapes import CHILDREN, SHAPES, given
from ptinspect.torchnn import ModuleClass, lookup

DEEPEST = 6
"""Brackets inside brackets in the arguments of one object."""
_SELF = frozenset({"self", "nn", "torch", "np", "_part"})


class Line(NamedTuple):
    """What a constructor sets. when: the condition under which an instance has it, as source.
    empty: whether it may be None, and yet has its place among the children or parameters."""

    kind: str
    name: str
    expr: Expr
    persistent: bool
    when: str | None
    empty: bool = False


class Given(NamedTuple):
    """An argument of a constructor. default: None where it must be given; late: it is made in the
    body, as it is no plain value."""

    name: str
    default: Expr | None
    late: bool


class Solved:
    """A class, ready to be written."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.arguments: list[Given] = []
        self.lines: list[Line] = []
        self.base: Make | None = None  # the call of the torch base's constructor
        self.star: str | None = None  # the argument that a Sequential's children are


def solve(graph: Graph) -> dict[str, Solved]:
    """All classes with instances, leaves first."""
    plans = [plan for plan in graph.plans.values() if plan.instances]
    made: dict[str, Solved] = {}
    for group in groups(plans, dict(graph.parts)):
        pending: list[tuple[Instance, Solved, list[Parameter], int]] = []
        for plan in group:
            solved, parameters = _solve(graph, plan)
            made[plan.path] = solved
            for at, instance in enumerate(plan.instances):
                pending.append((instance, solved, parameters, at))
        for instance, solved, parameters, at in sorted(pending, key=lambda item: item[0].number):
            instance.made = _call(graph, solved, parameters, at)
            instance.depth = depth_of(instance.made)
            if instance.depth > DEEPEST:
                instance.made = graph.part(instance.made)
                instance.depth = 1
    return made


def _call(graph: Graph, solved: Solved, parameters: list[Parameter], at: int) -> Expr:
    """What makes one instance."""
    defaults = {argument.name: argument for argument in solved.arguments}
    args: list[Argument] = []
    for parameter in parameters:
        value = parameter.column[at] or NONE
        default = defaults[parameter.name].default
        if default is None or default.text != value.text:
            args.append((parameter.name, value))
    order = [argument.name for argument in solved.arguments]
    args.sort(key=lambda item: order.index(item[0] or ""))
    unset = {argument.name: argument.default for argument in solved.arguments if argument.default}
    return Make(solved.plan.ident, args, 0, unset)


def _solve(graph: Graph, plan: Plan) -> tuple[Solved, list[Parameter]]:
    solved = Solved(plan)
    plans = graph.plans.values()
    own = {known.ident for known in plans if known.kind == "module"}
    unifier = Unifier({known.ident for known in plans} | _SELF, own)
    columns = _columns(plan)
    modules = _modules(plan)
    if plan.kind == "module" and plan.traced is None:
        if _is_sequence(plan):
            _as_sequence(plan, solved, unifier)
            columns = {}
        elif modules:
            columns = _as_torchs(graph, plan, modules, solved, unifier, columns)
    columns = {
        name: column for name, column in columns.items() if _in_class(graph, plan, name, column)
    }
    for kinds, column in _by_priority(columns):
        _line(solved, unifier, kinds, column)
    solved.lines = _in_order(solved.lines, list(columns))
    _arguments(plan, solved, unifier)
    return solved, unifier.parameters


def _in_class(graph: Graph, plan: Plan, name: _Name, column: list[Member | None]) -> bool:
    """Whether the class can set it: what leads to children is the same in all instances, or is
    left to the root. Its source is that of one object, and can be no argument."""
    if name.kind != LATE or len({None if one is None else one.expr.text for one in column}) == 1:
        return True
    for instance, member in zip(plan.instances, column, strict=True):
        module = module_of(instance.call) if instance.call is not None else None
        if module is not None and member is not None and member.kind == LATE:
            value = module.attributes[name.name]
            graph.later.setdefault(id(module.call), {})[name.name] = value
            graph.lost[graph.lost_at(module, name.name)] = None
    return False


def _modules(plan: Plan) -> list[Module]:
    found = [module_of(i.call) for i in plan.instances if i.call is not None]
    return [module for module in found if module is not None]


# --- members, over all instances


class _Name(NamedTuple):
    """A name that instances have something under."""

    name: str
    kind: str


def _columns(plan: Plan) -> dict[_Name, list[Member | None]]:
    """By name and kind, what each instance has; in an order in which all instances agree.

    A None among the attributes is a child, a parameter or a buffer that this instance lacks,
    where others have one of that name.
    """
    kinds: dict[str, dict[str, None]] = {}
    for instance in plan.instances:
        for member in instance.members:
            kinds.setdefault(member.name, {})[member.kind] = None
    ways: dict[tuple[_Name, ...], None] = {}
    columns: dict[_Name, list[Member | None]] = {}
    for at, instance in enumerate(plan.instances):
        way: list[_Name] = []
        for member in instance.members:
            name = _Name(member.name, _kind(member, kinds[member.name]))
            if name.kind != member.kind:
                continue
            if name not in columns:
                columns[name] = [None] * len(plan.instances)
            columns[name][at] = member
            way.append(name)
        ways[tuple(way)] = None
    for at, instance in enumerate(plan.instances):
        for member in instance.members:
            name = _Name(member.name, _kind(member, kinds[member.name]))
            if name.kind != member.kind and columns[name][at] is None:
                columns[name][at] = member
    return {name: columns[name] for name in agreed(list(columns), list(ways))}


def _kind(member: Member, kinds: dict[str, None]) -> str:
    if member.kind == ATTRIBUTE and member.expr.text == "None" and len(kinds) == 2:
        return next(kind for kind in kinds if kind != ATTRIBUTE)
    return member.kind


def _by_priority(
    columns: dict[_Name, list[Member | None]],
) -> list[tuple[_Name, list[Member | None]]]:
    """Plain attributes first: they name the arguments that others share."""
    found = list(columns.items())
    return [item for item in found if item[0].kind == ATTRIBUTE] + [
        item for item in found if item[0].kind != ATTRIBUTE
    ]


_TURN = {ATTRIBUTE: 0, LATE: 2}


def _in_order(lines: list[Line], names: list[_Name]) -> list[Line]:
    place = {name: at for at, name in enumerate(names)}
    return sorted(
        lines, key=lambda line: (_TURN.get(line.kind, 1), place[_Name(line.name, line.kind)])
    )


def _line(solved: Solved, unifier: Unifier, name: _Name, column: list[Member | None]) -> None:
    """One attribute, child, parameter or buffer."""
    values: Column = [None if member is None else member.expr for member in column]
    lacking = any(value is None for value in values)
    expr = unifier.unify(values, name.name)
    when = None
    if lacking:
        when = _condition(unifier, name.name, values, expr)
    persistent = all(member.persistent for member in column if member is not None)
    empty = any(m.kind != ATTRIBUTE and m.expr is NONE for m in column if m is not None)
    solved.lines.append(Line(name.kind, name.name, expr, persistent, when, empty))


def _condition(unifier: Unifier, name: str, values: Column, expr: Expr) -> str:
    """`name is not None` where the thing itself is an argument, else a flag."""
    whole = isinstance(expr, Var) and unifier.gives(expr.name, values)
    if isinstance(expr, Var) and whole and "None" not in texts_of(values):
        return f"{expr.name} is not None"
    flags: Column = [Atom("False") if value is None else Atom("True") for value in values]
    known = unifier.known(flags)
    return (known or unifier.new(flags, f"has_{name}")).name


# --- what a class extends


def _is_sequence(plan: Plan) -> bool:
    """Whether all that the instances have is numbered children."""
    for instance in plan.instances:
        names = [member.name for member in instance.members]
        if any(m.kind != CHILD or m.expr is NONE for m in instance.members):
            return False
        if names != [str(at) for at in range(len(names))]:
            return False
    return any(instance.members for instance in plan.instances)


def _as_sequence(plan: Plan, solved: Solved, unifier: Unifier) -> None:
    """The children as arguments of nn.Sequential's constructor."""
    plan.sequence = True
    column: Column = [
        Many("nn.Sequential", [member.expr for member in instance.members], False)
        for instance in plan.instances
    ]
    made = unifier.unify(column, "layers")
    if isinstance(made, Many):
        made = made.folded()
    if isinstance(made, Make):
        solved.base = made
        return
    solved.star = made.text
    for parameter in unifier.parameters:
        if parameter.name == solved.star:
            parameter.column = [
                Items("[]", item.items) if isinstance(item, Many) else item
                for item in parameter.column
            ]


def _as_torchs(
    graph: Graph,
    plan: Plan,
    modules: list[Module],
    solved: Solved,
    unifier: Unifier,
    columns: dict[_Name, list[Member | None]],
) -> dict[_Name, list[Member | None]]:
    """The columns without what the constructor of the torch class brings that it extends."""
    row = gone_row(plan) or base_of(plan, modules)
    if row is None or len(modules) != len(plan.instances):
        return columns
    if not all(_has(graph, module, row) for module in modules):
        return columns
    calls: Column = [constructed(row, module, graph.expr) for module in modules]
    made = unifier.unify(calls, "base") if all(calls) else NONE
    if not isinstance(made, Make):
        return columns
    plan.base = row
    solved.base = made
    brought = set(CHILDREN.get(row.name, ())) | INTERNAL | {mark.name for mark in row.marks}
    shapes = SHAPES.get(row.name)
    for argument in row.arguments:
        brought.add(argument.name)
        brought |= {source.split("?")[0].split(".")[0] for source in argument.source.split("|")}
    for module in modules:
        if shapes is not None:
            brought |= {key for key in shapes(given(row, module.attributes)) if "." not in key}
    none = {PARAMETER, BUFFER}
    return {
        name: column
        for name, column in columns.items()
        if name.name not in brought or (name.kind in none and name.name not in brought)
    }


def gone_row(plan: Plan) -> ModuleClass | None:
    """The row of a class that torch had and has no more."""
    return lookup(plan.path) if plan.module.startswith("torch.") else None


def _has(graph: Graph, module: Module, row: ModuleClass) -> bool:
    """Whether a module has all that the constructor of the torch class makes, as it makes it."""
    from ptinspect.document.modules import MODULES

    if row.name in ("TransformerEncoder", "TransformerDecoder"):
        return _is_coder(graph, module, row)
    shapes = SHAPES.get(row.name)
    wanted = CHILDREN.get(row.name, {})
    held = dict(module.members(MODULES))
    for key, name in wanted.items():
        child = module_of(held.get(key))
        known = lookup(child.class_path) if child is not None else None
        if known is None or known.name != name:
            return False
    if shapes is None:
        return not wanted
    found = tensors_below(graph.document, module)
    expected = shapes(given(row, module.attributes))
    return all(found.get(key) == shape for key, shape in expected.items())


def _is_coder(graph: Graph, module: Module, row: ModuleClass) -> bool:
    """Whether `layers`, `num_layers` and `norm`, which many a model has, are those of
    nn.TransformerEncoder or Decoder: the layers are torch's, and are all the same."""
    from ptinspect.document.modules import MODULES

    layers = module_of(dict(module.members(MODULES)).get("layers"))
    if layers is None or lookup(layers.class_path) is None:
        return False
    kinds: set[str] = set()
    texts: set[str] = set()
    for _, value in layers.members(MODULES):
        layer = module_of(value)
        if layer is None:
            return False
        plan = graph.plans.get(layer.class_path)
        known = lookup(layer.class_path) if plan is None else plan.base
        kinds.add(known.name if known is not None else "")
        texts.add(graph.expr(value).text)
    return kinds == {f"{row.name}Layer"} and len(texts) == 1 and OPEN not in texts.pop()


# --- arguments


def _arguments(plan: Plan, solved: Solved, unifier: Unifier) -> None:
    """Those without a default first."""
    made: list[Given] = []
    for parameter in unifier.parameters:
        default: Expr | None = None
        if any(item is None for item in parameter.column):
            default = NONE
        late = False
        if plan.root and default is None:
            default = parameter.column[plan.root_index] or NONE
            late = not _is_plain(default)
        elif default is None:
            default = _usual(parameter.column)
        made.append(Given(parameter.name, default, late))
    solved.arguments = sorted(made, key=lambda argument: argument.default is not None)


def _usual(column: Column) -> Expr | None:
    """A plain value that most instances give."""
    counts: dict[str, int] = {}
    for item in column:
        if item is not None and _is_plain(item):
            counts[item.text] = counts.get(item.text, 0) + 1
    text = max(counts, key=lambda key: counts[key], default="")
    if not text or counts[text] < 2 or counts[text] * 2 <= len(column):
        return None
    return next(item for item in column if item is not None and item.text == text)


def _is_plain(expr: Expr) -> bool:
    """Whether a default may stand in a signature: it is made once, and must not change."""
    if isinstance(expr, Items):
        return expr.brackets == "()" and all(_is_plain(item) for item in expr.items)
    return isinstance(expr, Atom)


__all__ = ["ATTRIBUTE", "Given", "Line", "Solved", "class_text", "solve"]
