"""Anti-unification and orders: find one expression, and one order, for many instances.

What the instances of a class have in common is written once. What varies between them becomes a
parameter of the constructor. Attributes are merged into one order, classes sorted leaves first.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple, TypeVar

from ptinspect.stubs.collect.definitions import Definition, Instance, Member, MemberKind, Names
from ptinspect.stubs.collect.modules import ASSEMBLED
from ptinspect.stubs.collect.source import (
    UNSOLVED,
    Argument,
    CallExpr,
    Expr,
    Literal,
    ModuleContainer,
    Name,
    Sequence,
    Starred,
    container_call,
    repeated,
    repeats,
    resolve,
    walk,
)

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


Column = list["Expr | None"]
"""One expression per instance; None for instances that lack the attribute."""


@dataclass(slots=True, eq=False)
class Parameter:
    """A parameter of a constructor, and its value for each instance."""

    name: str
    column: Column
    _creates_modules: bool | None = None

    def creates_modules(self, module_classes: set[str]) -> bool:
        """Return True if the parameter's values are or contain modules."""
        if self._creates_modules is None:
            self._creates_modules = any(
                creates_modules(item, module_classes) for item in self.column if item is not None
            )
        return self._creates_modules


class Unifier:
    """Finds the parameters of a class's constructor.

    Args:
        reserved: names that no parameter may have.
        module_classes: names of the stub's own module classes.
    """

    def __init__(self, reserved: set[str], module_classes: set[str]) -> None:
        self.module_classes = module_classes
        self.names = Names(reserved | {"value", "_"})
        self.parameters: list[Parameter] = []
        self.by_values: dict[tuple[str | None, ...], Parameter] = {}

    def unify(self, column: Column, hint: str, prefix: str = "") -> Expr:
        """Return one expression for the whole column, adding parameters for what varies."""
        exprs = [resolve(item) for item in column if item is not None]
        if len({expr.text for expr in exprs}) == 1:
            return exprs[0]
        parameter = self.parameter_with(column)
        if parameter is not None:
            return Name(parameter.name)
        unified: Expr | None = None
        if all(isinstance(expr, ModuleContainer) for expr in exprs):
            unified = self._unify_containers(column, hint)
        elif all(isinstance(expr, CallExpr) for expr in exprs):
            unified = self._unify_calls(column, prefix or hint)
        elif isinstance(exprs[0], Sequence):
            unified = self._unify_sequences(column, exprs[0], hint)
        return unified or Name(self.add_parameter(column, hint, prefix).name)

    def parameter_with(self, column: Column) -> Parameter | None:
        """Return the parameter that has exactly these values.

        Parameters that are modules are never used twice: both places would share one object.
        """
        parameter = self.by_values.get(column_key(column))
        if not parameter or parameter.creates_modules(self.module_classes):
            return None
        return parameter

    def add_parameter(self, column: Column, hint: str, prefix: str = "") -> Parameter:
        """Add a parameter, named after what it is used for."""
        if prefix and prefix != hint and any(hint == p.name for p in self.parameters):
            hint = f"{prefix}_{hint}"
        parameter = Parameter(self.names.new(hint, "value"), column)
        self.parameters.append(parameter)
        self.by_values[column_key(column)] = parameter
        return parameter

    def _unify_calls(self, column: Column, prefix: str) -> Expr | None:
        """Unify calls of the same function, with the union of their arguments."""
        rows = [resolve(item) if item is not None else None for item in column]
        calls = [row for row in rows if isinstance(row, CallExpr)]
        first = calls[0]
        names: dict[str | None, None] = {}
        for call in calls:
            own = [name for name, _ in call.args]
            if call.func != first.func or len(set(own)) != len(own):
                return None
            if own[: call.positional] != [name for name, _ in first.args[: first.positional]]:
                return None
            names.update(dict.fromkeys(own))
        if any(_argument(call, name) is None for call in calls for name in names):
            return None
        places = {name: place for place, name in enumerate(first.defaults)}
        args: list[Argument] = []
        for name in sorted(names, key=lambda name: places.get(name or "", -1)):
            values = [_argument(row, name) for row in rows]
            args.append((name, self.unify(values, name or "value", prefix)))
        return CallExpr(first.func, args, first.positional, first.defaults)

    def _unify_sequences(self, column: Column, first: Sequence, hint: str) -> Expr | None:
        """Unify sequences of the same length that contain calls. Numbers vary as a whole."""
        shape = first.brackets_text, len(first.items)
        rows = [item.items if isinstance(item, Sequence) else None for item in column]
        for item in column:
            if item is None:
                continue
            if not isinstance(item, Sequence) or (item.brackets_text, len(item.items)) != shape:
                return None
            if all(inner.depth == 0 for inner in item.items):
                return None
        return Sequence(first.brackets_text, [
            self.unify([None if row is None else row[index] for row in rows], hint)
            for index in range(len(first.items))
        ])  # fmt: skip

    def _unify_containers(self, column: Column, hint: str) -> Expr | None:
        """Unify containers of modules whose items come in the same number of runs."""
        containers = [item if isinstance(item, ModuleContainer) else None for item in column]
        first = next(item for item in containers if item is not None)
        if any(item is not None and item.func != first.func for item in containers):
            return None
        runs = [repeats(item.items) if item is not None else None for item in containers]
        lengths = {len(run) for run in runs if run is not None}
        if len(lengths) != 1:
            return None
        length = lengths.pop()
        firsts = [[resolve(item) for item, _ in run] for run in runs if run is not None]
        heads = {tuple(call.name() or call.text for call in calls) for calls in firsts}
        if len(heads) > 1:
            return None
        items: list[Expr] = []
        parameter_count = len(self.parameters)
        for index in range(length):
            previous_count = len(self.parameters)
            item = self.unify([None if run is None else run[index][0] for run in runs], hint)
            counts = [None if run is None else run[index][1] for run in runs]
            distinct = {count for count in counts if count is not None}
            new_parameters = self.parameters[previous_count:]
            if max(distinct) > 1 and any(
                parameter.creates_modules(self.module_classes) for parameter in new_parameters
            ):
                # One module would be at several places.
                self.names -= {parameter.name for parameter in self.parameters[parameter_count:]}
                del self.parameters[parameter_count:]
                self.by_values = {column_key(p.column): p for p in self.parameters}
                return None
            if distinct in ({1}, {2}):
                items += [item] * distinct.pop()
            else:
                texts: Column = [None if n is None else Literal(str(n)) for n in counts]
                items.append(Starred(repeated(item, self.unify(texts, f"num_{hint}"))))
        return container_call(first.func, items, first.as_list)


