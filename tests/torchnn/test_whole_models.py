# ruff: noqa: E402  (all that follows importorskip needs torch)
"""Models of many modules, printed as torch prints them."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from tests.torchnn.nodes import print_module
from tests.torchnn.oracle import Oracle

# What torch says of its own classes (deprecated, inaccurate) is no concern of these tests.
pytestmark = pytest.mark.filterwarnings("ignore:::torch", "ignore:::tests.torchnn")


def block(channels: int) -> nn.Module:
    layers = (nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(True))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """A class that torch does not know, with a child that may be None and a hidden ModuleList."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.ModuleList(block(channels) for _ in range(3))
        self.shortcut = nn.Conv2d(channels, channels, 1, bias=False) if shortcut else None
        self.register_module("absent", None)
        self.scale = nn.Parameter(torch.ones(()))
        self.values = nn.ParameterList([torch.ones(2), torch.ones(3, 1)])
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.ModuleDict(), "c": nn.Identity()})


def folding() -> nn.Module:
    """Runs of equal children, broken by others, of one line and of many, nested in each other."""
    inner = nn.ModuleList([nn.Linear(1, 2), nn.Linear(1, 2), nn.Linear(2, 1), nn.Linear(1, 2)])
    many = [block(2), block(2), block(3), inner, inner, copy.deepcopy(inner), nn.ModuleList()]
    return nn.Sequential(nn.ModuleList(many), nn.ModuleList([nn.ModuleList(), nn.ModuleList()]))


def shared() -> nn.Module:
    layer = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    return nn.Sequential(layer, nn.ModuleList([layer, layer]), layer)


def odd_names() -> nn.Module:
    model = nn.Module()
    for name in ("with blank", "한국어", "(0)", "line\nbreak", "0", "-"):
        model.add_module(name, nn.Sequential(nn.ReLU()))
    inner = nn.Sequential(model)
    inner.add_module("again\nand again", copy.deepcopy(model))
    return inner


def none_in_a_list() -> nn.Module:
    model = nn.ModuleList([nn.ReLU(), nn.ReLU()])
    for name in ("2", "3", "5"):
        model.add_module(name, None)
    return nn.Sequential(model)


def parametrized() -> nn.Module:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(2, 3)),
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 1)),
        parametrizations.orthogonal(nn.Embedding(3, 3)),
    )
    parametrize.register_parametrization(model[0], "bias", nn.Identity())
    for module in model.modules():
        module._load_state_dict_pre_hooks.clear()  # local functions, which pickle refuses
    return model


def old_parametrized() -> nn.Module:
    return nn.Sequential(
        nn.utils.weight_norm(nn.Linear(2, 3)), nn.utils.spectral_norm(nn.Linear(2, 3))
    )


def recurrent() -> nn.Module:
    class Seq2Seq(nn.Module):
        pass

    model = nn.ModuleDict(
        {"encoder": nn.LSTM(3, 4, 2, bidirectional=True), "drop": nn.Dropout(0.3)}
    )
    model["attention"] = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
    model["decoder"] = nn.GRUCell(3, 4)
    return nn.DataParallel(model)


def quantized_dynamically() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear, nn.LSTM})


def prepared_for_quantization() -> nn.Module:
    model = nn.Sequential(block(2), nn.Linear(2, 2))
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    fused = torch.ao.quantization.fuse_modules_qat(model, [["0.0", "0.1", "0.2"]])
    torch.ao.quantization.prepare_qat(fused, inplace=True)
    fused(torch.ones(1, 2, 2, 2))
    for module in fused.modules():
        vars(module).pop("qconfig", None)  # holds a local function, which pickle refuses
    return fused


def numpy_settings() -> nn.Module:
    import numpy as np

    rates = [nn.Dropout(rate) for rate in np.linspace(0, 0.1, 4)]
    sizes = np.array([3, 5])
    convs = [nn.Conv2d(np.int32(1), 2, (sizes[0], sizes[1])), nn.LayerNorm(4, eps=np.float32(0.1))]
    return nn.Sequential(*rates, *convs, nn.LeakyReLU(np.float16(0.2)), nn.Softmax(np.int8(-1)))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(3, 1), nn.LazyBatchNorm2d(), nn.LazyLinear(2, bias=False))


MODELS = (
    lambda: Residual(2, True),
    lambda: nn.Sequential(Residual(2, False), nn.Sequential(), nn.Flatten()),
    lambda: nn.Transformer(8, 2, 3, 2, 16),
    lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]),
    folding,
    shared,
    odd_names,
    none_in_a_list,
    parametrized,
    old_parametrized,
    recurrent,
    quantized_dynamically,
    prepared_for_quantization,
    numpy_settings,
    lazy,
)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_prints_as_torch_prints(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = make()
    for made in {type(m) for m in model.modules() if "parametrizations" in m._modules}:
        monkeypatch.setattr(parametrize, made.__name__, made, raising=False)  # pickle looks there
    oracle = Oracle(model)
    assert print_module(oracle.node, oracle.describe) == str(model)


def test_a_graph_module_prints_as_the_loaded_one() -> None:
    """Its class's own name is not pickled: torch itself prints another one than before."""
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.ReLU())))
    stream = io.BytesIO()
    torch.save(traced, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    oracle = Oracle(traced)
    assert print_module(oracle.node, oracle.describe) == str(loaded)
    nested = nn.Sequential(traced)
    oracle = Oracle(nested)
    assert print_module(oracle.node, oracle.describe) == str(nn.Sequential(loaded))


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_module_trains_as_the_one_that_it_wraps(training: bool) -> None:
    compiled = torch.compile(nn.Linear(1, 2).train(training))
    assert Oracle(compiled).node.attributes["training"] is compiled.training is training


def test_torch_prints_no_deeper_than_the_printer_goes() -> None:
    model: nn.Module = nn.ReLU()
    for _ in range(1_000):
        model = nn.Sequential(model)
    with pytest.raises(RecursionError):
        str(model)
