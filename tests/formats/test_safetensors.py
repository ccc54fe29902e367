"""safetensors files, read by hand: what they hold, and each way in which one can be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors

import ptinspect
from ptinspect.dtypes import SAFETENSORS_BITS, SAFETENSORS_DTYPES
from ptinspect.errors import DamagedError, LimitError, PtInspectError, UnsupportedError


def made(header: Any, data: bytes = b"", pad: int = 8) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * (-len(raw) % pad)
    return len(raw).to_bytes(8, "little") + raw + data


def tensor(begin: int, end: int, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


def test_what_it_holds(path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": tensor(8, 24, (2, 1, 2)),
        "a": tensor(0, 8, (), "I64"),
        "none": tensor(24, 24, (0, 3), "BF16"),
        "small": tensor(24, 25, (1,), "F8_E4M3"),
    }
    data = bytes(range(25))
    path.write_bytes(made(header, data))
    with ptinspect.open(path) as document:
        assert (document.archive.format, document.kind) == ("safetensors", "state_dict")
        assert document.archive.facts == {"metadata": {"format": "pt"}}
        found = {
            key: (str(t.dtype), t.shape, t.stride, t.device, t.read())
            for key, t in document.tensors.items()
        }
        assert found == {
            "b": ("torch.float32", (2, 1, 2), (2, 2, 1), "cpu", data[8:24]),
            "a": ("torch.int64", (), (), "cpu", data[:8]),
            "none": ("torch.bfloat16", (0, 3), (3, 1), "cpu", b""),
            "small": ("torch.float8_e4m3fn", (1,), (1,), "cpu", data[24:]),
        }
        storage = document.tensors["b"].tensor.storage
        assert storage is not None and storage.file_offset is not None
        assert path.read_bytes()[storage.file_offset :][:16] == data[8:24]
        assert list(document.tensors) == ["b", "a", "none", "small"]
        assert document.globals == [] and document.totals.nbytes == 25


def test_what_save_model_dropped_stands_again(path: Path) -> None:
    header = {"__metadata__": {"head": "table", "format": "pt"}, "table": tensor(0, 8)}
    path.write_bytes(made(header, bytes(8)))
    with ptinspect.open(path) as document:
        assert list(document.tensors) == ["table", "head"]
        assert document.totals.nbytes == 8
        one, other = (info.tensor for info in document.tensors.values())
        assert one.view_key == other.view_key


BROKEN = {
    "too short": (b"\1\0\0", DamagedError, "3 bytes, too few|begins with"),
    "not valid JSON": (made(b'{"a":' + b" " * 40), DamagedError, "not valid JSON"),
    "nested": (made(b'{"a":' + b"[" * 100_000), DamagedError, "not valid JSON"),
    "twice": (
        made(b'{"a":{"dtype":"I8","shape":[],"data_offsets":[0,1]},"a":{}}', b"1"),
        DamagedError,
        "occurs twice",
    ),
    "metadata": (made({"__metadata__": {"a": 1}}), DamagedError, "values that are not text"),
    "no fields": (made({"a": 3}), DamagedError, "is not an object"),
    "dtype": (made({"a": tensor(0, 8, dtype="F12")}, bytes(8)), UnsupportedError, "'F12'"),
    "shape": (made({"a": tensor(0, 8, (-2,))}, bytes(8)), DamagedError, "broken"),
    "offsets": (
        made({"a": {**tensor(0, 8), "data_offsets": [0]}}, bytes(8)),
        DamagedError,
        "broken",
    ),
    "backwards": (made({"a": tensor(8, 0)}, bytes(8)), DamagedError, "needs 8 bytes, but has -8"),
    "size": (made({"a": tensor(0, 7)}, bytes(7)), DamagedError, "needs 8 bytes, but has 7"),
    "gap": (made({"a": tensor(4, 12)}, bytes(12)), DamagedError, "leaves a gap"),
    "overlap": (
        made({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
        DamagedError,
        "overlaps",
    ),
    "cut": (made({"a": tensor(0, 8)}, bytes(7)), DamagedError, "8 bytes, but 7 follow"),
    "more": (made({"a": tensor(0, 8)}, bytes(9)), DamagedError, "8 bytes, but 9 follow"),
    "huge": (made({"a": tensor(0, 8, (1 << 40, 1 << 40))}, bytes(8)), DamagedError, "needs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken(path: Path, name: str) -> None:
    data, kind, message = BROKEN[name]
    path.write_bytes(data)
    with pytest.raises(PtInspectError, match=message) as caught:
        ptinspect.open(path)
    if name != "too short":
        assert isinstance(caught.value, kind)


def test_a_header_that_is_too_long(path: Path) -> None:
    from ptinspect.formats.safetensors import HEADER_BYTES, read_safetensors
    from ptinspect.source.base import MemorySource

    for length, kind in ((HEADER_BYTES + 1, LimitError), (1000, DamagedError)):
        with pytest.raises(kind):
            read_safetensors(MemorySource(length.to_bytes(8, "little") + b"{}", "a"))


def test_it_is_read_as_safetensors_reads_it(path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    want = {"x\n": torch.randn(3, 4), "y": torch.arange(3), "z": torch.randn(2).bfloat16()}
    library.save_file(want, path)
    with ptinspect.open(path) as document:
        assert set(document.tensors) == set(want)
        for key, value in want.items():
            assert torch.equal(document.tensors[key].torch(), value)


def library_dtypes() -> list[str]:
    """Every dtype of the installed safetensors, from its message about one that it lacks."""
    with pytest.raises(Exception, match="unknown variant") as caught:
        safetensors.deserialize(made({"a": tensor(0, 0, (0,), "no such dtype")}))
    names = re.findall(r"`(\w+)`", str(caught.value).partition("expected one of")[2])
    assert {"BOOL", "F32"} <= set(names)
    return names


@pytest.mark.parametrize("name", library_dtypes())
def test_every_dtype_of_the_library_is_read(name: str, path: Path) -> None:
    bits = SAFETENSORS_BITS[name]
    size = 8 * bits // 8
    data = made({"a": tensor(0, size, (2, 4), name)}, bytes(range(size)))
    safetensors.deserialize(data)  # which refuses another width
    path.write_bytes(data)
    with ptinspect.open(path) as document:
        info = document.tensors["a"]
        assert info.read() == bytes(range(size))
        assert info.nbytes == size
        dtype = repr(info.dtype) if info.dtype else info.tensor.encoding
    assert dtype == {"F6_E2M3": name, "F6_E3M2": name}.get(name, repr(SAFETENSORS_DTYPES.get(name)))


def test_float4_is_converted_as_the_library_writes_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save

    tensors = {
        "w": torch.arange(6, dtype=torch.uint8).view(3, 2).view(torch.float4_e2m1fn_x2),
        "s": torch.arange(3, dtype=torch.uint8).view(torch.float8_e8m0fnu),
    }
    source, there, back = (tmp_path / name for name in ("a.pt", "b.safetensors", "c.pt"))
    torch.save(tensors, source)
    ptinspect.convert(source, there, verify=True)
    assert there.read_bytes()[8:].replace(b" ", b"") == save(tensors, {"format": "pt"})[8:].replace(
        b" ", b""
    )
    ptinspect.convert(there, back, verify=True)
    loaded = torch.load(back)
    for key, value in tensors.items():
        assert loaded[key].dtype == value.dtype
        assert loaded[key].shape == value.shape
        assert torch.equal(loaded[key].view(torch.uint8), value.view(torch.uint8))
