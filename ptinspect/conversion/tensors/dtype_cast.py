"""Elements that change on the way: their dtype, their byte order (`layout`: their places).

Beside `document.bridge` and `layout` the one place that imports numpy, and only where something
must change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.to_array import numpy_type, swap_bytes
from ptinspect.dtypes import DTYPES, DType

if TYPE_CHECKING:
    from collections.abc import Callable

    Convert = Callable[[bytes], bytes]

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
    return (lambda raw: swap_bytes(raw, unit)) if unit > 1 else None


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


__all__ = ["TARGETS", "can_cast", "caster", "chained", "swapper"]
