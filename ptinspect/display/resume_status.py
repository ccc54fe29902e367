"""Whether training can go on from a file: what of it is there, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.text.escape import cut
from ptinspect.document.optim.training_state import counter_of
from ptinspect.document.walk import dotted

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.document.walk import Path

_EMPTY_IS_WHOLE = ("torch.optim.SGD",)
"""Optimizers that keep nothing per parameter (SGD without momentum)."""


def resume_text(document: Document) -> str:
    """`yes: weights, optimizer state, epoch 5999; but no RNG state, …` or `no: … is missing`.

    It tells what lies in the file, not what a training script does with it.
    """
    there: list[str] = []
    missing: list[str] = []
    kept = document.contents
    weights = bool(kept.modules or kept.state_dicts)
    (there if weights else missing).append("weights")
    optimizer = _optimizer(document)
    if optimizer is None:
        missing.append("optimizer state")
    else:
        there.append(optimizer)
    counter = _counter(document)
    if counter is not None:
        there.append(counter)
    else:
        missing.append("an epoch or step")
    there += _extras(document)
    what = f"{', '.join(there)}" if there else "nothing of it"
    if missing:
        return f"no, without {_joined(missing)}" + (f" (there: {what})" if there else "")
    random = _random(document)
    if random:
        return f"yes: {what}, RNG state"
    return f"yes: {what}; without RNG state not with the same random numbers"


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _optimizer(document: Document) -> str | None:
    """What is there of optimizers; None where there is none, or none that has begun."""
    if not document.optimizers:
        return None
    begun = [found for found in document.optimizers if found.state or _keeps_nothing(found)]
    return "optimizer state" if begun else "an optimizer that has not begun"


def _keeps_nothing(found: Optimizer) -> bool:
    return found.class_path in _EMPTY_IS_WHOLE and not any(
        group.get("momentum") for group in found.groups
    )


def _counter(document: Document) -> str | None:
    """The number that tells how far training had come."""
    entry = counter_of(document)
    return None if entry is None else f"{cut(dotted(entry.path))} {entry.value}"


def _extras(document: Document) -> list[str]:
    """A scheduler's and a gradient scaler's state, told by the names that torch gives them."""
    held: dict[Path, set[str]] = {}
    for entry in document.entries:
        if entry.path:
            held.setdefault(entry.path[:-1], set()).add(str(entry.path[-1]))
    made = []
    if any({"last_epoch", "_step_count"} <= names for names in held.values()):
        made.append("scheduler state")
    if any({"growth_factor", "backoff_factor"} <= names for names in held.values()):
        made.append("gradient scaler state")
    return made


def _random(document: Document) -> bool:
    """Whether a random number generator's state is there: by its name, or torch's by its form
    (a ByteTensor of 5,056 bytes from the CPU, 16 from CUDA)."""
    for path in _paths(document):
        words = "_".join(str(step) for step in path).lower()
        if "rng" in words or "random_state" in words or "random_states" in words:
            return True
    return any(
        info.tensor.dtype is not None
        and info.tensor.dtype.name == "uint8"
        and info.tensor.shape == (5056,)
        for info in document.contents.tensors
    )


def _paths(document: Document) -> list[Path]:
    tensors = [info.path for info in document.contents.tensors if info.role == "tensor"]
    return [*(entry.path for entry in document.entries), *tensors]
