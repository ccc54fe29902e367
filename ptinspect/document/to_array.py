"""Read a tensor's elements as numbers, numpy arrays or a torch tensor.

This is the one module below `proofs` that imports torch, and it imports numpy only when a function
needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from ptinspect.document.elements import (
    READ_COST,
    contiguous,
    iter_contiguous,
    numpy_type,
    out_of_bounds_error,
    whole_elements,
)
from ptinspect.document.tensor import Tensor
from ptinspect.dtypes import Number, can_decode, decoder, unpack_units
from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt
    import torch

SMALL = 1 << 18
"""Bytes up to which the numbers of a tensor are examined without numpy."""


def to_numpy(tensor: Tensor) -> npt.NDArray[np.generic]:
    """Return a read-only array in C order; bfloat16 and float8 are types of ml_dtypes.
    UnsupportedError if neither has the dtype, or the shape is too large."""
    import numpy as np

    if tensor.dtype is None:
        raise UnsupportedError("a tensor without a dtype", hint="read() gives the bytes")
    kind, count = numpy_type(tensor.dtype), 1
    for size in tensor.shape:  # numpy multiplies them even if one is 0
        count *= max(size, 1)
    if count * kind.itemsize > sys.maxsize:
        raise UnsupportedError(f"numpy has no arrays of the shape {tensor.shape}")
    return np.frombuffer(contiguous(tensor), kind).reshape(tensor.shape)


def iter_numbers(tensor: Tensor) -> Iterator[npt.NDArray[Any]]:
    """Yield the elements in C order as arrays of about a megabyte; bfloat16 and float8 become
    float32, complex32 becomes complex64. UnsupportedError if they are not numbers."""
    import numpy as np

    dtype = tensor.dtype
    if dtype is None:
        raise UnsupportedError("a tensor without a dtype")
    name = dtype.name
    table = None
    if name.startswith("float8"):
        table = np.arange(256, dtype=np.uint8).view(numpy_type(dtype)).astype(np.float32)
    elif name not in ("bfloat16", "complex32") and dtype.numpy is None:
        raise UnsupportedError(f"the elements of {name} are not numbers")
    for raw in iter_contiguous(tensor):
        if table is not None:
            yield table[np.frombuffer(raw, np.uint8)]
        elif name == "bfloat16":
            yield np.frombuffer(raw, numpy_type(dtype)).astype(np.float32)
        elif name == "complex32":
            yield np.frombuffer(raw, "<f2").astype(np.float32).view(np.complex64)
        else:
            yield np.frombuffer(raw, numpy_type(dtype))


def dot(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Return the real part of the dot product. einsum starts no threads, as BLAS would."""
    import numpy as np

    return float(np.einsum("i,i->", x, y).real)


def count_nonzero(array: npt.NDArray[Any]) -> int:
    import numpy as np

    return int(np.count_nonzero(array))


