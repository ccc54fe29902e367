"""Names, plain values, tensors and objects of the libraries as Python source."""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES, numpy_name, unpack_units
from ptinspect.errors import PtInspectError
from ptinspect.pickling.numpy_objects import as_array, as_scalar, contiguous_strides, dtype_code
from ptinspect.pickling.pyobjects import (
    ORDERED_DICT,
    as_bytes,
    as_mapping,
    as_sequence,
    attributes_of,
    function_path,
)
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.stubs.collect.source import (
    FALSE,
    NONE,
    TRUE,
    Argument,
    CallExpr,
    DictExpr,
    Expr,
    Literal,
    Name,
    PlaceholderCall,
    Sequence,
    call_expr,
)

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor

ExprOf = Callable[[Value], Expr]
TensorOf = Callable[[Value], "Tensor | None"]

FLOATS = ("float32", "float16", "bfloat16", "float64")
MAX_WRITTEN = 64
"""Elements of a tensor or numpy array that are written one by one."""
MAX_WRITTEN_FLOATS = 16
"""The same for the floats of a numpy array."""
MAX_READ = 10_000
"""Elements that are read to find a pattern in them."""
MAX_BYTES = 1_000
"""Length of the longest bytes object that is written."""
NUMBER_TYPES = (
    "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
"""Types whose numbers are written."""
NN = "torch.nn.modules."
SIMPLE = frozenset({type(None), bool, int, float, str, bytes})
"""Types of values without contents."""
# Names


def is_identifier(name: str) -> bool:
    """Return True if Python reads `name` as one identifier, spelled as it is written."""
    if not name.isidentifier() or keyword.iskeyword(name) or len(name) > 200:
        return False
    return name.isascii() or unicodedata.normalize("NFKC", name) == name


def is_attribute(name: str) -> bool:
    """Return True if `self.name` works: not a dunder, and not mangled in a class body."""
    return is_identifier(name) and not name.startswith("__")


def is_index(name: str) -> bool:
    """Return True for decimal digits that are few enough for the index of a module."""
    return name.isascii() and name.isdigit() and len(name) < 10


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
        return bytes_expr(value)
    return None


def bytes_expr(value: bytes, mutable: bool = False) -> Expr:
    """Return `b"..."`, in double quotes unless single ones save escapes, or `bytearray(b"...")`."""
    quote = "'" if value.count(b'"') > value.count(b"'") else '"'
    escaped = ["\\" + c if c in ("\\", quote) else c for c in map(chr, value)]
    chars = [c if " " <= c[-1] <= "~" else f"\\x{ord(c):02x}" for c in escaped]
    text = Literal(f"b{quote}{''.join(chars)}{quote}")
    return call_expr("bytearray", text) if mutable else text


def text_literal(text: str) -> Literal:
    """Return a string as source."""
    return Literal(string(text))


def named(exprs: dict[str, Expr]) -> list[Expr]:
    """Return the argument for a mapping by name: a dict, or nothing if it is empty."""
    return [DictExpr([(text_literal(key), expr) for key, expr in exprs.items()])] if exprs else []


def ints(values: tuple[int, ...]) -> list[Expr]:
    """Return integers as source."""
    return [Literal(str(value)) for value in values]


# Tensors


def _dtype_keyword(name: str, *defaults: str) -> dict[str, Expr]:
    """Return the argument `dtype=torch.float16`; none for the types that torch takes anyway."""
    return {} if name in defaults else {"dtype": Name(f"torch.{name}")}


def zeros(tensor: Tensor, *float_types: str) -> CallExpr:
    """Return `torch.zeros(2, 3)`, without a dtype for those in `float_types`.

    If none are given, float16, bfloat16 and float64 are float32 (see `post_init`).
    """
    shape = tuple(max(size, 0) for size in tensor.shape)
    name = _dtype_name(tensor)
    if tensor.quantizer and is_quantized(tensor):
        axis = tensor.quantizer.get("axis")
        has_axis = tensor.quantizer.get("qscheme") == "per_channel_affine"
        return quantized_zeros(shape, name, axis if has_axis and isinstance(axis, int) else None)
    dtype = _dtype_keyword(name, *(float_types or FLOATS))
    if shape:
        return call_expr("torch.zeros", *ints(shape), **dtype)
    zero = "0.0" if name.startswith(("float", "bfloat")) else "False" if name == "bool" else "0"
    return call_expr("torch.tensor", Literal(zero), **dtype)


def quantized_zeros(shape: tuple[int, ...], dtype_name: str, axis: int | None) -> CallExpr:
    """Return `torch.quantize_per_tensor(...)`, or `quantize_per_channel` along an axis."""
    scalar = call_expr("torch.tensor", Literal("0.0"))
    values = call_expr("torch.zeros", *ints(shape)) if shape else scalar
    dtype = _dtype_keyword(dtype_name)
    if axis is None:
        scale: dict[str, Expr] = {"scale": Literal("1.0"), "zero_point": Literal("0")}
        return call_expr("torch.quantize_per_tensor", values, **scale, **dtype)
    rows = Literal(str(shape[axis] if axis < len(shape) else 0))
    scales = call_expr("torch.ones", rows)
    zero_points = call_expr("torch.zeros", rows, **_dtype_keyword("int64"))
    number = Literal(str(axis))
    func = "torch.quantize_per_channel"
    return call_expr(func, values, scales, zero_points, axis=number, **dtype)


def is_quantized(tensor: Tensor) -> bool:
    """Return True for a tensor of a type with a scale."""
    return _dtype_name(tensor) in ("qint8", "quint8", "qint32")


def tensor_values(tensor: Tensor) -> Expr:
    """Return the values themselves if they are few or follow a rule; otherwise zeros.

    For tensors that a state_dict does not contain: non-persistent buffers, plain attributes.
    """
    shape, values, name = tensor.shape, read_numbers(tensor), _dtype_name(tensor)
    placeholder = zeros(tensor)
    if tensor.numel:
        placeholder = PlaceholderCall(placeholder.func, placeholder.args)
    if values is None or any(isinstance(value, float) and math.isnan(value) for value in values):
        return placeholder
    dtype = _dtype_keyword(name, "float32", "int64", "bool")
    last = shape[-1] if shape else 0
    if name == "int64" and last > 2 and values == list(range(last)):
        arange = call_expr("torch.arange", Literal(str(last)))
        is_flat = len(shape) == 1
        return arange if is_flat else call_expr(f"{arange.text}.reshape", *ints(shape))
    if shape and len(values) > 1 and len(set(values)) == 1:
        if values[0] == 0 and not dtype:
            return call_expr("torch.zeros", *ints(shape), **_dtype_keyword(name, "float32"))
        size = Sequence("()", ints(shape))
        return call_expr("torch.full", size, _number(values[0]), **dtype)
    if len(values) > MAX_WRITTEN and shape:
        return placeholder
    content = nested_lists(values, shape) if shape else _number(values[0])
    return call_expr("torch.tensor", content, **dtype)


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


def class_text(path: str) -> str:
    """Return a torch class as source: `nn.Linear`, or its path if torch.nn does not export it."""
    name = path.rpartition(".")[2]
    if path.startswith(NN) and not name.startswith("_") and "Quantizable" not in name:
        return f"nn.{name}"
    return path


# Objects


def object_expr(call: Call, expr_of: ExprOf) -> Expr | None:
    """Return an object of a library class, or None if it cannot be written."""
    array, scalar, path = as_array(call), as_scalar(call), function_path(call) or ""
    raw, value = as_bytes(call), literal(scalar[1]) if scalar is not None else None
    if scalar is not None and value is not None:
        return call_expr(f"np.{scalar[0]}", value)
    if array is not None and array.name not in ("object", "void", "str_", "bytes_"):
        # The numbers of an array if they are few, otherwise zeros.
        count, shape = math.prod(array.shape), array.shape
        is_small = len(shape) < 32 and count <= MAX_READ
        in_order = array.dtype[:1] in "<|" and array.stride == contiguous_strides(shape)
        data = as_bytes(array.data) if is_small and in_order else None
        dtype = Literal(f'"{array.name}"')
        all_zero = data is not None and not any(data)
        dtype_row = DTYPES[array.name] if array.name in NUMBER_TYPES else None
        is_float = dtype_row is not None and dtype_row.kind == "float"
        limit = MAX_WRITTEN_FLOATS if is_float else MAX_WRITTEN
        if data and dtype_row and count <= limit and len(data) == count * dtype_row.itemsize:
            values = list(unpack_units(dtype_row, data))
            if shape and any(values) and not any(math.isnan(value) for value in values):
                return call_expr("np.array", nested_lists(values, shape), dtype=dtype)
            all_zero = all_zero or not any(values)
        array_zeros = call_expr("np.zeros", Sequence("()", ints(shape)), dtype=dtype)
        is_exact = all_zero or not count
        return array_zeros if is_exact else PlaceholderCall(array_zeros.func, array_zeros.args)
    if raw is not None and len(raw) <= MAX_BYTES:
        return bytes_expr(raw, path == "builtins.bytearray")
    if path in _CALLS:
        return call_expr(_CALLS[path], *map(expr_of, call.args))
    reader = _READERS.get(path)
    return reader(call, expr_of) if reader is not None else None


_CALLS = {
    **{f"builtins.{name}": name for name in ("complex", "slice", "range", "object")},
    "torch.device": "torch.device",
    "pathlib.PosixPath": "pathlib.PurePosixPath",
    "pathlib.WindowsPath": "pathlib.PureWindowsPath",
    "pathlib.PurePosixPath": "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath": "pathlib.PureWindowsPath",
    "datetime.timedelta": "datetime.timedelta",
}
"""Classes whose objects are calls with the arguments in the file."""


def _size(call: Call, expr_of: ExprOf) -> Expr | None:
    return call_expr("torch.Size", Sequence("[]", list(map(expr_of, as_sequence(call) or ()))))


def _mapping(call: Call, expr_of: ExprOf) -> Expr | None:
    path = function_path(call) or ""
    factory = [*call.args[:1], None][:1] if path == "collections.defaultdict" else []
    pairs = as_mapping(call) or {}
    items = [(expr_of(key_value(key)), expr_of(value)) for key, value in pairs.items()]
    text = "OrderedDict" if path == ORDERED_DICT else path
    return call_expr(text, *map(expr_of, factory), *([DictExpr(items)] if items else []))


def _deque(call: Call, expr_of: ExprOf) -> Expr | None:
    first = call.args[0] if call.args and isinstance(call.args[0], list | tuple) else ()
    items = Sequence("[]", [expr_of(item) for item in (*first, *call.items)])
    maxlen = {"maxlen": expr_of(call.args[1])} if len(call.args) > 1 else {}
    return call_expr("collections.deque", items, **maxlen)


def _set(call: Call, expr_of: ExprOf) -> Expr | None:
    items = [expr_of(item) for item in as_sequence(call) or ()]
    return set_expr(items, frozen=function_path(call) == "builtins.frozenset")


def set_expr(items: list[Expr], frozen: bool) -> Expr:
    """Return a set, with its members sorted so that the file's order does not matter."""
    items = sorted(items, key=lambda item: item.text)
    if frozen:
        return call_expr("frozenset", *([Sequence("{}", items)] if items else []))
    return Sequence("{}", items) if items else call_expr("set")


def _namespace(call: Call, expr_of: ExprOf) -> Expr | None:
    attributes = {str(k): value for k, value in attributes_of(call).items() if isinstance(k, str)}
    if not all(map(is_identifier, attributes)):
        return None
    args = [(name, expr_of(value)) for name, value in attributes.items()]
    return CallExpr(function_path(call) or "", [*args])


def _partial(call: Call, expr_of: ExprOf) -> Expr | None:
    state = call.state
    if not isinstance(state, tuple) or len(state) < 3:
        return None
    positional = state[1] if isinstance(state[1], tuple) else ()
    keywords = state[2] if isinstance(state[2], dict) else {}
    args: list[Argument] = [(None, expr_of(item)) for item in (state[0], *positional)]
    if args[0][1] is NONE:  # the stub has no name for it
        return None
    for key, value in keywords.items():
        if not isinstance(key, str) or not is_identifier(key):
            return None
        args.append((str(key), expr_of(value)))
    return CallExpr("functools.partial", args)


def _layout(call: Call, expr_of: ExprOf) -> Expr | None:
    name = call.args[0] if call.args else None
    return Name(str(name)) if name in ("torch.strided", "torch.sparse_coo") else None


def _dtype(call: Call, expr_of: ExprOf) -> Expr | None:
    code = dtype_code(call) or ""
    kind = code.lstrip("<>=|")[:1]
    name = numpy_name(code)
    if code.startswith(">") or kind in ("U", "S"):  # with its byte order or its length
        name = code.lstrip("|=")
    # Fields, units of time and subarrays are in the state.
    is_complete = name.lstrip("<>").isidentifier() and kind not in ("V", "M", "m")
    return call_expr("np.dtype", Literal(f'"{name}"')) if is_complete else None


_READERS: dict[str, Callable[[Call, ExprOf], Expr | None]] = {
    "torch.Size": _size,
    "torch.serialization._get_layout": _layout,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "collections.Counter": _mapping,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.deque": _deque,
    "argparse.Namespace": _namespace,
    "types.SimpleNamespace": _namespace,
    "functools.partial": _partial,
    "numpy.dtype": _dtype,
}
