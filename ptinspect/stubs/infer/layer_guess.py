"""Guess the torch.nn or quantized layer that has tensors of certain names and shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.values import Value
from ptinspect.stubs.collect.modules import default_expr, default_exprs
from ptinspect.stubs.collect.source import (
    FALSE,
    TRUE,
    Argument,
    CallExpr,
    Expr,
    Literal,
    Name,
    Sequence,
    call_expr,
)
from ptinspect.stubs.collect.values import ints, is_quantized, literal, read_numbers
from ptinspect.torchnn.attributes import MISSING
from ptinspect.torchnn.classes import Shapes, lookup

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor


class Guess(NamedTuple):
    """A constructor call, and in words what else the layer could be."""

    call: CallExpr
    alternatives: tuple[str, ...] = ()


Args = dict[str, Value]
_EMBEDDING = re.compile(r"emb|wte|wpe|token|vocab|^shared$|attention_bias", re.I)
_TOKENS = re.compile(r"(?:.*_)?toks?(?:_.*)?", re.I)
"""Names of embeddings only for the first layer of a model."""
_PRELU = re.compile(r"relu\d*$|^act(?:ivation)?_?\d*$", re.I)


def guess_layer(
    name: str, shapes: Shapes, children: list[str], dims: int = 2, is_first: bool = False
) -> Guess | None:
    """Return the call whose module has exactly these tensors, or None if there is none."""
    for guess in (_recurrent, _attention, _transformer) if children or len(shapes) > 2 else ():
        found = guess(shapes)
        if found is not None:
            return found
    normalized = _normalized_weight(name, shapes)
    if normalized is not None or children or not shapes:
        return normalized
    has_bias = "bias" in shapes
    mean, weight = shapes.get("running_mean"), shapes.get("weight")
    args: Args
    if mean is not None:
        args = {
            "num_features": mean[0] if mean else 0,
            "affine": weight is not None,
            "bias": has_bias,
        }
        words = "a BatchNorm could be one of other dimensions, or an InstanceNorm"
        return _checked(f"BatchNorm{dims}d", args, shapes, words) if len(mean) == 1 else None
    if weight is None or not set(shapes) <= {"weight", "bias"}:
        return None
    if len(weight) == 1:
        args = {"normalized_shape": weight}
        if has_bias:
            return _checked("LayerNorm", args, shapes, "a LayerNorm could be a GroupNorm")
        if weight == (1,) or _PRELU.search(name):
            args = {"num_parameters": weight[0]}
            return _checked("PReLU", args, shapes, "a PReLU could be an RMSNorm")
        return _checked("RMSNorm", args, shapes, "an RMSNorm could be a PReLU")
    if len(weight) != 2:
        return _convolution(weight, shapes, is_first) if 3 <= len(weight) <= 5 else None
    if not has_bias and (_EMBEDDING.search(name) or (is_first and _TOKENS.fullmatch(name))):
        args = {"num_embeddings": weight[0], "embedding_dim": weight[1]}
        words = "an Embedding could be a Linear without bias"
        return _checked("Embedding", args, shapes, words)
    args = {"in_features": weight[1], "out_features": weight[0], "bias": has_bias}
    alternatives = () if has_bias else ("a Linear without bias could be an Embedding",)
    return _checked("Linear", args, shapes, *alternatives)


def _checked(kind: str, values: Args, shapes: Shapes, *alternatives: str) -> Guess | None:
    """Return the guess if its constructor creates these tensors and no others."""
    row = lookup(f"torch.nn.{kind}")
    if not row:
        return None
    defaults: Args = {a.name: None if a.default is MISSING else a.default for a in row.arguments}
    if row.created_shapes(defaults | values) != shapes:
        return None
    unset = default_exprs(row)
    args: list[Argument] = []
    for name in (argument.name for argument in row.arguments if argument.name in values):
        value, default = values[name], unset.get(name)
        expr = default_expr(value) if isinstance(value, tuple) else literal(value)
        if expr is not None and (default is None or default.text != expr.text):
            args.append((name, expr))
    positional = 2 if kind.startswith("Conv") or kind == "Embedding" else int("Norm" in kind)
    return Guess(CallExpr(f"nn.{kind}", args, positional, unset), alternatives)


def _convolution(weight: tuple[int, ...], shapes: Shapes, is_first: bool) -> Guess | None:
    dims = len(weight) - 2
    words = "a convolution's stride, padding and dilation are not in a state_dict"
    # One channel per filter means groups, but at the beginning of a model it is a grey image's.
    groups = weight[0] if weight[1] == 1 and weight[0] > 1 and not is_first else 1
    args: Args = {
        "in_channels": weight[1] * groups, "out_channels": weight[0], "kernel_size": weight[2:],
        "groups": groups, "bias": "bias" in shapes,
    }  # fmt: skip
    groups_words = "a convolution's groups are inferred"
    guess = _checked(f"Conv{dims}d", args, shapes, words, groups_words)
    if guess is not None:
        return guess
    args |= {"in_channels": weight[0], "out_channels": weight[1], "groups": 1}
    return _checked(f"ConvTranspose{dims}d", args, shapes, words)


_OLD, _NEW = "nn.utils", "nn.utils.parametrizations"
_NORMALIZATIONS = (
    (f"{_OLD}.weight_norm", "weight_v", "weight_g", ()),
    (f"{_NEW}.weight_norm", "parametrizations.weight.original1",
     "parametrizations.weight.original0", ()),
    (f"{_OLD}.spectral_norm", "weight_orig", "weight_u", ("weight_v",)),
    (f"{_NEW}.spectral_norm", "parametrizations.weight.original",
     "parametrizations.weight.0._u", ("parametrizations.weight.0._v",)),
)  # fmt: skip
"""Functions that rename a layer's weight: the weight's key, and the other keys that exist then."""


def _normalized_weight(name: str, shapes: Shapes) -> Guess | None:
    """Guess a layer whose weight is normalized."""
    for func, weight, norms, more in _NORMALIZATIONS:
        if {weight, norms, *more} != set(shapes) - {"bias"}:
            continue
        plain_shapes = {"weight": shapes[weight]}
        if "bias" in shapes:
            plain_shapes["bias"] = shapes["bias"]
        layer = guess_layer(name, plain_shapes, [])
        if not layer:
            return None
        dim: dict[str, Expr] = {}
        if func.endswith("weight_norm"):  # the norms along `dim`; without, one norm of all
            size = shapes[weight]
            norm_shapes = {
                str(dim): (1,) * dim + size[dim : dim + 1] + (1,) * (len(size) - dim - 1)
                for dim in range(len(size))
            }
            norm_shapes["None"] = ()
            matching = [dim for dim, shape in norm_shapes.items() if shape == shapes[norms]]
            if not matching:
                return None
            dim = {"dim": Literal(matching[0])} if matching[0] != "0" else {}
        return Guess(call_expr(func, layer.call, **dim), layer.alternatives)
    return None


_GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}
_RECURRENT_WORDS = "batch_first and dropout are not in a state_dict"


def _recurrent(shapes: Shapes) -> Guess | None:
    is_cell = "weight_hh" in shapes
    suffix = "" if is_cell else "_l0"
    first, last = shapes.get(f"weight_ih{suffix}"), shapes.get(f"weight_hh{suffix}")
    if not first or last is None or len(first) != 2 or len(last) != 2:
        return None
    projection = shapes.get("weight_hr_l0")
    hidden = projection[1] if projection is not None and len(projection) == 2 else last[1]
    kind = _GATES.get(first[0] // hidden if hidden else 0)
    if kind is None:
        return None
    args: Args = {"input_size": first[1], "hidden_size": hidden}
    args["bias"] = any(key.startswith("bias") for key in shapes)
    if is_cell:
        return _checked(f"{kind}Cell", args, shapes)
    layers = [int(key[11:]) for key in shapes if re.fullmatch(r"weight_ih_l\d{1,4}", key)]
    args |= {"num_layers": max(layers) + 1, "bidirectional": "weight_ih_l0_reverse" in shapes}
    if projection is not None:
        args["proj_size"] = projection[0]
    return _checked(kind, args, shapes, _RECURRENT_WORDS)


def _likely_heads(size: int) -> int:
    return next((heads for heads in (8, 4, 2) if size % heads == 0 and size > heads), 1)


_HEADS = "the number of heads of an attention is not in a state_dict"


def _attention(shapes: Shapes) -> Guess | None:
    out = shapes.get("out_proj.weight")
    if out is None or len(out) != 2:
        return None
    if "in_proj_weight" not in shapes and "q_proj_weight" not in shapes:
        return None
    args: Args = {
        "embed_dim": out[0], "num_heads": _likely_heads(out[0]),
        "bias": "out_proj.bias" in shapes, "add_bias_kv": "bias_k" in shapes,
    }  # fmt: skip
    for name, key in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
        shape = shapes.get(key)
        if shape is not None and len(shape) == 2:
            args[name] = shape[1]
    return _checked("MultiheadAttention", args, shapes, _HEADS)


def _transformer(shapes: Shapes) -> Guess | None:
    wide = shapes.get("linear1.weight")
    if wide is None or len(wide) != 2 or "self_attn.in_proj_weight" not in shapes:
        return None
    args: Args = {"d_model": wide[1], "nhead": _likely_heads(wide[1]), "dim_feedforward": wide[0]}
    args["bias"] = "linear1.bias" in shapes
    has_memory = "multihead_attn.in_proj_weight" in shapes
    kind = "TransformerDecoderLayer" if has_memory else "TransformerEncoderLayer"
    return _checked(kind, args, shapes, _HEADS)


# Quantized layers. Source: `_save_to_state_dict` of the classes in torch/ao/nn/quantized/modules.
# A Linear stores its weight and bias as a pair under `_packed_params._packed_params`, an LSTM or a
# GRU two weights per layer and direction, and their cells a weight per key.

QUANTIZED = "torch.ao.nn.quantized"
PACKED_KEY = re.compile(
    r"(?:(.+)\.)?(_packed_params\._packed_params|_all_weight_values\.\d+\.param|_packed_weight_[ih]h)"
)
_NO_SCALE = [[1.0], [0]]
"""Scale and zero_point of a dynamic Linear, which has neither, in a state_dict."""
_QUANTIZED_WORDS = (
    "a quantized layer could have a ReLU within; its stride and padding are not recorded"
)


def guess_quantized(
    name: str,
    tensors: dict[str, Tensor],
    packed: list[Tensor],
    children: dict[str, dict[str, Tensor]],
) -> Guess | None:
    """Return the call of a quantized layer, or None if it is not one."""
    others = set(tensors) - {"scale", "zero_point"}
    has_scale = {"scale", "zero_point"} <= set(tensors)
    is_cell = list(tensors) == ["_packed_weight_ih", "_packed_weight_hh"]
    if is_cell or (len(packed) > 1 and len(packed[1].shape) == 2 and not tensors):
        return _quantized_recurrent([*tensors.values()] or packed, is_cell)
    if packed and not others:
        scale = [read_numbers(tensors[key]) for key in ("scale", "zero_point") if has_scale]
        if len(packed[0].shape) != 2:
            return None
        rows, size = ints(packed[0].shape)
        linear: dict[str, Expr] = {"in_features": size, "out_features": rows}
        linear |= {"bias_": FALSE} if len(packed) == 1 else {}
        linear |= {"dtype": Name("torch.float16")} if not is_quantized(packed[0]) else {}
        module = QUANTIZED if has_scale and scale != _NO_SCALE else f"{QUANTIZED}.dynamic"
        return Guess(call_expr(f"{module}.Linear", **linear), (_QUANTIZED_WORDS,))
    weight = tensors.get("weight")
    if not tensors and list(children) == ["_packed_params"]:
        tensors = children["_packed_params"]
        weight = tensors.get("_packed_weight")
        if (
            weight is None
            or len(tensors) != 1
            or len(weight.shape) != 2
            or not is_quantized(weight)
        ):
            return None
        rows, size = ints(weight.shape)
        embedding: list[Argument] = [("num_embeddings", rows), ("embedding_dim", size)]
        words = "a quantized Embedding could be an EmbeddingBag"
        return Guess(CallExpr(f"{QUANTIZED}.Embedding", embedding, 2), (words,))
    if children or not has_scale:
        return None
    if weight is not None and is_quantized(weight) and others <= {"weight", "bias"}:
        return _quantized_convolution(weight, "bias" in tensors)
    scale_shape = tensors["scale"].shape
    if others or scale_shape not in ((), (1,)):
        return None
    args: dict[str, Expr] = {"scale": Literal("1.0"), "zero_point": Literal("0")}
    if scale_shape:
        return Guess(call_expr(f"{QUANTIZED}.Quantize", **args, dtype=Name("torch.quint8")))
    words = "a quantized Hardswish could be a LeakyReLU or a QFunctional, and the other way round"
    is_activation = name.isdigit()
    kind = "Hardswish" if is_activation else "QFunctional"
    return Guess(call_expr(f"{QUANTIZED}.{kind}", **(args if is_activation else {})), (words,))


def _quantized_recurrent(weights: list[Tensor], is_cell: bool) -> Guess | None:
    """Guess an LSTM, GRU or cell from the weights of the input and of the state, in turns."""
    if any(len(weight.shape) != 2 for weight in weights):
        return None
    (rows, size), (_, hidden), *_ = shapes = [weight.shape for weight in weights]
    kind = _GATES.get(rows // hidden if hidden else 0)
    if kind is None or (kind == "RNN" and not is_cell):
        return None
    size_expr, hidden_expr = ints((size, hidden))
    args: dict[str, Expr] = {"input_size": size_expr, "hidden_size": hidden_expr}
    count = len(weights) // 2
    is_bidirectional = (
        shapes[-2][1] == 2 * hidden if count > 2 else count == 2 and shapes[2][1] != hidden
    )
    if is_bidirectional:
        count //= 2
        args["bidirectional"] = TRUE
    words: tuple[str, ...] = () if is_cell else (_RECURRENT_WORDS,)
    if count == 2 and not is_bidirectional and size == hidden:
        words += ("an LSTM or GRU of 2 layers could be a bidirectional one of 1",)
    args |= {"num_layers": Literal(str(count))} if count > 1 else {}
    args |= {"dtype": Name("torch.float16")} if not is_quantized(weights[0]) else {}
    call = call_expr(f"{QUANTIZED}.dynamic.{kind}{'Cell' * is_cell}", **args)
    return Guess(call, words)


def _quantized_convolution(weight: Tensor, bias: bool) -> Guess | None:
    if not 3 <= len(weight.shape) <= 5:
        return None
    out, channels, *kernel = ints(weight.shape)
    is_grouped = channels.text == "1" and out.text not in ("0", "1")
    args: dict[str, Expr] = {
        "in_channels": out if is_grouped else channels, "out_channels": out,
        "kernel_size": Sequence("()", kernel),
    }  # fmt: skip
    args |= {"groups": out} if is_grouped else {}
    args |= {"bias": FALSE} if not bias else {}
    unset: dict[str, Expr] = {"groups": Literal("1"), "bias": TRUE}
    call = CallExpr(f"{QUANTIZED}.Conv{len(kernel)}d", [*args.items()], 2, unset)
    return Guess(call, (_QUANTIZED_WORDS,))
