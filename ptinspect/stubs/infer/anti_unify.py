"""Anti-unification: what the instances of a class have in common is written once, and what
varies between them becomes an argument."""

from __future__ import annotations

from ptinspect.stubs.expr.identifiers import Names
from ptinspect.stubs.expr.nodes import (
    NONE,
    OPEN,
    Argument,
    Atom,
    Each,
    Expr,
    Items,
    Make,
    Many,
    Pairs,
    Run,
    Star,
    Var,
    as_make,
    call,
    looped,
    runs,
)

Column = list["Expr | None"]
"""One expression per instance; None where the instance has nothing of the kind."""


class Parameter:
    """An argument of a constructor: what each instance gives for it."""

    __slots__ = ("anew", "column", "name")

    def __init__(self, name: str, column: Column) -> None:
        self.name = name
        self.column = column
        self.anew: bool | None = None


class Unifier:
    """Finds the arguments of one class. modules: what the stub calls its own module classes."""

    def __init__(self, taken: set[str], modules: set[str]) -> None:
        self.modules = modules
        self.names = Names(taken | {"value", "_"})
        self.parameters: list[Parameter] = []
        self._by_text: dict[tuple[str | None, ...], Parameter] = {}

    def unify(self, column: Column, hint: str, prefix: str = "") -> Expr:
        """One expression that stands for all of the column."""
        given = [as_make(item) for item in column if item is not None]
        texts = {item.text for item in given}
        if len(texts) == 1:
            return given[0]
        known = self.known(column)
        if known is not None:
            return Var(known.name)
        made = self.inside(column, given, hint, prefix)
        return Var(self.new(column, hint, prefix).name) if made is None else made

    def known(self, column: Column) -> Parameter | None:
        """The argument that has these very values. A module is none that could be used twice:
        it would be one object in both places."""
        found = self._by_text.get(texts_of(column))
        return None if found is None or self.made_anew(found) else found

    def gives(self, name: str, column: Column) -> bool:
        """Whether an argument has these very values."""
        texts = texts_of(column)
        return any(p.name == name and texts_of(p.column) == texts for p in self.parameters)

    def made_anew(self, parameter: Parameter) -> bool:
        """Whether an argument's values are modules, or hold some."""
        if parameter.anew is None:
            parameter.anew = any(
                holds_modules(item, self.modules) for item in parameter.column if item is not None
            )
        return parameter.anew

    def new(self, column: Column, hint: str, prefix: str = "") -> Parameter:
        """A new argument, named after what it feeds."""
        taken = {parameter.name for parameter in self.parameters}
        if prefix and prefix != hint and hint in taken:
            hint = f"{prefix}_{hint}"
        made = Parameter(self.names.new(hint, "value"), column)
        self.parameters.append(made)
        self._by_text[texts_of(column)] = made
        return made

    def forget(self, begun: int) -> None:
        """Takes back all arguments but the first so many."""
        for parameter in self.parameters[begun:]:
            self.names.free(parameter.name)
        del self.parameters[begun:]
        self._by_text = {texts_of(known.column): known for known in self.parameters}

    def inside(self, column: Column, given: list[Expr], hint: str, prefix: str) -> Expr | None:
        """The same brackets around what is unified; None where there are none in common."""
        first = given[0]
        if all(isinstance(item, Many) for item in given):
            return self.containers(column, hint)
        if all(isinstance(item, Make) for item in given):
            return self.calls(column, prefix or hint)
        if all(isinstance(item, Items) for item in given) and isinstance(first, Items):
            return self.items(column, first, hint)
        return None

    def calls(self, column: Column, prefix: str) -> Expr | None:
        """Calls of one function, with the union of their arguments."""
        makes = [as_make(item) for item in column if item is not None]
        first = makes[0]
        assert isinstance(first, Make)
        order: dict[str | None, None] = {}
        for item in makes:
            assert isinstance(item, Make)
            if item.func != first.func or len({n for n, _ in item.args}) != len(item.args):
                return None
            order.update(dict.fromkeys(name for name, _ in item.args))
        if not _positions_agree(makes):
            return None
        columns: list[tuple[str | None, Column]] = []
        for name in order:
            values = [None if item is None else _argument(as_make(item), name) for item in column]
            if any(v is None for v, i in zip(values, column, strict=True) if i is not None):
                return None
            columns.append((name, values))
        places = {name: place for place, name in enumerate(first.unset)}
        columns.sort(key=lambda item: places.get(item[0] or "", -1))
        args: list[Argument] = [
            (name, self.unify(values, name or "value", prefix)) for name, values in columns
        ]
        return Make(first.func, args, first.positional, first.unset)

    def items(self, column: Column, first: Items, hint: str) -> Expr | None:
        """Lists of the same length that hold calls; numbers vary as a whole."""
        for item in column:
            if item is None:
                continue
            if not isinstance(item, Items) or item.brackets != first.brackets:
                return None
            if len(item.items) != len(first.items) or all(i.depth == 0 for i in item.items):
                return None
        made = []
        for at in range(len(first.items)):
            values = [item.items[at] if isinstance(item, Items) else None for item in column]
            made.append(self.unify(values, hint))
        return Items(first.brackets, made)

    def containers(self, column: Column, hint: str) -> Expr | None:
        """Sequentials and ModuleLists whose items come in the same number of runs."""
        found: list[list[Run] | None] = []
        first: Many | None = None
        for item in column:
            if not isinstance(item, Many):
                found.append(None)
                continue
            first = first or item
            if item.func != first.func:
                return None
            found.append(runs(item.items))
        assert first is not None
        numbers = {len(item) for item in found if item is not None}
        if len(numbers) != 1 or not self.comparable(found):
            return None
        args: list[Expr] = []
        begun = len(self.parameters)
        for at in range(numbers.pop()):
            items: Column = [None if run is None else run[at].item for run in found]
            counts: Column = [None if r is None else Atom(str(r[at].times)) for r in found]
            before = len(self.parameters)
            made = self.unify(items, hint)
            several = any(run is not None and run[at].times > 1 for run in found)
            if several and any(self.made_anew(new) for new in self.parameters[before:]):
                self.forget(begun)  # one module would stand in several places
                return None
            times = {count.text for count in counts if count is not None}
            if times == {"1"}:
                args.append(made)
            elif times == {"2"}:
                args += [made, made]
            else:
                args.append(Star(looped(made, self.unify(counts, f"num_{hint}"))))
        return call(first.func, args, first.listed)

    def comparable(self, found: list[list[Run] | None]) -> bool:
        """Whether the items at each place are calls of the same function."""
        given = [item for item in found if item is not None]
        for at in range(len(given[0])):
            heads = {_head(run[at].item) for run in given}
            if len(heads) > 1:
                return False
        return True


