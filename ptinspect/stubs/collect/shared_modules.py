"""Modules and tensors that are reachable by several paths.

An attribute may refer to modules of the same model: `self.layers = [self.block]`, a parent, a bound
method. They are not created a second time, but accessed where they are registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.pickling.pyobjects import GETATTR, function_path
from ptinspect.pickling.values import Call, SetOf, Value, key_value
from ptinspect.stubs.collect.classes import SIMPLE
from ptinspect.stubs.expr.literals import is_attribute, string
from ptinspect.stubs.expr.nodes import NONE, Access, DictExpr, Expr, Sequence
from ptinspect.stubs.expr.torch_calls import MODULE_METHODS
from ptinspect.stubs.expr.torch_objects import object_expr
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from ptinspect.stubs.expr.torch_calls import ExprOf, TensorOf

MAX_DEPTH = 8
"""Levels of containers that are searched in an attribute."""
MAX_VALUES = 1_000
"""Values that are looked at in an attribute."""
_CONTAINERS = (
    "functools.partial", "collections.OrderedDict", "collections.defaultdict",
    "collections.deque", "builtins.set", "builtins.frozenset",
)  # fmt: skip


def submodule_access(parent: Access, module: Module, name: str) -> Access:
    """Return the access to a child of a module."""
    row = lookup(module.class_path)
    kind = row.name if row is not None else ""
    if kind in ("Sequential", "ModuleList") and name.isdigit() and str(int(name)) == name:
        return Access(f"[{name}]", parent, name)
    if kind == "ModuleDict":
        return Access(f"[{string(name)}]", parent, name)
    if is_attribute(name) and name not in MODULE_METHODS:
        return Access(f".{name}", parent, name)
    return Access(f"._modules[{string(name)}]", parent, name)


def tensor_access(parent: Access, store: str, name: str) -> Access:
    """Return the access to a parameter or buffer of a module."""
    if is_attribute(name) and name not in MODULE_METHODS:
        return Access(f".{name}", parent)
    return Access(f".{store}[{string(name)}]", parent)


class ModelPart(NamedTuple):
    """A module or tensor of a model at one of its paths.

    `module` is None for a tensor. `store` is `_parameters`, `_buffers` or `_modules`.
    """

    access: Access
    call: Call
    module: Module | None
    store: str


def walk_model(root: Module, name: str) -> Iterator[ModelPart]:
    """Yield every module and tensor of a model, parents first.

    A module that is reachable by several paths is yielded for each, but entered only once.
    """
    seen: set[int] = set()
    stack = [(Access(name), root)]
    while stack:
        access, module = stack.pop()
        yield ModelPart(access, module.call, module, MODULES)
        if id(module.call) in seen:
            continue
        seen.add(id(module.call))
        for store in (PARAMETERS, BUFFERS):
            for key, value in module.members(store):
                if isinstance(value, Call):
                    yield ModelPart(tensor_access(access, store, key), value, None, store)
        children = [(key, module_of(value)) for key, value in module.members(MODULES)]
        for key, child in reversed(children):
            if child is not None:
                stack.append((submodule_access(access, module, key), child))


def access_paths(root: Module, name: str) -> dict[int, Access]:
    """Return the first access to each module and tensor of a model, by id of its call."""
    paths: dict[int, Access] = {}
    for part in walk_model(root, name):
        paths.setdefault(id(part.call), part.access)
    return paths


class ModelParts(NamedTuple):
    """Ids of the calls of all modules and tensors; `shared` are those with several paths."""

    ids: set[int]
    shared: set[int]


def model_parts(roots: Iterable[Call]) -> ModelParts:
    """Collect the modules and tensors below some modules."""
    stack = [module for module in map(module_of, roots) if module is not None]
    parts = ModelParts({id(module.call) for module in stack}, set())
    while stack:
        module = stack.pop()
        for store in (MODULES, PARAMETERS, BUFFERS):
            for _, value in module.members(store):
                if isinstance(value, Call) and id(value) in parts.ids:
                    parts.shared.add(id(value))
                elif isinstance(value, Call):
                    parts.ids.add(id(value))
                    child = module_of(value) if store == MODULES else None
                    stack += [child] if child is not None else []
    return parts


def references_to(value: Value, is_part: Callable[[int], bool]) -> list[int]:
    """Return the ids of the model's parts that an attribute refers to.

    Includes the owners of bound methods. Empty if the attribute is too deep or too large to tell.
    """
    return _search(value, is_part)[0]


def unshared_parts(value: Value, is_part: Callable[[int], bool]) -> list[Value]:
    """Return what an attribute contains that is not part of a model, and has to be created."""
    return _search(value, is_part)[1]


def _search(value: Value, is_part: Callable[[int], bool]) -> tuple[list[int], list[Value]]:
    """Return the ids of the model's parts in an attribute, and the other objects in it."""
    parts: list[int] = []
    others: list[Value] = []
    stack = [(value, 0)] if type(value) not in SIMPLE else []
    looked_at = 0
    while stack:
        item, depth = stack.pop()
        looked_at += 1
        if looked_at > MAX_VALUES or depth > MAX_DEPTH:
            return [], []
        if isinstance(item, Call) and is_part(id(item)):
            parts.append(id(item))
            continue
        contents = _contents(item)
        if isinstance(item, Call) and not contents:
            others.append(item)
        stack += [(inner, depth + 1) for inner in contents]
    return parts, others


def registers_itself(value: Value, tensor_of: TensorOf) -> bool:
    """Return True if assigning the value to an attribute makes it a child or parameter."""
    if not isinstance(value, Call):
        return False
    tensor = tensor_of(value)
    return tensor.parameter if tensor is not None else module_of(value) is not None


def _contents(value: Value) -> list[Value]:
    """Return what is directly inside a container, a partial or a bound method."""
    if isinstance(value, tuple | list | SetOf):
        return [item for item in value if isinstance(item, tuple | list | dict | SetOf | Call)]
    if isinstance(value, dict):
        return [item for item in value.values() if isinstance(item, tuple | list | dict | Call)]
    if not isinstance(value, Call):
        return []
    path = function_path(value)
    if path == GETATTR:
        return list(value.args[:1])
    if path in _CONTAINERS:
        state = list(value.state) if isinstance(value.state, tuple) else []
        return [*value.args, *state, *value.pairs.values(), *value.items]
    return []


def shared_attribute(value: Value, paths: dict[int, Access], expr_of: ExprOf) -> Expr:
    """Return an attribute that refers to parts of the model.

    Recursive, but what it contains is not deeper than `MAX_DEPTH` (see `references_to`).
    """
    if isinstance(value, Call) and id(value) in paths:
        return paths[id(value)]
    path = function_path(value) if isinstance(value, Call) else None
    if isinstance(value, Call) and path == GETATTR and len(value.args) == 2:
        owner, name = value.args
        if id(owner) in paths:
            usable = isinstance(name, str) and is_attribute(str(name))
            return Access(f".{name}", paths[id(owner)]) if usable else NONE
    if references_to(value, paths.__contains__):
        if isinstance(value, Call) and path in _CONTAINERS:
            return object_expr(value, lambda item: shared_attribute(item, paths, expr_of)) or NONE
        if isinstance(value, tuple | list):
            items = [shared_attribute(item, paths, expr_of) for item in value]
            return Sequence("()" if isinstance(value, tuple) else "[]", items)
        if isinstance(value, dict):
            return DictExpr([
                (expr_of(key_value(key)), shared_attribute(item, paths, expr_of))
                for key, item in value.items()
            ])  # fmt: skip
    return expr_of(value)
