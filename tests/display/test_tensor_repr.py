"""Tensors as torch prints them: torch is the oracle, character by character."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptinspect.display.tensor_repr import tensor_text
from ptinspect.document import open as open_document
from ptinspect.dtypes import float8_table
from tests.display.making import shown

torch = pytest.importorskip("torch")

FLOATS = ("float64", "float32", "float16", "bfloat16")
FLOAT8 = ("float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e8m0fnu")
INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def ours(tensor: Any) -> str:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    with open_document(file) as document:
        return tensor_text(next(iter(document.tensors.values())).tensor)


def agrees(tensor: Any) -> None:
    assert ours(tensor) == repr(tensor.detach() if tensor.grad_fn is not None else tensor)


def ramp(*shape: int, dtype: Any = None) -> Any:
    dtype = dtype or torch.float32
    return (torch.arange(math.prod(shape), dtype=torch.float64) / 7 - 3).reshape(shape).to(dtype)


SHAPES = [
    (), (1,), (0,), (3,), (20,), (100,), (1000,), (1001,), (2, 3), (1, 1), (0, 3), (2, 0, 3),
    (30, 40), (7, 143), (1, 2, 3), (2, 3, 4, 5), (11, 12, 13), (2, 600), (600, 2), (1,) * 9,
    (1200, 1, 1), (3, 7, 7, 7),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [*FLOATS, "int64", "int16", "bool", "complex64", "complex128"])
def test_shapes(dtype: str) -> None:
    for shape in SHAPES:
        agrees(ramp(*shape, dtype=getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS])
def test_element_types(dtype: str) -> None:
    agrees(ramp(5, 5).mul(3).abs().to(getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_of_every_code(dtype: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(getattr(torch, dtype))
    agrees(codes)
    theirs = codes.float().tolist()
    mine = float8_table(dtype)
    same = [a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(theirs, mine, strict=True)]
    assert all(same)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-5, 1e-4, 123456.0, 1e8, 1.1e8, 3.14159, float("nan"),
           float("inf"), float("-inf"), 1e30, 1e-30, 65504.0, 999.5, 1000.0]  # fmt: skip


@given(
    st.lists(st.one_of(st.sampled_from(SPECIAL), st.floats(width=32)), max_size=12),
    st.sampled_from(FLOATS),
)
@example([0.0, -0.0], "float32")
@example([float("nan"), 0.0], "float32")
@example([1.0, float("inf")], "float32")
@example([0.00012, float("-inf")], "float16")
@example([123456789.0, 1.0], "float64")
def test_any_floats(numbers: list[float], dtype: str) -> None:
    agrees(torch.tensor(numbers, dtype=torch.float64).to(getattr(torch, dtype)))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12))
def test_any_integers(numbers: list[int]) -> None:
    agrees(torch.tensor(numbers, dtype=torch.int64))


@given(st.lists(st.complex_numbers(width=64), max_size=8))
def test_any_complex(numbers: list[complex]) -> None:
    agrees(torch.tensor(numbers, dtype=torch.complex64))


@given(
    st.lists(st.integers(0, 4), max_size=4), st.integers(0, 5), st.permutations([0, 1, 2, 3]),
    st.booleans(),
)  # fmt: skip
def test_views(shape: list[int], start: int, order: list[int], stepped: bool) -> None:
    base = torch.arange(2000, dtype=torch.float32).mul(0.25)
    made = base[start : start + math.prod(shape)].reshape(shape)
    made = made.permute([axis for axis in order if axis < len(shape)])
    if stepped and made.dim():
        made = made[::2]
    agrees(made)


def test_views_that_are_large_or_odd() -> None:
    base = torch.arange(40_000, dtype=torch.float32).reshape(200, 200)
    agrees(base.t())
    agrees(base[:, 7])
    agrees(base[::3, 5::7])
    agrees(torch.tensor([1.5]).expand(3, 4))
    agrees(torch.tensor([[1 + 2j, 3 - 4j]]).conj())
    agrees(torch.tensor([1 + 2j, 3 - 4j]).conj().imag)


def test_what_stands_behind_the_numbers() -> None:
    agrees(torch.tensor([1.0, 2.0], requires_grad=True))
    agrees(torch.ones(3, 40, dtype=torch.float64, requires_grad=True))
    agrees(torch.empty(0, 3, dtype=torch.int8))
    agrees(torch.empty(2, 3, device="meta"))
    agrees(torch.empty(2, 3, device="meta", dtype=torch.int64))
    agrees(torch.zeros(19, dtype=torch.float64))


def test_sparse() -> None:
    dense = torch.tensor([[0.0, 1.5, 0.0], [2.0, 0.0, -3.25]])
    agrees(dense.to_sparse())
    agrees(torch.zeros(2, 3).to_sparse())
    agrees(dense.double().to_sparse())
    agrees(dense.to_sparse_csr())
    agrees(dense.to_sparse_csc())
    agrees(torch.eye(4).to_sparse_bsr((2, 2)))
    agrees(torch.eye(4).to_sparse_bsc((2, 2)))
    agrees(dense.to_sparse(1))


def test_quantized() -> None:
    x = torch.tensor([[-1.0, 0.0, 0.5, 2.0], [0.3, 1.0, -0.5, 0.7]])
    agrees(torch.quantize_per_tensor(x, 0.1, 3, torch.qint8))
    agrees(torch.quantize_per_tensor(x, 0.05, 128, torch.quint8))
    scales, zeros = torch.tensor([0.1, 0.05]).double(), torch.tensor([10, 0])
    agrees(torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8))
    agrees(torch.quantize_per_channel(x.t(), scales, zeros, 1, torch.quint8))


def test_the_device_is_named() -> None:
    """As in the lesson: `tensor([[3.1076, -1.7026]], device='cuda:0')`."""
    file = io.BytesIO()
    torch.save(torch.tensor([[3.1076, -1.7026]]), file)
    file.seek(0)
    with open_document(file) as document:
        tensor = next(iter(document.tensors.values())).tensor
        tensor.device = "cuda:0"
        assert tensor_text(tensor) == "tensor([[ 3.1076, -1.7026]], device='cuda:0')"


def test_of_a_large_tensor_only_what_is_shown_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptinspect.document.tensor import Storage

    read: list[int] = []
    real = Storage.chunks

    def counted(self: Storage, start: int, stop: int, size: int = 1 << 20) -> Any:
        read.append(stop - start)
        return real(self, start, stop, size)

    monkeypatch.setattr(Storage, "chunks", counted)
    agrees(ramp(1000, 1000))
    assert 0 < sum(read) < 30_000


def test_a_summary_of_too_many_dimensions_is_not_shown() -> None:
    from ptinspect.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="even its summary has 279,936 elements"):
        ours(torch.zeros((7,) * 7, dtype=torch.int8))


def test_packed_and_unknown_element_types_are_said_not_to_be_shown() -> None:
    from ptinspect.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="are not shown as numbers"):
        ours(torch.zeros(3, dtype=torch.uint8).view(torch.bits8))
    assert "not shown: the elements of int4" in shown("tensors/dtypes-small-ints.pt", values=True)
