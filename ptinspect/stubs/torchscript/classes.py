"""The recorded classes and functions of a TorchScript program, translated.

TorchScript writes a copy of a class per use, such as `___torch_mangle_7.Linear`. Equal copies are
written once.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place
from ptinspect.stubs.expr.literals import (
    RESERVED,
    Names,
    is_attribute,
    string,
)
from ptinspect.stubs.torchscript.code import (
    FunctionTranslator,
    Untranslatable,
    depth_exceeds,
    dotted_path,
    is_plain_constant,
)
from ptinspect.stubs.torchscript.operators import DUNDER_METHODS, HELPERS, MAX_DEPTH, MODULE_NAMES

if TYPE_CHECKING:
    from ptinspect.formats.torch.torchscript import TorchScript

NOT_TRANSLATED = "not translated: "
"""Beginning of the error that a method raises in a stub if its code could not be translated."""

_CUSTOM = "__torch__.torch.classes."
_TYPED = "torch.jit._pickle."
_KINDS = {"Module": "Module", "NamedTuple": "NamedTuple", "Enum": "Enum", "Interface": "Interface"}


@dataclass(slots=True)
class Definition:
    """A recorded class or function, and its translation."""

    path: str
    kind: str
    node: ast.ClassDef | ast.FunctionDef
    parameters: set[str] = field(default_factory=set)
    buffers: set[str] | None = None
    name: str = ""
    text: str = ""


def parse_definitions(archive: TorchScript) -> dict[str, Definition]:
    """Return the classes and functions of the archive's code by path."""
    directory, definitions = archive.directory, {}
    for record, index in directory.index.items():
        _, is_code, module = record.removesuffix(".py").partition("/code/")
        if not is_code or not record.endswith(".py"):
            continue
        text = directory.read(index).decode("utf-8", "replace")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DamagedError(
                f"the code is not Python: {getattr(error, 'msg', 'it nests too deep')}",
                where=Place(record),
            ) from None
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                node.body = [
                    item for item in node.body
                    if isinstance(item, ast.FunctionDef) or not depth_exceeds(item, MAX_DEPTH)
                ]  # fmt: skip
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                path = f"{module.replace('/', '.')}.{node.name}"
                definitions[path] = _definition(path, node)
    return definitions


def _definition(path: str, node: ast.ClassDef | ast.FunctionDef) -> Definition:
    if isinstance(node, ast.FunctionDef):
        return Definition(path, "function", node)
    base = dotted_path(node.bases[0]) if node.bases else None
    definition = Definition(path, _KINDS.get(base or "", "class"), node)
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            values = item.value.elts if isinstance(item.value, ast.List) else []
            names = {str(v.value) for v in values if isinstance(v, ast.Constant)}
            if item.targets[0].id == "__parameters__":
                definition.parameters = names
            elif item.targets[0].id == "__buffers__":
                definition.buffers = names
    return definition


class Translation:
    """Translates all definitions; copies with the same text share one.

    Attributes:
        written: the definitions of the stub, in order.
        used: names of modules and helpers that they use.
    """

    def __init__(self, definitions: dict[str, Definition], version: int) -> None:
        self.definitions = definitions
        self.version = version
        self.written: list[Definition] = []
        self.used: set[str] = set()
        self.names = Names(set(MODULE_NAMES) | set(HELPERS) | set(RESERVED))
        self.by_text: dict[str, str] = {}

    def name_of(self, path: str) -> str | None:
        """Return the stub's name of a definition."""
        definition = self.definitions.get(path)
        if definition is None:
            return None
        if not definition.name:
            definition.name = self.names.new(path.rpartition(".")[2])
        return definition.name

    def kind_of(self, path: str) -> str | None:
        definition = self.definitions.get(path)
        return definition.kind if definition is not None else None

    def run(self) -> None:
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
        bases = {"Module": "nn.Module", "Enum": "enum.Enum", "NamedTuple": "typing.NamedTuple"}
        base = bases.get(definition.kind)
        body: list[ast.stmt] = []
        hooks = False
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and (
                is_attribute(item.name) or item.name in DUNDER_METHODS
            ):
                body.append(self._function(item, True, hooks and item.name == "forward"))
            elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                name = item.targets[0].id
                hooks |= name.startswith("__forward") and ast.unparse(item.value) != "[]"
                if is_attribute(name) and is_plain_constant(item.value):
                    body.append(item)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                body += self._field(item, item.target.id, definition.kind)
        bases_list = [ast.parse(base, mode="eval").body] if base else []
        result = ast.ClassDef(node.name, bases_list, [], body or [ast.Pass()], [])
        result.type_params = []  # type: ignore[attr-defined] # Python 3.12
        return result

    def _field(self, item: ast.AnnAssign, name: str, kind: str) -> list[ast.stmt]:
        """Return a constant of a class, or a field of a named tuple."""
        value = item.value if is_plain_constant(item.value) else None
        if kind == "NamedTuple" and is_attribute(name) and not name.startswith("_"):
            translator = FunctionTranslator(self.name_of, self.kind_of, set(), self.version)
            annotation = translator.type(item.annotation) or ast.parse("object", mode="eval").body
            return [ast.AnnAssign(ast.Name(name, ast.Store()), annotation, value, 1)]
        is_final = ast.unparse(item.annotation).startswith("Final[")
        if value is None or not is_final or not is_attribute(name):
            return []
        return [ast.Assign([ast.Name(name, ast.Store())], value, lineno=0)]

    def _function(
        self, node: ast.FunctionDef, is_method: bool, has_hooks: bool = False
    ) -> ast.FunctionDef:
        translator = FunctionTranslator(self.name_of, self.kind_of, self.reserved, self.version)
        try:
            if has_hooks:
                raise Untranslatable("the module has hooks")
            result = translator.translate(node, is_method)
            self.used |= translator.used
        except Untranslatable as reason:
            text = string(f"{NOT_TRANSLATED}{node.name}: {reason}")
            code = f"def f(self, *args, **kwargs):\n    raise NotImplementedError({text})"
            if not is_method:
                code = code.replace("self, ", "", 1)
            result = ast.parse(code).body[0]  # type: ignore[assignment]
            result.name = node.name
        return result
