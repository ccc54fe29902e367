"""The tensors of an archive: unwraps parameters and subclasses, then reads the inner call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.elements import contiguous
from ptinspect.document.tensor import Storage, Tensor, strided_tensor
from ptinspect.document.tensor_readers import (
    READERS,
    Reference,
    Storages,
    check_not_negative,
    legacy_object,
    tar_tensor,
)
from ptinspect.document.to_array import to_numpy, to_torch
from ptinspect.dtypes import dtype_of_class
from ptinspect.errors import LimitError, Place
from ptinspect.pickling.pyobjects import (
    Path,
    as_bytes,
    as_mapping,
    as_sequence,
    attributes_of,
    function_path,
    global_path,
)
from ptinspect.pickling.values import (
    Blob,
    Call,
    Global,
    PersistentId,
    TensorCall,
    TensorForm,
    Value,
)
from ptinspect.source.base import MemorySource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt
    import torch

    from ptinspect.dtypes import DType
    from ptinspect.formats.archive import Archive
    from ptinspect.limits import Limits

# Nested wrappers (a parameter of a subclass of ...) that are followed; honest files have two.
_MAX_WRAPPERS = 8

_FROM_BYTES = {"torch.storage._load_from_bytes", "torch._utils._load_from_bytes"}


class TensorInfo:
    """A tensor at one of its paths.

    Attributes:
        key: torch's own state_dict key, or the path joined by dots.
        role: "parameter", "buffer", "optimizer" or "tensor".
        persistent: False if state_dict() omits it.
    """

    __slots__ = ("key", "path", "persistent", "role", "tensor")

    def __init__(self, path: Path, role: str, persistent: bool, tensor: Tensor) -> None:
        self.path = path
        self.key = ".".join(map(str, path)) if len(path) != 1 else str(path[0])
        self.role = role
        self.persistent = persistent
        self.tensor = tensor

    def __repr__(self) -> str:
        return f"TensorInfo({self.key!r}, {self.dtype}, {self.shape}, {self.role}, {self.device})"

    @property
    def dtype(self) -> DType | None:
        """The element type; None if only foreign code would tell."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per dimension; -1 is a ragged one (nested tensors)."""
        return self.tensor.shape

    @property
    def stride(self) -> tuple[int, ...] | None:
        """Elements from one index to the next, per dimension; None if the layout has none."""
        return self.tensor.stride

    @property
    def device(self) -> str:
        """As recorded: `cpu`, `cuda:0`."""
        return self.tensor.device

    @property
    def nbytes(self) -> int:
        """Bytes of the values without gaps."""
        return self.tensor.nbytes

    def read(self) -> bytes:
        """Return the values in C order, little-endian.

        Raises:
            UnsupportedError: a tensor of parts (sparse, nested) or without bytes (meta).
            DamagedError: bytes are missing.
        """
        return contiguous(self.tensor)

    def numpy(self) -> npt.NDArray[np.generic]:
        """Return the values as a read-only array; UnsupportedError if numpy lacks the dtype."""
        return to_numpy(self.tensor)

    def torch(self) -> torch.Tensor:
        """Return the values as a CPU tensor; UnsupportedError if torch is not installed."""
        return to_torch(self.tensor)


