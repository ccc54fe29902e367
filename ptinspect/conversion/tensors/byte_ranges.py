"""What the bytes of a written storage consist of, each piece told before any is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.conversion.tensors.contiguous import laid_out
from ptinspect.formats.torch_zip import TorchZip, ZipSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ptinspect.document.tensor import Storage, Tensor
    from ptinspect.dtypes import DType

    Convert = Callable[[bytes], bytes]


class Piece:
    """`length` bytes of an output. changed: they are not as they stand in a source."""

    length: int
    changed = True

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces of about a megabyte."""
        raise NotImplementedError

    def place(self) -> tuple[int, int] | None:
        """(descriptor, offset) where they stand as they are in an open file; else None."""
        return None

    def crc(self) -> int | None:
        """Their CRC-32, where a source recorded it."""
        return None


class Held(Piece):
    """Bytes in memory: padding, and small things."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    def chunks(self) -> Iterator[bytes]:
        """See `Piece`."""
        yield self.data


class Range(Piece):
    """Bytes `start` to `stop` of a storage of a source, as they are."""

    changed = False

    def __init__(self, storage: Storage, start: int, stop: int) -> None:
        self.storage = storage
        self.start = start
        self.stop = stop
        self.length = stop - start

    def chunks(self) -> Iterator[bytes]:
        """See `Piece`."""
        return self.storage.chunks(self.start, self.stop)

    def place(self) -> tuple[int, int] | None:
        """See `Piece`. None as well where the bytes lie in memory, or compressed."""
        archive, begin = self.storage.archive, self.storage.begin + self.start
        span = archive.storages.get(self.storage.key)
        descriptor = archive.source.descriptor
        if span is None or span.offset is None or descriptor is None:
            return None
        return descriptor, span.offset + begin

    def crc(self) -> int | None:
        """See `Piece`: taken over from the zip's directory, for a whole record. All zeros there
        mean that none was recorded."""
        archive, storage = self.storage.archive, self.storage
        if not isinstance(archive, TorchZip) or storage.begin or self.start:
            return None
        span = archive.storages.get(storage.key)
        if not isinstance(span, ZipSpan) or span.length != self.stop:
            return None
        directory = span.directory
        return directory.crcs[span.index] if directory.has_crcs else None


class Cast(Piece):
    """The same after a change of each element: `convert` takes `unit` bytes at a time, and gives
    `made` for them."""

    def __init__(self, inner: Range, convert: Convert, unit: int, made: int) -> None:
        self.inner = inner
        self.convert = convert
        self.unit = unit
        self.length = inner.length // unit * made

    def chunks(self) -> Iterator[bytes]:
        """See `Piece`."""
        for chunk in whole_units(self.inner.chunks(), self.unit):
            yield self.convert(chunk)


class Gather(Piece):
    """A tensor's values, laid out without gaps in C order, as `dtype`."""

    def __init__(self, tensor: Tensor, dtype: DType, convert: Convert | None) -> None:
        self.tensor = tensor
        self.convert = convert
        self.length = tensor.numel * dtype.itemsize

    def chunks(self) -> Iterator[bytes]:
        """See `Piece`."""
        for chunk in laid_out(self.tensor):
            yield self.convert(chunk) if self.convert else chunk


def whole_units(chunks: Iterator[bytes], unit: int) -> Iterator[bytes]:
    """The same bytes in chunks that end between units of that size."""
    left = b""
    for chunk in chunks:
        chunk = left + chunk if left else chunk
        cut = len(chunk) - len(chunk) % unit
        left = chunk[cut:]
        if cut:
            yield chunk[:cut] if left else chunk
