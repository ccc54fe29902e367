"""Arrays of numpy as documents: equal to what numpy.load reads, damage refused."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import ptinspect
from ptinspect.formats.numpy_files import read_header
from tests.cli.running import run

ARRAYS = {
    "little": np.arange(12, dtype="<f4").reshape(3, 4),
    "big": np.arange(5, dtype=">i8"),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "half": np.linspace(0, 1, 7, dtype=np.float16),
    "complex": np.array([1 + 2j, 3]),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.uint16),
    "scalar": np.array(3),
    "a.b": np.array([1], np.int8),
}
OTHERS = {
    "text": (np.array(["a", "bb"]), "<U2"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), "<M8[D]"),
    "fields": (np.array([(1, 2.0)], [("i", "<i4"), ("x", "<f8")]), "[('i', '<i4'), ('x', '<f8')]"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_array_of_an_npz_is_numpys(save: object, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    everything = {**ARRAYS, **{name: array for name, (array, _) in OTHERS.items()}}
    save(path, **everything)  # type: ignore[operator]
    with ptinspect.open(path) as document, np.load(path) as truth:
        assert document.archive.format == "npz"
        assert list(document.tensors) == truth.files
        for name in ARRAYS:
            info = document.tensors[name]
            assert info.shape == truth[name].shape
            assert info.read() == truth[name].astype(truth[name].dtype.newbyteorder("<")).tobytes()
            assert np.array_equal(info.numpy(), truth[name])
        for name, (array, encoding) in OTHERS.items():
            info = document.tensors[name]
            assert (info.dtype, info.tensor.encoding) == (None, encoding)
            assert info.shape == array.shape and info.read() == array.tobytes()


def test_bytes_behind_an_array_are_a_warning(tmp_path: Path) -> None:
    """numpy.save appends to an open file, and numpy.load reads the first array."""
    with (tmp_path / "two.npy").open("wb") as file:
        np.save(file, ARRAYS["little"])
        first = file.tell()
        np.save(file, ARRAYS["bool"])
        size = file.tell() - first
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
        archive.write(tmp_path / "two.npy")
        np.save(tmp_path / "one.npy", ARRAYS["big"])
        archive.write(tmp_path / "one.npy")
    for name in ("two.npy", "two.npz"):
        with ptinspect.open(tmp_path / name) as document:
            info = next(iter(document.tensors.values()))
            assert info.read() == ARRAYS["little"].tobytes()
            (warning,) = document.archive.warnings
        text = f"{size} bytes follow the array, which numpy.load does not read"
        assert (warning.message, warning.where.offset) == (text, first)
    assert text in run("show", tmp_path / "two.npy").stdout


@given(arrays.arrays(
    st.sampled_from(["<f4", ">f4", "<f8", ">i2", "<u4", "|b1", ">c16", "<f2"]),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
), st.booleans())  # fmt: skip
def test_any_array_is_numpys(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, fortran: bool
) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, np.asfortranarray(array) if fortran and array.ndim else array)
    with ptinspect.open(path) as document:
        (info,) = document.tensors.values()
        little = array.astype(array.dtype.newbyteorder("<"))
        assert info.shape == array.shape and info.read() == little.tobytes()
        assert document.kind == "tensor" and document.archive.format == "npy"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_the_versions_of_the_header(version: tuple[int, int], tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, ARRAYS["fortran"], version=version)
    with ptinspect.open(tmp_path / "a.npy") as document:
        assert np.array_equal(next(iter(document.tensors.values())).numpy(), ARRAYS["fortran"])


def test_a_cut_array_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(100))
    data = (tmp_path / "a.npy").read_bytes()
    for cut in (7, 20, 127, len(data) - 1):
        (tmp_path / "a.npy").write_bytes(data[:cut])
        with pytest.raises(ptinspect.PtInspectError):
            ptinspect.open(tmp_path / "a.npy")


def test_an_array_of_objects_is_refused_with_the_next_step(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    result = run("show", tmp_path / "a.npy")
    assert result.exit_code == 2 and "ptinspect scan" in result.stderr


def test_an_array_of_objects_next_to_others_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=ARRAYS["little"], objects=np.array([{}], dtype=object), b=ARRAYS["big"])
    text = "1 array with objects as elements, which are a pickle, cannot be read: objects"
    with ptinspect.open(path) as document:
        assert list(document.tensors) == ["a", "b"]
        assert [(w.kind, w.message) for w in document.warnings] == [("unreadable-array", text)]
    assert text in run("show", path).stdout
    result = run("convert", path, tmp_path / "a.safetensors")
    assert result.exit_code == 0 and text in result.stderr
    np.savez(path, objects=np.array([{}], dtype=object))
    assert run("show", path).exit_code == 2


def test_an_npz_without_arrays_is_an_empty_document(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path)
    with ptinspect.open(path) as document:
        assert (document.archive.format, list(document.tensors)) == ("npz", [])
    assert run("show", path).exit_code == 0
    assert run("scan", path).exit_code == 0
    path.write_bytes(path.read_bytes()[:-3])
    assert run("show", path).exit_code == 2


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}",
     "{'descr': __import__('os'), 'fortran_order': False, 'shape': (3,)}",
     "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
     "[" * 5000, "{" + " " * 60000, "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }"],
)  # fmt: skip
def test_a_header_that_numpy_does_not_write_is_refused_at_once(header: str) -> None:
    raw = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header.encode()
    with pytest.raises(ptinspect.DamagedError):
        read_header(raw)


def test_an_npz_converts_and_compares(tmp_path: Path) -> None:
    kept = {name: ARRAYS[name] for name in ("little", "big", "fortran", "half")}
    np.savez(tmp_path / "a.npz", **kept)
    for target in ("a.safetensors", "a.pt"):
        ptinspect.convert(tmp_path / "a.npz", tmp_path / target)
        report = ptinspect.diff(tmp_path / "a.npz", tmp_path / target)
        assert report.same, report.text()
    np.savez(tmp_path / "b.npz", **{**kept, "big": kept["big"] + 1})
    report = ptinspect.diff(tmp_path / "a.npz", tmp_path / "b.npz")
    assert [change.a for change in report.changed] == ["big"]
    from safetensors.numpy import load_file

    loaded = load_file(tmp_path / "a.safetensors")
    assert all(np.array_equal(loaded[name], array) for name, array in kept.items())


def test_show_needs_no_numpy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS)
    code = (
        "import sys; from ptinspect.cli import cli; "
        f"cli(['show', {str(tmp_path / 'a.npz')!r}], standalone_mode=False); "
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=-3).returncode == 0


FIELDS = {
    "a name with O": ([("Offset", "<f4"), ("b", ">i4", (2,))], True),
    "a title with O": ([(("Other", "a"), "<f4"), ("b", "U3")], True),
    "an object": ([("a", "<f4"), ("b", "O")], False),
    "an object in a field": ([("a", [("b", "O")])], False),
}


@pytest.mark.parametrize(("fields", "is_read"), FIELDS.values(), ids=FIELDS)
def test_a_field_is_an_object_by_its_type_not_by_its_name(
    fields: list[object], is_read: bool, tmp_path: Path
) -> None:
    array = np.zeros(3, fields)
    np.save(tmp_path / "a.npy", array)
    if not is_read:
        with pytest.raises(ptinspect.UnsupportedError, match="objects as elements"):
            ptinspect.open(tmp_path / "a.npy")
        return
    with ptinspect.open(tmp_path / "a.npy") as document:
        (info,) = document.tensors.values()
        assert info.shape == (3,) and info.read() == array.tobytes()


@pytest.mark.parametrize("array", [array for array, _ in OTHERS.values()], ids=OTHERS)
def test_a_truncated_array_of_any_type_is_damaged(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(ptinspect.DamagedError, match=r"bytes, .* follow its header"):
        ptinspect.open(tmp_path / "a.npy")
