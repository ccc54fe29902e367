"""Programs of torch.export: equal to what torch.export.load reads, in each layout."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES

LESSON = FIXTURES / "others/export.pt2"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A program with views, tied weights, several dtypes, buffers and constants."""
    torch = pytest.importorskip("torch")
    warnings.simplefilter("ignore")

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
            self.b.weight = self.a.weight
            self.norm = torch.nn.BatchNorm1d(4)
            self.view = torch.nn.Parameter(torch.randn(8)[2:6])
            self.low = torch.nn.Parameter(torch.randn(4, dtype=torch.bfloat16))
            self.empty = torch.nn.Parameter(torch.randn(0))
            self.turned = torch.nn.Parameter(torch.randn(4, 4).t())
            self.register_buffer("scale", torch.tensor(2.0, dtype=torch.float64))
            self.register_buffer("hidden", torch.ones(4), persistent=False)
            self.register_buffer("mask", torch.tensor([True, False, True, True]))
            self.plain = torch.arange(4.0)

        def forward(self, x: Any) -> Any:
            y = self.norm(self.a(x) + self.b(x)) * self.scale + self.hidden + self.plain
            y = y + self.view + self.low + self.turned.sum() + self.empty.sum()
            return y * torch.tensor([1.0, 2.0, 3.0, 4.0]), self.mask

    batch = torch.export.Dim("batch", min=2, max=64)
    return torch.export.export(Model().eval(), (torch.randn(2, 3),), dynamic_shapes=({0: batch},))


def in_layout_of_today(program: Any, path: Path) -> None:
    import torch

    torch.export.save(program, path, extra_files={"note.txt": "hello"})


def in_layout_of_2_8(program: Any, path: Path) -> None:
    """Weights and constants are files of torch.save."""
    import torch
    from torch._export.serde.serialize import serialize

    parts = serialize(program)
    with torch.export.pt2_archive.PT2ArchiveWriter(str(path)) as writer:
        writer.write_bytes("models/model.json", parts.exported_program)
        writer.write_bytes("data/weights/model.pt", parts.state_dict)
        writer.write_bytes("data/constants/model.pt", parts.constants)
        writer.write_bytes("data/sample_inputs/model.pt", parts.example_inputs)


def in_layout_of_2_7(program: Any, path: Path) -> None:
    """A plain zip without a folder, as `torch.export.save` of torch 2.7 wrote it."""
    from torch._export.serde.serialize import serialize

    parts = serialize(program)
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("serialized_exported_program.json", parts.exported_program)
        target.writestr("serialized_state_dict.pt", parts.state_dict)
        target.writestr("serialized_constants.pt", parts.constants)
        target.writestr("serialized_example_inputs.pt", parts.example_inputs)
        target.writestr("version", "8.20")


LAYOUTS = [in_layout_of_today, in_layout_of_2_8, in_layout_of_2_7]


@pytest.mark.parametrize("save", LAYOUTS, ids=lambda save: str(save.__name__))
def test_tensors_are_those_of_torch(
    save: Callable[[Any, Path], None], program: Any, tmp_path: Path
) -> None:
    import torch

    path = tmp_path / "model.pt2"
    save(program, path)
    loaded = torch.export.load(path)
    with ptinspect.open(path) as document:
        own = document.tensors
        persistent = {key for key, info in own.items() if info.persistent}
        assert persistent == set(loaded.state_dict)
        assert set(own) - persistent == set(loaded.constants)
        for key, tensor in {**loaded.state_dict, **loaded.constants}.items():
            assert own[key].dtype is not None and str(tensor.dtype) == repr(own[key].dtype)
            assert own[key].stride == tensor.stride() and own[key].shape == tuple(tensor.shape)
            assert torch.equal(own[key].torch(), tensor), key
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            assert (own[key].role == "parameter") == is_parameter, key
            assert own[key].tensor.requires_grad == tensor.requires_grad, key
        assert {k for k, info in own.items() if info.role == "tensor"} == {
            "plain", "lifted_tensor_0"
        }  # fmt: skip
        assert own["a.weight"].tensor.storage is own["b.weight"].tensor.storage
        facts = document.archive.facts["programs"]
    (shown,) = facts  # type: ignore[misc]
    targets = [str(node.target) for node in loaded.graph.nodes if node.op == "call_function"]
    assert {item["name"]: item["count"] for item in shown["operators"]} == {
        name: targets.count(name) for name in targets
    }
    assert list(shown["inputs"]) == list(loaded.graph_signature.user_inputs)
    assert list(shown["outputs"]) == list(loaded.graph_signature.user_outputs)
    assert list(shown["ranges"].values()) == [[2, 64]]
    assert ptinspect.convert(path, tmp_path / "state.pt", to="state_dict").ok is not None
    saved = torch.load(tmp_path / "state.pt")
    assert set(saved) == set(loaded.state_dict)
    assert all(torch.equal(saved[key], tensor) for key, tensor in loaded.state_dict.items())
    assert ptinspect.scan(path).verdict == "clean"


