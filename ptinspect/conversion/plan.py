"""The plan of a conversion: files, tensors and warnings, decided before a byte is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isinf
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.output.torch_zip import folder_name, write_torch_zip
from ptinspect.document.document import by_key
from ptinspect.document.walk import walk

if TYPE_CHECKING:
    from ptinspect.conversion.output.object_graph import ObjectGraph
    from ptinspect.conversion.output.pieces import Piece
    from ptinspect.conversion.output.sink import ModificationGuard, Sink
    from ptinspect.document import Document
    from ptinspect.document.modules import Module
    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.pickling.values import Value


class PlannedTensor(NamedTuple):
    """A tensor of the output.

    Attributes:
        key, source: its names in the output and in SRC.
        tensor: the tensor in SRC.
        dtype: its dtype in the output; None if it is not dense and written as it was.
    """

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


class OutputFile(NamedTuple):
    """A file of the output.

    Attributes:
        path: its final name.
        write: writes its bytes to a sink.
        head: the pickle or the header, which describes its tensors.
        records: keys of the storages and their bytes.
    """

    path: str
    write: Callable[[Sink], None]
    head: bytes
    records: Sequence[tuple[str, Sequence[Piece]]] = ()

    @property
    def copied(self) -> int:
        """Number of bytes that are copied unchanged."""
        return sum(p.length for _, pieces in self.records for p in pieces if not p.changed)

    @property
    def changed(self) -> int:
        """Number of bytes that are converted from others."""
        return sum(p.length for _, pieces in self.records for p in pieces if p.changed)


@dataclass(frozen=True, slots=True)
class LostValues:
    """Numbers of a tensor that the dtype of the output cannot hold.

    Attributes:
        keys: the tensors of the output that have them.
        overflowed: number of finite elements that became infinite, NaN or the largest number.
        largest: the largest magnitude among them.
        underflowed: number of elements that became zero.
    """

    keys: list[str]
    overflowed: int
    largest: float
    underflowed: int

    def as_dict(self) -> dict[str, object]:
        """Return the object that `convert -f json` prints."""
        largest = "inf" if isinf(self.largest) else self.largest
        return {
            "tensors": self.keys,
            "overflowed": self.overflowed,
            "largest": largest if self.overflowed else None,
            "underflowed": self.underflowed,
        }


@dataclass(slots=True)
class Plan:
    """What a conversion will do.

    Attributes:
        to: the target.
        files: in the order in which they get their final names.
        tensors: the tensors under each of their keys.
        warnings: one line each.
        dropped: keys and entries of SRC that are not in the output.
        guards: of the files from which the bytes come.
        lost_values: numbers that `--dtype` could not keep, once the files are written.
        tensor_count: number of tensors, including those inside of objects, which have no key.
    """

    to: str
    files: list[OutputFile] = field(default_factory=list)
    tensors: list[PlannedTensor] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    guards: list[ModificationGuard] = field(default_factory=list)
    lost_values: list[LostValues] = field(default_factory=list)
    tensor_count: int = 0


@dataclass(slots=True)
class ModelPart:
    """The part of a file that becomes a state_dict.

    Attributes:
        path: where it is in SRC.
        value: what is written.
        items: its entries under their new keys; empty if it is not a mapping by strings.
        sources: the old key of each new key.
        module: the full model, if the part is one.
        excluded: keys that --include and --exclude drop.
        non_persistent: buffers of the full model that its state_dict() leaves out.
        attributes: attributes set on its tensors, which are dropped.
        warnings: about the choice of the part.
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


def torch_file(
    path: str, pickle: bytes, storages: Sequence[tuple[str, Sequence[Piece]]]
) -> OutputFile:
    """Return a file in the format of torch.save."""

    def write(sink: Sink) -> None:
        write_torch_zip(sink, folder_name(path), pickle, storages)

    return OutputFile(path, write, pickle, storages)


def plan_tensors(
    root: Value,
    graph: ObjectGraph,
    document: Document,
    source_keys: Mapping[str, str] | None = None,
) -> list[PlannedTensor]:
    """Return all tensors in a value that `graph` will write.

    Args:
        root: the value.
        graph: the graph that collected it, planned.
        document: SRC.
        source_keys: keys in SRC by key in the output, where they differ.
    """
    reader = _DTypeReader(graph)
    tensors = by_key(walk(root, reader.read, document.limits).tensors)
    first_keys: dict[object, str] = {}
    for key, info in document.tensors.items():
        first_keys.setdefault(id(info.tensor), key)
        first_keys.setdefault(info.tensor.view_key(), key)
    planned = []
    for key, info in tensors.items():
        tensor = info.tensor
        source = (source_keys or {}).get(key) or first_keys.get(id(tensor))
        source = source or first_keys.get(tensor.view_key()) or key
        planned.append(PlannedTensor(key, source, tensor, reader.dtypes[id(tensor)]))
    return planned


class _DTypeReader:
    """Reads the tensors of a graph for a walk, and remembers the dtype each is written with."""

    def __init__(self, graph: ObjectGraph) -> None:
        self.graph = graph
        self.dtypes: dict[int, DType | None] = {}

    def read(self, value: Value) -> Tensor | None:
        tensor = self.graph.read(value)
        if tensor is not None:
            self.dtypes[id(tensor)] = self.graph.output_dtype(value)
        return tensor
