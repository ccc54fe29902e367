"""TorchScript programs and calls of each, for test_torchscript.py.

`main` saves the programs of these names in a folder as NAME.pt, and their calls as NAME.calls.
A call is a list of forward's arguments, or a method's name and its arguments. torch compiles the
classes from their source, so types are written as its compiler needs them.
"""
# mypy: ignore-errors
# ruff: noqa: B007, E741, RUF059, B905, C416, SIM201, RUF051, UP006, UP007, UP031, UP035, UP045

import enum
import math
import warnings
from typing import Any, Dict, Final, List, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

warnings.simplefilter("ignore")


class Point(NamedTuple):
    x: Tensor
    y: Optional[Tensor]
    n: int


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, groups=2),
            nn.SiLU(),
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.f(x)
        return F.log_softmax(self.head(x.mean([2, 3])), dim=-1)


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(11, 4, padding_idx=0)
        self.rnn = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 3)

    def forward(self, x, hx: Optional[Tuple[Tensor, Tensor]] = None):
        y, (h, c) = self.rnn(self.emb(x), hx)
        return self.out(y), h, c


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 5)
        self.cell = nn.GRUCell(5, 3)

    def forward(self, x):
        y, h = self.rnn(x)
        h2 = torch.zeros(x.size(1), 3)
        outs: List[Tensor] = []
        for i in range(y.size(0)):
            h2 = self.cell(y[i], h2)
            outs.append(h2)
        return torch.stack(outs), h


class Attn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.MultiheadAttention(8, 2, batch_first=True)
        self.enc = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.n = nn.LayerNorm(8)

    def forward(self, x):
        y, w = self.a(x, x, x)
        return self.n(self.enc(y)), w


class Control(nn.Module):
    lim: Final[int]

    def __init__(self):
        super().__init__()
        self.lim = 4
        self.w = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("count", torch.zeros(1))
        self.names = ["a", "b"]
        self.table = {"a": 1.5, "b": float("inf")}
        self.pair = (1, 'é\n"x', None)
        self.flag = True
        self.color = Color.BLUE

    def forward(self, x, n: int = 3, mode: str = "add"):
        assert x.dim() == 2, "two dimensions, got " + str(x.dim())
        i = 0
        while i < n:
            if mode == "add":
                x = x @ self.w
            elif mode == "mul":
                x = x * self.table["a"]
            else:
                raise ValueError(f"unknown mode {mode}")
            if bool(x.sum() > 1000):
                break
            i += 1
            if i % 2 == 1:
                continue
            self.count += 1
        if self.color == Color.BLUE:
            x = x + 1
        return x, i, self.helper(x, i)

    @torch.jit.export
    def helper(self, x, k: int) -> Dict[str, Tensor]:
        d: Dict[str, Tensor] = {}
        for name, z in zip(self.names, [x, x + k]):
            d[name] = z.clamp(min=-1.0, max=float(k))
        return d

    @torch.jit.export
    def strings(self, s: str) -> List[str]:
        return [
            s.upper(),
            "%s-%d" % (s, 3),
            f"{1.5} {[1, 2]}",
            str(2.0),
            s[1:],
            ",".join(self.names),
            self.pair[1],
        ]

    @torch.jit.export
    def numbers(self, a: int, b: float) -> Tuple[int, float, float, int, float, int, bool]:
        return a // 3, a / 3, b**2, -a % 5, math.sqrt(b), max(a, 3), a > b and not (a == 2)


class ListDict(nn.Module):
    def forward(self, xs: List[Tensor], d: Dict[str, Tensor]):
        r = [x for x in xs]
        r.append(d["k"])
        r.insert(0, xs[-1])
        r.pop(1)
        r.reverse()
        keys = list(d.keys())
        keys.sort()
        t = torch.tensor([len(keys), 2], dtype=torch.float64)
        s: List[int] = []
        s += [1, 2]
        s.extend([5, 3])
        d2 = {k: v * 2 for k, v in d.items()}
        if "k" in d2:
            del d2["k"]
        return r[1:], d2, keys, t, s, sorted(s), sum(s), xs[0].tolist() if False else 0


