"""Distances in units in the last place, against numpy's spacing and the bits themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402

from ptinspect.proofs.worker.determinism import ulps  # noqa: E402

TYPES = {"float64": "int64", "float32": "int32", "float16": "int16", "bfloat16": "int16"}
NAN, INF = float("nan"), float("inf")


def made(numbers: Any, dtype: str = "float32") -> Any:
    return torch.tensor(numbers, dtype=getattr(torch, dtype))


def stepped(value: float, dtype: str, steps: int) -> Any:
    """The number that stands so many places after `value` in its type, told by its bits."""
    bits = made([value], dtype).view(getattr(torch, TYPES[dtype])) + steps
    return bits.view(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_neighbours_are_one_apart(dtype: str) -> None:
    for value in (1.0, 1.5, 3.0, -2.5, 1024.0):
        for steps in (0, 1, 3):
            distance = ulps(made([value], dtype), stepped(value, dtype, steps))
            assert distance == steps, (value, steps)


@pytest.mark.parametrize("dtype", TYPES)
def test_denormals_are_counted_as_they_lie(dtype: str) -> None:
    smallest = stepped(0.0, dtype, 1)
    assert float(smallest) > 0
    assert ulps(made([0.0], dtype), smallest) == 1
    assert ulps(stepped(0.0, dtype, 7), stepped(0.0, dtype, 2)) == 5
    assert ulps(-smallest, smallest) == 2
    tiny = made([torch.finfo(getattr(torch, dtype)).smallest_normal], dtype)
    assert ulps(tiny, stepped(float(tiny), dtype, -1)) == 1


@pytest.mark.parametrize("dtype", TYPES)
def test_the_largest_numbers_do_not_overflow(dtype: str) -> None:
    most = torch.finfo(getattr(torch, dtype)).max
    assert ulps(made([most], dtype), stepped(most, dtype, -1)) == 1
    eps = torch.finfo(getattr(torch, dtype)).eps
    assert ulps(made([most], dtype), made([-most], dtype)) == 2 * (2 - eps) / eps


@pytest.mark.parametrize("dtype", TYPES)
def test_zero_has_one_value_and_nan_is_nan(dtype: str) -> None:
    assert ulps(made([0.0], dtype), made([-0.0], dtype)) == 0
    assert ulps(made([NAN, 1.0], dtype), made([NAN, 1.0], dtype)) == 0
    assert ulps(made([NAN, 1.0], dtype), made([NAN, 2.0], dtype)) > 0
    assert ulps(made([NAN], dtype), made([1.0], dtype)) == INF
    assert ulps(made([INF, -INF, 2.0], dtype), made([INF, -INF, 2.0], dtype)) == 0
    assert ulps(made([INF], dtype), made([-INF], dtype)) == INF
    assert ulps(made([INF, 1.0], dtype), stepped(1.0, dtype, 1).repeat(2)) == INF
    one = ulps(made([INF, 1.0], dtype), torch.cat([made([INF], dtype), stepped(1.0, dtype, 1)]))
    assert one == 1  # what is infinite in both is no scale for the others


def test_the_largest_element_is_the_scale() -> None:
    """What is left of a sum in which the large cancel is as inexact as they are."""
    assert ulps(made([1.0, 1e-9]), made([1.0, 2e-9])) < 1
    assert ulps(made([1e-9]), made([2e-9])) > 1e6
    assert ulps(made([1.0, 0.0]), made([1.0, float(np.spacing(np.float32(1.0)))])) == 1


def test_other_types_shapes_and_layouts() -> None:
    assert ulps(made([1.0]), made([1.0], "float64")) == INF
    assert ulps(made([1.0]), made([[1.0]])) == INF
    assert ulps(made([], "float32"), made([], "float32")) == 0
    assert ulps(made([1, 2], "int64"), made([1, 2], "int64")) == 0
    assert ulps(made([1, 2], "int64"), made([1, 3], "int64")) == INF
    assert ulps(made([True], "bool"), made([False], "bool")) == INF
    one = torch.tensor([1 + 1j], dtype=torch.complex64)
    assert ulps(one, one.conj()) > 0
    assert ulps(one, one.clone()) == 0
    assert ulps(made([1.0, 0.0]).to_sparse(), made([1.0, 0.0]).to_sparse()) == 0
    assert ulps(made([[1.0, 2.0]]).t(), made([[1.0], [2.0]])) == 0


def test_another_unit() -> None:
    """Under autocast the numbers are no better than the type that it casts to."""
    one, other = made([1.0]), made([1.0 + 2**-7])
    assert ulps(one, other) == 2**16
    assert ulps(one, other, torch.bfloat16) == 1


FINITE = st.floats(-(2.0**126), 2.0**126, width=32)


@given(FINITE, FINITE)
def test_one_number_is_measured_in_numpys_spacing(a: float, b: float) -> None:
    largest = np.float32(max(abs(a), abs(b)))
    want = abs(float(a) - float(b)) / float(np.spacing(largest))
    assert math.isclose(ulps(made([a]), made([b])), want, rel_tol=1e-12)
    assert ulps(made([a]), made([b])) == ulps(made([b]), made([a]))
