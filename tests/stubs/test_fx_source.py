"""fx.GraphModule: the code that the file stores is the forward, printed as torch prints it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ptinspect.stubs import StubOptions, stub
from ptinspect.stubs.collect.definitions import fx_function, import_statements
from tests.conftest import FIXTURES
from tests.stubs.trying import attempt, run_script

GRAPH = FIXTURES / "modules" / "graph-module.pt"

MAKER = """
import math, operator, sys, torch
from torch import fx, nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.layers = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        self.weight = nn.Parameter(torch.randn(3))
        self.register_buffer("kept", torch.ones(1))
    def forward(self, x, scale=2.0):
        y = torch.relu(self.conv(x)).mean((2, 3))
        y = operator.add(self.layers(y), self.kept) * self.weight * scale
        return y.to(torch.device("cpu")) + math.inf * 0.0 if False else y[:, 0]
torch.manual_seed(0)
one, two = fx.symbolic_trace(Net()).eval(), fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3)))
x = torch.randn(2, 1, 5, 5)
torch.save(one, "one.pt")
torch.save(nn.ModuleList([two, fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3))), one]), "many.pt")
torch.save(one, "legacy.pt", _use_new_zipfile_serialization=False)
torch.save((x, one(x), one(x, 3.0)), "answers.pt")
"""
TRY = """
import sys, torch, model_def
loaded = torch.load(sys.argv[1], weights_only=False)
built = model_def.build()
assert str(built) == str(loaded), (str(built), str(loaded))
assert "def forward" in str(built) or sys.argv[1] == "many.pt"
built.load_state_dict(loaded.state_dict())
x, plainly, scaled = torch.load("answers.pt")
if sys.argv[1] == "many.pt":
    built = built[2]
assert torch.equal(built(x), plainly) and torch.equal(built(x, 3.0), scaled)
assert built.training is False
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("traced")
    run_script(folder, MAKER)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one.pt", "many.pt", "legacy.pt"])
def test_its_forward_is_the_files(saved: Path, name: str) -> None:
    (saved / "model_def.py").write_text(stub(saved / name), "utf-8")
    run_script(saved, TRY, name)


def test_equal_code_is_one_class(saved: Path) -> None:
    tree = ast.parse(stub(saved / "many.pt"))
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert classes == ["GraphModule", "GraphModule_2"]


def test_it_stands_under_a_notice_or_is_left_out() -> None:
    source = stub(GRAPH)
    assert "# Source from the file itself: read it before you call it." in source
    assert "an fx.GraphModule: loading it would run its code" in source
    assert "`ptinspect convert` writes a file that" in source
    source = attempt("graph", GRAPH, StubOptions(recorded_source=False)).source
    assert "Source from the file itself" not in source
    assert "forward is left out here" in source


@pytest.mark.parametrize(
    "text",
    [
        "import os\ndef forward(self): pass",
        "def forward(self, x=os.system('true')): pass",
        "@os.system\ndef forward(self): pass",
        "def other(self): pass",
        "os.system('true')",
        "def forward(self): pass\nforward()",
        "(" * 9_000,
    ],
)
def test_what_would_run_at_import_is_not_printed(text: str) -> None:
    assert fx_function(text) is None


def test_imports_are_those_of_harmless_names() -> None:
    text = "import os\nimport torch.hub\nfrom os import system as torch\nfrom torch import device\n"
    text += (
        "from torch import load as x\nfrom math import inf\nimport torch.fx._pytree as fx_pytree"
    )
    assert import_statements(text) == {
        "NoneType": "NoneType = type(None)",
        "device": "from torch import device",
        "inf": "from math import inf",
        "fx_pytree": "import torch.fx._pytree as fx_pytree",
    }