def test_several_programs_have_their_names(program: Any, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "two.pt2"
    other = torch.export.export(torch.nn.Linear(2, 1), (torch.randn(1, 2),))
    torch.export.pt2_archive._package.package_pt2(
        path, exported_programs={"one": program, "two": other}
    )
    shown = json.loads(run("show", "-f", "json", path).stdout)
    assert shown["content"]["kind"] == "program"
    assert [item["name"] for item in shown["programs"]] == ["one", "two"]
    paths = [tuple(tensor["path"]) for tensor in shown["tensors"]]
    assert ("one", "a.weight") in paths and ("two", "weight") in paths
    with ptinspect.open(path) as document:
        assert torch.equal(document.tensors["two.weight"].torch(), other.state_dict["weight"])


def test_the_lessons_program_is_shown() -> None:
    result = run("show", LESSON)
    assert result.exit_code == 0
    assert "torch-export, exported program" in result.stdout
    assert "model(x) -> linear" in result.stdout and "aten.linear.default (1)" in result.stdout
    assert run("stub", LESSON).exit_code == 2


def changed(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Write the lesson's program with other records; None leaves one out."""
    with zipfile.ZipFile(LESSON) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = change(name.partition("/")[2], source.read(name))
            if data is not None:
                target.writestr(name, data)
    return path


CONFIG = "data/weights/model_weights_config.json"


def test_a_program_is_clean_whatever_the_length_of_its_name(tmp_path: Path) -> None:
    # With 8 letters the first entry of the directory is as long as the records of zip64.
    torch = pytest.importorskip("torch")
    program = torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),))
    for name in ("resnet1", "resnet18", "resnet101"):
        torch.export.save(program, tmp_path / f"{name}.pt2")
        assert ptinspect.scan(tmp_path / f"{name}.pt2").verdict == "clean"


def replaced(record: str, old: bytes, new: bytes) -> Callable[[str, bytes], bytes | None]:
    return lambda name, data: re.sub(old, new, data, count=1) if name == record else data


def compiled(path: Path) -> None:
    """The lesson's weights as `aoti_compile_and_package` of torch 2.13 keeps them outside of the
    library (package_constants_in_so=False, package_constants_on_disk_format="pickle_weights")."""
    import io

    torch = pytest.importorskip("torch")

    weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    saved = io.BytesIO()
    torch.save(weight, saved)
    config = {"layer.weight": ["weight_0", [3, 4], [4, 1], 0], "part": ["weight_0", [2], [4], 1]}
    with torch.export.pt2_archive.PT2ArchiveWriter(str(path)) as writer:
        writer.write_bytes("data/weights/weight_0", saved.getvalue())
        folder = "data/aotinductor/model/"
        writer.write_string(f"{folder}weights_config.json", json.dumps(config))
        writer.write_bytes(f"{folder}c5f.wrapper.so", b"\x7fELF" + bytes(60))


def test_a_compiled_package_shows_its_weights_and_lists_its_libraries(tmp_path: Path) -> None:
    compiled(tmp_path / "c.pt2")
    with ptinspect.open(tmp_path / "c.pt2") as document:
        tensors = document.tensors
        assert tensors["layer.weight"].numpy().tolist() == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9, 10, 11],
        ]
        assert tensors["part"].numpy().tolist() == [1, 5]
        messages = [warning.message for warning in document.warnings]
    assert "compiled code of AOTInductor, which is not examined: c5f.wrapper.so" in messages
    shown = json.loads(run("show", "-f", "json", tmp_path / "c.pt2").stdout)
    assert {"name": "c5f.wrapper.so", "size": 64} in shown["compiled"][0]["files"]
    assert run("convert", tmp_path / "c.pt2", tmp_path / "out.pt").exit_code == 0