class Inplace(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[0] = 3
        y[:, 1] += 2
        y.mul_(2).add_(1)
        y[y > 3] = 0
        z = y.view(-1)[::2]
        z.fill_(7)
        return (
            y,
            z.to(torch.float16),
            y.to("cpu", torch.int64),
            torch.where(y > 0, y, torch.zeros_like(y)),
        )


class Tup(nn.Module):
    def forward(self, x) -> Point:
        return Point(x * 2, None if x.size(0) > 5 else x, n=x.numel())


@torch.jit.script
def free(x, alpha: float = 2.0):
    return torch.relu(x) * alpha


def other(x: Tensor, y: Optional[Tensor]) -> Tensor:
    if y is not None:
        return free(x) + y
    return x


class Funcs(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            z = free(x)
        return other(z, x), other(x, None)


@torch.jit.interface
class Iface(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


class A1(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class UseIface(nn.Module):
    op: Iface

    def __init__(self):
        super().__init__()
        self.op = A1()
        self.l = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.d = nn.ModuleDict({"k": nn.Linear(3, 3)})

    def forward(self, x):
        for m in self.l:
            x = m(x)
        for k, m in self.d.items():
            x = m(x)
        return self.op.forward(x)


@torch.jit.script
class Acc:
    def __init__(self, start: int):
        self.total = start
        self.items: List[int] = []

    def add(self, n: int) -> int:
        self.total += n
        self.items.append(n)
        return self.total


class UseClass(nn.Module):
    def forward(self, x, n: int):
        a = Acc(n)
        for i in range(n):
            a.add(i)
        return x * a.total, a.items


class Buf(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("b", torch.arange(6).view(2, 3))
        self.register_buffer("np", torch.ones(3), persistent=False)
        self.tied = nn.Linear(3, 3)
        self.tied2 = nn.Linear(3, 3)
        self.tied2.weight = self.tied.weight
        self.plain = torch.randn(3)
        self.lst = [torch.ones(2), torch.zeros(1)]

    def forward(self, x):
        return self.tied2(self.tied(x)) + self.b * self.np + self.plain, self.lst[0]


class Drop(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(3)
        self.d = nn.Dropout(0.5)
        self.g = nn.GroupNorm(1, 3)

    def forward(self, x):
        return self.g(self.d(self.bn(x)))


class Mixed(nn.Module):
    def forward(self, x: Tensor, k: int):
        a, b = x.shape[0], x.size(-1)
        y = torch.arange(a * b, dtype=torch.float32, device=x.device).reshape(a, b)
        p, i = torch.topk(x, k, dim=1)
        q = torch.einsum("ij,kj->ik", x, y)
        parts = torch.split(x, 1, dim=1)
        c = torch.chunk(x, 2, 0)
        cplx = torch.complex(x, x).abs() + (1 + 2j)
        return (
            y,
            p,
            i,
            q,
            torch.cat([parts[0], c[0][:, :1]]),
            cplx,
            x.dtype == torch.float32,
            torch.full([2], 1.5, dtype=x.dtype),
            F.pad(x, [1, 1]),
            F.interpolate(x[None, None], scale_factor=2.0),
            x.norm(p=2, dim=1),
            x.std(),
            x.max(dim=1),
        )


class Any_(nn.Module):
    def forward(self, x: Optional[Union[int, Tensor]], y: Any):
        r = 0
        if isinstance(x, int):
            r = x + 1
        if isinstance(y, Tensor):
            r = 7
        try_ = torch.jit.annotate(Optional[int], None)
        return r, try_


class ForkW(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(3, 3)

    def forward(self, x):
        f = torch.jit.fork(self.l, x)
        y = x * 2
        return torch.jit.wait(f) + y


row, img = torch.randn(2, 3), torch.randn(2, 3, 8, 8)


def dyn():
    return torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), {nn.Linear}, torch.qint8
    )


def static():
    torch.backends.quantized.engine = "fbgemm"
    m = nn.Sequential(
        torch.ao.quantization.QuantStub(),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        torch.ao.quantization.DeQuantStub(),
    ).eval()
    m.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    torch.ao.quantization.prepare(m, inplace=True)
    m(img)
    torch.ao.quantization.convert(m, inplace=True)
    return m


S, T = torch.jit.script, torch.jit.trace
MODELS = {
    "conv": lambda: (S(ConvNet()), [(img,)]),
    "conv_eval_trace": lambda: (T(ConvNet().eval(), img), [(img,)]),
    "lstm": lambda: (
        S(Lstm()),
        [
            (torch.randint(0, 11, (2, 4)),),
            (torch.randint(0, 11, (2, 4)), (torch.randn(4, 2, 5), torch.randn(4, 2, 5))),
        ],
    ),
    "lstm_trace": lambda: (
        T(Lstm(), torch.randint(0, 11, (2, 4))),
        [(torch.randint(0, 11, (2, 4)),)],
    ),
    "gru": lambda: (S(Gru()), [(torch.randn(3, 2, 4),)]),
    "gru_trace": lambda: (T(Gru(), torch.randn(3, 2, 4)), [(torch.randn(3, 2, 4),)]),
    "attn": lambda: (S(Attn().eval()), [(torch.randn(2, 3, 8),)]),
    "attn_train": lambda: (S(Attn()), [(torch.randn(2, 3, 8),)]),
    "attn_trace": lambda: (
        T(Attn().eval(), torch.randn(2, 3, 8), check_trace=False),
        [(torch.randn(2, 3, 8),)],
    ),
    "control": lambda: (
        S(Control()),
        [
            (torch.randn(3, 3),),
            (torch.randn(3, 3), 5, "mul"),
            ("strings", "hello"),
            ("numbers", 7, 2.5),
            ("helper", torch.randn(2), 1),
        ],
    ),
    "listdict": lambda: (S(ListDict()), [([row, row + 1], {"k": row, "j": row * 2})]),
    "inplace": lambda: (S(Inplace()), [(torch.randn(4, 4),)]),
    "inplace_trace": lambda: (T(Inplace(), torch.randn(4, 4)), [(torch.randn(4, 4),)]),
    "tup": lambda: (S(Tup()), [(row,), (torch.randn(7),)]),
    "funcs": lambda: (S(Funcs()), [(row,)]),
    "iface": lambda: (S(UseIface()), [(row,)]),
    "cls": lambda: (S(UseClass()), [(row, 4)]),
    "buf": lambda: (S(Buf()), [(row,)]),
    "buf_trace": lambda: (T(Buf(), row), [(row,)]),
    "drop_train": lambda: (S(Drop()), [(row,)]),
    "mixed": lambda: (S(Mixed()), [(torch.randn(3, 4), 2)]),
    "any": lambda: (S(Any_()), [(3, "a"), (None, row)]),
    "fork": lambda: (S(ForkW()), [(row,)]),
    "frozen": lambda: (torch.jit.freeze(S(ConvNet().eval())), [(img,)]),
    "frozen_buf": lambda: (torch.jit.freeze(S(Buf().eval())), [(row,)]),
    "optimized": lambda: (
        torch.jit.optimize_for_inference(
            torch.jit.freeze(S(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()))
        ),
        [(row,)],
    ),
    "function": lambda: (free, [(row,), (row, 3.0)]),
    "traced_function": lambda: (T(lambda a: a.sum(0) * 2, row), [(row,)]),
    "dynamic": lambda: (S(dyn()), [(row,)]),
    "dynamic_trace": lambda: (T(dyn(), row), [(row,)]),
    "static": lambda: (S(static()), [(img,)]),
    "trace_module": lambda: (torch.jit.trace_module(nn.Linear(3, 2), {"forward": row}), [(row,)]),
    "qlstm": lambda: (
        S(torch.ao.quantization.quantize_dynamic(nn.LSTM(3, 4), {nn.LSTM}, torch.qint8)),
        [(torch.randn(2, 2, 3),)],
    ),
}


class QL(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4)
        self.l = nn.Linear(4, 2)

    def forward(self, x):
        y, h = self.rnn(x)
        return self.l(y), h


MODELS["qlstm"] = lambda: (
    S(torch.ao.quantization.quantize_dynamic(QL(), {nn.LSTM, nn.Linear}, torch.qint8)),
    [(torch.randn(2, 2, 3),)],
)

MODELS["q16"] = lambda: (
    S(torch.ao.quantization.quantize_dynamic(QL(), {nn.LSTM, nn.Linear}, torch.float16)),
    [(torch.randn(2, 2, 3),)],
)

MODELS["static_frozen"] = lambda: (torch.jit.freeze(S(static())), [(img,)])

MODELS["static_trace"] = lambda: (T(static(), img), [(img,)])

MODELS["function"] = lambda: (free, [(row, 2.0), (row, 3.0)])

MODELS["half"] = lambda: (
    S(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).to(torch.bfloat16)),
    [(row.bfloat16(),)],
)

MODELS["double"] = lambda: (
    S(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).double()),
    [(row.double(),)],
)


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x)


def hook(self, x: Tuple[Tensor], out: Tensor) -> Tensor:
    return out + 1


def hooked():
    m = Hooked()
    m.register_forward_hook(hook)
    return S(m)


class Scaled(nn.Module):
    def forward(self, x: Tensor, y: int) -> Tensor:
        return x * y


class HookedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaled = Scaled()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x, 3)


def before_scaled(self, input: Tuple[Tensor, int]) -> Tuple[Tensor, int]:
    return input[0] + 1, input[1] + 1


def after_scaled(self, input: Tuple[Tensor, int], output: Tensor) -> Tensor:
    return output * 10 + input[1]


def counted(self, input: Tuple[Tensor]) -> None:
    self.calls += 1


def doubled(self, input: Tuple[Tensor]) -> Tensor:
    return input[0] * 2 + self.calls


def reduced(self, input: Tuple[Tensor], output: Tensor) -> Tuple[Tensor, int]:
    return output - input[0].sum(), self.calls


def hooked_twice():
    """Hooks of the root and of a submodule, of all kinds of results."""
    m = HookedTwice()
    m.scaled.register_forward_pre_hook(before_scaled)
    m.scaled.register_forward_hook(after_scaled)
    for before in (counted, doubled):
        m.register_forward_pre_hook(before)
    m.register_forward_hook(reduced)
    return S(m)


MODELS["hooked"] = lambda: (hooked(), [(row,), ("forward", row)])
MODELS["hooked_twice"] = lambda: (hooked_twice(), [(row,), ("forward", row)])


THREE = torch.zeros(3)


class Stepped(nn.Module):
    """A default that is a constant of the file, and a range whose length is an operator."""

    def forward(self, x, state: Tensor = THREE):
        parts: List[Tensor] = []
        for start in range(1, x.size(1), 2):
            for y in x[:, start : start + 2].split(1, 1):
                parts.append(y * start)
        return torch.cat(parts, 1), state


MODELS["stepped"] = lambda: (S(Stepped()), [(row,), (row, torch.ones(2))])


class Packed(nn.Module):
    def __init__(s):
        super().__init__()
        s.r = nn.LSTM(3, 4, batch_first=True)

    def forward(s, x, lens: Tensor):
        p = pack_padded_sequence(x, lens, batch_first=True, enforce_sorted=False)
        y, h = s.r(p)
        return pad_packed_sequence(y, batch_first=True)


class Nums(nn.Module):
    def forward(s, a: int, b: int, x: float, y: float):
        return (
            a // b,
            a % b,
            x // y,
            x % y,
            a / b,
            a**2,
            x**y,
            -a,
            abs(a),
            round(x),
            math.floor(x),
            math.ceil(x),
            math.log(abs(x) + 1),
            math.exp(y),
            int(x),
            float(a),
            bool(a),
            a & 3,
            a | 1,
            a ^ 5,
            a << 2,
            a >> 1,
            min(a, b),
            max(x, y),
            a == b,
            x < y,
            divmod(a, b),
            math.pi,
            complex(x, y),
            math.isnan(x),
            math.gcd(a, b),
            a if a > b else b,
            float("nan"),
            -float("inf"),
            10**-2,
            math.atan2(x, y),
            math.fmod(x, y),
            math.copysign(x, y),
            math.sqrt(abs(x)),
            sum([1.5, 2.0]),
            sum([1, 2]),
            any([True, False]),
            all([True]),
        )


class Strs(nn.Module):
    def forward(s, t: str, u: List[str]):
        v = t.split(",")
        return (
            t.lower(),
            t[1:3],
            t[-1],
            t[::2],
            v,
            " ".join(u),
            t.replace("a", "b"),
            t.find("b"),
            t.startswith("a"),
            t.strip(),
            len(t),
            t + u[0],
            f"x{t}y{3}z",
            f"{t}-{len(u)}",
            "%s %d %f" % (t, 3, 1.5),
            t == u[0],
            t.count("a"),
            int("3"),
            float("2.5"),
            str(3),
            str(1.5),
            str([1.5, 2.0]),
            str(None),
            str(True),
            ord("a"),
            chr(98),
            hex(255),
            t.title(),
            t.isdigit(),
            t.rjust(9),
        )


class Lists(nn.Module):
    def forward(s, xs: List[Tensor], n: List[int], d: Dict[int, List[float]]):
        out: List[Tuple[int, Tensor]] = []
        for i, x in enumerate(xs):
            out.append((i, x * i))
        for a, b in zip(xs, n):
            out.append((b, a + b))
        m = n.copy()
        m.sort(reverse=True)
        m.remove(n[0])
        m[0] = 9
        m[-1] += 5
        del m[0]
        k = [i * 2 for i in range(3)]
        e = [[1, 2], [3]]
        e[0][1] = 7
        z = n * 2 + [4]
        z.pop()
        z.insert(1, 8)
        z.extend([4])
        d[5] = [1.0]
        w = d.get(9, [0.5])
        q = d.pop(5)
        dd: Dict[str, Tensor] = {"a": xs[0]}
        dd.update({"b": xs[1]})
        dd.setdefault("c", xs[0])
        g = {k2: len(v2) for k2, v2 in d.items()}
        return (
            out,
            m,
            k,
            e,
            z,
            w,
            q,
            dd,
            g,
            list(d.keys()),
            list(d.values()),
            3 in n,
            n.index(n[1]),
            n.count(2),
            n == [1],
            min(n),
            max(n),
            sorted(n),
            n[1:],
            n[-2:],
            len(d),
            3 in d,
            [x.shape for x in xs],
        )


class Idx(nn.Module):
    def forward(s, x, i: Tensor):
        y = x.clone()
        y[i] = 1
        y[:, -1] = y[:, 0]
        y[..., 0] *= 2
        y[x > 0.5] += 1
        y[None].add_(1)
        a = x.unbind(0)[0]
        return (
            y,
            x[i],
            x[:, None],
            x[..., 1],
            x[1:, ::2],
            x[i, i],
            x[-1, -1],
            a,
            x[torch.tensor(0)],
            x[0:1, i],
        )


class Enum2(nn.Module):
    def __init__(s):
        super().__init__()
        s.ls = nn.ModuleList([nn.Linear(3, 3), nn.ReLU()])
        s.opt = None
        s.seq = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        s.p = nn.ParameterList([nn.Parameter(torch.randn(3))]) if False else None
        s.scale = 2.5
        s.cfg = {"a": [1, 2]}
        s.t: List[Tuple[int, float]] = [(1, 2.0)]

    def forward(s, x, flag: bool = False, w: Optional[Tensor] = None):
        for i, l in enumerate(s.ls):
            x = l(x) * (i + 1)
        if s.opt is not None:
            x = x + 1
        if torch.jit.is_scripting():
            x = x * s.scale
        if flag and w is not None:
            x = x + w
        elif not flag:
            x = x - s.cfg["a"][1]
        else:
            raise RuntimeError("no w")
        for a, b in s.t:
            x = x * a + b
        try_count = 0
        while True:
            try_count += 1
            if try_count > 3:
                break
        y = s.seq[0](x)
        z = s.seq(x)
        return y, z, try_count, len(s.ls)

    @torch.jit.export
    def reset(s, v: float) -> float:
        s.scale = v
        s.cfg["a"].append(3)
        return s.scale

    @torch.jit.unused
    def never(s, x):
        return x.numpy()


class Types(nn.Module):
    def forward(s, x):
        y = x.to(torch.float64)
        z = torch.zeros(2, 3, dtype=torch.int32)
        q = torch.empty_like(x).fill_(1.5)
        e = torch.ones(2, device=x.device, dtype=x.dtype)
        r = torch.rand(3)
        n = torch.randn_like(x)
        l = torch.linspace(0, 1, 5)
        f = torch.full((2,), 3)
        t = torch.tensor([[1, 2], [3, 4]])
        u = torch.tensor(3.5)
        v = torch.as_tensor(2)
        k = torch.tensor([True])
        w = torch.tensor([1, 2], dtype=torch.float8_e5m2).to(torch.float32).sum()
        m = torch.arange(5) + torch.tensor([3], dtype=torch.uint16).to(torch.int64) + w
        b = torch.bernoulli(torch.full([3], 0.5))
        return (
            y,
            z,
            q,
            e,
            r,
            n,
            l,
            f,
            t,
            u,
            v,
            k,
            m,
            b,
            x.type(torch.float16),
            x.dtype,
            x.device,
            x.is_cuda,
            x.requires_grad,
            x.float().half(),
            x.shape,
            x.numel(),
            x.item() if False else 0.0,
            x.new_zeros(2),
        )


class Many(nn.Module):
    def __init__(s):
        super().__init__()
        s.c1 = nn.Conv1d(2, 3, 3, padding_mode="circular", padding=1)
        s.ct = nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1)
        s.pool = nn.AdaptiveMaxPool1d(2, return_indices=True)
        s.inorm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
        s.pr = nn.PReLU()
        s.up = nn.Upsample(scale_factor=2, mode="bilinear")
        s.bi = nn.Bilinear(2, 3, 4)
        s.eb = nn.EmbeddingBag(5, 3, mode="sum")
        s.ln = nn.LayerNorm([3, 4])
        s.loss = nn.CrossEntropyLoss()
        s.cos = nn.CosineSimilarity()

    def forward(s, x, im, idx):
        a = s.c1(x)
        p, i = s.pool(a)
        n = s.inorm(a)
        t = s.ct(im)
        u = s.up(im)
        return (
            a,
            p,
            i,
            n,
            t,
            u,
            s.bi(x.transpose(1, 2), a.transpose(1, 2)),
            s.eb(idx),
            s.ln(a),
            s.loss(a[:, :, 0], torch.tensor([0, 1])),
            s.cos(a, n),
            s.pr(a),
        )


