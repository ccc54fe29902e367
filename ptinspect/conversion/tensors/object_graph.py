"""From inert values of one or more files to the pickle and the storages of a new one.

Every dense tensor is written as today's torch.save writes it, whatever wrote the source; all
else is written as it was. The values are gone through twice: first to find the tensors, whose
storages are then planned together, then to write them.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from ptinspect.conversion.tensors import pickle_values
from ptinspect.conversion.tensors.storage_layout import Layout, Wish
from ptinspect.dtypes import STORAGE_ITEMSIZE, is_untyped
from ptinspect.pickling.pyobjects import function_path
from ptinspect.pickling.values import Call, Global, Inert, PersistentId, Value
from ptinspect.pickling.writer import PickleWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.conversion.tensors.byte_ranges import Piece
    from ptinspect.conversion.tensors.storage_layout import Written
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.document.tensor_readers import Reference
    from ptinspect.dtypes import DType

_STRIDED = {
    f"torch._utils.{name}"
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
}
_TYPED = {
    "torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type",
    "torch.tensor._rebuild_from_type", "torch.tensor._rebuild_from_type_v2",
}  # fmt: skip
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_ELSEWHERE = {
    f"torch._utils.{name}"
    for name in (
        "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_device_tensor_from_numpy",
        "_rebuild_xla_tensor", "_rebuild_mlc_tensor",
    )
}  # fmt: skip
"""Tensors of devices that share no storages: with `--device` they become plain ones."""


class Found:
    """A call that makes a dense tensor: the tensor, and what a quantized one adds."""

    __slots__ = ("quantizer", "tensor", "typed")

    def __init__(self, tensor: Tensor, quantizer: Value, typed: Call | None) -> None:
        self.tensor = tensor
        self.quantizer = quantizer
        self.typed = typed

    def inside(self, value: Inert) -> tuple[Value, ...]:
        """What is written with the tensor, and may hold others: attributes, scales."""
        parts: list[Value] = [] if self.quantizer is None else [self.quantizer]
        for each in (value, self.typed):
            if each is not None and each.changes is not None and not _is_old_tensor(each):
                parts += each.changes.states
        return (*parts, self.typed.args[3]) if self.typed is not None else tuple(parts)


class Graph:
    """The values that one output holds. `take` each part, then `dump`."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.layout = Layout(wish)
        self.tensors: list[Tensor] = []
        self._found: dict[int, Found | None] = {}
        self._bare: dict[int, tuple[PersistentId, Reference]] = {}
        self._storages: list[Written] = []
        self._alive: list[Value] = []  # so that no identity is given twice
        self._owners: dict[int, Document] = {}  # of what another than the first file holds
        self._first: Document | None = None

    # --- first: what is there -------------------------------------------------------------

    def take(self, value: Value, document: Document) -> None:
        """Finds the tensors in `value`, which `document` holds (or which was made from what it
        holds). UnsupportedError for what cannot be written."""

        self._first = self._first or document

        def look(inner: Inert) -> Value:
            if id(inner) not in self._found:
                made = self._found[id(inner)] = self._find(inner, document)
                self._alive.append(inner)
                if document is not self._first:
                    self._owners[id(inner)] = document
                if made is not None:
                    self.layout.add(made.tensor)
                    self.tensors.append(made.tensor)
            known = self._found[id(inner)]
            if known is None:
                return None
            return known.inside(inner)

        def refer(pid: PersistentId) -> Value:
            self._bare_storage(pid, document)
            return ()

        PickleWriter(look, refer).dump(value)

    def _find(self, value: Inert, document: Document) -> Found | None:
        if isinstance(value, PersistentId):
            tensor = document.tensor_of(value)
            return Found(tensor, None, None) if tensor else None
        if not isinstance(value, Call):
            return None
        path = function_path(value) or ""
        if path in _STRIDED or (path in _ELSEWHERE and self.wish.device):
            return self._dense(value, document, None)
        if path in _TYPED and len(value.args) == 4 and isinstance(value.args[2], tuple):
            core = Call(value.args[0], value.args[2], "REDUCE", value.offset)
            return self._dense(core, document, value) if function_path(core) in _STRIDED else None
        if not path.startswith("torch.") or value.changes is None:
            return None
        return self._dense(value, document, None) if _is_old_tensor(value) else None

    def _dense(self, call: Call, document: Document, typed: Call | None) -> Found | None:
        tensor = document.tensor_of(call)
        if tensor is None or tensor.storage is None or tensor.stride is None:
            return None
        quantizer = call.args[4] if tensor.quantizer and len(call.args) > 4 else None
        return Found(tensor, quantizer, typed)

    def _bare_storage(self, pid: PersistentId, document: Document) -> None:
        """A storage that is itself a value."""
        refer = document.storage_of(pid)
        if refer is not None and id(pid) not in self._bare:
            self.layout.add_storage(refer.storage, refer.dtype)
            self._bare[id(pid)] = pid, refer

    def detached(self, value: Value, document: Document) -> Value:
        """What `tensor.detach()` would be: a tensor of its own on the same bytes, no parameter,
        without a gradient. Values that are no tensors are given back."""
        core, tensor = value, document.tensor_of(value)
        while isinstance(core, Call) and function_path(core) in _PARAMETERS and core.args:
            core = core.args[0]
        if tensor is None or tensor.uninitialized or not isinstance(core, Call | PersistentId):
            return value
        if tensor.storage is None or tensor.stride is None or tensor.subclass:
            made = Call(core.func, core.args, core.opcode, 0) if isinstance(core, Call) else core
            made.changes = core.changes
            return made
        plain = copy(tensor)
        plain.requires_grad = plain.parameter = False
        plain.state = {}
        args = core.args if isinstance(core, Call) else ()
        quantizer = args[4] if tensor.quantizer and len(args) > 4 else None
        return self.new(plain, quantizer)

    def new(self, tensor: Tensor, quantizer: Value = None) -> Call:
        """A value that stands for a tensor which no file has as a value of its own."""
        made = Call(pickle_values.REBUILD_2, (), "REDUCE", 0)
        self._found[id(made)] = Found(tensor, quantizer, None)
        self._alive.append(made)
        self.layout.add(tensor)
        self.tensors.append(tensor)
        return made

    def tensor_of(self, value: Value) -> Tensor | None:
        """The dense tensor that was found to be this value."""
        found = self._found.get(id(value))
        return found.tensor if found else None

    def read(self, value: Value) -> Tensor | None:
        """The tensor that a taken value is, dense or of parts; as `Tensors.read` for a walk."""
        document = self._owners.get(id(value), self._first)
        return (document.tensor_of(value) if document else None) or self.tensor_of(value)

    def dtype_of(self, value: Value) -> DType | None:
        """The dtype with which a value is written that is a dense tensor, by itself or within a
        parameter; None for others. After `plan`."""
        while isinstance(value, Call) and function_path(value) in _PARAMETERS and value.args:
            value = value.args[0]
        tensor = self.tensor_of(value)
        return self.layout.dtype_of(tensor) if tensor else None

    # --- then: writing --------------------------------------------------------------------

    def plan(self) -> None:
        """Plans the storages, once everything was taken."""
        self.layout.plan()

    def dump(self, root: Value) -> tuple[bytes, list[tuple[str, Sequence[Piece]]]]:
        """The pickle of `root`, and the storages that it refers to, in order."""
        self._storages = []
        data = PickleWriter(self._rebuilt, self._persistent).dump(root)
        return data, [(written.key or "", written.pieces) for written in self._storages]

    def _rebuilt(self, value: Inert) -> Value:
        found = self._found.get(id(value))
        if found is None:
            if isinstance(value, PersistentId) and _names_class(value):
                assert isinstance(value.value, tuple)
                return value.value[1]
            return None
        spot = self.layout.spot(found.tensor)
        made = pickle_values.tensor_value(
            found.tensor, spot.dtype, spot.written, spot.offset, spot.laid_out, found.quantizer
        )
        if found.typed is not None:
            _, kind, _, state = found.typed.args
            typed = Call(found.typed.func, (made.func, kind, made.args, state), "REDUCE", 0)
            typed.changes = found.typed.changes
            return typed
        if isinstance(value, Call):
            if _is_old_tensor(value):
                inner = made
                grad = found.tensor.requires_grad
                return (
                    pickle_values.parameter_value(inner, grad) if found.tensor.parameter else inner
                )
            made.changes = value.changes
        return made

    def _persistent(self, pid: PersistentId) -> Value:
        if not isinstance(pid, pickle_values.StorageId):
            return self._whole(pid)
        return self._five(pid.written, pid.kind)

    def _whole(self, pid: PersistentId) -> Value:
        known = self._bare.get(id(pid))
        if known is None:
            return pid.value
        refer = known[1]
        kind = (
            pickle_values.UNTYPED
            if is_untyped(refer.type)
            else pickle_values.storage_class(refer.dtype)
        )
        return self._five(self.layout.storage(refer.storage), kind)

    def _five(self, written: Written, kind: Global) -> Value:
        """("storage", class, key, location, number of elements)."""
        if written.key is None:
            written.key = str(len(self._storages))
            self._storages.append(written)
        size = STORAGE_ITEMSIZE[kind.name]
        location = written.location
        if location != "cpu":
            location = "".join([location[:1], location[1:]])  # a string of its own, as torch's
        return ("storage", kind, written.key, location, written.nbytes // size)


def _names_class(pid: PersistentId) -> bool:
    named = pid.value
    return isinstance(named, tuple) and len(named) > 1 and named[0] == "module"


def _is_old_tensor(call: Inert) -> bool:
    """A tensor, Variable or Parameter as torch before 0.4 pickled it: its class, then a state."""
    if not isinstance(call, Call):
        return False
    path = function_path(call) or ""
    if path in ("torch.nn.parameter.Parameter", "torch.autograd.variable.Variable"):
        return True
    return path.startswith("torch.") and path.endswith("Tensor") and isinstance(call.state, tuple)