@pytest.mark.slow
def test_a_real_compiled_package_has_the_weights_of_its_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a compiler")
    model = torch.nn.Linear(3, 2)
    program = torch.export.export(model, (torch.ones(4, 3),))
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(tmp_path / "c.pt2"),
        inductor_configs={
            "aot_inductor.package_constants_in_so": False,
            "aot_inductor.package_constants_on_disk_format": "pickle_weights",
        },
    )
    with ptinspect.open(tmp_path / "c.pt2") as document:
        state = model.state_dict()
        assert set(document.tensors) <= set(state) and "weight" in document.tensors
        for key, info in document.tensors.items():
            assert torch.equal(info.torch(), state[key])
        assert document.archive.facts["compiled"]


WRAPPER = """
    constants_info_[{n}].name = "{name}";
    constants_info_[{n}].dtype = cached_torch_dtype_{dtype};
    constants_info_[{n}].device_type = cached_torch_device_type_cpu;
    constants_info_[{n}].offset = {offset};
    constants_info_[{n}].data_size = {size};
    constants_info_[{n}].from_folded = {folded};
    constants_info_[{n}].type = static_cast<int32_t>(torch::aot_inductor::ConstantType::{kind});
    constants_info_[{n}].shape = {{{shape}}};
    constants_info_[{n}].stride = {{{stride}}};
    constants_info_[{n}].layout = static_cast<int32_t>(cached_torch_layout_{layout});
    constants_info_[{n}].original_fqn = "{name}";"""
FACTS: dict[str, Any] = {"dtype": "float32", "offset": 0, "size": 64, "folded": "false",
    "kind": "Parameter", "shape": "2, 3", "stride": "3, 1", "layout": "strided"}  # fmt: skip
CONSTANTS: list[dict[str, Any]] = [
    {"name": "layer.weight"},
    {"name": "folded", "folded": "true"},
    {"name": "opaque", "layout": "mkldnn"},
    {"name": "turned", "kind": "Buffer", "dtype": "int16", "offset": 1, "stride": "1, 2"},
    {"name": "_tensor_constant0", "kind": "TensorConstant", "shape": "4", "stride": "1"},
]
BYTES = (
    struct.pack("<16f", *range(16)) + bytes(64) + struct.pack("<32h", *range(32))
    + struct.pack("<16f", *range(16))
)  # fmt: skip


def elf(content: bytes, *, ends: bool = True) -> bytes:
    """Return an object file with the constants, with their end or size as a symbol."""
    names = b"\0_binary_constants_bin_start\0_binary_constants_bin_end\0"
    size = 0 if ends else len(content)
    symbols = struct.pack("<IBBHQQ", 1, 16, 0, 1, 4096, size)
    symbols += struct.pack("<IBBHQQ", 29, 16, 0, 1, 4096 + len(content), 0) if ends else b""
    sections = bytes(64)
    begin = 64 + 4 * 64
    for kind, address, data in ((1, 4096, content), (2, 0, symbols), (3, 0, names)):
        place = struct.pack("<IIQQQQIIQQ", 0, kind, 0, address, begin, len(data), 3, 0, 1, 0)
        sections, begin = sections + place, begin + len(data)
    head = b"\x7fELF\2\1\1".ljust(40, b"\0") + struct.pack("<Q", 64)
    return head.ljust(60, b"\0") + struct.pack("<HH", 4, 0) + sections + content + symbols + names


def library(path: Path, files: dict[str, bytes], constants: list[dict[str, Any]]) -> Path:
    """Write a package as `aoti_compile_and_package` does: the library, and the source that lists
    its constants."""
    rows = [WRAPPER.format(n=n, **FACTS | row) for n, row in enumerate(constants)]
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("c/archive_format", "pt2")
        target.writestr("c/data/aotinductor/model/a.wrapper.cpp", "".join(rows))
        for name, data in files.items():
            target.writestr(f"c/data/aotinductor/model/{name}", data)
    return path


