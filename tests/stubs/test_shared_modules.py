"""Attributes that lead to modules of the same model: the same objects in `Model()`, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptinspect.stubs import stub
from tests.stubs.trying import run_script

MAKER = """
import functools, sys, types, torch
from torch import nn
home = sys.modules["proj"] = types.ModuleType("proj")

def put(thing):
    thing.__module__, thing.__qualname__ = "proj", thing.__name__
    setattr(home, thing.__name__, thing)
    return thing

@put
def act(x): return x

@put
class Child(nn.Module):
    def __init__(self, parent, wide=2):
        super().__init__()
        self.lin = nn.Linear(2, wide)
        object.__setattr__(self, "parent", parent)
        self.stack, self.step = [self.lin] * wide, self.go
    def go(self, x): return x

@put
class Node:
    def __init__(self, up=None): self.up, self.kids = up, []

@put
class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.block = Child(self), Child(self, 3), nn.Linear(2, 3)
        self.layers, self.table = [self.block, nn.ReLU(), [self.a]], {"x": self.block}
        self.pair, self.call = (self.b, 1), self.a.go
        self.part = functools.partial(act, self.a)
        self.own, self.forward, self.me = self.step, self.step, [self]
        self.seq = nn.Sequential(self.block)
        self.bound_of_torch = self.block.forward
        self.weights = [self.block.weight, self.a.lin.weight]
        object.__setattr__(self, "hidden", nn.Linear(5, 5))
        object.__setattr__(self, "alias", self.a)
        self.tree = Node()
        self.tree.kids = [Node(self.tree)]
    def step(self, x): return x

model = Parent()
torch.save(model, "parent.pt")
torch.save(nn.DataParallel(model), "parallel.pt")
root = nn.Sequential(model, nn.ReLU())
root.known, root.both = [root[0]], {"relu": root[1]}
torch.save(root, "sequential.pt")
torch.save([Child(None), Child(None)], "two.pt")
"""
TRY = """
import sys, torch, model_def
loaded = torch.load(sys.argv[1], weights_only=False)
with torch.serialization.safe_globals(model_def.SAFE_GLOBALS):
    torch.load(sys.argv[1])
built = model_def.build()
assert str(built) == str(loaded)
built.load_state_dict(loaded.state_dict())
assert [n for n, _ in built.named_modules()] == [n for n, _ in loaded.named_modules()]
if sys.argv[1] == "sequential.pt":
    assert built.known[0] is built[0] and built.both["relu"] is built[1]
model = {"parallel.pt": "module", "sequential.pt": "0"}.get(sys.argv[1])
model = getattr(built, model) if model else built
assert model.layers[0] is model.block and model.layers[2][0] is model.a
assert isinstance(model.layers[1], torch.nn.ReLU)
assert model.table["x"] is model.block is model.seq[0] and model.pair == (model.b, 1)
assert model.call == model.a.go and model.part.args[0] is model.a
assert model.own == model.step == model.forward and model.me[0] is model
assert model.bound_of_torch == model.block.forward
assert model.weights[0] is model.block.weight and model.weights[1] is model.a.lin.weight
assert model.a.parent is model and model.b.parent is model and model.alias is model.a
assert all(one is model.a.lin for one in model.a.stack) and len(model.a.stack) == 2
assert all(one is model.b.lin for one in model.b.stack) and len(model.b.stack) == 3
assert model.a.step == model.a.go and model.b.step == model.b.go
assert model.hidden.in_features == 5 and len(model.tree.kids) == 1
try:
    model(1)
except NotImplementedError as error:
    assert "Parent.step" in str(error)
else:
    raise AssertionError("it has a forward")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("refs")
    run_script(folder, MAKER)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parent.pt", "parallel.pt", "sequential.pt"])
def test_what_is_held_twice_is_one_object(saved: Path, name: str) -> None:
    (saved / "model_def.py").write_text(stub(saved / name), "utf-8")
    run_script(saved, TRY, name)


def test_what_cannot_be_written_is_said(saved: Path) -> None:
    source = stub(saved / "parent.pt")
    lost = source.partition("Could not be written, and is None instead:")[2].partition('"""')[0]
    assert [line.strip(" -") for line in lost.split("\n") if line] == ["a cycle", "Node.up"]


def test_without_a_root_of_its_own_it_is_said(saved: Path) -> None:
    source = stub(saved / "two.pt")
    assert "self.stack = [self.lin, self.lin]" in source and "self.step = self.go" in source
