"""The types that callers supply: facts on tensors, and a tree of modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ptinspect.pickling.values import Value

Attributes = Mapping[Value, Value]
"""A module's `__dict__`: plain values, and under `_parameters`, `_buffers` and `_modules` (dicts
or OrderedDicts) what `torch.nn.Module.__getattr__` finds there."""


class TensorFacts(Protocol):
    """A tensor, as printing needs it.

    Attributes:
        dtype: torch's name without the module ("float32").
        device: as torch prints it ("cpu", "cuda:0").
        layout: "strided", "sparse_coo" and so on.
        parameter: True for an nn.Parameter.
        qscheme: "per_tensor_affine" and so on if it is quantized.
    """

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def device(self) -> str: ...
    @property
    def layout(self) -> str: ...
    @property
    def parameter(self) -> bool: ...
    @property
    def qscheme(self) -> str | None: ...

    def item(self) -> object | None:
        """Return the number of a tensor of one element, as torch's `item()`; None if unknown."""

    def text(self) -> str | None:
        """Return torch's `repr` of the tensor; None if its values are unknown."""


class Describe(Protocol):
    """A function that returns the facts on a tensor or parameter; None for other values."""

    def __call__(self, value: Value, /) -> TensorFacts | None: ...


def no_tensors(value: Value, /) -> TensorFacts | None:
    """A `Describe` for callers without tensors."""
    return None


class ModuleNode(Protocol):
    """A module as the printer needs it. The same module is the same object.

    Attributes:
        name: the class's own name (`__name__`).
        class_path: the class whose printing applies: a torch class's `module.qualname`, or that of
            the torch class which a user's class extends. An unknown path prints as a plain Module.
        attributes: its `__dict__`.
        children: as in `_modules`, in order.
    """

    @property
    def name(self) -> str: ...
    @property
    def class_path(self) -> str: ...
    @property
    def attributes(self) -> Attributes: ...
    @property
    def children(self) -> Iterable[tuple[str, ModuleNode | None]]: ...
