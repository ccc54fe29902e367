"""A tensor as torch prints it.

Source of the rules: torch/_tensor_str.py of torch 2.13 with its default options. Of a large tensor
only the elements that are printed are read.
"""

from __future__ import annotations

import math
from itertools import product
from struct import pack, unpack
from typing import TYPE_CHECKING

from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import SPARSE_PARTS
from ptinspect.document.to_array import read_elements
from ptinspect.dtypes import DTYPES, Number
from ptinspect.errors import UnsupportedError
from ptinspect.text import safe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ptinspect.dtypes import DType

    # Writes one element, padded to the width that follows.
    Formatter = tuple[Callable[[Number], str], int]

# torch.set_printoptions: decimals, elements above which a tensor is summarised, elements at each
# edge of a summary, characters in a line.
PRECISION, THRESHOLD, EDGE_ITEMS, LINE_WIDTH = 4, 1000, 3, 80

MAX_SUMMARY = 20_000
"""Elements of the longest summary: 6 in each of many dimensions are too many to print."""

_UNNAMED_DTYPES = ("float32", "complex64", "int64", "bool")  # torch does not print `dtype=`
_INTEGER_KINDS = ("int", "uint", "bool")


def tensor_text(tensor: Tensor) -> str:
    """Return `repr(tensor)`. UnsupportedError if the tensor has no bytes in the file, or its
    elements are not numbers."""
    name = tensor.subclass.rsplit(".", 1)[-1] if tensor.subclass else "tensor"
    prefix = f"{safe(name)}("
    indent = len(prefix)
    suffixes = [] if tensor.device == "cpu" else [f"device='{safe(tensor.device)}'"]
    dtype = tensor.dtype.name if tensor.dtype else tensor.encoding or "unknown"
    dtype_suffix = [] if dtype in _UNNAMED_DTYPES else [f"dtype=torch.{dtype}"]
    # Without elements, nothing but the suffix shows the dtype.
    empty_suffix = [] if dtype == "float32" else [f"dtype=torch.{dtype}"]
    if tensor.layout.startswith("sparse"):
        data, nnz = _sparse_text(tensor, indent)
        suffixes += [f"size={tensor.shape}", nnz, *dtype_suffix, f"layout=torch.{tensor.layout}"]
    elif tensor.quantizer:
        data = _data_text(tensor, indent)
        suffixes += [f"size={tensor.shape}", *dtype_suffix, *_quantizer_suffixes(tensor)]
    elif tensor.device == "meta":
        data = "..."
        suffixes += [f"size={tensor.shape}", *empty_suffix]
    else:
        data = _data_text(tensor, indent)
        if tensor.numel == 0:
            suffixes += [f"size={tensor.shape}"] if len(tensor.shape) != 1 else []
            dtype_suffix = empty_suffix
        suffixes += dtype_suffix
    if tensor.requires_grad:
        suffixes.append("requires_grad=True")
    return _with_suffixes(prefix + data, suffixes, indent, tensor.layout == "sparse_coo")


def numbers_of(tensor: Tensor) -> list[Number]:
    """Return all numbers of a tensor, which must not have more than `THRESHOLD`, in C order; those
    of a quantized tensor are dequantized. UnsupportedError as `tensor_text`."""
    _check_has_elements(tensor)
    return PrintedElements(tensor).numbers if tensor.numel else []


def _check_has_elements(tensor: Tensor) -> None:
    if tensor.uninitialized:
        raise UnsupportedError("it is not initialized")
    if tensor.parts:
        kind = "nested" if -1 in tensor.shape else tensor.layout
        raise UnsupportedError(f"it consists of parts ({kind})")
    if tensor.storage is None or tensor.stride is None:
        raise UnsupportedError("it has no bytes in the file")


class PrintedElements:
    """The elements of a tensor that are printed: their indices in each dimension, whether its
    middle is left out, and their numbers in C order, dequantized."""

    def __init__(self, tensor: Tensor) -> None:
        summarised = tensor.numel > THRESHOLD
        self.gaps = [summarised and size > 2 * EDGE_ITEMS for size in tensor.shape]
        self.indices = [
            [*range(EDGE_ITEMS), *range(size - EDGE_ITEMS, size)] if gap else list(range(size))
            for size, gap in zip(tensor.shape, self.gaps, strict=True)
        ]
        total = math.prod(map(len, self.indices))
        if total > MAX_SUMMARY:
            raise UnsupportedError(f"even its summary has {total:,} elements")
        steps = [
            [index * stride for index in indices]
            for indices, stride in zip(self.indices, tensor.stride or (), strict=True)
        ]
        offsets = [(tensor.storage_offset or 0) + sum(offset) for offset in product(*steps)]
        elements = read_elements(tensor, offsets)
        self.numbers = [elements[offset] for offset in offsets]
        if tensor.quantizer:
            self.numbers = _dequantize(tensor, self.numbers, self.indices)


