"""What a root sets once all is built: ties, dtypes, frozen parameters, modes, attributes that
were set on torch's own modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.stubs.collect.shared_modules import Referring, own, places, registers, step
from ptinspect.stubs.expr.identifiers import attribute, string
from ptinspect.stubs.expr.literals import FLOATS
from ptinspect.stubs.expr.nodes import NONE, Atom, Expr, Make
from ptinspect.stubs.torch.calls import INTERNAL
from ptinspect.torchnn import ModuleClass, lookup
from ptinspect.torchnn.attributes import packed_parameters

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor
    from ptinspect.stubs.collect.object_graph import Graph

LEAST = 3
"""Modules with the same attribute before it becomes a loop."""
METHODS = {
    "float16": "half()",
    "bfloat16": "bfloat16()",
    "float64": "double()",
    "float32": "float()",
}


class Set(NamedTuple):
    """A statement: `target = expr`, `target` alone where expr is None, or expr alone."""

    target: str
    expr: Expr | None


class Node:
    """A module at its first place. at: how it is reached from the root, as source."""

    __slots__ = ("at", "children", "dtypes", "frozen", "modes", "module", "tensors")

    def __init__(self, module: Module, at: str) -> None:
        self.module = module
        self.at = at
        self.children: list[Node] = []
        self.tensors: list[tuple[str, str, Tensor]] = []  # store, name, tensor
        self.modes: dict[bool, int] = {}
        self.dtypes: set[str] = set()
        self.frozen: set[bool] = set()


_known: dict[str, frozenset[str]] = {}


def _arguments(row: ModuleClass) -> frozenset[str]:
    """The attributes in which a class of torch.nn keeps its arguments, and its own others."""
    if row.path not in _known:
        names = {argument.name for argument in row.arguments}
        for argument in row.arguments:
            sources = argument.source.split("|")
            names |= {one.split("?")[0].split(".")[0].lstrip("@#") for one in sources}
        _known[row.path] = INTERNAL | names
    return _known[row.path]


_STEP = re.compile(r"""\.(?:_modules\["([^"\\.]+)"\]|([^\W\d]\w*))|\[(\d+)\]|\["([^"\\.]+)"\]""")


def far(target: str) -> tuple[str, str, str] | None:
    """A long way with numbers in it, `model.a[0].b.c`, as what get_submodule is called on, what it
    is given, and what follows: `model`, `"a.0"`, `.b.c`."""
    root = target.partition(".")[0]
    end = target.rfind("]") + 1
    at, names = len(root), []
    while at < end:
        step = _STEP.match(target, at)
        if step is None:
            return None
        names.append(next(name for name in step.groups() if name is not None))
        at = step.end()
    if not names or {"_parameters", "_buffers"} & set(names):
        return None
    return root, string(".".join(names)), target[end:]


class Fixups:
    """All that has to be set on one root."""

    def __init__(self, graph: Graph, root: Module, name: str) -> None:
        self.graph = graph
        self.order: list[Node] = []
        self.ties: list[tuple[str, str]] = []
        self.extras: dict[tuple[str, str], tuple[Expr, list[str]]] = {}
        self.packed: list[Set] = []
        self.referring: list[Set] = []
        self._collect(root, name)
        self._refer(root, name)

    def _collect(self, root: Module, name: str) -> None:
        """Each module once, parents before children; the rest are ties."""
        first: dict[int, str] = {}
        tensors: dict[int, str] = {}
        todo: list[tuple[Module, str, Node | None]] = [(root, name, None)]
        while todo:
            module, at, parent = todo.pop()
            if id(module.call) in first:
                self.ties.append((at, first[id(module.call)]))
                continue
            first[id(module.call)] = at
            node = Node(module, at)
            self.order.append(node)
            if parent is not None:
                parent.children.append(node)
            self._tensors(node, tensors)
            self._extras(node)
            inner = [(k, module_of(v)) for k, v in module.members(MODULES)]
            for key, child in reversed(inner):
                if child is not None:
                    todo.append((child, at + step(module, key), node))

    def _tensors(self, node: Node, tensors: dict[int, str]) -> None:
        for store in (PARAMETERS, BUFFERS):
            for key, value in node.module.members(store):
                tensor = self.graph.document.tensor_of(value)
                if tensor is None:
                    continue
                place = own(node.at, store, key)
                if id(value) in tensors:
                    self.ties.append((place, tensors[id(value)]))
                    continue
                tensors[id(value)] = place
                if not tensor.uninitialized:
                    node.tensors.append((store, key, tensor))

    def _extras(self, node: Node) -> None:
        """Attributes that were set on a module of torch's."""
        module = node.module
        row = lookup(module.class_path)
        if row is None or id(module.call) in self.graph.assembled:
            return
        if row.path.startswith("torch.ao."):
            for key in ("scale", "zero_point"):
                value = module.attributes.get(key)
                if isinstance(value, int | float):
                    expr = self.graph.expr(value)
                    places = self.extras.setdefault((key, expr.text), (expr, []))[1]
                    places.append(node.at)
            self._per_channel(node)
            return
        if not row.path.startswith("torch.nn.modules."):
            return
        known = _arguments(row)
        for key, value in module.other_attributes():
            if key in known or not attribute(key) or key.isdigit():
                continue
            if self.graph.refers(value):
                self.graph.later.setdefault(id(module.call), {})[key] = value
                continue
            expr = self.graph.expr(value)
            if expr.depth > 2:
                continue
            places = self.extras.setdefault((key, expr.text), (expr, []))[1]
            places.append(node.at)

    def _refer(self, root: Module, name: str) -> None:
        """Attributes that lead to what stands elsewhere in the model."""
        if not self.graph.later:
            return
        writing = Referring(self.graph.document, places(root, name), self.graph.expr)
        for node in self.order:
            for key, value in self.graph.later.get(id(node.module.call), {}).items():
                expr = writing.expr(value)
                if expr is not NONE:
                    simple = attribute(key) and not registers(self.graph.document, value)
                    target = f"{node.at}.{key}" if simple else f"vars({node.at})[{string(key)}]"
                    self.referring.append(Set(target, expr))
                    self.graph.lost.pop(self.graph.lost_at(node.module, key), None)

    def _per_channel(self, node: Node) -> None:
        """A quantized Linear whose weight has a scale per row, as its print says."""
        held = (
            packed_parameters(node.module.attributes) if node.module.class_name == "Linear" else ()
        )
        tensor = self.graph.document.tensor_of(held[0]) if held else None
        if tensor is None or tensor.quantizer.get("qscheme") != "per_channel_affine":
            return
        axis = tensor.quantizer.get("axis")
        sizes = [Atom(str(size)) for size in tensor.shape]
        rows = sizes[axis if isinstance(axis, int) and axis < len(sizes) else 0]
        weight = Make("torch.quantize_per_channel", [
            (None, Make("torch.zeros", [(None, size) for size in sizes])),
            (None, Make("torch.ones", [(None, rows)])),
            (None, Make("torch.zeros", [(None, rows), ("dtype", Atom("torch.int64"))])),
            ("axis", Atom(str(axis if isinstance(axis, int) else 0))),
            ("dtype", Atom(f"torch.{tensor.dtype.name if tensor.dtype else 'qint8'}")),
        ])  # fmt: skip
        bias = Make(f"{node.at}.bias", [])
        call = Make(f"{node.at}.set_weight_bias", [(None, weight), (None, bias)])
        self.packed.append(Set("", call))

    def statements(self) -> Iterator[Set]:
        """In the order in which they have to stand."""
        for target, source in self.ties:
            yield Set(target, Atom(source))
        for (key, text), (expr, at) in self.extras.items():
            if len(at) >= LEAST and expr.depth == 0 and self._everywhere(key, text):
                yield Set(f"for module in {self.order[0].at}.modules():", None)
                yield Set(f"    module.{key}", expr)
                continue
            for place in at:
                yield Set(f"{place}.{key}", expr)
        yield from self.packed
        yield from self.referring
        self._sum_up()
        if not self.order:
            return
        yield from self._frozen()
        yield from self._dtypes()
        yield from self._modes()

    def _everywhere(self, key: str, text: str) -> bool:
        """Whether every module has that attribute with that value, as transformers sets one."""
        for node in self.order:
            own_values = dict(node.module.other_attributes())
            if key not in own_values or self.graph.expr(own_values[key]).text != text:
                return False
        return True

    def _sum_up(self) -> None:
        for node in reversed(self.order):
            mode = node.module.training
            if mode is not None:
                node.modes[mode] = node.modes.get(mode, 0) + 1
            for store, _, tensor in node.tensors:
                name = tensor.dtype.name if tensor.dtype else ""
                if name in FLOATS:
                    node.dtypes.add(name)
                if store == PARAMETERS:
                    node.frozen.add(not tensor.requires_grad)
            for child in node.children:
                for key, count in child.modes.items():
                    node.modes[key] = node.modes.get(key, 0) + count
                node.dtypes |= child.dtypes
                node.frozen |= child.frozen

    def _frozen(self) -> Iterator[Set]:
        todo = [self.order[0]]
        while todo:
            node = todo.pop()
            if node.frozen == {True}:
                yield Set(f"{node.at}.requires_grad_(False)", None)
            elif True in node.frozen:
                for store, key, tensor in node.tensors:
                    if store == PARAMETERS and not tensor.requires_grad and self._given(node):
                        yield Set(f"{own(node.at, store, key)}.requires_grad_(False)", None)
                todo += reversed(node.children)

    def _given(self, node: Node) -> bool:
        """Whether torch's constructor makes the parameters, none of which is frozen then."""
        plan = self.graph.plans.get(node.module.class_path)
        return plan is None or plan.base is not None

    def _dtypes(self) -> Iterator[Set]:
        todo = [(self.order[0], "float32")]
        while todo:
            node, now = todo.pop()
            if len(node.dtypes) == 1:
                name = next(iter(node.dtypes))
                if name != now:
                    yield Set(f"{node.at}.{METHODS[name]}", None)
            elif node.dtypes:
                for store, key, tensor in node.tensors:
                    name = tensor.dtype.name if tensor.dtype else now
                    if name in FLOATS and name != now:
                        place = own(node.at, store, key)
                        data = f"{place}.data"
                        yield Set(data, Atom(f"{data}.to(torch.{name})"))
                todo += [(child, now) for child in reversed(node.children)]

    def _modes(self) -> Iterator[Set]:
        todo = [(self.order[0], True)]
        while todo:
            node, now = todo.pop()
            if not node.modes:
                continue
            most = node.modes.get(True, 0) >= node.modes.get(False, 0)
            if most != now:
                yield Set(f"{node.at}.{'train' if most else 'eval'}()", None)
            if len(node.modes) == 1:
                continue
            own_mode = node.module.training
            if own_mode is not None and own_mode != most:
                yield Set(f"{node.at}.training", Atom(str(own_mode)))
            todo += [(child, most) for child in reversed(node.children)]
