"""What stands beside a module in a state_dict: layers come in the order in which they were made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptinspect.stubs.state_dicts import Branch

Shape = tuple[int, ...]


def batch_norm_dims(root: Branch) -> dict[int, int]:
    """By id of the branch of a BatchNorm: 1, 2 or 3, as the layer before it has it whose output is
    of its size, else the layer after it that takes so many; else as most convolutions have it.

    A Linear is followed by a BatchNorm1d.
    """
    weights: list[Shape] = []
    norms: list[tuple[Branch, int, int]] = []  # branch, size, how many weights stand before it
    for branch in in_order(root):
        mean = branch.tensors.get("running_mean")
        if mean is not None:
            norms.append((branch, mean.numel, len(weights)))
        weights += _weights(branch)
    most = _most(weights)
    return {id(branch): _dims(weights, at, size) or most for branch, size, at in norms}


def _dims(weights: list[Shape], at: int, size: int) -> int:
    """Of the layer beside a BatchNorm; 0 where none fits."""
    before, after = weights[at - 1 : at] if at else [], weights[at : at + 1]
    for shape in before:
        if size in (shape[0], shape[1]):
            return max(len(shape) - 2, 1)
    for shape in after:
        if size in (shape[0], shape[1]):
            return max(len(shape) - 2, 1)
    return 0


def _weights(branch: Branch) -> list[Shape]:
    """Of the layer that a branch is, if it is one."""
    weight = branch.tensors.get("weight")
    return [weight.shape] if weight is not None and 2 <= len(weight.shape) <= 5 else []


def _most(weights: list[Shape]) -> int:
    counts = dict.fromkeys((2, 1, 3), 0)
    for shape in weights:
        if len(shape) > 2:
            counts[len(shape) - 2] += 1
    return max(counts, key=lambda dims: counts[dims])


def in_order(root: Branch) -> Iterator[Branch]:
    """All branches, in the order of their keys."""
    todo = [root]
    while todo:
        branch = todo.pop()
        yield branch
        todo += reversed(branch.children.values())


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


__all__ = ["batch_norm_dims", "chained", "in_order"]
