"""A file's objects as expressions, from the leaves up; no recursion.

What nests deeper than `DEPTH` brackets becomes a function of its own, so that Python can parse it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.pickling.pyobjects import attributes_of, constructor_arguments, function_path
from ptinspect.pickling.values import (
    Blob,
    Call,
    Global,
    Inert,
    PersistentId,
    SetOf,
    Value,
    key_value,
)
from ptinspect.stubs.collect.classes import (
    ATTRIBUTE,
    BUFFER,
    CHILD,
    LATE,
    PARAMETER,
    Instance,
    Member,
    Plan,
    kind_of,
)
from ptinspect.stubs.collect.references import SIMPLE, Uses, class_named, named
from ptinspect.stubs.collect.shared_modules import (
    Referring,
    Tree,
    beside,
    places,
    references,
    registers,
)
from ptinspect.stubs.expr.identifiers import Names, string
from ptinspect.stubs.expr.literals import known_values, plain
from ptinspect.stubs.expr.nodes import (
    NONE,
    Argument,
    Atom,
    Expr,
    Items,
    Make,
    Many,
    Pairs,
    has_blank,
)
from ptinspect.stubs.torch.calls import (
    INTERNAL,
    WRAPPERS,
    as_constructed,
    buffer,
    class_text,
    constructed,
    container,
    normed,
    parameter,
    stores,
)
from ptinspect.stubs.torch.objects import called, global_text
from ptinspect.torchnn import ModuleClass, candidates, lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor


def torch_module(graph: Graph, module: Module, row: ModuleClass) -> Expr:
    """A module of a class of torch's own."""
    wrapped = WRAPPERS.get(row.path)
    if wrapped is not None:
        inner = dict(module.members(MODULES)).get(wrapped[0])
        return Make(wrapped[1], [(None, graph.expr(inner))])
    if row.name in ("Sequential", "ModuleList", "ModuleDict"):
        made = container(row, module, graph.expr)
    elif row.style == "graph":
        from ptinspect.stubs.collect.fx_graph import traced

        return traced(graph, module)
    elif row.name in ("TransformerEncoder", "TransformerDecoder"):
        made = coder(graph, row, module)
    elif row.name in ("ParameterList", "ParameterDict"):
        made = parameters(graph, row, module)
    elif as_constructed(graph.document, module, row):
        made = constructed(row, module, graph.expr)
    else:
        made = normed(row, module, graph.expr)
    return made if made is not None else assemble(graph, class_text(row.path), module)


def coder(graph: Graph, row: ModuleClass, module: Module) -> Expr | None:
    """nn.TransformerEncoder of layers that are all the same."""
    layers = module_of(dict(module.members(MODULES)).get("layers"))
    if layers is None:
        return None
    texts = {graph.expr(value).text for _, value in layers.members(MODULES)}
    if len(texts) != 1 or "\0" in texts.pop():
        return None
    return constructed(row, module, graph.expr)


def parameters(graph: Graph, row: ModuleClass, module: Module) -> Expr | None:
    """nn.ParameterList and nn.ParameterDict of parameters alone."""
    if list(module.members(BUFFERS)) or list(module.members(MODULES)):
        return None
    held = list(module.members(PARAMETERS))
    others = {key for key, _ in module.other_attributes()} - {"_size", "_keys"}
    if others or any(graph.document.tensor_of(value) is None for _, value in held):
        return None
    items = [graph.expr(value) for _, value in held]
    if row.name == "ParameterList":
        if [key for key, _ in held] != [str(at) for at in range(len(held))]:
            return None
        return Many("nn.ParameterList", items, True)
    pairs = [(Atom(string(k)), item) for (k, _), item in zip(held, items, strict=True)]
    keyed: list[tuple[Expr, Expr]] = list(pairs)
    return Make("nn.ParameterDict", [(None, Pairs(keyed))] if keyed else [])


def assemble(graph: Graph, kind: str, module: Module) -> Expr:
    """A module put together from its parts, where no constructor makes it."""
    graph.assembled.add(id(module.call))
    own: list[tuple[Expr, Expr]] = [
        (Atom(string(key)), graph.expr(value))
        for key, value in module.other_attributes()
        if not key.startswith("_forward")
    ]
    args: list[Argument] = [(None, Atom(kind))]
    if own:
        args.append(("attributes", Pairs(own)))
    for name, pairs in stores(graph.document, module, graph.expr):
        args.append((name, Pairs(pairs)))
    return Make("_assembled", args)