_VALUES = ("torch.Size", "torch.device")


def holds_modules(expr: Expr, modules: set[str]) -> bool:
    """Whether evaluating it makes modules or tensors."""
    todo = [expr]
    while todo:
        item = as_make(todo.pop())
        if isinstance(item, Many):
            return True
        if isinstance(item, Make):
            torchs = item.func.startswith(("nn.", "torch.")) and item.func not in _VALUES
            if torchs or item.func in modules or item.func.startswith(("_assembled", "_part")):
                return True
            todo += [value for _, value in item.args]
        elif isinstance(item, Items):
            todo += item.items
        elif isinstance(item, Pairs):
            todo += [value for _, value in item.items]
        elif isinstance(item, Each):
            todo.append(item.item)
        elif item.text.startswith(OPEN):
            return True
    return False


def _head(item: Expr) -> str:
    made = as_make(item)
    return made.func if isinstance(made, Make | Many) else made.text


def _positions_agree(makes: list[Expr]) -> bool:
    """Whether the arguments without a name are the same ones in all calls."""
    heads = {
        tuple(name for name, _ in item.args[: item.positional])
        for item in makes
        if isinstance(item, Make)
    }
    return len(heads) == 1


def _argument(make: Expr, name: str | None) -> Expr | None:
    """What a call gives for an argument, or would be given for it."""
    assert isinstance(make, Make)
    for key, value in make.args:
        if key == name:
            return value
    return make.unset.get(name or "")


def texts_of(column: Column) -> tuple[str | None, ...]:
    """What a column is found again by."""
    return tuple(None if item is None else item.text for item in column)


__all__ = ["NONE", "Column", "Each", "Parameter", "Unifier", "texts_of"]
