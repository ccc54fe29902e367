"""Names of types that other programs wrote."""

from __future__ import annotations

import pytest

from ptinspect.dtypes import by_numpy_code, numpy_name


@pytest.mark.parametrize(
    ("code", "name"), [("<f4", "float32"), ("|b1", "bool"), ("<c16", "complex128")]
)
def test_numpy_prints_a_type_by_its_bits(code: str, name: str) -> None:
    assert numpy_name(code) == name


@pytest.mark.parametrize("code", ["<f\u00b2", "<f\u0664", "<u" + "1" * 5_000])
def test_digits_that_int_refuses_are_no_size(code: str) -> None:
    assert numpy_name(code) == code and by_numpy_code(code) is None
