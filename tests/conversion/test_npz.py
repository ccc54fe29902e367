"""The target npz, against numpy: what numpy.load reads, and what numpy.savez would have written."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.conversion.npz import array_header
from ptinspect.conversion.output.torch_zip import ZipWriter
from ptinspect.dtypes import DTYPES
from ptinspect.errors import LossError, PtInspectError, UnsupportedError
from tests.conversion.making import sink_to

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")


def save(folder: Path, value: object) -> Path:
    torch.save(value, folder / "a.pt")
    return folder / "a.pt"


def assert_arrays(path: Path, expected: dict[str, Any]) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays.files == list(expected)
        for key, tensor in expected.items():
            array, want = arrays[key], tensor.resolve_conj().resolve_neg().numpy()
            assert (array.dtype, array.shape) == (want.dtype, want.shape), key
            assert array.tobytes() == want.tobytes(), key


def test_every_record_is_what_numpy_writes(tmp_path: Path) -> None:
    """All dtypes of numpy; scalars, empty tensors, views; names that no file system would take."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors: dict[str, Any] = {
        name: torch.ones(3).to(getattr(torch, name)) for name, row in DTYPES.items() if row.numpy
    }
    tensors |= {
        "wide": torch.zeros(12_345_678), "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 5),
        "transposed": base.permute(2, 0, 1), "row": torch.ones(5, 4)[::2],
        "many": torch.zeros([1] * 32),
        "expanded": torch.ones(1).expand(1000, 3), "conj": torch.ones(3, dtype=torch.cfloat).conj(),
        "x/../y": torch.ones(1), "/root": torch.ones(1), "ü": torch.ones(1), "": torch.ones(1),
        "a.npy": torch.ones(1), "..": torch.ones(1), "a\\b'": torch.ones(1),
    }  # fmt: skip
    report = ptinspect.convert(save(tmp_path, tensors), tmp_path / "b.npz", verify=True)
    assert report.to == "npz"
    assert report.warnings == []
    assert_arrays(tmp_path / "b.npz", tensors)
    arrays = {key: value.resolve_conj().contiguous().numpy() for key, value in tensors.items()}
    np.savez(tmp_path / "numpy.npz", **arrays)
    with (
        zipfile.ZipFile(tmp_path / "b.npz") as ours,
        zipfile.ZipFile(tmp_path / "numpy.npz") as theirs,
    ):
        assert ours.testzip() is None
        assert ours.namelist() == theirs.namelist()
        assert all(info.compress_type == zipfile.ZIP_STORED for info in ours.infolist())
        for name in theirs.namelist():
            assert ours.read(name) == theirs.read(name), name


def test_a_single_tensor_is_named_as_savez_names_it(tmp_path: Path) -> None:
    source = save(tmp_path, {"w": torch.arange(6).reshape(2, 3), "b": torch.ones(1)})
    ptinspect.convert(source, tmp_path / "b.npz", entry="w", verify=True)
    assert_arrays(tmp_path / "b.npz", {"arr_0": torch.arange(6).reshape(2, 3)})


def test_a_checkpoint_and_other_byte_orders(tmp_path: Path) -> None:
    arrays = {"big": np.arange(5, dtype=">f4"), "fortran": np.asfortranarray(np.eye(3)[:2])}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    ptinspect.convert(tmp_path / "a.npz", tmp_path / "b.npz", verify=True)
    with np.load(tmp_path / "b.npz", allow_pickle=False) as read:
        assert read["big"].dtype == np.dtype("<f4")
        assert all((read[key] == array).all() for key, array in arrays.items())
    nested = {"model": {"inner": {"w": torch.ones(2)}, "b": torch.zeros(1)}, "epoch": 3}
    report = ptinspect.convert(save(tmp_path, nested), tmp_path / "c.npz", entry="model")
    assert report.dropped == ["epoch"]
    assert_arrays(tmp_path / "c.npz", {"inner.w": torch.ones(2), "b": torch.zeros(1)})


def test_tied_tensors(tmp_path: Path) -> None:
    w = torch.arange(4.0)
    source, target = save(tmp_path, {"a": w, "b": w, "c": torch.ones(1)}), tmp_path / "b.npz"
    report = ptinspect.convert(source, target, verify=True)
    assert report.dropped == ["b"]
    assert report.warnings == [
        'written once: b is a; the file misses this key: write them all with shared="duplicate"'
    ]
    assert_arrays(target, {"a": w, "c": torch.ones(1)})
    ptinspect.convert(source, target, shared="duplicate", verify=True, force=True)
    assert_arrays(target, {"a": w, "b": w, "c": torch.ones(1)})
    with pytest.raises(UnsupportedError, match="tensors share memory: a and b"):
        ptinspect.convert(source, target, shared="error", force=True)