def ignore_numpy_warnings() -> AbstractContextManager[object]:
    """Return a context in which numpy does not warn of NaN and overflow: they are results here."""
    import numpy as np

    return np.errstate(all="ignore")


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Return a contiguous tensor on the CPU. UnsupportedError if torch is not installed."""
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            "torch is not installed", hint="pip install 'ptinspect[torch]'"
        ) from None
    if sys.byteorder != "little":
        raise UnsupportedError("torch tensors can be made on little-endian machines only")
    quantizer: Mapping[str, Any] = tensor.quantizer
    names = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"} if quantizer else {}
    name = tensor.dtype.name if tensor.dtype else ""
    dtype = getattr(torch, names.get(name, name), None)
    is_known = not quantizer or len(quantizer) == (4 if "axis" in quantizer else 3)
    if dtype is None or not is_known or bool(names) != (name in names):
        raise UnsupportedError("this tensor is not a plain one", hint="read() gives the bytes")
    raw = bytearray(contiguous(tensor))
    flat = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    values = flat.view(dtype).reshape(tensor.shape)
    if not quantizer:
        return values
    if "axis" not in quantizer:
        scale, zero_point = quantizer["scale"], quantizer["zero_point"]
        return torch._make_per_tensor_quantized_tensor(values, scale, zero_point)
    scales, zero_points = (to_torch(quantizer[key]) for key in ("scales", "zero_points"))
    return torch._make_per_channel_quantized_tensor(values, scales, zero_points, quantizer["axis"])


def read_elements(tensor: Tensor, indices: Iterable[int]) -> dict[int, Number]:
    """Return the elements at these indices of the tensor's storage, reading as little of the file
    as possible. UnsupportedError if it has no bytes, or they are not numbers."""
    dtype, storage = tensor.stored or tensor.dtype, tensor.storage
    if dtype is None or storage is None:
        raise UnsupportedError("the tensor has no bytes in the file")
    decode = decoder(dtype, storage.archive.byteorder)
    size = dtype.itemsize
    ordered = sorted(set(indices))
    if ordered and (ordered[0] < 0 or (ordered[-1] + 1) * size > storage.nbytes):
        raise out_of_bounds_error(tensor, storage, ordered[-1], size)
    # A compressed record is decompressed from its start by every read: read once.
    max_gap = READ_COST if storage.file_offset is not None else storage.nbytes
    elements: dict[int, Number] = {}
    for run in _runs(ordered, max(max_gap // size, 1)):
        chunks = storage.chunks(run[0] * size, (run[-1] + 1) * size)
        picked, begin, position = [], run[0], 0
        for chunk in whole_elements(chunks, size):
            while position < len(run) and (run[position] - begin) * size < len(chunk):
                start = (run[position] - begin) * size
                picked.append(chunk[start : start + size])
                position += 1
            begin += len(chunk) // size
        elements.update(zip(run, decode(b"".join(picked)), strict=True))
    if tensor.conj:
        elements = {i: n.conjugate() if isinstance(n, complex) else n for i, n in elements.items()}
    return {i: -number for i, number in elements.items()} if tensor.neg else elements


def number_of(tensor: Tensor) -> Number | None:
    """Return the number of a tensor of one element; None if it cannot be decoded."""
    if tensor.numel != 1 or tensor.storage is None or tensor.storage_offset is None:
        return None
    if not can_decode(tensor.stored or tensor.dtype) or tensor.quantizer or tensor.parts:
        return None
    return read_elements(tensor, [tensor.storage_offset])[tensor.storage_offset]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Facts about the elements of a tensor: `NaN` or `inf` if some element is that, whether some
    element is less than zero, and whether all are zero and there is one."""

    non_finite: str | None = None
    is_negative: bool = False
    is_zero: bool = False


def numbers_of(tensor: Tensor) -> Numbers:
    """Return facts about the elements of a tensor; the default ones if it has no floats."""
    if not tensor.is_float or not tensor.numel or tensor.dtype is None:
        return Numbers()
    is_small = tensor.nbytes <= SMALL and tensor.is_contiguous and not tensor.quantizer
    try:
        if is_small and (tensor.dtype.letter is not None or tensor.dtype.name == "bfloat16"):
            numbers = unpack_units(tensor.dtype, contiguous(tensor))
            name = None if isfinite(sum(numbers)) else name_non_finite(numbers)
            return Numbers(name, min(numbers) < 0, not any(numbers))
        infinite, negative, zero = False, False, True
        with ignore_numpy_warnings():
            for block in iter_numbers(tensor):
                if (block != block).any():
                    return Numbers("NaN")
                infinite = infinite or bool((abs(block) == float("inf")).any())
                is_real = block.dtype.kind != "c"
                negative = negative or (is_real and bool((block < 0).any()))
                zero = zero and not block.any()
        return Numbers("inf" if infinite else None, negative, zero)
    except UnsupportedError:  # sparse, packed, without bytes
        return Numbers()


def name_non_finite(numbers: Iterable[float]) -> str | None:
    """Return `NaN` or `inf` if some number is that; NaN comes first."""
    bad = [number for number in numbers if not isfinite(number)]
    return None if not bad else "NaN" if any(number != number for number in bad) else "inf"


def _runs(indices: list[int], max_gap: int) -> Iterator[list[int]]:
    """Split sorted indices where more than `max_gap` elements are between two."""
    run: list[int] = []
    for index in indices:
        if run and index - run[-1] > max_gap:
            yield run
            run = []
        run.append(index)
    if run:
        yield run
