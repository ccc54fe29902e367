"""The functions that pickles of tensors call, each read as what it would make.

One reader per function of torch: it takes the call's arguments and returns a `Tensor`, or None
where the arguments are not what torch writes. Nothing is rebuilt: dtype, shape and so on are
what the file records. Sources: `torch/_utils.py` and, where named, others.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.document.tensor import Tensor
from ptinspect.dtypes import DType, dtype_by_name, dtype_of_class
from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, function_path, global_path
from ptinspect.pickling.values import Call, Global, Value

if TYPE_CHECKING:
    from ptinspect.document.tensors import Tensors


def _ints(value: Value) -> tuple[int, ...] | None:
    items = as_sequence(value)
    if items is None or not all(type(item) is int for item in items):
        return None
    return tuple(item for item in items if isinstance(item, int))


def checked(made: Tensor, record: str | None) -> Tensor:
    """The tensor; DamagedError where it has a negative size, stride or offset, which torch
    refuses too (`as_strided`), and which no arithmetic here is made for."""
    for what, numbers in (("size", made.shape), ("stride", made.stride or ())):
        if numbers and min(numbers) < (-1 if made.parts else 0):  # -1: a ragged dimension
            raise DamagedError(
                f"a tensor's {what} is negative: {numbers}", where=Place(record, made.at)
            )
    if made.storage_offset is not None and made.storage_offset < 0:
        raise DamagedError(
            f"a tensor begins before its storage, at {made.storage_offset}",
            where=Place(record, made.at),
        )
    return made


def dtype_of(value: Value) -> DType | None:
    """The dtype that a global such as `torch.float32` names."""
    if isinstance(value, Global) and value.module == "torch":
        return dtype_by_name(value.name)
    return None


def device_of(value: Value) -> str:
    """`torch.device("cuda", 0)` or a string, as torch prints it."""
    if isinstance(value, Call) and function_path(value) == "torch.device":
        return ":".join(str(part) for part in value.args)
    return str(value) if isinstance(value, str) else "unknown"


def layout_of(value: Value) -> str | None:
    """`torch.serialization._get_layout("torch.sparse_coo")`, as `sparse_coo`."""
    if isinstance(value, Call) and function_path(value) == "torch.serialization._get_layout":
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
    if function_path(call) == "torch._utils._rebuild_tensor_v3":
        dtype, rest = dtype_of(args[6]) if len(args) > 6 else None, args[7:]
    if named is None or dtype is None or size is None or stride is None:
        return None
    if len(size) > reader.limits.dims:
        raise LimitError(
            f"a tensor of {len(size):,} dimensions, above {reader.limits.dims:,} (dims)",
            limit="dims",
            where=Place(reader.archive.record, call.offset),
        )
    if len(size) != len(stride) or not isinstance(args[1], int):
        return None
    grad = args[4] is True if len(args) > 4 else False
    made = Tensor(
        dtype, size, stride, args[1], named.storage, named.storage.location, grad, call.offset
    )
    metadata = (as_mapping(rest[0]) if rest else None) or {}
    made.conj, made.neg = metadata.get("conj") is True, metadata.get("neg") is True
    return made


def _quantized(reader: Tensors, call: Call) -> Tensor | None:
    """`_rebuild_qtensor(storage, offset, size, stride, quantizer, requires_grad, hooks)`."""
    if len(call.args) < 6:
        return None
    bare = Call(call.func, (*call.args[:4], call.args[5]), call.opcode, call.offset)
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
    zeros = found.get("zero_points")
    if isinstance(zeros, Tensor) and zeros.dtype is not None and zeros.dtype.kind == "float":
        # written as per_channel_affine too: `torch._tensor.Tensor._reduce_ex_internal`
        found["qscheme"] = "per_channel_affine_float_qparams"
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
    matrices with a row per component."""
    names = ("values", "nested_sizes", "nested_strides", "storage_offsets")
    sizes = reader.read(call.args[1]) if len(call.args) == 4 else None
    if sizes is None or len(sizes.shape) > 2:
        return None
    made = _of_parts(reader, call, "strided", names, call.args, _ragged(sizes))
    if made is not None:
        made.subclass = "nested"
    return made


