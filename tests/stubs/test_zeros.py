"""Numbers that no state_dict brings: written where they are few, and said to be zeros where not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptinspect.stubs import stub
from tests.stubs.trying import run_script

pytestmark = pytest.mark.slow

MAKER = """
import sys, types, numpy, torch
from torch import nn
home = sys.modules["proj"] = types.ModuleType("proj")
class Config: pass
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.randn(100, 100), persistent=False)
        self.register_buffer("empty", torch.zeros(100, 100), persistent=False)
        self.register_buffer("kept", torch.randn(100, 100))
        self.table, self.ids = torch.randn(20, 20), numpy.arange(4)
        self.anchors, self.pairs = numpy.random.rand(50), [{"a": torch.randn(200)}]
        self.none, self.cfg = numpy.zeros((3, 3)), Config()
        self.cfg.scales = numpy.random.rand(30).astype("float32")
        self.cut = numpy.asfortranarray(numpy.arange(6).reshape(2, 3))
for kind in (Net, Config):
    kind.__module__ = "proj"
    setattr(home, kind.__name__, kind)
torch.save(Net(), "net.pt")
"""
TRY = """
import numpy, torch, model_def
loaded, built = torch.load("net.pt", weights_only=False), model_def.Net()
assert (built.ids == loaded.ids).all() and built.ids.dtype == loaded.ids.dtype
assert built.anchors.shape == (50,) and not built.anchors.any() and not built.mask.any()
assert built.cfg.scales.dtype == "float32" and built.none.shape == (3, 3)
assert built.cut.shape == (2, 3)
built.load_state_dict(loaded.state_dict())
assert torch.equal(built.kept, loaded.kept)
"""


def test_zeros_are_said(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run_script(tmp_path, MAKER)
    source = stub(tmp_path / "net.pt")
    (tmp_path / "model_def.py").write_text(source, "utf-8")
    run_script(tmp_path, TRY)
    said = source.partition("Zeros in what build() returns")[2].partition('"""')[0].split("\n")
    listed = {line.strip(" -") for line in said[1:] if line}
    assert listed == {
        "Net.mask", "Net.table", "Net.anchors", "Net.pairs", "Net.cut", "Config.scales",
    }  # fmt: skip
    assert source.count("# zeros instead of the file's numbers") == 6
    assert 'self.ids = np.array([0, 1, 2, 3], dtype="int64")' in source
