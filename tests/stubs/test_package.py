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
from ptinspect.stubs import StubOptions, stub_package
from ptinspect.stubs.build import stub_content
from ptinspect.stubs.write_package import package_files
from tests.conftest import FIXTURES
from tests.stubs.test_class_option import saved
from tests.stubs.trying import run_script
from tests.torch_child import torch_python

__all__ = ["saved"]

SEED = FIXTURES / "seed" / "model.pth"


def test_one_file_per_original_module(tmp_path: Path) -> None:
    file = FIXTURES / "seed" / "model.pth"
    stub_package(file, tmp_path / "model_def")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py"))
    assert found == ["model_def/__init__.py", "model_def/_register.py", "model_def/main.py"]
    assert "def _register(" not in (tmp_path / "model_def" / "__init__.py").read_text()
    assert "class CustomModel(nn.Module):" in (tmp_path / "model_def" / "main.py").read_text()


def test_nothing_is_overwritten_but_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "model_def"
    stub_package(SEED, folder)
    with pytest.raises(PtInspectError, match="already exists"):
        stub_package(SEED, folder)
    stub_package(SEED, folder, force=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(PtInspectError, match="not written by ptinspect"):
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


@pytest.mark.slow
def test_modules_that_need_each_other_and_odd_names(tmp_path: Path) -> None:
    file = saved_pair(tmp_path)
    stub_package(file, tmp_path / "ring")
    made = {str(path.relative_to(tmp_path / "ring")) for path in tmp_path.rglob("*.py")}
    assert {"ring/__init__.py", "ring/a.py", "ring/b.py", "con_.py"} <= made
    script = "import ring, torch; model = torch.load('ring.pt', weights_only=False); print(model)"
    script += "; assert str(ring.build()) == str(model)"
    done = subprocess.run(
        [torch_python(), "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "(inner): B(" in done.stdout


@pytest.mark.slow
def test_every_model_loads_with_its_package(saved: dict[str, Path], tmp_path: Path) -> None:
    """All in one process each for loading; classes live in several modules."""
    names = sorted(saved)
    for name in names:
        stub_package(saved[name], tmp_path / f"pk_{name}")
        with ptinspect.open(saved[name]) as document:
            assert package_files(stub_content(document, StubOptions())).keys() >= {"__init__.py"}
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
        [torch_python(), script, *given], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(tmp_path)]
        ruff += ["--exclude", "script.py"]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]


RING = """
import sys, types, torch
from torch import nn

def put(thing, home):
    sys.modules.setdefault("ring", types.ModuleType("ring"))
    sys.modules.setdefault(home, types.ModuleType(home))
    thing.__module__, thing.__qualname__ = home, thing.__name__
    setattr(sys.modules[home], thing.__name__, thing)
    return thing

def act(x): return x
put(act, "ring.b")

class A(nn.Module):
    def __init__(self, kind=None, act=None):
        super().__init__()
        self.lin, self.kind, self.act = nn.Linear(2, 2), kind, act

class B(nn.Module):
    def __init__(self, *many):
        super().__init__()
        self.first, self.rest = many[0], nn.ModuleList(many[1:])

class Part(nn.Module):
    def __init__(self, x):
        super().__init__()
        self.x = x

put(A, "ring.a"), put(B, "ring.b"), put(Part, "_parts")
deep = nn.Linear(1, 1)
for _ in range(60):
    deep = nn.Sequential(deep)
inner = B(A(B, act), A(B, act), A(B, act), A())
inner.deep, inner.part = deep, Part(deep)
torch.save(inner, "ring.pt")
"""


@pytest.mark.slow
def test_defaults_that_need_a_module_of_the_ring_are_made_late(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run_script(tmp_path, RING)
    stub_package(tmp_path / "ring.pt", tmp_path / "made")
    source = (tmp_path / "made" / "ring" / "a.py").read_text("utf-8")
    assert "kind=..." in source and "if kind is ...:" in source
    assert (tmp_path / "made" / "_parts_.py").exists()
    run_script(
        tmp_path,
        """
import made, torch
model = torch.load("ring.pt", weights_only=False)
built = made.build()
assert str(built) == str(model)
built.load_state_dict(model.state_dict())
assert built.first.kind is made.B and built.first.act is made.act and built.rest[2].kind is None
""",
    )
