"""Anti-unification: find one expression for many instances.

What the instances of a class have in common is written once. What varies between them becomes a
parameter of the constructor.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from ptinspect.stubs.collect.definitions import Definition, Member, MemberKind, Names
from ptinspect.stubs.collect.modules import ASSEMBLED
from ptinspect.stubs.collect.source import (
    FALSE,
    NONE,
    TRUE,
    UNSOLVED,
    Argument,
    CallExpr,
    Expr,
    ListComp,
    Literal,
    ModuleContainer,
    Name,
    Sequence,
    Starred,
    container_call,
    repeats,
    resolve,
    walk,
)

Column = list["Expr | None"]
"""One expression per instance; None for instances that lack the attribute."""


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


class InitStatement(NamedTuple):
    """A statement of a constructor, for an attribute, child, parameter or buffer.

    `condition` is the source of the condition under which an instance has it. It may be None, and
    is registered as a child or parameter all the same. `plain` is that of `Member`.
    """

    kind: MemberKind
    name: str
    expr: Expr
    plain: bool
    condition: str | None
    may_be_none: bool


class InitParameter(NamedTuple):
    """A parameter of a constructor, required if `default` is None.

    A default that is not a plain value is created in the body.
    """

    name: str
    default: Expr | None
    default_in_body: bool


@dataclass(slots=True, eq=False)
class Parameter:
    """A parameter of a constructor, and its value for each instance."""

    name: str
    column: Column
    _creates_modules: bool | None = None

    def creates_modules(self, module_classes: set[str]) -> bool:
        """Return True if evaluating one of the parameter's values creates modules or tensors."""
        creators = ("nn.", "torch.", ASSEMBLED, "_part")
        if self._creates_modules is None:
            self._creates_modules = any(
                isinstance(item, ModuleContainer)
                or item.text.startswith(UNSOLVED)
                or (
                    isinstance(item, CallExpr)
                    and item.func not in ("torch.Size", "torch.device")
                    and (item.func in module_classes or item.func.startswith(creators))
                )
                for value in self.column
                for item in (walk(value) if value is not None else ())
            )
        return self._creates_modules


@dataclass(slots=True)
class Unifier:
    """Finds the parameters of a class's constructor.

    Attributes:
        names: those that no parameter may have, to which it adds the parameters.
        module_classes: names of the stub's own module classes.
    """

    names: Names
    module_classes: set[str]
    parameters: list[Parameter] = field(default_factory=list)
    by_values: dict[tuple[str | None, ...], Parameter] = field(default_factory=dict)

    def init_statement(self, column: MemberColumn) -> InitStatement:
        """Return the statement for one attribute, child, parameter or buffer."""
        exprs = column.exprs
        expr = self.unify(exprs, column.name)
        condition = None
        parameter = self.by_values.get(column_key(exprs))
        if None in exprs and parameter is not None and parameter.name == expr.text:
            condition = f"{expr.text} is not None" if "None" not in column_key(exprs) else None
        if None in exprs and condition is None:
            flags: Column = [FALSE if value is None else TRUE for value in exprs]
            parameter = self.parameter_with(flags)
            condition = (parameter or self.add_parameter(flags, f"has_{column.name}")).name
        members = [member for member in column.members if member is not None]
        plain = all(member.plain for member in members)
        may_be_none = any(m.kind != "attribute" and m.expr is NONE for m in members)
        return InitStatement(column.kind, column.name, expr, plain, condition, may_be_none)

    def init_parameters(self, definition: Definition) -> list[InitParameter]:
        """Return the parameters, those without a default first."""
        root_index = definition.instances.index(definition.root) if definition.root else None
        init_parameters: list[InitParameter] = []
        for parameter in self.parameters:
            column = parameter.column
            default_in_body = False
            if any(item is None for item in column):
                default: Expr | None = NONE
            elif root_index is not None:
                default = column[root_index] or NONE
                default_in_body = not is_plain(default)
            else:  # the plain value of most instances
                plain = {item.text: item for item in column if item is not None and is_plain(item)}
                counts = Counter(text for text in column_key(column) if text in plain)
                most, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
                default = plain[most] if count >= 2 and count * 2 > len(column) else None
            init_parameters.append(InitParameter(parameter.name, default, default_in_body))
        return sorted(init_parameters, key=lambda parameter: parameter.default is not None)

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
        elif isinstance(first := exprs[0], Sequence):
            # Sequences of the same length that contain calls. Numbers vary as a whole.
            rows = [item.items if isinstance(item, Sequence) else None for item in column]
            is_like_first = all(
                isinstance(item, Sequence)
                and (item.brackets_text, len(item.items)) == (first.brackets_text, len(first.items))
                and any(inner.depth for inner in item.items)
                for item in exprs
            )
            if is_like_first:
                items = [
                    self.unify([None if row is None else row[index] for row in rows], hint)
                    for index in range(len(first.items))
                ]
                unified = Sequence(first.brackets_text, items)
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
        firsts = [[resolve(item) for item, _ in run] for run in runs if run is not None]
        heads = {tuple(call.name() or call.text for call in calls) for calls in firsts}
        if len(heads) > 1:
            return None
        items: list[Expr] = []
        parameter_count = len(self.parameters)
        for index in range(lengths.pop()):
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
                length = self.unify(texts, f"num_{hint}")
                items.append(Starred(ListComp(item, "_", CallExpr("range", [(None, length)]))))
        return container_call(first.func, items, first.as_list)


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


def is_plain(expr: Expr, brackets: str = "()") -> bool:
    """Return True if a default can be in a signature: it is created once and must be immutable."""
    if isinstance(expr, Sequence):
        items = (is_plain(item, brackets) for item in expr.items)
        return expr.brackets_text in brackets and all(items)
    return isinstance(expr, Literal | Name)