class TensorReader:
    """Reads the tensors of one archive; one `Tensor` per call, so that identity is preserved."""

    def __init__(self, archive: Archive, limits: Limits, depth: int = 0) -> None:
        self.storages = Storages(archive)
        self.archive = archive
        self.limits = limits
        self.depth = depth
        self.nested: list[TensorReader] = []  # of the legacy streams inside this pickle
        self._tensors: dict[Call, Tensor | None] = {}
        self._forms: dict[int, tuple[TensorForm, DType | None, int, bool]] = {}  # by id
        self._tar_tensors: dict[object, Tensor] = {}
        self._streams: dict[int, Reference | None] = {}

    def read(self, value: Value) -> Tensor | None:
        if not isinstance(value, Call):
            return self._read_tar_tensor(value) if isinstance(value, PersistentId) else None
        if value in self._tensors:
            return self._tensors[value]
        if type(value) is TensorCall and value.changes is None:
            tensor = self._tensors[value] = self._read_plain(value)
            return tensor
        # Read the innermost call, then apply the parameters and subclasses around it.
        wrappers: list[Call] = []
        core: Value = value
        while isinstance(core, Call) and len(wrappers) <= _MAX_WRAPPERS:
            content = _unwrap(core)
            if content is None:
                break
            wrappers.append(core)
            core = content
        tensor = None
        if isinstance(core, PersistentId):
            tensor = self._read_tar_tensor(core, is_shared=False)
        elif type(core) is TensorCall and core.changes is None:
            tensor = self._read_plain(core)
        elif isinstance(core, Call):
            tensor = READERS.get(function_path(core) or "", legacy_object)(self, core)
        if tensor is not None:
            check_not_negative(tensor, self.archive.record)
            for wrapper in reversed(wrappers):
                self._apply_wrapper(tensor, wrapper)
            if isinstance(core, Call):
                self._apply_changes(tensor, core)
        self._tensors[value] = tensor
        return tensor

    def read_all(self, values: Iterable[Value]) -> Iterator[Tensor | None]:
        """Yield `read` of each value, faster than one by one: of thousands, most are plain calls of
        the same few forms, with a storage each."""
        tensors, forms, storages = self._tensors, self._forms, self.storages.by_index
        resolve = self.archive.resolve_storage
        for value in values:
            if type(value) is not TensorCall or value.changes is not None:
                yield self.read(value)
                continue
            tensor = tensors.get(value)
            if tensor is None:
                key, facts = value.storage_key, forms.get(id(value.form))
                dtype = None if facts is None or facts[3] else facts[1]
                if facts is None or dtype is None or key in storages:
                    tensor = self.read(value)
                else:
                    storage = Storage(*resolve(key), value.location, facts[2])
                    storages[key] = storage
                    tensor = tensors[value] = strided_tensor(value, dtype, storage)
            yield tensor

    def _read_plain(self, call: TensorCall) -> Tensor | None:
        """Read a dense tensor from the fields that the pickle machine's fast path recorded."""
        form = call.form
        facts = self._forms.get(id(form))
        if facts is None:
            dtype = dtype_of_class(form.storage_type.name)
            dtype = dtype if len(form.size) == len(form.stride) else None
            is_negative = min(0, form.storage_offset, *form.size, *form.stride) < 0
            nbytes = form.numel * dtype.itemsize if dtype else 0
            facts = self._forms[id(form)] = form, dtype, nbytes, is_negative
        _, dtype, nbytes, is_negative = facts
        if dtype is None:
            return None
        storage = self.storages.get(call.storage_key, call.location, nbytes)
        tensor = strided_tensor(call, dtype, storage)
        if is_negative:
            check_not_negative(tensor, self.archive.record)
        return tensor

    def _read_tar_tensor(self, value: PersistentId, is_shared: bool = True) -> Tensor | None:
        """Read a tensor of the tar of torch 0.1, which `formats.torch.tar` gives as ("tensor",
        storage, offset, size, stride, type, key). One object per key, unless it is wrapped."""
        parts = value.value
        if not isinstance(parts, tuple) or len(parts) != 7 or parts[0] != "tensor":
            return None
        if is_shared and parts[6] in self._tar_tensors:
            return self._tar_tensors[parts[6]]
        tensor = tar_tensor(self, parts, value.offset)
        if is_shared and tensor is not None:
            self._tar_tensors[parts[6]] = tensor
        return tensor

    def resolve_storage(self, value: Value) -> Reference | None:
        """Return the storage of a persistent id, or of `torch.storage._load_from_bytes(b"…")`, a
        legacy stream inside the pickle."""
        if isinstance(value, PersistentId):
            return self.storages.resolve_id(value.value)
        if not isinstance(value, Call) or function_path(value) not in _FROM_BYTES:
            return None
        if id(value) in self._streams:
            return self._streams[id(value)]
        from ptinspect.formats.torch.legacy import read_legacy

        if self.depth >= self.limits.nested_archives:
            raise LimitError(
                f"streams inside streams, deeper than {self.limits.nested_archives}",
                limit="nested_archives",
                where=Place(self.archive.record, value.offset),
            )
        data = value.args[0] if value.args else None
        data, reference = data if isinstance(data, Blob) else as_bytes(data), None
        if data is not None:
            source = MemorySource.of_value(data, self.archive.source.path, self.archive.origin)
            record = f"{self.archive.record or 'pickle'} @ {value.offset}"
            archive = read_legacy(source, self.limits, record=record)
            self.nested.append(TensorReader(archive, self.limits, self.depth + 1))
            reference = self.nested[-1].resolve_storage(archive.root)
        self._streams[id(value)] = reference
        return reference

    def _apply_wrapper(self, tensor: Tensor, wrapper: Call) -> None:
        path, args = function_path(wrapper) or "", wrapper.args
        if path in REBUILD_FROM_TYPE:
            kind = global_path(args[1])
            tensor.parameter = tensor.parameter or kind == "torch.nn.parameter.Parameter"
            is_plain = kind in ("torch.Tensor", "torch._tensor.Tensor")
            if not is_plain and kind != "torch.nn.parameter.Parameter":
                tensor.subclass = kind
            if not is_plain or path.endswith("_v2"):  # v1 drops a plain tensor's state
                self._add_state(tensor, _state_attributes(args[3]))
            if kind == _SHARDED_TENSOR and isinstance(args[3], tuple) and args[3]:
                # `ShardedTensor.__getstate__`: (shards of this process, metadata, group, …)
                shards = enumerate(as_sequence(args[3][0]) or ())
                parts = ((f"shard{i}", s) for i, s in shards if isinstance(s, Call))
                self._add_state(tensor, {i: attributes_of(s).get("tensor") for i, s in parts})
        else:
            tensor.parameter = path != "torch.autograd.variable.Variable"
            grad = _requires_grad(wrapper)
            tensor.requires_grad = tensor.requires_grad if grad is None else grad
            if path.endswith("_with_state") and len(args) > 3:
                self._add_state(tensor, _state_attributes(args[3]))
        self._apply_changes(tensor, wrapper)

    def _apply_changes(self, tensor: Tensor, call: Call) -> None:
        if call.changes is not None and call.changes.states:
            self._add_state(tensor, attributes_of(call))

    def _add_state(self, tensor: Tensor, state: dict[Value, Value]) -> None:
        """Add attributes set on a tensor. Tensors among those of a subclass without bytes of its
        own are its parts. A jagged tensor's attributes repeat its parts; a DTensor's `_spec` is
        its placement."""
        tensor.parts, tensor.state = dict(tensor.parts), dict(tensor.state)
        for key, value in state.items():
            if tensor.layout == "jagged" or key == "_spec":
                continue
            part = self.read(value) if tensor.storage is None and tensor.subclass else None
            if part is not None:
                tensor.parts[str(key)] = part
            else:
                tensor.state[key] = value


