"""Names and objects of torch, numpy and the standard library as source, and their imports."""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES, QSCHEMES, numpy_name
from ptinspect.pickling.numpy_objects import as_array, as_scalar, contiguous_strides, dtype_code
from ptinspect.pickling.pyobjects import as_bytes, as_mapping, attributes_of, function_path
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.stubs.expr.literals import (
    MAX_READ,
    Names,
    bytes_expr,
    is_identifier,
    literal,
    numpy_array,
)
from ptinspect.stubs.expr.nodes import (
    NONE,
    Argument,
    CallExpr,
    DictExpr,
    Expr,
    Literal,
    Name,
    Sequence,
)
from ptinspect.stubs.expr.torch_calls import NN, class_text
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    ExprOf = Callable[[Value], Expr]
    Reader = Callable[[Call, ExprOf], Expr | None]

_STANDARD_MODULES = ("argparse", "collections", "datetime", "functools", "math", "pathlib", "types")
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
    if scalar is not None:
        value = literal(scalar[1])
        if value is not None:
            return CallExpr(f"np.{scalar[0]}", [(None, value)])
    array = as_array(call)
    if array is not None and array.name not in ("object", "void", "str_", "bytes_"):
        is_small = len(array.shape) < 32 and math.prod(array.shape) <= MAX_READ
        in_order = array.dtype[:1] in "<|" and array.stride == contiguous_strides(array.shape)
        raw = as_bytes(array.data) if is_small and in_order else None
        return numpy_array(array.name, array.shape, raw)
    path = function_path(call) or ""
    raw = as_bytes(call)
    if raw is not None and len(raw) <= MAX_BYTES:
        return bytes_expr(raw, path == "builtins.bytearray")
    reader = _READERS.get(path)
    return reader(call, expr_of) if reader is not None else None


def _same_arguments(text: str) -> Reader:
    def read(call: Call, expr_of: ExprOf) -> Expr | None:
        return CallExpr(text, [(None, expr_of(item)) for item in call.args])

    return read


def _size(call: Call, expr_of: ExprOf) -> Expr | None:
    sizes = call.args[0] if call.args and isinstance(call.args[0], tuple) else ()
    return CallExpr("torch.Size", [(None, Sequence("[]", [expr_of(size) for size in sizes]))])


def _with_mapping(text: str) -> Reader:
    def read(call: Call, expr_of: ExprOf) -> Expr | None:
        return _filled(text, [], as_mapping(call) or {}, expr_of)

    return read


def _defaultdict(call: Call, expr_of: ExprOf) -> Expr | None:
    args: list[Argument] = [(None, expr_of(item)) for item in call.args] or [(None, NONE)]
    return _filled("collections.defaultdict", args, call.pairs, expr_of)


def _filled(text: str, args: list[Argument], pairs: dict[Value, Value], expr_of: ExprOf) -> Expr:
    items = [(expr_of(key_value(key)), expr_of(value)) for key, value in pairs.items()]
    return CallExpr(text, [*args, (None, DictExpr(items))] if items else args)


def _deque(call: Call, expr_of: ExprOf) -> Expr | None:
    first = call.args[0] if call.args and isinstance(call.args[0], list | tuple) else ()
    items = Sequence("[]", [expr_of(item) for item in (*first, *call.items)])
    maxlen: list[Argument] = [("maxlen", expr_of(item)) for item in call.args[1:2]]
    return CallExpr("collections.deque", [(None, items), *maxlen])


def _set(text: str) -> Reader:
    def read(call: Call, expr_of: ExprOf) -> Expr | None:
        content = call.args[0] if call.args else ()
        items = [expr_of(item) for item in content] if isinstance(content, list | tuple) else []
        return set_expr(items, frozen=text == "frozenset")

    return read


def set_expr(items: list[Expr], frozen: bool) -> Expr:
    """Return a set, with its members sorted so that the file's order does not matter."""
    items = sorted(items, key=lambda item: item.text)
    if frozen:
        return CallExpr("frozenset", [(None, Sequence("{}", items))] if items else [])
    return Sequence("{}", items) if items else CallExpr("set")


def _namespace(text: str) -> Reader:
    def read(call: Call, expr_of: ExprOf) -> Expr | None:
        names = {
            str(key): value for key, value in attributes_of(call).items() if isinstance(key, str)
        }
        if not all(is_identifier(name) for name in names):
            return None
        return CallExpr(text, [(name, expr_of(value)) for name, value in names.items()])

    return read


def _partial(call: Call, expr_of: ExprOf) -> Expr | None:
    state = call.state
    if not isinstance(state, tuple) or len(state) < 3:
        return None
    function = expr_of(state[0])
    if function is NONE:  # the stub has no name for it
        return None
    args: list[Argument] = [(None, function)]
    if isinstance(state[1], tuple):
        args += [(None, expr_of(item)) for item in state[1]]
    for key, value in (state[2] if isinstance(state[2], dict) else {}).items():
        if not isinstance(key, str) or not is_identifier(key):
            return None
        args.append((str(key), expr_of(value)))
    return CallExpr("functools.partial", args)


def _layout(call: Call, expr_of: ExprOf) -> Expr | None:
    name = call.args[0] if call.args else None
    return Name(str(name)) if name in ("torch.strided", "torch.sparse_coo") else None


def _dtype(call: Call, expr_of: ExprOf) -> Expr | None:
    code = dtype_code(call)
    name = numpy_name(code) if code else ""
    return CallExpr("np.dtype", [(None, Literal(f'"{name}"'))]) if name.isidentifier() else None


