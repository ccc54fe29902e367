"""Plain values and tensors as expressions."""

from __future__ import annotations

import math
from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.errors import PtInspectError
from ptinspect.stubs.expr.identifiers import string
from ptinspect.stubs.expr.nodes import FALSE, NONE, TRUE, Atom, Blank, Expr, Items, Make

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.values import Value

FLOATS = ("float32", "float16", "bfloat16", "float64")
SMALL = 64
"""Elements of a tensor that is written number by number."""
FEW = 16
"""Floats of a numpy array that are written."""
LONGEST = 10_000  # elements that are read to see a pattern in them


def plain(value: Value) -> Expr | None:
    """None, a number, a string or bytes; None for all else."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, int):
        return Atom(str(int(value))) if value.bit_length() < 10_000 else None
    if isinstance(value, float):
        return Atom(number(value))
    if isinstance(value, str):
        return Atom(string(value))
    if isinstance(value, bytes):
        return Atom(bytes_text(value))
    return None


def number(value: float) -> str:
    """A float as source."""
    if math.isfinite(value):
        return repr(float(value)).replace("e+", "e")  # as ruff would have it
    return f'float("{value}")'


def bytes_text(value: bytes) -> str:
    """A bytes literal, in double quotes unless that costs escapes."""
    quote = "'" if value.count(b'"') > value.count(b"'") else '"'
    text = "".join([_byte(chr(code), quote) for code in value])
    return f"b{quote}{text}{quote}"


def _byte(char: str, quote: str) -> str:
    if char in ("\\", quote):
        return "\\" + char
    return char if " " <= char <= "~" else f"\\x{ord(char):02x}"


def ints(values: tuple[int, ...]) -> list[tuple[str | None, Expr]]:
    """As positional arguments."""
    return [(None, Atom(str(value))) for value in values]


def dtype_argument(tensor: Tensor) -> list[tuple[str | None, Expr]]:
    """`dtype=…` where it is not what torch.zeros makes. float16, bfloat16 and float64 are left to
    `.half()` and the like at the end of the root's constructor."""
    name = tensor.dtype.name if tensor.dtype else "float32"
    return [] if name in FLOATS else [("dtype", Atom(f"torch.{name}"))]


def zeros(tensor: Tensor) -> Expr:
    """`torch.zeros(2, 3)`."""
    shape = tuple(max(size, 0) for size in tensor.shape)
    if not shape:
        return Make("torch.tensor", [(None, Atom(_zero(tensor))), *dtype_argument(tensor)])
    return Make("torch.zeros", [*ints(shape), *dtype_argument(tensor)])


def _zero(tensor: Tensor) -> str:
    name = tensor.dtype.name if tensor.dtype else "float32"
    if name in FLOATS or name.startswith("float"):
        return "0.0"
    return "False" if name == "bool" else "0"


_UNPACK = {
    "float32": "f", "float64": "d", "float16": "e", "int64": "q", "int32": "i", "int16": "h",
    "int8": "b", "uint8": "B", "bool": "?",
}  # fmt: skip


def numbers(tensor: Tensor) -> list[int | float | bool] | None:
    """The values of a small tensor in C order; None where they cannot be had."""
    name = tensor.dtype.name if tensor.dtype else ""
    if name not in _UNPACK or not 0 < tensor.numel <= LONGEST or tensor.storage is None:
        return None
    from ptinspect.document.to_array import contiguous

    try:
        raw = contiguous(tensor)
    except PtInspectError:
        return None
    code = _UNPACK[name]
    return [item[0] for item in Struct("<" + code).iter_unpack(raw)]


def known_values(tensor: Tensor) -> Expr:
    """An expression for the values themselves where they are few or follow a rule; else zeros.

    For what a state_dict does not bring: buffers that are left out of it, plain tensors.
    """
    shape, found = tensor.shape, numbers(tensor)
    if found is None or any(isinstance(item, float) and math.isnan(item) for item in found):
        return blank(tensor)
    dtype = _exact_dtype(tensor)
    ruled = _ruled(tensor, found, dtype)
    if ruled is not None:
        return ruled
    if len(found) > SMALL or not shape:
        if not shape:
            return Make("torch.tensor", [(None, _one(found[0])), *dtype])
        return blank(tensor)
    return Make("torch.tensor", [(None, _nested(found, shape)), *dtype])


def blank(tensor: Tensor) -> Expr:
    """Zeros, where the file has numbers that are too many to be written."""
    made = zeros(tensor)
    assert isinstance(made, Make)
    return Blank(made.func, made.args) if tensor.numel else made


def _exact_dtype(tensor: Tensor) -> list[tuple[str | None, Expr]]:
    name = tensor.dtype.name if tensor.dtype else "float32"
    return [] if name in ("float32", "int64", "bool") else [("dtype", Atom(f"torch.{name}"))]


def _ruled(
    tensor: Tensor, found: list[int | float | bool], dtype: list[tuple[str | None, Expr]]
) -> Expr | None:
    """A range, or one value throughout."""
    shape, name = tensor.shape, tensor.dtype.name if tensor.dtype else ""
    last = shape[-1] if shape else 0
    if name == "int64" and last > 2 and len(found) == last and found == list(range(last)):
        made: Expr = Make("torch.arange", [(None, Atom(str(last)))])
        if len(shape) > 1:
            return Make(f"{made.text}.reshape", ints(shape))
        return made
    if shape and len(set(found)) == 1 and len(found) > 1:
        size = Items("()", [Atom(str(dim)) for dim in shape])
        if found[0] == 0 and name in ("float32", "int64", "bool"):
            exact = [] if name == "float32" else [("dtype", Atom(f"torch.{name}"))]
            return Make("torch.zeros", [*ints(shape), *exact])
        return Make("torch.full", [(None, size), (None, _one(found[0])), *dtype])
    return None


def _one(value: int | float | bool) -> Expr:
    made = plain(value)
    assert made is not None
    return made


def array(name: str, shape: tuple[int, ...], raw: bytes | None) -> Expr:
    """A numpy array: its numbers where they are few, else zeros. raw: in C order; None where
    they lie otherwise."""
    size = Items("()", [Atom(str(dim)) for dim in shape])
    dtype: list[tuple[str | None, Expr]] = [("dtype", Atom(f'"{name}"'))]
    code = _UNPACK.get(name, "")
    count = math.prod(shape)
    few = FEW if code in ("f", "d", "e") else SMALL
    if raw is not None and code and count <= few and len(raw) == count * Struct("<" + code).size:
        found = [item[0] for item in Struct("<" + code).iter_unpack(raw)]
        if shape and any(found) and not any(math.isnan(item) for item in found):
            return Make("np.array", [(None, _nested(found, shape)), *dtype])
        if not any(found):
            return Make("np.zeros", [(None, size), *dtype])
    if raw is not None and not any(raw):
        return Make("np.zeros", [(None, size), *dtype])
    return (Blank if count else Make)("np.zeros", [(None, size), *dtype])


def _nested(found: list[int | float | bool], shape: tuple[int, ...]) -> Expr:
    """The numbers in lists, as deep as there are dimensions."""
    level: list[Expr] = [_one(item) for item in found]
    for size in reversed(shape[1:]):
        level = [Items("[]", level[at : at + size]) for at in range(0, len(level), size)]
    return Items("[]", level)