def _data_text(tensor: Tensor, indent: int) -> str:
    """Return the elements in brackets; all lines but the first are indented."""
    _check_has_elements(tensor)
    if tensor.numel == 0:
        return "[]"
    elements = PrintedElements(tensor)
    format_number, width = _formatter(elements.numbers, tensor.dtype)
    words = [format_number(number) for number in elements.numbers]
    dims = len(elements.indices)
    if not dims:
        return words[0]
    innermost = indent + dims - 1
    count = len(elements.indices[-1])
    parts = [
        _vector_text(words[start : start + count], elements.gaps[-1], width, innermost)
        for start in range(0, len(words), count)
    ]
    for dim in range(dims - 2, -1, -1):  # wrap the innermost brackets in those around them
        count = len(elements.indices[dim])
        separator = "," + "\n" * (dims - dim - 1) + " " * (indent + dim + 1)
        outer = []
        for start in range(0, len(parts), count):
            rows = parts[start : start + count]
            if elements.gaps[dim]:
                rows.insert(EDGE_ITEMS, "...")
            outer.append("[" + separator.join(rows) + "]")
        parts = outer
    return parts[0]


def _vector_text(words: list[str], gap: bool, width: int, indent: int) -> str:
    per_line = max(1, (LINE_WIDTH - indent) // (width + 2))
    if gap:
        words = [*words[:EDGE_ITEMS], " ...", *words[EDGE_ITEMS:]]
    starts = range(0, len(words), per_line)
    lines = [", ".join(words[start : start + per_line]) for start in starts]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _with_suffixes(text: str, suffixes: list[str], indent: int, newline: bool) -> str:
    parts = [text]
    used = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if newline or used + len(suffix) + 2 > LINE_WIDTH:
            parts.append(",\n" + " " * indent + suffix)
            used, newline = indent + len(suffix), False
        else:
            parts.append(", " + suffix)
            used += len(suffix) + 2
    return "".join(parts) + ")"


class NumberColumn:
    """The format that all numbers of a tensor share: torch's `_Formatter`.

    `nan_is_finite` is for float8_e8m0fnu, whose NaN torch 2.13 takes for a finite number.
    """

    def __init__(
        self, numbers: Sequence[Number], floating: bool, nan_is_finite: bool = False
    ) -> None:
        self._floating = floating
        self._integral, self._scientific, self.width = True, False, 1
        if not floating:
            self.width = max([1, *(len(str(number)) for number in numbers)])
            return
        nonzero = [float(n) for n in numbers if isinstance(n, int | float) and n]
        finite = [number for number in nonzero if math.isfinite(number) or nan_is_finite]
        if not finite:
            return
        if any(map(math.isnan, finite)):  # torch's comparisons with NaN are all false
            self._integral = False
        else:
            low, high = min(map(abs, finite)), max(map(abs, finite))
            self._integral = all(number == math.ceil(number) for number in finite)
            self._scientific = high / low > 1000.0 or high > 1.0e8 or low < 1.0e-4
        self.width = max(len(self._unpadded(number)) for number in finite)

    def _unpadded(self, number: float) -> str:
        if self._scientific:
            return f"{number:.{PRECISION}e}"
        if self._integral:
            return f"{number:.0f}" + ("." if math.isfinite(number) else "")
        return f"{number:.{PRECISION}f}"

    def format(self, number: Number) -> str:
        if not self._floating:
            return str(number).rjust(self.width)
        assert isinstance(number, int | float)
        return self._unpadded(float(number)).rjust(self.width)


def _formatter(numbers: Sequence[Number], dtype: DType | None) -> Formatter:
    kind, name = (dtype.kind, dtype.name) if dtype else ("", "")
    if kind != "complex":
        column = NumberColumn(numbers, kind not in _INTEGER_KINDS, name == "float8_e8m0fnu")
        return column.format, column.width
    real = NumberColumn([complex(n).real for n in numbers], True)
    imag = NumberColumn([complex(n).imag for n in numbers], True)

    def format_complex(number: Number) -> str:
        value = complex(number)
        imag_text = (imag.format(value.imag) + "j").lstrip()
        sign = "" if imag_text[0] in "+-" else "+"
        return real.format(value.real) + sign + imag_text

    return format_complex, real.width + imag.width + 1


def _sparse_text(tensor: Tensor, indent: int) -> tuple[str, str]:
    """Return the parts as text, and `nnz=` with the number of values."""
    names = SPARSE_PARTS.get(tensor.layout)
    if names is None:
        raise UnsupportedError(f"values of the layout {tensor.layout} are not shown")
    texts = []
    for name in names:
        part = tensor.parts[name]
        data = _data_text(part, indent + len(f"{name}=tensor("))
        size = f", size={part.shape}" if part.numel == 0 else ""
        texts.append(f"{name}=tensor({data}{size})")
    counted = tensor.parts["indices" if tensor.layout == "sparse_coo" else names[1]]
    nnz = counted.shape[-1] if counted.shape else 0
    return (",\n" + " " * indent).join(texts), f"nnz={nnz}"


def _dequantize(
    tensor: Tensor, integers: Sequence[Number], indices: Sequence[Sequence[int]]
) -> list[Number]:
    """Return the float32 numbers of integers in C order at these indices of each dimension."""
    scheme = tensor.quantizer.get("qscheme")
    if "scale" in tensor.quantizer:
        scale, zero = _parameter(tensor, "scale"), _parameter(tensor, "zero_point")
        return [_to_float32((_as_real(q) - zero) * scale) for q in integers]
    axis = tensor.quantizer.get("axis")
    if not isinstance(axis, int) or not 0 <= axis < len(indices):
        raise UnsupportedError(f"values of the scheme {scheme} are not shown")
    scales, zeros = (_channel_parameters(tensor, name) for name in ("scales", "zero_points"))
    distances = [
        (_as_real(q) - zeros[index[axis]], scales[index[axis]])
        for q, index in zip(integers, product(*indices), strict=True)
    ]
    if scheme == "per_channel_affine_float_qparams":
        distances = [(_to_float32(distance), scale) for distance, scale in distances]
    return [_to_float32(distance * scale) for distance, scale in distances]


def _quantizer_suffixes(tensor: Tensor) -> list[str]:
    scheme = f"quantization_scheme=torch.{tensor.quantizer.get('qscheme')}"
    if "scale" in tensor.quantizer:
        zero = int(_parameter(tensor, "zero_point"))
        return [scheme, f"scale={_parameter(tensor, 'scale')!r}", f"zero_point={zero}"]
    scale = _channel_text(tensor, "scales", "float64")
    zero_point = _channel_text(tensor, "zero_points", "int64")
    axis = tensor.quantizer.get("axis")
    return [scheme, f"scale={scale}", f"zero_point={zero_point}", f"axis={axis}"]


def _channel_text(tensor: Tensor, key: str, dtype: str) -> str:
    """Return the repr of the tensor of a quantizer's parameters per channel."""
    value = tensor.quantizer.get(key)
    if isinstance(value, Tensor):
        return tensor_text(value)
    numbers: list[Number] = [*_channel_parameters(tensor, key)]
    if dtype == "int64":
        numbers = [int(_as_real(number)) for number in numbers]
    format_number, width = _formatter(numbers, DTYPES[dtype])
    indent = len("tensor(")
    data = _vector_text([format_number(number) for number in numbers], False, width, indent)
    suffixes = [] if dtype in _UNNAMED_DTYPES else [f"dtype=torch.{dtype}"]
    return _with_suffixes(f"tensor({data}", suffixes, indent, False)


def _parameter(tensor: Tensor, key: str) -> float:
    value = tensor.quantizer.get(key)
    if not isinstance(value, int | float):
        raise UnsupportedError(f"the tensor's {key} is not recorded as a number")
    return value


def _channel_parameters(tensor: Tensor, key: str) -> list[float]:
    value = tensor.quantizer.get(key)
    if isinstance(value, Tensor) and value.stride is not None and len(value.shape) == 1:
        start, step = value.storage_offset or 0, value.stride[0]
        offsets = [start + index * step for index in range(value.shape[0])]
        elements = read_elements(value, offsets)
        return [_as_real(elements[offset]) for offset in offsets]
    if isinstance(value, list | tuple):
        return [_as_real(number) for number in value if isinstance(number, int | float)]
    raise UnsupportedError(f"the tensor's {key} is not recorded as numbers")


def _as_real(number: Number) -> float:
    assert isinstance(number, int | float)
    return number


def _to_float32(number: float) -> float:
    try:
        return float(unpack("f", pack("f", number))[0])
    except OverflowError:
        return math.inf if number > 0 else -math.inf
