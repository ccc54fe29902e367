"""The byte ranges that an output consists of, and the conversions of their elements.

The length of a piece is known before any of its bytes is read, so that a file can be laid out
first and written in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from math import isinf
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from ptinspect.document.elements import iter_contiguous, numpy_type, swap_bytes, whole_elements
from ptinspect.dtypes import DTYPES, DType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ptinspect.document.tensor import Storage, Tensor
    from ptinspect.formats.archive import FileRange

    Converter = Callable[[bytes], bytes]
    Place = tuple[int | None, int, int | None]
    """Descriptor and offset of an open file that has the bytes of a range (None if there is none:
    the storage is in memory, or compressed), and the CRC-32 that a source recorded for exactly
    these bytes, if there is one: for a whole record of a zip whose directory has CRCs."""

CAST_DTYPES = tuple(
    name for name, row in DTYPES.items() if row.kind == "float" and name not in
    ("float4_e2m1fn_x2", "float8_e8m0fnu")
)  # fmt: skip
"""Values of `--dtype`: the floating dtypes to which torch rounds, and to which we round alike."""


class Piece:
    """Bytes of an output. `changed` is False if they are copied from a source as they are."""

    __slots__ = ("length",)
    length: int
    changed = True

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in chunks of about a megabyte."""
        raise NotImplementedError


class BytesPiece(Piece):
    """Bytes in memory: padding and small records."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    def chunks(self) -> Iterator[bytes]:
        yield self.data


class SourceRange(Piece):
    """Bytes `start` to `stop` of a source's storage, unchanged. `located` may have the `place`."""

    __slots__ = ("located", "start", "stop", "storage")
    changed = False
    located: Place | None

    def __init__(self, storage: Storage, start: int, stop: int) -> None:
        self.storage = storage
        self.start = start
        self.stop = stop
        self.length = stop - start
        self.located = None

    def chunks(self) -> Iterator[bytes]:
        return self.storage.chunks(self.start, self.stop)

    def file_ranges(self) -> list[FileRange] | None:
        """Return the ranges of files that follow one another in these bytes: a tensor that several
        files have pieces of. None for all others."""
        span = self.storage.archive.storages.get(self.storage.key)
        begin = self.storage.begin
        return None if span is None else span.file_ranges(begin + self.start, begin + self.stop)

    def place(self) -> Place:
        """Return the place of these bytes; it is looked up once."""
        if self.located is None:
            locate_pieces([self])
        assert self.located is not None
        return self.located


def locate_pieces(pieces: Iterable[Piece]) -> None:
    """Look up the places of all source ranges, many times faster than one by one. DamagedError if
    the file has fewer bytes than a storage."""
    ranges = [piece for piece in pieces if type(piece) is SourceRange]
    for archive, group in groupby(ranges, attrgetter("storage.archive")):
        members, descriptor = [*group], archive.source.descriptor
        locations = archive.locate([piece.storage.key for piece in members])
        for piece, location in zip(members, locations, strict=True):
            offset, length, crc, _ = location or (None, 0, None, None)
            storage = piece.storage
            if length < storage.begin + storage.nbytes:
                storage.check()
            begin = storage.begin + piece.start
            crc = None if begin or length != piece.stop else crc
            piece.located = (None, 0, crc) if offset is None else (descriptor, offset + begin, crc)


class PlannedTensor(NamedTuple):
    """A tensor of the output: its names there and in SRC, the tensor in SRC, and its dtype in the
    output, or that of its values (None if they are written as they were)."""

    key: str
    source: str
    tensor: Tensor
    dtype: DType | None

    @property
    def is_cast(self) -> bool:
        """True if its elements change."""
        return self.dtype is not None and self.dtype is not self.tensor.dtype

    @property
    def nbytes(self) -> int:
        """Size in the output."""
        if self.dtype is None or not self.is_cast:
            return self.tensor.nbytes
        values = self.tensor.parts.get("values", self.tensor)
        return self.tensor.nbytes - values.nbytes + values.numel * self.dtype.itemsize

    def as_dict(self) -> dict[str, object]:
        """Return the object that `convert -f json` prints."""
        tensor, dtype = self.tensor, self.dtype or self.tensor.dtype
        shape = None if tensor.uninitialized else [None if n < 0 else n for n in tensor.shape]
        return {
            "key": self.key,
            "source": self.source,
            "dtype": dtype.name if dtype else None,
            "shape": shape,
            "nbytes": self.nbytes,
            "changed": self.is_cast,
        }


