"""What callers supply: facts on tensors, and a tree of modules. Types alone, so nothing here is
imported at run time by the rest of the room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ptinspect.pickling.values import Value
from ptinspect.torchnn.reading import Attributes


class TensorFacts(Protocol):
    """What printing needs to know of a tensor; the caller interprets the values.

    `dtype` is torch's name without the module ("float32"), `device` as torch prints it
    ("cpu", "cuda:0"), `layout` "strided" or "sparse_coo" and so on, `parameter` whether it is
    an nn.Parameter, `qscheme` "per_tensor_affine" and so on where it is quantized.
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
        """The number of a tensor of one element, as torch's `item()`; None: not at hand."""

    def text(self) -> str | None:
        """torch's `repr` of the tensor; None where its values are not at hand."""


class Describe(Protocol):
    """Tells what a value is, where it is a tensor or a parameter; None for all else."""

    def __call__(self, value: Value, /) -> TensorFacts | None: ...


class ModuleNode(Protocol):
    """A module as the printer asks for it. The same module is the same object: identity is
    what makes it shared.

    `name` is the class's own name (`__name__`), `class_path` the class whose printing
    applies: a torch class's `module.qualname`, or that of the torch class which a foreign one
    extends, or its own path (any path that is unknown prints as a plain Module);
    `attributes` what its `__dict__` was; `children` as in `_modules`, in order.
    """

    @property
    def name(self) -> str: ...
    @property
    def class_path(self) -> str: ...
    @property
    def attributes(self) -> Attributes: ...
    @property
    def children(self) -> Iterable[tuple[str, ModuleNode | None]]: ...
