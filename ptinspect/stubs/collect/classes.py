"""The names that a stub has to define, how the file uses them, and their instances."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from ptinspect.document.modules import module_of
from ptinspect.pickling.pyobjects import (
    GETATTR,
    RECONSTRUCTORS,
    class_name,
    constructor_arguments,
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
from ptinspect.stubs.collect.recorded_source import RecordedSource
from ptinspect.stubs.expr.nodes import UNSOLVED, Brackets, Expr
from ptinspect.torchnn.classes import REMOVED, lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.modules import Module

QualifiedName = tuple[str, str]
"""Module and qualified name."""
SIMPLE = frozenset({type(None), bool, int, float, str, bytes})


@dataclass(slots=True)
class NameUsage:
    """What a file does with a name that no library defines.

    Attributes:
        constructed: calls that create instances without `__init__` (NEWOBJ and similar); `called`
            are the other calls (REDUCE).
        bases: built-in classes that it extends, as protocols 0 and 1 record them.
        is_wrapper: it is a tensor that wraps other tensors.
        is_flag: members are joined by `|`, as Python 3.11 pickles enum.Flag.
        by_value: its code is in the pickle (cloudpickle, dill).
        attributes: names that getattr takes from it or its instances, in order.
    """

    module: str
    name: str
    constructed: list[Call] = field(default_factory=list)
    called: list[Call] = field(default_factory=list)
    bases: set[str] = field(default_factory=set)
    is_tensor: bool = False
    is_wrapper: bool = False
    is_flag: bool = False
    by_value: bool = False
    attributes: dict[str, None] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def calls(self) -> list[Call]:
        return [*self.constructed, *self.called]

    @property
    def has_new_arguments(self) -> bool:
        """True if pickle passes arguments to `__new__`."""
        return "__new__" in self.attributes or any(
            call.args or call.kwargs
            for call in self.constructed
            if call.opcode in ("NEWOBJ", "NEWOBJ_EX")
        )

    @property
    def has_call_arguments(self) -> bool:
        return any(call.args for call in self.called)


MemberKind = Literal["attribute", "child", "parameter", "buffer", "late"]
"""A late attribute refers to children, and so is set after them."""


@dataclass(frozen=True, slots=True)
class Member:
    """What an instance has under a name.

    Attributes:
        plain: for a buffer, whether it is persistent. For an attribute, False if assigning it
            would register a child or parameter.
    """

    kind: MemberKind
    name: str
    expr: Expr
    plain: bool = True


class Instance(Expr):
    """An object of a class that the stub defines.

    Attributes:
        call: the object in the file; None if it is inferred from a state_dict.
        number: position among all instances, in the order in which they were collected.
        constructor_call: set by `infer` once the constructor of its class is known.
    """

    __slots__ = ("call", "constructor_call", "definition", "members", "number")

    def __init__(self, call: Call | None, definition: Definition, number: int) -> None:
        super().__init__(0)
        self.call = call
        self.definition = definition
        self.number = number
        self.members: list[Member] = []
        self.constructor_call: Expr | None = None

    @property
    def module(self) -> Module | None:
        """The object as a module, or None if it is not one."""
        return module_of(self.call) if self.call is not None else None

    def one_line(self) -> str:
        if self.constructor_call is not None:
            return self.constructor_call.text
        return f"{UNSOLVED}{self.number}{UNSOLVED}"

    def brackets(self) -> Brackets:
        call = self.constructor_call
        return call.brackets() if call is not None else super().brackets()

    def children(self) -> list[Expr]:
        return [self.constructor_call] if self.constructor_call is not None else []


@dataclass(slots=True, eq=False)
class Definition:
    """A class or function that the stub defines.

    Attributes:
        module, qualname: as pickle looks it up. `ident` is its name in the stub.
        kind: `module`, `object`, `enum`, `tuple`, `str`, `int`, `float`, `bytes`, `dict`, `list`,
            `set`, `exception`, `tensor`, `tracer`, `function` or `class`.
        usage: None for classes that only the stub has: traced by torch.fx, or inferred.
        methods: methods that the file refers to.
        is_hook: state_dict() or load_state_dict() calls it.
        root: the instance that `build()` creates without arguments.
    """

    module: str
    qualname: str
    ident: str
    kind: str
    usage: NameUsage | None = None
    methods: list[str] = field(default_factory=list)
    recorded: RecordedSource | None = None
    is_hook: bool = False
    instances: list[Instance] = field(default_factory=list)
    root: Instance | None = None

    @property
    def path(self) -> str:
        return f"{self.module}.{self.qualname}"

    @property
    def outer_path(self) -> str:
        """Path of the class that it is nested in; empty if it is not nested."""
        outer = self.qualname.rpartition(".")[0]
        return f"{self.module}.{outer}" if outer else ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """An attribute that can only be set once the whole model is built."""

    module: Module
    name: str

    @property
    def value(self) -> Value:
        return self.module.attributes[self.name]

    @property
    def description(self) -> str:
        """Names the attribute if it cannot be set either."""
        name = f"{self.module.class_name}.{self.name}"
        return f"{name}, which refers to modules elsewhere in the model"


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
    if usage.constructed:
        return _kind_by_new_arguments([constructor_arguments(call) for call in usage.constructed])
    if usage.is_flag:
        return "enum"
    last = usage.name.rpartition(".")[2]
    is_class_name = last.lstrip("_")[:1].isupper()
    if usage.called:
        return _kind_by_calls(usage.called, last) if is_class_name else "function"
    if is_class_name and usage.attributes and all(name.isupper() for name in usage.attributes):
        return "enum"
    return "class" if is_class_name or usage.attributes else "function"


def _kind_by_new_arguments(calls: list[tuple[Value, ...]]) -> str:
    """Return the kind of a class from the arguments of `__new__`.

    One value of a built-in type is what the class extends; several are those of a named tuple.
    """
    if not all(calls):
        return "object"
    if all(len(args) == 1 for args in calls):
        types = {type(args[0]) for args in calls}
        return _SCALARS.get(types.pop(), "object") if len(types) == 1 else "object"
    return "tuple" if len({len(args) for args in calls}) == 1 else "object"


def _kind_by_calls(calls: list[Call], name: str) -> str:
    if name.endswith(("Error", "Exception", "Warning")):
        return "exception"
    simple = all(
        len(call.args) == 1 and isinstance(call.args[0], str | int | float) and not call.changes
        for call in calls
    )
    return "enum" if simple else "object"


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


def owner_name(value: Value) -> QualifiedName | None:
    """Return the name of a class, or of the class of an instance."""
    name = global_name(value)
    return class_name(value) if name is None and isinstance(value, Call) else name


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
    if "<" in name or path in REMOVED:
        return "<" not in name
    if path in WEIGHTS_ONLY_NAMES or exists_in_torch(module, name):
        return False
    return lookup(path) is None and load_policy().row(module, name) is None


@dataclass(slots=True)
class References:
    """The names of a file that a stub has to define, and the calls that show how they are used.

    Attributes:
        user_defined: by path, in the file's order; outer classes before nested ones.
        calls: of these names, of functions in `_INTERESTING`, and of what is not simply a name.
    """

    user_defined: dict[str, NameUsage] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def usage_of(self, name: QualifiedName | None) -> NameUsage | None:
        """Return the record of a user-defined name, creating it on first use; None for others."""
        if name is None or ".__" in name[1] or not is_user_defined(*name):
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
    own = [name for name in names if is_user_defined(name.module, name.name)]
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
