"""The numbers that a quantized tensor's integers stand for, and how torch prints the rest.

Source: aten/src/ATen/native/quantized (affine: `(q - zero_point) * scale`, in float32), and
`torch._tensor_str._str_intern`.
"""

from __future__ import annotations

from itertools import product
from struct import pack, unpack
from typing import TYPE_CHECKING

from ptinspect.display.elements import gather
from ptinspect.document.tensor import Tensor
from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.display.elements import Number


def scaled(
    tensor: Tensor, numbers: Sequence[Number], shown: Sequence[Sequence[int]]
) -> list[Number]:
    """The float32 numbers of the integers `numbers`, which stand at the indices `shown` of each
    dimension, in C order."""
    scheme = tensor.quantizer.get("qscheme")
    if "scale" in tensor.quantizer:
        scale, zero = _number(tensor, "scale"), _number(tensor, "zero_point")
        return [_float32((_real(q) - zero) * scale) for q in numbers]
    axis = tensor.quantizer.get("axis")
    if not isinstance(axis, int) or not 0 <= axis < len(shown):
        raise UnsupportedError(f"values of the scheme {scheme} are not shown")
    scales, zeros = _numbers(tensor, "scales"), _numbers(tensor, "zero_points")
    made: list[Number] = []
    for q, index in zip(numbers, product(*shown), strict=True):
        at = index[axis]
        if scheme == "per_channel_affine_float_qparams":
            made.append(_float32(_float32(_real(q) - zeros[at]) * scales[at]))
        else:
            made.append(_float32((_real(q) - zeros[at]) * scales[at]))
    return made


def suffixes(tensor: Tensor) -> list[str]:
    """What torch says of a quantized tensor behind its numbers."""
    scheme = str(tensor.quantizer.get("qscheme"))
    made = [f"quantization_scheme=torch.{scheme}"]
    if "scale" in tensor.quantizer:
        zero = int(_number(tensor, "zero_point"))
        return [*made, f"scale={_number(tensor, 'scale')!r}", f"zero_point={zero}"]
    for name, key in (("scale", "scales"), ("zero_point", "zero_points")):
        made.append(f"{name}={_listed(tensor, key)}")
    return [*made, f"axis={tensor.quantizer.get('axis')}"]


def _listed(tensor: Tensor, key: str) -> str:
    from ptinspect.display.values import listed_text, tensor_text

    value = tensor.quantizer.get(key)
    if isinstance(value, Tensor):
        return tensor_text(value)
    numbers = _numbers(tensor, key)
    if key == "zero_points":
        return listed_text([int(number) for number in numbers], "int64")
    return listed_text(numbers, "float64")


def _real(number: Number) -> float:
    assert isinstance(number, int | float)
    return number


def _number(tensor: Tensor, key: str) -> float:
    value = tensor.quantizer.get(key)
    if not isinstance(value, int | float):
        raise UnsupportedError(f"the tensor's {key} is not recorded as a number")
    return value


def _numbers(tensor: Tensor, key: str) -> list[float]:
    value = tensor.quantizer.get(key)
    if isinstance(value, Tensor) and value.stride is not None and len(value.shape) == 1:
        start = value.storage_offset or 0
        places = [start + index * value.stride[0] for index in range(value.shape[0])]
        found = gather(value, places)
        return [_real(found[place]) for place in places]
    if isinstance(value, list | tuple):
        return [_real(number) for number in value if isinstance(number, int | float)]
    raise UnsupportedError(f"the tensor's {key} is not recorded as numbers")


def _float32(number: float) -> float:
    try:
        return float(unpack("f", pack("f", number))[0])
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")