def test_dtypes_that_numpy_lacks(tmp_path: Path) -> None:
    half, tiny = torch.tensor([1.5, -2]).bfloat16(), torch.tensor([0.5]).to(torch.float8_e4m3fn)
    tensors = {"half": half, "tiny": tiny, "f": torch.ones(1)}
    source, target = save(tmp_path, tensors), tmp_path / "b.npz"
    with pytest.raises(UnsupportedError) as caught:
        ptinspect.convert(source, target)
    assert caught.value.message == (
        "npz cannot hold 2 of 3 entries: half has the dtype bfloat16;"
        " tiny has the dtype float8_e4m3fn"
    )
    command = f"ptinspect convert {source} {target} --dtype float32"
    assert caught.value.hint == f"write float32: {command}"
    assert not target.exists()
    ptinspect.convert(source, target, dtype="float32", verify=True)
    assert_arrays(target, {key: value.float() for key, value in tensors.items()})


def test_what_cannot_be_cast_is_to_be_dropped(tmp_path: Path) -> None:
    tensors = {
        "half": torch.ones(2).bfloat16(),
        "packed": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "complex": torch.zeros(2, dtype=torch.complex32),
        "f": torch.ones(1),
    }
    source, target = save(tmp_path, tensors), tmp_path / "b.npz"
    with pytest.raises(UnsupportedError) as caught:
        ptinspect.convert(source, target)
    command = f"ptinspect convert {source} {target} --dtype float32 --exclude='packed'"
    assert caught.value.hint == f"write float32 and drop the others: {command} --exclude='complex'"
    exclude = ["packed", "complex"]
    ptinspect.convert(source, target, dtype="float32", exclude=exclude, verify=True)
    assert_arrays(target, {"half": torch.ones(2), "f": torch.ones(1)})


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["a\0b"], "has a name with a NUL, where readers of a zip end it"),
        (["a", "a.npy"], "which numpy.load would read in its place"),
        (["\ud800"], "cannot be encoded in UTF-8"),
        (["k" * 65_533], "has a name of 65,533 characters, which is too long for a zip"),
    ],
)
def test_names_that_a_record_cannot_have(tmp_path: Path, keys: list[str], reason: str) -> None:
    source = save(tmp_path, {key: torch.ones(2) for key in [*keys, "other"]})
    with pytest.raises(UnsupportedError, match="npz cannot hold 1 of") as caught:
        ptinspect.convert(source, tmp_path / "b.npz")
    assert reason in caught.value.message
    assert not (tmp_path / "b.npz").exists()


def test_nothing_to_write_and_options_of_other_targets(tmp_path: Path) -> None:
    source = save(tmp_path, {})
    with pytest.raises(UnsupportedError, match="there are no tensors"):
        ptinspect.convert(source, tmp_path / "b.npz")
    for options in ({"dtype": "bfloat16"}, {"max_shard_size": 9}, {"plain": True}):
        with pytest.raises(PtInspectError, match=r"cannot be used with to=\"npz\""):
            ptinspect.convert(source, tmp_path / "b.npz", **options)
    source = save(tmp_path, {"w": torch.ones(1, 1).expand([1] * 65)})
    with pytest.raises(UnsupportedError, match="w has 65 dimensions, numpy has at most 64"):
        ptinspect.convert(source, tmp_path / "b.npz")
    source = save(tmp_path, {"w": torch.tensor([1e6])})
    with pytest.raises(LossError, match="exceeded the range of float16"):
        ptinspect.convert(source, tmp_path / "b.npz", dtype="float16")
    assert not (tmp_path / "b.npz").exists()


def test_a_wrong_crc_of_the_source_is_a_warning(tmp_path: Path) -> None:
    source = save(tmp_path, {"w": torch.arange(1000.0)})
    data = bytearray(source.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 400] ^= 1
    source.write_bytes(data)
    report = ptinspect.convert(source, tmp_path / "b.npz", verify=True)
    assert report.warnings == ["the bytes of a/data/0 do not match their CRC-32: w may be damaged"]


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_large_tensors_are_copied_with_their_crc(tmp_path: Path, size: int) -> None:
    """Those that are copied one by one, and in two threads, from records with a CRC-32."""
    tensors = {"a": torch.arange(size, dtype=torch.float32), "b": torch.arange(size)}
    ptinspect.convert(save(tmp_path, tensors), tmp_path / "b.npz")
    assert_arrays(tmp_path / "b.npz", tensors)
    with zipfile.ZipFile(tmp_path / "b.npz") as records:
        assert records.testzip() is None


@pytest.mark.skipif(not hasattr(os, "ftruncate"), reason="needs files with holes")
def test_numpy_reads_a_file_beyond_4_gib(tmp_path: Path) -> None:
    """The sink is moved over a hole, so that no gigabytes are written."""
    from ptinspect.conversion.output.pieces import BytesPiece

    path, header = tmp_path / "big.npz", array_header(DTYPES["uint8"], (5,))
    with sink_to(path) as sink:
        writer = ZipWriter(sink, "")
        writer.write_record("first.npy", [BytesPiece(b"hallo")], header)
        sink.flush()
        sink.position += 1 << 32
        os.lseek(sink.output.descriptor, 1 << 32, os.SEEK_CUR)
        writer.write_record("w.npy", [BytesPiece(b"hello")], header)
        writer.write_directory()
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["first"].tobytes() == b"hallo"
        assert arrays["w"].tobytes() == b"hello"
