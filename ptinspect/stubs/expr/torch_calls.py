"""Modules of torch.nn as constructor calls: `nn.Linear(in_features=2, out_features=1)`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.pickling.pyobjects import as_mapping, attributes_of
from ptinspect.pickling.values import Call, Value
from ptinspect.stubs.expr.literals import literal, string, tensor_values, zeros
from ptinspect.stubs.expr.nodes import (
    FALSE,
    NONE,
    TRUE,
    UNSOLVED,
    Argument,
    CallExpr,
    DictExpr,
    Expr,
    Literal,
    ModuleContainer,
    Name,
    Sequence,
)
from ptinspect.text import read_package_file
from ptinspect.torchnn.arguments import Name as SourceName
from ptinspect.torchnn.attributes import MISSING
from ptinspect.torchnn.classes import ModuleClass, Shapes, lookup

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor

    ExprOf = Callable[[Value], Expr]
    TensorOf = Callable[[Value], Tensor | None]

NN = "torch.nn.modules."
ASSEMBLED = "_assembled"
"""The stub's function that puts a module together from its parts, without a constructor."""
MAX_MODULES = 10_000
"""Modules whose tensors are compared with what a constructor creates."""
CODERS = ("TransformerEncoder", "TransformerDecoder")
WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": ("module", "nn.DataParallel"),
    "torch.optim.swa_utils.AveragedModel": ("module", "torch.optim.swa_utils.AveragedModel"),
    "torch._dynamo.eval_frame.OptimizedModule": ("_orig_mod", "torch.compile"),
}
_QUANTIZED = ("torch.ao.quantization.", "torch.quantization.")
MODULE_METHODS = frozenset(read_package_file("torchnn/tables/module_methods.txt").split())
"""Names that nn.Module has itself: add_module and register_buffer refuse them."""


def class_text(path: str) -> str:
    """Return a torch class as source: `nn.Linear`, or its path if torch.nn does not export it."""
    name = path.rpartition(".")[2]
    if path.startswith(NN) and not name.startswith("_") and "Quantizable" not in name:
        return f"nn.{name}"
    return path


def torch_module(module: Module, row: ModuleClass, expr_of: ExprOf, tensor_of: TensorOf) -> Expr:
    """Return a module of a torch class: a constructor call, or a call that assembles it."""
    wrapper = WRAPPERS.get(row.path)
    if wrapper is not None:
        inner = dict(module.members(MODULES)).get(wrapper[0])
        return CallExpr(wrapper[1], [(None, expr_of(inner))])
    call: Expr | None
    if row.name in ("Sequential", "ModuleList", "ModuleDict"):
        call = _module_container(row, module, expr_of)
    elif row.name in CODERS:
        call = _transformer_coder(row, module, expr_of)
    elif row.name in ("ParameterList", "ParameterDict"):
        call = _parameter_container(row, module, expr_of, tensor_of)
    elif _constructor_suffices(row, module, tensor_of):
        call = constructor_call(row, module, expr_of)
    else:
        call = _normalized_weight(row, module, expr_of)
    return call if call is not None else assemble(class_text(row.path), module, expr_of, tensor_of)


def constructor_call(row: ModuleClass, module: Module, expr_of: ExprOf) -> CallExpr | None:
    """Return `nn.Linear(in_features=2, out_features=1)`, without arguments equal to defaults.

    Returns None if an argument is not recorded, or the constructor takes `*args`.
    """
    args: list[Argument] = []
    positional = 0
    for argument, value in row.constructor(module.attributes):
        if value is MISSING or argument.kind in ("*", "**"):
            return None
        first = len(args) == positional
        if first and argument.required and _is_printed_without_name(row, argument.name):
            positional += 1
        args.append((argument.name, expr_of(value)))
    return CallExpr(class_text(row.path), args, positional, default_exprs(row))


def default_expr(value: Value) -> Expr | None:
    """Return an argument's default as source; None if it has none or it has no literal."""
    if value is MISSING or (isinstance(value, str) and value.startswith("=")):
        return None
    if isinstance(value, SourceName):
        return Name(str(value))
    if isinstance(value, tuple):
        items = [literal(item) for item in value]
        return Sequence("()", [item for item in items if item is not None])
    return literal(value)


