"""A tensor's bytes, where its size, stride and offset are honest, odd or hostile."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import ptinspect
from ptinspect.document import Document, TensorInfo
from ptinspect.errors import DamagedError, UnsupportedError
from tests.corpus.mutants import tensor_file
from tests.document.making import of_bytes


def opened(*facts: object) -> Document:
    return of_bytes(tensor_file(*facts))  # type: ignore[arg-type]


def tensor(*facts: object) -> TensorInfo:
    return opened(*facts).tensors["w"]


def test_a_view_is_gathered_from_its_storage() -> None:
    transposed = tensor([2, 3], [1, 2], 1)
    rows = [bytes(range(4 * at, 4 * at + 4)) for at in (1, 3, 5, 2, 4, 6)]
    assert transposed.read() == b"".join(rows)
    assert transposed.numpy().tobytes() == transposed.read()


def test_a_view_may_repeat_what_it_shows() -> None:
    assert tensor([3, 1], [0, 1], 2).read() == bytes([8, 9, 10, 11]) * 3


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [([-1, 2], [2, 1], 0), ([2], [-1], 4), ([2], [1], -1)]
)
def test_negative_numbers_are_damage(size: list[int], stride: list[int], offset: int) -> None:
    with pytest.raises(DamagedError, match=r"negative|before its storage") as caught:
        opened(size, stride, offset).tensors["w"]
    assert caught.value.where is not None and caught.value.where.record == "archive/data.pkl"


def test_the_stride_of_a_single_element_may_be_anything() -> None:
    odd = tensor([1, 2], [(1 << 63) - 1, 2], 1)
    assert odd.read() == bytes([4, 5, 6, 7, 12, 13, 14, 15])


def test_a_view_beyond_its_storage_is_damage() -> None:
    with pytest.raises(DamagedError, match=r"element 17 of 16"):
        tensor([17], [1], 0).read()


def test_a_view_that_repeats_a_byte_endlessly_is_not_held_in_memory() -> None:
    with pytest.raises(UnsupportedError, match="repeats 64 bytes"):
        tensor([1 << 40], [0], 0).read()


def test_a_shape_that_numpy_has_not() -> None:
    empty = tensor([1 << 40, 0, 1 << 40], [0, 1, 0], 0)
    assert empty.read() == b""
    with pytest.raises(UnsupportedError, match="numpy has no arrays of the shape"):
        empty.numpy()


def test_packed_elements_are_counted_by_the_byte() -> None:
    whole = tensor([2, 3], [3, 1], 2, "QUInt4x2Storage", 64)
    assert (whole.nbytes, whole.read()) == (3, bytes([1, 2, 3]))
    for size, stride, offset in (([2], [1], 1), ([2, 2], [4, 1], 0)):
        with pytest.raises(UnsupportedError, match="whole bytes"):
            tensor(size, stride, offset, "QUInt4x2Storage", 64).read()


def test_quantized_tensors_are_those_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    warnings.simplefilter("ignore")
    values, zeros = torch.randn(2, 3), torch.tensor([0, 1])
    scales = torch.tensor([0.1, 0.2], dtype=torch.float64)
    tensors = {
        "tensor": torch.quantize_per_tensor(values, 0.1, 3, torch.quint8),
        "channel": torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8),
        "float": torch.quantize_per_channel(values, scales.float(), zeros.float(), 0, torch.quint8),
        "strided": torch.quantize_per_tensor(values, 0.1, 3, torch.qint32).t(),
    }
    torch.save(tensors, tmp_path / "q.pt")
    with ptinspect.open(tmp_path / "q.pt") as document:
        for key, expected in tensors.items():
            tensor = document.tensors[key].torch()
            assert torch.equal(tensor.int_repr(), expected.int_repr()), key
            assert tensor.qscheme() == expected.qscheme() and tensor.dtype == expected.dtype
            assert torch.equal(tensor.dequantize(), expected.dequantize()), key
