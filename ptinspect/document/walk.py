"""The walk through a file's objects: finds tensors, modules, state_dicts, optimizers and entries
under every path that leads to them.

An object that several paths lead to is visited under each of them while the output stays within
`limits.view_items`; after that it is visited once, and a warning names its first path. There is no
recursion: a stack of iterators holds the path from the root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.entries import Entry, describe, is_simple
from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, ModuleInfo, module_of
from ptinspect.document.optim.state import Optimizer, optimizer_of
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import READERS
from ptinspect.document.tensors import TensorInfo
from ptinspect.errors import LimitError, Place
from ptinspect.pickling.pyobjects import (
    ORDERED_DICT,
    Path,
    as_mapping,
    attributes_of,
    bracketed,
    class_path,
    dotted,
    function_path,
    iter_children,
    iter_non_items,
    path_step,
)
from ptinspect.pickling.values import Call, Inert, PersistentId, TensorCall, Value

if TYPE_CHECKING:
    from ptinspect.limits import Limits


class DocumentWarning(NamedTuple):
    """Something that a user should know. `path` is None if it is not about one object."""

    kind: str
    path: Path | None
    message: str


@dataclass(slots=True, repr=False, eq=False)
class Contents:
    """The results of the walk, each kind in the file's order."""

    tensors: list[TensorInfo] = field(default_factory=list)
    modules: list[ModuleInfo] = field(default_factory=list)
    state_dicts: list[Path] = field(default_factory=list)
    optimizers: list[Optimizer] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    warnings: list[DocumentWarning] = field(default_factory=list)

    @property
    def by_key(self) -> dict[str, TensorInfo]:
        """The tensors by key; if two paths join to one key, the second's is bracketed."""
        keyed: dict[str, TensorInfo] = {}
        for info in self.tensors:
            if keyed.setdefault(info.key, info) is not info:
                info.key = bracketed(info.path)
                keyed[info.key] = info
        return keyed


def joined(walked: list[Contents]) -> Contents:
    """Return the results of several roots as one; those of the first are extended."""
    first, *others = walked
    for results in fields(Contents):
        for more in others:
            getattr(first, results.name).extend(getattr(more, results.name))
    return first


class _Context(NamedTuple):
    """The surroundings of an object on the walk: the role of tensors, whether plain values are
    entries (inside a module they are its configuration), and `persistent`, which is False for what
    state_dict() omits; the model's path while the walk is in its tree of modules, and the objects
    that have a place of their own in the surrounding models."""

    role: str = "tensor"
    entries: bool = True
    persistent: bool = True
    root: Path | None = None
    model: _ModelObjects | None = None


@dataclass(slots=True, eq=False)
class _ModelObjects:
    """The parameters, buffers and modules of a model's tree, and of the models around it. A plain
    attribute that repeats one of them (a list of layers, a parent) is not listed again. The set is
    built at its first use."""

    _module: Module
    _outer: _ModelObjects | None
    _ids: set[int] | None = None

    def __contains__(self, value: object) -> bool:
        if self._ids is None:
            self._ids = set()
            for _, module in self._module.walk():
                self._ids.add(id(module.call))
                for store in (PARAMETERS, BUFFERS):
                    members = module.members(store)
                    self._ids.update(id(member) for _, member in members if member is not None)
        return id(value) in self._ids or (self._outer is not None and value in self._outer)


ReadTensor = Callable[[Value], Tensor | None]
ReadTensors = Callable[[Iterable[Value]], Iterator[Tensor | None]]

_Step = tuple[Path, Value, _Context]


def walk(
    root: Value, read: ReadTensor, limits: Limits, path: Path = (),
    read_all: ReadTensors | None = None,
) -> Contents:  # fmt: skip
    """Return everything below `root`, whose path is `path`. `read` returns the tensor that a value
    stands for, None for other values; `read_all` does so for many. LimitError if objects nest
    deeper, or are more, than allowed."""
    return _Walk(read, limits, read_all or partial(map, read)).run(root, path)


