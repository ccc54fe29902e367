"""`--plain`: values that torch.load accepts by default, in place of objects that it refuses.

Values that torch's weights-only unpickler knows (numbers, strings, bytes, containers, tensors)
are kept. Objects are replaced by what they contain: numpy scalars by numbers, arrays by tensors,
paths, dates and enum members by their text or value, subclasses of dict and list by plain ones,
dataclasses, Namespaces and other objects with attributes by dicts, omegaconf configurations by
what they configure, modules and optimizers by their state_dicts. Objects without such a form
are dropped, and their paths are listed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.output.object_graph import REBUILD_PARAMETER, UNREPRESENTABLE
from ptinspect.conversion.state_dict import state_dict_of
from ptinspect.document.entries import describe, describe_object, is_simple
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import array_tensor
from ptinspect.dtypes import numpy_name
from ptinspect.errors import PtInspectError, UnsupportedError
from ptinspect.formats.safetensors import ordered_dict
from ptinspect.pickling.numpy_objects import as_array, as_scalar, dtype_code
from ptinspect.pickling.pyobjects import (
    ORDERED_DICT,
    PARTIAL,
    brief_repr,
    dotted,
    function_path,
    global_path,
    object_parts,
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
from ptinspect.safety.policy import WEIGHTS_ONLY_NAMES
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.conversion.output.object_graph import ObjectGraph
    from ptinspect.document import Document

    Steps = Generator[tuple[str | int, Value], Value, Value]

_MAX_INT_BITS = 2032
"""Number of bits that the opcode LONG1 can hold, with room for the sign."""

_ALLOWED_CALLS = {"torch.device", "torch.serialization._get_layout", "builtins.complex"}
_FUNCTION_MODULES = {"builtins", "os", "posix", "nt", "sys", "subprocess"}
"""Modules whose calls are not objects that an argument could represent."""

_SET_CLASSES = {"builtins.set", "builtins.frozenset"}
_SET = Global("builtins", "set", 0)
_COMPLEX = Global("builtins", "complex", 0)


class _Frame(NamedTuple):
    """A value that is being converted, and the path step that leads to it."""

    step: str | int
    value: Value
    steps: Steps


class PlainValues:
    """Converts values of one document. `dropped` are the paths of those without a plain form. There
    is no recursion: each kind of value is a generator that yields (step, part) and receives the
    converted part."""

    def __init__(self, document: Document, graph: ObjectGraph) -> None:
        self.dropped: list[str] = []
        self.document = document
        self._graph = graph
        self._memo: dict[int, Value] = {}
        self._alive: list[Value] = []  # keeps values alive, so that ids stay unique
        self._optimizers = {
            id(optimizer.value): optimizer.state_dict()
            for optimizer in document.optimizers
            if isinstance(optimizer.value, Call)
        }
        self._stack: list[_Frame] = []

    def convert(self, root: Value, name: str = "") -> Value:
        """Return the plain form of a value, or `UNREPRESENTABLE`. What was one object remains one.
        A cycle through a tuple or a call is cut. Paths in `dropped` begin with `name`."""
        stack = self._stack = [self._frame(name, root)]
        result: Value = None
        while True:
            try:
                step, part = stack[-1].steps.send(result)
            except StopIteration as end:
                result = end.value
                if result is UNREPRESENTABLE:
                    self.dropped.append(self._path())
                self._memo[id(stack.pop().value)] = result
                if not stack:
                    return result
                continue
            if type(part) in (str, float, bool, type(None)):
                result = part
            elif id(part) in self._memo:
                result = self._memo[id(part)]
                if result is UNREPRESENTABLE:
                    self.dropped.append(self._path(step))
            else:
                stack.append(self._frame(step, part))
                result = None

    def _frame(self, step: str | int, value: Value) -> _Frame:
        self._alive.append(value)
        if isinstance(value, Inert | list | dict | tuple):
            # Until it is converted: a value that contains itself is cut there.
            self._memo[id(value)] = UNREPRESENTABLE
        return _Frame(step, value, self._steps(value))

    def _path(self, *steps: str | int) -> str:
        """Return the path of the value that is being converted, or of a part of it."""
        path = (*(frame.step for frame in self._stack if frame.step != ""), *steps)
        return dotted(path) if path else "the whole value"

    # --- values of Python ------------------------------------------------------------------

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
            if not all(map(is_simple, value)):
                return (yield from self._list(value, list(value)))
            plain = SetOf(False, 0)
            plain.members = dict(value.members)
            return plain
        return self._atom(value)

    def _atom(self, value: Value) -> Value:
        if isinstance(value, str):
            return str(value)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if value.bit_length() < _MAX_INT_BITS else hex(value)
        if isinstance(value, bytes | Blob):
            return value if len(value) else _empty_bytes()
        if isinstance(value, Global):
            return value if value.path in WEIGHTS_ONLY_NAMES else value.path
        if isinstance(value, PersistentId):
            if self.document.tensor_of(value) or self.document.storage_of(value):
                return value
            return global_path(value) or UNREPRESENTABLE
        return UNREPRESENTABLE

    def _list(self, owner: Value, items: Iterable[Value]) -> Steps:
        """Return the items as a list, which is the result for `owner` unless that is None."""
        plain: list[Value] = []
        if owner is not None:
            self._memo[id(owner)] = plain
        for index, item in enumerate(items):
            result = yield index, item
            plain.append(None if result is UNREPRESENTABLE else result)
        return plain

    def _tuple(self, items: Iterable[Value]) -> Steps:
        return tuple((yield from self._list(None, items)))  # type: ignore[arg-type]

    def _dict(self, owner: Value, items: dict[Value, Value], plain: dict[Value, Value]) -> Steps:
        """Fill `plain`, the result for `owner` unless it has another one."""
        if self._memo.get(id(owner), UNREPRESENTABLE) is UNREPRESENTABLE:
            self._memo[id(owner)] = plain
        for key, item in items.items():
            new_key = plain_key(key)
            if new_key is UNREPRESENTABLE or new_key in plain:
                self.dropped.append(str(path_step(key)))
                continue
            result = yield path_step(key), item
            if result is not UNREPRESENTABLE:
                plain[new_key] = result
        return plain

    def _ordered_dict(self, owner: Value, items: dict[Value, Value], metadata: Value) -> Steps:
        plain = ordered_dict()
        self._memo[id(owner)] = plain
        yield from self._dict(owner, items, plain.change().pairs)
        if metadata is not None:
            result = yield "_metadata", metadata
            if result is not UNREPRESENTABLE:
                plain.change().states.append({"_metadata": result})
        return plain

    # --- objects ---------------------------------------------------------------------------

    def _call(self, call: Call) -> Steps:
        leaf = self._leaf(call)
        if leaf is not None:
            return leaf
        parts = object_parts(call)
        path, attributes, arguments = parts.path, parts.attributes, parts.arguments
        items, sequence, data = parts.items, parts.sequence, parts.data
        if data is not None:
            return data or _empty_bytes()
        is_allowed = function_path(call) in _ALLOWED_CALLS and not call.kwargs
        if is_allowed and call.changes is None and all(map(is_simple, call.args)):
            return call
        optimizer = self._optimizers.get(id(call))
        if optimizer is not None and optimizer is not call:
            return (yield "state_dict", optimizer)
        try:
            detach = partial(self._graph.detach, self.document)
            state = state_dict_of(call, self.document, detach)
        except UnsupportedError:
            return UNREPRESENTABLE
        if state is not None:
            metadata = None if state.metadata is None else ordered_dict(state.metadata.items())
            members: dict[Value, Value] = dict(state.items.items())
            return (yield from self._ordered_dict(call, members, metadata))
        if parts.is_by_value or function_path(call) == PARTIAL:
            return UNREPRESENTABLE
        if path.startswith("omegaconf."):
            # Source: `omegaconf.base.Container` and `omegaconf.nodes.ValueNode`.
            for name in ("_content", "_val"):
                if name in attributes:
                    return (yield name, attributes[name])
            return UNREPRESENTABLE
        if items is not None and path == ORDERED_DICT:
            return (yield from self._ordered_dict(call, items, parts.metadata))
        if items is not None:
            return (yield from self._dict(call, items, {}))
        if sequence is not None:
            if path in _SET_CLASSES and all(map(is_simple, sequence)):
                return Call(_SET, ([*sequence],), "REDUCE", 0)
            is_size = path == "torch.Size"
            return (yield from self._tuple(sequence) if is_size else self._list(call, sequence))
        if attributes:
            return (yield from self._dict(call, attributes, {}))
        if call.opcode == "NEWOBJ" and len(arguments) > 1 and call.changes is None:
            return (yield from self._tuple(arguments))  # a named tuple
        # An enum member, a path or a date: its arguments.
        description = describe_object(call, parts)
        if description is None or path.split(".", 1)[0] in _FUNCTION_MODULES:
            return UNREPRESENTABLE
        value = description[1]
        return value if isinstance(value, str | int | float) else UNREPRESENTABLE

    def _leaf(self, call: Call) -> Value:
        """Return the plain form of a tensor, number, text or the like; None for other objects."""
        if call in self._graph:
            return call
        tensor = self.document.tensor_of(call)
        if tensor is not None:
            return self._tensor(call, tensor)
        reference = self.document.storage_of(call)
        if reference is not None:
            storage, shape = reference.storage, (reference.numel,)
            flat = Tensor(reference.dtype, shape, (1,), 0, storage, storage.location, False, 0)
            return self._graph.add_new(flat)
        array, code, scalar = as_array(call), dtype_code(call), as_scalar(call)
        if scalar is not None:
            number = scalar[1]
            if isinstance(number, complex):
                return Call(_COMPLEX, (number.real, number.imag), "REDUCE", 0)
            return UNREPRESENTABLE if number is None else number
        if code is not None:
            return numpy_name(code)
        if array is not None:
            tensor = array_tensor(array, self.document.archive)
            if tensor is not None:
                return self._graph.add_new(tensor)
            items, is_flat = array.data, array.name == "object" and len(array.shape) <= 1
            is_list = is_flat and isinstance(items, list) and all(map(is_simple, items))
            return items if is_list else UNREPRESENTABLE
        return None

    def _tensor(self, call: Call, tensor: Tensor) -> Value:
        if not self._graph.is_saved(tensor):
            return UNREPRESENTABLE
        if _is_loadable(call):
            return call
        if tensor.uninitialized:
            return UNREPRESENTABLE
        if tensor.storage is None or tensor.stride is None or tensor.quantizer:
            value = self._graph.add_detached(call, tensor)
            return value if value in self._graph or _is_loadable(value) else UNREPRESENTABLE
        plain = copy(tensor)
        plain.parameter, plain.state, plain.subclass = False, {}, None
        path = self._path()
        if tensor.subclass:
            self.dropped.append(f"the class {tensor.subclass} of {path}")
        self.dropped += [f"{path}.{path_step(name)}" for name in tensor.state]
        value = self._graph.add_new(plain)
        if not tensor.parameter:
            return value
        args: tuple[Value, ...] = (value, tensor.requires_grad, ordered_dict())
        return Call(REBUILD_PARAMETER, args, "REDUCE", 0)


def plain_items(
    items: dict[Value, Value], document: Document, graph: ObjectGraph
) -> tuple[dict[Value, Value], list[str], list[str]]:
    """Return the items with plain keys and values, the paths of what has no plain form, and a
    warning about them. PtInspectError if nothing is left."""
    plain = PlainValues(document, graph)
    converted: dict[Value, Value] = {}
    for key, value in items.items():
        new_key = plain_key(key)
        if new_key is UNREPRESENTABLE or new_key in converted:
            plain.dropped.append(str(path_step(key)))
        else:
            converted[new_key] = plain.convert(value, str(path_step(key)))
    converted = {k: item for k, item in converted.items() if item is not UNREPRESENTABLE}
    if not converted:
        raise PtInspectError(
            "no value of the file has a plain form", hint="--to same keeps the objects"
        )
    names = join_names(plain.dropped)
    warnings = [f"dropped: {names} (no plain form)"] if plain.dropped else []
    return converted, plain.dropped, warnings


def plain_key(key: Value) -> Value:
    """Return the plain form of a dictionary key, or `UNREPRESENTABLE`."""
    value = key_value(key)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return key if value.bit_length() < _MAX_INT_BITS else hex(value)
    if value is None or isinstance(value, float) or (isinstance(value, bytes) and value):
        return key
    if isinstance(value, tuple) and all(map(is_simple, value)):
        return key
    if not isinstance(value, Call | Global):
        return UNREPRESENTABLE
    scalar = as_scalar(value)
    if scalar is not None and isinstance(scalar[1], int | float):
        return Key(scalar[1], ("number", repr(scalar[1])))
    description = describe(value)
    if description is not None and isinstance(description[1], str):
        return description[1]
    return brief_repr(value)


def _empty_bytes() -> Call:
    """Return b"" in the only form that torch.load accepts."""
    return Call(Global("_codecs", "encode", 0), ("", "latin1"), "REDUCE", 0)


def _is_loadable(value: Value) -> bool:
    """Return True if torch.load accepts the names in a tensor's value as they are."""
    if type(value) is TensorCall and value.changes is None:
        return True
    unchecked, seen = [value], set()
    while unchecked:
        part = unchecked.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Global):
            if part.path not in WEIGHTS_ONLY_NAMES:
                return False
        elif isinstance(part, list | tuple):
            unchecked += part
        elif isinstance(part, dict):
            unchecked += [*map(key_value, part), *part.values()]
        elif isinstance(part, Call):
            if part.kwargs:
                return False
            unchecked += [part.func, *part.args]
            if part.changes is not None:
                changes = part.changes
                unchecked += [*changes.items, changes.pairs, *changes.added, *changes.states]
        elif isinstance(part, Inert) and not isinstance(part, PersistentId | Blob):
            return False
    return True
