"""Quantized modules, and those on the way there: loaded both ways, printed, built, strict."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptinspect
from ptinspect.proofs.stub_check import check_stub
from ptinspect.proofs.worker.load_with_stub import load_strictly
from tests.stubs.trying import attempt, failures, outcomes, run_script

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_torch")]

MAKER = """
import sys, torch
from torch import nn
import torch.ao.nn.quantized as nnq, torch.ao.nn.intrinsic as nni, torch.ao.quantization as q

engines = torch.backends.quantized.supported_engines
engine = next(one for one in ("x86", "fbgemm", "qnnpack") if one in engines)
torch.backends.quantized.engine = engine
torch.manual_seed(0)

class Whole(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.quant, self.dequant = inner, q.QuantStub(), q.DeQuantStub()
    def forward(self, x):
        return self.dequant(self.inner(self.quant(x)))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, bidirectional=True)
        self.gru, self.cell, self.lin = nn.GRU(3, 4), nn.LSTMCell(3, 4), nn.Linear(4, 2)

def save(name, model):
    torch.save(model, f"{name}.pt")
    print(name)

def static():
    model = Whole(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))).eval()
    model.qconfig = q.get_default_qconfig(engine)
    ready = q.prepare(model)
    ready(torch.randn(3, 4))
    return q.convert(ready)

def embeddings():
    model = nn.ModuleDict({"e": nn.Embedding(10, 4), "bag": nn.EmbeddingBag(10, 4, mode="sum")})
    for inner in model.values():
        inner.qconfig = q.float_qparams_weight_only_qconfig
    return q.convert(q.prepare(model))

def observed():
    return nn.Sequential(
        q.FakeQuantize(), q.MinMaxObserver(), q.HistogramObserver(),
        q.PerChannelMinMaxObserver(), q.PlaceholderObserver(), q.NoopObserver())

def fused():
    model = Whole(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())).eval()
    model.inner = q.fuse_modules(model.inner, [["0", "1", "2"]])
    return model

def operations():
    return nn.Sequential(
        nnq.FloatFunctional(), nnq.QFunctional(), nnq.ReLU6(), nnq.Hardswish(1.0, 0),
        nnq.Sigmoid(1.0, 0), nnq.ELU(1.0, 0), nnq.Dropout(0.5), nnq.DeQuantize(),
        nnq.Quantize(0.1, 3, torch.quint8), nnq.BatchNorm2d(3))

def intrinsic():
    return nn.Sequential(
        nni.ConvReLU2d(nn.Conv2d(1, 2, 3), nn.ReLU()),
        nni.LinearReLU(nn.Linear(2, 3), nn.ReLU()),
        nni.ConvBn2d(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))

kinds = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.Linear}
save("dynamic", q.quantize_dynamic(Recurrent(), kinds))
save("half", q.quantize_dynamic(Recurrent(), {nn.LSTM, nn.Linear}, dtype=torch.float16))
for one in (static, embeddings, observed, fused, operations, intrinsic):
    save(one.__name__, one())
"""


def test_quantized_modules(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    names = run_script(tmp_path, MAKER).split()
    tries = [attempt(name, tmp_path / f"{name}.pt") for name in names]
    folder = tmp_path / "tried"
    folder.mkdir()
    said = outcomes(tries, folder)
    found = {one.name: failures(one, said[one.name]) for one in tries}
    assert len(found) == 8
    assert {name: bad for name, bad in found.items() if bad} == {}
    assert not any(one.refused for one in tries)


STATES = """
import sys, torch
from torch import nn
torch.manual_seed(0)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.LSTM(6, 3, 2, bidirectional=True)
        self.two, self.both = nn.LSTM(3, 4, 2), nn.GRU(3, 4, bidirectional=True)
        self.cells = nn.ModuleList([nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4)])
        self.fc = nn.Linear(4, 2)

kinds = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Linear}
model = torch.ao.quantization.quantize_dynamic(Model(), kinds, dtype=getattr(torch, sys.argv[1]))
torch.save(model, "model.pt")
torch.save(model.state_dict(), "state_dict.pt")
print("\\n".join(str(getattr(model, name)) for name in ("deep", "two", "both", "cells", "fc")))
"""


@pytest.mark.parametrize("dtype", ["qint8", "float16"])
def test_recurrent_layers_of_a_state_dict(dtype: str, tmp_path: Path) -> None:
    """The stub has the same layers, and a strict load takes their packed weights."""
    printed = run_script(tmp_path, STATES, dtype)
    whole, state = (check_stub(str(tmp_path / f"{name}.pt")) for name in ("model", "state_dict"))
    assert whole.ok and state.ok
    (tmp_path / "model_def.py").write_text(ptinspect.stub(tmp_path / "state_dict.pt"))
    script = (
        "from model_def import build\nmodel = build()\n"
        "names = ('deep', 'two', 'both', 'cells', 'fc')\n"
        "print('\\n'.join(str(getattr(model, name)) for name in names))"
    )
    assert run_script(tmp_path, script) == printed.replace("ModuleList(", "Sequential(")


def test_packed_weights_that_the_stub_lacks_are_unexpected(tmp_path: Path) -> None:
    run_script(tmp_path, STATES, "qint8")
    state = torch.load(tmp_path / "state_dict.pt", weights_only=False)
    with pytest.raises(RuntimeError, match=r"unexpected key two\._all_weight_values\.0\.param"):
        load_strictly(torch.nn.Module(), {k: v for k, v in state.items() if k.startswith("two.")})
