"""What kind of file it is, and its totals."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.pyobjects import as_mapping, as_sequence
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
    if as_mapping(root) is not None and any(
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
        items, parts = as_mapping(value), as_sequence(value)
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


class Survey:
    """What a pass over all tensors tells: their totals, and which of them are one.

    duplicates: for each tensor that is the same bytes seen in the same way as one before it
    (tied weights, an alias), the first such one. Tensors without elements are not compared.
    """

    def __init__(self, tensors: list[TensorInfo]) -> None:
        self.duplicates: dict[TensorInfo, TensorInfo] = {}
        self._sizes: dict[object, int] = {}  # of storages' roots
        self._first: dict[object, TensorInfo] = {}  # in each storage
        self._marks: dict[object, TensorInfo] = {}  # where several lie in one
        held = each_its_own(tensors)
        alone = held is not None
        by_role = {"parameter": 0, "buffer": 0, "optimizer": 0, "tensor": 0}
        known: dict[object, tuple[int, int]] = {}
        nbytes = 0
        for info in tensors:
            tensor = info.tensor
            if not alone and self._is_duplicate(info, tensor):
                continue
            form = (tensor.shape, id(tensor.dtype))
            sizes = known.get(form)
            if sizes is None or tensor.parts or tensor.uninitialized:
                sizes = tensor.numel, tensor.nbytes
                if not (tensor.parts or tensor.uninitialized):
                    known[form] = sizes
            by_role[info.role] += sizes[0]
            nbytes += sizes[1]
            for part in tensor.parts.values():
                self._hold(part)
        told = any(info.role in ("parameter", "buffer") for info in tensors)
        parameters = by_role["parameter"] if told else by_role["tensor"]
        if held is None:
            held = sum(self._sizes.values())
        self.totals = Totals(len(tensors), parameters, nbytes, held)

    def _is_duplicate(self, info: TensorInfo, tensor: Tensor) -> bool:
        """Notes where a tensor lies. Only those that share a storage are compared."""
        place = self._hold(tensor) or id(tensor)
        before = self._first.setdefault(place, info)
        if before is info or not tensor.numel:
            return False
        self._marks.setdefault(before.tensor.same(), before)
        first = self._marks.setdefault(tensor.same(), info)
        if first is not info:
            self.duplicates[info] = first
        return first is not info

    def _hold(self, tensor: Tensor) -> object:
        """Counts what the file holds for a tensor; its storage's root, None without one."""
        storage = tensor.storage
        if storage is None:
            return None
        place = (storage.key, id(storage.archive))
        size = storage.begin + storage.nbytes
        if size > self._sizes.get(place, -1):
            self._sizes[place] = size
        return place


def each_its_own(tensors: list[TensorInfo]) -> int | None:
    """Bytes of the storages, where each tensor has one of its own, as most files have it; else
    None."""
    storages = []
    for info in tensors:
        storage = info.tensor.storage
        if storage is None or storage.begin:
            return None
        storages.append(storage)
    if len(set(storages)) < len(storages):
        return None
    return sum([storage.nbytes for storage in storages])
