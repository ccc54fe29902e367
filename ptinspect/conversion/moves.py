"""Which tensors a file of torch will hold, and under which keys: by the walk that finds them when
it is read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ptinspect.conversion.plan import Move
from ptinspect.document.document import keyed
from ptinspect.document.walk import walk

if TYPE_CHECKING:
    from ptinspect.conversion.graph import Graph
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.document.tensors import Tensors
    from ptinspect.formats.dtypes import DType
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
    found = walk(root, cast("Tensors", reader), document.limits).tensors
    names, known = _names(document), known or {}
    return [
        Move(key, known.get(key) or _source(key, info.tensor, names), info.tensor, dtype)
        for key, info in keyed(found).items()
        for dtype in (reader.dtypes[id(info.tensor)],)
    ]


def _names(document: Document) -> dict[object, str]:
    """The first key of each tensor of SRC, and of each place in a storage."""
    made: dict[object, str] = {}
    for key, info in document.tensors.items():
        made.setdefault(id(info.tensor), key)
        made.setdefault(info.tensor.same(), key)
    return made


def _source(key: str, tensor: Tensor, names: dict[object, str]) -> str:
    return names.get(id(tensor)) or names.get(tensor.same()) or key