MARK = b"\1\2\3\4\5\6\7\x08"
LIBRARIES: dict[str, dict[str, bytes]] = {
    "a symbol for the end": {"a.wrapper.so": elf(BYTES)},
    "a symbol with a size": {"a.wrapper.so": elf(BYTES, ends=False)},
    "an object file": {"b.weights.o": elf(BYTES)},
    "force_mmap_weights": {
        "a.wrapper.so": elf(struct.pack("<q", len(BYTES) + 8) + MARK).ljust(16384) + BYTES + MARK
    },
    "binary_blob": {
        "a.wrapper.so": elf(struct.pack("<q", len(BYTES))),
        "a.wrapper_weights.blob": BYTES,
    },
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_constants_in_a_library_are_read(name: str, tmp_path: Path) -> None:
    path = library(tmp_path / "c.pt2", LIBRARIES[name], CONSTANTS)
    with ptinspect.open(path) as document:
        tensors = document.tensors
        values = {key: info.numpy().tolist() for key, info in tensors.items()}
        roles = {key: (info.role, str(info.dtype)) for key, info in tensors.items()}
        messages = [warning.message for warning in document.warnings]
    assert values == {
        "layer.weight": [[0, 1, 2], [3, 4, 5]],
        "turned": [[1, 3, 5], [2, 4, 6]],
        "_tensor_constant0": [0, 1, 2, 3],
    }
    assert roles == {
        "layer.weight": ("parameter", "torch.float32"),
        "turned": ("buffer", "torch.int16"),
        "_tensor_constant0": ("tensor", "torch.float32"),
    }
    assert "constants in compiled code are not read: opaque" in messages
    assert "aoti_load_package(" in run("show", path).stdout
    assert run("convert", path, tmp_path / "out.pt").exit_code == 0


CONTRADICTIONS: list[tuple[str, dict[str, bytes], dict[str, Any], str]] = [
    ("no library", {}, {}, "the library is missing"),
    ("no ELF", {"a.wrapper.so": b"MZ" + bytes(90)}, {}, "not an ELF file with constants"),
    ("cut", {"a.wrapper.so": elf(BYTES)[:400]}, {}, ""),
    (
        "empty",
        {"a.wrapper.so": elf(b"\0")},
        {},
        "has 1 bytes of constants, and its source lists 64",
    ),
    ("longer", {"a.wrapper.so": elf(bytes(128))}, {}, "has 128 bytes of constants"),
    (
        "other mark",
        {"a.wrapper.so": elf(struct.pack("<q", 72) + MARK) + bytes(72)},
        {},
        "has 16 bytes",
    ),
    ("too large", {"a.wrapper.so": elf(bytes(64))}, {"shape": "9, 9", "stride": "9, 1"}, ""),
    ("dtype", {"a.wrapper.so": elf(bytes(64))}, {"dtype": "float77"}, ""),
    ("strides", {"a.wrapper.so": elf(bytes(64))}, {"stride": "1"}, ""),
    ("other source", {"a.wrapper.so": elf(bytes(64))}, {"size": "f(64)"}, "is not as torch 2.13"),
]


@pytest.mark.parametrize(
    ("name", "files", "change", "words"), CONTRADICTIONS, ids=[row[0] for row in CONTRADICTIONS]
)
def test_constants_whose_facts_contradict_are_not_read(
    name: str, files: dict[str, bytes], change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = library(tmp_path / "c.pt2", files, [{"name": "layer.weight"} | change])
    with ptinspect.open(path) as document:
        assert not document.tensors
        messages = [warning.message for warning in document.warnings]
    assert any(
        "constants in compiled code are not read" in message and words in message
        and message.endswith(": layer.weight" if name != "other source" else "writes it")
        for message in messages
    ), messages  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["", "use_consts_asm_build", "force_mmap_weights", "binary_blob"]
)
def test_constants_in_real_libraries_are_those_of_the_model(option: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a compiler")
    model = torch.nn.Sequential(torch.nn.Linear(9, 12), torch.nn.Linear(12, 11).double())
    model.register_buffer("turned", torch.arange(18.0).reshape(2, 9).t())
    model.forward = lambda x: model[1](model[0](x + model.turned[:, 1]).double())
    program = torch.export.export(model, (torch.ones(4, 9),))
    options = {
        "": {},
        "use_consts_asm_build": {"aot_inductor.use_consts_asm_build": False},
        "force_mmap_weights": {"aot_inductor.force_mmap_weights": True},
        "binary_blob": {"aot_inductor.package_constants_on_disk_format": "binary_blob"},
    }
    path = str(tmp_path / "c.pt2")
    torch._inductor.aoti_compile_and_package(
        program, package_path=path, inductor_configs=options[option]
    )
    with ptinspect.open(path) as document:
        assert set(document.tensors) == set(program.state_dict)
        for key, info in document.tensors.items():
            expected = program.state_dict[key]
            assert info.stride == expected.stride() and info.torch().equal(expected.detach())
            assert info.role == ("buffer" if key == "turned" else "parameter")
        messages = [warning.message for warning in document.warnings]
    digits = "0.weight, 0.bias, 1.weight, 1.bias"
    assert f"not recorded whether parameters or buffers: {digits}" in messages


DAMAGE: list[tuple[str, Callable[[str, bytes], bytes | None], str]] = [
    ("missing weight", lambda n, d: None if n == "data/weights/weight_0" else d, "is missing"),
    ("short weight", lambda n, d: d[:4] if n == "data/weights/weight_0" else d, "needs 8 bytes"),
    ("missing config", lambda n, d: None if n == CONFIG else d, "is missing"),
    ("no JSON", lambda n, d: b"{" if n == CONFIG else d, "not valid JSON"),
    ("a list", lambda n, d: b"[]" if n == "models/model.json" else d, "not an object"),
    ("deep", lambda n, d: b"[" * 99999 if n == "models/model.json" else d, "not valid JSON"),
    ("dtype", replaced(CONFIG, b'"dtype": 7', b'"dtype": 99'), "the dtype 99"),
    ("layout", replaced(CONFIG, b'"layout": 7', b'"layout": 1'), "the layout 1"),
    ("negative", replaced(CONFIG, b'"as_int": 1', b'"as_int": -1'), "has no shape"),
    ("symbol", replaced(CONFIG, b'"as_int": 1', b'"as_expr": 1'), "has no shape"),
    ("outside", replaced(CONFIG, b'weight_0', b"weight_/../../x"), "is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "words"), DAMAGE, ids=[row[0] for row in DAMAGE])
def test_damage_is_an_error_that_names_the_record(
    name: str, change: Callable[[str, bytes], bytes | None], words: str, tmp_path: Path
) -> None:
    path = changed(tmp_path / "bad.pt2", change)
    result = run("show", path)
    assert result.exit_code == 2 and words in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert run("convert", path, tmp_path / "out.pt").exit_code == 2
    assert not (tmp_path / "out.pt").exists()


def test_a_cut_program_is_an_error(tmp_path: Path) -> None:
    data = LESSON.read_bytes()
    for cut in range(100, len(data), len(data) // 20):
        (tmp_path / "cut.pt2").write_bytes(data[:cut])
        with pytest.raises(ptinspect.PtInspectError):
            ptinspect.open(tmp_path / "cut.pt2")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("echo",)


def test_a_harmful_object_in_a_program_is_dangerous(tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name != "data/constants/model_constants_config.json":
            return data
        return b'{"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": false}}}'

    path = changed(tmp_path / "evil.pt2", change)
    with zipfile.ZipFile(path, "a") as target:
        target.writestr("export/data/constants/opaque_obj_0", pickle.dumps(Evil()))
    assert run("scan", path).exit_code == 1
    assert ptinspect.scan(path).verdict == "dangerous"
    shown = run("show", path)
    assert shown.exit_code == 0 and "opaque_obj_0, which is not read" in shown.stdout


def test_a_library_without_constants_has_nothing_to_warn_of(tmp_path: Path) -> None:
    path = library(tmp_path / "c.pt2", {"a.wrapper.so": elf(b"\0")}, [])
    with ptinspect.open(path) as document:
        messages = [warning.message for warning in document.warnings]
    assert not any("constants" in message for message in messages), messages
