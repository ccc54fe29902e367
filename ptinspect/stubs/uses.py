"""Which names a file asks for, and what it does with each: made, called, kept, built upon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ptinspect.document.modules import module_of
from ptinspect.document.objects import by_value, path_of, path_of_function
from ptinspect.pickling.tensor_run import TensorCall
from ptinspect.pickling.values import Call, Global, Inert, PersistentId, SetOf, Value, key_value
from ptinspect.torchnn.classes import GONE

if TYPE_CHECKING:
    from ptinspect.document import Document

GETATTR = "builtins.getattr"
TYPED = (
    "torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type",
    "torch.tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type",
)  # fmt: skip
WRAPPER = "torch._utils._rebuild_wrapper_subclass"
BY_VALUE = ("cloudpickle", "dill")
"""Packages that write code itself; what they call cannot be stood in for."""
_MADE_OF = {"copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__"}


class Use:
    """What a file does with one name. made: calls of NEWOBJ and its like, called: of REDUCE;
    kept: whether it stands as a value; reached: what getattr takes from it or its instances;
    members: the states, items and so on that its instances are given."""

    __slots__ = (
        "bases", "by_value", "called", "kept", "made", "module", "name", "reached", "tensor",
        "wrapper",
    )  # fmt: skip

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.made: list[Call] = []
        self.called: list[Call] = []
        self.bases: set[str] = set()
        self.kept = False
        self.tensor = False
        self.wrapper = False
        self.by_value = False
        self.reached: dict[str, None] = {}

    @property
    def path(self) -> str:
        """`module.name`."""
        return f"{self.module}.{self.name}"

    @property
    def instances(self) -> list[Call]:
        """All calls, in the file's order."""
        return [*self.made, *self.called]


def named(value: Value) -> tuple[str, str] | None:
    """Module and qualified name of the class or function that `value` names."""
    names: list[str] = []
    while True:
        if isinstance(value, Global):
            return value.module, ".".join([value.name, *reversed(names)])
        if isinstance(value, PersistentId):
            parts = value.value
            if not isinstance(parts, tuple) or len(parts) < 2 or parts[0] != "module":
                return None
            value = parts[1]
        elif isinstance(value, Call) and path_of_function(value) == GETATTR:
            if len(value.args) < 2 or not isinstance(value.args[1], str):
                return None
            names.append(str(value.args[1]))
            value = value.args[0]
        elif isinstance(value, Call) and by_value(value):
            module, _, name = (path_of(value) or "").rpartition(".")
            return (module, ".".join([name, *reversed(names)])) if module else None
        else:
            return None


def class_named(call: Call) -> tuple[str, str] | None:
    """Module and qualified name of what `call` makes an instance of, or calls."""
    func = call.func
    if isinstance(func, Global) and func.path in _MADE_OF and call.args:
        func = call.args[0]
    return named(func)


def is_foreign(module: str, name: str) -> bool:
    """Whether neither torch, numpy nor the standard library has the name."""
    from ptinspect.safety.policy import is_standard

    if module in ("__main__", "__mp_main__"):
        return True
    top = module.partition(".")[0]
    if top in BY_VALUE:
        return False
    if top in ("torch", "numpy"):
        return f"{module}.{name}" in GONE and "<" not in name
    return not is_standard(module)


def inside(value: Value) -> Iterator[Value]:
    """All that a value holds, in the file's order."""
    if isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key_value(key)
            yield item
    elif isinstance(value, SetOf):
        yield from value
    elif isinstance(value, PersistentId):
        yield value.value
    elif isinstance(value, Call):
        yield value.func
        yield value.args
        yield value.kwargs
    if isinstance(value, Inert) and value.changes is not None:
        yield value.changes.states
        yield value.changes.items
        yield value.changes.pairs
        yield value.changes.added


def everything(roots: list[Value]) -> Iterator[tuple[Value, Value]]:
    """Every object with insides, once, with what holds it. Plain tensors are passed over."""
    seen: set[int] = set()
    holders: list[Value] = []
    frames: list[Iterator[Value]] = [iter(roots)]
    holders.append(None)
    while frames:
        for value in frames[-1]:
            if not isinstance(value, tuple | list | dict | Inert):
                continue
            yield value, holders[-1]
            if type(value) is TensorCall and value.changes is None:
                continue
            if id(value) in seen:
                continue
            seen.add(id(value))
            frames.append(inside(value))
            holders.append(value)
            break
        else:
            frames.pop()
            holders.pop()


class Uses:
    """All names of a document that a stub must have, in the file's order: `foreign` by path.
    Calls are looked at once, however many paths lead to them."""

    def __init__(self, document: Document, roots: list[Value] | None = None) -> None:
        self.foreign: dict[str, Use] = {}
        self.keep: list[Value] = []  # what ids stand for
        seen: set[int] = set()
        archive = document.archive
        found = [archive.root, *archive.more_roots] if roots is None else roots
        for value, holder in everything(found):
            if isinstance(value, Call) and id(value) not in seen:
                seen.add(id(value))
                self.call(value)
            elif isinstance(value, Global | PersistentId):
                self.value(value, holder)

    def use(self, name: tuple[str, str] | None) -> Use | None:
        """The record of a foreign name, made at its first use; None for all others."""
        if name is None or not is_foreign(*name) or ".__" in name[1]:
            return None
        path = f"{name[0]}.{name[1]}"
        if path not in self.foreign:
            outer, dot, _ = name[1].rpartition(".")
            if dot:
                self.use((name[0], outer))
            self.foreign[path] = Use(*name)
        return self.foreign[path]

    def value(self, value: Global | PersistentId, holder: Value) -> None:
        """A name; what it is a part of tells whether it is kept as a value."""
        use = self.use(named(value))
        if use is None:
            return
        if isinstance(holder, Call) and holder.func is value:
            return
        if isinstance(holder, tuple | PersistentId):
            return  # arguments: `call` looks at them; other tuples keep it
        use.kept = True

    def call(self, call: Call) -> None:
        """What a call does with the names in it."""
        path = path_of_function(call)
        if path == GETATTR:
            self.reach(call)
            return
        if path in TYPED and len(call.args) > 1:
            use = self.use(named(call.args[1]))
            if use is not None:
                use.tensor = True
                func = call.args[0]
                use.wrapper |= isinstance(func, Global) and func.path == WRAPPER
        for argument in call.args:
            kept = self.use(named(argument)) if isinstance(argument, Global | Call) else None
            if kept is not None and path not in _MADE_OF:
                kept.kept = True
        use = self.use(class_named(call))
        if use is None:
            return
        use.by_value |= isinstance(call.func, Call) and by_value(call.func)
        if path in _MADE_OF and len(call.args) > 1 and isinstance(call.args[1], Global):
            use.bases.add(call.args[1].path)
        made = call.how != "REDUCE" or path in _MADE_OF
        (use.made if made else use.called).append(call)

    def reach(self, call: Call) -> None:
        """`getattr(thing, name)`: a nested class, a method, a member of an enum."""
        if len(call.args) < 2 or not isinstance(call.args[1], str):
            return
        owner, name = call.args[0], str(call.args[1])
        of = named(owner)
        if of is None and isinstance(owner, Call):
            of = class_named(owner)
        use = self.use(of)
        if use is not None:
            use.reached[name] = None


def is_module(call: Call) -> bool:
    """Whether a call makes a module."""
    return module_of(call) is not None
