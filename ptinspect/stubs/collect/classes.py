"""What `collect` returns: the classes that a stub defines, and the objects of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.document.modules import module_of
from ptinspect.pickling.pyobjects import constructor_arguments
from ptinspect.pickling.values import Call, Value
from ptinspect.stubs.expr.nodes import UNSOLVED, Brackets, Expr

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.document.modules import Module
    from ptinspect.stubs.collect.recorded_source import RecordedSource
    from ptinspect.stubs.expr.literals import Names, PartFunctions
    from ptinspect.stubs.expr.torch_calls import ExprOf, TensorOf

SIMPLE = frozenset({type(None), bool, int, float, str, bytes})


@dataclass(slots=True)
class NameUsage:
    """What a file does with a name that no library defines.

    Attributes:
        constructed: calls that create instances without `__init__` (NEWOBJ and similar).
        called: other calls (REDUCE).
        bases: built-in classes that it extends, as protocols 0 and 1 record them.
        is_tensor, is_wrapper: it is a subclass of torch.Tensor, or of a wrapper around tensors.
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


ATTRIBUTE, CHILD, PARAMETER, BUFFER = "attribute", "child", "parameter", "buffer"
LATE = "late"
"""Kind of an attribute that refers to children, and so is set after them."""


@dataclass(frozen=True, slots=True)
class Member:
    """What an instance has under a name.

    Attributes:
        plain: for a buffer, whether it is persistent. For an attribute, False if assigning it
            would register a child or parameter.
    """

    kind: str
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
        module, qualname: as pickle looks it up.
        ident: its name in the stub.
        kind: `module`, `object`, `enum`, `tuple`, `str`, `int`, `float`, `bytes`, `dict`, `list`,
            `set`, `exception`, `tensor`, `tracer`, `function` or `class`.
        usage: None for classes that only the stub has: traced by torch.fx, or inferred.
        methods: methods that the file refers to.
        recorded: source that the file contains.
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

    def add_instance(self, call: Call | None, number: int) -> Instance:
        """Create an instance."""
        instance = Instance(call, self, number)
        self.instances.append(instance)
        return instance


@dataclass(frozen=True, slots=True)
class Deferred:
    """An attribute that can only be set once the whole model is built.

    Attributes:
        description: names the attribute if it cannot be set either.
    """

    module: Module
    name: str

    @property
    def value(self) -> Value:
        return self.module.attributes[self.name]

    @property
    def description(self) -> str:
        name = f"{self.module.class_name}.{self.name}"
        return f"{name}, which refers to modules elsewhere in the model"


@dataclass(frozen=True, slots=True)
class CollectedObjects:
    """The objects of a file, as expressions.

    Attributes:
        definitions: classes and functions that the stub defines, by path, in the file's order.
        names: identifiers of the stub.
        parts: functions for what is nested deep.
        calls: calls of the file that weights_only may have to allow (see `References.calls`).
        expr_of: returns the expression of any value of the file.
        tensor_of: returns the tensor that a value is, or None.
        references_of: returns the ids of the model's parts that an attribute refers to.
        assembled: ids of the calls of modules that are put together without a constructor.
        deferred: attributes that only `build()` can set.
        unwritten: descriptions of values that are None in the stub, in order.
        zeroed: attributes that are zeros in the stub instead of the file's numbers.
    """

    definitions: dict[str, Definition]
    names: Names
    parts: PartFunctions
    calls: list[Call]
    expr_of: ExprOf
    tensor_of: TensorOf
    references_of: Callable[[Value], list[int]]
    assembled: set[int]
    deferred: list[Deferred]
    unwritten: dict[str, None]
    zeroed: dict[str, None]


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