_SMALL = 1 << 20


def _ragged(sizes: Tensor) -> tuple[int, ...]:
    """(components, and per dimension the one size that all of them have, else -1)."""
    count, inner = (*sizes.shape, 0, 0)[:2]
    storage = sizes.storage
    if storage is None or not 0 < sizes.nbytes <= _SMALL or not sizes.is_contiguous:
        return (count, *(-1,) * inner)
    begin = (sizes.storage_offset or 0) * 8
    raw = storage.read(begin, begin + sizes.nbytes)
    order = ">" if storage.archive.byteorder == "big" else "<"
    rows = list(Struct(f"{order}{inner}q").iter_unpack(raw))
    return (
        count,
        *(column[0] if len(set(column)) == 1 else -1 for column in zip(*rows, strict=True)),
    )


def _jagged(reader: Tensors, call: Call) -> Tensor | None:
    """`torch.nested._internal.nested_tensor._rebuild_njt({"values", "offsets", …})`."""
    given = (as_mapping(call.args[0]) if call.args else None) or {}
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
    made.subclass = global_path(args[0])
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
    from ptinspect.document.storages import InlineStorage
    from ptinspect.pickling.numpy_objects import as_array

    array = as_array(call.args[0]) if len(call.args) == 4 else None
    dtype = dtype_of(call.args[1]) if array else None
    stored = dtype_by_name(array.name) if array else None
    if array is None or dtype is None or stored is None:
        return None
    made = Tensor(
        dtype, array.shape, array.stride, 0, InlineStorage(reader.archive, array.data, "cpu"),
        device_of(call.args[2]), call.args[3] is True, call.offset,
    )  # fmt: skip
    made.stored = stored  # a bfloat16 tensor comes as float32, which numpy has
    return made


def legacy_object(reader: Tensors, call: Call) -> Tensor | None:
    """A tensor class made and then built upon, as torch before 0.4 wrote it: the state is
    (storage, offset, size, stride). Source: `Tensor.__setstate__`, its branch for four parts."""
    path = global_path(call.func) or ""
    if not path.startswith("torch.") or not path.endswith("Tensor"):
        return None
    state = call.state
    if not isinstance(state, tuple) or len(state) != 4:
        return None
    made = _strided(reader, Call(call.func, state, call.opcode, call.offset))
    if made is not None and dtype_of_class(path) is not None:
        made.dtype = dtype_of_class(path)
    return made


def of_tar(reader: Tensors, named: tuple[Value, ...], at: int) -> Tensor | None:
    """A tensor of the tar of torch 0.1: ("tensor", storage or None, offset, size, stride, type,
    key). Source: `torch.serialization._legacy_load.legacy_load`."""
    _, owner, offset, size, stride, kind, _ = named
    found = reader.storages.resolve_id(owner)
    dtype = dtype_of_class(kind.name) if isinstance(kind, Global) else None
    dims, steps = _ints(size), _ints(stride)
    if dtype is None or dims is None or steps is None or not isinstance(offset, int):
        return None
    if found is None:
        return Tensor(dtype, (0,), (1,), 0, None, "cpu", False, at)
    return Tensor(dtype, dims, steps, offset, found.storage, found.storage.location, False, at)


def _uninitialized(reader: Tensors, call: Call) -> Tensor | None:
    """A parameter or buffer of a lazy module, which has no shape yet.

    Source: `torch.nn.parameter.UninitializedTensorMixin.__reduce_ex__` (requires_grad alone).
    """
    grad = bool(call.args) and call.args[0] is True
    made = Tensor(dtype_by_name("float32"), (), None, None, None, "cpu", grad, call.offset)
    made.uninitialized = True
    made.subclass = global_path(call.func)
    made.parameter = (made.subclass or "").endswith("Parameter")
    return made


Reader = Callable[["Tensors", Call], "Tensor | None"]

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
    "torch.nn.parameter.UninitializedParameter": _uninitialized,
    "torch.nn.parameter.UninitializedBuffer": _uninitialized,
    "torch._utils._rebuild_mlc_tensor": _from_numpy,
}
