"""Archives of torch.package: equal to what PackageImporter loads, with their own source."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.torch_child import run_python

LESSON = FIXTURES / "others/package.pt"

MODULES = {
    "packed_net/__init__.py": "",
    "packed_net/net.py": '''"""A net."""
import torch
from torch import nn
from packed_net.tools import scale
import packed_heavy


class Net(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layer = nn.Linear(n, 2)

    def forward(self, x):
        return scale(self.layer(x))
''',
    "packed_net/tools.py": "def scale(x):\n    return x * 2\n",
    "packed_heavy.py": "def work():\n    pass\n",
}


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a model, a dict that shares its storages, a text, and bytes."""
    torch = pytest.importorskip("torch")
    warnings.simplefilter("ignore")
    source = tmp_path / "source"
    for name, text in MODULES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    monkeypatch.syspath_prepend(str(source))
    net = __import__("packed_net.net", fromlist=["Net"])
    try:
        model = net.Net(3)
        with torch.package.PackageExporter(tmp_path / "p.pt") as exporter:
            exporter.extern("torch.**")
            exporter.intern("packed_net.**")
            exporter.mock("packed_heavy")
            exporter.save_pickle("models", "a.pkl", model)
            entry = {"weight": model.layer.weight, "n": 3, "half": torch.ones(2).half()}
            exporter.save_pickle("models", "b.pkl", entry)
            exporter.save_text("models", "note.txt", "hello")
            exporter.save_binary("models", "raw.bin", b"\x80\x03abc")
    finally:
        for name in [name for name in sys.modules if name.startswith("packed_")]:
            del sys.modules[name]
    return tmp_path / "p.pt"


def test_pickles_are_those_of_torch(packed: Path, tmp_path: Path) -> None:
    import torch

    importer = torch.package.PackageImporter(packed)
    expected = {
        f"models/a.pkl.{key}": value
        for key, value in importer.load_pickle("models", "a.pkl").state_dict().items()
    }
    entries = importer.load_pickle("models", "b.pkl")
    expected |= {f"models/b.pkl.{key}": entries[key] for key in ("weight", "half")}
    with ptinspect.open(packed) as document:
        assert list(document.tensors) == list(expected)
        for key, tensor in expected.items():
            assert torch.equal(document.tensors[key].torch(), tensor), key
        first, second = (
            document.tensors[f"models/{k}"] for k in ("a.pkl.layer.weight", "b.pkl.weight")
        )
        assert first.tensor.storage is second.tensor.storage
        assert [info.root for info in document.modules] == [("models/a.pkl",)] * 2
    ptinspect.convert(packed, tmp_path / "s.pt", to="state_dict", entry='["models/a.pkl"]')
    saved = torch.load(tmp_path / "s.pt")
    assert list(saved) == ["layer.weight", "layer.bias"]
    assert torch.equal(saved["layer.bias"], expected["models/a.pkl.layer.bias"])


def test_what_the_package_holds_is_listed(packed: Path) -> None:
    shown = json.loads(run("show", "-f", "json", packed).stdout)
    package = shown["package"]
    assert package["pickles"] == ["models/a.pkl", "models/b.pkl"]
    assert package["resources"] == ["models/note.txt", "models/raw.bin"]
    assert {"packed_net/net.py", "packed_net/tools.py"} <= set(package["sources"])
    assert package["mock"] == ["packed_heavy"] and "torch" in package["extern"]
    assert ptinspect.scan(packed).verdict == "unknown"


def test_the_modules_are_written_under_their_names(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert run("stub", packed, "--package", target).exit_code == 0
    for name in ("packed_net/net.py", "packed_net/tools.py"):
        first, _, text = (target / name).read_text().partition("\n")
        assert first == "# recorded in p.pt, written by ptinspect"
        assert text == MODULES[name]
    code = "import packed_net.net, torch; print(packed_net.net.Net(3)(torch.ones(3)).shape)"
    done = run_python("-c", code, path=[target])
    assert done.stdout.strip() == "torch.Size([2])", done.stderr
    assert run("stub", packed, "--package", target).exit_code == 2
    assert run("stub", packed, "--package", target, "--force").exit_code == 0
    assert "return scale(self.layer(x))" in ptinspect.stub(packed)


def changed(path: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> Path:
    """Write the lesson's package with other records; None leaves one out."""
    with zipfile.ZipFile(LESSON) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = change(name.partition("/")[2], source.read(name))
            if data is not None:
                target.writestr(name, data)
        for name, data in more.items():
            target.writestr(name, data)
    return path


STORAGE, PICKLE = ".data/0.storage", "model/state_dict.pkl"
DAMAGE: list[tuple[str, Callable[[str, bytes], bytes | None], str]] = [
    ("missing storage", lambda n, d: None if n == STORAGE else d, "0.storage is missing"),
    ("short storage", lambda n, d: d[:4] if n == STORAGE else d, "0.storage has 4 bytes"),
    ("cut pickle", lambda n, d: d[:20] if n == PICKLE else d, "state_dict.pkl @"),
    ("no pickle", lambda n, d: b"hello" if n == PICKLE else d, "state_dict.pkl"),
]


@pytest.mark.parametrize(("name", "change", "words"), DAMAGE, ids=[row[0] for row in DAMAGE])
def test_damage_is_an_error_that_names_the_record(
    name: str, change: Callable[[str, bytes], bytes | None], words: str, tmp_path: Path
) -> None:
    result = run("show", changed(tmp_path / "bad.pt", change))
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr


def test_a_module_outside_the_folder_is_not_written(tmp_path: Path) -> None:
    for name in ("package/../evil.py", "package//etc/evil.py", "package/a b.py", "package/C:/x.py"):
        path = changed(tmp_path / "evil.pt", lambda n, d: d, **{name: b"x = 1\n"})
        result = run("stub", path, "--package", tmp_path / "out")
        assert result.exit_code == 2 and "a module has the name" in result.stderr, name
        assert not (tmp_path / "out").exists() and not (tmp_path / "evil.py").exists()


def test_a_storage_twice_is_an_error(tmp_path: Path) -> None:
    warnings.simplefilter("ignore")
    path = changed(tmp_path / "twice.pt", lambda n, d: d, **{f"package/{STORAGE}": bytes(8)})
    assert run("show", path).exit_code == 2


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("echo",)


def test_a_harmful_pickle_in_a_package_is_dangerous(tmp_path: Path) -> None:
    data = pickle.dumps(Evil(), 3)
    path = changed(tmp_path / "evil.pt", lambda n, d: data if n == PICKLE else d)
    assert ptinspect.scan(path).verdict == "dangerous"


def test_objects_that_only_their_code_loads_are_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    warnings.simplefilter("ignore")
    exporter_module = torch.package.package_exporter
    gate = exporter_module._gate_torchscript_serialization
    exporter_module._gate_torchscript_serialization = False
    try:
        with torch.package.PackageExporter(tmp_path / "s.pt") as exporter:
            exporter.extern("**")
            exporter.save_pickle("m", "s.pkl", [torch.jit.script(torch.nn.Linear(2, 1)), 3])
    finally:
        exporter_module._gate_torchscript_serialization = gate
    result = run("show", tmp_path / "s.pt")
    assert result.exit_code == 0
    assert "torch.jit._script.unpackage_script_module" in result.stdout
