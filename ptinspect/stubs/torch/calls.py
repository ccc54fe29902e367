"""Modules of torch.nn as constructor calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.pickling.pyobjects import attributes_of
from ptinspect.pickling.values import Call, Value
from ptinspect.stubs.expr.identifiers import string
from ptinspect.stubs.expr.literals import known_values, plain, zeros
from ptinspect.stubs.expr.nodes import NONE, Argument, Atom, Expr, Items, Make, Many, Pairs
from ptinspect.stubs.torch.shapes import CHILDREN, SHAPES, Shapes, given
from ptinspect.torchnn import MISSING, ModuleClass, lookup
from ptinspect.torchnn.arguments import Name

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor

    ExprOf = Callable[[Value], Expr]

NN = "torch.nn.modules."
PRINTED = ("torch.ao.quantization.", "torch.quantization.")
WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": ("module", "nn.DataParallel"),
    "torch.optim.swa_utils.AveragedModel": ("module", "torch.optim.swa_utils.AveragedModel"),
    "torch._dynamo.eval_frame.OptimizedModule": ("_orig_mod", "torch.compile"),
}
INTERNAL = frozenset(
    (  # noqa: SIM905
        "_all_weights _flat_weight_refs _flat_weights _flat_weights_names _initialize_hook"
        " _is_torch_compile _keys _load_hook _qkv_same_embed_dim _reversed_padding_repeated_twice"
        " _size activation_relu_or_gelu align_corners bias_k bias_v head_dim head_size in_channels"
        " in_features max_val min_val mode n_clusters name num_features output_padding proj_size"
        " recompute_scale_factor shortlist_size transposed use_nested_tensor value inplace"
        " padding_mode freeze device_ids device_type dim output_device src_device_obj kernel_size"
        " module avg_fn multi_avg_fn use_buffers dynamo_ctx forward _forward_hooks"
    ).split()
)
"""Attributes that torch.nn's own classes hold besides their arguments: no one set them."""


def class_text(path: str) -> str:
    """A torch class as source: `nn.Linear`, or its whole path where torch.nn does not have it."""
    name = path.rpartition(".")[2]
    if path.startswith(NN) and not name.startswith("_") and "Quantizable" not in name:
        return f"nn.{name}"
    return path


def tensors_below(document: Document, module: Module) -> Shapes:
    """Parameters and buffers that are not None, by dotted name."""
    made: Shapes = {}
    for name, inner in below(module):
        for store in (PARAMETERS, BUFFERS):
            for key, value in inner.members(store):
                tensor = document.tensor_of(value)
                if tensor is not None:
                    made[f"{name}.{key}" if name else key] = tensor.shape
    return made


def below(module: Module, limit: int = 10_000) -> Iterator[tuple[str, Module]]:
    """The module and all that lie in it, by dotted name; no module twice."""
    todo = [("", module)]
    seen: set[int] = set()
    while todo and len(seen) < limit:
        name, inner = todo.pop()
        if id(inner.call) in seen:
            continue
        seen.add(id(inner.call))
        yield name, inner
        for key, value in inner.members(MODULES):
            child = module_of(value)
            if child is not None:
                todo.append((f"{name}.{key}" if name else key, child))


def as_constructed(document: Document, module: Module, row: ModuleClass) -> bool:
    """Whether the constructor alone makes what the file has: these tensors, these children."""
    name = row.name
    if not row.path.startswith(NN):
        names = [key for key, _ in module.members(MODULES)]
        return row.path.startswith("torch.ao.") and names in ([], ["_packed_params"])
    if name.startswith("Lazy"):
        return True
    found = tensors_below(document, module)
    shapes = SHAPES.get(name)
    wanted = CHILDREN.get(name, {})
    held = {key: module_of(value) for key, value in module.members(MODULES)}
    for key, child in held.items():
        known = lookup(child.class_path) if child is not None else None
        if known is None or wanted.get(key) != known.name:
            return False
    if len(held) != len(wanted):
        return False
    if shapes is not None:
        return dict(found) == shapes(given(row, module.attributes))
    arguments = {argument.name for argument in row.arguments}
    return not held and all(key in arguments for key in found)


def default_of(value: Value) -> Expr | None:
    """An argument's default, or what an instance holds for it, as source."""
    if value is MISSING or (isinstance(value, str) and value.startswith("=")):
        return None
    if isinstance(value, Name):
        return Atom(str(value))
    if isinstance(value, tuple):
        items = [plain(item) for item in value]
        return Items("()", [item for item in items if item is not None])
    return plain(value)


def constructed(row: ModuleClass, module: Module, expr_of: ExprOf) -> Make | None:
    """`nn.Linear(in_features=2, out_features=1)`: with what differs from the defaults."""
    args: list[Argument] = []
    positional = 0
    for argument, value in row.constructor(module.attributes):
        if value is MISSING or argument.kind in ("*", "**"):
            return None
        if _by_place(row, argument.name, len(args) == positional) and argument.required:
            positional += 1
        args.append((argument.name, expr_of(value)))
    return Make(class_text(row.path), args, positional, _unset(row))


_defaults: dict[str, dict[str, Expr]] = {}  # by a class's path
_placed: dict[tuple[str, str], bool] = {}


def _unset(row: ModuleClass) -> dict[str, Expr]:
    """What the arguments are that are not given."""
    if row.path not in _defaults:
        made = _defaults[row.path] = {}
        for argument in row.arguments:
            stored = argument.stored if isinstance(argument.stored, tuple) else argument.default
            default = default_of(stored)
            if default is not None:
                made[argument.name] = default
    return _defaults[row.path]