@dataclass(slots=True)
class LostValues:
    """Numbers that the dtype of the output cannot hold.

    Attributes:
        overflowed: number of finite elements that became infinite, NaN or the largest number.
        largest: the largest magnitude among them.
        underflowed: number of elements that became zero.
        keys: the tensors of the output that have them.
    """

    overflowed: int = 0
    largest: float = 0.0
    underflowed: int = 0
    keys: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.overflowed or self.underflowed)

    def as_dict(self) -> dict[str, object]:
        """Return the object that `convert -f json` prints."""
        largest = "inf" if isinf(self.largest) else self.largest
        return {
            "tensors": self.keys,
            "overflowed": self.overflowed,
            "largest": largest if self.overflowed else None,
            "underflowed": self.underflowed,
        }


class ConvertedRange(Piece):
    """A range of a storage whose elements are converted one by one, by a function that gets chunks
    of whole elements and counts in `loss`. `source_crc` is that of the range once it was read."""

    __slots__ = ("convert", "from_size", "loss", "source", "source_crc")

    def __init__(
        self,
        source: SourceRange,
        convert: Converter,
        from_size: int,
        to_size: int,
        loss: LostValues | None = None,
    ) -> None:
        self.source = source
        self.convert = convert
        self.from_size = from_size
        self.length = source.length // from_size * to_size
        self.loss = LostValues() if loss is None else loss
        self.source_crc = 0

    def chunks(self) -> Iterator[bytes]:
        self.source_crc = 0
        for chunk in whole_elements(self.source.chunks(), self.from_size):
            self.source_crc = crc32(chunk, self.source_crc)
            yield self.convert(chunk)


class TensorPiece(Piece):
    """The elements of a tensor in C order without gaps, cast to `dtype`."""

    __slots__ = ("dtype", "loss", "tensor")

    def __init__(self, tensor: Tensor, dtype: DType) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self.length = tensor.numel * dtype.itemsize
        self.loss = LostValues()

    def chunks(self) -> Iterator[bytes]:
        chunks = iter_contiguous(self.tensor, max_repeated=None)
        if self.tensor.dtype is None or self.tensor.dtype is self.dtype:
            return chunks
        return map(dtype_converter(self.tensor.dtype, self.dtype, self.loss), chunks)


def storage_piece(storage: Storage, start: int, stop: int, source: DType, target: DType) -> Piece:
    """Return bytes `start` to `stop` of a storage of `source` elements, cast to `target` and
    little-endian."""
    piece = SourceRange(storage, start, stop)
    is_swapped = storage.archive.byteorder == "big" and source.swap > 1
    if source is target and not is_swapped:
        return piece
    loss, unit = LostValues(), source.swap
    cast = dtype_converter(source, target, loss) if source is not target else bytes

    def convert(data: bytes) -> bytes:
        return cast(swap_bytes(data, unit) if is_swapped else data)

    return ConvertedRange(piece, convert, source.itemsize, target.itemsize, loss)


def dtype_converter(source: DType, target: DType, loss: LostValues | None = None) -> Converter:
    """Return a function that casts little-endian elements as `tensor.to(dtype)` does on a CPU.

    It rounds to nearest, ties to even, bit for bit like torch, except that any NaN becomes some
    NaN. torch casts float64 to the small dtypes, and between two small ones, by way of float32
    (c10/util/Half.h, BFloat16.h, Float8_*.h), which rounds twice. `loss` counts the numbers that
    `target` cannot hold.
    """
    import numpy as np

    loss = LostValues() if loss is None else loss
    first, last = numpy_type(source), numpy_type(target)
    middle = np.dtype("<f4") if target.itemsize < 4 else last
    saturates = target.name == "float8_e4m3fn"  # it has no infinity; torch 2.13 saturates, too
    # Halfway between its largest number and the next one: from there on, numbers are clipped.
    limit = 464 if saturates else None

    def convert(data: bytes) -> bytes:
        elements = np.frombuffer(data, first)
        with np.errstate(over="ignore", invalid="ignore"):
            values = elements.astype(middle)
            if saturates:
                values = np.clip(values, -448, 448)
            cast = values.astype(last)
            finite = np.isfinite(elements)
            lost = np.abs(elements) > limit if limit else finite & ~np.isfinite(cast)
        if lost.any():
            loss.overflowed += int(np.count_nonzero(lost))
            loss.largest = max(loss.largest, float(np.abs(elements[lost]).max()))
        loss.underflowed += int(np.count_nonzero(elements)) - int(np.count_nonzero(cast))
        return cast.tobytes()

    return convert
