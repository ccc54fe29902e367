"""Real modules of torch, pickled by Python and read back as the inert nodes that the printer takes.

Needs torch: import this only behind `pytest.importorskip("torch")`. Tensors are left out of
the pickle (a persistent id stands for each), so `Oracle.describe` knows them exactly.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Iterator

import torch
from torch import nn

from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Global, PersistentId, Value
from ptinspect.torchnn import Attributes, unusual
from ptinspect.torchnn.reading import attributes_of, pairs


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


class Node:
    """A `ModuleNode` of a pickled module."""

    def __init__(self, value: Value) -> None:
        odd = unusual(value)
        func = value.func if isinstance(value, Call) else None
        if isinstance(func, Global) and func.path == "copyreg._reconstructor":
            func = value.args[0]
        assert isinstance(func, Global), value
        self.class_path = odd[0] if odd else func.path
        self.name = self.class_path.rpartition(".")[2]
        self.attributes: Attributes = attributes_of(value) or {}
        self.children: list[tuple[str, Node | None]] = []


def tree(root: Value) -> Node:
    """Nodes for a module and all below it, one for each object."""
    made = {id(root): Node(root)}
    todo = [made[id(root)]]
    while todo:
        node = todo.pop()
        for name, child in pairs(node.attributes.get("_modules")).items():
            if child is not None and id(child) not in made:
                made[id(child)] = Node(child)
                todo.append(made[id(child)])
            node.children.append((str(name), None if child is None else made[id(child)]))
    return made[id(root)]


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


class Oracle:
    """A real module beside what its pickle holds."""

    def __init__(self, module: object) -> None:
        stream = io.BytesIO()
        pickler = _Pickler(stream, 2)
        pickler.tensors = []
        pickler.dump(module)
        self.tensors = pickler.tensors
        self.root = run(stream.getvalue()).root

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


def subclasses(base: type[nn.Module]) -> Iterator[type[nn.Module]]:
    """Every class below a class, each once."""
    seen = {base}
    todo = [base]
    while todo:
        for sub in todo.pop().__subclasses__():
            if sub not in seen:
                seen.add(sub)
                todo.append(sub)
                yield sub
