"""The walk through a file's objects: finds tensors, modules, state_dicts, optimizers and entries
wherever they lie, under every path that leads to them.

An object that several paths lead to is visited under each of them while what is found that
way stays within bounds; beyond that it is visited once, and a warning names its first path.
There is no recursion: a stack of iterators holds the way from the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.entries import Entry, describe, is_simple, own_line
from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, ModuleInfo, module_of
from ptinspect.document.optim.state import Optimizer, optimizer_of
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import READERS
from ptinspect.document.tensors import Tensors
from ptinspect.errors import LimitError, Place
from ptinspect.pickling.pyobjects import (
    as_mapping,
    attributes_of,
    function_path,
    iter_children,
    iter_non_items,
    path_step,
)
from ptinspect.pickling.values import Call, Inert, PersistentId, TensorCall, Value

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from ptinspect.dtypes import DType
    from ptinspect.limits import Limits

Path = tuple[str | int, ...]


class TensorInfo:
    """A tensor at one of its places. key: torch's own state_dict key, or the path joined by
    dots. role: `parameter`, `buffer`, `optimizer` or `tensor`. persistent: False for what
    state_dict() leaves out."""

    __slots__ = ("key", "path", "persistent", "role", "tensor")

    def __init__(self, path: Path, role: str, persistent: bool, tensor: Tensor) -> None:
        self.path = path
        self.key = ".".join(map(str, path)) if len(path) != 1 else str(path[0])
        self.role = role
        self.persistent = persistent
        self.tensor = tensor

    @property
    def dtype(self) -> DType | None:
        """The element type; None where only foreign code would tell."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per dimension; -1 is a ragged one (nested tensors)."""
        return self.tensor.shape

    @property
    def stride(self) -> tuple[int, ...] | None:
        """Elements from one index to the next, per dimension; None where the layout has none."""
        return self.tensor.stride

    @property
    def device(self) -> str:
        """As recorded: `cpu`, `cuda:0`."""
        return self.tensor.device

    @property
    def nbytes(self) -> int:
        """Bytes of the values, laid out without gaps."""
        return self.tensor.nbytes

    def read(self) -> bytes:
        """The values in C order, little-endian. Raises UnsupportedError for a tensor of parts
        (sparse, nested) or without bytes (meta), DamagedError where bytes are missing."""
        from ptinspect.document.to_array import contiguous

        return contiguous(self.tensor)

    def numpy(self) -> npt.NDArray[np.generic]:
        """The same as a read-only array; UnsupportedError where numpy lacks the dtype."""
        from ptinspect.document.to_array import to_numpy

        return to_numpy(self.tensor)

    def torch(self) -> torch.Tensor:
        """The same as a tensor on the CPU; UnsupportedError where torch is not installed."""
        from ptinspect.document.to_array import to_torch

        return to_torch(self.tensor)


class Warned(NamedTuple):
    """Something that a user should know. `path`: what it is about, where it is about one."""

    kind: str
    path: Path | None
    message: str


class Context(NamedTuple):
    """Where the walk is: the role of tensors met here, whether they are left out of a
    state_dict, whether plain values are entries (inside a module they are its configuration),
    inside a module's tree its root, and what the modules around hold."""

    role: str = "tensor"
    entries: bool = True
    persistent: bool = True
    root: Path | None = None
    held: Held | None = None


class Held:
    """The parameters, buffers and modules of a module's whole tree, and of those around it: what
    a plain attribute repeats of them (a list of layers, a parent) is told in its own place.
    Gathered at the first question."""

    __slots__ = ("_ids", "_module", "_outer")

    def __init__(self, module: Module, outer: Held | None) -> None:
        self._module = module
        self._outer = outer
        self._ids: set[int] | None = None

    def __contains__(self, value: object) -> bool:
        if self._ids is None:
            self._ids = self._gathered()
        return id(value) in self._ids or (self._outer is not None and value in self._outer)

    def _gathered(self) -> set[int]:
        found, todo = {id(self._module.call)}, [self._module]
        while todo:
            module = todo.pop()
            for name in (PARAMETERS, BUFFERS):
                found.update(id(value) for _, value in module.members(name) if value is not None)
            for _, value in module.members(MODULES):
                child = None if id(value) in found else module_of(value)
                if child is not None:
                    found.add(id(value))
                    todo.append(child)
        return found


class Contents:
    """What the walk found, each kind in the file's order."""

    def __init__(self) -> None:
        self.tensors: list[TensorInfo] = []
        self.modules: list[ModuleInfo] = []
        self.state_dicts: list[Path] = []
        self.optimizers: list[Optimizer] = []
        self.entries: list[Entry] = []
        self.warnings: list[Warned] = []


