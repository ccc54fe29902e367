"""Attributes that lead to modules of the same model: `self.layers = [self.block]`, a parent, a
bound method. What they hold is not made a second time: it is reached from where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.pickling.pyobjects import function_path
from ptinspect.pickling.values import Call, SetOf, Value, key_value
from ptinspect.stubs.collect.references import GETATTR
from ptinspect.stubs.expr.identifiers import attribute, string
from ptinspect.stubs.expr.nodes import NONE, Atom, Expr, Items, Pairs
from ptinspect.stubs.torch.objects import called
from ptinspect.torchnn import lookup

if TYPE_CHECKING:
    from ptinspect.document import Document

DEEPEST = 8
"""Containers in containers that are looked into."""
MOST = 1_000
"""Values that are looked at, of one attribute."""
WITH_INSIDES = ("functools.partial", "collections.OrderedDict", "collections.defaultdict",
                "collections.deque", "builtins.set", "builtins.frozenset")  # fmt: skip


def step(parent: Module, name: str) -> str:
    """How a child is reached from its parent."""
    from ptinspect.stubs.torch.calls import TAKEN

    row = lookup(parent.class_path)
    kind = row.name if row is not None else ""
    if kind in ("Sequential", "ModuleList") and name.isdigit() and str(int(name)) == name:
        return f"[{name}]"
    if kind == "ModuleDict":
        return f"[{string(name)}]"
    if attribute(name) and name not in TAKEN:
        return f".{name}"
    return f"._modules[{string(name)}]"


def own(at: str, store: str, name: str) -> str:
    """How a parameter or a buffer is reached."""
    from ptinspect.stubs.torch.calls import TAKEN

    if attribute(name) and name not in TAKEN:
        return f"{at}.{name}"
    return f"{at}.{store}[{string(name)}]"


class Tree:
    """The modules and tensors of the models of a file. ids: of all of them; shared: of those that
    stand in several places."""

    def __init__(self, roots: list[Call]) -> None:
        self.ids: set[int] = set()
        self.shared: set[int] = set()
        todo = [module for module in map(module_of, roots) if module is not None]
        self.ids.update(id(module.call) for module in todo)
        while todo:
            module = todo.pop()
            for store in (MODULES, PARAMETERS, BUFFERS):
                for _, value in module.members(store):
                    if not isinstance(value, Call):
                        continue
                    if id(value) in self.ids:
                        self.shared.add(id(value))
                        continue
                    self.ids.add(id(value))
                    inner = module_of(value) if store == MODULES else None
                    if inner is not None:
                        todo.append(inner)


def places(module: Module, name: str) -> dict[int, str]:
    """By id: how each module and tensor of a tree is first reached, as source."""
    made: dict[int, str] = {}
    todo = [(module, name)]
    while todo:
        inner, at = todo.pop()
        if id(inner.call) in made:
            continue
        made[id(inner.call)] = at
        for store in (PARAMETERS, BUFFERS):
            for key, value in inner.members(store):
                if isinstance(value, Call):
                    made.setdefault(id(value), own(at, store, key))
        found = [(key, module_of(value)) for key, value in inner.members(MODULES)]
        todo += [(child, at + step(inner, key)) for key, child in reversed(found) if child]
    return made


def references(value: Value, ids: Callable[[], set[int]]) -> list[int]:
    """The ids of what lies in an attribute and is part of a model, or is the owner of a bound
    method; empty where the attribute is too deep or too large to tell."""
    if not isinstance(value, tuple | list | dict | SetOf | Call):
        return []
    found: list[int] = []
    todo: list[tuple[Value, int]] = [(value, 0)]
    looked = 0
    while todo:
        item, depth = todo.pop()
        looked += 1
        if looked > MOST or depth > DEEPEST:
            return []
        if isinstance(item, Call) and id(item) in ids():
            found.append(id(item))
            continue
        todo += [(inner, depth + 1) for inner in inside(item)]
    return found


def beside(value: Value, ids: set[int]) -> list[Value]:
    """What lies in such an attribute and is no part of a model, and so has to be made."""
    found: list[Value] = []
    todo, looked = [value], 0
    while todo and looked < MOST:
        item = todo.pop()
        looked += 1
        if isinstance(item, Call) and id(item) in ids:
            continue
        inner = inside(item)
        if isinstance(item, Call) and not inner:
            found.append(item)
        todo += inner
    return found


def registers(document: Document, value: Value) -> bool:
    """Whether setting it as an attribute would make it a child or a parameter, which the file
    does not have it as."""
    if not isinstance(value, Call):
        return False
    tensor = document.tensor_of(value)
    return tensor.parameter if tensor is not None else module_of(value) is not None


def inside(value: Value) -> list[Value]:
    """What lies directly in a container, a partial or a bound method."""
    if isinstance(value, tuple | list | SetOf):
        return [item for item in value if isinstance(item, tuple | list | dict | SetOf | Call)]
    if isinstance(value, dict):
        return [item for item in value.values() if isinstance(item, tuple | list | dict | Call)]
    if not isinstance(value, Call):
        return []
    path = function_path(value)
    if path == GETATTR:
        return list(value.args[:1])
    if path in WITH_INSIDES:
        state = list(value.state) if isinstance(value.state, tuple) else []
        return [*value.args, *state, *value.pairs.values(), *value.items]
    return []


class Referring:
    """Writes an attribute whose parts stand elsewhere in the model. at: by id, as source;
    plainly: what writes all else."""

    def __init__(
        self, document: Document, at: dict[int, str], plainly: Callable[[Value], Expr]
    ) -> None:
        self.document = document
        self.at = at
        self.plainly = plainly

    def expr(self, value: Value) -> Expr:
        """The expression; what it holds is not deeper than `DEEPEST` (see `references`)."""
        if isinstance(value, Call):
            return self.call(value)
        if not references(value, lambda: set(self.at)):
            return self.plainly(value)
        if isinstance(value, tuple | list):
            brackets = "()" if isinstance(value, tuple) else "[]"
            return Items(brackets, [self.expr(item) for item in value])
        if isinstance(value, dict):
            pairs = [(self.plainly(key_value(k)), self.expr(v)) for k, v in value.items()]
            return Pairs(pairs)
        return self.plainly(value)

    def call(self, value: Call) -> Expr:
        """A module, a tensor, a bound method, a partial."""
        place = self.at.get(id(value))
        if place is not None:
            return Atom(place)
        path = function_path(value)
        if path == GETATTR and len(value.args) == 2:
            owner = self.at.get(id(value.args[0]))
            name = value.args[1]
            if owner is not None:
                usable = isinstance(name, str) and attribute(str(name))
                return Atom(f"{owner}.{name}") if usable else NONE
        if path in WITH_INSIDES and references(value, lambda: set(self.at)):
            return called(value, self.expr) or NONE
        return self.plainly(value)
