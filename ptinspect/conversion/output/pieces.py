"""The byte ranges that an output consists of, and the conversions of their elements.

The length of a piece is known before any of its bytes is read, so that a file can be laid out
first and written in one pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.elements import iter_contiguous, numpy_type, swap_bytes, whole_elements
from ptinspect.dtypes import DTYPES, DType
from ptinspect.formats.torch.zip_file import TorchZip, ZipSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ptinspect.document.tensor import Storage, Tensor

    Converter = Callable[[bytes], bytes]

CAST_DTYPES = tuple(
    name for name, row in DTYPES.items() if row.kind == "float" and name not in
    ("float4_e2m1fn_x2", "float8_e8m0fnu")
)  # fmt: skip
"""Values of `--dtype`: the floating dtypes to which torch rounds, and to which we round alike."""


class Piece:
    """Bytes of an output.

    Attributes:
        length: number of bytes.
        changed: False if they are copied from a source without a change.
    """

    __slots__ = ("length",)
    length: int
    changed = True

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in chunks of about a megabyte."""
        raise NotImplementedError

    def file_range(self) -> tuple[int, int] | None:
        """Return descriptor and offset of an open file that has these bytes, if there is one."""
        return None

    def recorded_crc(self) -> int | None:
        """Return the CRC-32 that a source recorded for exactly these bytes, if there is one."""
        return None


class BytesPiece(Piece):
    """Bytes in memory: padding and small records."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    def chunks(self) -> Iterator[bytes]:
        yield self.data


class SourceRange(Piece):
    """Bytes `start` to `stop` of a source's storage, unchanged."""

    __slots__ = ("start", "stop", "storage")
    changed = False

    def __init__(self, storage: Storage, start: int, stop: int) -> None:
        self.storage = storage
        self.start = start
        self.stop = stop
        self.length = stop - start

    def chunks(self) -> Iterator[bytes]:
        return self.storage.chunks(self.start, self.stop)

    def file_range(self) -> tuple[int, int] | None:
        """See `Piece`. None also for storages in memory and compressed ones."""
        archive = self.storage.archive
        span = archive.storages.get(self.storage.key)
        descriptor = archive.source.descriptor
        if span is None or span.offset is None or descriptor is None:
            return None
        return descriptor, span.offset + self.storage.begin + self.start

    def recorded_crc(self) -> int | None:
        """See `Piece`. Only for a whole record of a zip whose directory has CRCs."""
        archive, storage = self.storage.archive, self.storage
        if not isinstance(archive, TorchZip) or storage.begin or self.start:
            return None
        span = archive.storages.get(storage.key)
        if not isinstance(span, ZipSpan) or span.length != self.stop:
            return None
        directory = span.directory
        return directory.crcs[span.index] if directory.has_crcs else None


class ConvertedRange(Piece):
    """A range of a storage whose elements are converted one by one.

    Args:
        source: the range.
        convert: called with chunks of whole elements.
        from_size: size of an element before the conversion.
        to_size: size after it.
    """

    __slots__ = ("convert", "from_size", "source")

    def __init__(
        self, source: SourceRange, convert: Converter, from_size: int, to_size: int
    ) -> None:
        self.source = source
        self.convert = convert
        self.from_size = from_size
        self.length = source.length // from_size * to_size

    def chunks(self) -> Iterator[bytes]:
        return map(self.convert, whole_elements(self.source.chunks(), self.from_size))


class TensorPiece(Piece):
    """The elements of a tensor in C order without gaps, cast to `dtype`."""

    __slots__ = ("dtype", "tensor")

    def __init__(self, tensor: Tensor, dtype: DType) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self.length = tensor.numel * dtype.itemsize

    def chunks(self) -> Iterator[bytes]:
        chunks = iter_contiguous(self.tensor, max_repeated=None)
        if self.tensor.dtype is None or self.tensor.dtype is self.dtype:
            return chunks
        return map(dtype_converter(self.tensor.dtype, self.dtype), chunks)


def storage_piece(storage: Storage, start: int, stop: int, source: DType, target: DType) -> Piece:
    """Return bytes of a storage, cast to `target` and little-endian.

    Args:
        storage: the storage.
        start, stop: the range, in bytes.
        source, target: dtypes of its elements in the storage and in the output.
    """
    piece = SourceRange(storage, start, stop)
    convert = dtype_converter(source, target) if source is not target else None
    if storage.archive.byteorder == "big" and source.swap > 1:
        convert = _swap_first(source.swap, convert)
    if convert is None:
        return piece
    return ConvertedRange(piece, convert, source.itemsize, target.itemsize)


def _swap_first(unit: int, convert: Converter | None) -> Converter:
    if convert is None:
        return lambda data: swap_bytes(data, unit)
    return lambda data: convert(swap_bytes(data, unit))


def can_cast(dtype: DType) -> bool:
    """Return True if `--dtype` changes tensors of this dtype."""
    return dtype.name in CAST_DTYPES


def dtype_converter(source: DType, target: DType) -> Converter:
    """Return a function that casts little-endian elements as `tensor.to(dtype)` does on a CPU.

    It rounds to nearest, ties to even, bit for bit like torch, except that any NaN becomes some
    NaN. torch casts float64 to the small dtypes, and between two small ones, by way of float32
    (c10/util/Half.h, BFloat16.h, Float8_*.h), which rounds twice.
    """
    import numpy as np

    first, last = numpy_type(source), numpy_type(target)
    middle = np.dtype("<f4") if target.itemsize < 4 else last
    saturates = target.name == "float8_e4m3fn"  # it has no infinity; torch 2.13 saturates, too

    def convert(data: bytes) -> bytes:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.frombuffer(data, first).astype(middle)
            if saturates:
                values = np.clip(values, -448, 448)
            return values.astype(last).tobytes()

    return convert
