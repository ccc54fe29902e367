"""TorchScript archives: equal to what torch.jit.load reads."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES

LESSON = FIXTURES / "others/torchscript.pt"
EXPORT = FIXTURES / "others/export.pt2"


def test_the_lessons_model_is_shown_as_torch_prints_it() -> None:
    result = run("show", LESSON)
    assert result.exit_code == 0
    assert "torchscript, TorchScript program of class __main__.CustomModel" in result.stdout
    assert "(layer): Linear(in_features=2, out_features=1, bias=True)" in result.stdout
    assert "torch.jit.load(" in result.stdout and "needs" not in result.stdout
    shown = json.loads(run("show", "-f", "json", LESSON).stdout)
    assert shown["content"]["kind"] == "torchscript"
    assert shown["script"]["methods"] == [
        {"module": "", "name": "forward", "schema": "forward(x: Tensor) -> Tensor"},
        {"module": "layer", "name": "forward", "schema": "forward(input: Tensor) -> Tensor"},
    ]
    assert shown["script"]["constants"] == 0 and not shown["script"]["bytecode"]


def test_a_torch_file_of_it_says_that_the_code_is_dropped(tmp_path: Path) -> None:
    assert "a TorchScript archive, which weights_only refuses" in run("show", LESSON).stdout
    programs = (LESSON, "the code of the TorchScript program"), (EXPORT, "the graph of the program")
    for path, dropped in programs:
        for to in ("state_dict", "safetensors"):
            result = run("convert", path, tmp_path / to, "--to", to, "--force")
            assert result.exit_code == 0
            assert f"dropped: {dropped}" in result.stderr and "--to same" not in result.stderr
        result = run("convert", path, tmp_path / "same", "--to", "same")  # torch could not load it
        assert result.exit_code == 2 and not (tmp_path / "same").exists()
        assert "can hold a program\n  --to state_dict or --to safetensors keeps" in result.stderr


def models(torch: Any) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """Models and an input for each."""
    nn = torch.nn

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.register_buffer("scale", torch.ones(3))
            self.register_buffer("hidden", torch.ones(2), persistent=False)
            self.plain = torch.arange(4.0)
            self.sizes = [1, 2]

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
            return self.b(self.a(x)) * self.scale + torch.ones(3)

    image, row = torch.randn(1, 3, 8, 8), torch.randn(2, 3)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return {
        "linear": lambda: (nn.Linear(3, 2), row),
        "no bias": lambda: (nn.Linear(3, 2, bias=False), row),
        "conv": lambda: (block.eval(), image),
        "deep": lambda: (nn.Sequential(*[nn.Linear(3, 3) for _ in range(12)]), row),
        "mlp": lambda: (nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4)), row),
        "nested": lambda: (nn.Sequential(block.eval(), nn.Sequential(nn.Flatten())), image),
        "embedding": lambda: (nn.Embedding(5, 2), torch.tensor([1, 2])),
        "group": lambda: (nn.GroupNorm(3, 3), image),
        "prelu": lambda: (nn.PReLU(), row),
        "pool": lambda: (nn.AdaptiveAvgPool2d(1), image),
        "double": lambda: (nn.Linear(3, 2).double(), row.double()),
        "tied": lambda: (Tied(), row),
    }


NAMES = (
    "linear", "no bias", "conv", "deep", "mlp", "nested", "embedding", "group", "prelu", "pool",
    "double", "tied",
)  # fmt: skip


@pytest.mark.parametrize("how", ["script", "trace"])
def test_state_dicts_are_those_of_torch_jit_load(how: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    warnings.simplefilter("ignore")
    for name in NAMES:
        torch.manual_seed(0)
        model, x = models(torch)[name]()
        path = tmp_path / f"{name.replace(' ', '-')}.pt"
        script = torch.jit.script(model) if how == "script" else torch.jit.trace(model, x)
        torch.jit.save(script, path)
        expected = torch.jit.load(path).state_dict()
        with ptinspect.open(path) as document:
            own = {
                info.key: info for info in document.tensors.values()
                if info.role in ("parameter", "buffer")
            }  # fmt: skip
            assert list(own) == list(expected), name
            for key, tensor in expected.items():
                assert torch.equal(own[key].torch(), tensor), (name, key)
        converted = ptinspect.convert(path, tmp_path / "state.pt", to="state_dict", force=True)
        assert converted.ok
        saved = torch.load(tmp_path / "state.pt")
        assert list(saved) == list(expected)
        assert all(torch.equal(saved[key], tensor) for key, tensor in expected.items())


def test_constants_and_attributes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    warnings.simplefilter("ignore")
    model, _ = models(torch)["tied"]()
    frozen = torch.jit.freeze(torch.jit.script(model.eval()))
    torch.jit.save(frozen, tmp_path / "frozen.pt", _extra_files={"note.txt": "hello"})
    shown = json.loads(run("show", "-f", "json", tmp_path / "frozen.pt").stdout)
    constants = [t for t in shown["tensors"] if t["path"][0] == "CONSTANTS"]
    assert len(constants) == shown["script"]["constants"] > 0
    assert all(t["role"] == "tensor" and not t["persistent"] for t in constants)
    assert shown["script"]["extra_files"] == [{"name": "note.txt", "size": 5}]
    torch.jit.save(torch.jit.script(model), tmp_path / "plain.pt")
    with ptinspect.open(tmp_path / "plain.pt") as document:
        assert document.tensors["plain"].numpy().tolist() == [0, 1, 2, 3]
        assert document.tensors["a.weight"].tensor.storage is (
            document.tensors["b.weight"].tensor.storage
        )


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.0-code", "1.2-code"])
def test_programs_of_torch_before_1_4_are_what_that_torch_loads(
    version: str, tmp_path: Path
) -> None:
    path = FIXTURES / f"others/torchscript-{version}.pt"
    truth = json.loads((FIXTURES / f"others/torchscript-{version}.json").read_text())
    truth = truth.get("tensors", truth)
    with ptinspect.open(path) as document:
        assert document.archive.format == "torchscript"
        others = {key for key, info in document.tensors.items() if info.role == "tensor"}
        assert set(document.tensors) - others == set(truth)
        attributes = {"pieces.0", "pieces.1"} if version[:3] != "1.0" else set()
        assert others == ({"CONSTANTS.c0"} | attributes if "code" in version else set())
        for key, expected in truth.items():
            info = document.tensors[key]
            assert list(info.shape) == expected["shape"] and info.dtype is not None
            assert info.dtype.name == expected["dtype"]
            assert info.role == ("parameter" if expected["parameter"] else "buffer")
            assert hashlib.sha256(info.read()).hexdigest() == expected["sha256"], key
        script: Any = document.archive.facts["script"]
        schema = "forward(x: Tensor) -> Tensor"
        if "code" in version:
            schema = "forward(x: Tensor, n: int) -> Tuple[Tensor, int, List[Tensor]]"
        assert {"module": "", "name": "forward", "schema": schema} in script["methods"]
    assert "# torch 2.13 no longer does" in run("show", path).stdout
    assert run("convert", path, tmp_path / "out.pt").exit_code == 0
    assert ptinspect.diff(path, tmp_path / "out.pt").same
    assert ptinspect.scan(path).verdict == "unknown"  # its code is not judged


OLD_DAMAGE: list[tuple[str, bytes, bytes, str]] = [
    ("no tensor", b'"tensorId":"0"', b'"tensorId":"9x"', "has no tensor '9x'"),
    ("a type", b'"DOUBLE"', b'"STRING"', "has no dtype or shape"),
    ("another record", b'"tensors/0"', b'"tensors/x"', "is missing"),
    ("a large tensor", b'"dims":["2","3"]', b'"dims":["9","3"]', "needs 216 bytes"),
    (
        "a text",
        b'"parameters":[{"isBuffer":false,"tensorId":"4"',
        b'"parameters":["a",{"tensorId":"x"',
        "no tensor 'x'",
    ),
    ("no module", b'"mainModule"', b'"maimModule"', "describes no module"),
    ("no JSON", b'{"protoVersion"', b'["protoVersion"', "not valid JSON"),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "words"), OLD_DAMAGE, ids=[r[0] for r in OLD_DAMAGE]
)
def test_a_damaged_model_json_is_an_error(
    name: str, old: bytes, new: bytes, words: str, tmp_path: Path
) -> None:
    with (
        zipfile.ZipFile(FIXTURES / "others/torchscript-1.0.pt") as source,
        zipfile.ZipFile(tmp_path / "bad.pt", "w") as target,
    ):
        for record in source.namelist():
            target.writestr(record, source.read(record).replace(old, new))
    result = run("show", tmp_path / "bad.pt")
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr


def test_an_incomplete_constant_is_an_error(tmp_path: Path) -> None:
    data = LESSON.read_bytes()
    for cut in range(100, len(data), max(len(data) // 40, 1)):
        (tmp_path / "cut.pt").write_bytes(data[:cut])
        with pytest.raises(ptinspect.PtInspectError):
            ptinspect.open(tmp_path / "cut.pt")


def test_texts_that_are_not_utf8_are_read_as_torch_reads_their_bytes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Cut(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
            self.text = "é"
            self.table = {"a": 1}

        @torch.jit.export
        def cut(self) -> int:
            length = len(self.text)
            self.text = self.text[0:1]
            self.table[self.text] = 2
            return length

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
            return self.layer(x), "\xff" + self.text

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(Cut())
        assert program.cut() == 2  # TorchScript counts bytes
        program.save(tmp_path / "cut.pt")
        loaded = torch.jit.load(tmp_path / "cut.pt")
    with pytest.raises(UnicodeDecodeError) as caught:
        _ = loaded.text
    assert caught.value.object == b"\xc3"
    with ptinspect.open(tmp_path / "cut.pt") as document:
        assert (
            document.tensors["layer.weight"].read()
            == loaded.layer.weight.detach().numpy().tobytes()
        )
    shown = json.loads(run("show", "-f", "json", tmp_path / "cut.pt").stdout)
    attributes = shown["modules"][0]["attributes"]
    assert attributes["text"].encode("utf-8", "surrogateescape") == caught.value.object
    assert attributes["table"] == {"a": 1, "\udcc3": 2} and attributes["CONSTANTS"]["c0"] == "ÿ"
    source = ptinspect.stub(tmp_path / "cut.pt")
    assert r'"text": "\udcc3"' in source and "where TorchScript's count bytes" in source
    assert run("convert", tmp_path / "cut.pt", tmp_path / "out.pt").exit_code == 0
    assert run("show", tmp_path / "cut.pt").exit_code == 0


def test_a_stub_says_that_its_integers_do_not_wrap(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Hash(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, x: int) -> int:
            return x * 6364136223846793005

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(Hash())
        program.save(tmp_path / "hash.pt")
    assert program(3) == (3 * 6364136223846793005 + 2**63) % 2**64 - 2**63
    assert "where TorchScript's wrap at 64 bits" in ptinspect.stub(tmp_path / "hash.pt")
    assert "Integers" not in ptinspect.stub(LESSON) and "Texts" not in ptinspect.stub(LESSON)
