"""Infer a model's classes from the keys and shapes of its state_dict.

A guessed layer is used only if its constructor creates exactly the tensors that are recorded.
Otherwise the tensors become plain parameters and buffers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.stubs.collect.classes import (
    BUFFER,
    CHILD,
    PARAMETER,
    CollectedObjects,
    Definition,
    Instance,
    Member,
)
from ptinspect.stubs.collect.object_graph import MAX_DEPTH
from ptinspect.stubs.expr.literals import FLOATS, is_identifier, string, zeros
from ptinspect.stubs.expr.nodes import CallExpr, DictExpr, Expr, Literal, ModuleContainer
from ptinspect.stubs.infer.key_tree import (
    Branch,
    batch_norm_dims,
    first_layer,
    is_chained,
    key_tree,
)
from ptinspect.stubs.infer.layer_guess import guess_layer, guess_quantized
from ptinspect.stubs.infer.post_init import DTYPE_METHODS
from ptinspect.torchnn.attributes import NORM_BUFFERS

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path

MAX_GAPS = 3
"""A Sequential may have so many numbers for each child that is recorded."""

_MODEL_NAME_KEYS = ("model", "arch", "model_name", "architecture", "name")
_SEQUENTIAL_NAMES = re.compile(r".*\d|blocks|stages|features|net|main|body|model", re.ASCII)
"""Names of most Sequentials of blocks: `layer1`, `features`."""
_LIST_NAMES = re.compile(r"(.*_)?(list|layers|convs|projs|fcs|norms|bns|linears|heads)\d*")
"""Names of most ModuleLists of layers."""
_NEVER_CONSECUTIVE = frozenset(
    ("nn.Linear", "nn.LayerNorm", "nn.RMSNorm", "nn.BatchNorm1d", "nn.BatchNorm2d", "nn.Embedding")
)
"""Layers that are never put in a row with nothing between."""


@dataclass(slots=True)
class StateDictModel:
    """A model inferred from a state_dict.

    Attributes:
        definitions: its classes, by path.
        alternatives: in words, what its modules could be instead.
        dtype_method: `half()` or similar if all floats are of one such dtype.
    """

    root: Instance
    definitions: dict[str, Definition]
    alternatives: list[str]
    dtype_method: str | None


def infer_model(document: Document, path: Path, objects: CollectedObjects) -> StateDictModel:
    """Infer the model of a state_dict. Adds functions to `objects.parts` for deep expressions."""
    tree = key_tree(document, path)
    inference = _Inference(
        objects,
        _model_name(document, path),
        batch_norm_dims(tree),
        first_layer(tree),
        sum(len(definition.instances) for definition in objects.definitions.values()),
    )
    root = inference.run(tree)
    dtypes = {
        tensor.dtype.name
        for branch in tree.walk()
        for tensor in branch.tensors.values()
        if tensor.dtype is not None and tensor.dtype.name in FLOATS
    }
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    method = DTYPE_METHODS[dtype] if dtype != "float32" else None
    return StateDictModel(root, inference.definitions, list(inference.alternatives), method)


def _model_name(document: Document, path: Path) -> str:
    """Return what the checkpoint calls the model, or `Model`."""
    for entry in document.entries:
        is_sibling = entry.path[:-1] == path[:-1] and entry.path[-1:] != ()
        if is_sibling and entry.path[-1] in _MODEL_NAME_KEYS:
            name = entry.value if isinstance(entry.value, str) else ""
            if is_identifier(name):
                return name if name[0].isupper() else _camel_case(name)
    return "Model"


def _camel_case(name: str) -> str:
    """Return `LayerNorm` for `layer_norm2`."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name.rstrip("0123456789_")) if word]
    camel = "".join(word[:1].upper() + word[1:] for word in words)
    return camel if is_identifier(camel) else "Part"


