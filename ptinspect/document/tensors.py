"""Reads the tensors of an archive: unwraps parameters and subclasses, finds the storages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.storages import Reference, Storages
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import READERS, checked, legacy_object, of_tar
from ptinspect.dtypes import dtype_of_class
from ptinspect.errors import LimitError, Place
from ptinspect.pickling.pyobjects import (
    as_bytes,
    as_mapping,
    attributes_of,
    function_path,
    global_path,
)
from ptinspect.pickling.values import Blob, Call, Global, PersistentId, TensorCall, Value
from ptinspect.source.base import MemorySource

if TYPE_CHECKING:
    from ptinspect.dtypes import DType
    from ptinspect.formats.archive import Archive
    from ptinspect.limits import Limits


class Tensors:
    """Reads the tensors of one archive; one `Tensor` per call, so that identity is kept."""

    def __init__(self, archive: Archive, limits: Limits, depth: int = 0) -> None:
        self.storages = Storages(archive)
        self.archive = archive
        self.limits = limits
        self.depth = depth
        self.inner: list[Tensors] = []  # of the legacy streams inside this pickle
        self._known: dict[int, tuple[Value, Tensor | None]] = {}
        self._dtypes: dict[Global, DType | None] = {}  # by the class of a storage
        self._forms: dict[object, bool] = {}  # sizes and strides: whether one is negative
        self._by_key: dict[object, Tensor] = {}
        self._streams: dict[int, Reference | None] = {}

    def read(self, value: Value) -> Tensor | None:
        """The tensor that `value` stands for; None where it is none."""
        if isinstance(value, PersistentId):
            return self._of_tar(value)
        if not isinstance(value, Call):
            return None
        known = self._known.get(id(value))
        if known is None:
            if type(value) is TensorCall and value.changes is None:
                known = (value, self._fast(value))
            else:
                known = (value, self._slow(value))
            self._known[id(value)] = known
        return known[1]

    def _fast(self, call: TensorCall) -> Tensor | None:
        """A plain dense tensor, from the parts that the superinstruction kept."""
        kind = call.storage_type
        if kind not in self._dtypes:
            self._dtypes[kind] = dtype_of_class(kind.name)
        dtype = self._dtypes[kind]
        if dtype is None or len(call.size) != len(call.stride):
            return None
        storage = self.storages.get(call.storage_key, call.location, call.numel * dtype.itemsize)
        made = Tensor(
            dtype, call.size, call.stride, call.storage_offset, storage, call.location,
            call.requires_grad, call.offset,
        )  # fmt: skip
        form = call.size, call.stride
        if form not in self._forms:
            self._forms[form] = min(call.size + call.stride, default=0) < 0
        if call.storage_offset < 0 or self._forms[form]:
            checked(made, self.archive.record)
        return made

    def _slow(self, call: Call) -> Tensor | None:
        """Unwraps parameters and subclasses in a loop (they nest), then reads the core."""
        wrappers: list[Call] = []
        core: Value = call
        while isinstance(core, Call) and len(wrappers) <= 8:
            inner = _unwrap(core)
            if inner is None:
                break
            wrappers.append(core)
            core = inner
        if isinstance(core, PersistentId):
            made = self._of_tar(core, shared=False)
        else:
            made = self._core(core) if isinstance(core, Call) else None
        if made is None:
            return None
        checked(made, self.archive.record)
        for wrapper in reversed(wrappers):
            _apply(self, made, wrapper)
        if isinstance(core, Call):
            _apply_state(self, made, core)
        return made

    def _of_tar(self, value: PersistentId, shared: bool = True) -> Tensor | None:
        """A tensor of the tar of torch 0.1, which `formats.torch_tar` gives as ("tensor",
        storage, offset, size, stride, type, key). One object per key, unless it is wrapped."""
        named = value.value
        if not isinstance(named, tuple) or len(named) != 7 or named[0] != "tensor":
            return None
        if shared and named[6] in self._by_key:
            return self._by_key[named[6]]
        made = of_tar(self, named, value.offset)
        if shared and made is not None:
            self._by_key[named[6]] = made
        return made

    def _core(self, call: Call) -> Tensor | None:
        if type(call) is TensorCall and call.changes is None:
            return self._fast(call)
        return READERS.get(function_path(call) or "", legacy_object)(self, call)

    def refer(self, value: Value) -> Reference | None:
        """The storage behind a persistent id, or behind `torch.storage._load_from_bytes(b"…")`,
        a legacy stream inside the pickle."""
        if isinstance(value, Call) and function_path(value) in _FROM_BYTES:
            if id(value) not in self._streams:
                self._streams[id(value)] = self._inner(value)
            return self._streams[id(value)]
        return self.storages.resolve(value)

    def _inner(self, call: Call) -> Reference | None:
        """Reads the inner stream where it lies. LimitError where streams nest too deep."""
        from ptinspect.formats.torch_legacy import read_legacy

        if self.depth >= self.limits.nested_archives:
            raise LimitError(
                f"streams inside streams, deeper than {self.limits.nested_archives}",
                limit="nested_archives",
                where=Place(self.archive.record, call.offset),
            )
        source = _bytes_source(self.archive, call.args[0] if call.args else None)
        if source is None:
            return None
        record = f"{self.archive.record or 'pickle'} @ {call.offset}"
        inside = Tensors(
            read_legacy(source, self.limits, record=record), self.limits, self.depth + 1
        )
        self.inner.append(inside)
        return inside.refer(inside.archive.root)


def _bytes_source(archive: Archive, value: Value) -> MemorySource | None:
    """Bytes inside the pickle as a source; None where `value` is no bytes object."""
    path = archive.source.path
    if isinstance(value, Blob):
        base = None if archive.origin is None else archive.origin + value.start
        return MemorySource(value.buffer, path, value.start, value.start + value.length, base)
    raw = as_bytes(value)
    return None if raw is None else MemorySource(raw, path, base=None)


_FROM_BYTES = {"torch.storage._load_from_bytes", "torch._utils._load_from_bytes"}


# --- wrappers: a parameter around a tensor, a subclass around a call ----------------------


def _unwrap(call: Call) -> Value:
    """The tensor inside a parameter or subclass; None where `call` is neither."""
    path, args = function_path(call), call.args
    if path in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return args[0] if args else None
    if path in _TYPED and len(args) == 4:
        inner = args[2] if isinstance(args[2], tuple) else ()
        if global_path(args[0]) == _NESTED and len(inner) >= 2:
            return _jagged(call, inner, as_mapping(args[3]) or {})
        return Call(args[0], inner, "REDUCE", call.offset)
    if path in _PARAMETERS:
        data = _state_data(call)
        return data if data is not None else (args[0] if args else None)
    return None


_NESTED = "torch.nested._internal.nested_tensor.NestedTensor"


def _jagged(call: Call, inner: tuple[Value, ...], state: dict[Value, Value]) -> Call:
    """A jagged tensor of torch before 2.5, which called the class itself with values and offsets
    and left the rest to the state, as `_rebuild_njt` has it since."""
    module, name = _NESTED.rsplit(".", 1)[0], "_rebuild_njt"
    given: dict[Value, Value] = {"values": inner[0], "offsets": inner[1]}
    given.update({"lengths": state.get("_lengths"), "_ragged_idx": state.get("_ragged_idx", 1)})
    return Call(Global(module, name, call.offset), (given,), "REDUCE", call.offset)


_TYPED = {"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type",
          "torch.tensor._rebuild_from_type", "torch.tensor._rebuild_from_type_v2"}  # fmt: skip
_PARAMETERS = {
    "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.autograd.variable.Variable",
}  # fmt: skip


def _state_data(call: Call) -> Value:
    """The data in the state of a Variable or Parameter of torch before 0.4: (data, …).

    Source: `torch._tensor.Tensor.__setstate__`, its branch for states of five parts.
    """
    state = call.state
    return state[0] if isinstance(state, tuple) and state and isinstance(state[0], Call) else None


def _apply(reader: Tensors, made: Tensor, wrapper: Call) -> None:
    """What a wrapper says of the tensor inside."""
    path, args = function_path(wrapper) or "", wrapper.args
    if path in _TYPED:
        kind = global_path(args[1])
        made.parameter = made.parameter or kind == "torch.nn.parameter.Parameter"
        plain = kind in ("torch.Tensor", "torch._tensor.Tensor")
        if not plain and kind != "torch.nn.parameter.Parameter":
            made.subclass = kind
        if not plain or path.endswith("_v2"):  # the first version drops a plain tensor's state
            _add_state(reader, made, _state_dict(args[3]))
    else:
        made.parameter = path != "torch.autograd.variable.Variable"
        grad = _grad(wrapper)
        made.requires_grad = made.requires_grad if grad is None else grad
        if path.endswith("_with_state") and len(args) > 3:
            _add_state(reader, made, _state_dict(args[3]))
    _apply_state(reader, made, wrapper)


def _grad(wrapper: Call) -> bool | None:
    """requires_grad as a parameter's call or its state gives it."""
    if len(wrapper.args) > 1 and isinstance(wrapper.args[1], bool):
        return wrapper.args[1]
    state = wrapper.state
    if isinstance(state, tuple):  # (data, _, hooks, requires_grad, _) or (requires_grad, _, hooks)
        for part in state[3:4] if len(state) == 5 else state:
            if isinstance(part, bool):
                return part
    return None


def _state_dict(state: Value) -> dict[Value, Value]:
    """Attributes as `torch._utils._set_obj_state` takes them: a dict, or (dict, slots)."""
    made: dict[Value, Value] = {}
    for part in state if isinstance(state, tuple) else (state,):
        made.update(as_mapping(part) or {})
    return made


def _apply_state(reader: Tensors, made: Tensor, call: Call) -> None:
    if call.changes is not None and call.changes.states:
        _add_state(reader, made, attributes_of(call))


def _add_state(reader: Tensors, made: Tensor, state: dict[Value, Value]) -> None:
    """Attributes set on a tensor. Those of a subclass without bytes of its own that are tensors
    are its parts; a jagged tensor's repeat its parts, a DTensor's `_spec` its placement."""
    for key, value in state.items():
        if made.layout == "jagged" or key == "_spec":
            continue
        inner = reader.read(value) if made.storage is None and made.subclass else None
        if inner is not None:
            made.parts = {**made.parts, str(key): inner}
        else:
            made.state = {**made.state, key: value}
