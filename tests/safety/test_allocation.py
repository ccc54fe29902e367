"""Allowed calls that would ask for more memory than there is; no honest file does."""

from __future__ import annotations

import pickle
from decimal import Decimal
from fractions import Fraction

import pytest

from tests.safety.corpus.sample import calling, named
from tests.safety.making import judged, new, plain, whole, worst

N = 1 << 40
ROW = named("numpy.ndarray")
DIGITS = "1e999999999"

BOMBS = {
    "array": calling("numpy._core.multiarray._reconstruct", ROW, (N,), b"C\x01b"),
    "array-of-numpy-1": calling("numpy.core.multiarray._reconstruct", ROW, (N,), b"C\x01b"),
    "array-of-a-number": calling("numpy.core.multiarray._reconstruct", ROW, N, b"C\x01b"),
    "array-of-two-sides": calling(
        "numpy.core.multiarray._reconstruct", ROW, (1 << 20, 1 << 20), b"C\x01b"
    ),
    "array-of-a-computed-side": calling(
        "numpy.core.multiarray._reconstruct", ROW, calling("builtins.int", str(N)), b"C\x01b"
    ),
    "masked": calling(
        "numpy.ma.core._mareconstruct", named("numpy.ma.core.MaskedArray"), ROW, (N,), b"C\x01b"
    ),
    "plain-array": calling("numpy.ndarray", (N,)),
    "records": calling("numpy.recarray", (N,), b"C\x01b"),
    "element": calling("numpy.core.multiarray.scalar", calling("numpy.dtype", "V2147483647")),
    "element-of-nothing": calling(
        "numpy._core.multiarray.scalar", calling("numpy.dtype", "V2147483647"), None
    ),
    "storage": calling("torch.FloatStorage", N),
    "storage-of-gpu": calling("torch.cuda.HalfStorage", N),
    "tensor": calling("torch.FloatTensor", N),
    "tensor-of-two-sides": calling("torch.Tensor", 1 << 20, 1 << 20),
    "tensor-of-a-size": calling("torch.Tensor", calling("torch.Size", (1 << 20, 1 << 20))),
    "bytes": calling("builtins.bytes", N),
    "bytes-by-new": new(named("builtins.bytearray"), plain(N)),
    "bytes-of-a-computed-size": calling("builtins.bytes", calling("builtins.int", str(N))),
    "list": calling("builtins.list", calling("builtins.range", N)),
    "fraction": calling("fractions.Fraction", DIGITS),
    "fraction-of-a-decimal": calling("fractions.Fraction", calling("decimal.Decimal", DIGITS)),
    "whole-number": calling("builtins.int", calling("decimal.Decimal", DIGITS)),
    "span": calling("datetime.timedelta", calling("decimal.Decimal", (0, (1,), 999999999))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_seen(name: str) -> None:
    data = whole(BOMBS[name])
    assert len(data) < 300
    assert worst(data) == "unknown", judged(data)


HONEST = {
    "bytes": b"a",
    "bytearray": bytearray(b"abc"),
    "decimal": [Decimal("1.5"), Decimal("1e100"), Decimal("NaN"), Decimal((0, (1, 2), -3))],
    "fraction": [Fraction(1, 3), Fraction(10**50)],
}


@pytest.mark.parametrize("name", HONEST)
def test_what_python_writes_is_none(name: str) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert worst(pickle.dumps(HONEST[name], protocol)) == "clean"


def test_what_torch_and_numpy_write_is_none() -> None:
    numbers = [calling("numpy.core.multiarray._reconstruct", ROW, (0,), b"C\x01b")]
    numbers += [calling("torch.FloatTensor"), calling("torch.Size", (2, 3))]
    numbers += [calling("numpy.core.multiarray.scalar", calling("numpy.dtype", "f4"), b"C\x04abcd")]
    assert [worst(whole(made)) for made in numbers] == ["clean"] * len(numbers)
