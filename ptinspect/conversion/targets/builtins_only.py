"""Values that a bare torch.load takes, in place of objects whose classes it refuses.

What torch's weights-only unpickler knows (numbers, texts, bytes, containers, tensors) stays.
Objects become what they hold: numpy's scalars numbers, its arrays tensors, paths, dates and enums'
members their text or value, dictionaries and lists of any class plain ones, dataclasses, Namespaces
and other objects with attributes dicts, omegaconf's configurations what they configure, modules and
optimizers their state_dicts. What has no such form is lost, and named.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.targets.module_state import state_dict_of
from ptinspect.conversion.targets.state_dict import metadata_of
from ptinspect.conversion.tensors import dtype_cast, pickle_values
from ptinspect.document.entries import describe, is_simple
from ptinspect.document.modules import Module, module_of
from ptinspect.document.select import value_at
from ptinspect.document.tensor import InlineStorage, Tensor
from ptinspect.dtypes import DTYPES, numpy_name
from ptinspect.errors import UnsupportedError
from ptinspect.pickling.numpy_objects import Array, as_array, as_scalar, dtype_code
from ptinspect.pickling.pyobjects import (
    ORDERED_DICT,
    PARTIAL,
    as_bytes,
    as_mapping,
    as_sequence,
    attributes_of,
    brief_repr,
    class_path,
    constructor_arguments,
    dotted,
    function_path,
    global_path,
    is_pickled_by_value,
    path_step,
)
from ptinspect.pickling.values import (
    Blob,
    Call,
    Global,
    Inert,
    Key,
    PersistentId,
    SetOf,
    TensorCall,
    Value,
    key_value,
)
from ptinspect.safety.policy.weights_only import ALLOWED

if TYPE_CHECKING:
    from ptinspect.conversion.tensors.object_graph import Graph
    from ptinspect.document import Document

    Steps = Generator[tuple[str | int, Value], Value, Value]

LOST = object()
"""In place of what has no plain form."""

LONGEST = 2032
"""Bits of a number that the opcode LONG1 can hold, with room for the sign."""

_AS_THEY_ARE = {"torch.device", "torch.serialization._get_layout", "builtins.complex"}
_UNFIT = {"builtins", "os", "posix", "nt", "sys", "subprocess"}
"""Modules whose calls are no objects that an argument could stand for."""

_SETS = {"builtins.set", "builtins.frozenset"}
_SET = Global("builtins", "set", 0)
_COMPLEX = Global("builtins", "complex", 0)


class _Frame(NamedTuple):
    step: str | int
    value: Value
    steps: Steps


class Plain:
    """The plain values for one document's. lost: the paths of what has none."""

    def __init__(self, document: Document, graph: Graph) -> None:
        self.document = document
        self.graph = graph
        self.lost: list[str] = []
        self._memo: dict[int, Value] = {}
        self._alive: list[Value] = []
        self._optimizers: dict[int, Value] = {}

    def of(self, root: Value, name: str = "") -> Value:
        """The plain value; `LOST` where there is none. `name`: what stands before the paths.

        What was one object is one; a cycle through a tuple or a call is cut.
        """
        stack = [self._frame(name, root)]
        sent: Value = None
        while True:
            try:
                at, inner = stack[-1].steps.send(sent)
            except StopIteration as end:
                sent = end.value
                if sent is LOST:
                    self._lose(stack)
                self._memo[id(stack.pop().value)] = sent
                if not stack:
                    return sent
                continue
            if type(inner) in (str, float, bool, type(None)):
                sent = inner
            elif id(inner) in self._memo:
                sent = self._memo[id(inner)]
                if sent is LOST:
                    self._lose(stack, at)
            else:
                stack.append(self._frame(at, inner))
                sent = None

    def _frame(self, at: str | int, value: Value) -> _Frame:
        self._alive.append(value)
        if isinstance(value, Inert | list | dict | tuple):
            self._memo[id(value)] = LOST  # until it is made: what holds itself is cut there
        return _Frame(at, value, self._steps(value))

    def _lose(self, stack: list[_Frame], *more: str | int) -> None:
        path = (*(frame.step for frame in stack if frame.step != ""), *more)
        self.lost.append(dotted(path) if path else "all of it")

    # --- by kind --------------------------------------------------------------------------

    def _steps(self, value: Value) -> Steps:
        if isinstance(value, Call):
            return (yield from self._call(value))
        if isinstance(value, dict):
            return (yield from self._dict(value, value, {}))
        if isinstance(value, list):
            return (yield from self._list(value, value))
        if isinstance(value, tuple):
            return (yield from self._tuple(value))
        if isinstance(value, SetOf):
            return (yield from self._set(value))
        return self._atom(value)

    def _atom(self, value: Value) -> Value:
        if isinstance(value, str):
            return str(value)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if value.bit_length() < LONGEST else hex(value)
        if isinstance(value, bytes | Blob):
            return value if len(value) else _no_bytes()
        if isinstance(value, Global):
            return value if value.path in ALLOWED else value.path
        if isinstance(value, PersistentId):
            known = self.document.tensor_of(value) or self.document.storage_of(value)
            return value if known is not None else global_path(value) or LOST
        return LOST

    def _list(self, owner: Value, items: Iterable[Value]) -> Steps:
        made: list[Value] = []
        self._memo[id(owner)] = made
        for index, item in enumerate(items):
            got = yield index, item
            made.append(None if got is LOST else got)
        return made

    def _tuple(self, items: Iterable[Value]) -> Steps:
        made: list[Value] = []
        for index, item in enumerate(items):
            got = yield index, item
            made.append(None if got is LOST else got)
        return tuple(made)

    def _set(self, value: SetOf) -> Steps:
        if not all(map(is_simple, value)):
            return (yield from self._list(value, list(value)))
        made = SetOf(False, 0)
        made.members = dict(value.members)
        return made

    def _dict(self, owner: Value, items: dict[Value, Value], made: dict[Value, Value]) -> Steps:
        """Fills in `made`, which stands for `owner` where nothing does yet."""
        if self._memo.get(id(owner), LOST) is LOST:
            self._memo[id(owner)] = made
        for key, item in items.items():
            name = plain_key(key)
            got = LOST if name is LOST or name in made else (yield path_step(key), item)
            if got is not LOST:
                made[name] = got
            elif name is LOST or name in made:
                self.lost.append(str(path_step(key)))
        return made

    def _ordered(self, value: Value, items: dict[Value, Value], metadata: Value) -> Steps:
        made = pickle_values.ordered()
        self._memo[id(value)] = made
        yield from self._dict(value, items, made.change().pairs)
        if metadata is not None:
            kept = yield "_metadata", metadata
            if kept is not LOST:
                made.change().states.append({"_metadata": kept})
        return made

    # --- calls ----------------------------------------------------------------------------

    def _call(self, call: Call) -> Steps:
        found = self._without_insides(call)
        if found is not None:
            return found
        optimizer = self._optimizer(call)
        if optimizer is not None:
            return (yield "state_dict", optimizer)
        module = module_of(call)
        if module is not None:
            return (yield from self._module(module))
        path = class_path(call) or ""
        if is_pickled_by_value(call) or function_path(call) == PARTIAL:
            return LOST
        own = attributes_of(call)
        if path.startswith("omegaconf."):
            return (yield from self._omegaconf(own))
        items, parts = as_mapping(call), as_sequence(call)
        if items is not None and path == ORDERED_DICT:
            return (yield from self._ordered(call, items, metadata_of(call)))
        if items is not None:
            return (yield from self._dict(call, items, {}))
        if parts is not None and path in _SETS and all(map(is_simple, parts)):
            return Call(_SET, ([*parts],), "REDUCE", 0)
        if parts is not None:
            steps = self._tuple(parts) if path == "torch.Size" else self._list(call, parts)
            return (yield from steps)
        if own:
            return (yield from self._dict(call, own, {}))
        return (yield from self._by_arguments(call, path))

    def _without_insides(self, call: Call) -> Value:
        """Tensors, numbers, texts; None for what else may be."""
        if self.graph.tensor_of(call) is not None:
            return call
        tensor = self.document.tensor_of(call)
        if tensor is not None:
            return self._tensor(call, tensor)
        refer = self.document.storage_of(call)
        if refer is not None:
            size, held = (refer.numel,), refer.storage
            return self.graph.new(Tensor(refer.dtype, size, (1,), 0, held, held.location, False, 0))
        scalar = as_scalar(call)
        if scalar is not None:
            number = scalar[1]
            if isinstance(number, complex):
                return Call(_COMPLEX, (number.real, number.imag), "REDUCE", 0)
            return LOST if number is None else number
        code = dtype_code(call)
        if code is not None:
            return numpy_name(code)
        array = as_array(call)
        if array is not None:
            return self._array(array)
        raw = as_bytes(call)
        if raw is not None:
            return raw or _no_bytes()
        own = function_path(call) in _AS_THEY_ARE and call.changes is None and not call.kwargs
        return call if own and all(map(is_simple, call.args)) else None

    def _tensor(self, call: Call, tensor: Tensor) -> Value:
        if _loads(call):
            return call
        if tensor.uninitialized:
            return LOST
        if tensor.storage is None or tensor.stride is None or tensor.quantizer:
            made = self.graph.detached(call, self.document)
            return made if _loads(made) or self.graph.tensor_of(made) is not None else LOST
        plain = copy(tensor)
        plain.requires_grad = plain.parameter = False
        plain.state, plain.subclass = {}, None
        return self.graph.new(plain)

    def _array(self, array: Array) -> Value:
        dtype, archive = DTYPES.get(array.name), self.document.archive
        if dtype is None:
            items = array.data
            if array.name != "object" or len(array.shape) > 1 or not isinstance(items, list):
                return LOST
            return items if all(map(is_simple, items)) else LOST
        data = array.data
        if not isinstance(data, Blob) and as_bytes(data) is None:
            return LOST
        convert = dtype_cast.swapper(dtype)
        if convert is not None and (array.dtype[0] == ">") != (archive.byteorder == "big"):
            raw = data.read() if isinstance(data, Blob) else as_bytes(data) or b""
            data = convert(raw)
        storage = InlineStorage(archive, data, "cpu")
        return self.graph.new(Tensor(dtype, array.shape, array.stride, 0, storage, "cpu", False, 0))

    def _module(self, module: Module) -> Steps:
        try:
            made = state_dict_of(module, self.document, self.graph)
        except UnsupportedError:
            return LOST
        metadata = None if made.metadata is None else pickle_values.ordered(made.metadata.items())
        items: dict[Value, Value] = dict(made.items.items())
        return (yield from self._ordered(module.call, items, metadata))

    def _optimizer(self, call: Call) -> Value:
        """The state_dict of an optimizer that was pickled itself."""
        if "param_groups" not in attributes_of(call):
            return None
        if not self._optimizers:
            from ptinspect.conversion.targets.checkpoint import packed

            for each in self.document.optimizers:
                found = value_at(self.document.archive.root, each.path)
                if isinstance(found, Call):
                    self._optimizers[id(found)] = packed(each)
        return self._optimizers.get(id(call))

    def _omegaconf(self, own: dict[Value, Value]) -> Steps:
        """Source: `omegaconf.base.Container` and `omegaconf.nodes.ValueNode`."""
        for name in ("_content", "_val"):
            if name in own:
                return (yield name, own[name])
        return LOST

    def _by_arguments(self, call: Call, path: str) -> Steps:
        """Enums' members, paths, dates; named tuples."""
        given = constructor_arguments(call)
        if call.opcode == "NEWOBJ" and len(given) > 1 and call.changes is None:
            return (yield from self._tuple(given))
        found = describe(call)
        if found is None or path.split(".", 1)[0] in _UNFIT:
            return LOST
        said = found[1]
        return said if isinstance(said, str | int | float) else LOST


