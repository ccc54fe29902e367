"""The functions that pickles of tensors call, each read as the tensor that it would make.

There is one reader per function of torch: it takes the recorded call and returns a `Tensor`, or
None if the arguments are not what torch writes. Nothing is rebuilt: dtype, shape and so on are
what the file records. Sources: `torch/_utils.py` and, if named, others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from ptinspect.document.elements import swap_bytes
from ptinspect.document.tensor import InlineStorage, Storage, Tensor
from ptinspect.dtypes import DTYPES, DType, dtype_by_name, dtype_of_class
from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.pickling.numpy_objects import Array, as_array
from ptinspect.pickling.pyobjects import (
    as_mapping,
    as_sequence,
    function_path,
    global_path,
)
from ptinspect.pickling.values import Blob, Call, Global, Value

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive
    from ptinspect.limits import Limits

# Storages


@dataclass(slots=True, repr=False, eq=False)
class Reference:
    """A persistent id of a storage: the storage, the class that names its element type, `numel`."""

    storage: Storage
    type: str
    dtype: DType
    numel: int


_TYPED_DICT = "torch.jit._pickle.restore_type_tag"  # TorchScript writes it around a dict
# Protocol 0 writes `str(persistent id)`. torch.load cannot read such a file back.
_ID_TEXT = re.compile(r"\('storage', <class '([\w.]+)'>, '(\w+)', '([\w:]+)', (\d{1,18})\)")


class Storages:
    """The storages of one archive, one object per key (and per view of it)."""

    __slots__ = ("_archive", "by_index")

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.by_index: dict[object, Storage] = {}

    def __iter__(self) -> Iterator[Storage]:
        return iter(self.by_index.values())

    def resolve_id(self, parts: Value) -> Reference | None:
        """Return the storage for the content of a persistent id; None if it is not one of
        torch's."""
        if isinstance(parts, str):
            match = _ID_TEXT.fullmatch(parts)
            parts = ("storage", *match.groups()[:3], int(match[4])) if match else None
        if not isinstance(parts, tuple) or len(parts) < 5 or parts[0] != "storage":
            return None
        kind, key, location, numel = parts[1:5]
        path = kind.path if isinstance(kind, Global) else kind
        dtype = dtype_of_class(path) if isinstance(path, str) else None
        if not isinstance(path, str) or dtype is None:
            return None
        if not isinstance(numel, int) or isinstance(key, list):
            return None
        storage = self.get(str(key), str(location), numel * dtype.itemsize)
        if len(parts) > 5 and isinstance(parts[5], tuple) and len(parts[5]) == 3:
            _, offset, numel = parts[5]
            if isinstance(offset, int) and isinstance(numel, int):
                begin = offset * dtype.itemsize
                storage = self.get(str(key), str(location), numel * dtype.itemsize, begin)
        return Reference(storage, path, dtype, numel)

    def get(self, key: str, location: str, nbytes: int, begin: int = 0) -> Storage:
        """Return the storage of that key, enlarged to the largest reference to it."""
        index: object = (key, begin, nbytes) if begin else key
        storage = self.by_index.get(index)
        if storage is None:
            storage = Storage(*self._archive.resolve_storage(key), location, nbytes, begin)
            self.by_index[index] = storage
        elif nbytes > storage.nbytes:  # two types may refer to one storage
            storage.nbytes = nbytes
        return storage


class Resolver(Protocol):
    """What the readers need of the archive's `TensorReader`."""

    storages: Storages
    archive: Archive
    limits: Limits

    def read(self, value: Value) -> Tensor | None: ...
    def resolve_storage(self, value: Value) -> Reference | None: ...


# Values


def check_not_negative(tensor: Tensor, record: str | None) -> None:
    """Raise DamagedError for a negative size, stride or offset: torch refuses them too."""
    smallest, offset = -1 if tensor.parts else 0, tensor.storage_offset  # -1: a ragged dimension
    message = ""
    if offset is not None and offset < 0:
        message = f"a tensor begins before its storage, at {offset}"
    for attribute, numbers in (("stride", tensor.stride or ()), ("size", tensor.shape)):
        if numbers and min(numbers) < smallest:
            message = f"a tensor's {attribute} is negative: {numbers}"
    if message:
        raise DamagedError(message, where=Place(record, tensor.pickle_offset))