class Dec(nn.Module):
    def __init__(s):
        super().__init__()
        s.tr = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)

    def forward(s, a, b):
        return s.tr(a, b, tgt_mask=nn.Transformer.generate_square_subsequent_mask(b.size(1)))


MODELS |= {
    "packed": lambda: (S(Packed()), [(torch.randn(2, 4, 3), torch.tensor([2, 4]))]),
    "nums": lambda: (S(Nums()), [(7, 3, 2.5, 1.25), (-7, 3, -2.5, 1.25), (-7, -2, 5.5, -2.0)]),
    "strs": lambda: (S(Strs()), [("ab,ca ", ["q", "ab,ca "])]),
    "lists": lambda: (S(Lists()), [([torch.ones(2), torch.zeros(2)], [2, 3], {3: [1.0]})]),
    "idx": lambda: (S(Idx()), [(torch.randn(3, 3), torch.tensor([0, 2]))]),
    "enum2": lambda: (
        S(Enum2()),
        [(torch.randn(2, 3),), (torch.randn(2, 3), True, torch.randn(3)), ("reset", 4.0)],
    ),
    "types": lambda: (S(Types()), [(torch.randn(2, 2),)]),
    "many": lambda: (
        S(Many()),
        [(torch.randn(2, 2, 4), torch.randn(1, 2, 3, 3), torch.tensor([[0, 1], [2, 3]]))],
    ),
    "dec": lambda: (S(Dec()), [(torch.randn(1, 3, 8), torch.randn(1, 2, 8))]),
    "dec_trace": lambda: (
        T(Dec().eval(), (torch.randn(1, 3, 8), torch.randn(1, 2, 8)), check_trace=False),
        [(torch.randn(1, 3, 8), torch.randn(1, 2, 8))],
    ),
}


