"""Names and objects of torch, numpy and the standard library as source."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES, QSCHEMES, numpy_name, unpack_units
from ptinspect.pickling.numpy_objects import (
    Array,
    as_array,
    as_scalar,
    contiguous_strides,
    dtype_code,
)
from ptinspect.pickling.pyobjects import as_bytes, as_mapping, attributes_of, function_path
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.stubs.expr.literals import (
    MAX_READ,
    MAX_WRITTEN,
    NUMBER_TYPES,
    bytes_text,
    ints,
    is_identifier,
    literal,
    nested_lists,
)
from ptinspect.stubs.expr.nodes import (
    NONE,
    Argument,
    CallExpr,
    DictExpr,
    Expr,
    Literal,
    Name,
    PlaceholderCall,
    Sequence,
)
from ptinspect.stubs.expr.torch_calls import class_text
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    ExprOf = Callable[[Value], Expr]
    Reader = Callable[[Call, ExprOf], Expr | None]

_STANDARD_MODULES = ("argparse", "collections", "datetime", "functools", "math", "pathlib", "types")
MAX_WRITTEN_FLOATS = 16
"""Floats of a numpy array that are written one by one."""
MAX_BYTES = 1_000
"""Length of the longest bytes object that is written."""


def verdict_of(module: str, name: str) -> str | None:
    """Return the policy's verdict on a name, or None if the policy does not list it."""
    from ptinspect.safety.policy import load_policy

    row = load_policy().row(module, name)
    return row.verdict if row is not None else None


def global_text(module: str, name: str) -> str | None:
    """Return a name as the stub writes it.

    Returns None for names that the stub does not import, or that should not be called.
    """
    if not all(is_identifier(part) for part in (*module.split("."), *name.split("."))):
        return None
    path, last = f"{module}.{name}", name.rpartition(".")[2]
    if module == "torch" and (name in DTYPES or name in QSCHEMES):
        return path
    if module == "torch._C._nn":
        return f"torch.nn.functional.{last}"
    if path.startswith("torch._C._VariableFunctions"):
        return f"torch.{last}"
    if path.startswith(("torch._C.TensorBase.", "torch._C._TensorBase.")):
        return None if last.startswith("_") else f"torch.Tensor.{last}"
    verdict = verdict_of(module, name)
    if module == "torch._C._fft" and verdict is not None:
        return f"torch.fft.{name.removeprefix('fft_')}"
    row = lookup(path)
    if row is not None and row.path == path:
        return class_text(path)
    if verdict not in ("allowed", "reference", "module"):
        return None
    if module == "builtins":
        return name if hasattr(builtins, name) else None
    if module.split(".")[0] == "torch":
        return f"nn.functional.{name}" if module == "torch.nn.functional" else path
    if module == "numpy":
        return f"np.{name}"
    if path == "collections.OrderedDict":
        return "OrderedDict"
    return path if module in _STANDARD_MODULES or path.startswith("collections.") else None


# Objects


def object_expr(call: Call, expr_of: ExprOf) -> Expr | None:
    """Return an object of a library class, or None if it cannot be written."""
    scalar = as_scalar(call)
    value = literal(scalar[1]) if scalar is not None else None
    if scalar is not None and value is not None:
        return CallExpr(f"np.{scalar[0]}", [(None, value)])
    array = as_array(call)
    if array is not None and array.name not in ("object", "void", "str_", "bytes_"):
        return _numpy_array(array)
    path = function_path(call) or ""
    raw = as_bytes(call)
    if raw is not None and len(raw) <= MAX_BYTES:
        return bytes_expr(raw, path == "builtins.bytearray")
    if path in _CALLS:
        return CallExpr(_CALLS[path], [(None, expr_of(item)) for item in call.args])
    if path in _MAPPINGS:
        return _filled(_MAPPINGS[path], [], as_mapping(call) or {}, expr_of)
    reader = _READERS.get(path)
    return reader(call, expr_of) if reader is not None else None


_CALLS = {
    "torch.device": "torch.device",
    "builtins.complex": "complex",
    "builtins.slice": "slice",
    "builtins.range": "range",
    "builtins.object": "object",
    "pathlib.PosixPath": "pathlib.PurePosixPath",
    "pathlib.WindowsPath": "pathlib.PureWindowsPath",
    "pathlib.PurePosixPath": "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath": "pathlib.PureWindowsPath",
    "datetime.timedelta": "datetime.timedelta",
}
"""Classes whose objects are calls with the arguments in the file."""
_MAPPINGS = {
    "collections.OrderedDict": "OrderedDict",
    "collections.Counter": "collections.Counter",
}