class _Walk:
    def __init__(self, read: ReadTensor, limits: Limits, read_all: ReadTensors) -> None:
        self.read = read
        self.read_all = read_all
        self.limits = limits
        self.contents = Contents()
        self.first_paths: dict[int, Path] = {}  # of each object with children
        self.open_ids: set[int] = set()  # objects on the path from the root
        self.repeated_steps = 0
        self.visited = 0

    def run(self, root: Value, path: Path) -> Contents:
        start: Iterator[_Step] = iter([(path, root, _Context())])
        frames: list[tuple[Iterator[_Step], int]] = [(start, 0)]
        while frames:
            step = next(frames[-1][0], None)
            if step is None:
                self.open_ids.discard(frames.pop()[1])
                continue
            self.visited += 1
            if self.visited > self.limits.graph_items:
                raise self.limit_error("graph_items", step[1])
            children = self.visit(*step)
            if children is not None:
                self.open_ids.add(id(step[1]))
                frames.append((children, id(step[1])))
                if len(frames) > self.limits.path_depth:
                    raise self.limit_error("path_depth", step[1])
        # The modules of each root together, in the order of named_modules(): the walk finds a root
        # in a plain attribute before the children of the module around it.
        groups: dict[Path, list[ModuleInfo]] = {}
        for info in self.contents.modules:
            groups.setdefault(info.root, []).append(info)
        self.contents.modules = [info for group in groups.values() for info in group]
        return self.contents

    def limit_error(self, limit: str, value: Value) -> LimitError:
        bound = getattr(self.limits, limit)
        verb = "nest deeper" if limit == "path_depth" else "number more"
        place = Place(None, value.offset) if isinstance(value, Inert) else None
        return LimitError(f"objects {verb} than {bound:,} ({limit})", limit=limit, where=place)

    def visit(self, path: Path, value: Value, context: _Context) -> Iterator[_Step] | None:
        """Record what `value` is; return the steps to its children, if it has any."""
        if isinstance(value, Call | PersistentId):
            tensor = self.read(value)
            if tensor is not None:
                return None if _is_repeated(value, context) else self.tensor(path, tensor, context)
            called = function_path(value) if isinstance(value, Call) else None
            if called in READERS:
                self.warn(
                    "unreadable-tensor",
                    path,
                    f"{called} with arguments that torch does not write: no tensor is read from it",
                )
        if is_simple(value):
            if context.entries:
                self.add_entry(path, describe(value))
            return None
        first = self.first_paths.setdefault(id(value), path)
        if first is not path:
            if id(value) in self.open_ids:
                if context.entries:
                    self.add_entry(path, ("cycle", "/".join(map(str, first)) or "the root"))
                return None
            self.repeated_steps += max(len(path), 1)  # each line for it begins with its path
            if self.repeated_steps > self.limits.view_items + len(self.first_paths):
                if not any(w.kind == "shared-object" for w in self.contents.warnings):
                    message = f"shared objects are shown once: this one is also {dotted(first)}"
                    self.warn("shared-object", path, message)
                return None
        module = module_of(value)
        if module is not None:
            return None if _is_repeated(value, context) else self.module(path, module, context)
        optimizer = optimizer_of(value, path)
        if optimizer is not None:
            self.contents.optimizers.append(optimizer)
            inner = _Context("optimizer", False, context.persistent)
            return ((member_path, item, inner) for member_path, item in optimizer.members())
        return self.container(path, value, context)

    def container(self, path: Path, value: Value, context: _Context) -> Iterator[_Step] | None:
        if context.role != "optimizer" and is_state_dict(value, self.read):
            self.contents.state_dicts.append(path)
        description = describe(value)
        if description is not None:
            if context.entries:
                self.add_entry(path, description)
            return None
        if isinstance(value, Call) and context.entries:
            kind = class_path(value) or "object"
            if kind != ORDERED_DICT or as_mapping(value) is None:
                self.add_entry(path, (kind.removeprefix("builtins."), None))
        context = context._replace(root=None)
        items = as_mapping(value) if context.model is None else None
        infos, plain_role, persistent = [], context.role, context.persistent
        for key, tensor in zip(items or (), self.read_all((items or {}).values()), strict=True):
            if tensor is None or tensor.state:
                break
            step = key if type(key) is str else path_step(key)
            role = _role(tensor, context) if tensor.parameter else plain_role
            infos.append(TensorInfo((*path, step), role, persistent, tensor))
        if not items or len(infos) < len(items):
            return (((*path, step), item, context) for step, item in iter_children(value))
        # Plain tensors, as in most state_dicts: several times faster than single visits.
        self.contents.tensors += infos
        self.visited += len(infos)
        return (((*path, step), item, context) for step, item in iter_non_items(value))

    def add_entry(self, path: Path, description: tuple[str, Value] | None) -> None:
        if description is not None:
            self.contents.entries.append(Entry(path, *description))

    def warn(self, kind: str, path: Path, message: str) -> None:
        self.contents.warnings.append(DocumentWarning(kind, path, message))

    def tensor(self, path: Path, tensor: Tensor, context: _Context) -> Iterator[_Step] | None:
        """Record a tensor; return the steps to tensors among the attributes set on it."""
        role = _role(tensor, context)
        self.contents.tensors.append(TensorInfo(path, role, context.persistent, tensor))
        if not tensor.state:
            return None
        inner = context._replace(root=None)
        if inner.model is not None:  # an attribute of a parameter: not in the state_dict
            inner = inner._replace(role="tensor", persistent=False)
        return (((*path, path_step(name)), item, inner) for name, item in tensor.state.items())

    def module(self, path: Path, module: Module, context: _Context) -> Iterator[_Step]:
        """Record a module; yield its tensors in torch's order, its attributes, its children.
        Source: `torch.nn.Module._save_to_state_dict` (parameters, then buffers) and
        `Module.state_dict` (then children)."""
        root = path if context.root is None else context.root
        name = ".".join(map(str, path[len(root) :]))
        self.contents.modules.append(ModuleInfo(root, name, module))
        non_persistent, persistent = module.non_persistent, context.persistent
        model = _ModelObjects(module, context.model) if context.root is None else context.model
        for key, value in module.members(PARAMETERS):
            if value is not None:
                yield (*path, key), value, _Context("parameter", False, persistent, None, model)
        for key, value in module.members(BUFFERS):
            if value is not None:
                in_state_dict = persistent and key not in non_persistent
                yield (*path, key), value, _Context("buffer", False, in_state_dict, None, model)
        inner = _Context("tensor", False, persistent and module.packs_weights, None, model)
        for key, value in module.other_attributes():
            if not is_simple(value):
                yield (*path, key), value, inner
        for key, value in module.members(MODULES):
            if value is not None:
                yield (*path, key), value, _Context("tensor", False, persistent, root, model)


def _role(tensor: Tensor, context: _Context) -> str:
    """Return a tensor's role here; an nn.Parameter is a parameter wherever it is."""
    if tensor.parameter and context.role in ("tensor", "optimizer"):
        return "parameter"
    return context.role


def _is_repeated(value: Value, context: _Context) -> bool:
    """Return True if a plain attribute of a module repeats a member of its model."""
    if context.model is None or context.root is not None or context.role != "tensor":
        return False
    return value in context.model


def is_state_dict(value: Value, read: ReadTensor) -> bool:
    """Return True for a mapping of strings to tensors, or with a state_dict's `_metadata`."""
    items = as_mapping(value)
    if items is None or not all(issubclass(kind, str) for kind in set(map(type, items))):
        return False
    if isinstance(value, Call) and "_metadata" in attributes_of(value):
        return True
    if not items or set(map(type, items.values())) == {TensorCall}:
        return bool(items)
    return all(
        type(item) is TensorCall
        or read(item) is not None
        or (isinstance(key, str) and key.endswith("_extra_state") and len(items) > 1)
        for key, item in items.items()
    )