Step = tuple[Path, Value, Context]


def walk(root: Value, tensors: Tensors, limits: Limits) -> Contents:
    """All that lies in `root`. LimitError where it nests deeper, or holds more, than allowed."""
    return _Walk(tensors, limits).run(root)


class _Walk:
    def __init__(self, tensors: Tensors, limits: Limits) -> None:
        self.tensors = tensors
        self.limits = limits
        self.found = Contents()
        self.first: dict[int, Path] = {}  # of each object with insides: where it was met
        self.open: set[int] = set()  # objects on the way from the root
        self.again = 0
        self.visited = 0

    def run(self, root: Value) -> Contents:
        start: Iterator[Step] = iter([((), root, Context())])
        frames: list[tuple[Iterator[Step], int]] = [(start, 0)]
        while frames:
            step = next(frames[-1][0], None)
            if step is None:
                self.open.discard(frames.pop()[1])
                continue
            self.visited += 1
            if self.visited > self.limits.graph_items:
                self.refuse("graph_items", step[1])
            inside = self.visit(*step)
            if inside is not None:
                self.open.add(id(step[1]))
                frames.append((inside, id(step[1])))
                if len(frames) > self.limits.path_depth:
                    self.refuse("path_depth", step[1])
        self.found.modules = by_root(self.found.modules)
        return self.found

    def unreadable(self, path: Path, value: Value) -> None:
        """A call of torch that makes tensors, with arguments that torch does not write."""
        called = function_path(value) if isinstance(value, Call) else None
        if called in READERS:
            message = (
                f"{called} with arguments that torch does not write: no tensor is read from it"
            )
            self.found.warnings.append(Warned("unreadable-tensor", path, message))

    def refuse(self, limit: str, value: Value) -> None:
        """LimitError: the walk goes too deep, or too long."""
        bound = getattr(self.limits, limit)
        what = "nest deeper" if limit == "path_depth" else "number more"
        where = Place(None, value.offset) if isinstance(value, Inert) else None
        raise LimitError(f"objects {what} than {bound:,} ({limit})", limit=limit, where=where)

    def visit(self, path: Path, value: Value, context: Context) -> Iterator[Step] | None:
        """Notes what `value` is; the steps into it, where it has insides."""
        if isinstance(value, Call | PersistentId):
            tensor = self.tensors.read(value)
            if tensor is not None:
                return None if repeated(value, context) else self.tensor(path, tensor, context)
            self.unreadable(path, value)
        if is_simple(value):
            if context.entries:
                self.note(path, describe(value))
            return None
        if not self.enter(path, value, context):
            return None
        module = module_of(value)
        if module is not None:
            return None if repeated(value, context) else self.module(path, module, context)
        optimizer = optimizer_of(value, path)
        if optimizer is not None:
            self.found.optimizers.append(optimizer)
            inner = Context("optimizer", False, True)
            return ((at, item, inner) for at, item in optimizer.members())
        return self.inside(path, value, context)

    def inside(self, path: Path, value: Value, context: Context) -> Iterator[Step] | None:
        """A container or an object of no special kind."""
        if context.role != "optimizer" and is_state_dict(value, self.tensors):
            self.found.state_dicts.append(path)
        said = describe(value)
        if said is not None:
            if context.entries:
                self.note(path, said)
            return None
        if isinstance(value, Call) and context.entries:
            line = own_line(value)
            if line is not None:
                self.note(path, (line.type, line.value))
        context = context._replace(root=None)
        items = as_mapping(value)
        if items and context.held is None and self.dense(path, items, context):
            return (((*path, step), item, context) for step, item in iter_non_items(value))
        return (((*path, step), item, context) for step, item in iter_children(value))

    def dense(self, path: Path, items: dict[Value, Value], context: Context) -> bool:
        """Notes the items of a mapping that holds nothing but tensors, as most state_dicts do, at
        once; False, and nothing noted, where it holds anything else."""
        found = []
        read, persistent = self.tensors.read, context.persistent
        for key, item in items.items():
            tensor = read(item)
            if tensor is None or tensor.state:
                return False
            at = key if type(key) is str else path_step(key)
            found.append(TensorInfo((*path, at), role_of(tensor, context), persistent, tensor))
        self.found.tensors += found
        self.visited += len(found)
        return True

    def note(self, path: Path, said: tuple[str, Value] | None) -> None:
        if said is not None:
            self.found.entries.append(Entry(path, said[0], said[1]))

    def enter(self, path: Path, value: Value, context: Context) -> bool:
        """Whether to go into an object that may have been met before."""
        first = self.first.setdefault(id(value), path)
        if first is path:
            return True
        if id(value) in self.open:
            if context.entries:
                self.note(path, ("cycle", "/".join(map(str, first)) or "the root"))
            return False
        self.again += max(len(path), 1)  # what is printed of it begins with its path
        if self.again <= self.limits.view_items + len(self.first):
            return True
        if not any(warned.kind == "shared-object" for warned in self.found.warnings):
            message = f"shared objects are shown once: this one is also {dotted(first)}"
            self.found.warnings.append(Warned("shared-object", path, message))
        return False

    def tensor(self, path: Path, tensor: Tensor, context: Context) -> Iterator[Step] | None:
        """Notes a tensor; the steps to tensors among the attributes that were set on it."""
        role = role_of(tensor, context)
        self.found.tensors.append(TensorInfo(path, role, context.persistent, tensor))
        if not tensor.state:
            return None
        inner = context._replace(root=None)
        if inner.held is not None:  # of a module's parameter: no part of its state_dict
            inner = inner._replace(role="tensor", persistent=False)
        return (((*path, path_step(name)), item, inner) for name, item in tensor.state.items())

    def module(self, path: Path, module: Module, context: Context) -> Iterator[Step]:
        """Notes a module; its own tensors in torch's order, its other attributes, its children.

        Source: `torch.nn.Module._save_to_state_dict` (parameters, then buffers) and
        `Module.state_dict` (then children).
        """
        root = path if context.root is None else context.root
        name = ".".join(map(str, path[len(root) :]))
        self.found.modules.append(ModuleInfo(root, name, module))
        left_out, kept = module.non_persistent, context.persistent
        held = Held(module, context.held) if context.root is None else context.held
        for key, value in module.members(PARAMETERS):
            if value is not None:
                yield (*path, key), value, Context("parameter", False, kept, None, held)
        for key, value in module.members(BUFFERS):
            if value is not None:
                lasts = kept and key not in left_out
                yield (*path, key), value, Context("buffer", False, lasts, None, held)
        for key, value in module.others:
            if not is_simple(value):
                yield (
                    (*path, key),
                    value,
                    Context("tensor", False, kept and module.packs, None, held),
                )
        for key, value in module.members(MODULES):
            if value is not None:
                yield (*path, key), value, Context("tensor", False, kept, root, held)


