"""Infer a model's classes from the keys and shapes of its state_dict.

The keys are read as a tree of modules. A guessed layer is used only if its constructor creates
exactly the tensors that are recorded. Otherwise the tensors become plain parameters and buffers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from ptinspect.stubs.collect.definitions import Definition, Instance, Member
from ptinspect.stubs.collect.object_graph import MAX_DEPTH, ObjectGraph
from ptinspect.stubs.collect.source import Access, CallExpr, Expr, ModuleContainer, Name, call_expr
from ptinspect.stubs.collect.values import FLOATS, is_identifier, is_index, named, zeros
from ptinspect.stubs.infer.constructors import Assignment
from ptinspect.stubs.infer.layer_guess import PACKED_KEY, guess_layer, guess_quantized
from ptinspect.stubs.infer.post_init import DTYPE_METHODS
from ptinspect.torchnn.attributes import NORM_BUFFERS

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path


EXTRA_STATE = "_extra_state"
"""Key of the result of a module's `get_extra_state` (torch.nn.Module._save_to_state_dict)."""
_LAYER_DTYPES = frozenset((*FLOATS, "qint8", "quint8"))
"""Types whose numbers the layers of torch take."""
MAX_LAYER_DEPTH = 3
"""Levels below a layer, at most: `parametrizations.weight.0._u`."""

Shape = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Branch:
    """A module, judging by the keys: its tensors and its children, in the file's order.

    Attributes:
        packed: weight and bias of a quantized Linear, or the weights of a dynamic LSTM or GRU.
        has_extra_state: its class has a get_extra_state, whose result is in the state_dict.
    """

    name: str
    path: tuple[str, ...]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, Branch] = field(default_factory=dict)
    packed: list[Tensor] = field(default_factory=list)
    has_extra_state: bool = False

    def descendant(self, names: list[str]) -> Branch:
        """Return the branch at a path below this one, creating it if necessary."""
        branch = self
        for name in names:
            if name not in branch.children:
                branch.children[name] = Branch(name, (*branch.path, name))
            branch = branch.children[name]
        return branch

    def walk(self) -> Iterator[Branch]:
        """Yield this branch and all branches below, in the order of their keys."""
        stack = [self]
        while stack:
            branch = stack.pop()
            yield branch
            stack += reversed(branch.children.values())

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of all tensors by dotted name.

        For a deep branch there is a mark in place of the tensors below `MAX_LAYER_DEPTH`.
        """
        shapes: dict[str, Shape] = {}
        stack = [("", self, 0)]
        while stack:
            prefix, branch, depth = stack.pop()
            shapes |= {prefix + name: tensor.shape for name, tensor in branch.tensors.items()}
            shapes |= {f"{prefix}{EXTRA_STATE}": ()} if branch.has_extra_state else {}
            if depth < MAX_LAYER_DEPTH:
                children = branch.children.items()
                stack += [(f"{prefix}{name}.", child, depth + 1) for name, child in children]
            elif branch.children:
                shapes[f"{prefix}deeper"] = ()
        return shapes

    def dtypes(self) -> set[str]:
        """Return the names of the dtypes of all tensors but BatchNorm's counter."""
        items = [item for branch in self.walk() for item in branch.tensors.items()]
        dtypes = [tensor.dtype for name, tensor in items if name != "num_batches_tracked"]
        return {dtype.name for dtype in dtypes if dtype is not None}

    def weight_shape(self) -> Shape | None:
        """Return the shape of the weight if it has two to five dimensions."""
        weight = self.tensors.get("weight")
        return weight.shape if weight is not None and 2 <= len(weight.shape) <= 5 else None


def key_tree(document: Document, path: Path) -> Branch:
    """Return the tensors of a state_dict as a tree: the dots in their keys are its branches."""
    root = Branch("", ())
    depth = len(path)
    for info in document.contents.tensors:
        if len(info.path) <= depth or info.path[:depth] != path:
            continue
        key = str(info.path[depth])
        *parents, name = key.split(".")
        if len(info.path) == depth + 1 and name != EXTRA_STATE:
            root.descendant(parents).tensors[name] = info.tensor
        elif packed := PACKED_KEY.fullmatch(key):
            branch = root.descendant(packed[1].split(".") if packed[1] else [])
            is_weight = len(info.tensor.shape) == 2
            if name.startswith("_packed_weight"):
                branch.tensors |= {name: info.tensor} if is_weight else {}
            elif is_weight or name != "param":
                branch.packed.append(info.tensor)
    paths = [info.path for info in document.contents.tensors]
    for place in [*paths, *(entry.path for entry in document.entries)]:
        *parents, name = str(place[depth]).split(".") if len(place) > depth else [""]
        if name == EXTRA_STATE and place[:depth] == path:
            root.descendant(parents).has_extra_state = True
    for branch in list(root.walk()):
        if all(map(is_index, branch.children)):  # the layers of a Sequential
            branch.children = dict(sorted(branch.children.items(), key=lambda item: int(item[0])))
    return root