@torch.jit.script
class Sized:
    def __init__(self, size: int):
        self.size = size

    @property
    def twice(self) -> int:
        return 2 * self.size

    @twice.setter
    def twice(self, value: int):
        self.size = value // 2


class Properties(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 3.0

    @property
    def factor(self) -> float:
        return self.scale + 1.0

    def forward(self, x, n: int):
        sized = Sized(n)
        before = sized.twice
        sized.twice = 9
        return x * self.factor, before, sized.twice, sized.size


class Numbers(nn.Module):
    """Tensors that tracing passes where torch wants numbers."""

    def forward(self, x):
        n = x.shape[-1]
        places = torch.arange(n, device=x.device)
        steps = torch.arange(1, n + 1, 2)
        return (
            places,
            steps,
            torch.full((2,), n),
            torch.eye(n),
            torch.linspace(0, 1, n),
            x.clamp(max=n),
        )


class Queue(nn.Module):
    def forward(self, waiting: Dict[str, int]):
        first = waiting.popitem()
        return first, waiting, waiting.popitem()


@torch.jit.interface
class Layer(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("bias", torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


class Picked(nn.Module):
    """A layer by its index, complex numbers, bits of tensors, and texts of numbers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Scale(), Shift()])
        self.register_buffer("conjugated", torch.randn(3, dtype=torch.complex64).conj())
        self.negated = torch.randn(3, dtype=torch.complex64).conj().imag
        self.factor = 2 + 3j
        image = torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last)
        self.register_buffer("image", image)

    def forward(self, x, k: int, number: float):
        layer: Layer = self.layers[k]
        text = "%s|%f|%e|%d%% %s" % (number, number, number, k, [1.5, 2.0])
        bits = self.conjugated * self.factor, self.negated + 1
        return layer.forward(x), bits, text, self.image.stride(), self.image * 2


MODELS["picked"] = lambda: (S(Picked()), [(row, 0, 0.1), (row, 1, 1234567.891)])
MODELS["queue"] = lambda: (S(Queue()), [({"a": 1, "b": 2, "c": 3},)])
MODELS["properties"] = lambda: (S(Properties()), [(row, 4)])
MODELS["numbers_trace"] = lambda: (
    T(Numbers(), torch.randn(2, 3)),
    [(torch.randn(2, 3),), (torch.randn(4, 6),)],
)


def main(folder, *names):
    for name in names:
        torch.manual_seed(0)
        program, calls = MODELS[name]()
        torch.jit.save(program, f"{folder}/{name}.pt")
        torch.save(calls, f"{folder}/{name}.calls")
