"""What the constructors of torch.nn create: tensors with their shapes, children, attributes.

Source: the `__init__` of the class of that name in torch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ptinspect.pickling.pyobjects import as_sequence
from ptinspect.pickling.values import Value
from ptinspect.text import read_package_file
from ptinspect.torchnn.attributes import MISSING, Attributes
from ptinspect.torchnn.classes import ModuleClass

Shapes = dict[str, tuple[int, ...]]
"""Shapes by dotted name below the module."""
Arguments = dict[str, Value]

MAX_LAYERS = 10_000
"""Layers of a recurrent module or coder that are looked at."""


def argument_values(row: ModuleClass, attributes: Attributes) -> Arguments:
    """Return the value of every argument; the default if the instance does not record it."""
    values: Arguments = {}
    for argument in row.arguments:
        value = row.read(argument, attributes)
        values[argument.name] = argument.default if value is MISSING else value
    return values


def _int(value: Value) -> int:
    return value if isinstance(value, int) else -1


def _sizes(value: Value) -> tuple[int, ...]:
    items = as_sequence(value)
    return tuple(map(_int, items)) if items is not None else (_int(value),)


def _with_bias(weight: tuple[int, ...], bias: int, args: Arguments) -> Shapes:
    return {"weight": weight, **({"bias": (bias,)} if args["bias"] else {})}


def _linear(args: Arguments) -> Shapes:
    out = _int(args["out_features"])
    return _with_bias((out, _int(args["in_features"])), out, args)


def _bilinear(args: Arguments) -> Shapes:
    out = _int(args["out_features"])
    return _with_bias((out, _int(args["in1_features"]), _int(args["in2_features"])), out, args)


def _convolution(args: Arguments, transposed: bool = False) -> Shapes:
    out, channels = _int(args["out_channels"]), _int(args["in_channels"])
    first, second = (channels, out) if transposed else (out, channels)
    groups = max(_int(args["groups"]), 1)
    return _with_bias((first, second // groups, *_sizes(args["kernel_size"])), out, args)


def _batch_norm(args: Arguments) -> Shapes:
    size = (_int(args["num_features"]),)
    shapes: Shapes = _with_bias(size, size[0], args) if args["affine"] else {}
    if args["track_running_stats"]:
        shapes |= {"running_mean": size, "running_var": size, "num_batches_tracked": ()}
    return shapes


def _layer_norm(args: Arguments) -> Shapes:
    shape = _sizes(args["normalized_shape"])
    if not args["elementwise_affine"]:
        return {}
    return {"weight": shape, **({"bias": shape} if args.get("bias") else {})}


def _group_norm(args: Arguments) -> Shapes:
    size = _int(args["num_channels"])
    return _with_bias((size,), size, args) if args["affine"] else {}


def _recurrent(gates: int) -> Callable[[Arguments], Shapes]:
    def shapes_of(args: Arguments) -> Shapes:
        hidden, projection = _int(args["hidden_size"]), _int(args.get("proj_size", 0))
        out = projection if projection > 0 else hidden
        directions = ("", "_reverse") if args["bidirectional"] else ("",)
        shapes: Shapes = {}
        for layer in range(min(_int(args["num_layers"]), MAX_LAYERS)):
            size = _int(args["input_size"]) if layer == 0 else out * len(directions)
            for direction in directions:
                suffix = f"_l{layer}{direction}"
                shapes[f"weight_ih{suffix}"] = (gates * hidden, size)
                shapes[f"weight_hh{suffix}"] = (gates * hidden, out)
                if args["bias"]:
                    shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (gates * hidden,)
                if projection > 0:
                    shapes[f"weight_hr{suffix}"] = (projection, hidden)
        return shapes

    return shapes_of


def _cell(gates: int) -> Callable[[Arguments], Shapes]:
    def shapes_of(args: Arguments) -> Shapes:
        hidden = _int(args["hidden_size"])
        rows = gates * hidden
        shapes: Shapes = {
            "weight_ih": (rows, _int(args["input_size"])),
            "weight_hh": (rows, hidden),
        }
        return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if args["bias"] else {})

    return shapes_of


def _attention(args: Arguments) -> Shapes:
    """MultiheadAttention: one projection for query, key and value, or three if sizes differ."""
    size, bias = _int(args["embed_dim"]), args.get("bias", True)
    key, value = (size if args.get(k) is None else _int(args[k]) for k in ("kdim", "vdim"))
    shapes: Shapes = {"in_proj_weight": (3 * size, size)}
    if not key == value == size:
        shapes = {
            "q_proj_weight": (size, size), "k_proj_weight": (size, key),
            "v_proj_weight": (size, value),
        }  # fmt: skip
    if args.get("add_bias_kv"):
        shapes |= {"bias_k": (1, 1, size), "bias_v": (1, 1, size)}
    shapes["out_proj.weight"] = (size, size)
    if bias:
        shapes |= {"in_proj_bias": (3 * size,), "out_proj.bias": (size,)}
    return shapes


def _transformer_layer(attentions: tuple[str, ...]) -> Callable[[Arguments], Shapes]:
    def shapes_of(args: Arguments) -> Shapes:
        size, wide, bias = _int(args["d_model"]), _int(args["dim_feedforward"]), args["bias"]
        shapes: Shapes = {}
        for name in attentions:
            attention = _attention({"embed_dim": size, "bias": bias})
            shapes |= {f"{name}.{key}": shape for key, shape in attention.items()}
        shapes |= {"linear1.weight": (wide, size), "linear2.weight": (size, wide)}
        norms = [f"norm{number}" for number in range(1, len(attentions) + 2)]
        shapes |= {f"{norm}.weight": (size,) for norm in norms}
        if bias:
            shapes |= {"linear1.bias": (wide,), "linear2.bias": (size,)}
            shapes |= {f"{norm}.bias": (size,) for norm in norms}
        return shapes

    return shapes_of


_encoder_layer = _transformer_layer(("self_attn",))
_decoder_layer = _transformer_layer(("self_attn", "multihead_attn"))


def _transformer(args: Arguments) -> Shapes:
    shapes: Shapes = {}
    for coder, layer in (("encoder", _encoder_layer), ("decoder", _decoder_layer)):
        layer_shapes = layer(args)
        for number in range(min(_int(args[f"num_{coder}_layers"]), MAX_LAYERS)):
            prefix = f"{coder}.layers.{number}."
            shapes |= {prefix + key: shape for key, shape in layer_shapes.items()}
        shapes[f"{coder}.norm.weight"] = (_int(args["d_model"]),)
        if args["bias"]:
            shapes[f"{coder}.norm.bias"] = (_int(args["d_model"]),)
    return shapes


SHAPES: dict[str, Callable[[Arguments], Shapes]] = {
    "Linear": _linear,
    "NonDynamicallyQuantizableLinear": _linear,
    "Bilinear": _bilinear,
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _convolution),
    **dict.fromkeys(
        ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
        partial(_convolution, transposed=True),
    ),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"), _batch_norm),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _batch_norm),
    **dict.fromkeys(("LayerNorm", "RMSNorm"), _layer_norm),
    "GroupNorm": _group_norm,
    **dict.fromkeys(
        ("Embedding", "EmbeddingBag"),
        lambda args: {"weight": (_int(args["num_embeddings"]), _int(args["embedding_dim"]))},
    ),
    "RNN": _recurrent(1),
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNNCell": _cell(1),
    "LSTMCell": _cell(4),
    "GRUCell": _cell(3),
    "MultiheadAttention": _attention,
    "TransformerEncoderLayer": _encoder_layer,
    "TransformerDecoderLayer": _decoder_layer,
    "Transformer": _transformer,
    "PReLU": lambda args: {"weight": (_int(args["num_parameters"]),)},
}
"""Functions that return the shapes for arguments, by the name of the class in torch.nn.modules."""

_ENCODER_CHILDREN = {
    "self_attn": "MultiheadAttention", "linear1": "Linear", "dropout": "Dropout",
    "linear2": "Linear", "norm1": "LayerNorm", "norm2": "LayerNorm", "dropout1": "Dropout",
    "dropout2": "Dropout",
}  # fmt: skip
CHILDREN: dict[str, dict[str, str]] = {
    "MultiheadAttention": {"out_proj": "NonDynamicallyQuantizableLinear"},
    "TransformerEncoderLayer": _ENCODER_CHILDREN,
    "TransformerDecoderLayer": _ENCODER_CHILDREN
    | {"multihead_attn": "MultiheadAttention", "norm3": "LayerNorm", "dropout3": "Dropout"},
    "Transformer": {"encoder": "TransformerEncoder", "decoder": "TransformerDecoder"},
}
"""Children that constructors create themselves: their names and classes, by class."""

INTERNAL_ATTRIBUTES = frozenset(read_package_file("torchnn/tables/internal_attributes.txt").split())
"""Attributes that the classes of torch.nn set themselves, besides their arguments."""