@cache
def default_exprs(row: ModuleClass) -> dict[str, Expr]:
    """Return what instances store for arguments that were not passed."""
    defaults = {}
    for argument in row.arguments:
        is_tuple = isinstance(argument.stored, tuple)
        default = default_expr(argument.stored if is_tuple else argument.default)
        if default is not None:
            defaults[argument.name] = default
    return defaults


@cache
def _is_printed_without_name(row: ModuleClass, name: str) -> bool:
    starts = f"{{{name}}}", f"{{{name}!r}}"
    return any(word.startswith(starts) for word in row.template.split())


# Comparison with what a constructor creates


def tensor_shapes(module: Module, tensor_of: TensorOf) -> Shapes:
    """Return the shapes of the parameters and buffers below a module, by dotted name."""
    shapes: Shapes = {}
    for name, submodule in islice(module.walk(), MAX_MODULES):
        for store in (PARAMETERS, BUFFERS):
            for key, value in submodule.members(store):
                tensor = tensor_of(value)
                if tensor is not None:
                    shapes[f"{name}.{key}" if name else key] = tensor.shape
    return shapes


def has_children_of(row: ModuleClass, module: Module, exactly: bool) -> bool:
    """Return True if a module has the children that the constructor of a torch class creates."""
    expected = row.children
    children = {key: module_of(value) for key, value in module.members(MODULES)}
    if exactly and set(children) != set(expected):
        return False
    rows = {key: lookup(child.class_path) for key, child in children.items() if child is not None}
    names = {key: child_row.name for key, child_row in rows.items() if child_row is not None}
    return all(names.get(key) == name for key, name in expected.items())


def _constructor_suffices(row: ModuleClass, module: Module, tensor_of: TensorOf) -> bool:
    """Return True if the constructor alone creates these tensors and these children."""
    if not row.path.startswith(NN):
        children = [key for key, _ in module.members(MODULES)]
        return row.path.startswith("torch.ao.") and children in ([], ["_packed_params"])
    if row.name.startswith("Lazy"):
        return True
    if not has_children_of(row, module, exactly=True):
        return False
    shapes = tensor_shapes(module, tensor_of)
    if row.has_shapes:
        return shapes == row.created_shapes(row.argument_values(module.attributes))
    arguments = {argument.name for argument in row.arguments}
    return not row.children and all(key in arguments for key in shapes)


# Tensors, containers and the rest


def parameter(tensor: Tensor) -> Expr:
    """Return `nn.Parameter(torch.zeros(2, 3))`."""
    if tensor.uninitialized:
        return CallExpr("nn.parameter.UninitializedParameter")
    args: list[Argument] = [("data", zeros(tensor))]
    if not tensor.requires_grad:
        args.append(("requires_grad", FALSE))
    return CallExpr("nn.Parameter", args, 1, {"requires_grad": TRUE})


def buffer(tensor: Tensor, persistent: bool) -> Expr:
    """Return a tensor for a buffer, with its values if no state_dict contains them."""
    if tensor.uninitialized:
        return CallExpr("nn.parameter.UninitializedBuffer")
    return zeros(tensor) if persistent else tensor_values(tensor)


def _is_numbered(keys: list[str]) -> bool:
    return keys == [str(index) for index in range(len(keys))]


def _named(keys: list[str], items: list[Expr]) -> DictExpr:
    return DictExpr([(Literal(string(key)), item) for key, item in zip(keys, items, strict=True)])


def _module_container(row: ModuleClass, module: Module, expr_of: ExprOf) -> Expr | None:
    """Return Sequential, ModuleList or ModuleDict with its items."""
    children = dict(module.members(MODULES))
    if any(module_of(value) is None for value in children.values()):
        return None
    if any(True for store in (PARAMETERS, BUFFERS) for _ in module.members(store)):
        return None
    keys, items = list(children), [expr_of(value) for value in children.values()]
    if row.name in ("Sequential", "ModuleList") and _is_numbered(keys):
        return ModuleContainer(f"nn.{row.name}", items, row.name == "ModuleList")
    if row.name == "ModuleList":
        return None
    if any(not key or "." in key or key in MODULE_METHODS or key[0] == "_" for key in keys):
        return None  # `add_module` refuses it
    content = _named(keys, items)
    if row.name == "Sequential":
        return CallExpr("nn.Sequential", [(None, CallExpr("OrderedDict", [(None, content)]))])
    return CallExpr("nn.ModuleDict", [(None, content)] if keys else [])


