"""The keys of a state_dict as a tree of modules, and facts from neighbouring layers.

Keys are in the order in which the modules were created.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.select import path_matches
from ptinspect.stubs.infer.layer_guess import PACKED_KEY

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path

MAX_DEPTH = 3
"""Levels below a layer, at most: `parametrizations.weight.0._u`."""

Shape = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Branch:
    """A module, judging by the keys: its tensors and its children, in the file's order.

    Attributes:
        packed: weight and bias of a quantized Linear.
    """

    name: str
    path: tuple[str, ...]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, Branch] = field(default_factory=dict)
    packed: list[Tensor] = field(default_factory=list)

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

        For a deep branch there is a mark in place of the tensors below `MAX_DEPTH`.
        """
        shapes: dict[str, Shape] = {}
        stack = [("", self, 0)]
        while stack:
            prefix, branch, depth = stack.pop()
            shapes |= {prefix + name: tensor.shape for name, tensor in branch.tensors.items()}
            if depth < MAX_DEPTH:
                children = branch.children.items()
                stack += [(f"{prefix}{name}.", child, depth + 1) for name, child in children]
            elif branch.children:
                shapes[f"{prefix}deeper"] = ()
        return shapes

    def weight_shape(self) -> Shape | None:
        """Return the shape of the weight if it has two to five dimensions."""
        weight = self.tensors.get("weight")
        return weight.shape if weight is not None and 2 <= len(weight.shape) <= 5 else None


def path_of_state_dict(document: Document, entry: str | None) -> Path | None:
    """Return the path of the state_dict that is the entry, or of the first one that has tensors."""
    for path in document.contents.state_dicts:
        if entry is None or path_matches(path, entry):
            return path
    return None


def key_tree(document: Document, path: Path) -> Branch:
    """Return the tensors of a state_dict as a tree: the dots in their keys are its branches."""
    root = Branch("", ())
    depth = len(path)
    for info in document.contents.tensors:
        if len(info.path) <= depth or info.path[:depth] != path:
            continue
        key = str(info.path[depth])
        if len(info.path) == depth + 1:
            *parents, name = key.split(".")
            root.descendant(parents).tensors[name] = info.tensor
        elif len(info.path) == depth + 2 and key.endswith(f".{PACKED_KEY}"):
            parents = key.removesuffix(f".{PACKED_KEY}").split(".")
            root.descendant(parents).packed.append(info.tensor)
    for branch in list(root.walk()):
        if all(name.isdecimal() for name in branch.children):  # the layers of a Sequential
            branch.children = dict(sorted(branch.children.items(), key=lambda item: int(item[0])))
    return root


# Neighbouring layers


class _Layer(NamedTuple):
    shape: Shape
    path: tuple[str, ...]

    @property
    def dims(self) -> int:
        """Number of dimensions that the layer convolves over; 1 for a Linear."""
        return max(len(self.shape) - 2, 1)


def batch_norm_dims(root: Branch) -> dict[int, int]:
    """Return the number of dimensions, 1 to 3, of every BatchNorm, by id of its branch.

    It is that of an adjacent layer with as many channels: the layer before, or the layer after if
    it is in the same module. The one that is nearer in the tree decides, or else the one before.
    If neither fits, it is that of most convolutions. A Linear means BatchNorm1d.
    """
    layers: list[_Layer] = []
    norms: list[tuple[Branch, int, int]] = []  # branch, channels, number of layers before
    for branch in root.walk():
        mean = branch.tensors.get("running_mean")
        if mean is not None:
            norms.append((branch, mean.numel, len(layers)))
        shape = branch.weight_shape()
        if shape is not None:
            layers.append(_Layer(shape, branch.path))
    counts = dict.fromkeys((2, 1, 3), 0)
    for layer in layers:
        if len(layer.shape) > 2:
            counts[layer.dims] += 1
    most_common = max(counts, key=lambda dims: counts[dims])
    dims_by_id: dict[int, int] = {}
    for branch, channels, index in norms:
        parent = branch.path[:-1]
        near = [(layer, _common_length(parent, layer.path)) for layer in layers[:index][-1:]]
        for layer in layers[index : index + 1]:
            if layer.path[: len(parent)] == parent:
                near.append((layer, len(parent)))
        fitting = [item for item in near if channels in item[0].shape[:2]]
        nearest = max(fitting, key=lambda item: item[1], default=None)
        dims_by_id[id(branch)] = nearest[0].dims if nearest is not None else most_common
    return dims_by_id


def _common_length(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return the number of leading steps that two paths share."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def first_layer(root: Branch) -> Branch | None:
    """Return the branch of the first layer whose weight has two dimensions or more."""
    return next((branch for branch in root.walk() if branch.weight_shape() is not None), None)


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
