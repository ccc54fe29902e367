"""Tensors and the storages that they view, as a file records them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place
from ptinspect.pickling.numpy_objects import is_in_c_order
from ptinspect.pickling.pyobjects import as_bytes
from ptinspect.pickling.values import Blob, TensorCall, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.dtypes import DType
    from ptinspect.formats.archive import Archive, Span

CHUNK = 1 << 20
"""Bytes that are read at once when a tensor is streamed."""

PACKED = {"quint4x2": 2, "quint2x4": 4}
"""Elements per byte of the types that torch packs. Source: `c10/core/ScalarType.h`."""


@dataclass(slots=True, repr=False, eq=False)
class Storage:
    """Bytes that one or more tensors view: `key` of the root storage, device tag as recorded (never
    looked up), size, and the byte offset of a legacy view within its root. Source: the persistent
    id ("storage", type, key, location, numel) that `torch.serialization._save` writes;
    `_legacy_save` adds (view key, offset, size)."""

    archive: Archive
    key: str
    location: str
    nbytes: int
    begin: int = 0

    @property
    def root(self) -> tuple[str, int]:
        """A key of the root storage."""
        return self.key, id(self.archive)

    @property
    def span(self) -> Span:
        """Position of the root's bytes. DamagedError if the file does not have them."""
        try:
            return self.archive.storages[self.key]
        except KeyError:
            raise DamagedError(
                f"the storage {self.key} is missing ({self.nbytes:,} bytes)",
                where=Place(self.archive.record),
                hint=DOWNLOAD_AGAIN,
            ) from None

    @property
    def record(self) -> str | None:
        return self.place[0]

    @property
    def file_offset(self) -> int | None:
        """Byte offset of the data in the file; None if the record is compressed."""
        return self.place[1]

    @property
    def place(self) -> tuple[str | None, int | None]:
        """`record` and `file_offset`, with one lookup for both."""
        span = self.span
        return span.record, None if span.offset is None else span.offset + self.begin

    def check(self) -> None:
        """Raise DamagedError if the file holds fewer bytes than the storage has."""
        if self.archive.length_of(self.key) < self.begin + self.nbytes:
            span = self.span
            raise DamagedError(
                f"the storage {self.key} has {span.length:,} of {self.begin + self.nbytes:,} bytes",
                where=Place(span.record),
                hint=DOWNLOAD_AGAIN,
            )

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, in the file's byte order."""
        return self.archive.read(self.span, self.begin + start, self.begin + stop)

    def chunks(self, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` in chunks of `size`."""
        return self.archive.chunks(self.span, self.begin + start, self.begin + stop, size)


class InlineStorage(Storage):
    """Bytes inside the pickle itself, such as a numpy array's."""

    __slots__ = ("data",)

    def __init__(self, archive: Archive, data: Value, location: str) -> None:
        content = data if isinstance(data, Blob) else (as_bytes(data) or b"")
        super().__init__(archive, f"inline:{id(data)}", location, len(content))
        self.data: Blob | bytes = content

    @property
    def place(self) -> tuple[str | None, int | None]:
        """`record` and `file_offset`; the offset is None for bytes that are escaped or copied."""
        if isinstance(self.data, Blob) and self.archive.origin is not None:
            return self.archive.record, self.archive.origin + self.data.start
        return self.archive.record, None

    def check(self) -> None:
        """Do nothing: the bytes were read with the pickle."""

    def read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= len(self.data):
            raise DamagedError(
                f"bytes {start:,} to {stop:,} of an array of {len(self.data):,} bytes are needed",
                where=Place(self.record),
            )
        data = self.data
        return data.read(start, stop) if isinstance(data, Blob) else data[start:stop]

    def chunks(self, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
        for begin in range(start, stop, size):
            yield self.read(begin, min(stop, begin + size))


def storage_places(storages: list[Storage | None]) -> list[tuple[str | None, int | None]]:
    """Return `Storage.place` of each, (None, None) for None. One lookup if all are in one file."""
    archive = storages[0].archive if storages and storages[0] is not None else None
    if archive and all(
        type(s) is Storage and s.archive is archive and not s.begin for s in storages
    ):
        locations = [*archive.locate([storage.key for storage in storages if storage])]
        if None not in locations:
            return [(location[3], location[0]) for location in locations if location]
    return [(None, None) if storage is None else storage.place for storage in storages]


NOTHING: Mapping[Any, Any] = MappingProxyType({})
"""An empty mapping that all tensors without parts, attributes or a quantizer share."""


@dataclass(slots=True, repr=False, eq=False)
class Tensor:
    """A tensor as the file records it.

    Attributes:
        dtype: None if only running foreign code would tell.
        shape: elements per dimension; -1 for a dimension of a nested tensor with several lengths.
        stride, storage_offset: in elements; None if the layout has none.
        storage: None for meta tensors and for tensors that consist of `parts`.
        device: as recorded.
        pickle_offset: byte offset of the opcode that makes it.
        layout: "strided", "sparse_coo", "jagged" and so on.
        parameter: True for an nn.Parameter.
        subclass: path of a class other than Tensor and Parameter.
        encoding: name of an element type that torch lacks, e.g. "Q4_0"; its dtype is None.
        stored: dtype of the bytes, if loading converts them; else `dtype`.
        uninitialized: True in a lazy module, whose file records no shape.
        parts: the tensors that it consists of, e.g. indices and values of a sparse one.
        state: Python attributes set on it.
        quantizer: scheme, scale and so on.
        conj, neg: bits by which torch marks that the logical values differ from the stored ones.
    """

    dtype: DType | None
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    storage_offset: int | None
    storage: Storage | None
    device: str
    requires_grad: bool
    pickle_offset: int
    layout: str = "strided"
    parameter: bool = False
    subclass: str | None = None
    encoding: str | None = None
    stored: DType | None = None
    uninitialized: bool = False
    parts: Mapping[str, Tensor] = field(default_factory=lambda: NOTHING)
    state: Mapping[Value, Value] = field(default_factory=lambda: NOTHING)
    quantizer: Mapping[str, Value] = field(default_factory=lambda: NOTHING)
    conj: bool = False
    neg: bool = False

    def __post_init__(self) -> None:
        self.stored = self.stored or self.dtype

    @property
    def numel(self) -> int:
        """Elements, zeros of a sparse layout included; of a ragged tensor, those of its values."""
        if self.uninitialized:
            return 0
        if -1 in self.shape and "values" in self.parts:
            return self.parts["values"].numel
        return prod(self.shape)

    @property
    def per_byte(self) -> int:
        """Elements in one byte: more than one in the types that torch packs."""
        return PACKED.get(self.dtype.name, 1) if self.dtype else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the values without gaps; the sum of its parts' if it consists of parts."""
        if self.parts:
            return sum(part.nbytes for part in self.parts.values())
        if self.encoding is not None and self.storage is not None:
            return self.storage.nbytes
        return -(-self.numel // self.per_byte) * self.dtype.itemsize if self.dtype else 0

    @property
    def is_contiguous(self) -> bool:
        return self.stride is None or is_in_c_order(self.shape, self.stride)

    @property
    def is_float(self) -> bool:
        return self.dtype is not None and self.dtype.kind in ("float", "complex")

    @property
    def extent(self) -> tuple[int, int]:
        """The range of the storage's elements, end excluded, that the tensor can touch."""
        first = self.storage_offset or 0
        if self.stride is None or self.storage_offset is None or self.uninitialized:
            return first, first
        return extent(first, self.shape, self.stride)

    @property
    def byte_span(self) -> tuple[int, int]:
        """The bytes of the root storage between which a dense tensor lies."""
        assert self.storage is not None and self.stored is not None
        begin, itemsize = self.storage.begin, self.stored.itemsize
        if self.stored.name in PACKED:
            return begin, begin + self.storage.nbytes
        low, high = self.extent
        return begin + low * itemsize, begin + high * itemsize

    @property
    def view_key(self) -> tuple[object, ...]:
        """A key that is equal for two tensors exactly if they are the same values in the same
        bytes: one view of one storage, conjugated and negated alike."""
        if self.storage is None:
            return (id(self),)
        place = (id(self.storage.archive), self.storage.key, self.storage.begin)
        view = (self.storage_offset, self.shape, self.stride, self.dtype, self.conj, self.neg)
        return (*place, *view)


_new_tensor = Tensor.__new__


def strided_tensor(call: TensorCall, dtype: DType, storage: Storage) -> Tensor:
    """Return the tensor of a plain call. Setting the fields takes a third of the time of the
    constructor, and files have thousands of tensors."""
    tensor, form = _new_tensor(Tensor), call.form
    tensor.dtype = tensor.stored = dtype
    tensor.shape, tensor.stride, tensor.storage_offset = form.size, form.stride, form.storage_offset
    tensor.storage, tensor.device, tensor.layout = storage, storage.location, "strided"
    tensor.requires_grad, tensor.pickle_offset = form.requires_grad, call.offset
    tensor.parameter = tensor.uninitialized = tensor.conj = tensor.neg = False
    tensor.subclass = tensor.encoding = None
    tensor.parts = tensor.state = tensor.quantizer = NOTHING
    return tensor


# Thousands of tensors of a model have the same few shapes.


@lru_cache(1 << 10)
def extent(first: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, int]:
    """Return the range of elements, end excluded, from the first one of a tensor on."""
    low = high = first
    for size, step in zip(shape, stride, strict=True):
        if size == 0:
            return first, first
        if step > 0:
            high += (size - 1) * step
        else:
            low += (size - 1) * step
    return low, high + 1
