"""Tensors of ONNX models: equal to what the package onnx reads; damage is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.tiers import rounds

TINY = FIXTURES / "others/tiny.onnx"
EXTERNAL = FIXTURES / "others/onnx/model.onnx"
TRUTH = json.loads((FIXTURES / "others/tiny.onnx.json").read_text())


@pytest.mark.parametrize(("path", "name"), [(TINY, "tiny"), (EXTERNAL, "external")])
def test_every_tensor_is_that_of_the_package_onnx(path: Path, name: str) -> None:
    with ptinspect.open(path) as document:
        others = {"int4", "text"} if name == "tiny" else set()
        assert set(document.tensors) == {*TRUTH[name], *others}
        for key, truth in TRUTH[name].items():
            info = document.tensors[key]
            assert list(info.shape) == truth["shape"], key
            assert info.dtype is not None and info.dtype.name == truth["dtype"], key
            assert hashlib.sha256(info.read()).hexdigest() == truth["sha256"], key


def test_the_file_of_the_elements_is_not_overwritten(tmp_path: Path) -> None:
    shutil.copytree(EXTERNAL.parent, tmp_path / "onnx")
    weights = tmp_path / "onnx/weights.bin"
    before = weights.read_bytes()
    result = run(
        "convert", "--force", "--to", "safetensors", weights.with_name(EXTERNAL.name), weights
    )
    assert result.exit_code == 2 and "it is the same file as" in result.stderr
    assert weights.read_bytes() == before


def test_encodings_that_torch_lacks() -> None:
    with ptinspect.open(TINY) as document:
        packed, text = document.tensors["int4"], document.tensors["text"]
        assert (packed.tensor.encoding, packed.shape, packed.nbytes) == ("INT4", (3,), 2)
        assert packed.read() == b"\xe1\x03"  # 1 and -2, 3
        assert (text.tensor.encoding, text.shape) == ("STRING", (2,))


def test_show_convert_diff_and_scan(tmp_path: Path) -> None:
    result = run("show", TINY)
    assert result.exit_code == 0
    assert "tiny(x, c) -> z" in result.stdout and "onnx.load(" in result.stdout
    assert "If (1)" in result.stdout and "author: us" in result.stdout
    shown = json.loads(run("show", "-f", "json", TINY).stdout)
    assert shown["file"]["format"] == "onnx"
    assert ["cond.else_branch", "w"] in [tensor["path"] for tensor in shown["tensors"]]
    assert run("convert", EXTERNAL, tmp_path / "m.safetensors").exit_code == 0
    with ptinspect.open(EXTERNAL) as a, ptinspect.open(tmp_path / "m.safetensors") as b:
        assert {k: t.read() for k, t in a.tensors.items()} == {
            k: t.read() for k, t in b.tensors.items()
        }
    assert run("diff", EXTERNAL, tmp_path / "m.safetensors").exit_code == 0
    assert ptinspect.scan(TINY).verdict == "clean"
    assert ptinspect.scan(EXTERNAL).verdict == "clean"


def test_a_missing_file_of_elements_is_named(tmp_path: Path) -> None:
    shutil.copy(EXTERNAL, tmp_path / "model.onnx")
    shown = run("show", tmp_path / "model.onnx")
    assert shown.exit_code == 0 and "weights.bin is missing" in shown.stdout
    document = json.loads(run("show", "-f", "json", tmp_path / "model.onnx").stdout)
    assert document["set"]["missing"] == ["weights.bin"]
    assert document["warnings"][0]["kind"] == "missing-file"
    for size in (0, 100):
        result = run("convert", tmp_path / "model.onnx", tmp_path / "out.safetensors")
        assert result.exit_code == 2 and "weights.bin" in result.stderr
        assert not (tmp_path / "out.safetensors").exists()
        (tmp_path / "weights.bin").write_bytes(bytes(size or 100))


# As long as the name in the fixture, so that all lengths around it stay.
@pytest.mark.parametrize("location", ["../../x.bin", "/etc/passwd", "a/../../bcd", "C:/weights/"])
def test_elements_outside_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    changed = EXTERNAL.read_bytes().replace(b"weights.bin", location.encode())
    (tmp_path / "evil.onnx").write_bytes(changed)
    result = run("show", tmp_path / "evil.onnx")
    assert result.exit_code == 2 and "outside the folder of the model" in result.stderr
    assert ptinspect.scan(tmp_path / "evil.onnx").verdict == "dangerous"


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(*parts: tuple[int, Any]) -> bytes:
    """A protobuf message: numbers are varints, bytes and text have their length."""
    out = b""
    for number, value in parts:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def model(*graph: tuple[int, Any]) -> bytes:
    return message((1, 8), (2, "test"), (7, message(*graph)))


def bad_models() -> Iterator[tuple[str, bytes, str]]:
    tensor = message((1, 2), (2, 1), (8, "w"), (9, bytes(7)))
    yield "short raw data", model((5, tensor)), "needs 8 bytes, its raw_data has 7"
    yield "unknown type", model((5, message((1, 2), (2, 99), (8, "w")))), "unknown type 99"
    yield "huge dims", model((5, message((1, 1 << 63), (2, 1), (8, "w")))), "has no shape"
    yield "many dims", model((5, message(*[(1, 1)] * 65, (2, 1)))), "has no shape"
    yield "no graph", message((1, 8), (2, "test"), (8, b"")), "has no graph"
    yield "graph is a number", message((1, 8), (2, "test"), (7, 3)), "a message is expected"
    yield "a long number", message((1, 8), (2, "test")) + b"\x38" + b"\xff" * 11, "too long"
    yield "a group", message((1, 8), (2, "test")) + b"\x3b\x3c", "not protobuf"
    nested = message((2, "x"))
    for _ in range(40):
        nested = message((1, message((4, "If"), (5, message((1, "b"), (6, nested))))))
    yield "deep", message((1, 8), (2, "test"), (7, nested)), "nested too deep"
    pairs = ((13, message((1, "location"), (2, "w"))), (13, message((1, "offset"), (2, "-1"))))
    external = message((1, 2), (2, 1), (8, "w"), (14, 1), *pairs)
    yield "negative offset", model((5, external)), "does not say where"
    pairs = ((13, message((1, "location"), (2, "w"))), (13, message((1, "offset"), (2, "\u00b2"))))
    external = message((1, 2), (2, 1), (8, "w"), (14, 1), *pairs)
    yield "offset that int() refuses", model((5, external)), "does not say where"


BAD = list(bad_models())


@pytest.mark.parametrize(("name", "data", "words"), BAD, ids=[row[0] for row in BAD])
def test_bad_models_are_errors(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    result = run("show", tmp_path / "bad.onnx")
    assert result.exit_code == 2 and words in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def test_typed_elements_of_another_number_are_an_error(tmp_path: Path) -> None:
    tensor = message((1, 3), (2, 7), (8, "w"), (7, varint(1) + varint(2)))
    (tmp_path / "few.onnx").write_bytes(model((5, tensor)))
    result = run("convert", tmp_path / "few.onnx", tmp_path / "out.safetensors")
    assert result.exit_code == 2 and "16 bytes instead of 24" in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_the_same_name_twice_is_shown_twice(tmp_path: Path) -> None:
    tensor = message((1, 1), (2, 2), (8, "w"), (9, b"a"))
    (tmp_path / "twice.onnx").write_bytes(model((5, tensor), (5, tensor)))
    with ptinspect.open(tmp_path / "twice.onnx") as document:
        assert list(document.tensors) == ["w", "w (2)"]


def test_damaged_models_are_errors_of_ours(tmp_path: Path) -> None:
    data = TINY.read_bytes()
    for number in range(rounds(300)):
        position = number * 7919 % len(data)
        changed = bytearray(data if number % 2 else data[: position + 1])
        changed[position] ^= 1 << number % 8
        (tmp_path / "x.onnx").write_bytes(changed)
        try:
            with ptinspect.open(tmp_path / "x.onnx") as document:
                for info in document.tensors.values():
                    info.read()
        except ptinspect.PtInspectError:
            pass


def test_a_sparse_initializer_is_its_values_and_indices(tmp_path: Path) -> None:
    """As `onnx.helper.make_sparse_tensor` writes it: linear indices, or a row per value."""
    values = message((1, 2), (2, 1), (8, "sparse"), (9, struct.pack("<2f", 1.5, -2)))
    for dims, indices in (((2,), [1, 5]), ((2, 2), [0, 1, 1, 2])):
        where = message(
            *((1, n) for n in dims), (2, 7), (9, struct.pack(f"<{len(indices)}q", *indices))
        )
        sparse = message((1, values), (2, where), (3, 2), (3, 3))
        (tmp_path / "s.onnx").write_bytes(model((15, sparse)))
        with ptinspect.open(tmp_path / "s.onnx") as document:
            tensors = {info.path: info for info in document.tensors.values()}
            assert tensors["sparse", "values"].numpy().tolist() == [1.5, -2]
            assert tensors["sparse", "indices"].numpy().ravel().tolist() == indices
            assert tensors["sparse", "indices"].shape == dims
            assert ("sparse", "shape") in {entry.path for entry in document.entries}


def test_tensors_of_functions_and_of_training_are_read(tmp_path: Path) -> None:
    def constant(name: str, value: float) -> bytes:
        tensor = message((1, 1), (2, 1), (9, struct.pack("<f", value)))
        return message((2, name), (4, "Constant"), (5, message((1, "value"), (5, tensor))))

    branch = message((1, constant("inside", 3)))
    choice = message((3, "if"), (4, "If"), (5, message((1, "else_branch"), (6, branch))))
    function = message((1, "Scale"), (4, "x"), (5, "y"), (7, constant("k", 2)), (7, choice))
    step = message((2, "step"), (5, message((1, 1), (2, 2), (8, "rate"), (9, b"\x07"))))
    tensor = message((1, 1), (2, 2), (8, "w"), (9, b"\x01"))
    data = model((5, tensor)) + message((20, message((2, step))), (25, function))
    (tmp_path / "f.onnx").write_bytes(data)
    with ptinspect.open(tmp_path / "f.onnx") as document:
        values = {info.path: info.numpy().item() for info in document.tensors.values()}
    assert values == {
        ("w",): 1,
        ("Scale", "k"): 2.0,
        ("Scale.if.else_branch", "inside"): 3.0,
        ("training.step", "rate"): 7,
    }


def test_four_numbers_of_two_bits_are_one_byte(tmp_path: Path) -> None:
    tensor = message((1, 7), (2, 25), (8, "w"), (9, b"\x12\x34"))
    (tmp_path / "b.onnx").write_bytes(model((5, tensor)))
    with ptinspect.open(tmp_path / "b.onnx") as document:
        info = document.tensors["w"]
        assert (info.tensor.encoding, info.shape, info.read()) == ("UINT2", (7,), b"\x12\x34")


def test_a_constant_of_numbers_or_text_is_a_tensor(tmp_path: Path) -> None:
    """Values and shapes are those of `onnx.reference.ops.op_constant`."""
    negative = (1 << 64) - 7
    floats = varint(7 << 3 | 2) + varint(8) + struct.pack("<2f", 1, 2)
    fields = {
        "value_float": varint(2 << 3 | 5) + struct.pack("<f", 1.5),
        "value_floats": floats,
        "value_int": message((3, negative)),
        "value_ints": message((8, 1), (8, negative), (8, 1 << 40)),
        "value_string": message((4, "한")),
        "value_strings": message((9, "ab"), (9, "c")),
    }
    nodes = [
        (1, message((2, name), (4, "Constant"), (5, message((1, name)) + value)))
        for name, value in fields.items()
    ]
    (tmp_path / "c.onnx").write_bytes(model(*nodes))
    with ptinspect.open(tmp_path / "c.onnx") as document:
        tensors = dict(document.tensors)
        values = {name: info.numpy().tolist() for name, info in tensors.items() if info.dtype}
        assert values == {
            "value_float": 1.5, "value_floats": [1.0, 2.0], "value_int": -7,
            "value_ints": [1, -7, 1 << 40],
        }  # fmt: skip
        for name, shape, data in (("string", (), "한"), ("strings", (2,), "abc")):
            info = tensors[f"value_{name}"]
            assert (info.tensor.encoding, info.shape) == ("STRING", shape)
            assert info.read() == data.encode()
    with ptinspect.open(TINY) as document:
        assert document.tensors["text"].read() == b"abc"


def test_strings_of_another_number_are_an_error(tmp_path: Path) -> None:
    tensor = message((1, 3), (2, 8), (8, "w"), (6, "a"), (6, "b"))
    (tmp_path / "s.onnx").write_bytes(model((5, tensor)))
    with pytest.raises(ptinspect.DamagedError, match="needs 3 strings, its string_data has 2"):
        ptinspect.open(tmp_path / "s.onnx")


def test_numbers_of_six_bits_in_int32_data_are_packed_as_in_raw_data(tmp_path: Path) -> None:
    """The bytes are those of `onnx.numpy_helper._pack_6bit`."""
    tensor = message((1, 6), (2, 27), (8, "w"), *((5, n) for n in (1, 2, 3, 63, 5, 62)))
    (tmp_path / "b.onnx").write_bytes(model((5, tensor)))
    with ptinspect.open(tmp_path / "b.onnx") as document:
        info = document.tensors["w"]
        assert (info.tensor.encoding, info.read()) == ("FLOAT6E2M3", b"\x810\xfc\x85\x0f")
