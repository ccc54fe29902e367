"""Which quantized module of torch.ao has tensors of these names, types and shapes.

Source: `_save_to_state_dict` of the classes in torch/ao/nn/quantized/modules. A Linear's weight
and bias stand as a pair under `_packed_params._packed_params`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.stubs.expr.literals import numbers
from ptinspect.stubs.expr.nodes import Argument, Atom, Expr, Items, Make
from ptinspect.stubs.infer.layer_guess import Guess

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor
    from ptinspect.stubs.infer.state_dict import Branch

QUANTIZED = "torch.ao.nn.quantized"
PACKED = "_packed_params._packed_params"
_DYNAMIC = [[1.0], [0]]
"""What a dynamic Linear, which has no scale, saves as scale and zero_point."""
_WORDS = "a quantized layer could have a ReLU within; its stride and padding are not recorded"


def guess_quantized(
    name: str, tensors: dict[str, Tensor], packed: list[Tensor], inside: dict[str, Branch]
) -> Guess | None:
    """The call; None where none is known. packed: a Linear's weight and bias. inside: the modules
    that lie in it."""
    beside = {key for key in tensors if key not in ("scale", "zero_point")}
    both = {"scale", "zero_point"} <= set(tensors)
    if packed and not beside:
        static = both and [numbers(tensors[key]) for key in ("scale", "zero_point")] != _DYNAMIC
        return _linear(packed, static)
    if not tensors and list(inside) == ["_packed_params"]:
        return _embedding(inside["_packed_params"].tensors)
    if inside or not both:
        return None
    weight = tensors.get("weight")
    if weight is not None and _quantized(weight) and beside <= {"weight", "bias"}:
        return _conv(weight, "bias" in tensors)
    if beside:
        return None
    if tensors["scale"].shape == (1,):
        args: list[Argument] = [
            ("scale", Atom("1.0")),
            ("zero_point", Atom("0")),
            ("dtype", Atom("torch.quint8")),
        ]
        return Guess(Make(f"{QUANTIZED}.Quantize", args))
    if tensors["scale"].shape != ():
        return None
    words = "a quantized Hardswish could be a LeakyReLU or a QFunctional, and the other way round"
    if name.isdigit():
        args = [("scale", Atom("1.0")), ("zero_point", Atom("0"))]
        return Guess(Make(f"{QUANTIZED}.Hardswish", args), (words,))
    return Guess(Make(f"{QUANTIZED}.QFunctional", []), (words,))


def _quantized(tensor: Tensor) -> bool:
    return tensor.dtype is not None and tensor.dtype.name in ("qint8", "quint8", "qint32")


def _embedding(tensors: dict[str, Tensor]) -> Guess | None:
    weight = tensors.get("_packed_weight")
    if weight is None or len(tensors) != 1 or len(weight.shape) != 2 or not _quantized(weight):
        return None
    rows, size = weight.shape
    args: list[Argument] = [("num_embeddings", _int(rows)), ("embedding_dim", _int(size))]
    words = "a quantized Embedding could be an EmbeddingBag"
    return Guess(Make(f"{QUANTIZED}.Embedding", args, 2), (words,))


def _linear(packed: list[Tensor], static: bool) -> Guess | None:
    shape = packed[0].shape
    if len(shape) != 2:
        return None
    sizes: list[Argument] = [("in_features", _int(shape[1])), ("out_features", _int(shape[0]))]
    if len(packed) == 1:
        sizes.append(("bias_", Atom("False")))
    home = QUANTIZED if static else f"{QUANTIZED}.dynamic"
    if not _quantized(packed[0]):
        sizes.append(("dtype", Atom("torch.float16")))
    return Guess(Make(f"{home}.Linear", sizes), (_WORDS,))


def _conv(weight: Tensor, bias: bool) -> Guess | None:
    shape = weight.shape
    if not 3 <= len(shape) <= 5:
        return None
    groups = shape[0] if shape[1] == 1 and shape[0] > 1 else 1
    args: list[Argument] = [
        ("in_channels", _int(shape[1] * groups)),
        ("out_channels", _int(shape[0])),
        ("kernel_size", Items("()", [_int(size) for size in shape[2:]])),
    ]
    if groups != 1:
        args.append(("groups", _int(groups)))
    if not bias:
        args.append(("bias", Atom("False")))
    unset = {"groups": Atom("1"), "bias": Atom("True")}
    called = f"{QUANTIZED}.Conv{len(shape) - 2}d"
    return Guess(Make(called, args, 2, dict[str, Expr](unset)), (_WORDS,))


def _int(number: int) -> Expr:
    return Atom(str(number))
