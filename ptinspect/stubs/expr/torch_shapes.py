"""Which tensors the constructor of a torch.nn class makes: names below the module, and shapes.

A child is written as a constructor call only where this is what the file has. Source: the
`__init__` of the class of that name in torch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable

from ptinspect.pickling.values import Value
from ptinspect.torchnn import ModuleClass
from ptinspect.torchnn.attributes import MISSING
from ptinspect.torchnn.protocols import Attributes

Shapes = dict[str, tuple[int, ...]]
Arguments = dict[str, Value]


def argument_values(row: ModuleClass, attributes: Attributes) -> Arguments:
    """Every argument's value, the default where the instance does not say."""
    shapes: Arguments = {}
    for argument in row.arguments:
        value = row.read(argument, attributes)
        shapes[argument.name] = argument.default if value is MISSING else value
    return shapes


def _int(value: Value) -> int:
    return value if isinstance(value, int) else -1


def _dims(value: Value) -> tuple[int, ...]:
    from ptinspect.pickling.pyobjects import as_sequence

    items = as_sequence(value)
    return tuple(_int(item) for item in items) if items is not None else (_int(value),)


def _with_bias(weight: tuple[int, ...], bias: int, args: Arguments) -> Shapes:
    return {"weight": weight, **({"bias": (bias,)} if args["bias"] else {})}


def _linear(args: Arguments) -> Shapes:
    out = _int(args["out_features"])
    return _with_bias((out, _int(args["in_features"])), out, args)


def _bilinear(args: Arguments) -> Shapes:
    out = _int(args["out_features"])
    return _with_bias((out, _int(args["in1_features"]), _int(args["in2_features"])), out, args)