def _by_place(row: ModuleClass, name: str, first: bool) -> bool:
    """Whether torch prints the argument without its name."""
    key = row.path, name
    if key not in _placed:
        starts = f"{{{name}}}", f"{{{name}!r}}"
        _placed[key] = any(word.startswith(starts) for word in row.template.split())
    return first and _placed[key]


def parameter(tensor: Tensor) -> Expr:
    """`nn.Parameter(torch.zeros(2, 3))`."""
    if tensor.uninitialized:
        return Make("nn.parameter.UninitializedParameter", [])
    frozen: list[Argument] = [] if tensor.requires_grad else [("requires_grad", Atom("False"))]
    unset: dict[str, Expr] = {"requires_grad": Atom("True")}
    return Make("nn.Parameter", [("data", zeros(tensor)), *frozen], 1, unset)


def buffer(tensor: Tensor, persistent: bool) -> Expr:
    """A tensor for a buffer; with its values, where no state_dict brings them."""
    if tensor.uninitialized:
        return Make("nn.parameter.UninitializedBuffer", [])
    return zeros(tensor) if persistent else known_values(tensor)


def container(row: ModuleClass, module: Module, expr_of: ExprOf) -> Expr | None:
    """Sequential, ModuleList and ModuleDict with what they hold."""
    held = list(module.members(MODULES))
    if any(module_of(value) is None for _, value in held):
        return None
    if any(True for store in (PARAMETERS, BUFFERS) for _ in module.members(store)):
        return None
    numbered = [key for key, _ in held] == [str(at) for at in range(len(held))]
    items = [expr_of(value) for _, value in held]
    if row.name in ("Sequential", "ModuleList") and numbered:
        return Many(f"nn.{row.name}", items, row.name == "ModuleList")
    pairs: list[tuple[Expr, Expr]] = [
        (Atom(string(key)), item) for (key, _), item in zip(held, items, strict=True)
    ]
    if any(not _may_add(key) for key, _ in held) or row.name == "ModuleList":
        return None
    if row.name == "Sequential":
        return Make("nn.Sequential", [(None, Make("OrderedDict", [(None, Pairs(pairs))]))])
    return Make("nn.ModuleDict", [(None, Pairs(pairs))] if pairs else [])


def normed(row: ModuleClass, module: Module, expr_of: ExprOf) -> Expr | None:
    """torch.nn.utils.weight_norm and spectral_norm, which rename the weight."""
    held = [key for key, value in module.members(PARAMETERS) if value is not None]
    inner: Make | None = None
    if {"weight_g", "weight_v"} <= set(held) and set(held) <= {"weight_g", "weight_v", "bias"}:
        inner = constructed(row, module, expr_of)
        norm = "nn.utils.weight_norm"
    else:
        kept = {key for key, value in module.members(BUFFERS) if value is not None}
        if "weight_orig" in held and {"weight_u"} <= kept <= {"weight_u", "weight_v"}:
            inner = constructed(row, module, expr_of)
            norm = "nn.utils.spectral_norm"
    if inner is None:
        return None
    dims: list[Argument] = []
    hooks = module.attributes.get("_forward_pre_hooks")
    for hook in (hooks.pairs if isinstance(hooks, Call) else hooks or {}).values():  # type: ignore[attr-defined]
        own = attributes_of(hook) if isinstance(hook, Call) else {}
        if own.get("dim") not in (None, 0) and isinstance(own.get("dim"), int):
            dims = [("dim", expr_of(own["dim"]))]
    return Make(norm, [(None, inner), *dims])


TAKEN = frozenset(
    (  # noqa: SIM905
        "add_module apply bfloat16 buffers call_super_init children clear compile copy cpu cuda"
        " double dump_patches eval extra_repr float forward get_buffer get_extra_state"
        " get_parameter get_submodule half insert ipu items keys load_state_dict modules mtia"
        " named_buffers named_children named_modules named_parameters parameters pop popitem"
        " register_backward_hook register_buffer register_forward_hook register_forward_pre_hook"
        " register_full_backward_hook register_full_backward_pre_hook"
        " register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module"
        " register_parameter register_state_dict_post_hook register_state_dict_pre_hook"
        " requires_grad_ set_extra_state set_submodule setdefault share_memory state_dict to"
        " to_empty train training type update values xpu zero_grad append extend T_destination"
    ).split()
)
"""Names that a module has already, so that add_module and register_buffer refuse them."""


def _may_add(key: str) -> bool:
    return bool(key) and "." not in key and key not in TAKEN and not key.startswith("_")


def stores(
    document: Document, module: Module, expr_of: ExprOf
) -> Iterator[tuple[str, list[tuple[Expr, Expr]]]]:
    """Parameters, buffers and children with their names, for a module put together by hand."""
    left_out = module.non_persistent
    for name, store in (("parameters", PARAMETERS), ("buffers", BUFFERS), ("children", MODULES)):
        pairs: list[tuple[Expr, Expr]] = []
        for key, value in module.members(store):
            tensor = document.tensor_of(value)
            if value is None:
                made: Expr = NONE
            elif store == MODULES or tensor is None:
                made = expr_of(value)
            elif store == PARAMETERS:
                made = parameter(tensor)
            else:
                told = module.class_path.startswith(PRINTED)  # repr shows what they hold
                made = buffer(tensor, key not in left_out and not told)
            pairs.append((Atom(string(key)), made))
        if pairs:
            yield name, pairs
