"""What a file's values refer to: names that a stub has to define, and parts of the model.

An attribute may refer to modules of the same model: `self.layers = [self.block]`, a parent, a bound
method. They are not created a second time, but accessed where they are registered.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from typing import TYPE_CHECKING

from ptinspect.document.modules import MODULES, module_of
from ptinspect.pickling.pyobjects import (
    GETATTR,
    RECONSTRUCTORS,
    class_name,
    class_path,
    constructor_arguments,
    function_path,
    global_name,
    global_path,
    is_pickled_by_value,
)
from ptinspect.pickling.values import (
    Call,
    Global,
    Inert,
    PersistentId,
    SetOf,
    TensorCall,
    Value,
    key_value,
)
from ptinspect.stubs.collect.definitions import Definition, Names, NameUsage, RecordedSource
from ptinspect.stubs.collect.modules import MODULE_METHODS
from ptinspect.stubs.collect.source import NONE, Access, DictExpr, Expr, Sequence
from ptinspect.stubs.collect.values import SIMPLE, ExprOf, is_attribute, object_expr
from ptinspect.torchnn.classes import lookup, renamed

if TYPE_CHECKING:
    from ptinspect.document import Document

QualifiedName = tuple[str, str]
"""Module and qualified name."""


# Kinds

_BUILTIN_BASES = ("dict", "list", "set", "tuple", "str", "int", "float")
_SCALARS = {tuple: "tuple", str: "str", int: "int", float: "float", bytes: "bytes"}


def kind_of(usage: NameUsage) -> str:
    """Return the kind of definition that fits how a name is used (see `Definition.kind`)."""
    if usage.is_tensor:
        return "tensor"
    if any(module_of(call) is not None for call in usage.calls):
        return "module"
    for call in usage.calls:
        changes = call.changes
        if changes is not None:
            if changes.pairs and changes.items:
                return "object"
            if changes.pairs:
                return "dict"
            if changes.items:
                return "list"
            if changes.added:
                return "set"
    for base in _BUILTIN_BASES:
        if f"builtins.{base}" in usage.bases:
            return base
    if any(call.kwargs for call in usage.constructed) or "__new__" in usage.attributes:
        return "object"
    new_arguments = [constructor_arguments(call) for call in usage.constructed]
    if new_arguments:
        if len({len(args) for args in new_arguments}) > 1 or not new_arguments[0]:
            return "object"
        if len(new_arguments[0]) > 1:
            return "tuple"
        # One value of a built-in type is what the class extends.
        types = {type(args[0]) for args in new_arguments}
        return _SCALARS.get(types.pop(), "object") if len(types) == 1 else "object"
    if usage.is_flag:
        return "enum"
    last = usage.name.rpartition(".")[2]
    is_class_name = last.lstrip("_")[:1].isupper()
    if usage.called and is_class_name:
        if last.endswith(("Error", "Exception", "Warning")):
            return "exception"
        is_simple = all(
            len(call.args) == 1 and isinstance(call.args[0], str | int | float) and not call.changes
            for call in usage.called
        )
        return "enum" if is_simple else "object"
    if usage.called:
        return "function"
    if is_class_name and usage.attributes and all(name.isupper() for name in usage.attributes):
        return "enum"
    return "class" if is_class_name or usage.attributes else "function"


# References

_OR = ("operator.or_", "_operator.or_")
_TYPED_TENSORS = (
    "torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type",
    "torch.tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type",
)  # fmt: skip
_WRAPPER_TENSOR = "torch._utils._rebuild_wrapper_subclass"
_STORE_CODE = ("cloudpickle", "dill")
"""Packages that pickle code itself: the stub cannot replace what they call."""
_INTERESTING = {
    GETATTR, *_OR, *_TYPED_TENSORS, *RECONSTRUCTORS, "numpy.dtype", "collections.defaultdict",
    "collections.deque", "torch.fx.graph_module.reduce_graph_module",
}  # fmt: skip
"""Functions whose arguments name classes, or that weights_only restricts."""


@lru_cache(10_000)
def is_user_defined(module: str, name: str) -> bool:
    """Return True if neither torch, numpy nor the standard library define the name.

    Names that torch no longer has count as user-defined, and those of newer torch versions too:
    where the name exists, it takes precedence over the stub's definition.
    """
    from ptinspect.safety.policy import WEIGHTS_ONLY_NAMES, is_stdlib, load_policy
    from ptinspect.torchnn.classes import exists_in_torch

    top, path = module.partition(".")[0], f"{module}.{name}"
    if module in ("__main__", "__mp_main__"):
        return True
    if top != "torch":
        return top not in ("numpy", *_STORE_CODE) and not is_stdlib(module)
    if "<" in name or path in renamed():
        return "<" not in name
    if path in WEIGHTS_ONLY_NAMES or exists_in_torch(module, name):
        return False
    return lookup(path) is None and load_policy().row(module, name) is None


class _Usages(dict[str, NameUsage]):
    """How a file uses each name that the stub has to define, by path, in the file's order; outer
    classes before nested ones."""

    def usage_of(self, name: QualifiedName | None) -> NameUsage | None:
        """Return the record of a user-defined name, creating it on first use; None for others."""
        if name is None or ".__" in name[1] or not is_user_defined(*name):
            return None
        path = f"{name[0]}.{name[1]}"
        if path not in self:
            outer, dot, _ = name[1].rpartition(".")
            if dot:
                self.usage_of((name[0], outer))
            self[path] = NameUsage(*name)
        return self[path]

    def add_call(self, call: Call) -> None:
        """Record how a call uses the names in it."""
        path = function_path(call)
        first, second = [*call.args, None, None][:2]
        if path == GETATTR:
            owner = global_name(first)
            owner = class_name(first) if not owner and isinstance(first, Call) else owner
            usage = self.usage_of(owner) if isinstance(second, str) else None
            if usage is not None:
                usage.attributes[str(second)] = None
            return
        if path in _OR:  # members of a flag, also as `getattr(Class, "MEMBER")`
            for item in call.args:
                usage = self.usage_of(class_name(item)) if isinstance(item, Call) else None
                if not usage and isinstance(item, Call) and item.args:
                    is_getattr = function_path(item) == GETATTR
                    usage = self.usage_of(global_name(item.args[0])) if is_getattr else None
                if usage is not None:
                    usage.is_flag = True
            return
        usage = self.usage_of(global_name(second)) if path in _TYPED_TENSORS else None
        if usage is not None:
            usage.is_tensor = True
            usage.is_wrapper |= isinstance(first, Global) and first.path == _WRAPPER_TENSOR
        usage = self.usage_of(class_name(call))
        if not usage:
            return
        usage.by_value |= isinstance(call.func, Call) and is_pickled_by_value(call.func)
        if path in RECONSTRUCTORS and isinstance(second, Global):
            usage.bases.add(second.path)
        constructs = call.opcode != "REDUCE" or path in RECONSTRUCTORS
        (usage.constructed if constructs else usage.called).append(call)


def _calls_in(roots: list[Value], functions: set[int]) -> list[Call]:
    """Return the calls below some values, each once, in the file's order.

    Calls of names are included only for the names with the ids in `functions`. Ordinary tensors
    are skipped.
    """
    stack: list[Value] = list(roots)
    seen: set[int] = set()
    calls: list[Call] = []
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind is Global or id(value) in seen:
            continue
        seen.add(id(value))
        if kind is dict:
            assert isinstance(value, dict)
            stack += [item for item in value.values() if type(item) not in SIMPLE]
            stack += [key_value(key) for key in value if type(key) not in SIMPLE]
        elif kind is tuple or kind is list:
            assert isinstance(value, tuple | list)
            stack += [item for item in value if type(item) not in SIMPLE]
        elif isinstance(value, Inert):
            if kind is TensorCall and not value.changes:
                continue
            if isinstance(value, Call):
                if type(value.func) is not Global:
                    calls.append(value)
                    stack.append(value.func)
                elif id(value.func) in functions:
                    calls.append(value)
                stack += [part for part in (value.args, value.kwargs) if part]
            elif isinstance(value, PersistentId):
                stack.append(value.value)
            elif isinstance(value, SetOf):
                stack += value
            changes = value.changes
            if changes is not None:
                stack += changes.states
                stack += [part for part in (changes.items, changes.pairs, changes.added) if part]
    calls.sort(key=lambda call: call.offset)
    return calls


# Definitions


def find_definitions(
    document: Document, names: Names, recorded: dict[str, RecordedSource]
) -> tuple[dict[str, Definition], list[Call]]:
    """Return what a stub has to define, by path, and the calls that show how it is used.

    The calls are those of these names, of functions in `_INTERESTING`, and of expressions.
    """
    modules, archive = [info.module for info in document.modules], document.archive
    hooks = {
        path
        for module in modules
        for kind, functions in module.hooks.items()
        for path in (functions if "state_dict" in kind else ())
    }
    # What torch accepts as a child is a module, also if its class pickles something else.
    opaque = {
        class_path(value)
        for module in modules
        for _, value in module.members(MODULES)
        if isinstance(value, Call) and module_of(value) is None
    }
    # Loading a traced module traces it again (torch.fx.graph_module.reduce_graph_module).
    tracers = {global_path(module.attributes.get("_tracer_cls")) for module in modules}
    own = [name for name in document.globals if is_user_defined(name.module, name.name)]
    functions = {id(name) for name in document.globals if name.path in _INTERESTING}
    calls = _calls_in([archive.root, *archive.more_roots], functions | set(map(id, own)))
    usages = _Usages()
    for name in own:
        usages.usage_of((name.module, name.name))
    for call in calls:
        usages.add_call(call)
    definitions: dict[str, Definition] = {}
    for path, usage in usages.items():
        kind = "tracer" if path in tracers and not usage.calls else kind_of(usage)
        kind = "module" if kind == "object" and path in opaque else kind
        last = usage.name.rpartition(".")[2]
        ident = names.new(last, "Class" if last[:1].isupper() else "name")
        definition = Definition(usage.module, usage.name, ident, kind, usage)
        reserved = {"forward", *MODULE_METHODS} if kind == "module" else ()
        definition.methods = [
            method
            for method in (usage.attributes if kind != "enum" else ())
            if is_attribute(method) and method not in reserved and f"{path}.{method}" not in usages
        ]
        if kind == "module" and path in recorded:
            definition.recorded = recorded[path]
        definition.is_hook = kind in ("function", "object", "class") and path in hooks
        definitions[path] = definition
    return definitions, calls


# Parts of the model

MAX_SEARCH_DEPTH = 8
"""Levels of containers that are searched in an attribute."""
MAX_VALUES = 1_000
"""Values that are looked at in an attribute."""
_CONTAINERS = (
    "functools.partial", "collections.OrderedDict", "collections.defaultdict",
    "collections.deque", "builtins.set", "builtins.frozenset",
)  # fmt: skip


def parts_in(value: Value, model_ids: Container[int]) -> tuple[list[int], list[Value]]:
    """Return the ids of the model's parts that an attribute refers to, and the other objects in it.

    Includes the owners of bound methods. Both are empty if the attribute is too deep or too large.
    """
    parts: list[int] = []
    others: list[Value] = []
    stack = [(value, 0)] if type(value) not in SIMPLE else []
    looked_at = 0
    while stack:
        item, depth = stack.pop()
        looked_at += 1
        if looked_at > MAX_VALUES or depth > MAX_SEARCH_DEPTH:
            return [], []
        if isinstance(item, Call) and id(item) in model_ids:
            parts.append(id(item))
            continue
        contents: list[Value] = []  # of a container, a partial or a bound method
        if isinstance(item, tuple | list | SetOf):
            contents = [v for v in item if isinstance(v, tuple | list | dict | SetOf | Call)]
        elif isinstance(item, dict):
            contents = [v for v in item.values() if isinstance(v, tuple | list | dict | Call)]
        elif isinstance(item, Call) and function_path(item) == GETATTR:
            contents = list(item.args[:1])
        elif isinstance(item, Call) and function_path(item) in _CONTAINERS:
            state = item.state if isinstance(item.state, tuple) else ()
            contents = [*item.args, *state, *item.pairs.values(), *item.items]
        if isinstance(item, Call) and not contents:
            others.append(item)
        stack += [(inner, depth + 1) for inner in contents]
    return parts, others


def shared_attribute(value: Value, paths: dict[int, Access], expr_of: ExprOf) -> Expr:
    """Return an attribute that refers to parts of the model.

    Recursive, but what it contains is not deeper than `MAX_SEARCH_DEPTH` (see `parts_in`).
    """

    def inner(item: Value) -> Expr:
        return shared_attribute(item, paths, expr_of)

    path = None
    if isinstance(value, Call):
        if id(value) in paths:
            return paths[id(value)]
        path = function_path(value)
        if path == GETATTR and len(value.args) == 2 and id(value.args[0]) in paths:
            name = value.args[1]
            is_usable = isinstance(name, str) and is_attribute(str(name))
            return Access(f".{name}", paths[id(value.args[0])]) if is_usable else NONE
    if parts_in(value, paths)[0]:
        if isinstance(value, Call) and path in _CONTAINERS:
            return object_expr(value, inner) or NONE
        if isinstance(value, tuple | list):
            return Sequence("()" if isinstance(value, tuple) else "[]", list(map(inner, value)))
        if isinstance(value, dict):
            return DictExpr([(expr_of(key_value(k)), inner(v)) for k, v in value.items()])
    return expr_of(value)