# Neighbouring layers


def batch_norm_dims(root: Branch) -> dict[int, int]:
    """Return the number of dimensions, 1 to 3, of every BatchNorm, by id of its branch.

    It is that of an adjacent layer with as many channels: the layer before, or the layer after if
    it is in the same module. The one that is nearer in the tree decides, or else the one before.
    If neither fits, it is that of most convolutions. A Linear means BatchNorm1d.
    """
    layers: list[tuple[int, Shape, tuple[str, ...]]] = []  # dimensions, shape and path
    norms: list[tuple[Branch, int, int]] = []  # branch, channels, number of layers before
    for branch in root.walk():
        mean = branch.tensors.get("running_mean")
        if mean is not None:
            norms.append((branch, mean.numel, len(layers)))
        shape = branch.weight_shape()
        if shape is not None:
            layers.append((max(len(shape) - 2, 1), shape, branch.path))
    counts = Counter(dims for dims, shape, _ in layers if len(shape) > 2)
    most_common = max((2, 1, 3), key=counts.__getitem__)
    dims_by_id: dict[int, int] = {}
    for branch, channels, index in norms:
        parent = branch.path[:-1]
        near: list[tuple[int, int]] = []  # length of the common path, dimensions
        for number, (dims, shape, path) in enumerate(layers[max(index - 1, 0) : index + 1]):
            pairs = takewhile(lambda pair: pair[0] == pair[1], zip(parent, path, strict=False))
            common = len(list(pairs))
            is_before = number == 0 and index > 0
            if channels in shape[:2] and (is_before or common == len(parent)):
                near.append((common, dims))
        dims_by_id[id(branch)] = max(near, key=lambda n: n[0])[1] if near else most_common
    return dims_by_id


def is_chained(branch: Branch) -> bool:
    """Return True if each numbered child accepts what the one before returns, by their weights."""
    out: int | None = None
    for child in branch.children.values():
        shapes = [shape for inner in child.walk() if (shape := inner.weight_shape()) is not None]
        if shapes:
            if out is not None and out not in shapes[0][:2]:
                return False
            out = shapes[-1][0]
            continue
        sizes = [t.shape[0] for t in child.tensors.values() if len(t.shape) == 1]
        if out is not None and sizes and sizes[0] != out:
            return False
    return True


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


def infer_model(
    document: Document, path: Path, objects: ObjectGraph
) -> tuple[Instance, list[str], list[Assignment]]:
    """Infer the model of a state_dict, and add its classes and deep parts to `objects`.

    Returns:
        The model; in words, what its modules could be instead; and `self.half()` or similar if all
        floats are of one such dtype.
    """
    # What the checkpoint calls the model.
    names = [
        entry.value
        for entry in document.entries
        if entry.path and entry.path[:-1] == path[:-1] and entry.path[-1] in _MODEL_NAME_KEYS
        if isinstance(entry.value, str) and is_identifier(entry.value)
    ]
    name = str(names[0]) if names else "Model"
    tree = key_tree(document, path)
    dtypes = tree.dtypes() & set(FLOATS)
    inference = _Inference(
        objects,
        name if name[0].isupper() else _camel_case(name),
        batch_norm_dims(tree),
        next((branch for branch in tree.walk() if branch.weight_shape() is not None), None),
        has_one_dtype=len(dtypes) == 1,
    )
    root = inference.run(tree)
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    statement = Assignment(Access("self"), f".{DTYPE_METHODS[dtype]}")
    post_init = [statement] if dtype != "float32" else []
    return root, list(inference.alternatives), post_init


