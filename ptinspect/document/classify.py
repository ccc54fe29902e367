"""What kind of file it is, and its totals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.objects import mapping, sequence
from ptinspect.pickling.values import Value

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor
    from ptinspect.document.walk import Contents, Path, TensorInfo


def kind_of(root: Value, found: Contents) -> str:
    """`module`, `state_dict`, `checkpoint`, `optimizer`, `tensor`, `tensors` or `other`.

    A checkpoint is a mapping in which, or in whose dicts and lists, modules, state_dicts or
    optimizer state lie.
    """
    if found.modules and found.modules[0].root == () and found.modules[0].name == "":
        return "module"
    if () in found.state_dicts:
        return "state_dict"
    if any(optimizer.path == () for optimizer in found.optimizers):
        return "optimizer"
    if mapping(root) is not None and any(
        _in_containers(root, path)
        for path in (
            *dict.fromkeys(info.root for info in found.modules),
            *found.state_dicts,
            *(optimizer.path for optimizer in found.optimizers),
        )
    ):
        return "checkpoint"
    if found.tensors:
        return "tensor" if found.tensors[0].path == () else "tensors"
    return "other"


def _in_containers(value: Value, path: Path) -> bool:
    """Whether dicts and lists alone lead from `value` to what lies at `path`."""
    for at in path:
        items, parts = mapping(value), sequence(value)
        if items is not None and isinstance(at, str):
            value = items.get(at)
        elif items is not None or parts is None or not isinstance(at, int) or at >= len(parts):
            return False
        else:
            value = parts[at]
    return value is not None


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
        by_role[info.role] += tensor.numel
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
