"""Modules in source: the calls that create them, and the ways to reach them in a model.

An attribute may refer to modules of the same model: `self.layers = [self.block]`, a parent, a bound
method. They are not created a second time, but accessed where they are registered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.pickling.pyobjects import as_mapping, attributes_of
from ptinspect.pickling.values import Call, Value
from ptinspect.stubs.collect.source import (
    FALSE,
    NONE,
    TRUE,
    UNSOLVED,
    Access,
    Argument,
    CallExpr,
    Expr,
    ModuleContainer,
    Name,
    Sequence,
    call_expr,
)
from ptinspect.stubs.collect.values import (
    NN,
    ExprOf,
    TensorOf,
    class_text,
    is_attribute,
    is_index,
    literal,
    named,
    string,
    tensor_values,
    zeros,
)
from ptinspect.text import read_package_file
from ptinspect.torchnn.attributes import MISSING
from ptinspect.torchnn.attributes import Name as SourceName
from ptinspect.torchnn.classes import ModuleClass, Shapes, internal_attributes, lookup

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor

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
PARAMETER_CONTAINERS, PARAMETER_RECORDS = ("ParameterList", "ParameterDict"), ("_size", "_keys")
"""Containers of parameters, and the attributes in which they record the keys of their items."""
_QUANTIZED = ("torch.ao.quantization.", "torch.quantization.")
MODULE_METHODS = frozenset(read_package_file("torchnn/tables/module_methods.txt").split())
"""Names that nn.Module has itself: add_module and register_buffer refuse them."""


def torch_module(module: Module, row: ModuleClass, expr_of: ExprOf, tensor_of: TensorOf) -> Expr:
    """Return a module of a torch class: a constructor call, or a call that assembles it."""
    wrapper = WRAPPERS.get(row.path)
    if wrapper is not None:
        inner = dict(module.members(MODULES)).get(wrapper[0])
        return call_expr(wrapper[1], expr_of(inner))
    call: Expr | None
    if row.name in ("Sequential", "ModuleList", "ModuleDict"):
        call = _module_container(row, module, expr_of)
    elif row.name in CODERS:
        layers = module_of(dict(module.members(MODULES)).get("layers"))
        texts = {expr_of(value).text for _, value in layers.members(MODULES)} if layers else set()
        are_equal = len(texts) == 1 and UNSOLVED not in texts.pop()
        call = constructor_call(row, module, expr_of) if are_equal else None
    elif row.name in PARAMETER_CONTAINERS:
        others = {key for key, _ in module.other_attributes()} - set(PARAMETER_RECORDS)
        stores = *module.members(BUFFERS), *module.members(MODULES)
        call = None if others or stores else base_call(row, module, expr_of, tensor_of)
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
def argument_attributes(row: ModuleClass) -> frozenset[str]:
    """Return the attributes that the arguments of a torch class set or are derived from."""
    names = {argument.name for argument in row.arguments}
    for argument in row.arguments:
        sources = argument.source.split("|")
        names |= {source.split("?")[0].split(".")[0].lstrip("@#") for source in sources}
    return frozenset(names | internal_attributes())


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
        return call_expr("nn.parameter.UninitializedParameter")
    args: list[Argument] = [("data", zeros(tensor))]
    if not tensor.requires_grad:
        args.append(("requires_grad", FALSE))
    return CallExpr("nn.Parameter", args, 1, {"requires_grad": TRUE})


def buffer(tensor: Tensor, persistent: bool) -> Expr:
    """Return a tensor for a buffer, with its values if no state_dict contains them."""
    if tensor.uninitialized:
        return call_expr("nn.parameter.UninitializedBuffer")
    return zeros(tensor) if persistent else tensor_values(tensor)


def _is_numbered(keys: Iterable[str]) -> bool:
    return all(key == str(index) for index, key in enumerate(keys))


def _module_container(row: ModuleClass, module: Module, expr_of: ExprOf) -> Expr | None:
    """Return Sequential, ModuleList or ModuleDict with its items."""
    children = dict(module.members(MODULES))
    has_tensors = any(True for store in (PARAMETERS, BUFFERS) for _ in module.members(store))
    if has_tensors or any(module_of(value) is None for value in children.values()):
        return None
    items = {key: expr_of(value) for key, value in children.items()}
    if row.name != "ModuleDict" and _is_numbered(items):
        return ModuleContainer(f"nn.{row.name}", [*items.values()], row.name == "ModuleList")
    if row.name == "ModuleList":
        return None
    if any(not key or "." in key or key in MODULE_METHODS or key[0] == "_" for key in items):
        return None  # `add_module` refuses it
    if row.name == "Sequential":
        return call_expr("nn.Sequential", call_expr("OrderedDict", *named(items)))
    return call_expr("nn.ModuleDict", *named(items))


def base_call(
    row: ModuleClass, module: Module, expr_of: ExprOf, tensor_of: TensorOf
) -> Expr | None:
    """Return the call of a torch class that has what a module of a subclass has from it."""
    if row.name not in PARAMETER_CONTAINERS:
        return constructor_call(row, module, expr_of)
    parameters = dict(module.members(PARAMETERS))
    if any(tensor_of(value) is None for value in parameters.values()):
        return None
    items = {key: expr_of(value) for key, value in parameters.items()}
    if row.name == "ParameterDict":
        arguments = named(items)
        if list(items) != sorted(items):  # it sorts the keys of a dict
            arguments = [call_expr("OrderedDict", *arguments)]
        return call_expr("nn.ParameterDict", *arguments)
    is_list = _is_numbered(items)
    return ModuleContainer("nn.ParameterList", [*items.values()], True) if is_list else None


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
    dims: dict[str, Expr] = {}
    for hook in (as_mapping(module.attributes.get("_forward_pre_hooks")) or {}).values():
        dim = attributes_of(hook).get("dim") if isinstance(hook, Call) else None
        if isinstance(dim, int) and dim != 0:
            dims["dim"] = expr_of(dim)
    return call_expr(norm, call, **dims)


def assemble(kind: str, module: Module, expr_of: ExprOf, tensor_of: TensorOf) -> Expr:
    """Return a call that puts a module together from its parts, without its constructor."""
    groups: dict[str, dict[str, Expr]] = {}
    groups["attributes"] = {
        key: expr_of(value)
        for key, value in module.other_attributes()
        if not key.startswith("_forward")
    }
    left_out = module.non_persistent
    # The repr of observers shows the values of their buffers.
    values_are_printed = module.class_path.startswith(_QUANTIZED)
    for name, store in (("parameters", PARAMETERS), ("buffers", BUFFERS), ("children", MODULES)):
        groups[name] = {}
        for key, value in module.members(store):
            tensor = tensor_of(value) if store != MODULES else None
            if tensor is None:
                groups[name][key] = NONE if value is None else expr_of(value)
            elif store == PARAMETERS:
                groups[name][key] = parameter(tensor)
            else:
                is_in_state_dict = key not in left_out and not values_are_printed
                groups[name][key] = buffer(tensor, is_in_state_dict)
    keywords = {name: named(group)[0] for name, group in groups.items() if group}
    return call_expr(ASSEMBLED, Name(kind), **keywords)


# Ways through a model


def walk_model(root: Module, name: str) -> Iterator[tuple[Access, Call, Module | None, str]]:
    """Yield every module and tensor of a model, parents first: the access to it, its call, the
    module or None, and `_parameters`, `_buffers` or `_modules`.

    A module that is reachable by several paths is yielded for each, but entered only once.
    """
    seen: set[int] = set()
    stack = [(Access(name), root)]
    while stack:
        access, module = stack.pop()
        yield access, module.call, module, MODULES
        if id(module.call) in seen:
            continue
        seen.add(id(module.call))
        for store in (PARAMETERS, BUFFERS):
            for key, value in module.members(store):
                if isinstance(value, Call):
                    is_name = is_attribute(key) and key not in MODULE_METHODS
                    step = f".{key}" if is_name else f".{store}[{string(key)}]"
                    yield Access(step, access), value, None, store
        children = [(key, module_of(value)) for key, value in module.members(MODULES)]
        row = lookup(module.class_path)
        kind = row.name if row is not None else ""
        for key, child in reversed(children):
            step = f"._modules[{string(key)}]"
            if kind in ("Sequential", "ModuleList") and is_index(key) and str(int(key)) == key:
                step = f"[{key}]"
            elif kind == "ModuleDict":
                step = f"[{string(key)}]"
            elif is_attribute(key) and key not in MODULE_METHODS:
                step = f".{key}"
            if child is not None:
                stack.append((Access(step, access, key), child))


class ModelParts(NamedTuple):
    """Ids of the calls of all modules and tensors; `shared` are those with several paths."""

    ids: set[int]
    shared: set[int]


def model_parts(roots: Iterable[Module]) -> ModelParts:
    """Collect the modules and tensors below some modules."""
    stack = list(roots)
    parts = ModelParts({id(module.call) for module in stack}, set())
    while stack:
        module = stack.pop()
        for store in (MODULES, PARAMETERS, BUFFERS):
            for _, value in module.members(store):
                if isinstance(value, Call) and id(value) in parts.ids:
                    parts.shared.add(id(value))
                elif isinstance(value, Call):
                    parts.ids.add(id(value))
                    child = module_of(value) if store == MODULES else None
                    stack += [child] if child is not None else []
    return parts