def _conv(args: Arguments) -> Shapes:
    out, inner = _int(args["out_channels"]), _int(args["in_channels"])
    groups = max(_int(args["groups"]), 1)
    return _with_bias((out, inner // groups, *_dims(args["kernel_size"])), out, args)


def _transposed(args: Arguments) -> Shapes:
    out, inner = _int(args["out_channels"]), _int(args["in_channels"])
    groups = max(_int(args["groups"]), 1)
    return _with_bias((inner, out // groups, *_dims(args["kernel_size"])), out, args)


def _batch_norm(args: Arguments) -> Shapes:
    size = (_int(args["num_features"]),)
    shapes: Shapes = {}
    if args["affine"]:
        shapes = _with_bias(size, size[0], args)
    if args["track_running_stats"]:
        shapes |= {"running_mean": size, "running_var": size, "num_batches_tracked": ()}
    return shapes


def _layer_norm(args: Arguments) -> Shapes:
    shape = _dims(args["normalized_shape"])
    if not args["elementwise_affine"]:
        return {}
    return {"weight": shape, **({"bias": shape} if args.get("bias") else {})}


def _group_norm(args: Arguments) -> Shapes:
    size = _int(args["num_channels"])
    return _with_bias((size,), size, args) if args["affine"] else {}


def _embedding(args: Arguments) -> Shapes:
    return {"weight": (_int(args["num_embeddings"]), _int(args["embedding_dim"]))}


def _recurrent(gates: int) -> Callable[[Arguments], Shapes]:
    def shapes(args: Arguments) -> Shapes:
        hidden, proj = _int(args["hidden_size"]), _int(args.get("proj_size", 0))
        out = proj if proj > 0 else hidden
        ways = ("", "_reverse") if args["bidirectional"] else ("",)
        shapes: Shapes = {}
        for layer in range(min(_int(args["num_layers"]), 10_000)):
            size = _int(args["input_size"]) if layer == 0 else out * len(ways)
            for way in ways:
                end = f"_l{layer}{way}"
                shapes[f"weight_ih{end}"] = (gates * hidden, size)
                shapes[f"weight_hh{end}"] = (gates * hidden, out)
                if args["bias"]:
                    shapes[f"bias_ih{end}"] = shapes[f"bias_hh{end}"] = (gates * hidden,)
                if proj > 0:
                    shapes[f"weight_hr{end}"] = (proj, hidden)
        return shapes

    return shapes


def _cell(gates: int) -> Callable[[Arguments], Shapes]:
    def shapes(args: Arguments) -> Shapes:
        rows, size = gates * _int(args["hidden_size"]), _int(args["input_size"])
        shapes: Shapes = {"weight_ih": (rows, size), "weight_hh": (rows, _int(args["hidden_size"]))}
        if args["bias"]:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        return shapes

    return shapes


def attention(args: Arguments) -> Shapes:
    """MultiheadAttention: one projection for all three, or three where their sizes differ."""
    size = _int(args["embed_dim"])
    key = size if args.get("kdim") is None else _int(args["kdim"])
    value = size if args.get("vdim") is None else _int(args["vdim"])
    if key == value == size:
        shapes: Shapes = {"in_proj_weight": (3 * size, size)}
    else:
        shapes = {
            "q_proj_weight": (size, size),
            "k_proj_weight": (size, key),
            "v_proj_weight": (size, value),
        }
    if args.get("bias", True):
        shapes["in_proj_bias"] = (3 * size,)
    if args.get("add_bias_kv"):
        shapes |= {"bias_k": (1, 1, size), "bias_v": (1, 1, size)}
    shapes["out_proj.weight"] = (size, size)
    if args.get("bias", True):
        shapes["out_proj.bias"] = (size,)
    return shapes


def _transformer_layer(attentions: tuple[str, ...]) -> Callable[[Arguments], Shapes]:
    def shapes(args: Arguments) -> Shapes:
        size, wide, bias = _int(args["d_model"]), _int(args["dim_feedforward"]), args["bias"]
        shapes: Shapes = {}
        for name in attentions:
            inner = attention({"embed_dim": size, "bias": bias})
            shapes |= {f"{name}.{key}": shape for key, shape in inner.items()}
        shapes |= {"linear1.weight": (wide, size), "linear2.weight": (size, wide)}
        if bias:
            shapes |= {"linear1.bias": (wide,), "linear2.bias": (size,)}
        for number in range(1, len(attentions) + 2):
            shapes[f"norm{number}.weight"] = (size,)
            if bias:
                shapes[f"norm{number}.bias"] = (size,)
        return shapes

    return shapes


_encoder = _transformer_layer(("self_attn",))
_decoder = _transformer_layer(("self_attn", "multihead_attn"))


def _transformer(args: Arguments) -> Shapes:
    shapes: Shapes = {}
    for coder, layer in (("encoder", _encoder), ("decoder", _decoder)):
        for number in range(min(_int(args[f"num_{coder}_layers"]), 10_000)):
            inner = layer(args)
            shapes |= {f"{coder}.layers.{number}.{key}": shape for key, shape in inner.items()}
        shapes[f"{coder}.norm.weight"] = (_int(args["d_model"]),)
        if args["bias"]:
            shapes[f"{coder}.norm.bias"] = (_int(args["d_model"]),)
    return shapes


def _prelu(args: Arguments) -> Shapes:
    return {"weight": (_int(args["num_parameters"]),)}


SHAPES: dict[str, Callable[[Arguments], Shapes]] = {
    "Linear": _linear,
    "NonDynamicallyQuantizableLinear": _linear,
    "Bilinear": _bilinear,
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _conv),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _transposed),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"), _batch_norm),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _batch_norm),
    **dict.fromkeys(("LayerNorm", "RMSNorm"), _layer_norm),
    "GroupNorm": _group_norm,
    **dict.fromkeys(("Embedding", "EmbeddingBag"), _embedding),
    "RNN": _recurrent(1),
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNNCell": _cell(1),
    "LSTMCell": _cell(4),
    "GRUCell": _cell(3),
    "MultiheadAttention": attention,
    "TransformerEncoderLayer": _encoder,
    "TransformerDecoderLayer": _decoder,
    "Transformer": _transformer,
    "PReLU": _prelu,
}
"""By class name, of torch.nn.modules."""

CHILDREN = {
    "MultiheadAttention": {"out_proj": "NonDynamicallyQuantizableLinear"},
    "TransformerEncoderLayer": {
        "self_attn": "MultiheadAttention",
        "linear1": "Linear",
        "dropout": "Dropout",
        "linear2": "Linear",
        "norm1": "LayerNorm",
        "norm2": "LayerNorm",
        "dropout1": "Dropout",
        "dropout2": "Dropout",
    },
    "TransformerDecoderLayer": {
        "self_attn": "MultiheadAttention",
        "multihead_attn": "MultiheadAttention",
        "linear1": "Linear",
        "dropout": "Dropout",
        "linear2": "Linear",
        "norm1": "LayerNorm",
        "norm2": "LayerNorm",
        "norm3": "LayerNorm",
        "dropout1": "Dropout",
        "dropout2": "Dropout",
        "dropout3": "Dropout",
    },
    "Transformer": {"encoder": "TransformerEncoder", "decoder": "TransformerDecoder"},
}
"""The children that a constructor makes by itself: names and classes, in order."""

INTERNAL_ATTRIBUTES = frozenset(
    (  # noqa: SIM905
        "_all_weights _flat_weight_refs _flat_weights _flat_weights_names _initialize_hook"
        " _is_torch_compile _keys _load_hook _qkv_same_embed_dim _reversed_padding_repeated_twice"
        " _size activation_relu_or_gelu align_corners bias_k bias_v head_dim head_size in_channels"
        " in_features max_val min_val mode n_clusters name num_features output_padding proj_size"
        " recompute_scale_factor shortlist_size transposed use_nested_tensor value inplace"
        " padding_mode freeze device_ids device_type dim output_device src_device_obj kernel_size"
        " module avg_fn multi_avg_fn use_buffers dynamo_ctx forward _forward_hooks"
    ).split()
)
"""Attributes that torch.nn's classes set themselves, besides their arguments."""
