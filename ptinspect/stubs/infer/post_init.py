"""Infer what is set on a model once it is built.

These are ties between modules, attributes set on torch's own modules, dtypes, frozen parameters and
training modes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.document.modules import PARAMETERS, Module, registers_itself
from ptinspect.pickling.pyobjects import GETATTR
from ptinspect.stubs.collect.definitions import Deferred, Instance
from ptinspect.stubs.collect.modules import argument_attributes, walk_model
from ptinspect.stubs.collect.object_graph import ObjectGraph
from ptinspect.stubs.collect.references import parts_in, shared_attribute
from ptinspect.stubs.collect.source import NONE, Access, Expr, Literal, call_expr
from ptinspect.stubs.collect.values import FLOATS, is_attribute, quantized_zeros, string
from ptinspect.stubs.infer.constructors import Assignment, InferredClass
from ptinspect.text import join_names
from ptinspect.torchnn.attributes import packed_parameters
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.values import Value

MIN_MODULES = 3
"""Modules with the same attribute from which it is set in a loop."""
MAX_HOOKED = 3
"""Modules that are listed for a hook."""
_REGISTERED_HOOKS = ("torch.nn.utils.weight_norm.", "torch.nn.utils.spectral_norm.")
"""Hooks that the functions of these modules register."""
DTYPE_METHODS = {
    "float16": "half()", "bfloat16": "bfloat16()", "float64": "double()", "float32": "float()",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class _Node:
    """A module at its first path, with facts about it and all modules below.

    Attributes:
        tensors: store, access and tensor of each parameter and buffer.
        modes: number of modules in training mode and in evaluation mode.
        frozen: whether parameters are frozen.
    """

    module: Module
    access: Access
    children: list[_Node] = field(default_factory=list)
    tensors: list[tuple[bool, Access, Tensor]] = field(default_factory=list)
    modes: dict[bool, int] = field(default_factory=dict)
    dtypes: set[str] = field(default_factory=set)
    frozen: set[bool] = field(default_factory=set)


def infer_post_init(
    objects: ObjectGraph,
    classes: dict[str, InferredClass],
    deferred: Iterable[Deferred],
    root: Module,
    name: str,
) -> tuple[list[Assignment], list[Deferred], list[Assignment]]:
    """Infer what has to be set on a model.

    Returns:
        Statements in their order, the deferred attributes that they set, and training modes. These
        `build()` sets: they are no part of a class. Their variable is `model`.
    """
    nodes, ties, paths = _collect(objects, root, name)
    states = [*_frozen(nodes[0], classes, objects), *_dtypes(nodes[0])]
    modes = list(_modes(nodes[0]))
    rows = [lookup(node.module.class_path) for node in nodes]
    packed_weights = [
        statement
        for node, row in zip(nodes, rows, strict=True)
        if row is not None and row.path.startswith("torch.ao.")
        for statement in _per_channel_weight(objects, node)
    ]
    in_loop: list[Assignment] = []
    attributes: dict[tuple[str, str], tuple[Expr, list[Access]]] = {}
    late = {(id(item.module.call), item.name): item for item in deferred}
    for node, row in zip(nodes, rows, strict=True):
        extra: dict[str, Value] = {}
        if not row or id(node.module.call) in objects.assembled:
            continue
        if row.path.startswith("torch.ao."):
            extra = {key: node.module.attributes.get(key) for key in ("scale", "zero_point")}
            extra = {key: item for key, item in extra.items() if isinstance(item, int | float)}
        elif row.path.startswith("torch.nn.modules."):
            for key, value in node.module.other_attributes():
                if key in argument_attributes(row) or not is_attribute(key):
                    continue  # its class sets it
                if parts_in(value, objects.model.ids)[0]:
                    late[id(node.module.call), key] = Deferred(node.module, key)
                else:
                    extra[key] = value
        for key, value in extra.items():
            expr = objects.expr_of(value)
            if expr.depth <= 2:
                attributes.setdefault((key, expr.text), (expr, []))[1].append(node.access)
    for (key, text), (expr, accesses) in attributes.items():
        is_everywhere = len(accesses) >= MIN_MODULES and expr.depth == 0
        for node in nodes if is_everywhere else ():  # transformers sets some on all modules
            others = dict(node.module.other_attributes())
            if key not in others or objects.expr_of(others[key]).text != text:
                is_everywhere = False
                break
        if is_everywhere:
            in_loop.append(Assignment(nodes[0].access, f".{key}", expr, for_all_modules=True))
        else:
            in_loop += [Assignment(access, f".{key}", expr) for access in accesses]
    referring, assigned = _late_attributes(objects, nodes, late.values(), paths)
    return [*ties, *in_loop, *packed_weights, *referring, *states], assigned, modes


def all_post_init(
    objects: ObjectGraph,
    classes: dict[str, InferredClass],
    deferred: Iterable[Deferred],
    built: Module | None,
) -> tuple[Expr, list[Assignment], set[str]]:
    """Infer what has to be set on all roots. Return what `build()` creates, what it sets, and what
    is assigned.

    A root sets its state in its constructor if it is the only instance of its class.
    """
    created: Expr = NONE
    in_build: list[Assignment] = []
    assigned: set[str] = set()
    for root, instance in objects.roots:
        is_single = isinstance(instance, Instance) and len(instance.definition.instances) == 1
        is_built = built is not None and root.call is built.call
        if not is_single and not is_built:
            continue
        name = "self" if is_single else "model"
        post_init, late, modes = infer_post_init(objects, classes, deferred, root, name)
        assigned |= {item.description for item in late}
        statements = [*post_init, *modes]
        if is_single and isinstance(instance, Instance):
            inferred, statements = classes[instance.definition.path], modes
            inferred.post_init, inferred.in_build = post_init, modes
        if is_built:
            created, in_build = instance, statements
    return created, in_build, assigned


def _collect(
    objects: ObjectGraph, root: Module, name: str
) -> tuple[list[_Node], list[Assignment], dict[int, Access]]:
    """Return each module once, with the facts about everything below it, parents before children;
    the ties between the rest; and the first access to each module and tensor, by id of its call."""
    nodes: dict[int, _Node] = {}  # by id of the access
    paths: dict[int, Access] = {}
    ties: list[Assignment] = []
    for access, call, module, store in walk_model(root, name):
        tensor = objects.tensor_of(call) if not module else None
        if not module and not tensor:
            continue
        if id(call) in paths:
            ties.append(Assignment(access, value=paths[id(call)]))
            continue
        paths[id(call)] = access
        parent = nodes.get(id(access.parent))
        if module is not None:
            node = nodes[id(access)] = _Node(module, access)
            if parent is not None:
                parent.children.append(node)
        elif parent is not None and tensor is not None and not tensor.uninitialized:
            parent.tensors.append((store == PARAMETERS, access, tensor))
    for node in reversed(nodes.values()):
        mode = node.module.training
        if mode is not None:
            node.modes[mode] = node.modes.get(mode, 0) + 1
        for is_parameter, _, tensor in node.tensors:
            if tensor.dtype is not None and tensor.dtype.name in FLOATS:
                node.dtypes.add(tensor.dtype.name)
            if is_parameter:
                node.frozen.add(not tensor.requires_grad)
        for child in node.children:
            for key, count in child.modes.items():
                node.modes[key] = node.modes.get(key, 0) + count
            node.dtypes |= child.dtypes
            node.frozen |= child.frozen
    return list(nodes.values()), ties, paths


def unregistered_hooks(root: Module) -> list[str]:
    """Return the hooks of a model that `build()` does not register, and where they are."""
    places: dict[str, list[str]] = {}
    for name, module in root.walk():
        if module.class_name.startswith("Lazy"):
            continue  # its constructor registers them
        for kind, hooks in module.hooks.items():
            for hook in hooks:
                if not hook.startswith(_REGISTERED_HOOKS):
                    words = "a bound method" if hook == GETATTR else hook
                    places.setdefault(f"{words}, {kind[1:]} of", []).append(name or "the model")
    return [f"{hook} {join_names(names, MAX_HOOKED)}" for hook, names in places.items()]


# Attributes


def _late_attributes(
    objects: ObjectGraph, nodes: list[_Node], late: Iterable[Deferred], paths: dict[int, Access]
) -> tuple[list[Assignment], list[Deferred]]:
    """Return assignments of attributes that refer to modules elsewhere in the model."""
    by_module: dict[int, list[Deferred]] = {}
    for item in late:
        by_module.setdefault(id(item.module.call), []).append(item)
    statements: list[Assignment] = []
    assigned: list[Deferred] = []
    for node in nodes if by_module else ():
        for item in by_module.get(id(node.module.call), ()):
            value, key = item.value, item.name
            expr = shared_attribute(value, paths, objects.expr_of)
            if expr is NONE and value is not None:
                continue
            assigned.append(item)
            if is_attribute(key) and not registers_itself(value, objects.tensor_of):
                statements.append(Assignment(node.access, f".{key}", expr))
            else:
                target = Access(f"vars({node.access.text})[{string(key)}]")
                statements.append(Assignment(target, value=expr))
    return statements, assigned


def _per_channel_weight(objects: ObjectGraph, node: _Node) -> list[Assignment]:
    """Return the call that gives a quantized Linear a scale per row, as its repr shows it."""
    module = node.module
    if module.class_name != "Linear" or id(module.call) in objects.assembled:
        return []
    values = packed_parameters(module.attributes)
    tensor = objects.tensor_of(values[0]) if values else None
    if not tensor or tensor.quantizer.get("qscheme") != "per_channel_affine":
        return []
    axis = tensor.quantizer.get("axis")
    dtype = tensor.dtype.name if tensor.dtype else "qint8"
    weight = quantized_zeros(tensor.shape, dtype, axis if isinstance(axis, int) else 0)
    bias = call_expr(f"{node.access.text}.bias")
    call = call_expr(f"{node.access.text}.set_weight_bias", weight, bias)
    return [Assignment(None, value=call)]


# Training modes, dtypes, frozen parameters


def _frozen(
    root: _Node, classes: dict[str, InferredClass], objects: ObjectGraph
) -> Iterator[Assignment]:
    stack = [root]
    while stack:
        node = stack.pop()
        if node.frozen == {True}:
            yield Assignment(node.access, ".requires_grad_(False)")
        elif True in node.frozen:
            path = node.module.class_path
            inferred = classes.get(path)
            # Only parameters that torch's constructor creates are not frozen by the stub's class.
            if path not in objects.definitions or (inferred is not None and inferred.base):
                for is_parameter, access, tensor in node.tensors:
                    if is_parameter and not tensor.requires_grad:
                        yield Assignment(access, ".requires_grad_(False)")
            stack += reversed(node.children)


def _dtypes(root: _Node) -> Iterator[Assignment]:
    stack = [root]
    while stack:
        node = stack.pop()
        if len(node.dtypes) == 1:
            name = next(iter(node.dtypes))
            if name != "float32":
                yield Assignment(node.access, f".{DTYPE_METHODS[name]}")
        elif node.dtypes:
            for _, access, tensor in node.tensors:
                name = tensor.dtype.name if tensor.dtype else "float32"
                if name in FLOATS and name != "float32":
                    value = Access(f".data.to(torch.{name})", access, argument=f"torch.{name}")
                    yield Assignment(access, ".data", value)
            stack += reversed(node.children)


def _modes(root: _Node) -> Iterator[Assignment]:
    stack = [(root, True)]
    while stack:
        node, current = stack.pop()
        access = node.access.renamed("model")
        if not node.modes:
            continue
        most = node.modes.get(True, 0) >= node.modes.get(False, 0)
        if most != current:
            yield Assignment(access, f".{'train' if most else 'eval'}()")
        if len(node.modes) == 1:
            continue
        mode = node.module.training
        if mode is not None and mode != most:
            yield Assignment(access, ".training", Literal(str(mode)))
        stack += [(child, most) for child in reversed(node.children)]