# Wrappers: a parameter around a tensor, a subclass around a call

REBUILD_PARAMETERS = {
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
}  # fmt: skip
REBUILD_FROM_TYPE = {
    "torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type",
    "torch.tensor._rebuild_from_type", "torch.tensor._rebuild_from_type_v2",
}  # fmt: skip
_PARAMETER_CLASSES = {
    "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.autograd.variable.Variable",
}  # fmt: skip
_SHARDED_TENSOR = "torch.distributed._shard.sharded_tensor.api.ShardedTensor"
_NESTED_TENSOR = "torch.nested._internal.nested_tensor.NestedTensor"


def _unwrap(call: Call) -> Value:
    """Return the tensor inside a parameter or subclass; None if `call` is neither."""
    path, args = function_path(call), call.args
    if path in REBUILD_PARAMETERS:
        return args[0] if args else None
    if path in REBUILD_FROM_TYPE and len(args) == 4:
        inner_args = args[2] if isinstance(args[2], tuple) else ()
        if global_path(args[0]) == _NESTED_TENSOR and len(inner_args) >= 2:
            # torch before 2.5 called the class itself; today it is `_rebuild_njt({…})`.
            state = as_mapping(args[3]) or {}
            items: dict[Value, Value] = {
                "values": inner_args[0], "offsets": inner_args[1],
                "lengths": state.get("_lengths"), "_ragged_idx": state.get("_ragged_idx", 1),
            }  # fmt: skip
            func = Global(_NESTED_TENSOR.rpartition(".")[0], "_rebuild_njt", call.offset)
            return Call(func, (items,), "REDUCE", call.offset)
        return Call(args[0], inner_args, "REDUCE", call.offset)
    if path in _PARAMETER_CLASSES:
        # torch before 0.4: the state is (data, …). Source: `torch._tensor.Tensor.__setstate__`,
        # its branch for states of five parts.
        old_state = call.state
        if isinstance(old_state, tuple) and old_state and isinstance(old_state[0], Call):
            return old_state[0]
        return args[0] if args else None
    return None


def _requires_grad(wrapper: Call) -> bool | None:
    if len(wrapper.args) > 1 and isinstance(wrapper.args[1], bool):
        return wrapper.args[1]
    state = wrapper.state
    if isinstance(state, tuple):  # (data, _, hooks, requires_grad, _) or (requires_grad, _, hooks)
        for part in state[3:4] if len(state) == 5 else state:
            if isinstance(part, bool):
                return part
    return None


def _state_attributes(state: Value) -> dict[Value, Value]:
    """Return attributes as `torch._utils._set_obj_state` takes them: a dict, or (dict, slots)."""
    attributes: dict[Value, Value] = {}
    for part in state if isinstance(state, tuple) else (state,):
        attributes.update(as_mapping(part) or {})
    return attributes