def _camel_case(name: str) -> str:
    """Return `LayerNorm` for `layer_norm2`."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name.rstrip("0123456789_")) if word]
    camel = "".join(word[:1].upper() + word[1:] for word in words)
    return camel if is_identifier(camel) else "Part"


@dataclass(slots=True)
class _Inference:
    """Creates the expressions of one tree, leaves first."""

    objects: ObjectGraph
    model_name: str
    batch_norm_dims: dict[int, int]
    first_layer: Branch | None
    has_one_dtype: bool
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
            is_deep = expr.depth > MAX_DEPTH
            exprs[id(branch)] = self.objects.move_to_function(expr) if is_deep else expr
        instance = exprs[id(root)]
        assert isinstance(instance, Instance)
        instance.definition.root = instance
        return instance

    def _is_layer(self, branch: Branch) -> bool:
        """Return True if a branch is a layer with everything below it, and record its call."""
        children = {name: child.tensors for name, child in branch.children.items()}
        guess = guess_quantized(branch.name, branch.tensors, branch.packed, children)
        dtypes: set[str] = set()
        if not guess:
            dims, is_first = self.batch_norm_dims.get(id(branch), 2), branch is self.first_layer
            guess = guess_layer(branch.name, branch.shapes(), list(children), dims, is_first)
            dtypes = branch.dtypes() if guess is not None else set()
        if not guess or not dtypes <= _LAYER_DTYPES:
            return False
        self.alternatives.update(dict.fromkeys(guess.alternatives))
        if not self.has_one_dtype and "dtype" in guess.call.defaults and len(dtypes) == 1:
            dtype = dtypes.pop()
            guess.call.args += [("dtype", Name(f"torch.{dtype}"))] if dtype != "float32" else []
        self.layers[id(branch)] = guess.call
        return True

    def _module(self, branch: Branch, exprs: dict[int, Expr]) -> Expr:
        """Return a layer, a container, or an object of a class of the model's own."""
        if id(branch) in self.layers:
            return self.layers[id(branch)]
        children = {name: exprs[id(child)] for name, child in branch.children.items()}
        has_entries = bool(branch.tensors) or branch.has_extra_state
        is_numbered = children and not has_entries and all(map(is_index, children))
        if branch.path and is_numbered:
            return self._container(branch, children)
        # One class for all branches whose paths differ only in numbers.
        key = tuple(re.sub(r"\d+", "", part) for part in branch.path)
        qualname = f"{key}{EXTRA_STATE if branch.has_extra_state else ''}"
        definition = self.objects.definitions.get(f"?.{qualname}")
        if not definition:
            name = self.model_name
            if branch.path:
                name = _camel_case(next((part for part in reversed(key) if part), ""))
                if branch.path[-1].isdigit() and name.endswith("s") and len(name) > 3:
                    name = name[:-1]
            definition = Definition("?", qualname, self.objects.names.new(name, "Part"), "module")
            definition.has_extra_state = branch.has_extra_state
            self.objects.definitions[definition.path] = definition
        instance = self.objects.new_instance(None, definition)
        for name, child in children.items():
            instance.members.append(Member("child", name, child))
        # All floats of one dtype are converted when the model is built.
        written_without_dtype = FLOATS if self.has_one_dtype else FLOATS[:1]
        for name, tensor in branch.tensors.items():
            expr = zeros(tensor, *written_without_dtype)
            is_float = tensor.dtype is not None and tensor.dtype.name in FLOATS
            if not is_float or name in NORM_BUFFERS:
                instance.members.append(Member("buffer", name, expr))
            else:
                parameter = CallExpr("nn.Parameter", [("data", expr)], 1)
                instance.members.append(Member("parameter", name, parameter))
        return instance

    def _container(self, branch: Branch, children: dict[str, Expr]) -> Expr:
        """Return numbered children as a Sequential or ModuleList."""
        items = list(children.values())
        numbers = [int(name) for name in children]
        in_order = [str(number) for number in numbers] == list(children)
        if in_order and numbers == list(range(len(numbers))):
            # Blocks are a ModuleList, unless the name is typical of a Sequential. Layers are if one
            # does not accept what another returns, or if all are Linear or all normalize, with
            # nothing between.
            kinds = {item.func if isinstance(item, CallExpr) else "" for item in items}
            if all(isinstance(item, Instance) for item in items):
                name = next((part for part in reversed(branch.path) if not part.isdigit()), "")
                as_list = not _SEQUENTIAL_NAMES.fullmatch(name)
            elif len(kinds) == 1 and len(items) > 1 and kinds <= _NEVER_CONSECUTIVE:
                as_list = True
            else:
                as_list = bool(_LIST_NAMES.fullmatch(branch.name)) or not is_chained(branch)
            self.alternatives["a Sequential could be a ModuleList, and the other way round"] = None
            return ModuleContainer("nn.ModuleList" if as_list else "nn.Sequential", items, as_list)
        if in_order and numbers == sorted(numbers) and numbers[-1] < MAX_GAPS * len(numbers):
            self.alternatives["an Identity in a Sequential is any layer without weights"] = None
            identity = call_expr("nn.Identity")
            items = [children.get(str(index), identity) for index in range(numbers[-1] + 1)]
            return ModuleContainer("nn.Sequential", items, False)
        return call_expr("nn.Sequential", call_expr("OrderedDict", *named(children)))
