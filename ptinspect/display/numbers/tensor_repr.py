"""A tensor as torch prints it.

Source of the rules: torch/_tensor_str.py of torch 2.13 with its default options (4 digits, more
than 1,000 elements are summarised to the 3 at each edge, lines of 80 characters). Of a large
tensor only what is printed is read.
"""

from __future__ import annotations

import math
from itertools import product
from struct import pack, unpack
from typing import TYPE_CHECKING

from ptinspect.display.numbers.decode import Number, gather
from ptinspect.display.text.escape import safe
from ptinspect.document.tensor import Tensor
from ptinspect.dtypes import DTYPES
from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ptinspect.dtypes import DType


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


# ---


PRECISION, THRESHOLD, EDGE, LINE = 4, 1000, 3, 80

SHOWN = 20_000
"""Elements that a summary may consist of: 6 in each of many dimensions are too many to print."""

_DEFAULT = ("float32", "complex64", "int64", "bool")
_INTS = ("int", "uint", "bool")


class Column:
    """How the numbers of one tensor are written, all alike: torch's `_Formatter`. `nan_counts`:
    for float8_e8m0fnu, of which torch 2.13 takes NaN for a finite number."""

    def __init__(self, numbers: Sequence[Number], floating: bool, nan_counts: bool = False) -> None:
        self.floating = floating
        self.whole, self.exponent, self.width = True, False, 1
        if not floating:
            self.width = max([1, *(len(str(number)) for number in numbers)])
            return
        counted = [float(n) for n in numbers if isinstance(n, int | float) and n]
        finite = [number for number in counted if math.isfinite(number) or nan_counts]
        if not finite:
            return
        if any(map(math.isnan, finite)):  # then no comparison holds
            self.whole = False
        else:
            low, high = min(map(abs, finite)), max(map(abs, finite))
            self.whole = all(number == math.ceil(number) for number in finite)
            self.exponent = high / low > 1000.0 or high > 1.0e8 or low < 1.0e-4
        self.width = max(len(self._bare(number)) for number in finite)

    def _bare(self, number: float) -> str:
        if self.exponent:
            return f"{number:.{PRECISION}e}"
        if self.whole:
            return f"{number:.0f}" + ("." if math.isfinite(number) else "")
        return f"{number:.{PRECISION}f}"

    def text(self, number: Number) -> str:
        """The number, padded."""
        made = self._bare(float(number)) if self.floating else str(number)  # type: ignore[arg-type]
        return made.rjust(self.width)


class Grid:
    """The numbers of a tensor that are printed, in C order, and which of each dimension."""

    def __init__(self, tensor: Tensor) -> None:
        count = tensor.numel
        self.summary = count > THRESHOLD
        self.shown = [
            [*range(EDGE), *range(size - EDGE, size)]
            if self.summary and size > 2 * EDGE
            else list(range(size))
            for size in tensor.shape
        ]
        total = math.prod(map(len, self.shown))
        if total > SHOWN:
            raise UnsupportedError(f"even its summary has {total:,} elements")
        steps = tensor.stride or ()
        start = tensor.storage_offset or 0
        ways = [
            [index * step for index in indices]
            for indices, step in zip(self.shown, steps, strict=True)
        ]
        places = [start + sum(way) for way in product(*ways)]
        found = gather(tensor, places)
        self.numbers = [found[place] for place in places]
        self.gaps = [self.summary and size > 2 * EDGE for size in tensor.shape]


def whole(tensor: Tensor) -> None:
    """UnsupportedError for a tensor that has no elements of its own."""
    if tensor.uninitialized:
        raise UnsupportedError("it is not initialized")
    if tensor.parts or tensor.storage is None or tensor.stride is None:
        kind = "nested" if -1 in tensor.shape else tensor.layout
        what = f"consists of parts ({kind})" if tensor.parts else "has no bytes in the file"
        raise UnsupportedError(f"it {what}")


def numbers_of(tensor: Tensor) -> list[Number]:
    """The numbers of a tensor that is printed whole, in C order; of a quantized one what its
    integers stand for. Raises as `data_text`."""
    whole(tensor)
    if tensor.numel == 0:
        return []
    grid = Grid(tensor)
    scale = dequantized(tensor)
    return grid.numbers if scale is None else scale(grid)


def data_text(tensor: Tensor, indent: int) -> str:
    """The elements in brackets; lines but the first are indented by `indent`.

    Raises UnsupportedError for what has no bytes or no numbers, DamagedError where bytes are
    missing.
    """
    whole(tensor)
    if tensor.numel == 0:
        return "[]"
    grid = Grid(tensor)
    scale = dequantized(tensor)
    if scale is not None:
        grid.numbers = scale(grid)
    return _laid_out(grid, _formatter(grid.numbers, tensor.dtype), indent)


def _formatter(
    numbers: Sequence[Number], dtype: DType | None
) -> tuple[Callable[[Number], str], int]:
    """How one element is written, and how wide it is."""
    kind, name = (dtype.kind, dtype.name) if dtype else ("", "")
    if kind != "complex":
        column = Column(numbers, kind not in _INTS, name == "float8_e8m0fnu")
        return column.text, column.width
    real = Column([complex(n).real for n in numbers], True)
    imag = Column([complex(n).imag for n in numbers], True)

    def both(number: Number) -> str:
        made = complex(number)
        second = (imag.text(made.imag) + "j").lstrip()
        sign = "" if second[0] in "+-" else "+"
        return real.text(made.real) + sign + second

    return both, real.width + imag.width + 1