def _parameter_container(
    row: ModuleClass, module: Module, expr_of: ExprOf, tensor_of: TensorOf
) -> Expr | None:
    """Return ParameterList or ParameterDict if it contains only parameters."""
    parameters = dict(module.members(PARAMETERS))
    others = {key for key, _ in module.other_attributes()} - {"_size", "_keys"}
    if others or list(module.members(BUFFERS)) or list(module.members(MODULES)):
        return None
    if any(tensor_of(value) is None for value in parameters.values()):
        return None
    keys, items = list(parameters), [expr_of(value) for value in parameters.values()]
    if row.name == "ParameterDict":
        return CallExpr("nn.ParameterDict", [(None, _named(keys, items))] if keys else [])
    return ModuleContainer("nn.ParameterList", items, True) if _is_numbered(keys) else None


def _transformer_coder(row: ModuleClass, module: Module, expr_of: ExprOf) -> Expr | None:
    """Return nn.TransformerEncoder or Decoder if all its layers are equal."""
    layers = module_of(dict(module.members(MODULES)).get("layers"))
    texts = {expr_of(value).text for _, value in layers.members(MODULES)} if layers else set()
    if len(texts) != 1 or UNSOLVED in texts.pop():
        return None
    return constructor_call(row, module, expr_of)


def _normalized_weight(row: ModuleClass, module: Module, expr_of: ExprOf) -> Expr | None:
    """Return `nn.utils.weight_norm(...)` or `spectral_norm(...)`, which rename the weight."""
    parameters = {key for key, value in module.members(PARAMETERS) if value is not None}
    buffers = {key for key, value in module.members(BUFFERS) if value is not None}
    if {"weight_g", "weight_v"} <= parameters <= {"weight_g", "weight_v", "bias"}:
        norm = "nn.utils.weight_norm"
    elif "weight_orig" in parameters and {"weight_u"} <= buffers <= {"weight_u", "weight_v"}:
        norm = "nn.utils.spectral_norm"
    else:
        return None
    call = constructor_call(row, module, expr_of)
    if not call:
        return None
    dims: list[Argument] = []
    for hook in (as_mapping(module.attributes.get("_forward_pre_hooks")) or {}).values():
        dim = attributes_of(hook).get("dim") if isinstance(hook, Call) else None
        if isinstance(dim, int) and dim != 0:
            dims = [("dim", expr_of(dim))]
    return CallExpr(norm, [(None, call), *dims])


def assemble(kind: str, module: Module, expr_of: ExprOf, tensor_of: TensorOf) -> Expr:
    """Return a call that puts a module together from its parts, without its constructor."""
    args: list[Argument] = [(None, Name(kind))]
    others: list[tuple[Expr, Expr]] = [
        (Literal(string(key)), expr_of(value))
        for key, value in module.other_attributes()
        if not key.startswith("_forward")
    ]
    args += [("attributes", DictExpr(others))] if others else []
    left_out = module.non_persistent
    # The repr of observers shows the values of their buffers.
    values_are_printed = module.class_path.startswith(_QUANTIZED)
    for name, store in (("parameters", PARAMETERS), ("buffers", BUFFERS), ("children", MODULES)):
        pairs: list[tuple[Expr, Expr]] = []
        for key, value in module.members(store):
            tensor = tensor_of(value)
            if value is None:
                expr: Expr = NONE
            elif store == MODULES or not tensor:
                expr = expr_of(value)
            elif store == PARAMETERS:
                expr = parameter(tensor)
            else:
                expr = buffer(tensor, key not in left_out and not values_are_printed)
            pairs.append((Literal(string(key)), expr))
        if pairs:
            args.append((name, DictExpr(pairs)))
    return CallExpr(ASSEMBLED, args)
