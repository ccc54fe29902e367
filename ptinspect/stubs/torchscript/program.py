"""The stub of a TorchScript program: its classes with their methods, and `build(tensors)`, which
assembles the objects of data.pkl, leaves first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import UnsupportedError
from ptinspect.formats.torch.torchscript import CONSTANTS
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, iter_children
from ptinspect.pickling.values import Call, Global, Value, key_value
from ptinspect.stubs.expr.literals import (
    FLOATS,
    Names,
    literal,
    prose,
    string,
    tensor_values,
    zeros,
)
from ptinspect.stubs.expr.nodes import (
    FALSE,
    NONE,
    TRUE,
    CallExpr,
    DictExpr,
    Expr,
    Literal,
    Name,
    Sequence,
)
from ptinspect.stubs.torchscript.classes import (
    NOT_TRANSLATED,
    Definition,
    Translation,
    parse_definitions,
)
from ptinspect.stubs.torchscript.operators import HELPERS, MODULE_NAMES
from ptinspect.stubs.write.source import Source, template

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.formats.torch.torchscript import TorchScript

_MAX_NESTING = 60
_ORDER = ("Enum", "NamedTuple", "class", "function", "Module")
_CUSTOM = "__torch__.torch.classes."
_TYPED = "torch.jit._pickle."


def torchscript_stub(document: Document, sha256: str) -> str:
    """Return the source of a TorchScript file's classes and its `build()`.

    Raises:
        UnsupportedError: the code has no Python syntax, or its objects refer to each other.
    """
    archive: TorchScript = document.archive  # type: ignore[assignment]
    definitions = parse_definitions(archive)
    version = (archive.version or "").strip()
    translation = Translation(definitions, int(version) if version.isdecimal() else 10)
    translation.run()
    builder = ObjectBuilder(document, translation)
    body = builder.build_function()
    rank = {name: index for index, name in enumerate(builder.classes)}
    written = sorted(
        translation.written, key=lambda d: (_ORDER.index(d.kind), rank.get(d.name, len(rank)))
    )
    used = translation.used | builder.used
    lines = [
        f'"""{prose(document.path.rpartition("/")[2])}: the code of a TorchScript program,',
        "translated to Python by ptinspect.",
        "",
        f"sha256 {sha256}",
        "",
        "recorded: the classes, their methods and all values",
        "Without tensors, build() returns the root with zeros. `tensors` maps the keys that",
        "`ptinspect show` prints to tensors, as {key: tensor.torch()} of document.tensors does.",
        *_untranslated_lines(written, builder.unwritten),
        '"""',
        "",
        "# ruff: noqa",
        "# fmt: off",
        "from __future__ import annotations",
        "",
        *[f"import {name}" for name in ("enum", "operator", "types", "typing", "warnings")
          if name in used],
        "",
        "import torch",
        "from torch import nn",
        "",
        f"__all__ = {sorted({'build', *(item.name for item in written)})!r}",
        "",
        "aten = torch.ops.aten",
        *([f"{CONSTANTS} = types.SimpleNamespace()"] if CONSTANTS in used else []),
    ]  # fmt: skip
    for name in HELPERS:
        lines += template(name).lines if name in used else ()
    lines += builder.functions
    for item in written:
        lines += ["", "", *item.text.strip("\n").split("\n")]
    return "\n".join([*lines, "", "", *body.lines, "", "", "SAFE_GLOBALS = []"]) + "\n"


def _untranslated_lines(written: list[Definition], unwritten: list[str]) -> list[str]:
    names = [item.name for item in written if NOT_TRANSLATED in item.text]
    lines = ["", "unknown, and raised as NotImplementedError: parts of", *names] if names else []
    return lines + (["", "Could not be written, and is None:", *unwritten] if unwritten else [])


