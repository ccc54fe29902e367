"""The numbers in a training's state: NaN, signs, zeros, and averages that are no averages."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from ptinspect.document.elements import contiguous
from ptinspect.document.to_array import ignore_numpy_warnings, iter_numbers
from ptinspect.dtypes import unpack_units
from ptinspect.errors import UnsupportedError
from ptinspect.pickling.pyobjects import Path, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ptinspect.document.optim.matching import Weights
    from ptinspect.document.tensor import Tensor

SMALL = 1 << 18
"""Bytes up to which a tensor is read without numpy."""

NOT_NEGATIVE = frozenset(
    (
        "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum", "variance",
        "row_var", "col_var",
    )
)  # fmt: skip
"""Keys of averages of squares, and of largest absolute values."""

SECOND_MOMENTS = ("exp_avg_sq", "exp_inf", "square_avg", "sum")
"""Of these, the keys that are zero only if every gradient was zero."""

FIRST_MOMENTS = ("exp_avg", "momentum_buffer")


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


def equal_averages(models: list[Weights]) -> Iterator[tuple[Path, str]]:
    """Yield the path of each average (EMA, SWA) that has the model's own numbers, and a message."""
    own = [model for model in models if not model.is_average]
    for average in models:
        words = "_".join(map(str, average.path)).lower()
        if not any(word in words for word in ("ema", "averaged", "shadow", "swa")):
            continue
        tensors = {weight.name.removeprefix("module."): weight.tensor for weight in average.order}
        for model in own:
            pairs = [
                (weight.tensor, tensors[weight.name])
                for weight in model.order
                if weight.name in tensors and weight.tensor.is_float
            ]
            if not pairs or len(pairs) < sum(w.tensor.is_float for w in model.order):
                continue
            if all(first.storage is second.storage for first, second in pairs):
                yield average.path, f"{dotted(average.path)} is the model's own tensors, not a copy"
            elif all(_same_bytes(first, second) for first, second in pairs):
                message = f"{dotted(average.path)} has the same numbers as the model"
                yield average.path, f"{message}: not averaged yet, not updated, or not restored"


def _same_bytes(first: Tensor, second: Tensor) -> bool:
    from ptinspect.document.elements import contiguous

    if first.dtype is not second.dtype or first.shape != second.shape:
        return False
    try:
        return contiguous(first) == contiguous(second)
    except UnsupportedError:
        return False