@dataclass(slots=True)
class _Inference:
    """Creates the expressions of one tree, leaves first."""

    objects: CollectedObjects
    model_name: str
    batch_norm_dims: dict[int, int]
    first_layer: Branch | None
    instance_count: int
    definitions: dict[str, Definition] = field(default_factory=dict)
    alternatives: dict[str, None] = field(default_factory=dict)
    layers: dict[int, Expr] = field(default_factory=dict)

    def run(self, root: Branch) -> Instance:
        """Return the instance of the root."""
        order, stack = [root], [root]
        while stack:
            children = list(stack.pop().children.values())
            order += children
            stack += [branch for branch in children if not self._is_layer(branch)]
        exprs: dict[int, Expr] = {}
        for branch in reversed(order):
            expr = self._module(branch, exprs)
            exprs[id(branch)] = self.objects.parts.add(expr) if expr.depth > MAX_DEPTH else expr
        instance = exprs[id(root)]
        assert isinstance(instance, Instance)
        instance.definition.root = instance
        return instance

    def _is_layer(self, branch: Branch) -> bool:
        """Return True if a branch is a layer with everything below it, and record its call."""
        children = {name: child.tensors for name, child in branch.children.items()}
        guess = guess_quantized(branch.name, branch.tensors, branch.packed, children)
        if not guess:
            dims, is_first = self.batch_norm_dims.get(id(branch), 2), branch is self.first_layer
            guess = guess_layer(branch.name, branch.shapes(), list(children), dims, is_first)
        if not guess:
            return False
        self.alternatives.update(dict.fromkeys(guess.alternatives))
        self.layers[id(branch)] = guess.call
        return True

    def _module(self, branch: Branch, exprs: dict[int, Expr]) -> Expr:
        """Return a layer, a container, or an object of a class of the model's own."""
        if id(branch) in self.layers:
            return self.layers[id(branch)]
        children = {name: exprs[id(child)] for name, child in branch.children.items()}
        is_numbered = children and not branch.tensors and all(name.isdigit() for name in children)
        if branch.path and is_numbered:
            return self._container(branch, children)
        instance = self._new_instance(branch)
        for name, child in children.items():
            instance.members.append(Member(CHILD, name, child))
        for name, tensor in branch.tensors.items():
            if _is_buffer(name, tensor):
                instance.members.append(Member(BUFFER, name, zeros(tensor)))
            else:
                parameter = CallExpr("nn.Parameter", [("data", zeros(tensor))], 1)
                instance.members.append(Member(PARAMETER, name, parameter))
        return instance

    def _container(self, branch: Branch, children: dict[str, Expr]) -> Expr:
        """Return numbered children as a Sequential or ModuleList."""
        items = list(children.values())
        numbers = [int(name) for name in children]
        in_order = [str(number) for number in numbers] == list(children)
        if in_order and numbers == list(range(len(numbers))):
            as_list = _is_module_list(branch, items)
            self.alternatives["a Sequential could be a ModuleList, and the other way round"] = None
            return ModuleContainer("nn.ModuleList" if as_list else "nn.Sequential", items, as_list)
        if in_order and numbers == sorted(numbers) and numbers[-1] < MAX_GAPS * len(numbers):
            self.alternatives["an Identity in a Sequential is any layer without weights"] = None
            identity = CallExpr("nn.Identity")
            items = [children.get(str(index), identity) for index in range(numbers[-1] + 1)]
            return ModuleContainer("nn.Sequential", items, False)
        content = DictExpr([(Literal(string(name)), item) for name, item in children.items()])
        return CallExpr("nn.Sequential", [(None, CallExpr("OrderedDict", [(None, content)]))])

    def _new_instance(self, branch: Branch) -> Instance:
        """Return an instance of the class of all branches whose paths differ only in numbers."""
        key = tuple(re.sub(r"\d+", "", part) for part in branch.path)
        definition = self.definitions.get(f"?.{key}")
        if not definition:
            name = self.model_name
            if branch.path:
                name = _camel_case(next((part for part in reversed(key) if part), ""))
                if branch.path[-1].isdigit() and name.endswith("s") and len(name) > 3:
                    name = name[:-1]
            ident = self.objects.names.new(name, "Part")
            definition = Definition("?", str(key), ident, "module")
            self.definitions[definition.path] = definition
        self.instance_count += 1
        return definition.add_instance(None, self.instance_count)


def _is_module_list(branch: Branch, items: list[Expr]) -> bool:
    """Return True if numbered children without a gap are more likely a ModuleList.

    Blocks are, unless the name is typical of a Sequential. Layers are if one does not accept what
    another returns, or if all are Linear or all normalize, with nothing between.
    """
    if all(isinstance(item, Instance) for item in items):
        name = next((part for part in reversed(branch.path) if not part.isdigit()), "")
        return not _SEQUENTIAL_NAMES.fullmatch(name)
    kinds = {item.func for item in items if isinstance(item, CallExpr)}
    all_alike = len(kinds) == 1 and len(items) > 1 and all(isinstance(i, CallExpr) for i in items)
    if _LIST_NAMES.fullmatch(branch.name) or (all_alike and kinds <= _NEVER_CONSECUTIVE):
        return True
    return not is_chained(branch)


def _is_buffer(name: str, tensor: Tensor) -> bool:
    """Return True if a tensor is more likely a buffer: not floats, or a running statistic."""
    return (tensor.dtype.name if tensor.dtype else "") not in FLOATS or name in NORM_BUFFERS
