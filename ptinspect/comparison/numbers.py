"""The numbers of two tensors, compared block by block in bounded memory.

Equal tensors are recognised by comparing bytes; only where the bytes differ are they decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptinspect.document.elements import aligned, bounds, dense_storage, iter_contiguous
from ptinspect.document.tensor import Storage, Tensor
from ptinspect.document.to_array import count_nonzero, dot, ignore_numpy_warnings, iter_numbers
from ptinspect.errors import PtInspectError, UnsupportedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from ptinspect.source.base import Source

    Numbers = npt.NDArray[Any]

LARGE = 1 << 20
"""Size in bytes from which tensors are compared without a copy of each block."""

READ = 1 << 17
"""Bytes of each file that are compared at once: they stay within a core's cache."""

BLOCK = 1 << 16
"""Elements that are compared at once: their float64 copies stay within a core's cache."""


@dataclass(frozen=True, slots=True)
class ValueChange:
    """How the numbers of one tensor differ from those of another of the same shape.

    Means and maxima run over the pairs in which both numbers are finite; the relative ones over
    those of them whose first number is not 0. All are float64.

    Attributes:
        elements: number of elements of each tensor.
        changed: elements whose numbers differ by more than the tolerance. Two NaN are equal, and
            0.0 equals -0.0.
        cosine: of the finite pairs as two vectors; None if one of them has norm 0.
        nan_a, nan_b: elements that are NaN.
    """

    elements: int
    changed: int
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    cosine: float | None
    nan_a: int
    nan_b: int


def same_bytes(a: Tensor, b: Tensor, advance: Callable[[int], None]) -> bool:
    """Return True if two tensors of one dtype and shape have the same logical bytes, part by part
    if they consist of parts (sparse, nested), and the same scales and zero points. `advance` gets
    the number of bytes compared."""
    if not _same_parts(a.quantizer, b.quantizer, lambda _: None):
        return False
    if a.parts or b.parts:
        return _same_parts(a.parts, b.parts, advance)
    if a.storage is None or b.storage is None:
        return a.storage is b.storage  # meta tensors have no bytes
    range_a, range_b = _stored_range(a), _stored_range(b)
    if range_a is not None and range_b is not None:
        (source_a, offset_a), (source_b, offset_b) = range_a, range_b
        x, y = bytearray(READ), bytearray(READ)
        for position in range(0, a.nbytes, READ):
            if a.nbytes - position < READ:
                del x[a.nbytes - position :], y[a.nbytes - position :]
            source_a.read_into(offset_a + position, x)
            source_b.read_into(offset_b + position, y)
            if x != y:
                return False
            advance(len(x))
        return True
    for block, block_b in aligned(iter_contiguous(a), iter_contiguous(b)):
        if block != block_b:
            return False
        advance(len(block))
    return True


def _stored_range(tensor: Tensor) -> tuple[Source, int] | None:
    """Return the source and the offset of a large tensor whose bytes are there as they are; None if
    they are compressed, in pieces, or have to be gathered or converted."""
    if tensor.nbytes < LARGE or tensor.encoding is not None or type(tensor.storage) is not Storage:
        return None
    storage, dtype = dense_storage(tensor)
    is_converted = tensor.dtype is not dtype or tensor.conj or tensor.neg
    is_swapped = storage.archive.byteorder == "big" and dtype.swap > 1
    if is_converted or is_swapped or not tensor.is_contiguous or storage.span.start is None:
        return None
    low, high = bounds(tensor)
    begin, stop = low * dtype.itemsize, high * dtype.itemsize
    storage.chunks(begin, stop)  # raises if the file does not have these bytes
    return storage.archive.source, storage.span.start + storage.begin + begin


def _same_parts(
    a: Mapping[str, object], b: Mapping[str, object], advance: Callable[[int], None]
) -> bool:
    """Return True if two mappings have the same tensors and plain values by name."""

    def same(x: object, y: object) -> bool:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return (x.dtype, x.shape) == (y.dtype, y.shape) and same_bytes(x, y, advance)
        return type(x) is type(y) and repr(x) == repr(y)  # of floats, NaN included

    return a.keys() == b.keys() and all(same(x, b[name]) for name, x in a.items())


