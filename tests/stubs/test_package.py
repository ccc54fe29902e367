"""`--package DIR`: one file per original module."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import ptinspect
from ptinspect.errors import PtInspectError
from ptinspect.stubs import Options, stub_package
from ptinspect.stubs.package import package_files
from ptinspect.stubs.work import Work
from tests.conftest import FIXTURES
from tests.stubs.test_choosing import saved

__all__ = ["saved"]

SEED = FIXTURES / "seed" / "model.pth"


def test_one_file_per_original_module(tmp_path: Path) -> None:
    file = FIXTURES / "seed" / "model.pth"
    stub_package(file, tmp_path / "model_def")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py"))
    assert found == ["model_def/__init__.py", "model_def/main.py"]
    assert "class CustomModel(nn.Module):" in (tmp_path / "model_def" / "main.py").read_text()


def test_nothing_is_overwritten_but_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "model_def"
    stub_package(SEED, folder)
    with pytest.raises(PtInspectError, match="exists already"):
        stub_package(SEED, folder)
    stub_package(SEED, folder, force=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(PtInspectError, match="did not write it"):
        stub_package(SEED, folder, force=True)
    assert (folder / "thesis.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["model_def"]
    with pytest.raises(PtInspectError, match="cannot import"):
        stub_package(SEED, tmp_path / "model-def")


def saved_pair(folder: Path) -> Path:
    """A model of four modules that need each other in a ring, and a hostile module name."""
    torch = pytest.importorskip("torch")
    kinds = {}
    names = ["ring.a.A", "ring.b.B", "ring.R", "/etc/up.Evil", "con.Nul"]
    for name in names:
        home, _, last = name.rpartition(".")
        made = kinds[last] = type(last, (torch.nn.Module,), {"__module__": home})
        sys.modules.setdefault(home, types.ModuleType(home))
        setattr(sys.modules[home], last, made)
    a, b = kinds["A"], kinds["B"]
    root, inner = a(), b()
    inner.inner, inner.number = None, 1
    middle, leaf = kinds["R"](), a()
    leaf.inner, leaf.number = None, 2
    inner.inner, middle.inner, root.inner, root.number = leaf, inner, middle, 3
    root.others = torch.nn.ModuleList(kinds[name]() for name in ("Evil", "Nul"))
    torch.save(root, folder / "ring.pt")
    for name in names:
        del sys.modules[name.rpartition(".")[0]]
    return folder / "ring.pt"


def test_modules_that_need_each_other_and_odd_names(tmp_path: Path) -> None:
    file = saved_pair(tmp_path)
    stub_package(file, tmp_path / "ring")
    made = {str(path.relative_to(tmp_path / "ring")) for path in tmp_path.rglob("*.py")}
    assert {"ring/__init__.py", "ring/a.py", "ring/b.py", "con_.py"} <= made
    script = "import ring, torch; model = torch.load('ring.pt', weights_only=False); print(model)"
    script += "; assert str(ring.build()) == str(model)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "(inner): B(" in done.stdout


def test_every_model_loads_with_its_package(saved: dict[str, Path], tmp_path: Path) -> None:
    """All in one process each for loading; classes live in several modules."""
    names = sorted(saved)
    for name in names:
        stub_package(saved[name], tmp_path / f"pk_{name}")
        with ptinspect.open(saved[name]) as document:
            assert package_files(Work(document, Options())).keys() >= {"__init__.py"}
    script = tmp_path / "script.py"
    script.write_text(
        """
import importlib, os, sys, torch, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, os.path.dirname(__file__))
for argument in sys.argv[1:]:
    name, _, path = argument.partition("=")
    child = os.fork()
    if not child:
        code = 1
        try:
            made = importlib.import_module("pk_" + name)
            loaded = torch.load(path, weights_only=False)
            built = made.build()
            if isinstance(loaded, torch.nn.Module):
                assert str(loaded) == str(built)
                built.load_state_dict(loaded.state_dict())
            code = 0
        except BaseException as error:
            print(name, type(error).__name__, error, flush=True)
        os._exit(code)
    os.waitpid(child, 0)
""",
        "utf-8",
    )
    given = [f"{name}={saved[name]}" for name in names]
    done = subprocess.run(
        [sys.executable, script, *given], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(tmp_path)]
        ruff += ["--exclude", "script.py"]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
