"""What will be written: decided before the first byte is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.io.torch_zip import folder_name, write_torch_zip
from ptinspect.document.document import by_key
from ptinspect.document.walk import walk

if TYPE_CHECKING:
    from ptinspect.conversion.io.copy import Sink, Unchanged
    from ptinspect.conversion.tensors.byte_ranges import Piece
    from ptinspect.conversion.tensors.object_graph import Graph
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType
    from ptinspect.pickling.values import Value


class _Reader:
    """Reads the values of a graph, and notes with which dtype each is written."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.dtypes: dict[int, DType | None] = {}

    def read(self, value: Value) -> Tensor | None:
        """See `Graph.read`."""
        tensor = self.graph.read(value)
        if tensor is not None:
            self.dtypes[id(tensor)] = self.graph.dtype_of(value)
        return tensor


def planned_moves(
    root: Value, graph: Graph, document: Document, known: dict[str, str] | None = None
) -> list[Move]:
    """All tensors in `root`, which is what `graph` will write. `known`: names in SRC by key, where
    they are no names of the document's tensors."""
    reader = _Reader(graph)
    found = walk(root, reader.read, document.limits).tensors
    names, known = _names(document), known or {}
    return [
        Move(key, known.get(key) or _source(key, info.tensor, names), info.tensor, dtype)
        for key, info in by_key(found).items()
        for dtype in (reader.dtypes[id(info.tensor)],)
    ]


def _names(document: Document) -> dict[object, str]:
    """The first key of each tensor of SRC, and of each place in a storage."""
    made: dict[object, str] = {}
    for key, info in document.tensors.items():
        made.setdefault(id(info.tensor), key)
        made.setdefault(info.tensor.view_key(), key)
    return made


def _source(key: str, tensor: Tensor, names: dict[object, str]) -> str:
    return names.get(id(tensor)) or names.get(tensor.view_key()) or key


# ---


class Move(NamedTuple):
    """A tensor that is written. key: its name in the output; source: its name in SRC; dtype: in
    the output. None for `dtype` where it is not dense, and written as it was."""

    key: str
    source: str
    tensor: Tensor
    dtype: DType | None

    @property
    def is_cast(self) -> bool:
        """Whether its elements change."""
        return self.dtype is not None and self.dtype is not self.tensor.dtype


class File(NamedTuple):
    """A file of the output: `write` gives its bytes to a sink.

    head: what describes its tensors, the pickle or the header. records: the tensors' bytes, by
    the storage's key in it.
    """

    path: str
    write: Callable[[Sink], None]
    head: bytes
    records: Sequence[tuple[str, Sequence[Piece]]] = ()

    @property
    def pieces(self) -> list[Piece]:
        """Of all records."""
        return [piece for _, pieces in self.records for piece in pieces]

    @property
    def copied(self) -> int:
        """Bytes that are taken as they are."""
        return sum(piece.length for piece in self.pieces if not piece.changed)

    @property
    def changed(self) -> int:
        """Bytes that are made from others."""
        return sum(piece.length for piece in self.pieces if piece.changed)


class Plan:
    """files: in the order in which they get their names. moves: the tensors. told: what a user
    should know (one line each). dropped: keys and entries of SRC that are not in the output, as
    each step left them out.
    others: the files that the bytes come from. found: tensors that are written, those inside of
    entries included, which are no moves."""

    def __init__(self, to: str) -> None:
        self.to = to
        self.files: list[File] = []
        self.moves: list[Move] = []
        self.told: list[str] = []
        self.dropped: list[str] = []
        self.others: list[Unchanged] = []
        self.found = 0


def torch_file(path: str, pickle: bytes, storages: Sequence[tuple[str, Sequence[Piece]]]) -> File:
    """A file of torch.save."""

    def write(sink: Sink) -> None:
        write_torch_zip(sink, folder_name(path), pickle, storages)

    return File(path, write, pickle, storages)