def bytes_expr(value: bytes, mutable: bool) -> Expr:
    """Return `b"..."` or `bytearray(b"...")`."""
    text = Literal(bytes_text(value))
    return CallExpr("bytearray", [(None, text)]) if mutable else text


def _numpy_array(array: Array) -> Expr:
    """Return a numpy array: its numbers if they are few, otherwise zeros."""
    count, shape = math.prod(array.shape), array.shape
    is_small = len(shape) < 32 and count <= MAX_READ
    in_order = array.dtype[:1] in "<|" and array.stride == contiguous_strides(shape)
    raw = as_bytes(array.data) if is_small and in_order else None
    dtype: Argument = ("dtype", Literal(f'"{array.name}"'))
    all_zero = raw is not None and not any(raw)
    dtype_row = DTYPES[array.name] if array.name in NUMBER_TYPES else None
    is_float = dtype_row is not None and dtype_row.kind == "float"
    limit = MAX_WRITTEN_FLOATS if is_float else MAX_WRITTEN
    if raw and dtype_row and count <= limit and len(raw) == count * dtype_row.itemsize:
        values = list(unpack_units(dtype_row, raw))
        if shape and any(values) and not any(math.isnan(value) for value in values):
            return CallExpr("np.array", [(None, nested_lists(values, shape)), dtype])
        all_zero = all_zero or not any(values)
    zero_call = CallExpr if all_zero or not count else PlaceholderCall
    return zero_call("np.zeros", [(None, Sequence("()", ints(shape))), dtype])


def _size(call: Call, expr_of: ExprOf) -> Expr | None:
    sizes = call.args[0] if call.args and isinstance(call.args[0], tuple) else ()
    return CallExpr("torch.Size", [(None, Sequence("[]", [expr_of(size) for size in sizes]))])


def _defaultdict(call: Call, expr_of: ExprOf) -> Expr | None:
    args: list[Argument] = [(None, expr_of(item)) for item in call.args] or [(None, NONE)]
    return _filled("collections.defaultdict", args, call.pairs, expr_of)


def _filled(text: str, args: list[Argument], pairs: Mapping[Value, Value], expr_of: ExprOf) -> Expr:
    items = [(expr_of(key_value(key)), expr_of(value)) for key, value in pairs.items()]
    return CallExpr(text, [*args, (None, DictExpr(items))] if items else args)


def _deque(call: Call, expr_of: ExprOf) -> Expr | None:
    first = call.args[0] if call.args and isinstance(call.args[0], list | tuple) else ()
    items = Sequence("[]", [expr_of(item) for item in (*first, *call.items)])
    maxlen: list[Argument] = [("maxlen", expr_of(item)) for item in call.args[1:2]]
    return CallExpr("collections.deque", [(None, items), *maxlen])


def _set(call: Call, expr_of: ExprOf) -> Expr | None:
    content = call.args[0] if call.args else ()
    items = [expr_of(item) for item in content] if isinstance(content, list | tuple) else []
    return set_expr(items, frozen=function_path(call) == "builtins.frozenset")


def set_expr(items: list[Expr], frozen: bool) -> Expr:
    """Return a set, with its members sorted so that the file's order does not matter."""
    items = sorted(items, key=lambda item: item.text)
    if frozen:
        return CallExpr("frozenset", [(None, Sequence("{}", items))] if items else [])
    return Sequence("{}", items) if items else CallExpr("set")


def _namespace(call: Call, expr_of: ExprOf) -> Expr | None:
    attributes = {str(k): value for k, value in attributes_of(call).items() if isinstance(k, str)}
    if not all(map(is_identifier, attributes)):
        return None
    return CallExpr(
        function_path(call) or "", [(name, expr_of(value)) for name, value in attributes.items()]
    )


def _partial(call: Call, expr_of: ExprOf) -> Expr | None:
    state = call.state
    if not isinstance(state, tuple) or len(state) < 3:
        return None
    function, positional, keywords = state[:3]
    args: list[Argument] = [(None, expr_of(function))]
    if args[0][1] is NONE:  # the stub has no name for it
        return None
    if isinstance(positional, tuple):
        args += [(None, expr_of(item)) for item in positional]
    for key, value in keywords.items() if isinstance(keywords, dict) else ():
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
    return CallExpr("np.dtype", [(None, Literal(f'"{name}"'))]) if is_complete else None


_READERS: dict[str, Reader] = {
    "torch.Size": _size,
    "torch.serialization._get_layout": _layout,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "argparse.Namespace": _namespace,
    "types.SimpleNamespace": _namespace,
    "functools.partial": _partial,
    "numpy.dtype": _dtype,
}
