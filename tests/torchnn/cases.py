"""Modules of every class of torch, each with default and with unusual arguments.

Needs torch: import this only behind `pytest.importorskip("torch")`. Each function yields
instances; what a class is tested with is every instance of it that any of them yields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import batchnorm, container, conv, instancenorm, pooling
from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

Modules = Iterator[nn.Module]


def plain_activations() -> Modules:
    yield from (nn.Threshold(0.1, 20), nn.Threshold(-1, 1.5, inplace=True))
    for in_place in (nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid):
        yield from (in_place(), in_place(inplace=True))
    yield from (nn.RReLU(), nn.RReLU(0.2, 0.5, True), nn.RReLU(lower=1e-7, upper=1))
    yield from (nn.Hardtanh(), nn.Hardtanh(-2, 3.5, True), nn.Hardtanh(0.0, 1e20))
    for bare in (nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Softmax2d):
        yield bare()
    yield from (nn.ELU(), nn.ELU(2, True), nn.CELU(), nn.CELU(0.5, inplace=True))
    yield from (nn.GLU(), nn.GLU(1), nn.GELU(), nn.GELU(approximate="tanh"))
    yield from (nn.Hardshrink(), nn.Hardshrink(1), nn.Softshrink(), nn.Softshrink(0.25))
    yield from (nn.LeakyReLU(), nn.LeakyReLU(0.2, True), nn.Softplus(), nn.Softplus(2, 1e3))
    yield from (nn.PReLU(), nn.PReLU(7, init=0.5))
    for over in (nn.Softmin, nn.Softmax, nn.LogSoftmax):
        yield from (over(), over(dim=-1))
    yield from (nn.MultiheadAttention(8, 2),)
    yield nn.MultiheadAttention(8, 2, 0.25, False, True, True, kdim=4, vdim=6, batch_first=True)
    yield from (nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]),)
    yield nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5], div_value=2.0, head_bias=True)


def convolutions() -> Modules:
    for dims in (1, 2, 3):
        plain = getattr(nn, f"Conv{dims}d")
        yield from (plain(3, 6, 3), plain(4, 8, 5, 2, 1, 3, 2, False, "reflect"))
        yield from (plain(3, 6, 3, padding="same"), plain(3, 6, (1,) * dims, padding_mode="zeros"))
        lazy = getattr(nn, f"LazyConv{dims}d")
        yield from (lazy(6, 3), lazy(8, 5, 2, 1, 3, 2, False, "circular"))
        transposed = getattr(nn, f"ConvTranspose{dims}d")
        yield from (transposed(3, 6, 3), transposed(4, 8, 5, 2, 1, 1, 2, False, 3))
        lazy = getattr(nn, f"LazyConvTranspose{dims}d")
        yield from (lazy(6, 3), lazy(8, 5, 2, 1, 1, 2, False, 3))
    yield nn.Conv2d(3, 64, kernel_size=(7, 5), stride=(2, 1), padding=(3, 0), dilation=(1, 2))
    common = ((3,), (1,), (0,), (1,), False, (0,), 1, True, "zeros")
    yield from (conv._ConvNd(2, 4, *common), conv._ConvTransposeNd(2, 4, *common))
    yield from (
        conv._ConvNd(2, 4, (3, 3), (1, 1), (1, 0), (2, 2), True, (1, 1), 2, False, "zeros"),
    )
    yield conv._ConvTransposeNd(2, 4, (3,), (2,), (1,), (2,), True, (1,), 2, False, "zeros")
    yield from (nn.Fold((4, 5), 2), nn.Fold(4, (2, 1), dilation=2, padding=1, stride=(1, 2)))
    yield from (nn.Unfold(3), nn.Unfold((2, 3), 2, (1, 0), 3))
    yield from (nn.ChannelShuffle(2), nn.PixelShuffle(3), nn.PixelUnshuffle(4))
    yield from (nn.ChannelShuffle(3), nn.PixelShuffle(2), nn.PixelUnshuffle(2))
    yield from (nn.Upsample(scale_factor=2), nn.Upsample((4, 5)), nn.Upsample(size=3, mode="area"))
    yield nn.Upsample(scale_factor=(2, 3), mode="bilinear", align_corners=True)
    yield nn.Upsample(scale_factor=2.5, recompute_scale_factor=True)
    for up in (nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d):
        yield from (up(size=4), up(scale_factor=(2, 3)))


def linear_and_the_like() -> Modules:
    yield from (nn.Identity(), nn.Identity(54, unused=0.1))
    for linear in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        yield from (linear(2, 1), linear(3, 4, bias=False))
    yield from (nn.Bilinear(2, 3, 4), nn.Bilinear(2, 3, 4, bias=False))
    yield from (nn.LazyLinear(3), nn.LazyLinear(3, bias=False))
    yield from (nn.Embedding(10, 3), nn.Embedding(10, 3, padding_idx=0))
    yield nn.Embedding(10, 3, -1, 1.5, 1.0, True, True)
    yield from (nn.EmbeddingBag(10, 3), nn.EmbeddingBag(10, 3, mode="sum", padding_idx=2))
    yield nn.EmbeddingBag(10, 3, 2.0, 3.0, True, "max", False, None, True, 1)
    yield nn.EmbeddingBag(10, 3, sparse=True)
    yield from (nn.PairwiseDistance(), nn.PairwiseDistance(1, 1e-3, True))
    yield from (nn.CosineSimilarity(), nn.CosineSimilarity(0, 1e-4))
    dropouts = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    for drop in (*dropouts, nn.FeatureAlphaDropout, nn.modules.dropout._DropoutNd):
        yield from (drop(), drop(0.1, True), drop(p=1))
    yield from (nn.Flatten(), nn.Flatten(0, 2), nn.Unflatten(1, (2, 3)))
    yield from (nn.Unflatten(-1, torch.Size([4, 1])), nn.Unflatten(0, [2, 3]))


def normalizations() -> Modules:
    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    bases = (batchnorm._NormBase, batchnorm._BatchNorm, instancenorm._InstanceNorm)
    for norm in (*batch, *instance, *bases):
        yield from (norm(5), norm(5, 1e-3, None, False, False), norm(5, affine=True, bias=False))
        yield norm(5, track_running_stats=True, affine=True, momentum=0.01)
    lazy = (nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d)
    lazy += (nn.LazyInstanceNorm1d, nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d)
    for norm in (*lazy, batchnorm._LazyNormBase):
        yield from (norm(), norm(1e-3, None, False, False), norm(bias=False))
    yield from (nn.LocalResponseNorm(2), nn.LocalResponseNorm(3, 1e-3, 0.5, 2))
    yield from (nn.CrossMapLRN2d(2), nn.CrossMapLRN2d(3, 1e-3, 0.5, 2.0))
    yield from (nn.LayerNorm(8), nn.LayerNorm([4, 8], 1e-6), nn.LayerNorm(8, bias=False))
    yield nn.LayerNorm(torch.Size([2, 3]), elementwise_affine=False)
    yield from (nn.GroupNorm(2, 4), nn.GroupNorm(4, 8, 1e-6), nn.GroupNorm(2, 4, bias=False))
    yield nn.GroupNorm(2, 4, affine=False)
    yield from (nn.RMSNorm(8), nn.RMSNorm((2, 8), 1e-6, False))


def poolings() -> Modules:
    for dims in (1, 2, 3):
        largest = getattr(nn, f"MaxPool{dims}d")
        yield from (largest(2), largest(3, 2, 1, 2, True, True), largest((3,) * dims, (2,) * dims))
        back = getattr(nn, f"MaxUnpool{dims}d")
        yield from (back(2), back(3, 2, 1), back((4,) * dims))
        average = getattr(nn, f"AvgPool{dims}d")
        yield from (average(2), average(3, 2, 1, True, False))
        power = getattr(nn, f"LPPool{dims}d")
        yield from (power(2, 3), power(1.5, 3, 2, True))
        for kind in ("Max", "Avg"):
            adaptive = getattr(nn, f"Adaptive{kind}Pool{dims}d")
            yield from (adaptive(5), adaptive((5,) * dims if dims > 1 else (3,)))
        if dims > 1:
            fractional = getattr(nn, f"FractionalMaxPool{dims}d")
            yield from (fractional(2, output_size=3), fractional(2, output_ratio=0.5))
            yield fractional((2,) * dims, (4,) * dims, return_indices=True)
            yield average(3, divisor_override=4)
    yield from (nn.AdaptiveAvgPool2d((None, 7)), nn.AdaptiveMaxPool2d((3, None), True))
    yield from (pooling._MaxPoolNd(2), pooling._MaxPoolNd(2, 3, 1))
    yield from (pooling._LPPoolNd(2, 3), pooling._LPPoolNd(2, 3, 1))
    for base in (pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd):
        yield from (base(3), base((2, 1)))


def paddings() -> Modules:
    for dims in (1, 2, 3):
        sides = tuple(range(1, 2 * dims + 1))
        for kind in ("Circular", "Reflection", "Replication", "Zero"):
            pad = getattr(nn, f"{kind}Pad{dims}d")
            yield from (pad(2), pad(sides))
        constant = getattr(nn, f"ConstantPad{dims}d")
        yield from (constant(1, 3.5), constant(sides, 0))


def recurrent() -> Modules:
    yield from (nn.RNN(3, 4), nn.RNN(3, 4, 2, "relu", False, True, 0.5, True))
    yield nn.RNN(3, 4, nonlinearity="relu", batch_first=True)
    for gated in (nn.LSTM, nn.GRU):
        yield from (gated(3, 4), gated(3, 4, 2, False, True, 0.5, True), gated(3, 4, num_layers=3))
    yield nn.LSTM(3, 4, proj_size=2, bidirectional=True)
    yield from (nn.RNNBase("GRU", 3, 4), nn.RNNBase("LSTM", 3, 4, 2, False, proj_size=1))
    yield from (nn.RNNCell(3, 4), nn.RNNCell(3, 4, False, "relu"))
    for cell in (nn.LSTMCell, nn.GRUCell):
        yield from (cell(3, 4), cell(3, 4, bias=False))
    yield from (nn.RNNCellBase(3, 4, True, 4), nn.RNNCellBase(3, 4, False, 2))


def transformers() -> Modules:
    small = {"d_model": 8, "nhead": 2, "dim_feedforward": 16}
    yield nn.Transformer(**small, num_encoder_layers=2, num_decoder_layers=1)
    unusual = {
        "dropout": 0.0,
        "activation": F.gelu,
        "layer_norm_eps": 1e-3,
        "batch_first": True,
        "norm_first": True,
        "bias": False,
    }
    yield nn.Transformer(**small, **unusual, num_encoder_layers=1, num_decoder_layers=2)
    yield nn.Transformer(**small, num_encoder_layers=1, custom_decoder=nn.Identity())
    for layer in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        yield from (layer(**small), layer(**small, **unusual))
        yield layer(**{**small, "activation": nn.Tanh()})
    encoder = nn.TransformerEncoderLayer(**small)
    yield from (
        nn.TransformerEncoder(encoder, 2),
        nn.TransformerEncoder(encoder, 1, nn.LayerNorm(8)),
    )
    yield nn.TransformerEncoder(encoder, 3, enable_nested_tensor=False, mask_check=False)
    decoder = nn.TransformerDecoderLayer(**small)
    yield from (nn.TransformerDecoder(decoder, 2), nn.TransformerDecoder(decoder, 1, nn.Identity()))


def losses() -> Modules:
    by_reduction = (nn.L1Loss, nn.MSELoss, nn.KLDivLoss, nn.SmoothL1Loss, nn.MultiLabelMarginLoss)
    by_reduction += (nn.HingeEmbeddingLoss, nn.SoftMarginLoss, nn.CosineEmbeddingLoss)
    by_reduction += (nn.MarginRankingLoss, nn.TripletMarginLoss, nn.PoissonNLLLoss, nn.CTCLoss)
    by_reduction += (nn.GaussianNLLLoss, nn.HuberLoss, nn.TripletMarginWithDistanceLoss)
    for loss in (*by_reduction, nn.modules.loss._Loss):
        yield from (loss(), loss(reduction="sum"))
    weighted = (nn.NLLLoss, nn.NLLLoss2d, nn.BCELoss, nn.BCEWithLogitsLoss, nn.CrossEntropyLoss)
    weighted += (nn.MultiLabelSoftMarginLoss, nn.MultiMarginLoss, nn.modules.loss._WeightedLoss)
    for loss in weighted:
        yield from (loss(), loss(weight=torch.ones(3), reduction="none"))
    yield from (nn.KLDivLoss(log_target=True), nn.SmoothL1Loss(beta=0.5), nn.HuberLoss(delta=2.0))
    yield from (nn.HingeEmbeddingLoss(0.5), nn.CosineEmbeddingLoss(0.5), nn.MarginRankingLoss(1))
    yield from (nn.TripletMarginLoss(2.0, 1, 1e-3, True), nn.PoissonNLLLoss(False, True, eps=1e-3))
    yield from (nn.GaussianNLLLoss(full=True, eps=1e-3), nn.CTCLoss(3, zero_infinity=True))
    yield from (
        nn.CrossEntropyLoss(ignore_index=0, label_smoothing=0.1),
        nn.MultiMarginLoss(2, 0.5),
    )
    yield nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))
    yield nn.TripletMarginWithDistanceLoss(
        distance_function=F.pairwise_distance, margin=2, swap=True
    )
    yield nn.TripletMarginWithDistanceLoss(distance_function=nn.CosineSimilarity())
    yield from (nn.LinearCrossEntropyLoss(4, 3), nn.LinearCrossEntropyLoss(4, 3, bias=True))
    yield nn.LinearCrossEntropyLoss(
        4, 3, out_features=(2,), reduction="sum", weight=torch.ones(3), ignore_index=1,
        label_smoothing=0.5, options=LinearCrossEntropyOptions(True, acc_dtype=torch.float32),
    )  # fmt: skip


def containers() -> Modules:
    yield from (nn.Module(), container.Container(), container.Container(a=nn.ReLU()))
    yield from (nn.Sequential(), nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)))
    yield from (nn.ModuleList(), nn.ModuleList([nn.Linear(1, 2)]))
    yield from (nn.ModuleDict(), nn.ModuleDict({"a": nn.ReLU(), "b c": nn.Sequential()}))
    yield from (nn.ParameterList(), nn.ParameterList([torch.ones(2, 3), torch.ones(())]))
    mixed = [torch.ones(2), 3, "text", None, nn.Linear(1, 2), (1, 2), F.relu, torch.float16, int]
    yield nn.ParameterList(mixed)
    yield from (nn.ParameterDict(), nn.ParameterDict({"b": torch.ones(2), "a": torch.ones(1, 4)}))
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e5m2)
    yield nn.ParameterDict(
        {f"a {d}"[-9:].replace(".", " "): torch.zeros(2, dtype=d) for d in dtypes}
    )
    with_buffer = nn.ParameterDict({"a": 1, "b": [2.5], "c": nn.ReLU()})
    with_buffer.register_buffer("held", torch.ones(2, dtype=torch.float64))
    with_buffer._keys["held"] = None
    yield with_buffer
    meta = nn.ParameterList([nn.Parameter(torch.empty(2, device="meta"))])
    yield from (meta, nn.ParameterDict({"m": meta[0], "s": torch.eye(2).to_sparse()}))


def wrappers() -> Modules:
    yield from (nn.DataParallel(nn.Linear(1, 2)), nn.DataParallel(nn.Sequential(nn.ReLU()), dim=1))
    swa = torch.optim.swa_utils
    yield from (swa.AveragedModel(nn.Linear(1, 2)),)
    yield swa.AveragedModel(
        nn.Linear(1, 2), multi_avg_fn=swa.get_ema_multi_avg_fn, use_buffers=True
    )
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper

    for held in (nn.Linear(1, 2), nn.Sequential(nn.ReLU())):
        yield checkpoint_wrapper.OffloadWrapper(held)
        checkpoint = checkpoint_wrapper.CheckpointWrapper(held)
        del checkpoint.checkpoint_fn  # a partial of what pickle refuses
        yield checkpoint
    yield torch.fx.symbolic_trace(nn.Sequential(nn.Linear(1, 2), nn.ReLU()))
    yield torch.compile(nn.Linear(1, 2))


NN: tuple[Callable[[], Modules], ...] = (
    plain_activations,
    convolutions,
    linear_and_the_like,
    normalizations,
    poolings,
    paddings,
    recurrent,
    transformers,
    losses,
    containers,
    wrappers,
)