def _laid_out(grid: Grid, formatter: tuple[Callable[[Number], str], int], indent: int) -> str:
    text, width = formatter
    dims = len(grid.shown)
    words = [text(number) for number in grid.numbers]
    if not dims:
        return words[0]
    inner = indent + dims - 1
    per_line = max(1, (LINE - inner) // (width + 2))
    count = len(grid.shown[-1])
    parts = [
        _vector(words[at : at + count], grid.gaps[-1], per_line, inner)
        for at in range(0, len(words), count)
    ]
    for dim in range(dims - 2, -1, -1):  # from the inside out
        count = len(grid.shown[dim])
        between = "," + "\n" * (dims - dim - 1) + " " * (indent + dim + 1)
        rows = []
        for at in range(0, len(parts), count):
            row = parts[at : at + count]
            if grid.gaps[dim]:
                row.insert(EDGE, "...")
            rows.append("[" + between.join(row) + "]")
        parts = rows
    return parts[0]


def _vector(words: list[str], gap: bool, per_line: int, indent: int) -> str:
    if gap:
        words = [*words[:EDGE], " ...", *words[EDGE:]]
    lines = [", ".join(words[at : at + per_line]) for at in range(0, len(words), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def tensor_text(tensor: Tensor) -> str:
    """`repr(tensor)`: the elements, and behind them what torch says besides.

    Raises as `data_text`.
    """
    name = tensor.subclass.rsplit(".", 1)[-1] if tensor.subclass else "tensor"
    prefix = f"{safe(name)}("
    suffixes = [] if tensor.device == "cpu" else [f"device='{safe(tensor.device)}'"]
    dtype = tensor.dtype.name if tensor.dtype else "unknown"
    named = [] if dtype in _DEFAULT else [f"dtype=torch.{dtype}"]
    always = [] if dtype == "float32" else [f"dtype=torch.{dtype}"]  # no elements tell of it
    if tensor.layout.startswith("sparse"):
        data, more = _sparse(tensor, len(prefix))
        suffixes += [f"size={tensor.shape}", more, *named, f"layout=torch.{tensor.layout}"]
    elif tensor.quantizer:
        data = data_text(tensor, len(prefix))
        suffixes += [f"size={tensor.shape}", *named, *_quantizer(tensor)]
    elif tensor.device == "meta":
        data = "..."
        suffixes += [f"size={tensor.shape}", *always]
    else:
        data = data_text(tensor, len(prefix))
        if tensor.numel == 0:
            suffixes += [f"size={tensor.shape}"] if len(tensor.shape) != 1 else []
            named = always
        suffixes += named
    if tensor.requires_grad:
        suffixes.append("requires_grad=True")
    newline = tensor.layout == "sparse_coo"
    return _with_suffixes(prefix + data, suffixes, len(prefix), newline)


def listed_text(numbers: Sequence[Number], dtype: str) -> str:
    """`repr` of a tensor of one dimension with these numbers, on the CPU."""
    prefix = "tensor("
    formatter = _formatter(numbers, DTYPES[dtype])
    per_line = max(1, (LINE - len(prefix)) // (formatter[1] + 2))
    data = _vector([formatter[0](number) for number in numbers], False, per_line, len(prefix))
    named = [] if dtype in _DEFAULT else [f"dtype=torch.{dtype}"]
    return _with_suffixes(prefix + data, named, len(prefix), False)


def _with_suffixes(text: str, suffixes: list[str], indent: int, newline: bool) -> str:
    made = [text]
    used = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if newline or used + len(suffix) + 2 > LINE:
            made.append(",\n" + " " * indent + suffix)
            used, newline = indent + len(suffix), False
        else:
            made.append(", " + suffix)
            used += len(suffix) + 2
    return "".join(made) + ")"


_SPARSE_NAMES = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}


def _sparse(tensor: Tensor, indent: int) -> tuple[str, str]:
    """The parts, and how many values there are."""
    made = []
    for name in _SPARSE_NAMES.get(tensor.layout, ()):
        part = tensor.parts[name]
        text = data_text(part, indent + len(f"{name}=tensor("))
        size = f", size={part.shape}" if part.numel == 0 else ""
        made.append(f"{name}=tensor({text}{size})")
    if not made:
        raise UnsupportedError(f"values of the layout {tensor.layout} are not shown")
    last = tensor.parts["indices" if tensor.layout == "sparse_coo" else made[1].split("=")[0]]
    return (",\n" + " " * indent).join(made), f"nnz={last.shape[-1] if last.shape else 0}"


def dequantized(tensor: Tensor) -> Callable[[Grid], list[Number]] | None:
    """What makes numbers of a quantized tensor's integers; None for others."""
    if not tensor.quantizer:
        return None

    return lambda grid: scaled(tensor, grid.numbers, grid.shown)


def _quantizer(tensor: Tensor) -> list[str]:

    return suffixes(tensor)
