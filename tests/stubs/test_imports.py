"""How a stub makes names findable: what is missing, what is there, and what is cleaned up."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

import ptinspect
from ptinspect.stubs import stub, stubbed
from tests.conftest import FIXTURES, ROOT
from tests.torch_child import torch_python

torch = pytest.importorskip("torch")


def pickled(folder: Path, *names: str) -> Path:
    """A pickle of an object of each class, made by classes that are gone afterwards."""
    things, homes = [], []
    for name in names:
        home, _, last = name.rpartition(".")
        made = type(last, (), {"__module__": home, "__qualname__": last})
        parts = home.split(".")
        for end in range(1, len(parts) + 1):
            inner = ".".join(parts[:end])
            if inner not in sys.modules:
                sys.modules[inner] = types.ModuleType(inner)
                homes.append(inner)
        setattr(sys.modules[home], last, made)
        thing = made()
        thing.value = name
        things.append(thing)
    path = folder / "things.pt"
    torch.save(things, path)
    for name, thing in zip(names, things, strict=True):
        delattr(sys.modules[name.rpartition(".")[0]], type(thing).__name__)
    for home in homes:
        del sys.modules[home]
    return path


def load_in_child(folder: Path, file: Path, before: str = "", after: str = "") -> str:
    """Loads the file beside its stub; what is printed are the values of its objects."""
    (folder / "model_def.py").write_text(stub(file), "utf-8")
    script = f"""
import sys
{before}
import model_def
import torch
for one in torch.load({str(file)!r}, weights_only=False):
    print(type(one).__module__, one.value)
{after}
"""
    (folder / "script.py").write_text(script, "utf-8")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [torch_python(), str(folder / "script.py")],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_package_that_is_not_installed(tmp_path: Path) -> None:
    file = pickled(tmp_path, "models_.yolo.Detect", "models_.common.Conv", "models_.Top")
    said = load_in_child(tmp_path, file)
    assert said.split() == [
        "models_.yolo", "models_.yolo.Detect", "models_.common", "models_.common.Conv", "models_",
        "models_.Top",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_folder_of_that_name_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "models_").mkdir()
    (tmp_path / "models_" / "weights.pt").write_bytes(b"")
    file = pickled(tmp_path, "models_.yolo.Detect")
    assert "models_.yolo.Detect" in load_in_child(tmp_path, file)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import lib_.layers", "import lib_"])
def test_a_name_gone_from_a_module_that_exists(tmp_path: Path, before: str) -> None:
    (tmp_path / "lib_").mkdir()
    (tmp_path / "lib_" / "__init__.py").write_text("")
    (tmp_path / "lib_" / "layers.py").write_text("class New:\n    kept = True\n")
    file = pickled(tmp_path, "lib_.layers.Old", "lib_.gone.Other")
    after = "import lib_.layers; print(lib_.layers.New.kept)"
    said = load_in_child(tmp_path, file, before, after)
    assert said.split() == [
        "lib_.layers",
        "lib_.layers.Old",
        "lib_.gone",
        "lib_.gone.Other",
        "True",
    ]


@pytest.mark.slow
def test_a_class_that_is_there_is_used(tmp_path: Path) -> None:
    (tmp_path / "lib_.py").write_text("class Net:\n    def __init__(self): self.real = True\n")
    file = pickled(tmp_path, "lib_.Net")
    after = "print('model_def' in repr(sys.modules['lib_'].Net.__init__.__code__))"
    assert load_in_child(tmp_path, file, "", after).split() == ["lib_", "lib_.Net", "False"]


def test_what_the_file_names_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "lib_.py").write_text("print('imported')\nclass Net: pass\n")
    file = pickled(tmp_path, "lib_.Net")
    (tmp_path / "model_def.py").write_text(stub(file), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "import model_def, sys; print('lib_' in sys.modules)"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.split() == ["False"]


@pytest.mark.slow
def test_two_stubs_of_one_package(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, name in ((first, "pack_.one.A"), (second, "pack_.two.B")):
        folder.mkdir()
        (tmp_path / f"{folder.name}_def.py").write_text(stub(pickled(folder, name)), "utf-8")
    code = f"""
import a_def, b_def, torch
for path in {str(first / "things.pt")!r}, {str(second / "things.pt")!r}:
    print(torch.load(path, weights_only=False)[0].value)
"""
    done = subprocess.run(
        [torch_python(), "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stdout.split() == ["pack_.one.A", "pack_.two.B"], done.stderr


def test_stubbed_leaves_nothing_behind(tmp_path: Path) -> None:
    file = pickled(tmp_path, "models_.yolo.Detect")
    before, finders = set(sys.modules), list(sys.meta_path)
    with stubbed(file):
        assert torch.load(file, weights_only=False)[0].value == "models_.yolo.Detect"
        assert torch.load(file, weights_only=True)[0].value == "models_.yolo.Detect"
    assert not {name for name in set(sys.modules) - before if name.startswith("models_")}
    assert sys.meta_path == finders
    with pytest.raises(ModuleNotFoundError):
        torch.load(file, weights_only=False)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)


def test_stubbed_takes_its_names_out_of_main() -> None:
    file = FIXTURES / "seed" / "model.pth"
    with ptinspect.stubbed(file) as model_def:
        model = torch.load(file, map_location="cpu", weights_only=True)
        assert str(model) == str(model_def.build())
    assert not hasattr(sys.modules["__main__"], "CustomModel")
    with ptinspect.stubbed(file):
        torch.load(file, map_location="cpu", weights_only=False)


def test_writing_a_stub_imports_no_torch() -> None:
    code = "import sys; from ptinspect.cli import cli\n"
    code += f"cli(['stub', {str(FIXTURES / 'checkpoints/yolov5.pt')!r}], standalone_mode=False)\n"
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    loaded = set(done.stderr.split())
    assert "ptinspect.stubs" in loaded
    assert not {"torch", "numpy", "safetensors"} & loaded