_READERS: dict[str, Reader] = {
    "torch.Size": _size,
    "torch.device": _same_arguments("torch.device"),
    "torch.serialization._get_layout": _layout,
    "builtins.complex": _same_arguments("complex"),
    "builtins.slice": _same_arguments("slice"),
    "builtins.range": _same_arguments("range"),
    "builtins.set": _set("set"),
    "builtins.frozenset": _set("frozenset"),
    "builtins.object": _same_arguments("object"),
    "collections.OrderedDict": _with_mapping("OrderedDict"),
    "collections.defaultdict": _defaultdict,
    "collections.Counter": _with_mapping("collections.Counter"),
    "collections.deque": _deque,
    "argparse.Namespace": _namespace("argparse.Namespace"),
    "types.SimpleNamespace": _namespace("types.SimpleNamespace"),
    "functools.partial": _partial,
    "pathlib.PosixPath": _same_arguments("pathlib.PurePosixPath"),
    "pathlib.WindowsPath": _same_arguments("pathlib.PureWindowsPath"),
    "pathlib.PurePosixPath": _same_arguments("pathlib.PurePosixPath"),
    "pathlib.PureWindowsPath": _same_arguments("pathlib.PureWindowsPath"),
    "datetime.timedelta": _same_arguments("datetime.timedelta"),
    "numpy.dtype": _dtype,
}


# Imports for SAFE_GLOBALS

_HARMLESS = ("allowed", "module", "reference", "unknown")
_NEVER_SAFE = frozenset({"operator.getitem", "builtins.getattr", "logging.getLogger"})
_REACHED_BY_NAME = ("torch", "torch.nn", "torch.nn.functional")
"""Modules whose names the stub writes as `torch.x` or `nn.x`, without an import of their own."""
_INERT_CLASSES = (
    "torch.optim.",
    "torch.utils.data.",
    "torch.nn.utils.",
    "torch.nn.modules.module._W",
    "torch.utils.hooks.RemovableHandle",
)
"""Beginnings of paths of torch classes that only store what they are given.

Pickle creates them with NEWOBJ. The policy judges calls and does not list each of them.
"""
_NUMPY_FUNCTIONS = {
    "numpy.core.multiarray._reconstruct": "np.zeros(0).__reduce__()[0]",
    "numpy.core.multiarray.scalar": "np.float64(0).__reduce__()[0]",
    "numpy.core.numeric._frombuffer": "np.zeros(1).__reduce_ex__(5)[0]",
    "numpy.random._pickle.__randomstate_ctor": "np.random.RandomState(0).__reduce__()[0]",
    "numpy.random._pickle.__generator_ctor": "np.random.default_rng(0).__reduce__()[0]",
    "numpy.random._pickle.__bit_generator_ctor": "np.random.MT19937(0).__reduce__()[0]",
    "numpy.random.bit_generator.SeedSequence": "np.random.SeedSequence",
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": (
        "np.random.SeedSequence(0).__reduce__()[0]"
    ),
    "numpy.random._mt19937.MT19937": "np.random.MT19937",
    "numpy.random._pcg64.PCG64": "np.random.PCG64",
    "numpy.random._pcg64.PCG64DXSM": "np.random.PCG64DXSM",
    "numpy.random._philox.Philox": "np.random.Philox",
    "numpy.random._sfc64.SFC64": "np.random.SFC64",
}
"""Names that moved between numpy 1 and 2, or are private: taken from an object of numpy."""


@dataclass(slots=True)
class ImportTable:
    """Source for library names, and the imports that it needs.

    Attributes:
        names: identifiers of the stub.
        imported_names: for each module, names that are imported from it and what the stub
            calls them.
        modules: modules of the standard library that are imported whole.
    """

    names: Names
    imported_names: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    _idents: dict[tuple[str, str], str] = field(default_factory=dict)

    def safe_name(self, module: str, name: str) -> str | None:
        """Return source for an entry of SAFE_GLOBALS.

        Returns None for names that can act, and for names of unknown origin.
        """
        path = f"{module}.{name}"
        if not all(is_identifier(part) for part in path.split(".")) or path in _NEVER_SAFE:
            return None
        if path == "torch.ScriptObject":  # class registered by torch's C++ code: packed weights
            return path
        numpy_text = _NUMPY_FUNCTIONS.get(path.replace("._core.", ".core."))
        if numpy_text is not None:
            return numpy_text
        verdict = verdict_of(module, name)
        if verdict is None and path.startswith(_INERT_CLASSES):
            verdict = "allowed" if name.lstrip("_")[:1].isupper() else None
        if verdict not in _HARMLESS:
            return None
        top = module.partition(".")[0]
        if top == "torch":
            return self._torch_name(module, name)
        if top == "numpy":
            return f"np.{name}" if module == "numpy" else None
        if module == "builtins":
            return name
        if top not in sys.stdlib_module_names:
            return None
        module = module.removesuffix("._local")
        if module == "collections" and name == "OrderedDict":
            return name
        self.modules.add(module)
        return f"{module}.{name}"

    def _torch_name(self, module: str, name: str) -> str:
        module = "torch._tensor" if module == "torch.tensor" else module
        path = f"{module}.{name}"
        row = lookup(path)
        if row is not None and row.path == path and path.startswith(NN):
            return class_text(path)
        text = global_text(module, name) if module in _REACHED_BY_NAME else None
        if text is not None:
            return text
        outer, dot, inner = name.partition(".")
        ident = self._idents.get((module, outer))
        if ident is None:
            ident = self._idents[module, outer] = self.names.new(outer)
            self.imported_names.setdefault(module, []).append((outer, ident))
        return f"{ident}{dot}{inner}"
