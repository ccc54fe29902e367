"""Small models of every make: `MODELS`, by name. Saved as a module of the name `small_models`,
which the process that loads them does not have.

Run as a script with a folder, it saves them there, and prints the names.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
import os
import sys
import types

import torch
from torch import nn
from torch.nn import functional as F

MODELS = {}


def model(build):
    """Adds what a function makes to the models."""
    MODELS[build.__name__] = build
    return build


# --- images


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride=1, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample
        self.stride = stride


class ResNet(nn.Module):
    def __init__(self, layers, width=4, classes=3):
        super().__init__()
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, count in enumerate(layers, 1):
            stage = self.stage(width * 2 ** (number - 1), count, 1 if number == 1 else 2)
            setattr(self, f"layer{number}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, classes)

    def stage(self, planes, count, stride):
        downsample = None
        if stride != 1 or self.inplanes != planes:
            downsample = nn.Sequential(
                nn.Conv2d(self.inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )
        blocks = [BasicBlock(self.inplanes, planes, stride, downsample)]
        self.inplanes = planes
        blocks += [BasicBlock(planes, planes) for _ in range(1, count)]
        return nn.Sequential(*blocks)


@model
def resnet():
    return ResNet([2, 2, 2, 2])


@model
def resnet_deep():
    return ResNet([3, 4, 6]).eval()


@model
def resnet_frozen():
    made = ResNet([1, 2])
    for name, parameter in made.named_parameters():
        parameter.requires_grad = name.startswith("fc")
    made.layer1.eval()
    return made


class ConvBNReLU(nn.Sequential):
    def __init__(self, inp, oup, stride=1, groups=1):
        super().__init__(
            nn.Conv2d(inp, oup, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(oup),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    def __init__(self, inp, oup, stride, ratio):
        super().__init__()
        self.stride = stride
        hidden = inp * ratio
        layers = [] if ratio == 1 else [ConvBNReLU(inp, hidden)]
        layers += [
            ConvBNReLU(hidden, hidden, stride, hidden),
            nn.Conv2d(hidden, oup, 1, bias=False),
            nn.BatchNorm2d(oup),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inp == oup


@model
def mobilenet():
    made = nn.Module()
    made.__class__ = MobileNet
    MobileNet.__init__(made)
    return made


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            ConvBNReLU(3, 4, 2),
            InvertedResidual(4, 4, 1, 1),
            InvertedResidual(4, 8, 2, 6),
            InvertedResidual(8, 8, 1, 6),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 3))


class DoubleConv(nn.Module):
    def __init__(self, inp, out, mid=None):
        super().__init__()
        mid = mid or out
        self.double_conv = nn.Sequential(
            nn.Conv2d(inp, mid, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )


class Down(nn.Module):
    def __init__(self, inp, out):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inp, out))


class Up(nn.Module):
    def __init__(self, inp, out, bilinear):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(inp, out, inp // 2)
        else:
            self.up = nn.ConvTranspose2d(inp, inp // 2, 2, 2)
            self.conv = DoubleConv(inp, out)


class UNet(nn.Module):
    def __init__(self, mixed=False):
        super().__init__()
        self.n_channels, self.n_classes, self.bilinear = 3, 2, not mixed
        self.inc = DoubleConv(3, 4)
        self.down1, self.down2 = Down(4, 8), Down(8, 16)
        self.up1, self.up2 = Up(24, 8, not mixed), Up(12, 4, True)
        self.outc = nn.Conv2d(4, 2, 1)


@model
def unet():
    return UNet()


@model
def unet_mixed():
    return UNet(mixed=True)


# --- transformers


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("index", torch.arange(9).reshape(3, 3), persistent=False)


class DropPath(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.drop_prob = p


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)


class Block(nn.Module):
    def __init__(self, dim, heads, drop):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls = nn.Parameter(1e-5 * torch.ones(dim))
        self.drop_path = DropPath(drop) if drop else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * 4)


class ViT(nn.Module):
    def __init__(self, dim=8, depth=4):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, dim))
        self.patch_embed = nn.Conv2d(3, dim, 4, 4)
        rates = [0.1 * at / (depth - 1) for at in range(depth)]
        self.blocks = nn.Sequential(*[Block(dim, 2, rate) for rate in rates])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 3)


@model
def vit():
    return ViT()


@model
def vit_half():
    return ViT().half().eval()


class Stage(nn.Module):
    def __init__(self, dim, depth, heads):
        super().__init__()
        self.blocks = nn.ModuleList([Block(dim, heads, 0.0) for _ in range(depth)])
        self.downsample = nn.Linear(dim, dim * 2) if dim < 16 else None


@model
def swin():
    made = nn.Module()
    made.__class__ = Swin
    nn.Module.__init__(made)
    made.layers = nn.ModuleList([Stage(8, 2, 2), Stage(16, 4, 4), Stage(32, 1, 8)])
    made.window = (2, 2)
    return made


class Swin(nn.Module):
    pass


class LayerNorm(nn.Module):
    """As GPT implementations have it: torch's name, and not torch's class."""

    def __init__(self, ndim, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(ndim))
        self.bias = nn.Parameter(torch.zeros(ndim)) if bias else None


class GELU(nn.Module):
    pass


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.config = config
        mask = torch.tril(torch.ones(4, 4)).view(1, 1, 4, 4)
        self.register_buffer("bias", mask)
        self.n_head = config.n_head


@dataclasses.dataclass
class GPTConfig:
    n_embd: int = 8
    n_head: int = 2
    bias: bool = False
    names: tuple = ("a", "b")


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(11, 8),
            "drop": nn.Dropout(0.0),
            "h": nn.ModuleList([CausalSelfAttention(config) for _ in range(3)]),
            "ln_f": LayerNorm(8, bias=config.bias),
            "act": GELU(),
        })  # fmt: skip
        self.lm_head = nn.Linear(8, 11, bias=False)
        self.transformer.wte.weight = self.lm_head.weight


@model
def gpt():
    return GPT(GPTConfig())


@model
def gpt_bfloat16():
    return GPT(GPTConfig()).bfloat16()


@model
def mixed_dtypes():
    made = GPT(GPTConfig()).half()
    made.transformer["ln_f"].float()
    made.lm_head.double()
    return made


@model
def torch_transformer():
    class_ = Seq
    return class_(nn.Transformer(8, 2, 2, 1, 16))


class Seq(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


@model
def encoder_of_layers():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    return Seq(nn.TransformerEncoder(layer, 3, nn.LayerNorm(8)))


@model
def own_encoder_layer():
    return Seq(OwnLayer(8, 2, 16))


class OwnLayer(nn.TransformerEncoderLayer):
    def forward(self, x):
        return x


# --- sequences


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.rnn = nn.LSTM(6, 5, num_layers=2, dropout=0.1, bidirectional=True, batch_first=True)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(5, 5)
        self.out = nn.Linear(5, 20)
        self.attention = nn.MultiheadAttention(5, 1, kdim=10, vdim=10)


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        self.teacher = {"ratio": 0.5, "schedule": [1, 2, 3], 7: None}


@model
def seq2seq():
    return Seq2Seq()


@model
def gru_and_rnn():
    return Seq(nn.ModuleList([nn.GRU(3, 4), nn.RNN(4, 4, nonlinearity="relu", bias=False)]))


@model
def temporal():
    return Seq(nn.Sequential(*[TemporalBlock(2**at) for at in range(4)]))


class TemporalBlock(nn.Module):
    def __init__(self, dilation):
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv1d(2, 2, 3, dilation=dilation, padding=dilation))
        self.dilation = dilation


# --- GANs


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(5, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        self.register_buffer("noise", torch.randn(4, 4))


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.utils.spectral_norm(nn.Conv2d(3, 4, 4, 2, 1)), nn.LeakyReLU(0.2, True)
        )


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.g, self.d = Generator(), Discriminator()


@model
def gan():
    return Gan()


# --- detection


class Conv(nn.Module):
    default_act = nn.SiLU()

    def __init__(self, c1, c2, k=1, s=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = self.default_act if act is True else nn.Identity()


class Bottleneck(nn.Module):
    def __init__(self, c, shortcut=True):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c), Conv(c, c, 3), shortcut


class C3(nn.Module):
    def __init__(self, c1, c2, n):
        super().__init__()
        self.cv1, self.cv3 = Conv(c1, c2 // 2), Conv(c2 // 2, c2)
        self.m = nn.Sequential(*(Bottleneck(c2 // 2) for _ in range(n)))


class Concat(nn.Module):
    def __init__(self, d=1):
        super().__init__()
        self.d = d


class Detect(nn.Module):
    stride = None

    def __init__(self, channels):
        super().__init__()
        self.nc, self.nl = 2, len(channels)
        self.grid = [torch.empty(0) for _ in channels]
        self.register_buffer("anchors", torch.rand(len(channels), 3, 2))
        self.m = nn.ModuleList(nn.Conv2d(c, 21, 1) for c in channels)


class Yolo(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [
            Conv(3, 4, 6, 2), C3(4, 8, 1), C3(8, 8, 3), nn.Upsample(None, 2, "nearest"), Concat(),
            Detect([4, 8]),
        ]  # fmt: skip
        for at, layer in enumerate(layers):
            layer.i, layer.f, layer.type = at, -1 if at < 4 else [-1, at - 2], type(layer).__name__
            layer.np = sum(x.numel() for x in layer.parameters())
        self.model = nn.Sequential(*layers)
        self.names = {0: "person", 1: "자전거"}
        self.stride = torch.tensor([8.0, 16.0])
        self.yaml = {"nc": 2, "backbone": [[-1, 1, "Conv", [4, 6, 2]]], "inplace": True}


@model
def yolo():
    return Yolo().half().eval()


# --- Lightning-like


class Lightning(nn.Module):
    def __init__(self):
        super().__init__()
        self.prepare_data_per_node = True
        self._hparams = AttributeDict(lr=1e-3, layers=2)
        self._example = None
        self._device = torch.device("cpu")
        self._dtype = torch.float32
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
        self.accuracy = Metric()


class AttributeDict(dict):
    def __getattr__(self, name):
        return self[name]


class Metric(nn.Module):
    def __init__(self):
        super().__init__()
        self._defaults = {"total": torch.tensor(0)}
        self.total = torch.tensor(0)
        self.mode = Mode.MULTI
        self.reduce = torch.sum


class Mode(enum.Enum):
    MULTI = "multi-class"
    BINARY = "binary"


@model
def lightning():
    return Lightning()


# --- mechanisms


class Tree(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.depth = depth
        self.left = Tree(depth - 1) if depth else None
        self.right = Tree(depth - 1) if depth else None
        self.fc = nn.Linear(depth + 1, 2)


@model
def recursive():
    return Tree(2)


class Chain(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.next = Chain(depth - 1) if depth else nn.Identity()


@model
def deep_chain():
    return Chain(60)


@model
def deep_sequential():
    made = nn.Linear(1, 1)
    for _ in range(70):
        made = nn.Sequential(made)
    return Seq(made)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.c = self.a
        self.layers = nn.ModuleList([self.a, nn.ReLU(), self.a])
        self.w = nn.Parameter(torch.ones(2))
        self.v = self.w


@model
def tied():
    return Tied()


Point = collections.namedtuple("Point", ["x", "y"])


class Plain:
    def __init__(self, **own):
        vars(self).update(own)


class Slots:
    __slots__ = ("one", "two")

    def __init__(self):
        self.one, self.two = 1, [2]


def double(x):
    return x * 2


class Values(nn.Module):
    def __init__(self):
        super().__init__()
        self.nothing, self.yes, self.small, self.large = None, True, 1e-30, float("inf")
        self.text, self.quotes, self.raw = "한국어\n\t\\", "'\"", b'\x00\xff"'
        self.several = [1, (2, 3), {"a": {4, 5}, (1, 2): [None]}, frozenset({"x"}), set()]
        self.size, self.device, self.dtype = torch.Size([1, 2]), torch.device("cuda", 1), torch.int8
        self.ordered = collections.OrderedDict(a=1, b=[2])
        self.counted = collections.Counter("hello")
        self.queue = collections.deque([1, 2], maxlen=3)
        self.default = collections.defaultdict(list, a=[1])
        self.point, self.plain, self.slots = Point(1, 2), Plain(a=1, b=Plain(c=2)), Slots()
        self.other = Plain(a=2)
        self.mode, self.function, self.relu, self.built_in = Mode.BINARY, double, F.relu, torch.relu
        self.partial = functools.partial(double, 3)
        self.class_, self.torch_class, self.root = Plain, nn.LayerNorm, math.sqrt
        self.bag = types.SimpleNamespace(a=1, b="two")
        self.tensors = [
            torch.arange(4),
            torch.tensor(2.5),
            torch.zeros(100),
            torch.tensor([[True]]),
        ]
        self.eye = torch.eye(3, dtype=torch.float64)
        self.huge, self.negative, self.z = 10**30, -0.0, 1 + 2j


@model
def values():
    return Values()


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("with space", nn.Linear(1, 1))
        self.add_module("class", nn.Linear(1, 2))
        self.add_module("0", nn.Linear(2, 2))
        self._modules["type"] = nn.Linear(1, 3)
        self._modules["forward"] = nn.ReLU()
        self._parameters["half"] = None
        self._parameters["eval"] = nn.Parameter(torch.ones(1))
        self.register_buffer("한글", torch.ones(1))
        vars(self)["not an identifier"] = 1
        vars(self)["__dunder__"] = 2
        vars(self)["lambda"] = 3


@model
def odd_names():
    return Odd()


class Optional(nn.Module):
    def __init__(self, norm, gate, order):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        if norm:
            self.norm = nn.LayerNorm(2)
        if gate:
            self.gate = nn.Parameter(torch.zeros(2))
            self.register_buffer("mask", torch.ones(2))
        self.kind = nn.ReLU() if order else nn.Tanh()
        self.last = nn.Linear(2, 1)


@model
def optional_children():
    return Seq(nn.ModuleList([Optional(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]))


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.params = nn.ParameterList([nn.Parameter(torch.ones(2)) for _ in range(3)])
        self.named = nn.ParameterDict({"a": nn.Parameter(torch.ones(1)), "b c": torch.zeros(2)})
        self.modules_ = nn.ModuleDict({"conv": nn.Conv1d(1, 1, 1), "a-b": nn.ReLU()})
        self.steps = nn.Sequential(collections.OrderedDict(first=nn.Linear(1, 2), act=nn.ReLU()))
        self.empty, self.none = nn.ModuleList(), nn.Sequential()


@model
def containers():
    return Lists()


class FlaggedLinear(nn.Linear):
    def __init__(self, inp, out, rank):
        super().__init__(inp, out)
        self.rank = rank
        self.lora = nn.Parameter(torch.zeros(rank, inp))


@model
def extended_linear():
    return Seq(nn.ModuleList([FlaggedLinear(2, 3, 1), FlaggedLinear(3, 2, 2)]))


class SubList(nn.ModuleList):
    pass


class SubDict(nn.ModuleDict):
    pass


@model
def extended_containers():
    return Seq(nn.ModuleList([SubList([nn.ReLU()]), SubDict({"a": nn.ReLU()})]))


class Outer(nn.Module):
    class Inner(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.fc = nn.Linear(n, n)

    def __init__(self):
        super().__init__()
        self.inner = Outer.Inner(2)
        self.method = self.inner.forward_features

    def forward_features(self):
        pass


Outer.Inner.forward_features = lambda self: None
Outer.Inner.forward_features.__name__ = "forward_features"
Outer.Inner.forward_features.__qualname__ = "Outer.Inner.forward_features"


@model
def nested():
    return Outer()


@model
def data_parallel():
    return nn.DataParallel(ResNet([1, 1]))


@model
def only_torch():
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()


class Pruned(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.conv.weight = nn.Parameter(self.conv.weight[:2].detach().clone())
        self.conv.bias = None
        self.fc = nn.Linear(2, 2)
        self.fc.register_buffer("scale", torch.ones(1))
        self.bn = nn.BatchNorm1d(3)
        self.bn.num_batches_tracked = None


@model
def changed_by_hand():
    return Pruned()


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3, bias=False)
        self.w1 = nn.ParameterList(nn.Parameter(torch.ones(4, 8)) for _ in range(3))
        self.experts = nn.ModuleList(Mlp(4, 8 * (at + 1)) for at in range(3))


@model
def experts():
    return Experts()


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        for at in range(12):
            setattr(self, f"conv{at}", nn.Conv2d(at + 1, at + 2, 1 + 2 * (at % 2)))
        self.losses = nn.ModuleList([nn.MSELoss(), nn.BCEWithLogitsLoss(pos_weight=torch.ones(2))])


@model
def many_children():
    return Many()


@model
def lazy():
    return Seq(nn.Sequential(nn.LazyLinear(3), nn.LazyConv2d(2, 1), nn.ReLU()))


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.fc.register_forward_hook(hook)


def hook(module, args, output):
    return output


@model
def hooks():
    return Hooked()


class Diffusion(nn.Module):
    def __init__(self):
        super().__init__()
        betas = torch.linspace(1e-4, 0.02, 10)
        self.register_buffer("betas", betas)
        self.register_buffer(
            "inv_freq", 1.0 / (10 ** (torch.arange(0, 8, 2) / 8)), persistent=False
        )
        self.time = nn.Sequential(SiLU(), nn.Linear(4, 4))
        self.blocks = nn.ModuleList(
            [nn.ModuleList([ResBlock(2, 4, up), nn.Identity()]) for up in (0, 1)]
        )


class SiLU(nn.Module):
    pass


class ResBlock(nn.Module):
    def __init__(self, inp, out, up):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(1, inp), SiLU(), nn.Conv2d(inp, out, 3))
        self.skip = nn.Conv2d(inp, out, 1) if up else nn.Identity()
        self.up = bool(up)


@model
def diffusion():
    return Diffusion()


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
        self.backbone.requires_grad_(False).eval()
        self.head = nn.Linear(1, 1)
        self.head.bias.requires_grad = False
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.step = nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False)


@model
def frozen():
    return Frozen()


class Extra(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.fc.is_head, self.fc._is_hf_initialized = True, True
        self.act = nn.ReLU()
        self.act._is_hf_initialized = True
        self.norm = nn.LayerNorm(2)
        self.norm._is_hf_initialized = True
        self.fc.weight.tag = "tagged"


@model
def attributes_of_torchs():
    return Extra()


@model
def in_a_checkpoint():
    return {
        "epoch": 3,
        "model": ResNet([1, 1]),
        "ema": ResNet([1, 1]).eval(),
        "args": Plain(lr=0.1),
    }


def main():
    sys.modules["small_models"] = sys.modules["__main__"]
    for thing in list(globals().values()):
        if getattr(thing, "__module__", None) == "__main__":
            thing.__module__ = "small_models.zoo" if thing is not model else "__main__"
    sys.modules["small_models.zoo"] = sys.modules["__main__"]
    torch.manual_seed(0)
    for name, build in MODELS.items():
        made = build()
        torch.save(made, os.path.join(sys.argv[1], f"{name}.pt"))
        if isinstance(made, nn.Module) and name != "lazy":
            classes = {at: type(inner).__name__ for at, inner in made.named_modules()}
            path = os.path.join(sys.argv[1], f"{name}.state_dict.pt")
            torch.save({"model": "Whole", "state": made.state_dict(), "classes": classes}, path)
        print(name)


if __name__ == "__main__":
    main()