def plain_key(key: Value) -> Value:
    """A dictionary's key as a plain one; `LOST` where it would be none."""
    value = key_value(key)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return key if value.bit_length() < LONGEST else hex(value)
    if value is None or isinstance(value, float) or (isinstance(value, bytes) and value):
        return key
    if isinstance(value, tuple) and all(map(is_simple, value)):
        return key
    if not isinstance(value, Call | Global):
        return LOST
    scalar = as_scalar(value)
    if scalar is not None and isinstance(scalar[1], int | float):
        return Key(scalar[1], ("number", repr(scalar[1])))
    found = describe(value)
    return found[1] if found is not None and isinstance(found[1], str) else brief_repr(value)


def _no_bytes() -> Call:
    """b"", which torch.load takes in this form alone."""
    return Call(Global("_codecs", "encode", 0), ("", "latin1"), "REDUCE", 0)


def _loads(value: Value) -> bool:
    """Whether torch.load takes a tensor's value as it is: by the names in it."""
    if type(value) is TensorCall and value.changes is None:
        return True
    todo, seen = [value], set()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Global):
            if each.path not in ALLOWED:
                return False
        elif isinstance(each, list | tuple):
            todo += each
        elif isinstance(each, dict):
            todo += [*map(key_value, each), *each.values()]
        elif isinstance(each, Call):
            todo += [each.func, *each.args]
            if each.kwargs:
                return False
            if each.changes is not None:
                changes = each.changes
                todo += [*changes.items, changes.pairs, *changes.added, *changes.states]
        elif isinstance(each, Inert) and not isinstance(each, PersistentId | Blob):
            return False
    return True
