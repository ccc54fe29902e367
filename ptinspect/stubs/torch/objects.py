"""Names and calls of torch, numpy and the standard library as source."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES, numpy_name
from ptinspect.pickling.numpy_objects import as_array, as_scalar
from ptinspect.pickling.pyobjects import as_bytes, function_path
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.stubs.expr.identifiers import plain as is_plain
from ptinspect.stubs.expr.literals import LONGEST, plain
from ptinspect.stubs.expr.literals import array as written
from ptinspect.stubs.expr.nodes import NONE, Argument, Atom, Expr, Items, Make, Pairs
from ptinspect.stubs.torch.calls import class_text
from ptinspect.torchnn import lookup
from ptinspect.torchnn.text import QSCHEMES

if TYPE_CHECKING:
    ExprOf = Callable[[Value], Expr]

MODULES = ("argparse", "collections", "datetime", "functools", "math", "pathlib", "types")
"""Modules of the standard library that a stub imports, where it needs them."""
_WITH_NAMES = {"torch.nn.functional", "torch.nn.init", "torch.optim", "torch"}


def global_text(module: str, name: str) -> str | None:
    """How a name is written in the stub; None for what it does not import, or should not call."""
    if not all(is_plain(part) for part in (*module.split("."), *name.split("."))):
        return None
    path = f"{module}.{name}"
    if module == "torch" and (name in DTYPES or name in QSCHEMES):
        return path
    if module == "torch._C._nn" or path.startswith("torch._C._VariableFunctions"):
        last = name.rpartition(".")[2]
        return f"torch.nn.functional.{last}" if module == "torch._C._nn" else f"torch.{last}"
    if module == "torch._C._fft" and verdict_of(module, name) is not None:
        return f"torch.fft.{name.removeprefix('fft_')}"
    row = lookup(path)
    if row is not None and row.path == path:
        return class_text(path)
    if verdict_of(module, name) not in ("allowed", "reference", "module"):
        return None
    if module == "builtins":
        return name if hasattr(builtins, name) else None
    if module.split(".")[0] == "torch":
        return f"nn.functional.{name}" if module == "torch.nn.functional" else path
    if module == "numpy":
        return f"np.{name}"
    return path if module in MODULES and module != "collections" else _of_collections(path)


def _of_collections(path: str) -> str | None:
    if path == "collections.OrderedDict":
        return "OrderedDict"
    return path if path.startswith("collections.") else None


def verdict_of(module: str, name: str) -> str | None:
    """What the policy says of a name; None where it has no line for it."""
    from ptinspect.safety.policy.table import policy

    row = policy().row(module, name)
    return row.verdict if row is not None else None


def called(call: Call, expr: ExprOf) -> Expr | None:
    """An object of a class that is not the file's own; None for what has no form in source."""
    path = function_path(call) or ""
    for kind in (_scalar, _array, _bytes):
        made = kind(call, expr)
        if made is not None:
            return made
    reader = READERS.get(path)
    return reader(call, expr) if reader is not None else None


def _scalar(call: Call, expr: ExprOf) -> Expr | None:
    found = as_scalar(call)
    if found is None:
        return None
    value = plain(found[1])
    return None if value is None else Make(f"np.{found[0]}", [(None, value)])


def _array(call: Call, expr: ExprOf) -> Expr | None:
    array = as_array(call)
    if array is None or array.name in ("object", "void", "str_", "bytes_"):
        return None
    small = len(array.shape) < 32 and math.prod(array.shape) <= LONGEST
    raw = as_bytes(array.data) if small else None
    plainly = array.dtype[:1] in "<|" and array.stride == _c_order(array.shape)
    return written(array.name, array.shape, raw if plainly else None)


def _c_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    made, step = [], 1
    for size in reversed(shape):
        made.append(step)
        step *= max(size, 1)
    return tuple(reversed(made))


def _bytes(call: Call, expr: ExprOf) -> Expr | None:
    raw = as_bytes(call)
    if raw is None or len(raw) > 1_000:
        return None
    made = plain(raw)
    assert made is not None
    mutable = function_path(call) == "builtins.bytearray"
    return Make("bytearray", [(None, made)]) if mutable else made


def _plainly(text: str) -> Callable[[Call, ExprOf], Expr | None]:
    def read(call: Call, expr: ExprOf) -> Expr | None:
        return Make(text, [(None, expr(item)) for item in call.args])

    return read


def _size(call: Call, expr: ExprOf) -> Expr | None:
    items = call.args[0] if call.args and isinstance(call.args[0], tuple) else ()
    return Make("torch.Size", [(None, Items("[]", [expr(item) for item in items]))])