def compare_numbers(
    a: Tensor, b: Tensor, tolerance: float, advance: Callable[[int], None]
) -> ValueChange | None:
    """Return how the numbers of two tensors of one shape differ by more than `tolerance + tolerance
    * |a|`; None if they are not numbers or consist of parts. `advance` gets the bytes of `a`
    compared."""
    sums = _Sums()
    itemsize = a.dtype.itemsize if a.dtype is not None else 1
    try:
        with ignore_numpy_warnings():
            for x, y in aligned(iter_numbers(a), iter_numbers(b)):
                for start in range(0, len(x), BLOCK):
                    sums.add(x[start : start + BLOCK], y[start : start + BLOCK], tolerance)
                advance(len(x) * itemsize)
    except UnsupportedError:
        return None
    return sums.result()


class _Sums:
    """Running sums of a comparison."""

    def __init__(self) -> None:
        self.elements = self.changed = self.finite = self.nonzero = self.nan_a = self.nan_b = 0
        self.max_abs = self.sum_abs = self.max_rel = self.sum_rel = 0.0
        self.dot = self.square_a = self.square_b = 0.0

    def add(self, x: Numbers, y: Numbers, tolerance: float) -> None:
        import numpy as np

        self.elements += len(x)
        exact = x.dtype == y.dtype and x.dtype.kind in "iub"
        unequal = x != y if exact else None  # float64 would round an int64
        x, y = _as_float64(x), _as_float64(y)
        if x.dtype.kind == "c" or y.dtype.kind == "c":
            x, y = x.astype(np.complex128), y.astype(np.complex128)
        if unequal is None:
            unequal = x != y
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            nan_x, nan_y = np.isnan(x), np.isnan(y)
            self.nan_a += count_nonzero(nan_x)
            self.nan_b += count_nonzero(nan_y)
            infinite = unequal & ~finite & ~(nan_x & nan_y)
            self.changed += count_nonzero(infinite)
            x, y, unequal = x[finite], y[finite], unequal[finite]
        self.finite += len(x)
        difference = np.abs(x - y)
        size = np.abs(x)
        if tolerance:
            unequal = difference > tolerance + tolerance * size
        self.changed += count_nonzero(unequal)
        if not len(x):
            return
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.sum_abs += float(difference.sum())
        self.square_a += dot(size, size)
        absolute = np.abs(y)
        self.square_b += dot(absolute, absolute)
        self.dot += dot(x, y.conj()) if x.dtype.kind == "c" else dot(x, y)
        nonzero = count_nonzero(size)
        self.nonzero += nonzero
        if nonzero != len(size):
            difference, size = difference[size != 0], size[size != 0]
        if nonzero:
            relative = difference / size
            self.max_rel = max(self.max_rel, float(relative.max()))
            self.sum_rel += float(relative.sum())

    def result(self) -> ValueChange:
        norms = math.sqrt(self.square_a) * math.sqrt(self.square_b)
        cosine = self.dot / norms if norms and math.isfinite(norms) else None
        return ValueChange(
            self.elements, self.changed, self.max_abs, self.sum_abs / max(self.finite, 1),
            self.max_rel, self.sum_rel / max(self.nonzero, 1),
            None if cosine is None else max(-1.0, min(1.0, cosine)), self.nan_a, self.nan_b,
        )  # fmt: skip


def _as_float64(numbers: Numbers) -> Numbers:
    import numpy as np

    return numbers.astype(np.complex128 if numbers.dtype.kind == "c" else np.float64)


def sample(tensor: Tensor, limit: int) -> Numbers | None:
    """Return the first `limit` numbers of a tensor as float64; None if they are not numbers."""
    try:
        with ignore_numpy_warnings():
            for block in iter_numbers(tensor):
                return _as_float64(block[:limit])
    except PtInspectError:
        return None
    return None


def distance(x: Numbers, y: Numbers) -> float:
    """Return the RMS difference of two arrays of one length, relative to the larger RMS: 0 for
    equal numbers, about 1.4 for unrelated ones, infinite if some are not finite."""
    import numpy as np

    with ignore_numpy_warnings():
        largest = max(dot(np.abs(x), np.abs(x)), dot(np.abs(y), np.abs(y)))
        gap = np.abs(x - y)
        result = math.sqrt(dot(gap, gap) / largest) if largest > 0 else 0.0
    return result if math.isfinite(result) else math.inf