def creates_modules(expr: Expr, module_classes: set[str]) -> bool:
    """Return True if evaluating an expression creates modules or tensors."""
    for item in walk(expr):
        if isinstance(item, ModuleContainer) or item.text.startswith(UNSOLVED):
            return True
        if isinstance(item, CallExpr) and item.func not in ("torch.Size", "torch.device"):
            creators = ("nn.", "torch.", ASSEMBLED, "_part")
            if item.func in module_classes or item.func.startswith(creators):
                return True
    return False


def column_key(column: Column) -> tuple[str | None, ...]:
    """Return what identifies the values of a column."""
    return tuple(None if item is None else item.text for item in column)


def _argument(call: Expr | None, name: str | None) -> Expr | None:
    """Return the value of an argument, or its default."""
    if not isinstance(call, CallExpr):
        return None
    for key, value in call.args:
        if key == name:
            return value
    return call.defaults.get(name or "")


# Members of all instances


class MemberColumn(NamedTuple):
    """A name and kind of member; `members` has None for instances that lack it."""

    kind: MemberKind
    name: str
    members: list[Member | None]

    @property
    def exprs(self) -> Column:
        return [None if member is None else member.expr for member in self.members]

    @property
    def is_constant(self) -> bool:
        return len(set(column_key(self.exprs))) == 1


def member_columns(definition: Definition) -> list[MemberColumn]:
    """Return what each instance has, by name and kind, in an order that fits all instances.

    An attribute that is None counts as a child, parameter or buffer that the instance lacks if
    other instances have one of that name.
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