# ---


DEPTH = 20
"""Brackets inside brackets before a part becomes a function."""
OPAQUE = Make("object", [])
"""What nothing can be said of."""


class Graph:
    """plans: by path, in the file's order. parts: functions for what nests deep. lost: what
    could not be written, in words."""

    def __init__(self, document: Document, uses: Uses) -> None:
        self.document = document
        self.uses = uses
        self.names = Names()
        self.plans: dict[str, Plan] = {}
        self.parts: list[tuple[str, Expr]] = []
        self.lost: dict[str, None] = {}
        self.zeroed: dict[str, None] = {}  # attributes that have zeros in place of their numbers
        self.recovered = True  # whether source that the file holds may be used
        self.roots: list[Call] = []  # of the models
        self.later: dict[int, dict[str, Value]] = {}  # attributes that only a root can set
        self._tree: Tree | None = None
        self.assembled: set[int] = set()  # ids of the calls of modules put together by hand
        self._made: dict[int, tuple[Value, Expr]] = {}
        self._open: set[int] = set()
        self._instances = 0
        for path, use in uses.foreign.items():
            last = use.name.rpartition(".")[2]
            ident = self.names.new(last, "Class" if last[:1].isupper() else "name")
            plan = self.plans[path] = Plan(use.module, use.name, ident, kind_of(use))
            plan.use = use

    # --- the walk

    def add(self, root: Value) -> Expr:
        """The expression of a value; those of all that lies in it are made before."""
        frames: list[tuple[Value, Iterator[Value]]] = []
        opened = self._open
        if self.needs(root, opened):
            opened.add(id(root))
            frames.append((root, self.inside(root)))
        while frames:
            value, rest = frames[-1]
            item = next((item for item in rest if self.needs(item, opened)), None)
            if item is None:
                frames.pop()
                self.keep(value, self.finish(value))  # still open: it may hold itself
                opened.discard(id(value))
            else:
                opened.add(id(item))
                frames.append((item, self.inside(item)))
        return self.expr(root)

    def needs(self, value: Value, opened: set[int]) -> bool:
        """Whether a value has insides that are not made yet."""
        if type(value) in SIMPLE or not isinstance(value, tuple | list | dict | Call | SetOf):
            return False
        if id(value) in self._made or id(value) in opened:
            return False
        return not (isinstance(value, Call) and self.document.tensor_of(value) is not None)

    def inside(self, value: Value) -> Iterator[Value]:
        """What has to be made before a value."""
        if isinstance(value, tuple | list | SetOf):
            yield from value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield key_value(key)
                yield item
        elif isinstance(value, Call):
            yield from self.inside_call(value)

    def inside_call(self, call: Call) -> Iterator[Value]:
        module = module_of(call)
        if module is not None:
            for _, child in module.members(MODULES):
                yield child
            for _, value in module.other_attributes():
                if type(value) in SIMPLE:
                    continue
                if self.refers(value):
                    yield from beside(value, self.tree.ids)
                else:
                    yield value
            for store in (PARAMETERS, BUFFERS):
                yield from (value for _, value in module.members(store))
            return
        yield from constructor_arguments(call)
        if function_path(call) == "functools.partial" and isinstance(call.state, tuple):
            yield from call.state
        yield from attributes_of(call).values()
        for key, item in call.pairs.items():
            yield key_value(key)
            yield item
        yield from call.items
        yield from call.added

    def keep(self, value: Value, made: Expr) -> None:
        """Remembers an expression; a deep one as a call of a function."""
        if made.depth > DEPTH:
            made = self.part(made)
        self._made[id(value)] = (value, made)

    def part(self, made: Expr) -> Expr:
        """A function that returns it."""
        name = self.names.new("_part")
        self.parts.append((name, made))
        return Make(name, [])

    def expr(self, value: Value) -> Expr:
        """What was made of a value; leaves are made here."""
        known = self._made.get(id(value))
        if known is not None:
            return known[1]
        simple = plain(value)
        if simple is not None:
            return simple
        if isinstance(value, Global | PersistentId):  # a legacy file's class has its source
            return self.named(value)
        if isinstance(value, Blob) and len(value) < 1_000:
            made = plain(value.read())
            assert made is not None
            return Make("bytearray", [(None, made)]) if value.mutable else made
        if isinstance(value, Call):
            tensor = self.document.tensor_of(value)
            if tensor is not None:
                return self.tensor(tensor)
        if isinstance(value, tuple | list | dict) and id(value) not in self._open:
            return self.add(value)  # of values that the file does not hold as they are
        if isinstance(value, Inert | tuple | list | dict):
            return self.lose("a cycle" if isinstance(value, Call | list | dict) else "a value")
        return NONE

    def lose(self, what: str) -> Expr:
        """None, for what cannot be written; the docstring says so."""
        self.lost[what] = None
        return NONE

    def tensor(self, tensor: Tensor) -> Expr:
        """A tensor among attributes."""
        if tensor.parameter:
            return parameter(tensor)
        return known_values(tensor) if not tensor.uninitialized else NONE

    def named(self, value: Global | PersistentId | Call) -> Expr:
        """A class or function, by its name in the stub or in torch."""
        name = named(value)
        if name is None:
            return self.lose("a name")
        plan = self.plans.get(f"{name[0]}.{name[1]}")
        if plan is not None:
            return Atom(plan.ident)
        text = global_text(*name)
        return Atom(text) if text else self.lose(f"{name[0]}.{name[1]}")

    # --- what a value is, once its insides are known

    def finish(self, value: Value) -> Expr:
        """The expression of a value with insides."""
        if isinstance(value, tuple):
            return Items("()", [self.expr(item) for item in value])
        if isinstance(value, list):
            return Items("[]", [self.expr(item) for item in value])
        if isinstance(value, dict):
            return self.pairs(value)
        if isinstance(value, SetOf):
            return self.set(value)
        assert isinstance(value, Call)
        module = module_of(value)
        if module is not None:
            return self.module(module)
        name = class_named(value)
        plan = self.plans.get(f"{name[0]}.{name[1]}") if name else None
        if plan is not None:
            return self.object(value, plan)
        if function_path(value) == "builtins.getattr":
            return self.reached(value)
        made = called(value, self.expr)
        if made is None:
            made = self.lose(f"{name[0]}.{name[1]}" if name else "an object")
        return made

    def pairs(self, value: dict[Value, Value]) -> Expr:
        """A dict."""
        return Pairs([(self.expr(key_value(k)), self.expr(v)) for k, v in value.items()])

    def set(self, value: SetOf) -> Expr:
        """A set, its members in an order that does not depend on the file's."""
        items = sorted((self.expr(item) for item in value), key=lambda item: item.text)
        if value.frozen:
            return Make("frozenset", [(None, Items("{}", items))] if items else [])
        return Items("{}", items) if items else Make("set", [])

    def reached(self, call: Call) -> Expr:
        """`getattr(Outer, "Inner")`, `getattr(torch, "relu")`."""
        name = named(call)
        if name is not None:
            plan = self.plans.get(f"{name[0]}.{name[1]}")
            if plan is not None:
                return Atom(plan.ident)
            outer, _, last = name[1].rpartition(".")
            owner = self.plans.get(f"{name[0]}.{outer}")
            if owner is not None and last.isidentifier() and not last.startswith("_"):
                return Atom(f"{owner.ident}.{last}")
            text = global_text(*name)
            if text:
                return Atom(text)
        return self.lose("a bound method")

    # --- modules

    def module(self, module: Module) -> Expr:
        """A constructor call, or an instance of a class that the stub defines."""
        name = class_named(module.call)
        plan = self.plans.get(f"{name[0]}.{name[1]}") if name else None
        row = lookup(module.class_path)
        if plan is not None and (row is None or plan.module.split(".")[0] != "torch"):
            return self.foreign(module, plan)
        if row is None:
            return assemble(self, "nn.Module", module)
        return torch_module(self, module, row)

    def foreign(self, module: Module, plan: Plan, skip: frozenset[str] = frozenset()) -> Instance:
        """An instance of a module class that the stub defines."""
        made = self.instance(module.call, plan)
        left_out = module.non_persistent
        for key, value in module.other_attributes():
            if key not in skip:
                self.attribute(made, module, key, value)
        for key, value in module.members(MODULES):
            made.members.append(Member(CHILD, key, NONE if value is None else self.expr(value)))
        for key, value in module.members(PARAMETERS):
            tensor = self.document.tensor_of(value)
            expr = NONE if tensor is None else parameter(tensor)
            made.members.append(Member(PARAMETER, key, expr))
        for key, value in module.members(BUFFERS):
            tensor = self.document.tensor_of(value)
            lasts = key not in left_out
            expr = NONE if tensor is None else buffer(tensor, lasts)
            self.note(plan, key, expr)
            made.members.append(Member(BUFFER, key, expr, lasts))
        return made

    def attribute(self, made: Instance, module: Module, key: str, value: Value) -> None:
        """A plain attribute of a module; one that leads to modules comes after these, or, where
        they stand outside of this module, when all is built."""
        found = self.refers(value)
        if found:
            at = places(module, "self")
            if all(one in at for one in found) and not self.tree.shared.intersection(found):
                expr = Referring(self.document, at, self.expr).expr(value)
                plainly = not registers(self.document, value)
                made.members.append(Member(LATE, key, expr, plainly))
                return
            self.later.setdefault(id(module.call), {})[key] = value
            self.lost[self.lost_at(module, key)] = None
            if key != "forward":
                made.members.append(Member(ATTRIBUTE, key, NONE))
            return
        expr = self.expr(value)
        if expr is NONE and value is not None:
            self.lost[f"{made.plan.qualname}.{key}"] = None
            if key == "forward":
                return  # the class has one, which says that it is not recorded
        self.note(made.plan, key, expr)
        plainly = not registers(self.document, value)
        made.members.append(Member(ATTRIBUTE, key, expr, plainly))

    def note(self, plan: Plan, key: str, expr: Expr) -> None:
        """Keeps in mind which attributes have zeros in place of their numbers."""
        if expr.depth and has_blank(expr):
            self.zeroed[f"{plan.qualname}.{key}"] = None

    def refers(self, value: Value) -> list[int]:
        """The parts of a model that an attribute leads to, by id."""
        if type(value) in SIMPLE:
            return []
        return references(value, lambda: self.tree.ids)

    @property
    def tree(self) -> Tree:
        """The models' parts, looked up once."""
        if self._tree is None:
            self._tree = Tree(self.roots)
        return self._tree

    def lost_at(self, module: Module, key: str) -> str:
        """How an attribute is named where it could not be written."""
        return f"{module.class_name}.{key}, which leads to modules elsewhere in the model"

    def instance(self, call: Call | None, plan: Plan) -> Instance:
        """A new object of a class that the stub defines."""
        self._instances += 1
        made = Instance(call, plan, self._instances)
        plan.instances.append(made)
        return made

    # --- other objects of foreign classes

    def object(self, call: Call, plan: Plan) -> Expr:
        """An object that is no module."""
        args: list[Argument] = [(None, self.expr(item)) for item in constructor_arguments(call)]
        if plan.kind in ("enum", "exception", "str", "int", "float", "bytes", "function"):
            return Make(plan.ident, args)
        if plan.kind == "tuple":
            if plan.use is not None and all(len(one.args) == 1 for one in plan.use.made):
                return Make(plan.ident, args)  # its own __new__ is tuple's
            items = call.args[0] if len(call.args) == 1 and isinstance(call.args[0], tuple) else ()
            return Make(plan.ident, [(None, self.expr(item)) for item in items] or args)
        if plan.kind == "dict":
            pairs = self.pairs(call.pairs)
            return Make(plan.ident, [(None, pairs)] if call.pairs else [])
        if plan.kind in ("list", "set"):
            parts = [*call.items, *call.added]
            items_of = [self.expr(item) for item in parts]
            return Make(plan.ident, [(None, Items("[]", items_of))] if items_of else [])
        made = self.instance(call, plan)
        for key, value in attributes_of(call).items():
            if isinstance(key, str):
                expr = self.expr(value)
                if expr is NONE and value is not None:
                    self.lost[f"{plan.qualname}.{key}"] = None
                self.note(plan, key, expr)
                made.members.append(Member(ATTRIBUTE, str(key), expr))
        return made


def base_of(plan: Plan, modules: list[Module]) -> ModuleClass | None:
    """The torch class that all instances of a class extend, as far as their attributes tell."""
    found: ModuleClass | None = None
    for module in modules:
        rows = candidates(module.attributes)
        if not rows or (found is not None and rows[0].path != found.path):
            return None
        found = rows[0]
    return found


__all__ = ["INTERNAL", "Graph", "Many", "base_of"]
