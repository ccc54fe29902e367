"""The modules of a document as `torchnn` prints them: a tree of nodes, and facts on tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import ref

from ptinspect.display.numbers.decode import number_of
from ptinspect.document.modules import MODULES, Module, module_of
from ptinspect.document.objects import class_of
from ptinspect.errors import PtInspectError
from ptinspect.pickling.values import Call, Value
from ptinspect.torchnn import candidates, extra_repr, lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.torchnn.protocols import ModuleNode
    from ptinspect.torchnn.reading import Attributes


class Node:
    """A module as the printer asks for it (`torchnn.protocols.ModuleNode`).

    base: the torch class that a foreign class extends, as far as its attributes tell; None for
    torch's own classes, and where they tell nothing.
    """

    __slots__ = ("_module", "_nodes", "base", "class_path", "name")

    def __init__(self, nodes: Nodes, module: Module) -> None:
        self._nodes = ref(nodes)  # not in a circle: that would keep the document alive
        self._module = module
        self.name = module.class_name
        self.base = self._base(module)
        self.class_path = self.base or module.class_path

    @staticmethod
    def _base(module: Module) -> str | None:
        if lookup(module.class_path) is not None:
            return None
        found = candidates(module.attributes)
        return found[0].path if found else None

    @property
    def attributes(self) -> Attributes:
        """The instance's `__dict__`."""
        return self._module.attributes

    @property
    def children(self) -> Iterable[tuple[str, ModuleNode | None]]:
        """As in `_modules`, None included."""
        nodes = self._nodes()
        assert nodes is not None
        for name, value in self._module.members(MODULES):
            yield name, None if value is None else nodes.of(value)

    def extra_repr(self, describe: Nodes) -> str:
        """torch's text for the class, or for the class that it extends."""
        return extra_repr(self.class_path, self.attributes, describe) or ""


class Nodes:
    """The nodes of one document, one per module however many paths lead to it. Called, it tells
    what a value is, where that is a tensor (`torchnn.protocols.Describe`)."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._known: dict[int, Node] = {}

    def node(self, module: Module) -> Node:
        """The node of a module."""
        key = id(module.call)
        if key not in self._known:
            self._known[key] = Node(self, module)
        return self._known[key]

    def of(self, value: Value) -> Node:
        """The node of a value that stands in `_modules`; one without insides for what is no
        module (an object that was put there by force)."""
        if id(value) not in self._known:
            call = value if isinstance(value, Call) else Call(value, (), "REDUCE", 0)
            made = module_of(value) or Module(call, {}, class_of(call) or type(value).__name__)
            self._known[id(value)] = Node(self, made)
        return self._known[id(value)]

    def __call__(self, value: Value, /) -> Facts | None:
        tensor = self._document.tensor_of(value) if isinstance(value, Call) else None
        return None if tensor is None else Facts(tensor)


class Facts:
    """A tensor as the printer asks for it (`torchnn.protocols.TensorFacts`)."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    @property
    def dtype(self) -> str:
        """torch's name, without the module."""
        return self._tensor.dtype.name if self._tensor.dtype else "unknown"

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements per dimension."""
        return self._tensor.shape

    @property
    def device(self) -> str:
        """As recorded."""
        return self._tensor.device

    @property
    def layout(self) -> str:
        """`strided`, `sparse_coo` and so on."""
        return self._tensor.layout

    @property
    def parameter(self) -> bool:
        """Whether it is an nn.Parameter."""
        return self._tensor.parameter

    @property
    def qscheme(self) -> str | None:
        """Where it is quantized."""
        scheme = self._tensor.quantizer.get("qscheme")
        return scheme if isinstance(scheme, str) else None

    def item(self) -> object | None:
        """The number of a tensor of one element."""
        try:
            return number_of(self._tensor)
        except PtInspectError:
            return None

    def text(self) -> str | None:
        """torch's `repr`; None where the values cannot be shown."""
        from ptinspect.display.numbers.tensor_repr import tensor_text

        try:
            made = tensor_text(self._tensor)
        except PtInspectError:
            return None
        return f"Parameter containing:\n{made}" if self._tensor.parameter else made
