"""A tensor, as a file records it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.pickling.values import Value

if TYPE_CHECKING:
    from ptinspect.document.storages import Storage
    from ptinspect.dtypes import DType


PACKED = {"quint4x2": 2, "quint2x4": 4}
"""Element types of which several share a byte, and how many: `c10/core/ScalarType.h`."""


class Tensor:
    """A tensor as the file has it.

    dtype: None where only running foreign code would tell. shape in elements per dimension;
    stride and storage_offset in elements, None where the layout has none. device: as recorded.
    storage: None for meta tensors and for those that consist of `parts` (sparse: indices and
    values; nested; packed). parameter: an nn.Parameter. subclass: a class other than these two.
    state: Python attributes set on it. quantizer: scheme, scale and so on. conj, neg: the bits
    by which torch marks that the logical values differ from the stored ones. stored: the dtype
    in which the bytes lie, where loading converts them. uninitialized: of a lazy module, whose
    file records no shape. A dimension of a nested tensor without one length is -1.
    """

    __slots__ = (
        "at", "conj", "device", "dtype", "layout", "neg", "parameter", "parts", "quantizer",
        "requires_grad", "shape", "state", "storage", "storage_offset", "stored", "stride",
        "subclass", "uninitialized",
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
        self.stored = dtype
        self.uninitialized = False
        self.parts: dict[str, Tensor] = {}
        self.state: dict[Value, Value] = {}
        self.quantizer: dict[str, Value] = {}
        self.conj = self.neg = False

    @property
    def numel(self) -> int:
        """Elements, zeros of a sparse layout included; of a ragged tensor, those of its values."""
        if self.uninitialized:
            return 0
        if -1 in self.shape and "values" in self.parts:
            return self.parts["values"].numel
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def per_byte(self) -> int:
        """Elements in one byte: more than one in the types that torch packs."""
        return PACKED.get(self.dtype.name, 1) if self.dtype else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the values, laid out without gaps; of the parts, where it consists of those."""
        if self.parts:
            return sum(part.nbytes for part in self.parts.values())
        return -(-self.numel // self.per_byte) * self.dtype.itemsize if self.dtype else 0

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
