"""The objects of a file as they will be written: which class, and what is in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.values import Call, Value
from ptinspect.stubs.collect.references import Use, is_module
from ptinspect.stubs.expr.nodes import OPEN, Expr
from ptinspect.torchnn import ModuleClass

if TYPE_CHECKING:
    from ptinspect.stubs.collect.fx_graph import Traced

ATTRIBUTE, CHILD, PARAMETER, BUFFER = "attribute", "child", "parameter", "buffer"
LATE = "late"
"""An attribute that leads to children, and so is set after them."""


class Member(NamedTuple):
    """Something that an object holds under a name. persistent: of a buffer; of an attribute,
    False where setting it would make it a child or a parameter."""

    kind: str
    name: str
    expr: Expr
    persistent: bool = True


class Instance(Expr):
    """An object of a class that the stub defines. made: the call that makes it, once the class
    is solved."""

    __slots__ = ("call", "made", "members", "number", "plan")

    def __init__(self, call: Call | None, plan: Plan, number: int) -> None:
        super().__init__(0)
        self.call = call
        self.plan = plan
        self.number = number
        self.members: list[Member] = []
        self.made: Expr | None = None

    def flat(self) -> str:
        return self.made.text if self.made is not None else f"{OPEN}{self.number}{OPEN}"

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        return self.made.parts() if self.made is not None else None


class Plan:
    """A class or function that the stub defines.

    module, qualname: as pickle asks for it. ident: its name in the stub. kind: `module`, `object`,
    `enum`, `tuple`, `str`, `int`, `float`, `bytes`, `dict`, `list`, `set`, `exception`, `tensor`,
    `function` or `class`. base: the torch class that a module extends, as far as its attributes
    tell. evidence: what of it is recorded.
    """

    def __init__(self, module: str, qualname: str, ident: str, kind: str) -> None:
        self.module = module
        self.qualname = qualname
        self.ident = ident
        self.kind = kind
        self.use: Use | None = None
        self.instances: list[Instance] = []
        self.base: ModuleClass | None = None
        self.sequence = False  # numbered children alone: a Sequential, most likely
        self.methods: list[str] = []
        self.recovered: list[str] = []  # lines of methods whose source the file holds
        self.unprinted = False  # whether it holds that of a forward which is not printed
        self.hook = False  # whether state_dict() or load_state_dict() calls it
        self.traced: Traced | None = None  # of what torch.fx traced
        self.root = False  # whether it is made without arguments, as this instance:
        self.root_index = 0

    @property
    def path(self) -> str:
        """`module.qualname`."""
        return f"{self.module}.{self.qualname}"


_SCALARS = {tuple: "tuple", str: "str", int: "int", float: "float", bytes: "bytes"}


def kind_of(use: Use) -> str:
    """What a name stands for, as far as its uses tell."""
    instances = use.instances
    if use.tensor:
        return "tensor"
    if any(is_module(call) for call in instances):
        return "module"
    for call in instances:
        if call.changes is not None:
            if call.changes.pairs and call.changes.items:
                return "object"
            if call.changes.pairs:
                return "dict"
            if call.changes.items:
                return "list"
            if call.changes.added:
                return "set"
    for base in ("dict", "list", "set", "tuple", "str", "int", "float"):
        if f"builtins.{base}" in use.bases:
            return base
    if any(call.kwargs for call in use.made) or "__new__" in use.reached:
        return "object"
    if use.made:
        return _of_arguments([_own_arguments(call) for call in use.made])
    if use.flag:
        return "enum"
    last = use.name.rpartition(".")[2]
    capital = last.lstrip("_")[:1].isupper()
    if use.called:
        return _of_calls(use, last) if capital else "function"
    if capital and use.reached and all(name.isupper() for name in use.reached):
        return "enum"
    return "class" if capital or use.reached else "function"


def _own_arguments(call: Call) -> tuple[Value, ...]:
    from ptinspect.pickling.pyobjects import constructor_arguments

    return constructor_arguments(call)


def _of_arguments(calls: list[tuple[Value, ...]]) -> str:
    """`__new__` got these: one value of a plain type is what the class extends; several are a
    named tuple's."""
    if not all(calls):
        return "object"
    if all(len(args) == 1 for args in calls):
        kinds = {type(args[0]) for args in calls}
        if len(kinds) == 1:
            return _SCALARS.get(kinds.pop(), "object")
        return "object"
    return "tuple" if len({len(args) for args in calls}) == 1 else "object"


def _of_calls(use: Use, last: str) -> str:
    if last.endswith(("Error", "Exception", "Warning")):
        return "exception"
    calls = use.called
    simple = all(
        len(call.args) == 1
        and isinstance(call.args[0], str | int | float)
        and (call.changes is None)
        for call in calls
    )
    return "enum" if simple else "object"


__all__ = [
    "ATTRIBUTE",
    "BUFFER",
    "CHILD",
    "LATE",
    "PARAMETER",
    "Instance",
    "Member",
    "Plan",
    "kind_of",
]
