"""The plan of a conversion: files, tensors and warnings, decided before a byte is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.output.torch_zip import folder_name, write_torch_zip
from ptinspect.document.document import by_key
from ptinspect.document.walk import walk

if TYPE_CHECKING:
    from ptinspect.conversion.output.object_graph import ObjectGraph
    from ptinspect.conversion.output.pieces import LostValues, Piece
    from ptinspect.conversion.output.sink import ModificationGuard, Sink
    from ptinspect.document import Document
    from ptinspect.document.modules import Module
    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.pickling.values import Value


class PlannedTensor(NamedTuple):
    """A tensor of the output: its names there and in SRC, the tensor in SRC, and its dtype in the
    output (None if it is not dense and written as it was)."""

    key: str
    source: str
    tensor: Tensor
    dtype: DType | None

    @property
    def is_cast(self) -> bool:
        """True if its elements change."""
        return self.dtype is not None and self.dtype is not self.tensor.dtype

    @property
    def nbytes(self) -> int:
        """Size in the output."""
        if self.dtype is None or not self.is_cast:
            return self.tensor.nbytes
        return self.tensor.numel * self.dtype.itemsize

    def as_dict(self) -> dict[str, object]:
        """Return the object that `convert -f json` prints."""
        tensor, dtype = self.tensor, self.dtype or self.tensor.dtype
        shape = None if tensor.uninitialized else [None if n < 0 else n for n in tensor.shape]
        return {
            "key": self.key,
            "source": self.source,
            "dtype": dtype.name if dtype else None,
            "shape": shape,
            "nbytes": self.nbytes,
            "changed": self.is_cast,
        }


@dataclass(slots=True, repr=False, eq=False)
class OutputFile:
    """A file of the output: its final name, a function that writes it to a sink, the pickle or
    header (`head`), and the keys of its storages with their bytes. `copied` and `changed` are the
    numbers of bytes that are copied as they are, and that are converted from others."""

    path: str
    write: Callable[[Sink], None]
    head: bytes
    records: Sequence[tuple[str, Sequence[Piece]]] = ()
    copied: int = field(init=False)
    changed: int = field(init=False)

    def __post_init__(self) -> None:
        pieces = [piece for _, record in self.records for piece in record]
        self.changed = sum([piece.length for piece in pieces if piece.changed])
        self.copied = sum([piece.length for piece in pieces]) - self.changed


@dataclass(slots=True, repr=False, eq=False)
class Plan:
    """What a conversion will do, or has done. `tensors` are those with a key, under each of their
    keys; `tensor_count` includes those inside of objects. `guards` are those of the files that are
    read. `device` is that of all tensors of the output, or None for those of SRC. `pickled` is the
    pickle of the output as scan has read it. `lost_values` is filled when the files are written."""

    to: str
    files: list[OutputFile] = field(default_factory=list)
    tensors: list[PlannedTensor] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    guards: list[ModificationGuard] = field(default_factory=list)
    lost_values: list[LostValues] = field(default_factory=list)
    tensor_count: int = 0
    device: str | None = None
    pickled: Pickled | None = None


@dataclass(slots=True, repr=False, eq=False)
class ModelPart:
    """The part of a file that becomes a state_dict: its path in SRC and the value that is written.

    `items` are its entries under their new keys, empty if it is not a mapping by strings;
    `sources` has the old key of each. `excluded` are keys that --include and --exclude drop,
    `non_persistent` buffers that state_dict() leaves out, `attributes` those that were set on its
    tensors and are dropped. `warnings` are about the choice of the part.
    """

    path: Path
    value: Value
    items: dict[str, Value] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    module: Module | None = None
    excluded: list[str] = field(default_factory=list)
    non_persistent: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def plan_torch_file(to: str, path: str, root: Value, graph: ObjectGraph) -> Plan:
    """Return the plan of a file in the format of torch.save, without its tensors. `graph` has
    collected everything in `root`."""
    graph.plan()
    pickle, storages = graph.dump(root)
    folder = folder_name(path)
    file = OutputFile(
        path, lambda sink: write_torch_zip(sink, folder, pickle, storages), pickle, storages
    )
    return Plan(to, [file], tensor_count=len(graph.tensors), device=graph.options.device)


def plan_tensors(
    root: Value,
    graph: ObjectGraph,
    document: Document,
    source_keys: Mapping[str, str] | None = None,
) -> list[PlannedTensor]:
    """Return all tensors in a value that `graph` collected and planned. `source_keys` has the keys
    in SRC by key in the output, where they differ."""
    dtypes: dict[int, DType | None] = {}

    def read(value: Value) -> Tensor | None:
        tensor, dtype = graph.written_tensor(value)
        if tensor is not None:
            dtypes[id(tensor)] = dtype
        return tensor

    tensors = by_key(walk(root, read, document.limits).tensors)
    first_keys: dict[object, str] = {}
    for key, info in document.tensors.items():
        first_keys.setdefault(id(info.tensor), key)
        first_keys.setdefault(info.tensor.view_key(), key)
    planned = []
    for key, info in tensors.items():
        tensor = info.tensor
        source = (source_keys or {}).get(key) or first_keys.get(id(tensor))
        source = source or first_keys.get(tensor.view_key()) or key
        planned.append(PlannedTensor(key, source, tensor, dtypes[id(tensor)]))
    return planned
