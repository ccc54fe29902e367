"""Whether a tensor's numbers are all finite: small ones without numpy, whose import alone would
take longer than all the rest."""

from __future__ import annotations

from array import array
from math import isfinite
from typing import TYPE_CHECKING

from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor

SMALL = 1 << 18
"""Bytes up to which Python reads a tensor itself."""

_CODES = {"float32": "f", "float64": "d", "complex64": "f", "complex128": "d", "float16": "e"}


def number_of(tensor: Tensor) -> float | None:
    """The value of a tensor of one element; None where it is no plain number."""
    import struct

    from ptinspect.document.bridge import contiguous

    codes = {**_CODES, "int64": "q", "int32": "i", "int16": "h", "uint8": "B", "bool": "B"}
    code = codes.get(tensor.dtype.name) if tensor.dtype else None
    if code is None or tensor.numel != 1 or tensor.dtype is None:
        return None
    if tensor.dtype.name.startswith("complex"):
        return None
    (value,) = struct.unpack(f"<{code}", contiguous(tensor))
    return float(value)


def not_finite(tensor: Tensor) -> str | None:
    """`NaN` or `inf` where some element is that; None where all are finite, or are no floats.

    DamagedError where bytes are missing.
    """
    if tensor.dtype is None or not tensor.numel:
        return None
    name = tensor.dtype.name
    if not name.startswith(("float", "bfloat", "complex")):
        return None
    try:
        if tensor.nbytes <= SMALL and tensor.is_contiguous and not tensor.quantizer:
            return _small(tensor, name)
        return _large(tensor)
    except UnsupportedError:  # sparse, packed, without bytes
        return None


def _small(tensor: Tensor, name: str) -> str | None:
    from ptinspect.document.bridge import contiguous

    raw = contiguous(tensor)
    if name == "bfloat16":
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
        name = "float32"
    code = _CODES.get(name)
    if code is None:
        return _large(tensor)
    if code == "e":
        import struct

        return _named(struct.unpack(f"<{len(raw) // 2}e", raw))
    numbers: array[float] = array(code)
    numbers.frombytes(raw)
    if _swapped():
        numbers.byteswap()
    return None if isfinite(sum(numbers)) else _named(numbers)


def _swapped() -> bool:
    import sys

    return sys.byteorder == "big"


def _named(numbers: array[float] | tuple[float, ...]) -> str | None:
    odd = [number for number in numbers if not isfinite(number)]
    return None if not odd else "NaN" if any(number != number for number in odd) else "inf"


def _large(tensor: Tensor) -> str | None:
    from ptinspect.document.bridge import number_blocks, quiet

    found = None
    with quiet():
        for block in number_blocks(tensor):
            if (block != block).any():
                return "NaN"
            if (abs(block) == float("inf")).any():
                found = "inf"
    return found
