"""Infer classes from their instances: the parameters of the constructor, and what it sets."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple, TypeVar

from ptinspect.document.modules import MODULES, PARAMETERS, Module, module_of
from ptinspect.stubs.collect.definitions import (
    Deferred,
    Definition,
    Instance,
    Member,
    MemberKind,
    Names,
    nested_depth,
)
from ptinspect.stubs.collect.modules import (
    CODERS,
    PARAMETER_CONTAINERS,
    PARAMETER_RECORDS,
    argument_attributes,
    base_call,
    has_children_of,
    tensor_shapes,
)
from ptinspect.stubs.collect.object_graph import ObjectGraph
from ptinspect.stubs.collect.source import (
    NONE,
    UNSOLVED,
    Access,
    Argument,
    CallExpr,
    Expr,
    ModuleContainer,
    Sequence,
    Starred,
    call_expr,
)
from ptinspect.stubs.collect.values import class_text
from ptinspect.stubs.infer.anti_unify import (
    Column,
    InitParameter,
    InitStatement,
    MemberColumn,
    Parameter,
    Unifier,
    is_plain,
)
from ptinspect.torchnn.classes import ModuleClass, candidates, lookup

MAX_DEPTH = 6
"""Brackets inside each other in the arguments of one object."""
MAX_SET_FROM_OUTSIDE = 200
"""Attributes that `build()` sets one by one, instead of the constructor."""
_NEVER_PARAMETERS = frozenset({"self", "nn", "torch", "np", "_part", "value", "_"})


class Assignment(NamedTuple):
    """A statement after a model is built.

    `target = value`; with neither value nor target, only `value` or `target` followed by `suffix`.
    """

    target: Access | None
    suffix: str = ""
    value: Expr | None = None
    for_all_modules: bool = False


@dataclass(slots=True)
class InferredClass:
    """A class with its constructor.

    Attributes:
        base: the torch class that it extends, if it is certain.
        post_init: statements at the end of the constructor; None if it is none of a model's root.
        in_build: what `build()` sets on an object of the class afterwards.
    """

    definition: Definition
    parameters: list[InitParameter] = field(default_factory=list)
    statements: list[InitStatement] = field(default_factory=list)
    base: ModuleClass | None = None
    base_call: CallExpr | None = None
    post_init: list[Assignment] | None = None
    in_build: list[Assignment] = field(default_factory=list)

    @property
    def base_text(self) -> str | None:
        """Source of the torch class that it extends; None for nn.Module."""
        return class_text(self.base.path) if self.base is not None else None


def infer_constructors(
    objects: ObjectGraph, in_root: Collection[int]
) -> tuple[dict[str, InferredClass], list[Deferred]]:
    """Infer all classes that have instances, leaves first.

    Sets the constructor call of every instance. Adds functions to `objects.parts` for calls that
    are nested too deep.
    """
    definitions = [item for item in objects.definitions.values() if item.instances]
    classes: dict[str, InferredClass] = {}
    deferred: list[Deferred] = []
    for group in dependency_groups(definitions, dict(objects.parts)):
        pending: list[tuple[Instance, InferredClass, list[Parameter], int]] = []
        for definition in group:
            inferred, parameters, late = _infer_class(objects, definition, classes, in_root)
            classes[definition.path] = inferred
            deferred += late
            for index, instance in enumerate(definition.instances):
                pending.append((instance, inferred, parameters, index))
        # Inner instances first: a call leaves out the arguments that equal a default.
        for instance, inferred, parameters, index in sorted(pending, key=lambda p: p[0].number):
            values = {item.name: item.column[index] or NONE for item in parameters}
            args: list[Argument] = [
                (name, values[name])
                for name, default, _ in inferred.parameters
                if default is None or default.text != values[name].text
            ]
            unset = {name: value for name, value, _ in inferred.parameters if value is not None}
            call = CallExpr(instance.definition.ident, args, 0, unset)
            depth = nested_depth(call)
            is_deep = depth > MAX_DEPTH
            instance.constructor_call = objects.move_to_function(call) if is_deep else call
            instance.depth = 1 if is_deep else depth  # type: ignore[misc] # a slot of Expr
    return classes, deferred


def _infer_class(
    objects: ObjectGraph,
    definition: Definition,
    inferred_classes: dict[str, InferredClass],
    in_root: Collection[int],
) -> tuple[InferredClass, list[Parameter], list[Deferred]]:
    inferred = InferredClass(definition)
    definitions = objects.definitions.values()
    module_classes = {item.ident for item in definitions if item.kind == "module"}
    names = Names({item.ident for item in definitions} | _NEVER_PARAMETERS)
    unifier = Unifier(names, module_classes)
    columns = member_columns(definition)
    if definition.kind == "module" and definition.recorded.fx_name is None:
        is_sequence = any(item.members for item in definition.instances) and all(
            (member.kind, member.name) == ("child", str(index)) and member.expr is not NONE
            for instance in definition.instances
            for index, member in enumerate(instance.members)
        )
        if is_sequence:
            _inherit_from_sequential(definition, inferred, unifier)
            columns = []
        else:
            inherited = _inherit_from_torch(objects, inferred, unifier, inferred_classes)
            columns = [column for column in columns if column.name not in inherited]
    # The source of a late attribute is that of one object, and cannot be a parameter.
    set_later = [column for column in columns if column.kind == "late" and not column.is_constant]
    if definition.kind == "module":
        set_later += _set_from_outside(definition.instances, columns, in_root)
    deferred = [
        Deferred(module, column.name)
        for column in set_later
        for instance, member in zip(definition.instances, column.members, strict=True)
        if member is not None and member.kind == column.kind and (module := instance.module)
    ]
    columns = [column for column in columns if column not in set_later]
    # Plain attributes first: they name the parameters that others share.
    statements = {
        (column.kind, column.name): unifier.init_statement(column)
        for column in sorted(columns, key=lambda column: column.kind != "attribute")
    }
    turns = {"attribute": 0, "late": 2}
    in_order = sorted(columns, key=lambda column: turns.get(column.kind, 1))
    inferred.statements = [statements[column.kind, column.name] for column in in_order]
    inferred.parameters = unifier.init_parameters(definition)
    return inferred, unifier.parameters, deferred


# Members of all instances

T = TypeVar("T", bound=Hashable)


def merge_orders(names: list[T], orders: list[tuple[T, ...]]) -> list[T]:
    """Return `names` in an order that agrees with each of `orders`, as far as these agree.

    Otherwise the order of `names` decides.
    """
    if len(orders) == 1:
        return list(orders[0])
    place = {name: index for index, name in enumerate(names)}
    successors: dict[T, dict[T, None]] = {name: {} for name in names}
    for order in orders:
        for first, second in pairwise(order):
            successors[first][second] = None
    waiting = dict.fromkeys(names, 0)
    for following in successors.values():
        for name in following:
            waiting[name] += 1
    ready = [place[name] for name in names if not waiting[name]]  # sorted, and so a heap
    merged: dict[T, None] = {}
    next_unmerged = 0
    while len(merged) < len(names):
        if ready:
            name = names[heappop(ready)]
        else:  # the orders contradict each other
            while names[next_unmerged] in merged:
                next_unmerged += 1
            name = names[next_unmerged]
        if name in merged:
            continue
        merged[name] = None
        for successor in successors[name]:
            waiting[successor] -= 1
            if not waiting[successor]:
                heappush(ready, place[successor])
    return list(merged)


def member_columns(definition: Definition) -> list[MemberColumn]:
    """Return what each instance has, by name and kind, in an order that fits all instances.

    An attribute whose value is None counts as a child, parameter or buffer that the instance lacks
    if other instances have one of that name.
    """
    kinds: dict[str, dict[MemberKind, None]] = {}
    for instance in definition.instances:
        for member in instance.members:
            kinds.setdefault(member.name, {})[member.kind] = None

    def key_of(member: Member) -> tuple[MemberKind, str]:
        of_name = kinds[member.name]
        if member.kind == "attribute" and member.expr.text == "None" and len(of_name) == 2:
            return next(kind for kind in of_name if kind != "attribute"), member.name
        return member.kind, member.name

    count = len(definition.instances)
    orders: dict[tuple[tuple[MemberKind, str], ...], None] = {}
    columns: dict[tuple[MemberKind, str], list[Member | None]] = {}
    absent: list[tuple[int, Member]] = []
    for index, instance in enumerate(definition.instances):
        order: list[tuple[MemberKind, str]] = []
        for member in instance.members:
            key = key_of(member)
            if key[0] != member.kind:
                absent.append((index, member))
                continue
            columns.setdefault(key, [None] * count)[index] = member
            order.append(key)
        orders[tuple(order)] = None
    for index, member in absent:
        members = columns[key_of(member)]
        members[index] = members[index] or member
    return [MemberColumn(*key, columns[key]) for key in merge_orders(list(columns), list(orders))]


def _set_from_outside(
    instances: list[Instance], columns: list[MemberColumn], in_root: Collection[int]
) -> list[MemberColumn]:
    """Return the attributes that only some instances have, after all those that every one has.

    The program sets them on finished modules, as YOLO numbers its layers; so does `build()`.
    """
    candidates = {
        column.name: column
        for column in columns
        if column.kind == "attribute"
        and None in column.members
        and all(item is None or is_plain(item.expr, "()[]") for item in column.members)
    }
    for instance in instances if candidates else ():
        names = [member.name for member in instance.members if member.kind in ("attribute", "late")]
        outside = instance.call is not None and id(instance.call) in in_root
        last = max((i for i, name in enumerate(names) if name not in candidates), default=-1)
        for name in names[: last + 1] if outside else names:
            candidates.pop(name, None)
    count = sum(item is not None for column in candidates.values() for item in column.members)
    return list(candidates.values()) if count <= MAX_SET_FROM_OUTSIDE else []


# Groups of classes


def dependency_groups(
    definitions: list[Definition], parts: dict[str, Expr]
) -> list[list[Definition]]:
    """Group classes whose instances contain each other, leaves first (Tarjan's algorithm)."""
    contained = {item.path: iter(_contained_in(item, parts)) for item in definitions}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[Definition] = []
    groups: list[list[Definition]] = []
    for start in definitions:
        frames = [start] if start.path not in order else []
        while frames:
            definition = frames[-1]
            path = definition.path
            if path not in order:
                order[path] = low[path] = len(order)
                stack.append(definition)
            child = next(contained[path], None)
            if child is not None and child.path not in order:
                frames.append(child)
            elif child is not None:
                low[path] = min(low[path], low[child.path])
            else:
                frames.pop()
                if frames:
                    outer = frames[-1].path
                    low[outer] = min(low[outer], low[path])
                if low[path] == order[path]:
                    start_of_group = stack.index(definition)
                    groups.append(stack[start_of_group:])
                    del stack[start_of_group:]
                    low |= dict.fromkeys((item.path for item in groups[-1]), len(definitions))
    return groups


def _contained_in(definition: Definition, parts: dict[str, Expr]) -> list[Definition]:
    """Return the classes of the instances that those of a class contain, also in part functions."""
    contained: dict[str, Definition] = {}
    for instance in definition.instances:
        for member in instance.members:
            stack, seen = [member.expr], set()
            while stack:
                item = stack.pop()
                if id(item) in seen:
                    continue
                seen.add(id(item))
                if isinstance(item, Instance):
                    contained[item.definition.path] = item.definition
                    continue
                if isinstance(item, CallExpr) and item.func in parts:
                    stack.append(parts[item.func])
                stack += item.children()
    return list(contained.values())


# Bases


def _inherit_from_sequential(
    definition: Definition, inferred: InferredClass, unifier: Unifier
) -> None:
    """Make the children arguments for the constructor of nn.Sequential."""
    inferred.base = lookup("torch.nn.Sequential")
    column: Column = [
        ModuleContainer("nn.Sequential", [member.expr for member in instance.members], False)
        for instance in definition.instances
    ]
    unified = unifier.unify(column, "layers")
    if isinstance(unified, ModuleContainer):
        unified = unified.folded()
    if isinstance(unified, CallExpr):
        inferred.base_call = unified
        return
    inferred.base_call = call_expr("super", Starred(unified))
    for parameter in unifier.parameters:
        if parameter.name == unified.text:
            parameter.column = [
                Sequence("[]", item.items) if isinstance(item, ModuleContainer) else item
                for item in parameter.column
            ]


def _inherit_from_torch(
    objects: ObjectGraph,
    inferred: InferredClass,
    unifier: Unifier,
    inferred_classes: dict[str, InferredClass],
) -> set[str]:
    """Let the class extend the torch class that its instances look like, if it is certain.

    Return the names of the members that the constructor of the torch class sets.
    """
    definition = inferred.definition
    modules = [module for instance in definition.instances if (module := instance.module)]
    if not modules or len(modules) != len(definition.instances):
        return set()
    # Definitions in torch's modules are of classes that torch has removed.
    removed = lookup(definition.path) if definition.module.startswith("torch.") else None
    best = [candidates(module.attributes)[:1] for module in modules]
    bases = {row.path: row for rows in best for row in rows}
    is_certain = len(bases) == 1 and all(best)
    row = removed or (next(iter(bases.values())) if is_certain else None)
    if not row or not all(_has_members_of(row, m, objects, inferred_classes) for m in modules):
        return set()
    calls = [base_call(row, module, objects.expr_of, objects.tensor_of) for module in modules]
    if not all(calls):
        return set()
    is_container = row.name in PARAMETER_CONTAINERS
    unified = unifier.unify(calls, "values" if is_container else "base")
    if isinstance(unified, ModuleContainer):
        unified = unified.folded()
    if not isinstance(unified, CallExpr):  # the name of an argument
        unified = call_expr("super", unified)
    inferred.base, inferred.base_call = row, unified
    if is_container:
        parameters = [dict(module.members(PARAMETERS)) for module in modules]
        return set(PARAMETER_RECORDS).union(*parameters)
    inherited = {*argument_attributes(row), *row.children, *(mark.name for mark in row.marks)}
    for module in modules if row.has_shapes else ():
        inherited |= set(row.created_shapes(row.argument_values(module.attributes)))
    return inherited


def _has_members_of(
    row: ModuleClass,
    module: Module,
    objects: ObjectGraph,
    inferred_classes: dict[str, InferredClass],
) -> bool:
    """Return True if a module has all that the constructor of a torch class creates.

    Many models have `layers`, `num_layers` and `norm` without extending nn.TransformerEncoder or
    Decoder: the layers have to be of torch's class, and all equal.
    """
    if row.name in CODERS:
        layers = module_of(dict(module.members(MODULES)).get("layers"))
        if not layers or lookup(layers.class_path) is None:
            return False
        names: set[str] = set()
        texts: set[str] = set()
        for _, value in layers.members(MODULES):
            layer = module_of(value)
            layer_row = lookup(layer.class_path) if layer is not None else None
            if layer is not None and layer.class_path in objects.definitions:
                inferred = inferred_classes.get(layer.class_path)
                layer_row = inferred.base if inferred is not None else None
            names.add(layer_row.name if layer_row is not None else "")
            texts.add(objects.expr_of(value).text)
        return names == {f"{row.name}Layer"} and len(texts) == 1 and UNSOLVED not in texts.pop()
    if not has_children_of(row, module, exactly=False):
        return False
    if not row.has_shapes:
        return not row.children
    shapes = tensor_shapes(module, objects.tensor_of)
    expected = row.created_shapes(row.argument_values(module.attributes))
    return all(shapes.get(key) == shape for key, shape in expected.items())
