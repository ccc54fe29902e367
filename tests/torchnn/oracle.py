"""Real modules of torch, pickled by Python and read back as the inert nodes that the printer takes.

Needs torch: import this only behind `pytest.importorskip("torch")`. Tensors are left out of
the pickle (a persistent id stands for each), so `Oracle.describe` knows them exactly.
"""

from __future__ import annotations

import copyreg
import io
import pickle

import torch
from torch import nn

from ptinspect.pickling.machine import run
from ptinspect.pickling.values import PersistentId, Value
from tests.torchnn.nodes import Node, tree


class Facts:
    """`TensorFacts` of a real tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        self.shape = () if nn.parameter.is_lazy(tensor) else tuple(tensor.shape)
        self.device = str(tensor.device)
        self.layout = str(tensor.layout).removeprefix("torch.")
        self.parameter = isinstance(tensor, nn.Parameter)
        quantized = tensor.is_quantized
        self.qscheme = str(tensor.qscheme()).removeprefix("torch.") if quantized else None

    def item(self) -> object | None:
        return None if self.device == "meta" else self.tensor.item()

    def text(self) -> str | None:
        return repr(self.tensor)


class _Pickler(pickle.Pickler):
    tensors: list[torch.Tensor]

    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, torch.Tensor):
            return None
        self.tensors.append(obj)
        return ("tensor", len(self.tensors) - 1)

    def reducer_override(self, obj: object) -> object:
        if isinstance(obj, nn.Module) and "parametrizations" in obj._modules:
            return copyreg.__newobj__, (type(obj),), obj.__dict__  # torch itself refuses
        return NotImplemented


def dumps(value: object) -> tuple[bytes, list[torch.Tensor]]:
    """A pickle in which ("tensor", i) stands for the i-th tensor, and the tensors."""
    stream = io.BytesIO()
    pickler = _Pickler(stream, 2)
    pickler.tensors = []
    pickler.dump(value)
    return stream.getvalue(), pickler.tensors


class Oracle:
    """A real module beside what its pickle holds."""

    def __init__(self, module: object) -> None:
        data, self.tensors = dumps(module)
        self.root = run(data).root

    @property
    def node(self) -> Node:
        return tree(self.root)

    def describe(self, value: Value) -> Facts | None:
        if not isinstance(value, PersistentId) or not isinstance(value.value, tuple):
            return None
        return Facts(self.tensors[value.value[1]])

    def tensor(self, value: Value) -> torch.Tensor:
        assert isinstance(value, PersistentId)
        return self.tensors[value.value[1]]
