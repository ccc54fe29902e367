"""Models that no zoo has: classes named as the stub's own, values that hold themselves,
torch.compile in a legacy file. Saved by one process, and tried in others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import ptinspect
from ptinspect.stubs import StubOptions, stub_package
from tests.conftest import FIXTURES
from tests.stubs.trying import attempt, failures, outcomes, run_script
from tests.torch_child import torch_python

torch = pytest.importorskip("torch")

LIBRARY = '''
import torch
from torch import nn


class Part(nn.Module):
    """Whatever it is given, as children and attributes."""

    def __init__(self, **members):
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)


class _register(Part):
    pass


class _Finder(Part):
    pass


class _finder(Part):
    pass


class _Loader(Part):
    pass


class Outer(nn.Module):
    class Inner(Part):
        pass


class _reach(Part):
    pass
'''
SCRIPT = """
import sys

sys.path.insert(0, "lib")
import torch
from odd.parts import Outer, Part, _Finder, _finder, _Loader, _reach, _register
from torch import nn

ours = _register(a=_Finder(b=nn.Linear(1, 2)), c=_finder(), d=_Loader(e=_reach()), f=Outer.Inner())
torch.save(ours, "ours.pt")
knot, loop = [1], {}
knot.append(knot)
loop["me"] = (loop, [loop])
torch.save(Part(knot=knot, loop=loop, fc=nn.Linear(1, 1)), "knots.pt")
old = {"_use_new_zipfile_serialization": False}
torch.save(torch.compile(Part(fc=nn.Linear(2, 3))), "compiled.pt", **old)
torch.save(Part(block=Outer, other=nn.Linear, fc=nn.Conv1d(1, 1, 1)), "classes.pt", **old)
torch.save(Part(inner=Outer.Inner(fc=nn.Linear(1, 1))), "nested.pt")
torch.save({"nets": [Part(a=nn.Linear(1, 1)), Part(b=nn.Linear(2, 2))]}, "nets.pt")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    home = folder / "lib" / "odd"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("")
    (home / "parts.py").write_text(LIBRARY)
    (folder / "save.py").write_text(SCRIPT)
    subprocess.run([torch_python(), "-W", "ignore", "save.py"], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_each_is_loaded_printed_and_built_anew(saved: Path, tmp_path: Path) -> None:
    names = ("ours", "knots", "compiled", "classes", "nets")
    tries = [attempt(name, saved / f"{name}.pt") for name in names]
    said = outcomes(tries, tmp_path)
    assert {one.name: failures(one, said[one.name]) for one in tries} == {
        name: {} for name in names
    }
    assert said["compiled"]["built_print"].startswith("OptimizedModule(\n  (_orig_mod): Part(")


def test_what_holds_itself_is_said_to_be_left_out(saved: Path) -> None:
    source = ptinspect.stub(saved / "knots.pt")
    assert "self.knot = [1, None]" in source
    assert "Could not be written, and is None instead:\n  - a cycle\n" in source


def test_a_class_with_its_source_is_a_value_too(saved: Path) -> None:
    source = ptinspect.stub(saved / "classes.pt")
    assert "self.block = Outer\n        self.other = nn.Linear\n" in source
    assert "None instead" not in source


def test_build_says_which_module_it_makes(saved: Path) -> None:
    source = attempt("nets", saved / "nets.pt", StubOptions("nets[1]")).source
    assert '"""The module at nets[1], with untrained numbers."""' in source
    assert '"""The first module in the file' in attempt("nets", saved / "nets.pt").source


def test_stubbed_leaves_what_was_allowed_before() -> None:
    path = FIXTURES / "seed" / "model.pth"
    with ptinspect.stubbed(path):
        with ptinspect.stubbed(path):
            torch.load(path, map_location="cpu", weights_only=True)
        torch.load(path, map_location="cpu", weights_only=True)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.slow
def test_a_module_of_a_package_has_its_nested_classes(saved: Path, tmp_path: Path) -> None:
    stub_package(saved / "nested.pt", tmp_path / "package")
    text = (tmp_path / "package" / "odd" / "parts.py").read_text("utf-8")
    assert text.endswith("\n\n\nOuter.Inner = Inner\n")
    script = """
import sys

sys.path[:0] = ["package"]
import torch

print(type(torch.load(sys.argv[1], weights_only=False).inner))
"""
    said = run_script(tmp_path, script, str(saved / "nested.pt"))
    assert said == "<class 'odd.parts.Inner'>\n"


BAG = """
import sys, torch
class Bag(dict):
    pass
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bag = torch.nn.Linear(2, 2), Bag(a=1)
torch.save(Net(), sys.argv[1])
"""


def test_the_line_without_weights_only_says_so(tmp_path: Path) -> None:
    subprocess.run([torch_python(), "-c", BAG, str(tmp_path / "bag.pt")], check=True)
    ptinspect.convert(tmp_path / "bag.pt", tmp_path / "cuda.pt", to="same", device="cuda:0")
    lines = ptinspect.stub(tmp_path / "cuda.pt").splitlines()
    line = lines[lines.index("Without weights_only:") + 1].strip()
    assert line == 'torch.load("cuda.pt", map_location="cpu", weights_only=False)'
