"""What stands beside a module in a state_dict: layers come in the order in which they were made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptinspect.stubs.infer.state_dict import Branch

Shape = tuple[int, ...]


Layer = tuple[Shape, tuple[str, ...]]
"""A weight's shape, and the path of its module."""


def batch_norm_dims(root: Branch) -> dict[int, int]:
    """By id of the branch of a BatchNorm: 1, 2 or 3, as a layer beside it has it that gives or
    takes as many; else as most convolutions have it.

    The layer may stand before it, or after it and in the same module; the one that is nearer in
    the tree tells, and the one before where both are as near. A Linear means BatchNorm1d.
    """
    layers: list[Layer] = []
    norms: list[tuple[Branch, int, int]] = []  # branch, size, how many layers stand before it
    for branch in in_order(root):
        mean = branch.tensors.get("running_mean")
        if mean is not None:
            norms.append((branch, mean.numel, len(layers)))
        layers += [(shape, branch.path) for shape in _weights(branch)]
    most = _most([shape for shape, _ in layers])
    made: dict[int, int] = {}
    for branch, size, at in norms:
        before, after = layers[at - 1 : at] if at else [], layers[at : at + 1]
        made[id(branch)] = _dims(branch.path[:-1], size, before, after) or most
    return made


def _dims(parent: tuple[str, ...], size: int, before: list[Layer], after: list[Layer]) -> int:
    """Of the layer beside a BatchNorm; 0 where none fits."""
    near = [(shape, _common(parent, path)) for shape, path in before]
    near += [(shape, len(parent)) for shape, path in after if _common(parent, path) == len(parent)]
    fitting = [item for item in near if size in item[0][:2]]
    if not fitting:
        return 0
    shape, _ = max(fitting, key=lambda item: item[1])
    return max(len(shape) - 2, 1)


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts of two paths are the same, from the root on."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _most(weights: list[Shape]) -> int:
    counts: dict[int, int] = dict.fromkeys((2, 1, 3), 0)
    for shape in weights:
        if len(shape) > 2:
            counts[len(shape) - 2] += 1
    return max(counts, key=lambda dims: counts[dims])


def _weights(branch: Branch) -> list[Shape]:
    """Of the layer that a branch is, if it is one."""
    weight = branch.tensors.get("weight")
    return [weight.shape] if weight is not None and 2 <= len(weight.shape) <= 5 else []


def in_order(root: Branch) -> Iterator[Branch]:
    """All branches, in the order of their keys."""
    todo = [root]
    while todo:
        branch = todo.pop()
        yield branch
        todo += reversed(branch.children.values())


def first_layer(root: Branch) -> Branch | None:
    """The branch of the first layer with a weight of two dimensions or more."""
    return next((branch for branch in in_order(root) if _weights(branch)), None)


def chained(branch: Branch) -> bool:
    """Whether each numbered child takes what the one before it gives, as far as weights tell."""
    out: int | None = None
    for child in branch.children.values():
        shapes = [shape for inner in in_order(child) for shape in _weights(inner)]
        if not shapes:
            sizes = [t.shape[0] for t in child.tensors.values() if len(t.shape) == 1]
            if out is not None and sizes and sizes[0] != out:
                return False
            continue
        first, last = shapes[0], shapes[-1]
        if out is not None and out not in (first[0], first[1]):
            return False
        out = last[0]
    return True


__all__ = ["batch_norm_dims", "chained", "first_layer", "in_order"]
