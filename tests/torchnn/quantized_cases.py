"""Modules of every class of torch.ao, each with default and with unusual arguments.

Needs torch: import this only behind `pytest.importorskip("torch")`. See `cases`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.ao import quantization as quant
from torch.ao.nn import intrinsic, qat, quantizable, quantized
from torch.ao.nn.intrinsic import qat as intrinsic_qat
from torch.ao.nn.intrinsic import quantized as intrinsic_quantized
from torch.ao.nn.quantized import dynamic, reference
from torch.ao.nn.quantized.modules import batchnorm as quantized_batchnorm
from torch.ao.nn.quantized.modules import embedding_ops, functional_modules
from torch.ao.ns import _numeric_suite, _numeric_suite_fx
from torch.ao.pruning._experimental.data_sparsifier.base_data_sparsifier import _Container
from torch.ao.pruning._experimental.pruner.parametrization import FakeStructuredSparsity
from torch.ao.pruning.sparsifier.utils import FakeSparsity
from torch.ao.quantization._correct_bias import MeanShadowLogger
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize
from torch.ao.quantization.fx import _equalize
from torch.ao.quantization.fx._model_report.model_report_observer import ModelReportObserver

Modules = Iterator[nn.Module]


def quantized_simple() -> Modules:
    yield from (quantized.Quantize(0.5, 3, torch.quint8), quantized.Quantize(1, 0, torch.qint8))
    yield from (quantized.DeQuantize(), quantized.ReLU6(), quantized.ReLU6(True))
    yield from (quantized.Hardswish(0.5, 3), quantized.Hardswish(1.0, 0))
    yield from (quantized.ELU(0.5, 3), quantized.ELU(0.5, 3, alpha=2))
    yield from (quantized.LeakyReLU(0.5, 3), quantized.LeakyReLU(0.5, 3, 0.2, True))
    yield from (quantized.Sigmoid(0.5, 3), quantized.Sigmoid(1.0, 0))
    yield from (quantized.Softmax(), quantized.Softmax(1, 0.5, 3))
    yield from (quantized.PReLU(0.5, 3), quantized.PReLU(1.0, 0, 4))
    yield from (quantized.Dropout(), quantized.Dropout(0.1, True))
    for norm in (quantized.BatchNorm2d, quantized.BatchNorm3d, quantized_batchnorm._BatchNorm):
        yield from (norm(4), norm(4, 1e-3, None))
    for norm in (intrinsic_quantized.BNReLU2d, intrinsic_quantized.BNReLU3d):
        yield from (norm(4), norm(4, 1e-3, 0.5))
    weight = nn.Parameter(torch.ones(4))
    yield quantized.LayerNorm((4,), weight, weight, 0.5, 3)
    yield quantized.LayerNorm((2, 4), None, None, 0.5, 3, 1e-3, False)
    yield quantized.GroupNorm(2, 4, weight, weight, 0.5, 3)
    yield quantized.GroupNorm(2, 4, None, None, 0.5, 3, 1e-3, False)
    for dims in (1, 2, 3):
        norm = getattr(quantized, f"InstanceNorm{dims}d")
        yield from (norm(4, None, None, 0.5, 3), norm(4, weight, weight, 1, 0, 1e-3, 0.5, True))
    yield from (quantized.FloatFunctional(), quantized.FXFloatFunctional(), quantized.QFunctional())
    scaled = functional_modules.QFunctional()
    scaled.scale, scaled.zero_point = 0.25, 7
    yield scaled


def quantized_convolutions() -> Modules:
    for package in (quantized, dynamic):
        for dims in (1, 2, 3):
            plain = getattr(package, f"Conv{dims}d")
            yield from (plain(3, 6, 3), plain(4, 8, 5, 2, 1, 3, 2, False, "zeros"))
            transposed = getattr(package, f"ConvTranspose{dims}d")
            yield from (transposed(3, 6, 3), transposed(4, 8, 5, 2, 1, 1, 1, False, 3))
    fused = (intrinsic_quantized.ConvReLU1d, intrinsic_quantized.ConvReLU2d)
    fused += (intrinsic_quantized.ConvReLU3d, intrinsic_quantized.ConvAdd2d)
    for conv in (*fused, intrinsic_quantized.ConvAddReLU2d):
        yield from (conv(3, 6, 3), conv(4, 8, 5, 2, 1, groups=2, bias=False))


def quantized_linears() -> Modules:
    yield from (quantized.Linear(2, 3), quantized.Linear(2, 3, bias_=False))
    yield from (dynamic.Linear(2, 3), dynamic.Linear(2, 3, False, torch.float16))
    for fused in (intrinsic_quantized.LinearReLU, intrinsic_quantized.LinearTanh):
        yield from (fused(2, 3), fused(2, 3, bias=False))
    yield intrinsic_quantized.LinearLeakyReLU(2, 3, 0.25)
    yield intrinsic_quantized.LinearLeakyReLU(2, 3, 0.1, bias=False)
    fused = intrinsic_quantized.dynamic.LinearReLU
    yield from (fused(2, 3), fused(2, 3, False, torch.float16))
    packed = quantized.modules.linear.LinearPackedParams
    yield from (packed(), packed(torch.float16))
    yield from (quantized.Embedding(4, 3), quantized.Embedding(2, 8, sparse=True))
    yield quantized.EmbeddingBag(4, 3)
    yield quantized.EmbeddingBag(4, 4, include_last_offset=True, dtype=torch.quint4x2)
    yield from (embedding_ops.EmbeddingPackedParams(2, 3),)
    yield from (dynamic.LSTM(2, 3), dynamic.LSTM(2, 3, 2, True, True, 0.5, True, torch.float16))
    yield from (dynamic.GRU(2, 3), dynamic.GRU(2, 3, 2, bidirectional=True))
    yield from (dynamic.RNNCell(2, 3), dynamic.RNNCell(2, 3, True, "relu", torch.float16))
    for cell in (dynamic.LSTMCell, dynamic.GRUCell):
        yield from (cell(2, 3), cell(2, 3, True, dtype=torch.float16))
    base = dynamic.modules.rnn.RNNBase
    yield from (base("GRU", 2, 3), base("LSTM", 2, 3, 2, False))
    yield dynamic.modules.rnn.PackedParameter(torch.ones(1))


def before_quantization() -> Modules:
    config = quant.get_default_qat_qconfig("x86")
    other = quant.get_default_qat_qconfig("qnnpack")
    for dims in (1, 2, 3):
        convs = [getattr(qat, f"Conv{dims}d"), getattr(intrinsic_qat, f"ConvReLU{dims}d")]
        for fused in (f"ConvBn{dims}d", f"ConvBnReLU{dims}d"):
            convs.append(getattr(intrinsic_qat, fused))
        for conv in convs:
            yield conv(3, 6, 3, qconfig=config)
            yield conv(4, 8, 5, 2, 1, 3, 2, not conv.__name__.startswith("ConvBn"), qconfig=other)
        conv, relu = getattr(nn, f"Conv{dims}d")(1, 2, 3), nn.ReLU()
        norm = getattr(nn, f"BatchNorm{dims}d")(2)
        yield getattr(intrinsic, f"ConvReLU{dims}d")(conv, relu)
        yield getattr(intrinsic, f"ConvBn{dims}d")(conv, norm)
        yield getattr(intrinsic, f"ConvBnReLU{dims}d")(conv, norm, relu)
        if dims > 1:
            yield getattr(intrinsic, f"BNReLU{dims}d")(norm, relu)
    yield intrinsic.ConvAdd2d(nn.Conv2d(1, 2, 3), torch.add)
    yield intrinsic.ConvAddReLU2d(nn.Conv2d(1, 2, 3), torch.add, nn.ReLU())
    linear = nn.Linear(1, 2)
    yield from (intrinsic.LinearReLU(linear, nn.ReLU()), intrinsic.LinearTanh(linear, nn.Tanh()))
    yield from (intrinsic.LinearLeakyReLU(linear, nn.LeakyReLU()), intrinsic._FusedModule(linear))
    yield intrinsic.LinearBn1d(linear, nn.BatchNorm1d(2))
    linears = (qat.Linear, qat.dynamic.Linear, intrinsic_qat.LinearReLU, intrinsic_qat.LinearBn1d)
    for made in linears:
        dynamic_config = quant.QConfig(quant.default_dynamic_fake_quant, config.weight)
        chosen = dynamic_config if made is qat.dynamic.Linear else config
        yield from (made(2, 3, qconfig=chosen), made(2, 3, bias=False, qconfig=chosen))
    embedding = quant.QConfig(quant.NoopObserver, quant.default_embedding_fake_quant)
    yield qat.Embedding(10, 4, qconfig=embedding)
    yield qat.Embedding(10, 4, 1, 2.0, 1.0, True, True, qconfig=embedding)
    yield qat.EmbeddingBag(10, 4, qconfig=embedding)
    yield qat.EmbeddingBag(10, 4, mode="sum", include_last_offset=True, qconfig=embedding)


def quantizables() -> Modules:
    for attention in (quantizable.MultiheadAttention,):
        yield from (attention(8, 2), attention(8, 2, 0.5, False, True, True, 4, 6, True))
    unusual = (3, 4, 2, False, True, 0.5, True)
    yield from (quantizable.LSTM(3, 4), quantizable.LSTM(*unusual, split_gates=True))
    cells = (quantizable.LSTMCell, quantizable.modules.rnn._LSTMSingleLayer)
    for cell in (*cells, quantizable.modules.rnn._LSTMLayer):
        yield from (cell(3, 4), cell(3, 4, False, split_gates=True))
    layer = quantizable.modules.rnn._LSTMLayer
    yield layer(3, 4, batch_first=True, bidirectional=True)


def references() -> Modules:
    for dims in (1, 2, 3):
        plain = getattr(reference, f"Conv{dims}d")
        yield from (plain(3, 6, 3), plain(4, 8, 5, 2, 1, 3, 2, False, "reflect"))
        transposed = getattr(reference, f"ConvTranspose{dims}d")
        yield from (transposed(3, 6, 3), transposed(4, 8, 5, 2, 1, 1, 2, False, 3))
    scheme = {"qscheme": torch.per_tensor_affine, "dtype": torch.quint8}
    scheme |= {"scale": 0.5, "zero_point": 3, "is_decomposed": False}
    yield reference.Linear(2, 3)
    yield reference.Linear(2, 3, False, weight_qparams=scheme)
    yield from (reference.Embedding(10, 4), reference.Embedding(10, 4, 1, weight_qparams=scheme))
    yield from (reference.EmbeddingBag(10, 4), reference.EmbeddingBag(10, 4, mode="max"))
    rnns = (reference.RNNCell, reference.LSTMCell, reference.GRUCell)
    for rnn in (*rnns, reference.LSTM, reference.GRU):
        yield from (rnn(3, 4), rnn(3, 4, bias=False))
    base = reference.modules.rnn.RNNCellBase
    yield from (base(3, 4, True, 4), base(3, 4, False, 2))


def observers() -> Modules:
    plain = (quant.MinMaxObserver, quant.HistogramObserver)
    for watch in (*plain, quant.MovingAverageMinMaxObserver):
        yield from (watch(), watch(dtype=torch.qint8, quant_min=-8, quant_max=7))
        seen = watch(reduce_range=True)
        seen(torch.tensor([-0.3, 0.1, 2.7]))
        yield seen
    for watch in (quant.PerChannelMinMaxObserver, quant.MovingAveragePerChannelMinMaxObserver):
        seen = watch(ch_axis=1, dtype=torch.qint8)
        seen(torch.tensor([[-0.3, 0.1], [2.7, 1e5]]))
        yield from (watch(), seen)
    yield quant.FixedQParamsObserver(0.5, 3)
    yield quant.FixedQParamsObserver(0.5, 3, torch.qint8, quant_min=-128, quant_max=127)
    yield quant.PlaceholderObserver()
    yield quant.PlaceholderObserver(torch.float16, "op", None, 0, 3, torch.per_tensor_affine, 1e-3)
    yield from (quant.RecordingObserver(), quant.RecordingObserver(torch.qint8))
    yield from (quant.NoopObserver(), quant.NoopObserver(torch.bfloat16, "op"))
    yield quant.ReuseInputObserver()
    derived = quant._DerivedObserverOrFakeQuantize
    yield from (derived(torch.quint8, [], torch.add),)
    yield derived(torch.qint8, [quant.MinMaxObserver()], torch.add, -8, 7, torch.per_tensor_affine)
    for made in (_equalize._InputEqualizationObserver, _equalize._WeightEqualizationObserver):
        yield from (made(), made(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric))
    yield from (ModelReportObserver(), ModelReportObserver(ch_axis=0, comp_percentile=0.5))


def fake_quantizers() -> Modules:
    yield from (quant.FakeQuantize(), quant.FakeQuantize(quant.MinMaxObserver, 0, 15))
    yield quant.default_per_channel_weight_fake_quant()
    yield quant.default_fixed_qparams_range_0to1_fake_quant()
    yield quant.default_fixed_qparams_range_neg1to1_fake_quant()
    fused = quant.FusedMovingAvgObsFakeQuantize
    yield from (fused(), fused(quant_min=0, quant_max=127, dtype=torch.quint8, reduce_range=True))
    seen = quant.FakeQuantize()
    seen(torch.tensor([-1.0, 3.3]))
    yield seen
    watch = quant.MovingAverageMinMaxObserver
    yield from (_LearnableFakeQuantize(watch), _LearnableFakeQuantize(watch, 0, 15, channel_len=3))
    config = quant.get_default_qconfig("x86")
    yield from (quant.QuantStub(), quant.QuantStub(config))
    yield from (quant.DeQuantStub(), quant.DeQuantStub(config))
    yield from (quant.QuantWrapper(nn.Linear(1, 2)), quant.QuantWrapper(nn.Sequential()))


def tools() -> Modules:
    yield from (_numeric_suite.Logger(), _numeric_suite.ShadowLogger(), MeanShadowLogger())
    yield _numeric_suite.OutputLogger()
    yield _numeric_suite.Shadow(
        quantized.Linear(1, 2), nn.Linear(1, 2), _numeric_suite.ShadowLogger
    )
    arguments = ("a", "b", "model", "node", "add", "conv", "weight", 0, 1)
    for logger in (_numeric_suite_fx.OutputLogger, _numeric_suite_fx.OutputComparisonLogger):
        plain = logger(*arguments, None)
        full = logger(*arguments, "layer.0", "config")
        for made in (plain, full):
            vars(made).pop("comparison_fn", None)  # a local function, which pickle refuses
        full.stats.append(torch.tensor([1.0, 2.5]))
        yield from (plain, full)
    yield from (FakeSparsity(torch.ones(2)), FakeStructuredSparsity(torch.ones(2)), _Container())


AO: tuple[Callable[[], Modules], ...] = (
    quantized_simple,
    quantized_convolutions,
    quantized_linears,
    before_quantization,
    quantizables,
    references,
    observers,
    fake_quantizers,
    tools,
)