def by_root(modules: list[ModuleInfo]) -> list[ModuleInfo]:
    """The modules of each root together, as named_modules() has them: the walk meets a root in a
    plain attribute before the children of the module that has the attribute."""
    groups: dict[Path, list[ModuleInfo]] = {}
    for info in modules:
        groups.setdefault(info.root, []).append(info)
    return modules if len(groups) < 2 else [info for group in groups.values() for info in group]


def role_of(tensor: Tensor, context: Context) -> str:
    """What a tensor is where it is met; a parameter is one wherever it lies."""
    if tensor.parameter and context.role in ("tensor", "optimizer"):
        return "parameter"
    return context.role


def repeated(value: Value, context: Context) -> bool:
    """Whether a plain attribute of a module repeats what its tree holds in a place of its own."""
    if context.held is None or context.root is not None or context.role != "tensor":
        return False
    return value in context.held


def is_state_dict(value: Value, tensors: Tensors) -> bool:
    """Whether a mapping is a state_dict: string keys and tensors as values, or an OrderedDict
    that carries the `_metadata` which `Module.state_dict` adds."""
    items = as_mapping(value)
    if items is None or not all(isinstance(key, str) for key in items):
        return False
    if isinstance(value, Call) and "_metadata" in attributes_of(value):
        return True
    if not items:
        return False
    return all(
        type(item) is TensorCall
        or tensors.read(item) is not None
        or (isinstance(key, str) and key.endswith("_extra_state") and len(items) > 1)
        for key, item in items.items()
    )


def dotted(path: Path) -> str:
    """A path as options take it: `optimizer.state[0]`, `models[1]["a.b"]`."""
    made = ""
    for at in path:
        if isinstance(at, int):
            made += f"[{at}]"
        elif at and "." not in at and "[" not in at and '"' not in at:
            made += f".{at}" if made else at
        else:
            made += f'["{at}"]'
    return made or "the root"


def bracketed(path: Path) -> str:
    """A path in which no key can be taken for another: `["0"]["a.b"][0]`."""
    return "".join(f"[{at}]" if isinstance(at, int) else f'["{at}"]' for at in path)


__all__ = ["Contents", "Path", "TensorInfo", "Warned", "dotted", "walk"]
