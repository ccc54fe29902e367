"""Dumps of joblib, plain and compressed: equal to what joblib.load reads."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES

FOLDER = FIXTURES / "others/joblib"
PLAIN = FOLDER / "arrays.joblib"
TRUTH = json.loads((FOLDER / "arrays.json").read_text())["tensors"]
ENCODINGS = {"str64": "<U2", "record": "|V6", "void48": "|V6"}


@pytest.mark.parametrize("name", ["joblib", "z", "gz", "bz2", "lzma", "xz", "lz4"])
def test_arrays_are_those_of_joblib(name: str) -> None:
    path = FOLDER / f"arrays.{name}"
    if name == "lz4":
        pytest.importorskip("lz4")
    with ptinspect.open(path) as document:
        assert document.archive.format == "joblib" and document.size == path.stat().st_size
        assert set(document.tensors) == set(TRUTH)
        for key, truth in TRUTH.items():
            info = document.tensors[key]
            assert list(info.shape) == truth["shape"], key
            if info.dtype is None:
                assert info.tensor.encoding == ENCODINGS[truth["dtype"]], key
            else:
                assert info.dtype.name == truth["dtype"], key
            assert hashlib.sha256(info.read()).hexdigest() == truth["sha256"], key
        assert ("number",) in [entry.path for entry in document.entries]


def test_a_dump_of_today_is_read(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    numpy = pytest.importorskip("numpy")
    array = numpy.random.default_rng(0).normal(size=(300, 70))
    for protocol in (2, 3, 4, 5):
        for compress in (0, ("zlib", 1), ("gzip", 9), ("xz", 1)):
            joblib.dump(array, tmp_path / "a.joblib", compress=compress, protocol=protocol)
            with ptinspect.open(tmp_path / "a.joblib") as document:
                (info,) = document.tensors.values()
                assert info.path == () and document.kind == "tensor"
                assert (info.numpy() == joblib.load(tmp_path / "a.joblib")).all()


def test_show_convert_and_scan(tmp_path: Path) -> None:
    result = run("show", FOLDER / "arrays.gz")
    assert result.exit_code == 0 and "joblib.load(" in result.stdout
    source = FIXTURES / "others/array.joblib"
    assert ptinspect.convert(source, tmp_path / "a.pt", to="state_dict").ok is not None
    with ptinspect.open(source) as a, ptinspect.open(tmp_path / "a.pt") as b:
        assert a.tensors["weight"].read() == b.tensors["weight"].read()
    for path in sorted(FOLDER.iterdir()):
        if path.suffix not in (".json", ".lz4"):
            assert ptinspect.scan(path).verdict == "unknown", path
    assert run("diff", PLAIN, FOLDER / "arrays.xz").exit_code == 0


COMPRESS: list[Callable[[bytes], bytes]] = [
    lambda data: data, zlib.compress, gzip.compress, bz2.compress, lzma.compress
]  # fmt: skip


@pytest.mark.parametrize("compress", COMPRESS, ids=["plain", "zlib", "gzip", "bz2", "xz"])
def test_a_cut_dump_is_an_error(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = compress(PLAIN.read_bytes())
    for cut in range(len(data) // 2, len(data), len(data) // 20):
        (tmp_path / "cut.joblib").write_bytes(data[:cut])
        result = run("show", tmp_path / "cut.joblib")
        assert result.exit_code == 2 and "Traceback" not in result.stderr, cut


def test_changed_bytes_are_never_an_exception_of_python(tmp_path: Path) -> None:
    data = PLAIN.read_bytes()
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        (tmp_path / "changed.joblib").write_bytes(changed)
        result = run("show", tmp_path / "changed.joblib")
        assert result.exit_code in (0, 2) and "bug in ptinspect" not in result.stderr, position


OLD = FIXTURES / "others/joblib-0.9"
OLD_TRUTH = json.loads((OLD / "truth.json").read_text())["tensors"]


@pytest.mark.parametrize("name", ["files", "packed", "sklearn"])
def test_dumps_of_old_joblib_are_read_with_their_files(name: str, tmp_path: Path) -> None:
    with ptinspect.open(OLD / f"{name}.pkl") as document:
        assert document.archive.format == "joblib" and set(document.tensors) == set(OLD_TRUTH)
        for key, truth in OLD_TRUTH.items():
            info = document.tensors[key]
            assert [info.dtype and info.dtype.name, list(info.shape)] == [
                truth["dtype"], truth["shape"],
            ]  # fmt: skip
            assert hashlib.sha256(info.read()).hexdigest() == truth["sha256"], key
        assert document.size == sum(path.stat().st_size for path in OLD.glob(f"{name}.pkl*"))
    shown = json.loads(run("show", "-f", "json", OLD / f"{name}.pkl").stdout)
    files = sorted(path.name for path in OLD.glob(f"{name}.pkl*"))
    assert name == "sklearn" or shown["set"] == {"files": files, "missing": []}
    result = run("convert", OLD / f"{name}.pkl", tmp_path / "out.pt", "--to", "same")
    assert result.exit_code == 0, result.stderr
    assert ptinspect.diff(OLD / f"{name}.pkl", tmp_path / "out.pt").same
    assert ptinspect.scan(OLD / f"{name}.pkl").verdict == "unknown"


def test_a_dump_in_joblibs_own_compression_is_read(tmp_path: Path) -> None:
    with ptinspect.open(OLD / "one.pkl") as document:
        assert document.archive.format == "joblib"
        values = {entry.path: entry.value for entry in document.entries}
        assert values["number",] == 5 and "[3, 4]" in str(values["w",])
    data = (OLD / "one.pkl").read_bytes()
    (tmp_path / "other.pkl").write_bytes(data.replace(data[2:6], b"0x1f", 1))
    (tmp_path / "cut.pkl").write_bytes(data[:-20])
    for name, words in {"other": "its header says '0x1f2'", "cut": "cut off"}.items():
        result = run("show", tmp_path / f"{name}.pkl")
        assert result.exit_code == 2 and words in result.stderr, result.stderr
    result = run("show", OLD / "packed.pkl_01.npy.z")
    assert result.exit_code == 2 and "name the dump, which is next to it" in result.stderr


@pytest.mark.parametrize("name", ["files.pkl", "packed.pkl"])
def test_a_missing_or_damaged_file_of_an_array_is_named(name: str, tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    (array, other, *_) = sorted(tmp_path.glob(f"{name}_*"))
    array.write_bytes(array.read_bytes()[:-9])
    result = run("show", tmp_path / name)
    assert result.exit_code == 2 and array.name in result.stderr.partition(":")[2]
    array.unlink()
    other.unlink()
    result = run("show", tmp_path / name)
    words = f"the files of its arrays are missing: {array.name}, {other.name}"
    assert result.exit_code == 2 and words in result.stderr


def test_a_file_of_an_array_is_in_the_folder_of_the_dump(tmp_path: Path) -> None:
    data = (OLD / "files.pkl").read_bytes()
    (tmp_path / "a.pkl").write_bytes(data.replace(b"files.pkl_01.npy", b"../es.pkl_01.npy"))
    result = run("show", tmp_path / "a.pkl")
    assert result.exit_code == 2 and "outside the folder" in result.stderr
    assert ptinspect.scan(tmp_path / "a.pkl").verdict == "dangerous"


def test_bytes_behind_a_dump_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.joblib").write_bytes(PLAIN.read_bytes() + bytes(3))
    with ptinspect.open(tmp_path / "a.joblib") as document:
        assert set(document.tensors) == set(TRUTH)
        (message,) = (w.message for w in document.warnings if w.kind == "trailing-bytes")
    assert message == "3 bytes follow the dump, which joblib.load does not read"


def dump(dtype: str, shape: object, data: bytes) -> bytes:
    """A dump of one array, written by hand: the wrapper, its state, the bytes, STOP."""
    head = b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}("
    state = pickle.dumps(shape, 2)[2:-1]
    kind = f"cnumpy\ndtype\nX{chr(len(dtype))}\0\0\0{dtype}\x89\x88\x87R".encode("latin1")
    return head + b"X\5\0\0\0shape" + state + b"X\5\0\0\0dtype" + kind + b"ub" + data + b"."


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        ("f4", (2, -1), "shape is invalid"),
        ("f4", (1 << 61, 8), "but only 9 are left"),
        ("f4", [2], "shape is invalid"),
        ("f4", (2, 1.5), "shape is invalid"),
        ("z9", (2,), "which is not read"),
    ],
)
def test_an_array_that_cannot_be_is_an_error(
    dtype: str, shape: object, words: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.joblib").write_bytes(dump(dtype, shape, bytes(8)))
    result = run("show", tmp_path / "bad.joblib")
    assert result.exit_code == 2 and words in result.stderr, result.stderr


def test_bytes_that_are_opcodes_are_not_run(tmp_path: Path) -> None:
    """pickle.load would run the array's bytes; joblib.load does not."""
    (tmp_path / "a.joblib").write_bytes(dump("u1", (4,), b"N0N."))
    with ptinspect.open(tmp_path / "a.joblib") as document:
        assert document.tensors[""].read() == b"N0N."


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    data = bytearray(zlib.compress(PLAIN.read_bytes()))
    data[-1] ^= 1
    (tmp_path / "a.joblib").write_bytes(data)
    result = run("show", tmp_path / "a.joblib")
    assert result.exit_code == 2 and "incorrect data check" in result.stderr
    report = ptinspect.scan(tmp_path / "a.joblib")
    assert report.verdict != "clean" and "incorrect data check" in report.text()


def test_a_dump_of_several_gzip_streams_is_read_to_its_end(tmp_path: Path) -> None:
    data = PLAIN.read_bytes()
    (tmp_path / "a.joblib").write_bytes(gzip.compress(data[:-9]) + gzip.compress(data[-9:]))
    with ptinspect.open(tmp_path / "a.joblib") as document:
        assert set(document.tensors) == set(TRUTH)


def test_a_bomb_is_an_error(tmp_path: Path) -> None:
    data = PLAIN.read_bytes()[:-1] + bytes(64 << 20)
    (tmp_path / "bomb.joblib").write_bytes(lzma.compress(data))
    result = run("show", tmp_path / "bomb.joblib")
    assert result.exit_code == 2 and "decompresses to more than" in result.stderr


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("echo",)


def test_a_harmful_dump_is_dangerous(tmp_path: Path) -> None:
    data = dump("u1", (4,), b"abcd")[:-1] + b"0" + pickle.dumps(Evil(), 2)[2:]
    (tmp_path / "evil.joblib").write_bytes(zlib.compress(data))
    assert ptinspect.scan(tmp_path / "evil.joblib").verdict == "dangerous"
    assert run("show", tmp_path / "evil.joblib").exit_code in (0, 2)
