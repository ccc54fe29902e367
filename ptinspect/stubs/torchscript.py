"""The stub of a TorchScript program: its recorded classes and functions, translated, and
`build(tensors)`, which assembles the objects of data.pkl, leaves first.

TorchScript writes a copy of a class per use, such as `___torch_mangle_7.Linear`. Equal copies are
written once.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place, UnsupportedError
from ptinspect.formats.torch.torchscript import CONSTANTS
from ptinspect.pickling.numpy_objects import is_in_c_order, required_numel
from ptinspect.pickling.pyobjects import as_mapping, iter_children
from ptinspect.pickling.values import Call, Global, Value, key_value
from ptinspect.stubs.collect.definitions import RESERVED, Names
from ptinspect.stubs.collect.source import (
    FALSE,
    NONE,
    TRUE,
    DictExpr,
    Expr,
    Name,
    Sequence,
    Source,
    call_expr,
    templates,
)  # fmt: skip
from ptinspect.stubs.collect.values import (
    FLOATS,
    ints,
    is_attribute,
    literal,
    named,
    prose,
    tensor_values,
    text_literal,
    zeros,
)
from ptinspect.stubs.torchscript_code import (
    DIFFERENCES,
    HELPERS,
    MODULE_NAMES,
    NOT_TRANSLATED,
    FunctionTranslator,
    dotted_path,
    is_plain_constant,
    is_too_deep,
    method_name,
    parsed,
)  # fmt: skip
from ptinspect.text import read_sections

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.formats.torch.torchscript import TorchScript

_MAX_NESTING = 60
_BASES = {"Module": "nn.Module", "Enum": "enum.Enum", "NamedTuple": "typing.NamedTuple"}
_ORDER = ("Enum", "NamedTuple", "class", "function", "Module")
_CUSTOM = "__torch__.torch.classes."
_TYPED = "torch.jit._pickle."
_STANDARD_MODULES = ("enum", "operator", "re", "types", "typing", "warnings")


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
    used = translation.used | builder.used | {f"{archive.code_folder}/"}
    used |= {name for helper in HELPERS if helper in used for name in templates()[helper].names}
    differences = [text for name, text in DIFFERENCES.items() if name in used]
    remarks = ["", *differences] if differences else []
    names = [item.name for item in written if NOT_TRANSLATED in item.text]
    remarks += ["", "unknown, and raised as NotImplementedError: parts of", *names] if names else []
    if builder.unwritten:
        remarks += ["", "Could not be written, and is None:", *builder.unwritten]
    head = "\n".join(read_sections("stubs/torchscript_rules.txt")["head"]).format(
        name=prose(document.path.rpartition("/")[2]),
        sha256=sha256,
        unknown="\n".join(["", *remarks] if remarks else []),
        imports="".join(f"import {name}\n" for name in _STANDARD_MODULES if name in used),
        names=sorted({"build", *(item.name for item in written)}),
        constants=f"\n{CONSTANTS} = types.SimpleNamespace()" if CONSTANTS in used else "",
    )
    lines = [head, *(line for name in HELPERS if name in used for line in templates()[name].lines)]
    lines += [*builder.functions, *(x for d in written for x in ("", "", d.text.strip("\n")))]
    return "\n".join([*lines, "", "", *body.lines, "", "", "SAFE_GLOBALS = []"]) + "\n"


# Classes and functions


@dataclass(slots=True)
class Definition:
    """A recorded class or function, and its translation. `hooks` are the methods that run when a
    module of the class is called, as ("forward_pre_hook", name); calls in the code contain them."""

    path: str
    kind: str
    node: ast.ClassDef | ast.FunctionDef | None = None
    parameters: set[str] = field(default_factory=set)
    buffers: set[str] | None = None
    hooks: list[tuple[str, str]] = field(default_factory=list)
    name: str = ""
    text: str = ""


def parse_definitions(archive: TorchScript) -> dict[str, Definition]:
    """Return the classes and functions of the archive's code by path."""
    directory, definitions = archive.directory, dict[str, Definition]()
    for record, index in directory.index.items():
        folder, module = record.partition("/")[2].removesuffix(".py").partition("/")[::2]
        if folder != archive.code_folder or not record.endswith(".py"):
            continue
        module = module.replace("/", ".")
        for node in _parse(directory.read(index).decode("utf-8", "replace"), record):
            if isinstance(node, ast.ClassDef):
                node.body = [
                    item for item in node.body
                    if isinstance(item, ast.FunctionDef) or not is_too_deep(item)
                ]  # fmt: skip
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                path = f"{module}.{node.name}"
                definitions[path] = _definition(path, node)
    for path, script in archive.classes.items():
        if path not in definitions:  # torch 1.0 to 1.2 wrote the methods of a module alone
            body = [item for item in _parse(script.code, path) if isinstance(item, ast.FunctionDef)]
            node = ast.ClassDef("Module", [], [], list[ast.stmt](body), [])
            parameters, buffers = set(script.parameters), set(script.buffers or ())
            definitions[path] = Definition(path, "Module", node, parameters, buffers)
    return definitions


