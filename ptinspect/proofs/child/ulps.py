"""How far two tensors are apart, in units in the last place (ULPs).

The unit is the distance between the numbers of the type at the largest element of both: what is
small beside the others is a sum over terms as large as those, and no better known than they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch

INFINITE = float("inf")


def ulps(one: Any, other: Any, unit: Any = None) -> float:
    """The largest distance between two elements at the same place: 0 for equal ones (-0 is 0, NaN
    is NaN), inf where only one is NaN or infinite, and for integers that differ. unit: the dtype in
    whose ULPs to count (that of autocast); by default the tensors' own. Both have one shape and
    dtype, else inf."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return INFINITE
    one, other = plain(one), plain(other)
    if not one.numel():
        return 0.0
    if not one.is_floating_point():
        return 0.0 if torch.equal(one, other) else INFINITE
    info = torch.finfo(unit or one.dtype)
    one, other = one.to(torch.float64), other.to(torch.float64)
    same = (one == other) | (one.isnan() & other.isnan())
    if bool(same.all()):
        return 0.0
    if not bool((same | (one.isfinite() & other.isfinite())).all()):
        return INFINITE
    finite = one.isfinite()  # there the other is finite as well
    one, other = one[finite], other[finite]
    largest = max(float(one.abs().max()), float(other.abs().max()), float(info.smallest_normal))
    _, exponent = math.frexp(largest)
    down = 2.0 ** (1 - exponent)  # the largest is then in [1, 2), where an ULP is eps
    return float((one * down - other * down).abs().max()) / float(info.eps)


def plain(tensor: Any) -> Any:
    """On the CPU, dense, real."""
    made = tensor.detach().cpu()
    if made.layout != torch.strided:
        made = made.to_dense()
    return torch.view_as_real(made.resolve_conj()) if made.is_complex() else made
