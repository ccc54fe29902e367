"""Which module of torch.nn has tensors of these names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ptinspect.pickling.values import Value
from ptinspect.stubs.expr.literals import plain
from ptinspect.stubs.expr.nodes import Argument, Atom, Expr, Make
from ptinspect.stubs.torch.shapes import SHAPES, Shapes
from ptinspect.torchnn import MISSING, lookup


class Guess(NamedTuple):
    """make: the constructor call. alternatives: what it could be as well."""

    make: Make
    alternatives: tuple[str, ...] = ()


Args = dict[str, Value]
_EMBEDDING = re.compile(r"emb|wte|wpe|token|vocab|^shared$|attention_bias", re.I)
_PRELU = re.compile(r"relu\d*$|^act(?:ivation)?_?\d*$", re.I)
_MODULES = {
    "conv": ("Conv1d", "Conv2d", "Conv3d"),
    "transposed": ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
}
_HOME = {
    "Linear": "linear", "Embedding": "sparse", "LayerNorm": "normalization", "RMSNorm":
    "normalization", "BatchNorm1d": "batchnorm", "BatchNorm2d": "batchnorm", "BatchNorm3d":
    "batchnorm", "LSTM": "rnn", "GRU": "rnn", "RNN": "rnn",
    "LSTMCell": "rnn", "GRUCell": "rnn", "RNNCell": "rnn", "MultiheadAttention": "activation",
    "TransformerEncoderLayer": "transformer", "TransformerDecoderLayer": "transformer",
    "PReLU": "activation",
}  # fmt: skip


def guess(
    name: str, shapes: Shapes, children: list[str], dims: int = 2, first: bool = False
) -> Guess | None:
    """The call whose module has exactly these tensors; None where none is known. dims: of what
    a BatchNorm normalizes. first: whether no layer stands before it."""
    for reader in (_recurrent, _attention, _transformer) if children or len(shapes) > 2 else ():
        found = reader(shapes)
        if found is not None:
            return found
    normed = _normed(name, shapes)
    if normed is not None or children or not shapes:
        return normed
    if "running_mean" in shapes:
        return _batch_norm(shapes, dims)
    weight = shapes.get("weight")
    if weight is None or not set(shapes) <= {"weight", "bias"}:
        return None
    return _weighted(name, weight, shapes, first)


def _made(kind: str, given: Args, shapes: Shapes, *alternatives: str) -> Guess | None:
    """The guess, if its constructor makes these tensors and no others."""
    home = _HOME.get(kind, "conv")
    row = lookup(f"torch.nn.modules.{home}.{kind}")
    if row is None:
        return None
    whole: Args = {a.name: None if a.default is MISSING else a.default for a in row.arguments}
    whole |= given
    if SHAPES[kind](whole) != shapes:
        return None
    args: list[Argument] = []
    unset: dict[str, Expr] = {}
    for argument in row.arguments:
        default = plain(argument.default) if isinstance(argument.default, bool | int) else None
        if default is not None:
            unset[argument.name] = default
        value = plain(given.get(argument.name))
        if isinstance(given.get(argument.name), tuple):
            from ptinspect.stubs.torch.calls import default_of

            value = default_of(given[argument.name])
        usual = default is not None and value is not None and default.text == value.text
        if argument.name in given and value is not None and not usual:
            args.append((argument.name, value))
    placed = 2 if kind.startswith("Conv") or kind == "Embedding" else int("Norm" in kind)
    return Guess(Make(f"nn.{kind}", args, placed, unset), alternatives)


def _weighted(name: str, weight: tuple[int, ...], shapes: Shapes, first: bool) -> Guess | None:
    bias = "bias" in shapes
    if len(weight) == 1:
        if bias:
            args: Args = {"normalized_shape": weight}
            return _made("LayerNorm", args, shapes, "a LayerNorm could be a GroupNorm")
        if weight == (1,) or _PRELU.search(name):
            args = {"num_parameters": weight[0]}
            return _made("PReLU", args, shapes, "a PReLU could be an RMSNorm")
        args = {"normalized_shape": weight}
        return _made("RMSNorm", args, shapes, "an RMSNorm could be a PReLU")
    if len(weight) == 2:
        if not bias and _EMBEDDING.search(name):
            args = {"num_embeddings": weight[0], "embedding_dim": weight[1]}
            return _made("Embedding", args, shapes, "an Embedding could be a Linear without bias")
        args = {"in_features": weight[1], "out_features": weight[0], "bias": bias}
        more = () if bias else ("a Linear without bias could be an Embedding",)
        return _made("Linear", args, shapes, *more)
    return _conv(weight, shapes, first) if 3 <= len(weight) <= 5 else None


def _conv(weight: tuple[int, ...], shapes: Shapes, first: bool) -> Guess | None:
    dims, bias = len(weight) - 3, "bias" in shapes
    words = "a convolution's stride, padding and dilation are not in a state_dict"
    kernel = weight[2:]
    # One channel for each filter: by groups, but where the model begins it is a grey image's.
    groups = weight[0] if weight[1] == 1 and weight[0] > 1 and not first else 1
    args: Args = {
        "in_channels": weight[1] * groups, "out_channels": weight[0], "kernel_size": kernel,
        "groups": groups, "bias": bias,
    }  # fmt: skip
    found = _made(
        _MODULES["conv"][dims], args, shapes, words, "a convolution's groups are inferred"
    )
    if found is not None:
        return found
    args |= {"in_channels": weight[0], "out_channels": weight[1], "groups": 1}
    return _made(_MODULES["transposed"][dims], args, shapes, words)


def _batch_norm(shapes: Shapes, dims: int) -> Guess | None:
    size = shapes["running_mean"]
    if len(size) != 1:
        return None
    args: Args = {"num_features": size[0], "affine": "weight" in shapes, "bias": "bias" in shapes}
    words = "a BatchNorm could be one of other dimensions, or an InstanceNorm"
    return _made(f"BatchNorm{dims}d", args, shapes, words)


_OLD, _NEW = "nn.utils", "nn.utils.parametrizations"
_NORMS = (
    (f"{_OLD}.weight_norm", "weight_v", "weight_g", ()),
    (f"{_NEW}.weight_norm", "parametrizations.weight.original1",
     "parametrizations.weight.original0", ()),
    (f"{_OLD}.spectral_norm", "weight_orig", "weight_u", ("weight_v",)),
    (f"{_NEW}.spectral_norm", "parametrizations.weight.original",
     "parametrizations.weight.0._u", ("parametrizations.weight.0._v",)),
)  # fmt: skip
"""What renames a layer's weight: the function, the weight's key, and what else is there then."""


def _normed(name: str, shapes: Shapes) -> Guess | None:
    """A layer whose weight is normed, which renames it."""
    for func, weight, beside, more in _NORMS:
        if {weight, beside, *more} != set(shapes) - {"bias"}:
            continue
        plain_shapes = {"weight": shapes[weight]}
        if "bias" in shapes:
            plain_shapes["bias"] = shapes["bias"]
        inner = guess(name, plain_shapes, [])
        if inner is None:
            return None
        args: list[Argument] = [(None, inner.make)]
        if func.endswith("weight_norm"):
            dim = _dim(shapes[weight], shapes[beside])
            if dim == -1:
                return None
            if dim != 0:
                args.append(("dim", Atom(str(dim))))
        return Guess(Make(func, args), inner.alternatives)
    return None


def _dim(weight: tuple[int, ...], norms: tuple[int, ...]) -> int | None:
    """Along which dimension weight_norm has a norm each; None: one for all; -1: neither."""
    if norms == ():
        return None
    for dim, size in enumerate(weight):
        if norms == (*[1] * dim, size, *[1] * (len(weight) - dim - 1)):
            return dim
    return -1


_CELL = {4: "LSTM", 3: "GRU", 1: "RNN"}


def _recurrent(shapes: Shapes) -> Guess | None:
    cell = "weight_hh" in shapes
    first, last = shapes.get("weight_ih" if cell else "weight_ih_l0"), None
    last = shapes.get("weight_hh" if cell else "weight_hh_l0")
    if first is None or last is None or len(first) != 2 or len(last) != 2:
        return None
    projected = shapes.get("weight_hr_l0")
    hidden = projected[1] if projected is not None and len(projected) == 2 else last[1]
    kind = _CELL.get(first[0] // hidden if hidden else 0)
    if kind is None:
        return None
    args: Args = {"input_size": first[1], "hidden_size": hidden}
    args["bias"] = any(key.startswith("bias") for key in shapes)
    if cell:
        return _made(f"{kind}Cell", args, shapes)
    layers = [int(key[11:]) for key in shapes if re.fullmatch(r"weight_ih_l\d{1,4}", key)]
    args |= {"num_layers": max(layers) + 1, "bidirectional": "weight_ih_l0_reverse" in shapes}
    if projected is not None:
        args["proj_size"] = projected[0]
    return _made(kind, args, shapes, "batch_first and dropout are not in a state_dict")


def _heads(size: int) -> int:
    return next((heads for heads in (8, 4, 2) if size % heads == 0 and size > heads), 1)


_HEADS = "the number of heads of an attention is not in a state_dict"


def _attention(shapes: Shapes) -> Guess | None:
    out = shapes.get("out_proj.weight")
    if (
        out is None
        or len(out) != 2
        or not any(key in shapes for key in ("in_proj_weight", "q_proj_weight"))
    ):
        return None
    args: Args = {
        "embed_dim": out[0],
        "num_heads": _heads(out[0]),
        "bias": "out_proj.bias" in shapes,
    }
    args["add_bias_kv"] = "bias_k" in shapes
    for name, key in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
        shape = shapes.get(key)
        if shape is not None and len(shape) == 2:
            args[name] = shape[1]
    return _made("MultiheadAttention", args, shapes, _HEADS)


def _transformer(shapes: Shapes) -> Guess | None:
    wide = shapes.get("linear1.weight")
    if wide is None or len(wide) != 2 or "self_attn.in_proj_weight" not in shapes:
        return None
    args: Args = {"d_model": wide[1], "nhead": _heads(wide[1]), "dim_feedforward": wide[0]}
    args["bias"] = "linear1.bias" in shapes
    crossed = "multihead_attn.in_proj_weight" in shapes
    kind = "TransformerDecoderLayer" if crossed else "TransformerEncoderLayer"
    return _made(kind, args, shapes, _HEADS)


__all__ = ["Callable", "Guess", "guess"]
