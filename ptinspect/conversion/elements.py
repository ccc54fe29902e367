"""Elements that change on the way: their dtype, their byte order, their layout.

Beside `document.bridge` the one place that imports numpy and ml_dtypes, and only where
something must change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.bridge import contiguous, numpy_type, swapped
from ptinspect.errors import DamagedError, Place, UnsupportedError
from ptinspect.formats.dtypes import DTYPES, DType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from ptinspect.document.tensor import Tensor

    Convert = Callable[[bytes], bytes]

CHUNK = 1 << 20
"""Bytes that are laid out at a time."""

TARGETS = tuple(
    name for name, row in DTYPES.items() if row.kind == "float" and name not in
    ("float4_e2m1fn_x2", "float8_e8m0fnu")
)  # fmt: skip
"""What `--dtype` takes: floating types to which torch rounds, and to which we round as it does."""


def can_cast(dtype: DType) -> bool:
    """Whether `--dtype` touches a tensor of that type."""
    return dtype.name in TARGETS


def caster(source: DType, target: DType) -> Convert:
    """Changes the dtype of little-endian elements: rounds to the nearest, ties to even, as
    `tensor.to(dtype)` does on a CPU, bit for bit (any NaN becomes a NaN).

    torch goes from float64 to the small types by way of float32, and between two small ones too
    (c10/util/Half.h, BFloat16.h, Float8_*.h), which rounds twice.
    """
    import numpy as np

    first, last = numpy_type(source), numpy_type(target)
    middle = np.dtype("<f4") if target.itemsize < 4 else last
    saturates = target.name == "float8_e4m3fn"  # as torch 2.13 does: it has no infinity

    def convert(raw: bytes) -> bytes:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.frombuffer(raw, first).astype(middle)
            if saturates:
                values = np.clip(values, -448, 448)
            return values.astype(last).tobytes()

    return convert


def swapper(dtype: DType) -> Convert | None:
    """Brings big-endian elements into little-endian order; None where there is nothing to do."""
    unit = dtype.swap
    return (lambda raw: swapped(raw, unit)) if unit > 1 else None


def chained(*steps: Convert | None) -> Convert | None:
    """One after the other; None for no step at all."""
    real = [step for step in steps if step is not None]
    if not real:
        return None

    def convert(raw: bytes) -> bytes:
        for step in real:
            raw = step(raw)
        return raw

    return convert


def laid_out(tensor: Tensor) -> Iterator[bytes]:
    """The values in C order, little-endian, in pieces of about `CHUNK` bytes, without holding
    more of the tensor than a row of its first dimension needs.

    UnsupportedError for a tensor of parts and for one without bytes; DamagedError where the
    storage is too short.
    """
    size = tensor.dtype.itemsize if tensor.dtype else 1
    rows = tensor.shape[0] if tensor.shape else 0
    if rows < 2 or tensor.nbytes <= CHUNK or tensor.numel == 0:
        yield contiguous(tensor)
        return
    row = max(tensor.numel // rows * size, 1)
    step = max(CHUNK // row, 1)
    if _is_scattered(tensor, step):
        yield from _from_whole(tensor, step)
        return
    for begin in range(0, rows, step):
        yield contiguous(_rows(tensor, begin, min(begin + step, rows)))


def _rows(tensor: Tensor, begin: int, end: int) -> Tensor:
    """`tensor[begin:end]`."""
    from copy import copy

    assert tensor.stride is not None and tensor.storage_offset is not None
    part = copy(tensor)
    part.shape = (end - begin, *tensor.shape[1:])
    part.storage_offset = tensor.storage_offset + begin * tensor.stride[0]
    return part


def _is_scattered(tensor: Tensor, step: int) -> bool:
    """Whether a few rows lie all over the storage, as those of a transposed matrix do, so that
    reading them one after the other would read it again and again."""
    part = _rows(tensor, 0, step)
    low, high = part.extent
    return high - low > 8 * max(part.numel, 1)


def _from_whole(tensor: Tensor, step: int) -> Iterator[bytes]:
    """The same from the tensor's bytes as a whole: mapped where they lie in a file as they are,
    else held in memory."""
    import numpy as np

    storage, dtype = tensor.storage, tensor.stored
    if storage is None or dtype is None or tensor.stride is None or tensor.storage_offset is None:
        raise UnsupportedError("the tensor has no bytes in the file")
    low, high = tensor.extent
    size = dtype.itemsize
    if low < 0 or high * size > storage.nbytes:
        raise DamagedError(
            f"a tensor reaches beyond its storage {storage.key}",
            where=Place(storage.archive.record, tensor.at),
        )
    odd = tensor.conj or tensor.neg or tensor.dtype is not dtype
    if odd or storage.archive.byteorder == "big":
        yield contiguous(tensor)
        return
    raw = storage.read(low * size, high * size)
    base = np.frombuffer(raw, np.dtype((np.void, size)))[tensor.storage_offset - low :]
    strides = [each * size for each in tensor.stride]
    view: np.ndarray[tuple[int, ...], np.dtype[np.void]]
    view = np.lib.stride_tricks.as_strided(base, tensor.shape, strides, writeable=False)
    for begin in range(0, tensor.shape[0], step):
        yield view[begin : begin + step].tobytes()


__all__ = ["TARGETS", "can_cast", "caster", "chained", "laid_out", "swapper"]
