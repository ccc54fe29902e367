"""Tensors: what `torch._utils._rebuild_*` and its kin would make, as facts.

Each rebuild function has one reader here, which takes the call's arguments and returns a
`Tensor` or None where the arguments are not what torch writes. Nothing is rebuilt: `dtype`,
`shape` and so on are what the file records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.document.objects import (
    attributes,
    mapping,
    path_of,
    path_of_function,
    raw_bytes,
    sequence,
)
from ptinspect.document.storages import Reference, Storage, Storages
from ptinspect.errors import LimitError, Place
from ptinspect.formats.dtypes import DType, by_class, by_name
from ptinspect.pickling.tensor_run import TensorCall
from ptinspect.pickling.values import Blob, Call, Global, Value
from ptinspect.source.base import MemorySource

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive
    from ptinspect.limits import Limits


class Tensor:
    """A tensor as the file has it.

    dtype: None where only running foreign code would tell. shape in elements per dimension;
    stride and storage_offset in elements, None where the layout has none. device: as recorded.
    storage: None for meta tensors and for those that consist of `parts` (sparse: indices and
    values; nested; packed). parameter: an nn.Parameter. subclass: a class other than these two.
    state: Python attributes set on it. quantizer: scheme, scale and so on. conj, neg: the bits
    by which torch marks that the logical values differ from the stored ones.
    """

    __slots__ = (
        "at", "conj", "device", "dtype", "layout", "neg", "parameter", "parts", "quantizer",
        "requires_grad", "shape", "state", "storage", "storage_offset", "stride", "subclass",
    )  # fmt: skip

    def __init__(
        self,
        dtype: DType | None,
        shape: tuple[int, ...],
        stride: tuple[int, ...] | None,
        storage_offset: int | None,
        storage: Storage | None,
        device: str,
        requires_grad: bool,
        at: int,
        layout: str = "strided",
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.stride = stride
        self.storage_offset = storage_offset
        self.storage = storage
        self.device = device
        self.requires_grad = requires_grad
        self.at = at
        self.layout = layout
        self.parameter = False
        self.subclass: str | None = None
        self.parts: dict[str, Tensor] = {}
        self.state: dict[Value, Value] = {}
        self.quantizer: dict[str, Value] = {}
        self.conj = self.neg = False

    @property
    def numel(self) -> int:
        """Elements, zeros of a sparse layout included."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of the values, laid out without gaps; of the parts, where it consists of those."""
        if self.parts:
            return sum(part.nbytes for part in self.parts.values())
        return self.numel * self.dtype.itemsize if self.dtype else 0

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie without gaps, the last dimension fastest."""
        if self.stride is None:
            return True
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return self.numel == 0
            expected *= size
        return True

    @property
    def extent(self) -> tuple[int, int]:
        """The elements of the storage, from and up to (excluded), between which it lies."""
        if self.numel == 0 or self.stride is None or self.storage_offset is None:
            return (self.storage_offset or 0,) * 2
        steps = [(size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)]
        low = self.storage_offset + sum(step for step in steps if step < 0)
        return low, self.storage_offset + sum(step for step in steps if step > 0) + 1

    def same(self) -> tuple[object, ...]:
        """Equal for two tensors exactly when they are the same bytes seen in the same way."""
        if self.storage is None:
            return (id(self),)
        place = (id(self.storage.archive), self.storage.key, self.storage.begin)
        return (*place, self.storage_offset, self.shape, self.stride, self.dtype)


class Tensors:
    """Reads the tensors of one archive; one `Tensor` per call, so that identity is kept."""

    def __init__(self, archive: Archive, limits: Limits, depth: int = 0) -> None:
        self.storages = Storages(archive)
        self.archive = archive
        self.limits = limits
        self.depth = depth
        self.inner: list[Tensors] = []  # of the legacy streams inside this pickle
        self._known: dict[int, tuple[Value, Tensor | None]] = {}
        self._streams: dict[int, Reference | None] = {}

    def read(self, value: Value) -> Tensor | None:
        """The tensor that `value` stands for; None where it is none."""
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
        dtype = by_class(call.kind.name)
        if dtype is None or len(call.size) != len(call.stride):
            return None
        storage = self.storages.get(call.storage_key, call.location, call.numel * dtype.itemsize)
        return Tensor(
            dtype, call.size, call.stride, call.storage_offset, storage, call.location, call.grad,
            call.offset,
        )  # fmt: skip

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
        if not isinstance(core, Call):
            return None
        made = self._core(core)
        if made is None:
            return None
        for wrapper in reversed(wrappers):
            _apply(self, made, wrapper)
        _apply_state(made, core)
        return made

    def _core(self, call: Call) -> Tensor | None:
        if type(call) is TensorCall and call.changes is None:
            return self._fast(call)
        return READERS.get(path_of_function(call) or "", _legacy_object)(self, call)

    def refer(self, value: Value) -> Reference | None:
        """The storage behind a persistent id, or behind `torch.storage._load_from_bytes(b"…")`,
        a legacy stream inside the pickle."""
        if isinstance(value, Call) and path_of_function(value) in _FROM_BYTES:
            if id(value) not in self._streams:
                self._streams[id(value)] = self._inner(value)
            return self._streams[id(value)]
        return self.storages.refer(value)

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
    raw = raw_bytes(value)
    return None if raw is None else MemorySource(raw, path, base=None)


_FROM_BYTES = {"torch.storage._load_from_bytes", "torch._utils._load_from_bytes"}


# --- wrappers: a parameter around a tensor, a subclass around a call ----------------------


def _unwrap(call: Call) -> Value:
    """The tensor inside a parameter or subclass; None where `call` is neither."""
    path, args = path_of_function(call), call.args
    if path in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return args[0] if args else None
    if path in _TYPED and len(args) == 4:
        made = Call(args[0], args[2] if isinstance(args[2], tuple) else (), "REDUCE", call.offset)
        return made
    if path in _PARAMETERS:
        data = _state_data(call)
        return data if data is not None else (args[0] if args else None)
    return None


_TYPED = {"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type",
          "torch.tensor._rebuild_from_type"}  # fmt: skip
_PARAMETERS = {
    "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.autograd.variable.Variable",
    "torch.nn.parameter.UninitializedParameter",
}  # fmt: skip


def _state_data(call: Call) -> Value:
    """The data in the state of a Variable or Parameter of torch before 0.4: (data, …).

    Source: `torch._tensor.Tensor.__setstate__`, its branch for states of five parts.
    """
    state = call.state
    return state[0] if isinstance(state, tuple) and state and isinstance(state[0], Call) else None


def _apply(reader: Tensors, made: Tensor, wrapper: Call) -> None:
    """What a wrapper says of the tensor inside."""
    path, args = path_of_function(wrapper) or "", wrapper.args
    if path in _TYPED:
        kind = path_of(args[1])
        made.parameter = made.parameter or kind == "torch.nn.parameter.Parameter"
        made.subclass = None if kind in ("torch.Tensor", "torch._tensor.Tensor") else kind
        made.state = {**made.state, **_state_dict(args[3])}
    else:
        made.parameter = path != "torch.autograd.variable.Variable"
        grad = _grad(wrapper)
        made.requires_grad = made.requires_grad if grad is None else grad
        if path.endswith("_with_state") and len(args) > 3:
            made.state = {**made.state, **_state_dict(args[3])}
    _apply_state(made, wrapper)


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
        made.update(mapping(part) or {})
    return made


def _apply_state(made: Tensor, call: Call) -> None:
    if call.changes is not None and call.changes.states:
        made.state = {**made.state, **attributes(call)}


# --- readers: one per function that torch writes ------------------------------------------


def _ints(value: Value) -> tuple[int, ...] | None:
    items = sequence(value)
    if items is None or not all(type(item) is int for item in items):
        return None
    return tuple(item for item in items if isinstance(item, int))


def dtype_of(value: Value) -> DType | None:
    """The dtype that a global such as `torch.float32` names."""
    if isinstance(value, Global) and value.module == "torch":
        return by_name(value.name)
    return None


def device_of(value: Value) -> str:
    """`torch.device("cuda", 0)` or a string, as torch prints it."""
    if isinstance(value, Call) and path_of_function(value) == "torch.device":
        return ":".join(str(part) for part in value.args)
    return str(value) if isinstance(value, str) else "unknown"


def layout_of(value: Value) -> str | None:
    """`torch.serialization._get_layout("torch.sparse_coo")`, as `sparse_coo`."""
    if isinstance(value, Call) and path_of_function(value) == "torch.serialization._get_layout":
        value = value.args[0] if value.args else None
    if isinstance(value, Global):
        value = value.path
    return value.removeprefix("torch.") if isinstance(value, str) else None


def _strided(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_tensor(storage, offset, size, stride)` and `_v2(…, requires_grad, hooks[,
    metadata])`; `_v3` has the dtype before the metadata."""
    args = call.args
    if len(args) < 4:
        return None
    named, size, stride = reader.refer(args[0]), _ints(args[2]), _ints(args[3])
    dtype, rest = (named.dtype if named else None), args[6:]
    if path_of_function(call) == "torch._utils._rebuild_tensor_v3":
        dtype, rest = dtype_of(args[6]) if len(args) > 6 else None, args[7:]
    if named is None or dtype is None or size is None or stride is None:
        return None
    if len(size) != len(stride) or not isinstance(args[1], int) or len(size) > reader.limits.dims:
        return None
    grad = args[4] is True if len(args) > 4 else False
    made = Tensor(
        dtype, size, stride, args[1], named.storage, named.storage.location, grad, call.offset
    )
    metadata = (mapping(rest[0]) if rest else None) or {}
    made.conj, made.neg = metadata.get("conj") is True, metadata.get("neg") is True
    return made


