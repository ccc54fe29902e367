"""Names, plain values and tensors as Python source."""

from __future__ import annotations

import builtins
import keyword
import math
import unicodedata
from typing import TYPE_CHECKING

from ptinspect.dtypes import unpack_units
from ptinspect.errors import PtInspectError
from ptinspect.stubs.expr.nodes import (
    FALSE,
    NONE,
    TRUE,
    Argument,
    CallExpr,
    Expr,
    Literal,
    Name,
    PlaceholderCall,
    Sequence,
)

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.values import Value

FLOATS = ("float32", "float16", "bfloat16", "float64")
MAX_WRITTEN = 64
"""Elements of a tensor that are written one by one."""
MAX_READ = 10_000
"""Elements that are read to find a pattern in them."""
NUMBER_TYPES = (
    "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
"""Types whose numbers are written."""
_STUB_NAMES = frozenset(
    (  # noqa: SIM905
        "F OrderedDict SAFE_GLOBALS argparse build collections datetime enum functools importlib"
        " math nn np operator os pathlib self sys torch types typing warnings cls args kwargs"
        " attributes mode match case type l I O"
        " _Finder _Loader _REACHED _Result _assembled _finder _reach _register"
    ).split()
)
RESERVED = _STUB_NAMES | frozenset(dir(builtins)) | frozenset(keyword.kwlist)
"""Names that no class, function or argument of a stub may have."""


# Names


def is_identifier(name: str) -> bool:
    """Return True if Python reads `name` as one identifier, spelled as it is written."""
    if not name.isidentifier() or keyword.iskeyword(name) or len(name) > 200:
        return False
    return name.isascii() or unicodedata.normalize("NFKC", name) == name


def is_attribute(name: str) -> bool:
    """Return True if `self.name` works: not a dunder, and not mangled in a class body."""
    return is_identifier(name) and not name.startswith("__")


class Names(set[str]):
    """The identifiers in use. Gives everything one of its own."""

    def new(self, name: str, fallback: str = "name") -> str:
        """Return an unused identifier similar to `name` that neither stubs nor Python use."""
        if not is_identifier(name):
            name = "".join(char if char.isascii() and char.isalnum() else "_" for char in name[:60])
            name = name.strip("_") or fallback
            name = f"{fallback}_{name}" if name[0].isdigit() else name
        if name.startswith("__"):
            name = name.strip("_") or fallback
        base = unique = f"{name}_" if name in RESERVED or not is_identifier(name) else name
        number = 2
        while unique in self:
            unique = f"{base}_{number}" if not base.endswith("_") else f"{base}{number}"
            number += 1
        self.add(unique)
        return unique


class PartFunctions(dict[str, Expr]):
    """What functions return, by their names: expressions too deep to be written in place."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names

    def move(self, expr: Expr) -> Expr:
        """Move an expression into a new function and return the call of it."""
        name = self._names.new("_part")
        self[name] = expr
        return CallExpr(name)


# Text


def string(text: str) -> str:
    """Return a string literal in ruff's style: double quotes unless single ones save escapes.

    Characters that are not letters, digits or ASCII punctuation are escaped.
    """
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join([_escape(char, quote) for char in str(text)]) + quote


def _escape(char: str, quote: str) -> str:
    if char == quote or char == "\\":
        return "\\" + char
    if char in "\n\r\t":
        return repr(char)[1:-1]
    if char.isascii():
        return char if char.isprintable() else f"\\x{ord(char):02x}"
    if char.isprintable() and unicodedata.category(char)[0] in "LN":
        return char
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def prose(text: str) -> str:
    """Return `text` for a comment or docstring: one line, nothing that could end it."""
    return string(text)[1:-1].replace("\\", "/").replace('"', "'")[:200]


def bytes_text(value: bytes) -> str:
    """Return a bytes literal, in double quotes unless single ones save escapes."""
    quote = "'" if value.count(b'"') > value.count(b"'") else '"'
    escaped = ["\\" + c if c in ("\\", quote) else c for c in map(chr, value)]
    chars = [c if " " <= c[-1] <= "~" else f"\\x{ord(c):02x}" for c in escaped]
    return f"b{quote}{''.join(chars)}{quote}"


# Values


def literal(value: Value) -> Expr | None:
    """Return None, a number, a string or bytes as source; None for any other value."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, int):
        return Literal(str(int(value))) if value.bit_length() < 10_000 else None
    if isinstance(value, float):
        if not math.isfinite(value):
            return Literal(f'float("{value}")')
        return Literal(repr(float(value)).replace("e+", "e"))  # as ruff formats it
    if isinstance(value, str):
        return Literal(string(value))
    if isinstance(value, bytes):
        return Literal(bytes_text(value))
    return None


def ints(values: tuple[int, ...]) -> list[Expr]:
    """Return integers as source."""
    return [Literal(str(value)) for value in values]


def shape_arguments(shape: tuple[int, ...]) -> list[Argument]:
    """Return the sizes as positional arguments."""
    return [(None, size) for size in ints(shape)]


def zeros(tensor: Tensor) -> Expr:
    """Return `torch.zeros(2, 3)`; float16, bfloat16 and float64 as float32 (see `post_init`)."""
    shape = tuple(max(size, 0) for size in tensor.shape)
    name = _dtype_name(tensor)
    if tensor.quantizer and name in ("qint8", "quint8", "qint32"):
        axis = tensor.quantizer.get("axis")
        has_axis = tensor.quantizer.get("qscheme") == "per_channel_affine"
        return quantized_zeros(shape, name, axis if has_axis and isinstance(axis, int) else None)
    dtype = [] if name in FLOATS else _dtype_argument(name)
    if shape:
        return CallExpr("torch.zeros", [*shape_arguments(shape), *dtype])
    zero = "0.0" if name.startswith(("float", "bfloat")) else "False" if name == "bool" else "0"
    return CallExpr("torch.tensor", [(None, Literal(zero)), *dtype])


def quantized_zeros(shape: tuple[int, ...], dtype: str, axis: int | None) -> Expr:
    """Return `torch.quantize_per_tensor(...)`, or `quantize_per_channel` along an axis."""
    values: Argument = None, CallExpr("torch.zeros", shape_arguments(shape or (1,)))
    if not shape:
        values = None, CallExpr("torch.tensor", [(None, Literal("0.0"))])
    if axis is None:
        scale: list[Argument] = [("scale", Literal("1.0")), ("zero_point", Literal("0"))]
        return CallExpr("torch.quantize_per_tensor", [values, *scale, *_dtype_argument(dtype)])
    rows: Argument = None, Literal(str(shape[axis] if axis < len(shape) else 0))
    return CallExpr("torch.quantize_per_channel", [
        values,
        (None, CallExpr("torch.ones", [rows])),
        (None, CallExpr("torch.zeros", [rows, *_dtype_argument("int64")])),
        ("axis", Literal(str(axis))),
        *_dtype_argument(dtype),
    ])  # fmt: skip


def tensor_values(tensor: Tensor) -> Expr:
    """Return the values themselves if they are few or follow a rule; otherwise zeros.

    For tensors that a state_dict does not contain: non-persistent buffers, plain attributes.
    """
    shape, values, name = tensor.shape, read_numbers(tensor), _dtype_name(tensor)
    if values is None or any(isinstance(value, float) and math.isnan(value) for value in values):
        return zeros_placeholder(tensor)
    dtype = [] if name in ("float32", "int64", "bool") else _dtype_argument(name)
    last = shape[-1] if shape else 0
    if name == "int64" and last > 2 and values == list(range(last)):
        arange = CallExpr("torch.arange", [(None, Literal(str(last)))])
        if len(shape) == 1:
            return arange
        return CallExpr(f"{arange.text}.reshape", shape_arguments(shape))
    if shape and len(values) > 1 and len(set(values)) == 1:
        if values[0] == 0 and name in ("float32", "int64", "bool"):
            exact = [] if name == "float32" else _dtype_argument(name)
            return CallExpr("torch.zeros", [*shape_arguments(shape), *exact])
        size = Sequence("()", ints(shape))
        return CallExpr("torch.full", [(None, size), (None, _number(values[0])), *dtype])
    if len(values) > MAX_WRITTEN and shape:
        return zeros_placeholder(tensor)
    content = nested_lists(values, shape) if shape else _number(values[0])
    return CallExpr("torch.tensor", [(None, content), *dtype])


def zeros_placeholder(tensor: Tensor) -> Expr:
    """Return zeros for a tensor with too many numbers to be written."""
    call = zeros(tensor)
    assert isinstance(call, CallExpr)
    return PlaceholderCall(call.func, call.args) if tensor.numel else call


def read_numbers(tensor: Tensor) -> list[int | float | bool] | None:
    """Return the values of a small tensor in C order, or None if they are not available."""
    name = _dtype_name(tensor)
    if tensor.dtype is None or tensor.storage is None or name not in NUMBER_TYPES:
        return None
    if not 0 < tensor.numel <= MAX_READ:
        return None
    from ptinspect.document.elements import contiguous

    try:
        raw = contiguous(tensor)
    except PtInspectError:
        return None
    return list(unpack_units(tensor.dtype, raw))


def _dtype_name(tensor: Tensor) -> str:
    return tensor.dtype.name if tensor.dtype else "float32"


def _dtype_argument(name: str) -> list[Argument]:
    return [("dtype", Name(f"torch.{name}"))]


def _number(value: int | float | bool) -> Expr:
    expr = literal(value)
    assert expr is not None
    return expr


def nested_lists(values: list[int | float | bool], shape: tuple[int, ...]) -> Expr:
    """Return the numbers in lists nested as deep as there are dimensions."""
    level: list[Expr] = [_number(value) for value in values]
    for size in reversed(shape[1:]):
        level = [Sequence("[]", level[i : i + size]) for i in range(0, len(level), size)]
    return Sequence("[]", level)
