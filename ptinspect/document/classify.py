"""What kind of file it is, and its totals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ptinspect.document.tensors import Tensor
    from ptinspect.document.walk import Contents, TensorInfo


def kind_of(found: Contents) -> str:
    """`module`, `state_dict`, `checkpoint`, `optimizer`, `tensor`, `tensors` or `other`.

    A checkpoint is a structure that holds modules, state_dicts or optimizer state.
    """
    if found.modules and found.modules[0].root == () and found.modules[0].name == "":
        return "module"
    if () in found.state_dicts:
        return "state_dict"
    if any(optimizer.path == () for optimizer in found.optimizers):
        return "optimizer"
    if found.modules or found.state_dicts or found.optimizers:
        return "checkpoint"
    if found.tensors:
        return "tensor" if found.tensors[0].path == () else "tensors"
    return "other"


class Totals(NamedTuple):
    """tensors: how many are listed. parameters: elements of the model's parameters, of all its
    tensors where the file does not tell parameters from buffers. nbytes: of all tensors.
    storage_nbytes: what the file holds for them. What is the same counts once."""

    tensors: int
    parameters: int
    nbytes: int
    storage_nbytes: int


def totals_of(tensors: Iterable[TensorInfo]) -> Totals:
    """The sums over `tensors`; tied ones count once."""
    listed = list(tensors)
    seen: set[tuple[object, ...]] = set()
    by_role = {"parameter": 0, "buffer": 0, "optimizer": 0, "tensor": 0}
    nbytes, storages = 0, Storages()
    for info in listed:
        tensor = info.tensor
        mark = tensor.same()
        if mark in seen:
            continue
        seen.add(mark)
        by_role[info.role] += tensor.numel if -1 not in tensor.shape else 0
        nbytes += tensor.nbytes
        storages.add(tensor)
    told = any(info.role in ("parameter", "buffer") for info in listed)
    parameters = by_role["parameter"] if told else by_role["tensor"]
    return Totals(len(listed), parameters, nbytes, storages.nbytes)


class Storages:
    """The bytes that the file holds for tensors, each storage counted once."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[int, str], int] = {}

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, and those of its parts."""
        for part in (tensor, *tensor.parts.values()):
            storage = part.storage
            if storage is not None:
                key = (id(storage.archive), storage.key)
                size = storage.begin + storage.nbytes
                self._sizes[key] = max(size, self._sizes.get(key, 0))

    @property
    def nbytes(self) -> int:
        """The sum so far."""
        return sum(self._sizes.values())