def _quantized(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_qtensor(storage, offset, size, stride, quantizer, requires_grad, hooks)`."""
    if len(call.args) < 6:
        return None
    bare = Call(call.func, (*call.args[:4], call.args[5]), call.how, call.offset)
    made = _strided(reader, bare)
    if made is None:
        return None
    made.quantizer = _quantizer(reader, made, call.args[4])
    return made


def _quantizer(reader: Tensors, made: Tensor, value: Value) -> dict[str, Value]:
    """(scheme, scale, zero point) or (scheme, scales, zero points, axis), tensors or lists."""
    parts = value if isinstance(value, tuple) and value else (None,)
    scheme = parts[0].name if isinstance(parts[0], Global) else "unknown"
    found: dict[str, Value] = {"qscheme": scheme}
    names = ("scale", "zero_point") if len(parts) == 3 else ("scales", "zero_points", "axis")
    for name, part in zip(names, parts[1:], strict=False):
        inner = reader.read(part)
        if inner is not None:
            found[name] = inner
        elif isinstance(part, int | float | list | tuple):
            found[name] = part
    return found


_SPARSE = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}


def _sparse(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_sparse_tensor(layout, (indices…, values, size[, is_coalesced]))`."""
    layout = layout_of(call.args[0]) if len(call.args) == 2 else None
    data = call.args[1] if len(call.args) == 2 else None
    names = _SPARSE.get(layout or "")
    if layout is None or names is None or not isinstance(data, tuple) or len(data) <= len(names):
        return None
    return _of_parts(reader, call, layout, names, data, _ints(data[len(names)]))


def _of_parts(
    reader: Tensors,
    call: Call,
    layout: str,
    names: tuple[str, ...],
    values: tuple[Value, ...],
    shape: tuple[int, ...] | None,
) -> Tensor | None:
    """A tensor that consists of others; its dtype, device and gradient are its values'."""
    parts = {name: reader.read(value) for name, value in zip(names, values, strict=False)}
    found = {name: part for name, part in parts.items() if part is not None}
    if shape is None or len(found) < len(names):
        return None
    main = found["values"]
    made = Tensor(
        main.dtype, shape, None, None, None, main.device, main.requires_grad, call.offset, layout
    )
    made.parts = found
    return made


def _nested(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_nested_tensor(buffer, sizes, strides, storage offsets)`: one buffer, and int64
    matrices with a row per component. The ragged shape is (components, -1…)."""
    names = ("values", "sizes", "strides", "storage_offsets")
    sizes = reader.read(call.args[1]) if len(call.args) == 4 else None
    if sizes is None or len(sizes.shape) > 2:
        return None
    inner = sizes.shape[1] if len(sizes.shape) == 2 else 0
    shape = (sizes.shape[0] if sizes.shape else 0, *(-1,) * inner)
    made = _of_parts(reader, call, "strided", names, call.args, shape)
    if made is not None:
        made.subclass = "nested"
    return made


def _jagged(reader: Tensors, call: Call) -> Tensor | None:
    """`torch.nested._internal.nested_tensor._rebuild_njt({"values", "offsets", …})`."""
    given = (mapping(call.args[0]) if call.args else None) or {}
    values, offsets = reader.read(given.get("values")), reader.read(given.get("offsets"))
    ragged = given.get("_ragged_idx", 1)
    if values is None or offsets is None or not isinstance(ragged, int) or not offsets.shape:
        return None
    dims = list(values.shape)
    if not 0 < ragged <= len(dims):
        return None
    dims[ragged - 1] = -1
    names = ("values", "offsets") + (("lengths",) if given.get("lengths") is not None else ())
    shape = (offsets.shape[0] - 1, *dims)
    made = _of_parts(reader, call, "jagged", names, tuple(given.get(n) for n in names), shape)
    if made is not None:
        made.requires_grad = given.get("requires_grad") is True
    return made


def _meta(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)`."""
    if len(call.args) != 4:
        return None
    dtype, size, stride = dtype_of(call.args[0]), _ints(call.args[1]), _ints(call.args[2])
    if dtype is None or size is None or stride is None or len(size) != len(stride):
        return None
    return Tensor(dtype, size, stride, 0, None, "meta", call.args[3] is True, call.offset)


def _wrapper(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_wrapper_subclass(cls, dtype, size, stride, offset, layout, device, grad)`."""
    args = call.args
    if len(args) != 8:
        return None
    size, offset = _ints(args[2]), args[4] if isinstance(args[4], int) else None
    if size is None:
        return None
    made = Tensor(
        dtype_of(args[1]), size, _ints(args[3]), offset, None, device_of(args[6]),
        args[7] is True, call.offset, layout_of(args[5]) or "strided",
    )  # fmt: skip
    made.subclass = path_of(args[0])
    return made


def _on_device(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)`: the values
    of a device that cannot share storages (xla), written from the CPU."""
    if len(call.args) != 4:
        return None
    inner = reader.read(call.args[0])
    if inner is None:
        return None
    made = Tensor(
        inner.dtype, inner.shape, inner.stride, inner.storage_offset, inner.storage,
        device_of(call.args[2]), call.args[3] is True, call.offset,
    )  # fmt: skip
    made.parts = inner.parts
    return made


def _from_numpy(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`, and
    `_rebuild_xla_tensor`, its older name."""
    from ptinspect.document.arrays import array_of, storage_of

    array = array_of(call.args[0]) if len(call.args) == 4 else None
    dtype = dtype_of(call.args[1]) if array else None
    if array is None or dtype is None:
        return None
    return Tensor(
        dtype, array.shape, array.stride, 0, storage_of(reader.archive, array),
        device_of(call.args[2]), call.args[3] is True, call.offset,
    )  # fmt: skip


def _legacy_object(reader: Tensors, call: Call) -> Tensor | None:
    """A tensor class made and then built upon, as torch before 0.4 wrote it: the state is
    (storage, offset, size, stride). Source: `Tensor.__setstate__`, its branch for four parts."""
    path = path_of(call.func) or ""
    if not path.startswith("torch.") or not path.endswith("Tensor"):
        return None
    state = call.state
    if not isinstance(state, tuple) or len(state) != 4:
        return None
    made = _strided(reader, Call(call.func, state, call.how, call.offset))
    if made is not None and by_class(path) is not None:
        made.dtype = by_class(path)
    return made


Reader = Callable[[Tensors, Call], "Tensor | None"]

READERS: dict[str, Reader] = {
    "torch._utils._rebuild_tensor": _strided,
    "torch._utils._rebuild_tensor_v2": _strided,
    "torch._utils._rebuild_tensor_v3": _strided,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch.nested._internal.nested_tensor._rebuild_njt": _jagged,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_wrapper_subclass": _wrapper,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _on_device,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_xla_tensor": _from_numpy,
    "torch._utils._rebuild_mlc_tensor": _from_numpy,
}
