"""Translate a file's objects into expressions and instances, from the leaves up.

Nothing here recurses over the file's structure. Objects nested deeper than `MAX_DEPTH` brackets
become functions of their own, because Python could not parse them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.document.modules import (
    BUFFERS,
    MODULES,
    PARAMETERS,
    Module,
    module_of,
    registers_itself,
)
from ptinspect.pickling.pyobjects import (
    GETATTR,
    PARTIAL,
    attributes_of,
    class_name,
    constructor_arguments,
    function_path,
    global_name,
)
from ptinspect.pickling.values import Blob, Call, Global, PersistentId, SetOf, Value, key_value
from ptinspect.stubs.collect.definitions import (
    FX_BOOKKEEPING,
    FX_MODULE,
    Deferred,
    Definition,
    Instance,
    Member,
    Names,
    class_source,
    fx_source,
)
from ptinspect.stubs.collect.modules import (
    ASSEMBLED,
    WRAPPERS,
    ModelParts,
    assemble,
    buffer,
    model_parts,
    parameter,
    torch_module,
    walk_model,
)
from ptinspect.stubs.collect.references import (
    QualifiedName,
    find_definitions,
    parts_in,
    shared_attribute,
)
from ptinspect.stubs.collect.safe_globals import global_text
from ptinspect.stubs.collect.source import (
    NONE,
    Access,
    CallExpr,
    DictExpr,
    Expr,
    Name,
    Sequence,
    call_expr,
    has_placeholder,
)
from ptinspect.stubs.collect.values import (
    SIMPLE,
    bytes_expr,
    literal,
    object_expr,
    set_expr,
    tensor_values,
)
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.stubs.collect.values import TensorOf

MAX_DEPTH = 20
"""Brackets inside each other before a part becomes a function."""
MAX_BLOB = 1_000
"""Bytes of a binary object that are written."""


def collect_objects(
    document: Document, root: Module | None, use_recorded_source: bool
) -> ObjectGraph:
    """Translate the objects of user-defined classes, and all modules that are roots."""
    recorded = {
        f"{source.module}.{source.name}": class_source(source.text, use_recorded_source)
        for source in document.archive.sources
    }
    roots = {id(i.module.call): i.module for i in document.modules if not i.name}
    names = Names()
    definitions, name_calls = find_definitions(document, names, recorded)
    parts = model_parts(list(roots.values()))
    graph = ObjectGraph(
        definitions, names, name_calls, document.tensor_of, parts, use_recorded_source
    )
    calls = [root.call] if root is not None else []
    calls += [module.call for module in roots.values()]
    for definition in list(definitions.values()):
        if definition.kind in ("module", "object"):
            calls += definition.usage.calls
    roots |= {id(root.call): root} if root is not None else {}
    for call in calls:
        instance = graph.translate(call)
        if isinstance(instance, Instance) and id(call) in roots:
            instance.definition.root = instance.definition.root or instance
    graph.roots = [(module, graph.expr_of(module.call)) for module in roots.values()]
    return graph


@dataclass(slots=True)
class ObjectGraph:
    """The objects of a file as expressions, and what could not be written.

    Attributes:
        definitions: classes and functions that the stub defines, by path, in the file's order.
        names: identifiers of the stub.
        roots: the modules that are in no other, and the one that `build()` creates.
        parts: what functions return, by their names: expressions too deep to be written in place.
        calls: calls of the file that weights_only may have to allow (see `find_definitions`).
        tensor_of: returns the tensor that a value is, or None.
        model: the modules and tensors of all models of the file.
        assembled: ids of the calls of modules that are put together without a constructor.
        deferred: attributes that only `build()` can set.
        unwritten: descriptions of values that the stub replaces by None, in order.
        zeroed: attributes that are zeros in the stub instead of the file's numbers.
        exprs: the expressions of values with contents, by id of the value, which they keep alive.
        opened: ids of the values whose contents are being translated.
    """

    definitions: dict[str, Definition]
    names: Names
    calls: list[Call]
    tensor_of: TensorOf
    model: ModelParts
    use_recorded_source: bool
    roots: list[tuple[Module, Expr]] = field(default_factory=list)
    parts: dict[str, Expr] = field(default_factory=dict)
    assembled: set[int] = field(default_factory=set)
    deferred: list[Deferred] = field(default_factory=list)
    unwritten: dict[str, None] = field(default_factory=dict)
    zeroed: dict[str, None] = field(default_factory=dict)
    exprs: dict[int, tuple[Value, Expr]] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)
    instance_count: int = 0

    def translate(self, root: Value) -> Expr:
        """Return the expression of a value, after those of everything in it."""
        frames: list[tuple[Value, Iterator[Value]]] = []
        entering: Value = root if self._has_untranslated_contents(root) else None
        while entering is not None or frames:
            if entering is not None:
                self.opened.add(id(entering))
                frames.append((entering, self._contents(entering)))
            value, contents = frames[-1]
            entering = next((v for v in contents if self._has_untranslated_contents(v)), None)
            if entering is None:
                frames.pop()
                expr = self._compound(value)  # `value` is still open: it may contain itself
                expr = self.move_to_function(expr) if expr.depth > MAX_DEPTH else expr
                self.exprs[id(value)] = (value, expr)
                self.opened.discard(id(value))
        return self.expr_of(root)

    def expr_of(self, value: Value) -> Expr:
        """Return the expression of a value that is translated, or has no contents."""
        translated = self.exprs.get(id(value))
        if translated is not None:
            return translated[1]
        if isinstance(value, tuple | list | dict) and id(value) not in self.opened:
            return self.translate(value)  # composed by a caller, not in the file as it is
        if isinstance(value, Global | PersistentId):  # legacy files store a class with its source
            return self._global(value)
        simple = literal(value)
        if simple is not None:
            return simple
        if isinstance(value, Blob) and len(value) < MAX_BLOB:
            return bytes_expr(value.read(), value.mutable)
        tensor = self.tensor_of(value) if isinstance(value, Call) else None
        if tensor is not None:
            if tensor.parameter:
                return parameter(tensor)
            return tensor_values(tensor) if not tensor.uninitialized else NONE
        return self._lose("a cycle" if isinstance(value, Call | list | dict) else "a value")

    def move_to_function(self, expr: Expr) -> Expr:
        """Return the call of a new function for an expression that is nested too deep."""
        name = self.names.new("_part")
        self.parts[name] = expr
        return call_expr(name)

    def _lose(self, description: str) -> Expr:
        self.unwritten[description] = None
        return NONE

    def _definition_of(self, name: QualifiedName | None) -> Definition | None:
        return self.definitions.get(f"{name[0]}.{name[1]}") if name else None

    # Contents of values

    def _has_untranslated_contents(self, value: Value) -> bool:
        if type(value) in SIMPLE or not isinstance(value, tuple | list | dict | Call | SetOf):
            return False
        if id(value) in self.exprs or id(value) in self.opened:
            return False
        return not (isinstance(value, Call) and self.tensor_of(value) is not None)

    def _contents(self, value: Value) -> Iterator[Value]:
        """Yield what has to be translated before a value."""
        module = module_of(value)
        if module is not None:
            yield from self._members(module)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield key_value(key)
                yield item
        elif isinstance(value, Call):
            yield from constructor_arguments(value)
            if function_path(value) == PARTIAL and isinstance(value.state, tuple):
                yield from value.state
            yield from attributes_of(value).values()
            yield from self._contents(value.pairs)
            yield from value.items
            yield from value.added
        elif isinstance(value, tuple | list | SetOf):
            yield from value

    def _members(self, module: Module) -> Iterator[Value]:
        children = dict(module.members(MODULES))
        wrapper = WRAPPERS.get(module.class_path)
        if wrapper is not None:
            yield children.get(wrapper[0])
            return
        yield from children.values()
        for _, value in module.other_attributes():
            if type(value) not in SIMPLE:
                parts, others = parts_in(value, self.model.ids)
                yield from others if parts else [value]
        for store in (PARAMETERS, BUFFERS):
            yield from (value for _, value in module.members(store))

    # Values with contents

    def _compound(self, value: Value) -> Expr:
        """Return the expression of a value whose contents are translated."""
        if isinstance(value, tuple | list):
            brackets = "()" if isinstance(value, tuple) else "[]"
            return Sequence(brackets, list(map(self.expr_of, value)))
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, SetOf):
            return set_expr(list(map(self.expr_of, value)), value.frozen)
        assert isinstance(value, Call)
        module = module_of(value)
        if module is not None:
            return self._module(module)
        name = class_name(value)
        definition = self._definition_of(name)
        if definition is not None:
            return self._object(value, definition)
        if function_path(value) == GETATTR:
            return self._global(value)
        expr = object_expr(value, self.expr_of)
        if expr is not None:
            return expr
        return self._lose(f"{name[0]}.{name[1]}" if name else "an object")

    def _dict(self, value: dict[Value, Value]) -> Expr:
        return DictExpr([(self.expr_of(key_value(k)), self.expr_of(v)) for k, v in value.items()])

    def _global(self, value: Value) -> Expr:
        """Return a class or function in the stub or a library: `Outer.Inner`, `torch.relu`."""
        name, lost = global_name(value), "a bound method" if isinstance(value, Call) else "a name"
        if name is None:
            return self._lose(lost)
        definition = self._definition_of(name)
        if definition is not None:
            return Name(definition.ident)
        outer, _, last = name[1].rpartition(".")
        owner = self._definition_of((name[0], outer)) if isinstance(value, Call) else None
        if owner is not None and last.isidentifier() and not last.startswith("_"):
            return Name(f"{owner.ident}.{last}")  # a member of an enum
        text = global_text(*name)
        lost = lost if isinstance(value, Call) else f"{name[0]}.{name[1]}"
        return Name(text) if text else self._lose(lost)

    # Modules

    def _module(self, module: Module) -> Expr:
        """Return a constructor call, or an instance of a class that the stub defines."""
        definition = self._definition_of(class_name(module.call))
        row = lookup(module.class_path)
        if definition is not None and (not row or definition.module.split(".")[0] != "torch"):
            return self._instance(module, definition)
        if not row:
            expr = assemble("nn.Module", module, self.expr_of, self.tensor_of)
        elif row.style == "graph":
            # A class of its own for each code that torch.fx traced.
            recorded = fx_source(module, self.use_recorded_source)
            name = recorded.fx_name or ""
            qualname = f"{name}:{recorded.fx_code or id(module.call)}"
            path = f"{FX_MODULE}.{qualname}"
            if path not in self.definitions:
                ident = self.names.new(name)
                traced = Definition(FX_MODULE, qualname, ident, "module", recorded=recorded)
                self.definitions[path] = traced
            return self._instance(module, self.definitions[path], FX_BOOKKEEPING)
        else:
            expr = torch_module(module, row, self.expr_of, self.tensor_of)
        if isinstance(expr, CallExpr) and expr.func == ASSEMBLED:
            self.assembled.add(id(module.call))
        return expr

    def new_instance(self, call: Call | None, definition: Definition) -> Instance:
        """Add an instance to a class; it has the next number."""
        self.instance_count += 1
        instance = Instance(call, definition, self.instance_count)
        definition.instances.append(instance)
        return instance

    def _instance(
        self, module: Module, definition: Definition, skip: frozenset[str] = frozenset()
    ) -> Instance:
        """Return an instance of a module class that the stub defines."""
        instance = self.new_instance(module.call, definition)
        members = instance.members
        for key, value in module.other_attributes():
            if key not in skip:
                members += self._attribute(definition, module, key, value)
        for key, value in module.members(MODULES):
            members.append(Member("child", key, self.expr_of(value)))
        for key, value in module.members(PARAMETERS):
            tensor = self.tensor_of(value)
            members.append(Member("parameter", key, NONE if not tensor else parameter(tensor)))
        left_out = module.non_persistent
        for key, value in module.members(BUFFERS):
            tensor, persistent = self.tensor_of(value), key not in left_out
            expr = NONE if not tensor else buffer(tensor, persistent)
            self._note_placeholder(definition, key, expr)
            members.append(Member("buffer", key, expr, persistent))
        return instance

    def _attribute(
        self, definition: Definition, module: Module, key: str, value: Value
    ) -> list[Member]:
        """Return a plain attribute of a module.

        If it refers to modules, it is set after these; if they are outside of this module, when
        everything is built.
        """
        plain = not registers_itself(value, self.tensor_of)
        parts, _ = parts_in(value, self.model.ids)
        if parts:
            paths: dict[int, Access] = {}  # the first access to each module and tensor
            for access, part, _, _ in walk_model(module, "self"):
                paths.setdefault(id(part), access)
            if all(part in paths for part in parts) and not self.model.shared.intersection(parts):
                return [Member("late", key, shared_attribute(value, paths, self.expr_of), plain)]
            self.deferred.append(Deferred(module, key))
            self._lose(self.deferred[-1].description)
            return [Member("attribute", key, NONE)] if key != "forward" else []
        expr = self._expr_of_attribute(definition, key, value)
        if key == "forward" and expr is NONE and value is not None:
            return []  # the class has a forward that says that it is not recorded
        return [Member("attribute", key, expr, plain)]

    def _expr_of_attribute(self, definition: Definition, key: str, value: Value) -> Expr:
        """Return the value of an attribute, and note if it is lost or zeros."""
        expr = self.expr_of(value)
        if expr is NONE and value is not None:
            self._lose(f"{definition.qualname}.{key}")
        self._note_placeholder(definition, key, expr)
        return expr

    def _note_placeholder(self, definition: Definition, key: str, expr: Expr) -> None:
        if expr.depth and has_placeholder(expr):
            self.zeroed[f"{definition.qualname}.{key}"] = None

    # Other objects of user-defined classes

    def _object(self, call: Call, definition: Definition) -> Expr:
        args = [self.expr_of(item) for item in constructor_arguments(call)]
        kind = definition.kind
        if kind == "tuple":
            inherits_new = all(len(item.args) == 1 for item in definition.usage.constructed)
            if not inherits_new and len(call.args) == 1 and isinstance(call.args[0], tuple):
                args = [self.expr_of(item) for item in call.args[0]] or args
        elif kind == "dict":
            args = [self._dict(call.pairs)] if call.pairs else []
        elif kind in ("list", "set"):
            items = [self.expr_of(item) for item in (*call.items, *call.added)]
            args = [Sequence("[]", items)] if items else []
        elif kind not in ("enum", "exception", "str", "int", "float", "bytes", "function"):
            instance = self.new_instance(call, definition)
            for key, value in attributes_of(call).items():
                if isinstance(key, str):
                    expr = self._expr_of_attribute(definition, key, value)
                    instance.members.append(Member("attribute", str(key), expr))
            return instance
        return call_expr(definition.ident, *args)
