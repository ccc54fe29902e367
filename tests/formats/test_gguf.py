"""GGUF as a document: equal to what the package gguf reads, damage refused."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.tiers import rounds

FILE = FIXTURES / "others/tiny.gguf"
TRUTH = json.loads((FIXTURES / "others/tiny.gguf.json").read_text())["tensors"]
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I32": "int32"}


def test_every_tensor_is_that_of_the_package_gguf() -> None:
    with ptinspect.open(FILE) as document:
        assert list(document.tensors) == list(TRUTH)
        for name, truth in TRUTH.items():
            info = document.tensors[name]
            dtype = DTYPES.get(truth["type"])
            assert (info.dtype.name if info.dtype else None) == dtype
            assert info.tensor.encoding == (None if dtype else truth["type"])
            assert list(info.shape) == truth["shape"]
            assert info.nbytes == truth["nbytes"]
            assert info.tensor.storage is not None
            assert info.tensor.storage.file_offset == truth["offset"]
            assert hashlib.sha256(info.read()).hexdigest() == truth["sha256"]


def test_show_and_convert() -> None:
    result = run("show", FILE)
    assert result.exit_code == 0
    assert "gguf.GGUFReader(" in result.stdout and "torch.load(" not in result.stdout
    assert all(f"{name}  " in result.stdout for name in ("Q4_0", "Q8_0", "Q5_1"))
    shown = json.loads(run("show", "-f", "json", FILE).stdout)
    encodings = {t["key"]: t.get("encoding") for t in shown["tensors"] if t["dtype"] is None}
    assert encodings == {f"blk.0.{name}": name for name in ("Q4_0", "Q8_0", "Q5_1")}
    assert "tokenizer.ggml.tokens: 40 items, " in result.stdout


def test_what_safetensors_can_hold_is_converted(tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    refused = run("convert", FILE, target)
    assert refused.exit_code == 2 and not target.exists()
    assert "blk.0.Q4_0 is encoded as Q4_0; " in refused.stderr
    for to in ("state_dict", "same"):  # torch has no such dtype either
        refused = run("convert", FILE, tmp_path / "a.pt", "--to", to)
        assert refused.exit_code == 2 and list(tmp_path.iterdir()) == []
        assert "torch has no dtype for tensors encoded as Q4_0, Q5_1, Q8_0" in refused.stderr
    exclude = [part for name in ("Q4_0", "Q8_0", "Q5_1") for part in ("--exclude", f"*.{name}")]
    assert run("convert", FILE, target, *exclude).exit_code == 0
    assert ptinspect.diff(FILE, target, exclude=["*Q*_*"]).same


def test_damage_is_an_error(tmp_path: Path) -> None:
    data = FILE.read_bytes()
    step = max(len(data) // rounds(200), 1)
    for cut in range(4, len(data), step):
        (tmp_path / "a.gguf").write_bytes(data[:cut])
        with pytest.raises(ptinspect.PtInspectError):
            ptinspect.open(tmp_path / "a.gguf")
    for offset in range(4, 900, max(900 // rounds(300), 1)):  # the header
        damaged = bytearray(data)
        damaged[offset] ^= 0xFF
        (tmp_path / "a.gguf").write_bytes(damaged)
        try:
            with ptinspect.open(tmp_path / "a.gguf") as document:
                list(document.tensors)
        except ptinspect.PtInspectError as error:
            assert str(error)


def test_one_of_several_files_is_named_as_one(tmp_path: Path) -> None:
    """As `GGUFWriter(…, split_max_tensors=1)` writes it."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    header += text("split.no") + struct.pack("<IH", 2, 0)
    header += text("split.count") + struct.pack("<IH", 2, 3)
    header += text("w") + struct.pack("<IQIQ", 1, 64, 40, 0)  # NVFP4: 64 numbers in 36 bytes
    source = tmp_path / "a-00001-of-00003.gguf"
    source.write_bytes(header + bytes(-len(header) % 32) + bytes(range(36)))
    with ptinspect.open(source) as document:
        assert document.tensors["w"].read() == bytes(range(36))
        (warning,) = document.warnings
    assert warning.message.startswith("one of 3 files of a model")
    assert "one of 3 files" in run("show", source).stdout


def gguf(items: bytes, count: int, *tensors: tuple[str, int, int, int]) -> bytes:
    """A file with metadata, and tensors of one dimension: name, size, type, offset."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + items
    for name, size, kind, offset in tensors:
        head += struct.pack(f"<Q{len(name)}sIQIQ", len(name), name.encode(), 1, size, kind, offset)
    return head + bytes(-len(head) % 32)


def test_arrays_in_arrays_are_read(tmp_path: Path) -> None:
    """As `GGUFWriter.add_array` writes a list of lists."""

    def array(kind: int, *items: bytes) -> bytes:
        return struct.pack("<IQ", kind, len(items)) + b"".join(items)

    number = struct.Struct("<i").pack
    lists = array(
        9, array(5, number(1), number(2)), array(5), array(8, struct.pack("<Q1s", 1, b"a"))
    )
    item = struct.pack("<Q4sI", 4, b"list", 9) + lists
    (tmp_path / "a.gguf").write_bytes(gguf(item, 1))
    with ptinspect.open(tmp_path / "a.gguf") as document:
        assert document.archive.facts["metadata"] == {"list": [[1, 2], [], ["a"]]}
    deep = struct.pack("<Q4sI", 4, b"list", 9) + struct.pack("<IQ", 9, 1) * 50_000
    (tmp_path / "a.gguf").write_bytes(gguf(deep, 1))
    with pytest.raises(ptinspect.UnsupportedError, match="more than 8 arrays in arrays"):
        ptinspect.open(tmp_path / "a.gguf")


@pytest.mark.parametrize(("block", "count"), [(36, 9), (40, 9), (40, 1), (36, 100)])
def test_the_size_of_q8_1_is_that_of_its_writer(block: int, count: int, tmp_path: Path) -> None:
    """ggml has 36 bytes in a block (`block_q8_1`), its package for Python 40 (GGML_QUANT_SIZES)."""
    size = block * count
    other = size + -size % 32
    head = gguf(b"", 0, ("a", 32 * count, 9, 0), ("b", 32 * count, 9, other))
    (tmp_path / "a.gguf").write_bytes(head + b"\1" * size + bytes(other - size) + b"\2" * size)
    with ptinspect.open(tmp_path / "a.gguf") as document:
        values = [info.read() for info in document.tensors.values()]
    assert values == [b"\1" * size, b"\2" * size]


def test_tensors_that_overlap_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf(b"", 0, ("a", 9, 0, 0), ("b", 1, 0, 32)) + bytes(64))
    with pytest.raises(ptinspect.DamagedError, match="'a' overlaps the next one"):
        ptinspect.open(tmp_path / "a.gguf")
