"""Inert values as torch.save of today would make them: tensors, OrderedDicts, storages' ids.

Sources: `torch._tensor.Tensor._reduce_ex_internal` for the calls and their arguments,
`torch.serialization._save.persistent_id` for the five parts of a storage's id,
`torch.storage._dtype_to_storage_type_map` and `_new_dtypes` for its class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES
from ptinspect.pickling.values import Call, Global, PersistentId, Value

if TYPE_CHECKING:
    from ptinspect.conversion.tensors.storage_layout import Written
    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType

UNTYPED = Global("torch.storage", "UntypedStorage", 0)
ORDERED = Global("collections", "OrderedDict", 0)
REBUILD_2 = Global("torch._utils", "_rebuild_tensor_v2", 0)
REBUILD_3 = Global("torch._utils", "_rebuild_tensor_v3", 0)
REBUILD_Q = Global("torch._utils", "_rebuild_qtensor", 0)
PARAMETER = Global("torch._utils", "_rebuild_parameter", 0)

_CLASSES = {
    dtype.name: Global("torch", dtype.storage, 0) for dtype in DTYPES.values() if dtype.storage
}


def storage_class(dtype: DType) -> Global:
    """The class that a persistent id names for elements of that type."""
    return _CLASSES.get(dtype.name, UNTYPED)


def is_new(dtype: DType) -> bool:
    """Whether torch writes such tensors by `_rebuild_tensor_v3`, with an untyped storage."""
    return dtype.name not in _CLASSES


class StorageId(PersistentId):
    """The id of a storage that is being written; its key is known once it is."""

    __slots__ = ("kind", "written")

    def __init__(self, written: Written, kind: Global) -> None:
        super().__init__(None, 0)
        self.written = written
        self.kind = kind


def tensor_value(
    tensor: Tensor, stored: DType, written: Written, offset: int, laid_out: bool, quantizer: Value
) -> Call:
    """The call that makes a dense tensor whose elements lie at `offset` of a written storage.

    stored: its dtype there. laid_out: without gaps in C order. quantizer: as the source has it,
    for a quantized tensor.
    """
    size = (*tensor.shape,)  # of its own: the memo of torch's pickler knows no equal ones
    stride = c_strides(tensor.shape) if laid_out else (*(tensor.stride or ()),)
    kind = storage_class(stored)
    place = (StorageId(written, kind), offset, size, stride)
    if tensor.quantizer:
        return _call(REBUILD_Q, (*place, quantizer, tensor.requires_grad, ordered()))
    args: tuple[Value, ...] = (*place, tensor.requires_grad, ordered())
    if is_new(stored):
        args = (*args, Global("torch", stored.name, 0))
    bits = {name: True for name in ("conj", "neg") if getattr(tensor, name)}
    if bits and not laid_out:
        args = (*args, bits)
    return _call(REBUILD_3 if is_new(stored) else REBUILD_2, args)


def parameter_value(inner: Value, requires_grad: bool) -> Call:
    """An nn.Parameter around a tensor."""
    return _call(PARAMETER, (inner, requires_grad, ordered()))


def ordered(
    pairs: Iterable[tuple[Value, Value]] = (), state: dict[Value, Value] | None = None
) -> Call:
    """An OrderedDict, with attributes where `state` has some (`_metadata` of a state_dict)."""
    made = _call(ORDERED, ())
    items = dict(pairs)
    if items:
        made.change().pairs.update(items)
    if state:
        made.change().states.append(state)
    return made


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, in elements."""
    made, step = [], 1
    for size in reversed(shape):
        made.append(step)
        step *= max(size, 1)
    return tuple(reversed(made))


def _call(func: Global, args: tuple[Value, ...]) -> Call:
    return Call(func, args, "REDUCE", 0)