def _parse(code: str, record: str) -> list[ast.stmt]:
    try:
        return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", "it nests too deep")
        raise DamagedError(f"the code is not Python: {reason}", where=Place(record)) from None


def _definition(path: str, node: ast.ClassDef | ast.FunctionDef) -> Definition:
    if isinstance(node, ast.FunctionDef):
        return Definition(path, "function", node)
    base = dotted_path(node.bases[0]) if node.bases else None
    definition = Definition(path, base if base in (*_BASES, "Interface") else "class", node)
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            values = item.value.elts if isinstance(item.value, ast.List) else []
            names = [str(v.value) for v in values if isinstance(v, ast.Constant)]
            target = item.targets[0].id
            if target == "__parameters__":
                definition.parameters = set(names)
            elif target == "__buffers__":
                definition.buffers = set(names)
            elif target in ("__forward_pre_hooks__", "__forward_hooks__"):
                definition.hooks += [(target.strip("_").removesuffix("s"), name) for name in names]
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for _, name in definition.hooks:
        if definition.kind != "Module" or name not in methods or not is_attribute(name):
            raise UnsupportedError(f"{prose(path)} has the hook {prose(name)}, but no such method")
    return definition


class Translation:
    """Translates all definitions; copies with the same text share one.

    Attributes:
        written: the definitions of the stub, in order.
        used: names of modules and helpers that they use.
    """

    def __init__(self, definitions: dict[str, Definition], version: int) -> None:
        self.definitions = definitions
        self.kind_of = {path: item.kind for path, item in definitions.items()}.get
        self.version = version
        self.written: list[Definition] = []
        self.used: set[str] = set()
        self.names = Names(set(MODULE_NAMES) | set(HELPERS) | set(RESERVED))
        self.by_text: dict[str, str] = {}

    def name_of(self, path: str) -> str | None:
        """Return the stub's name of a definition."""
        definition = self.definitions.get(path)
        if definition is not None and not definition.name:
            definition.name = self.names.new(path.rpartition(".")[2])
        return definition.name if definition is not None else None

    def run(self) -> None:
        """Write each definition once."""
        idents = {path.rpartition(".")[2] for path in self.definitions}
        for definition in self.definitions.values():
            if definition.kind == "Interface" or definition.path.startswith(_CUSTOM):
                continue
            self.reserved = {*idents, *(item.name for item in self.written)}
            tree = self._tree(definition)
            tree.name = definition.path.rpartition(".")[2]
            key = ast.unparse(tree)
            if not definition.name and key in self.by_text:
                definition.name = self.by_text[key]
                continue
            name = self.name_of(definition.path)
            assert name is not None
            self.by_text.setdefault(key, name)
            tree.name = name
            definition.text = ast.unparse(tree)
            self.used |= {item.id for item in ast.walk(tree) if isinstance(item, ast.Name)}
            self.written.append(definition)

    def _tree(self, definition: Definition) -> ast.ClassDef | ast.FunctionDef:
        node = definition.node
        if isinstance(node, ast.FunctionDef):
            return self._function(node, False)
        assert node is not None
        body: list[ast.stmt] = []
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                if method_name(item.name) is not None:
                    body.append(self._function(item, True))
            elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                name = item.targets[0].id
                if is_attribute(name) and is_plain_constant(item.value):
                    body.append(item)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                name, value = item.target.id, item.value if is_plain_constant(item.value) else None
                target = ast.Name(name, ast.Store())
                is_field = definition.kind == "NamedTuple" and not name.startswith("_")
                if is_field and is_attribute(name):
                    translator = FunctionTranslator(self.name_of, self.kind_of, set(), self.version)
                    annotation = translator.type(item.annotation) or parsed("object")
                    body.append(ast.AnnAssign(target, annotation, value, 1))
                elif value is not None and is_attribute(name):  # a constant
                    is_final = ast.unparse(item.annotation).startswith("Final[")
                    body += [ast.Assign([target], value, lineno=0)] if is_final else []
        is_container = definition.path.startswith("__torch__.torch.nn.modules.container.")
        base = "_Container" if is_container else _BASES.get(definition.kind)
        bases = [parsed(base)] if base else []
        result = ast.ClassDef(node.name, bases, [], body or [ast.Pass()], [])
        result.type_params = []  # type: ignore[attr-defined] # Python 3.12
        return result

    def _function(self, node: ast.FunctionDef, is_method: bool) -> ast.FunctionDef:
        translator = FunctionTranslator(self.name_of, self.kind_of, self.reserved, self.version)
        return translator.translate(node, is_method)


