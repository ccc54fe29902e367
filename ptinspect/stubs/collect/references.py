"""Which names a file asks for, and what it does with each: made, called, kept, built upon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.modules import module_of
from ptinspect.pickling.pyobjects import function_path, global_path, is_pickled_by_value
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
from ptinspect.torchnn.classes import REMOVED

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


_LOOKED_AT = {
    GETATTR, *TYPED, *_MADE_OF, "numpy.dtype", "collections.defaultdict", "collections.deque",
    "torch.fx.graph_module.reduce_graph_module", "operator.or_", "_operator.or_",
}  # fmt: skip
"""Functions whose arguments name classes, and those that weights_only has its own mind about."""


class Use:
    """What a file does with one name. made: calls of NEWOBJ and its like, called: of REDUCE;
    reached: what getattr takes from it or its instances;
    members: the states, items and so on that its instances are given."""

    __slots__ = (
        "bases", "by_value", "called", "flag", "made", "module", "name", "reached", "tensor",
        "wrapper",
    )  # fmt: skip

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.made: list[Call] = []
        self.called: list[Call] = []
        self.bases: set[str] = set()
        self.tensor = False
        self.wrapper = False
        self.flag = False  # members of an enum joined by |, as Python 3.11 wrote enum.Flag
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
        elif isinstance(value, Call) and function_path(value) == GETATTR:
            if len(value.args) < 2 or not isinstance(value.args[1], str):
                return None
            names.append(str(value.args[1]))
            value = value.args[0]
        elif isinstance(value, Call) and is_pickled_by_value(value):
            module, _, name = (global_path(value) or "").rpartition(".")
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
    from ptinspect.safety.policy.table import is_standard

    if module in ("__main__", "__mp_main__"):
        return True
    top = module.partition(".")[0]
    if top in BY_VALUE:
        return False
    if top == "torch":
        return _is_gone(module, name)
    return top != "numpy" and not is_standard(module)


def _is_gone(module: str, name: str) -> bool:
    """Whether torch had the name once, and has it no more. A name that a newer torch has is
    among these: what the stub defines stands back where the name is there."""
    from ptinspect.safety.policy.table import policy
    from ptinspect.safety.policy.weights_only import ALLOWED
    from ptinspect.torchnn import lookup
    from ptinspect.torchnn.torch_names import exists_in_torch

    path = f"{module}.{name}"
    if path in REMOVED:
        return "<" not in name
    if path in ALLOWED or "<" in name or exists_in_torch(module, name):
        return False
    return lookup(path) is None and policy().row(module, name) is None


SIMPLE = frozenset({type(None), bool, int, float, str, bytes})


def calls_in(roots: list[Value], looked: set[int]) -> list[Call]:
    """The calls below `roots`, each once, in the file's order: of what is not simply a name, and
    of the names with these ids. Plain tensors are passed over."""
    todo: list[Value] = list(roots)
    seen: set[int] = set()
    made: list[Call] = []
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind is Global or id(value) in seen:
            continue
        seen.add(id(value))
        if kind is dict:
            assert isinstance(value, dict)
            todo += [item for item in value.values() if type(item) not in SIMPLE]
            todo += [key_value(key) for key in value if type(key) not in SIMPLE]
        elif kind is tuple or kind is list:
            assert isinstance(value, tuple | list)
            todo += [item for item in value if type(item) not in SIMPLE]
        elif isinstance(value, Inert):
            if kind is TensorCall and value.changes is None:
                continue
            if isinstance(value, Call):
                if type(value.func) is not Global:
                    made.append(value)
                    todo.append(value.func)
                elif id(value.func) in looked:
                    made.append(value)
                if value.args:
                    todo.append(value.args)
                if value.kwargs:
                    todo.append(value.kwargs)
            elif isinstance(value, PersistentId):
                todo.append(value.value)
            elif isinstance(value, SetOf):
                todo += value
            changes = value.changes
            if changes is not None:
                todo += changes.states
                todo += [part for part in (changes.items, changes.pairs, changes.added) if part]
    made.sort(key=lambda call: call.offset)
    return made


class Uses:
    """All names of a document that a stub must have, in the file's order: `foreign` by path.
    calls: those of the file that tell of names, or are asked for later (`_LOOKED_AT`)."""

    def __init__(self, document: Document) -> None:
        self.foreign: dict[str, Use] = {}
        archive = document.archive
        self._foreign: dict[tuple[str, str], bool] = {}
        names = document.globals
        own = {id(name) for name in names if self.is_foreign(name.module, name.name)}
        looked = {id(name) for name in names if name.path in _LOOKED_AT} | own
        self.calls = calls_in([archive.root, *archive.more_roots], looked)
        for name in names:
            if id(name) in own:
                self.use((name.module, name.name))
        for call in self.calls:
            self.call(call)

    def is_foreign(self, module: str, name: str) -> bool:
        """`is_foreign`, asked once per name."""
        key = (module, name)
        if key not in self._foreign:
            self._foreign[key] = is_foreign(module, name)
        return self._foreign[key]

    def use(self, name: tuple[str, str] | None) -> Use | None:
        """The record of a foreign name, made at its first use; None for all others."""
        if name is None or ".__" in name[1] or not self.is_foreign(*name):
            return None
        path = f"{name[0]}.{name[1]}"
        if path not in self.foreign:
            outer, dot, _ = name[1].rpartition(".")
            if dot:
                self.use((name[0], outer))
            self.foreign[path] = Use(*name)
        return self.foreign[path]

    def call(self, call: Call) -> None:
        """What a call does with the names in it."""
        path = function_path(call)
        if path == GETATTR:
            self.reach(call)
            return
        if path in ("operator.or_", "_operator.or_"):
            for item in call.args:
                use = self.use(class_named(item) if isinstance(item, Call) else None)
                use = self.use(owner_of(item)) if use is None else use
                if use is not None:
                    use.flag = True
            return
        if path in TYPED and len(call.args) > 1:
            use = self.use(named(call.args[1]))
            if use is not None:
                use.tensor = True
                func = call.args[0]
                use.wrapper |= isinstance(func, Global) and func.path == WRAPPER
        use = self.use(class_named(call))
        if use is None:
            return
        use.by_value |= isinstance(call.func, Call) and is_pickled_by_value(call.func)
        if path in _MADE_OF and len(call.args) > 1 and isinstance(call.args[1], Global):
            use.bases.add(call.args[1].path)
        made = call.opcode != "REDUCE" or path in _MADE_OF
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


def owner_of(value: Value) -> tuple[str, str] | None:
    """The class in `getattr(Class, "MEMBER")`."""
    if isinstance(value, Call) and function_path(value) == GETATTR and value.args:
        return named(value.args[0])
    return None


def is_module(call: Call) -> bool:
    """Whether a call makes a module."""
    return module_of(call) is not None