class ObjectBuilder:
    """Writes `build()`: a variable per object, leaves first.

    Attributes:
        used: names of modules that it uses.
        unwritten: values that could not be written.
    """

    def __init__(self, document: Document, translation: Translation) -> None:
        self.document = document
        self.translation = translation
        self.used: set[str] = set()
        self.unwritten: list[str] = []
        self.classes: dict[str, None] = {}
        self.functions: list[str] = []
        self.names = Names({*(item.name for item in translation.written), *MODULE_NAMES, "tensors"})
        self.variables: dict[int, str] = {}
        self.source = Source()
        self.keys = {id(info.tensor): info.key for info in reversed(document.contents.tensors)}
        self.views: dict[object, Expr] = {}
        self.shared: set[object] = set()
        self.parameters: set[object] = set()
        self.in_packed = False

    def build_function(self) -> Source:
        """Return the function, and collect the functions that it needs."""
        archive: TorchScript = self.document.archive  # type: ignore[assignment]
        root = archive.pickled.root
        constants = list(as_sequence(archive.streams[-1].root) or ())
        order = self._objects([root, *constants])
        self.source.add("def build(tensors=None):", '    """Return the root of the program."""')
        for call in order:
            self._write_object(call, call is root)
        for number, value in enumerate(constants):
            self.used |= {CONSTANTS, "types"}
            expr = self.value(value)
            self.source.add_assignment(f"{CONSTANTS}.c{number}", expr, 4)
        self.source.add_expr("return ", self.value(root), 4)
        text = "\n".join(self.source.lines)
        for name in ("assembled", "tensor", "packed", "object"):
            if f"_{name}(" in text:
                self.functions += template(f"{name}_function").lines
        return self.source

    def _objects(self, roots: list[Value]) -> list[Call]:
        """Return the objects below `roots`, leaves first, and count the uses of each tensor."""
        order: list[Call] = []
        done: set[int] = set()
        is_open: set[int] = set()
        counts: dict[object, int] = {}
        stack: list[tuple[Value, bool]] = [(root, False) for root in reversed(roots)]
        while stack:
            value, is_expanded = stack.pop()
            if is_expanded:
                is_open.discard(id(value))
                done.add(id(value))
                if isinstance(value, Call) and self._kind(value) in ("Module", "class", "custom"):
                    order.append(value)
                continue
            tensor = self.document.tensor_of(value)
            if tensor is not None:
                key = tensor.view_key()
                counts[key] = counts.get(key, 0) + 1
                continue
            if not isinstance(value, Call | list | tuple | dict) or id(value) in done:
                continue
            if id(value) in is_open:
                raise UnsupportedError("objects of the program refer to each other")
            is_open.add(id(value))
            stack.append((value, True))
            parameters = self._parameters(value)
            for name, item in iter_children(value):
                stack.append((item, False))
                if name in parameters and (found := self.document.tensor_of(item)) is not None:
                    self.parameters.add(found.view_key())
        self.shared = {key for key, count in counts.items() if count > 1}
        return order

    def _definition(self, value: Value) -> Definition | None:
        if not isinstance(value, Call) or not isinstance(value.func, Global):
            return None
        return self.translation.definitions.get(value.func.path)

    def _kind(self, value: Value) -> str | None:
        func = value.func if isinstance(value, Call) else None
        if isinstance(func, Global) and func.path.startswith(_CUSTOM):
            return "custom"
        definition = self._definition(value)
        return definition.kind if definition is not None else None

    def _parameters(self, value: Value) -> set[str]:
        definition = self._definition(value)
        return definition.parameters if definition is not None else set()

    def _write_object(self, call: Call, is_root: bool) -> None:
        assert isinstance(call.func, Global)
        path, kind = call.func.path, self._kind(call)
        definition = self.translation.definitions.get(path)
        attributes = as_mapping(call.state)
        self.classes.setdefault(definition.name if definition is not None else path)
        self.in_packed = kind == "custom"
        if kind == "custom":
            expr: Expr = CallExpr("_packed", [
                (None, Literal(string(path))), (None, self.value(call.state)),
            ])  # fmt: skip
        elif definition is None or not definition.name:
            self.unwritten.append(prose(path))
            expr = NONE
        elif kind == "Module":
            expr = self._module(definition, attributes or {})
        else:
            pairs: list[tuple[Expr, Expr]] = [
                (Literal(string(str(key))), self.value(item))
                for key, item in (attributes or {}).items()
            ]
            expr = CallExpr("_object", [(None, Name(definition.name)), (None, DictExpr(pairs))])
        label = "model" if is_root else path.rpartition(".")[2].lower()
        variable = self.variables[id(call)] = self.names.new(label, "item")
        self.source.add_assignment(variable, expr, 4)
        if attributes is None and kind != "custom" and expr is not NONE:
            self.source.add_expr(f"{variable}.__setstate__(", self.value(call.state), 4, ")")

    def _module(self, definition: Definition, attributes: dict[Value, Value]) -> Expr:
        """Return a module with its values in the groups of torch.nn.Module."""
        groups: dict[str, list[tuple[Expr, Expr]]] = {
            "attributes": [], "parameters": [], "buffers": [], "children": [],
        }  # fmt: skip
        for key, value in attributes.items():
            name, tensor = str(key), self.document.tensor_of(value)
            group = "attributes"
            if name in definition.parameters:
                group = "parameters"
            elif tensor is not None and (definition.buffers is None or name in definition.buffers):
                group = "buffers"
            elif self._kind(value) == "Module":
                group = "children"
            groups[group].append((Literal(string(name)), self.value(value)))
        arguments = [(name, DictExpr(pairs)) for name, pairs in groups.items() if pairs]
        return CallExpr("_assembled", [(None, Name(definition.name)), *arguments])

    def value(self, value: Value, depth: int = 0) -> Expr:
        """Return an expression for a value; a shared tensor gets a variable."""
        tensor = self.document.tensor_of(value)
        if tensor is not None:
            return self._tensor(tensor)
        expr = literal(value)
        if expr is not None:
            return expr
        if id(value) in self.variables:
            return Name(self.variables[id(value)])
        if depth > _MAX_NESTING:
            raise UnsupportedError(f"values nest deeper than {_MAX_NESTING}")
        if isinstance(value, list | tuple):
            items = [self.value(item, depth + 1) for item in value]
            return Sequence("[]" if isinstance(value, list) else "()", items)
        if isinstance(value, dict):
            keys = [self.value(key_value(key), depth + 1) for key in value]
            items = [self.value(item, depth + 1) for item in value.values()]
            return DictExpr(list(zip(keys, items, strict=True)))
        return self._call_value(value, depth)

    def _call_value(self, value: Value, depth: int) -> Expr:
        path = value.func.path if isinstance(value, Call) and isinstance(value.func, Global) else ""
        if isinstance(value, Call) and value.args:
            if path.startswith(_TYPED):
                return self.value(value.args[0], depth + 1)
            definition = self._definition(value)
            if definition is not None and definition.kind in ("Enum", "NamedTuple"):
                args = [(None, self.value(item, depth + 1)) for item in value.args]
                return CallExpr(definition.name, args)
            if path == "torch.device" and isinstance(value.args[0], str):
                return CallExpr("torch.device", [(None, Literal(string(value.args[0])))])
        self.unwritten.append(prose(path or type(value).__name__))
        return NONE

    def _tensor(self, tensor: Tensor) -> Expr:
        view = tensor.view_key()
        if view in self.views:
            return self.views[view]
        key = self.keys.get(id(tensor))
        # The strides and paddings of a packed convolution are a tensor of int16.
        is_settings = self.in_packed and tensor.dtype is not None and tensor.dtype.name == "int16"
        expr: Expr = tensor_values(tensor) if is_settings else zeros(tensor)
        name = tensor.dtype.name if tensor.dtype is not None else "float32"
        if name in FLOATS and name != "float32" and isinstance(expr, CallExpr):
            expr = CallExpr(expr.func, [*expr.args, ("dtype", Name(f"torch.{name}"))])
        if key is None:
            self.unwritten.append(f"a tensor of {tensor.shape}, which is zeros")
        else:
            is_plain = view in self.parameters or not tensor.requires_grad
            expr = CallExpr("_tensor", [
                (None, Name("tensors")), (None, Literal(string(key))), (None, expr),
                *([] if is_plain else [("requires_grad", TRUE)]),
            ])  # fmt: skip
        if view in self.parameters:
            grad = [] if tensor.requires_grad else [("requires_grad", FALSE)]
            expr = CallExpr("nn.Parameter", [(None, expr), *grad])
        if view in self.shared:
            variable = self.names.new("shared")
            self.source.add_assignment(variable, expr, 4)
            expr = self.views[view] = Name(variable)
        return expr