# Objects


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
        root, constants = archive.objects, archive.constants
        self.source.add("def build(tensors=None):", '    """Return the root of the program."""')
        for call in self._objects([root, *constants.values()]):
            definition = self._definition(call)
            path, kind = definition.path, definition.kind
            attributes = as_mapping(call.state)
            self.classes.setdefault(definition.name or path)
            self.in_packed = kind == "custom"
            if kind == "custom":
                expr: Expr = call_expr("_packed", text_literal(path), self.value(call.state))
            elif not definition.name:
                self.unwritten.append(prose(path))
                expr = NONE
            elif kind == "Module":
                expr = self._module(definition, attributes or {})
            else:
                pairs = {str(key): self.value(item) for key, item in (attributes or {}).items()}
                expr = call_expr(
                    "_object", Name(definition.name), *(named(pairs) or [DictExpr([])])
                )
            label = "model" if call is root else path.rpartition(".")[2].lower()
            variable = self.variables[id(call)] = self.names.new(label, "item")
            self.source.add_assignment(variable, expr, 4)
            for hook, method in definition.hooks:
                self.source.add(f"    {variable}.register_{hook}({definition.name}.{method})")
            if attributes is None and kind != "custom" and expr is not NONE:
                self.source.add_expr(f"{variable}.__setstate__(", self.value(call.state), 4, ")")
        for name, value in constants.items():
            self.used |= {CONSTANTS, "types"}
            self.source.add_assignment(f"{CONSTANTS}.{name}", self.value(value), 4)
        self.source.add_expr("return ", self.value(root), 4)
        for name in ("assembled", "tensor", "packed", "object"):
            if any(f"_{name}(" in line for line in self.source.lines):
                self.functions += templates()[f"{name}_function"].lines
        return self.source

    def _objects(self, roots: list[Value]) -> list[Call]:
        """Return the objects below `roots`, leaves first, and count the uses of each tensor."""
        order: list[Call] = []
        done, is_open = set[int](), set[int]()
        counts = dict[tuple[object, ...], int]()
        stack: list[tuple[Value, bool]] = [(root, False) for root in reversed(roots)]
        while stack:
            value, is_expanded = stack.pop()
            if is_expanded:
                is_open.discard(id(value))
                done.add(id(value))
                is_object = self._definition(value).kind in ("Module", "class", "custom")
                order += [value] if isinstance(value, Call) and is_object else []
                continue
            tensor = self.document.tensor_of(value)
            if tensor is not None:
                key = tensor.view_key
                counts[key] = counts.get(key, 0) + 1
                continue
            if not isinstance(value, Call | list | tuple | dict) or id(value) in done:
                continue
            if id(value) in is_open:
                raise UnsupportedError("objects of the program refer to each other")
            is_open.add(id(value))
            stack.append((value, True))
            parameters = self._definition(value).parameters
            for name, item in iter_children(value):
                stack.append((item, False))
                tensor = self.document.tensor_of(item) if name in parameters else None
                if tensor is not None:
                    self.parameters.add(tensor.view_key)
        self.shared = {key for key, count in counts.items() if count > 1}
        self.used |= {"views/"} if len({key[:3] for key in counts}) < len(counts) else set()
        return order

    def _definition(self, value: Value) -> Definition:
        """Return the class of an object; without a name if the program does not define it."""
        func = value.func if isinstance(value, Call) else None
        path = func.path if isinstance(func, Global) else ""
        if path.startswith(_CUSTOM):
            return Definition(path, "custom")
        return self.translation.definitions.get(path) or Definition(path, "")

    def _module(self, definition: Definition, attributes: dict[Value, Value]) -> Expr:
        """Return a module with its values in the groups of torch.nn.Module."""
        groups: dict[str, dict[str, Expr]] = {
            "attributes": {}, "parameters": {}, "buffers": {}, "children": {},
        }  # fmt: skip
        for key, value in attributes.items():
            name, tensor = str(key), self.document.tensor_of(value)
            group = "attributes"
            if name in definition.parameters:
                group = "parameters"
            elif tensor is not None and (definition.buffers is None or name in definition.buffers):
                group = "buffers"
            elif self._definition(value).kind == "Module":
                group = "children"
            groups[group][name] = self.value(value)
        arguments = {name: named(exprs)[0] for name, exprs in groups.items() if exprs}
        return call_expr("_assembled", Name(definition.name), **arguments)

    def value(self, value: Value, depth: int = 0) -> Expr:
        """Return an expression for a value; a shared tensor gets a variable."""
        tensor = self.document.tensor_of(value)
        if tensor is not None:
            return self._tensor(tensor)
        expr = literal(value)
        if expr is not None or id(value) in self.variables:
            return expr or Name(self.variables[id(value)])
        if depth > _MAX_NESTING:
            raise UnsupportedError(f"values nest deeper than {_MAX_NESTING}")
        if isinstance(value, list | tuple):
            items = [self.value(item, depth + 1) for item in value]
            return Sequence("[]" if isinstance(value, list) else "()", items)
        if isinstance(value, dict):
            keys = [self.value(key_value(key), depth + 1) for key in value]
            items = [self.value(item, depth + 1) for item in value.values()]
            return DictExpr([*zip(keys, items, strict=True)])
        definition = self._definition(value)
        path, args = definition.path, value.args if isinstance(value, Call) else ()
        if args and path.startswith(_TYPED):
            return self.value(args[0], depth + 1)
        if args and definition.kind in ("Enum", "NamedTuple"):
            return call_expr(definition.name, *[self.value(item, depth + 1) for item in args])
        if args and path == "torch.device" and isinstance(args[0], str):
            return call_expr("torch.device", text_literal(args[0]))
        if args and path == "builtins.complex":
            return call_expr("complex", *[self.value(item, depth + 1) for item in args])
        self.unwritten.append(prose(path or type(value).__name__))
        return NONE

    def _tensor(self, tensor: Tensor) -> Expr:
        view = tensor.view_key
        if view in self.views:
            return self.views[view]
        key = self.keys.get(id(tensor))
        # The strides and paddings of a packed convolution are a tensor of int16.
        is_settings = self.in_packed and tensor.dtype is not None and tensor.dtype.name == "int16"
        expr: Expr = tensor_values(tensor) if is_settings else zeros(tensor, *FLOATS[:1])
        if key is None:
            self.unwritten.append(f"a tensor of {tensor.shape}, which is zeros")
        else:
            is_plain = view in self.parameters or not tensor.requires_grad
            grad: dict[str, Expr] = {} if is_plain else {"requires_grad": TRUE}
            shape, stride = tensor.shape, tensor.stride or ()
            is_dense = required_numel(0, shape, stride) == prod(shape) and 0 not in stride
            if is_dense and not is_in_c_order(shape, stride) and not tensor.quantizer:
                grad["stride"] = Sequence("()", ints(stride))  # such as channels_last
            expr = call_expr("_tensor", Name("tensors"), text_literal(key), expr, **grad)
        if view in self.parameters:
            grad = {} if tensor.requires_grad else {"requires_grad": FALSE}
            expr = call_expr("nn.Parameter", expr, **grad)
        if view in self.shared:
            variable = self.names.new("shared")
            self.source.add_assignment(variable, expr, 4)
            expr = self.views[view] = Name(variable)
        return expr