def _ints(value: Value) -> tuple[int, ...] | None:
    items = as_sequence(value)
    if items is None or not all(type(item) is int for item in items):
        return None
    return tuple(item for item in items if isinstance(item, int))


def dtype_of(value: Value) -> DType | None:
    """Return the dtype that a global such as `torch.float32` names."""
    if isinstance(value, Global) and value.module == "torch":
        return dtype_by_name(value.name)
    return None


def device_of(value: Value) -> str:
    """Return `torch.device("cuda", 0)` or a string as torch prints it."""
    if isinstance(value, Call) and function_path(value) == "torch.device":
        return ":".join(str(part) for part in value.args)
    return str(value) if isinstance(value, str) else "unknown"


def layout_of(value: Value) -> str | None:
    """Return `torch.serialization._get_layout("torch.sparse_coo")` as `sparse_coo`."""
    if isinstance(value, Call) and function_path(value) == "torch.serialization._get_layout":
        value = value.args[0] if value.args else None
    if isinstance(value, Global):
        value = value.path
    return value.removeprefix("torch.") if isinstance(value, str) else None


# Readers


def _strided(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_tensor(storage, offset, size, stride)` and `_v2(…, requires_grad, hooks[,
    metadata])`; `_v3` has the dtype before the metadata."""
    args = call.args
    if len(args) < 4:
        return None
    reference, size, stride = reader.resolve_storage(args[0]), _ints(args[2]), _ints(args[3])
    dtype, rest = (reference.dtype if reference else None), args[6:]
    if function_path(call) == "torch._utils._rebuild_tensor_v3":
        dtype, rest = dtype_of(args[6]) if len(args) > 6 else None, args[7:]
    if reference is None or dtype is None or size is None or stride is None:
        return None
    if len(size) > reader.limits.dims:
        raise LimitError(
            f"a tensor of {len(size):,} dimensions, above {reader.limits.dims:,} (dims)",
            limit="dims",
            where=Place(reader.archive.record, call.offset),
        )
    if len(size) != len(stride) or not isinstance(args[1], int):
        return None
    storage, grad = reference.storage, len(args) > 4 and args[4] is True
    tensor = Tensor(dtype, size, stride, args[1], storage, storage.location, grad, call.offset)
    metadata: Value = rest[0] if rest else None
    if isinstance(metadata, Call) and function_path(metadata) == _TYPED_DICT and metadata.args:
        metadata = metadata.args[0]
    metadata = as_mapping(metadata) or {}
    tensor.conj, tensor.neg = metadata.get("conj") is True, metadata.get("neg") is True
    if (tensor.conj and dtype.kind != "complex") or (tensor.neg and dtype.kind == "bool"):
        message = f"a tensor of {dtype.name} cannot be conjugated or negated"
        raise DamagedError(message, where=Place(reader.archive.record, call.offset))
    return tensor


def _quantized(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_qtensor(storage, offset, size, stride, quantizer, requires_grad, hooks)`."""
    if len(call.args) < 6:
        return None
    args = (*call.args[:4], call.args[5])
    tensor = _strided(reader, Call(call.func, args, call.opcode, call.offset))
    if tensor is not None:
        tensor.quantizer = _quantizer(reader, call.args[4])
    return tensor


def _quantizer(reader: Resolver, value: Value) -> dict[str, Value]:
    """(scheme, scale, zero point) or (scheme, scales, zero points, axis), tensors or lists."""
    parts = value if isinstance(value, tuple) and value else (None,)
    scheme = parts[0].name if isinstance(parts[0], Global) else "unknown"
    quantizer: dict[str, Value] = {"qscheme": scheme}
    names = ("scale", "zero_point") if len(parts) == 3 else ("scales", "zero_points", "axis")
    for name, part in zip(names, parts[1:], strict=False):
        tensor = reader.read(part)
        if tensor is not None:
            quantizer[name] = tensor
        elif isinstance(part, int | float | list | tuple):
            quantizer[name] = part
    zeros = quantizer.get("zero_points")
    if isinstance(zeros, Tensor) and zeros.dtype is not None and zeros.dtype.kind == "float":
        # torch writes per_channel_affine here too: `torch._tensor.Tensor._reduce_ex_internal`.
        quantizer["qscheme"] = "per_channel_affine_float_qparams"
    return quantizer


SPARSE_PARTS = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}


def _sparse(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_sparse_tensor(layout, (indices…, values, size[, is_coalesced]))`."""
    layout = layout_of(call.args[0]) if len(call.args) == 2 else None
    data = call.args[1] if len(call.args) == 2 else None
    names = SPARSE_PARTS.get(layout or "")
    if layout is None or names is None or not isinstance(data, tuple) or len(data) <= len(names):
        return None
    return _of_parts(reader, call, layout, names, data, _ints(data[len(names)]))


def _of_parts(
    reader: Resolver, call: Call, layout: str, names: tuple[str, ...], values: tuple[Value, ...],
    shape: tuple[int, ...] | None,
) -> Tensor | None:  # fmt: skip
    """A tensor that consists of others; its dtype, device and gradient are its values'."""
    read = zip(names, map(reader.read, values), strict=False)
    parts = {name: part for name, part in read if part is not None}
    if shape is None or len(parts) < len(names):
        return None
    main = parts["values"]
    return Tensor(
        main.dtype, shape, None, None, None, main.device, main.requires_grad, call.offset, layout,
        parts=parts,
    )  # fmt: skip


def _nested(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_nested_tensor(buffer, sizes, strides, storage offsets)`: one buffer, and int64
    matrices with a row per component."""
    sizes = reader.read(call.args[1]) if len(call.args) == 4 else None
    if sizes is None or len(sizes.shape) > 2:
        return None
    names = ("values", "nested_sizes", "nested_strides", "storage_offsets")
    (count, dims), storage = (*sizes.shape, 0, 0)[:2], sizes.storage
    common: Iterable[int] = (-1,) * dims  # per dimension the size that all components share
    if storage is not None and 0 < sizes.nbytes <= _LARGEST_SIZES and sizes.is_contiguous:
        begin = (sizes.storage_offset or 0) * 8
        order = ">" if storage.archive.byteorder == "big" else "<"
        rows = Struct(f"{order}{dims}q").iter_unpack(storage.read(begin, begin + sizes.nbytes))
        columns = zip(*rows, strict=True)
        common = (column[0] if len(set(column)) == 1 else -1 for column in columns)
    tensor = _of_parts(reader, call, "strided", names, call.args, (count, *common))
    if tensor is not None:
        tensor.subclass = "nested"
    return tensor


_LARGEST_SIZES = 1 << 20  # bytes of the matrix of sizes that are read to find the common ones


def _jagged(reader: Resolver, call: Call) -> Tensor | None:
    """`torch.nested._internal.nested_tensor._rebuild_njt({"values", "offsets", …})`."""
    items = (as_mapping(call.args[0]) if call.args else None) or {}
    values, offsets = reader.read(items.get("values")), reader.read(items.get("offsets"))
    ragged = items.get("_ragged_idx", 1)
    if values is None or offsets is None or not isinstance(ragged, int) or not offsets.shape:
        return None
    dims = list(values.shape)
    if not 0 < ragged <= len(dims):
        return None
    dims[ragged - 1] = -1
    names = ("values", "offsets") + (("lengths",) if items.get("lengths") is not None else ())
    shape = (offsets.shape[0] - 1, *dims)
    tensor = _of_parts(reader, call, "jagged", names, tuple(items.get(n) for n in names), shape)
    if tensor is not None:
        tensor.requires_grad = items.get("requires_grad") is True
    return tensor


def _meta(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)`."""
    if len(call.args) != 4:
        return None
    dtype, size, stride = dtype_of(call.args[0]), _ints(call.args[1]), _ints(call.args[2])
    if dtype is None or size is None or stride is None or len(size) != len(stride):
        return None
    return Tensor(dtype, size, stride, 0, None, "meta", call.args[3] is True, call.offset)


def _wrapper(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_wrapper_subclass(cls, dtype, size, stride, offset, layout, device, grad)`."""
    args = call.args
    size = _ints(args[2]) if len(args) == 8 else None
    if size is None:
        return None
    return Tensor(
        dtype_of(args[1]), size, _ints(args[3]), args[4] if isinstance(args[4], int) else None,
        None, device_of(args[6]), args[7] is True, call.offset, layout_of(args[5]) or "strided",
        subclass=global_path(args[0]),
    )  # fmt: skip


def _on_device(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)`: the values
    of a device that cannot share storages (xla), written from the CPU."""
    data = reader.read(call.args[0]) if len(call.args) == 4 else None
    if data is None:
        return None
    return Tensor(
        data.dtype, data.shape, data.stride, data.storage_offset, data.storage,
        device_of(call.args[2]), call.args[3] is True, call.offset, parts=data.parts,
    )  # fmt: skip


def array_tensor(array: Array | None, archive: Archive) -> Tensor | None:
    """Return the tensor with the elements of a NumPy array; None without one, and for a dtype that
    torch does not have."""
    dtype = DTYPES.get(array.name) if array else None
    if array is None or dtype is None:
        return None
    data, content = array.data, array.content
    if content is None:
        return None
    if dtype.swap > 1 and (array.dtype[0] == ">") != (archive.byteorder == "big"):
        content = content.read() if isinstance(content, Blob) else content
        data = swap_bytes(content, dtype.swap)
    storage = InlineStorage(archive, data, "cpu")
    return Tensor(dtype, array.shape, array.stride, 0, storage, "cpu", False, 0)


def _from_numpy(reader: Resolver, call: Call) -> Tensor | None:
    """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`, and
    `_rebuild_xla_tensor`, its older name."""
    array = as_array(call.args[0], scalars=True) if len(call.args) == 4 else None
    tensor = array_tensor(array, reader.archive)
    dtype = dtype_of(call.args[1]) if tensor else None
    if tensor is None or tensor.storage is None or dtype is None:
        return None
    # `stored` stays: a bfloat16 tensor is written as float32, which numpy has.
    tensor.dtype, tensor.device, tensor.pickle_offset = dtype, device_of(call.args[2]), call.offset
    tensor.storage.location, tensor.requires_grad = tensor.device, call.args[3] is True
    return tensor


def legacy_object(reader: Resolver, call: Call) -> Tensor | None:
    """A tensor class instantiated and then built upon, as torch before 0.4 wrote it: the state is
    (storage, offset, size, stride). Source: `Tensor.__setstate__`, its branch for four parts."""
    path = global_path(call.func) or ""
    if not path.startswith("torch.") or not path.endswith("Tensor"):
        return None
    state = call.state
    if not isinstance(state, tuple) or len(state) != 4:
        return None
    tensor = _strided(reader, Call(call.func, state, call.opcode, call.offset))
    if tensor is not None:
        tensor.dtype = dtype_of_class(path) or tensor.dtype
    return tensor


def tar_tensor(reader: Resolver, parts: tuple[Value, ...], offset: int) -> Tensor | None:
    """A tensor of the tar of torch 0.1: ("tensor", storage or None, offset, size, stride, type,
    key). Source: `torch.serialization._legacy_load.legacy_load`."""
    _, owner, storage_offset, size, stride, kind, _ = parts
    reference = reader.storages.resolve_id(owner)
    dtype = dtype_of_class(kind.name) if isinstance(kind, Global) else None
    shape, steps = _ints(size), _ints(stride)
    if dtype is None or shape is None or steps is None or not isinstance(storage_offset, int):
        return None
    if reference is None:
        return Tensor(dtype, (0,), (1,), 0, None, "cpu", False, offset)
    storage = reference.storage
    return Tensor(dtype, shape, steps, storage_offset, storage, storage.location, False, offset)


def _uninitialized(reader: Resolver, call: Call) -> Tensor | None:
    """A parameter or buffer of a lazy module, which has no shape yet. Source:
    `torch.nn.parameter.UninitializedTensorMixin.__reduce_ex__` (requires_grad alone)."""
    grad, path = bool(call.args) and call.args[0] is True, global_path(call.func) or ""
    return Tensor(
        dtype_by_name("float32"), (), None, None, None, "cpu", grad, call.offset,
        parameter=path.endswith("Parameter"), subclass=path, uninitialized=True,
    )  # fmt: skip


def _encoded(reader: Resolver, call: Call) -> Tensor | None:
    """`encoded_tensor(storage, size, encoding)` of `ptinspect.formats.safetensors`."""
    if len(call.args) != 3 or not isinstance(call.args[2], str):
        return None
    reference, size = reader.resolve_storage(call.args[0]), _ints(call.args[1])
    if reference is None or size is None:
        return None
    encoding = str(call.args[2])
    return Tensor(
        None, size, None, None, reference.storage, "cpu", False, call.offset, encoding=encoding
    )


READERS: dict[str, Callable[[Resolver, Call], Tensor | None]] = {
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
    "ptinspect.encoded_tensor": _encoded,
    "torch.nn.parameter.UninitializedParameter": _uninitialized,
    "torch.nn.parameter.UninitializedBuffer": _uninitialized,
}
