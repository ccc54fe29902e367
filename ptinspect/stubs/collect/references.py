"""Find the names that a stub has to define, and how the file uses them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.pickling.pyobjects import (
    GETATTR,
    RECONSTRUCTORS,
    class_name,
    function_path,
    global_name,
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
from ptinspect.stubs.collect.classes import SIMPLE, Definition, NameUsage, kind_of
from ptinspect.stubs.collect.recorded_source import RecordedSource
from ptinspect.stubs.expr.literals import Names, is_attribute
from ptinspect.stubs.expr.torch_calls import MODULE_METHODS
from ptinspect.torchnn.classes import REMOVED, lookup

if TYPE_CHECKING:
    from ptinspect.document import Document

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

QualifiedName = tuple[str, str]
"""Module and qualified name."""


def owner_name(value: Value) -> QualifiedName | None:
    """Return the name of a class, or of the class of an instance."""
    name = global_name(value)
    return class_name(value) if name is None and isinstance(value, Call) else name


def is_user_defined(module: str, name: str) -> bool:
    """Return True if neither torch, numpy nor the standard library define the name."""
    from ptinspect.safety.policy import is_stdlib

    if module in ("__main__", "__mp_main__"):
        return True
    top = module.partition(".")[0]
    if top in _STORE_CODE:
        return False
    if top == "torch":
        return _is_removed_from_torch(module, name)
    return top != "numpy" and not is_stdlib(module)


def _is_removed_from_torch(module: str, name: str) -> bool:
    """Return True if torch no longer defines the name.

    This includes names of newer torch versions: where the name exists, it takes precedence over
    the stub's definition.
    """
    from ptinspect.safety.policy import WEIGHTS_ONLY_NAMES, load_policy
    from ptinspect.torchnn.torch_names import exists_in_torch

    path = f"{module}.{name}"
    if path in REMOVED:
        return "<" not in name
    if path in WEIGHTS_ONLY_NAMES or "<" in name or exists_in_torch(module, name):
        return False
    return lookup(path) is None and load_policy().row(module, name) is None


@dataclass(slots=True)
class References:
    """The names of a file that a stub has to define, and the calls that show how they are used.

    Attributes:
        user_defined: by path, in the file's order; outer classes before nested ones.
        calls: calls of these names, of functions in `_INTERESTING`, and of anything that is not
            simply a name.
    """

    user_defined: dict[str, NameUsage] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    _is_user_defined: dict[QualifiedName, bool] = field(default_factory=dict)

    def is_user_defined(self, name: QualifiedName) -> bool:
        """Return `is_user_defined(*name)`, computed once per name."""
        if name not in self._is_user_defined:
            self._is_user_defined[name] = is_user_defined(*name)
        return self._is_user_defined[name]

    def usage_of(self, name: QualifiedName | None) -> NameUsage | None:
        """Return the record of a user-defined name, creating it on first use; None for others."""
        if name is None or ".__" in name[1] or not self.is_user_defined(name):
            return None
        path = f"{name[0]}.{name[1]}"
        if path not in self.user_defined:
            outer, dot, _ = name[1].rpartition(".")
            if dot:
                self.usage_of((name[0], outer))
            self.user_defined[path] = NameUsage(*name)
        return self.user_defined[path]

    def add_call(self, call: Call) -> None:
        """Record how a call uses the names in it."""
        path = function_path(call)
        if path == GETATTR:
            if len(call.args) > 1 and isinstance(call.args[1], str):
                usage = self.usage_of(owner_name(call.args[0]))
                if usage is not None:
                    usage.attributes[str(call.args[1])] = None
            return
        if path in _OR:
            self._add_flags(call)
            return
        if path in _TYPED_TENSORS and len(call.args) > 1:
            usage = self.usage_of(global_name(call.args[1]))
            if usage is not None:
                func = call.args[0]
                usage.is_tensor = True
                usage.is_wrapper |= isinstance(func, Global) and func.path == _WRAPPER_TENSOR
        usage = self.usage_of(class_name(call))
        if not usage:
            return
        usage.by_value |= isinstance(call.func, Call) and is_pickled_by_value(call.func)
        if path in RECONSTRUCTORS and len(call.args) > 1 and isinstance(call.args[1], Global):
            usage.bases.add(call.args[1].path)
        constructs = call.opcode != "REDUCE" or path in RECONSTRUCTORS
        (usage.constructed if constructs else usage.called).append(call)

    def _add_flags(self, call: Call) -> None:
        for item in call.args:
            usage = self.usage_of(class_name(item)) if isinstance(item, Call) else None
            if not usage and isinstance(item, Call) and item.args:
                # getattr(Class, "MEMBER")
                is_member = function_path(item) == GETATTR
                usage = self.usage_of(global_name(item.args[0])) if is_member else None
            if usage is not None:
                usage.is_flag = True


def find_references(document: Document) -> References:
    """Find the names of a file that a stub has to define, and how the file uses them."""
    references = References()
    names = document.globals
    own = [name for name in names if references.is_user_defined((name.module, name.name))]
    functions = {id(name) for name in names if name.path in _INTERESTING} | set(map(id, own))
    archive = document.archive
    references.calls = _calls_in([archive.root, *archive.more_roots], functions)
    for name in own:
        references.usage_of((name.module, name.name))
    for call in references.calls:
        references.add_call(call)
    return references


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


def define(
    usage: NameUsage,
    names: Names,
    user_defined: Iterable[str],
    recorded: dict[str, RecordedSource],
    hooks: set[str],
    tracers: set[str],
) -> Definition:
    """Return the definition of a user-defined name."""
    last = usage.name.rpartition(".")[2]
    kind = "tracer" if usage.path in tracers and not usage.calls else kind_of(usage)
    ident = names.new(last, "Class" if last[:1].isupper() else "name")
    reserved = {"forward", *MODULE_METHODS} if kind == "module" else set[str]()
    methods = [
        name
        for name in usage.attributes
        if is_attribute(name) and f"{usage.path}.{name}" not in user_defined
    ]
    return Definition(
        usage.module,
        usage.name,
        ident,
        kind,
        usage,
        [] if kind == "enum" else [name for name in methods if name not in reserved],
        recorded.get(usage.path) if kind == "module" else None,
        kind in ("function", "object", "class") and usage.path in hooks,
    )
