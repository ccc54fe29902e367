"""Tensors that are said to reach beyond their storage (CVE-2026-24747 and its like)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.pickling.values import Call, PersistentId, Value

if TYPE_CHECKING:
    from ptinspect.pickling.tensor_fastpath import TensorCall

VIEWS = frozenset(
    (
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    )
)
"""What makes a view of a storage."""

DIMS = 64
"""Dimensions that a tensor may have for torch; it says the rest itself."""

_INTS = frozenset((int,))


def reaches_beyond(args: tuple[Value, ...]) -> bool:
    """Whether a view, (storage, offset, size, stride, …), needs elements that its storage does not
    have. Where that cannot be told, torch tells."""
    stored = args[0].value if args and isinstance(args[0], PersistentId) else None
    if not isinstance(stored, tuple) or len(stored) < 5 or len(args) < 4:
        return False
    numel, (offset, size, stride) = stored[4], args[1:4]
    if isinstance(size, Call) and size.args:
        size = size.args[0]  # torch.Size((2, 2))
    if type(numel) is not int or type(offset) is not int:
        return False
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) > DIMS:
        return False
    stride = stride[: len(size)]
    if not set(map(type, (*size, *stride))) <= _INTS:
        return False
    return extent(offset, size, stride) > numel


def reach(made: TensorCall) -> int:
    """Elements that the storage of a tensor must have, which the machine read in one go."""
    return extent(made.storage_offset, made.size, made.stride)


def extent(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements that the storage of a view must have; 0 for a view of nothing."""
    last = offset
    for length, step in zip(size, stride, strict=False):
        if length == 0:
            return 0
        last += (length - 1) * step
    return last + 1