def _ordered(call: Call, expr: ExprOf) -> Expr | None:
    from ptinspect.pickling.pyobjects import as_mapping

    return _filled("OrderedDict", [], as_mapping(call) or {}, expr)


def _default(call: Call, expr: ExprOf) -> Expr | None:
    args: list[Argument] = [(None, expr(item)) for item in call.args]
    return _filled("collections.defaultdict", args or [(None, Atom("None"))], call.pairs, expr)


def _counter(call: Call, expr: ExprOf) -> Expr | None:
    from ptinspect.pickling.pyobjects import as_mapping

    return _filled("collections.Counter", [], as_mapping(call) or {}, expr)


def _filled(name: str, args: list[Argument], pairs: dict[Value, Value], expr: ExprOf) -> Expr:
    items = [(expr(key_value(key)), expr(value)) for key, value in pairs.items()]
    return Make(name, [*args, (None, Pairs(items))] if items else args)


def _deque(call: Call, expr: ExprOf) -> Expr | None:
    first = call.args[0] if call.args and isinstance(call.args[0], list | tuple) else ()
    items = Items("[]", [expr(item) for item in (*first, *call.items)])
    rest: list[Argument] = [("maxlen", expr(item)) for item in call.args[1:2]]
    return Make("collections.deque", [(None, items), *rest])


def _set(name: str) -> Callable[[Call, ExprOf], Expr | None]:
    def read(call: Call, expr: ExprOf) -> Expr | None:
        first = call.args[0] if call.args else ()
        items = [expr(item) for item in first] if isinstance(first, list | tuple) else []
        items.sort(key=lambda item: item.text)
        if name == "set" and items:
            return Items("{}", items)
        return Make(name, [(None, Items("{}", items))] if items else [])

    return read


def _bag(name: str) -> Callable[[Call, ExprOf], Expr | None]:
    def read(call: Call, expr: ExprOf) -> Expr | None:
        from ptinspect.pickling.pyobjects import attributes_of

        own = {
            str(key): value for key, value in attributes_of(call).items() if isinstance(key, str)
        }
        if not all(is_plain(key) for key in own):
            return None
        return Make(name, [(key, expr(value)) for key, value in own.items()])

    return read


def _partial(call: Call, expr: ExprOf) -> Expr | None:
    state = call.state
    if not isinstance(state, tuple) or len(state) < 3:
        return None
    args: list[Argument] = [(None, expr(state[0]))]
    if args[0][1] is NONE:  # a function that the stub does not name
        return None
    if isinstance(state[1], tuple):
        args += [(None, expr(item)) for item in state[1]]
    for key, value in (state[2] if isinstance(state[2], dict) else {}).items():
        if not isinstance(key, str) or not is_plain(key):
            return None
        args.append((str(key), expr(value)))
    return Make("functools.partial", args)


def _layout(call: Call, expr: ExprOf) -> Expr | None:
    name = call.args[0] if call.args else None
    return Atom(str(name)) if name in ("torch.strided", "torch.sparse_coo") else None


def _dtype(call: Call, expr: ExprOf) -> Expr | None:
    from ptinspect.pickling.numpy_objects import dtype_code

    code = dtype_code(call)
    name = numpy_name(code) if code else ""
    return Make("np.dtype", [(None, Atom(f'"{name}"'))]) if name.isidentifier() else None


READERS: dict[str, Callable[[Call, ExprOf], Expr | None]] = {
    "torch.Size": _size,
    "torch.device": _plainly("torch.device"),
    "torch.serialization._get_layout": _layout,
    "builtins.complex": _plainly("complex"),
    "builtins.slice": _plainly("slice"),
    "builtins.range": _plainly("range"),
    "builtins.set": _set("set"),
    "builtins.frozenset": _set("frozenset"),
    "builtins.object": _plainly("object"),
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default,
    "collections.Counter": _counter,
    "collections.deque": _deque,
    "argparse.Namespace": _bag("argparse.Namespace"),
    "types.SimpleNamespace": _bag("types.SimpleNamespace"),
    "functools.partial": _partial,
    "pathlib.PosixPath": _plainly("pathlib.PurePosixPath"),
    "pathlib.WindowsPath": _plainly("pathlib.PureWindowsPath"),
    "pathlib.PurePosixPath": _plainly("pathlib.PurePosixPath"),
    "pathlib.PureWindowsPath": _plainly("pathlib.PureWindowsPath"),
    "datetime.timedelta": _plainly("datetime.timedelta"),
    "numpy.dtype": _dtype,
}
