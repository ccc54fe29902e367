"""What a stub defines: classes and functions, their instances, and source that the file has.

Source that the file contains are the classes of legacy files, and forwards of torch.fx. Only code
that runs when it is called is used: plain methods without decorators, with constant defaults, and
none that Python or torch calls while a file is loaded. It is written from its syntax tree, without
annotations, so that the stub contains nothing invisible.

Sources: `torch.serialization._legacy_save.persistent_id` (source of a module's class);
`torch.fx.graph_module.GraphModule.__reduce__`, which pickles the `__dict__` with `_code`, and a
block of the imports that the code needs.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from ptinspect.document.modules import module_of
from ptinspect.stubs.collect.modules import MODULE_METHODS
from ptinspect.stubs.collect.source import UNSOLVED, Brackets, Expr
from ptinspect.stubs.collect.values import is_identifier
from ptinspect.text import read_sections

if TYPE_CHECKING:
    from ptinspect.document.modules import Module
    from ptinspect.pickling.values import Call, Value

MAX_CHARACTERS = 200_000
"""Length of the longest source that is parsed."""
FX_MODULE = "torch_fx_traced"
"""Module of the classes of traced modules, in a stub that is a package."""
_NAMES = read_sections("stubs/safe_names.txt")
FX_BOOKKEEPING = frozenset(_NAMES["fx"])
_IMPORTABLE = ("torch", "math", "operator", "torch.fx._pytree", "torch.utils._pytree")
_IMPORTABLE_FROM = ("torch", "math", "operator", "builtins")
_IMPORTABLE_NAMES = {("torch", "device"), ("math", "inf"), ("math", "nan")}
RESERVED = frozenset((*_NAMES["reserved"], *dir(builtins), *keyword.kwlist))
"""Names that no class, function or argument of a stub may have."""


# Identifiers


class Names(set[str]):
    """The identifiers in use. Gives everything one of its own."""

    def new(self, name: str, fallback: str = "name") -> str:
        """Return an unused identifier similar to `name` that neither stubs nor Python use."""
        if not is_identifier(name):
            name = "".join(char if char.isascii() and char.isalnum() else "_" for char in name[:60])
            name = name.strip("_") or fallback
            name = f"{fallback}_{name}" if name[0].isdigit() else name
        if name.startswith("__"):
            name = name.strip("_") or fallback
        base = unique = f"{name}_" if name in RESERVED or not is_identifier(name) else name
        number = 2
        while unique in self:
            unique = f"{base}_{number}" if not base.endswith("_") else f"{base}{number}"
            number += 1
        self.add(unique)
        return unique


# Definitions


@dataclass(slots=True)
class NameUsage:
    """What a file does with a name that no library defines.

    Attributes:
        constructed: calls that create instances without `__init__` (NEWOBJ and similar); `called`
            are the other calls (REDUCE).
        bases: built-in classes that it extends, as protocols 0 and 1 record them.
        is_wrapper: it is a tensor that wraps other tensors.
        is_flag: members are joined by `|`, as Python 3.11 pickles enum.Flag.
        by_value: its code is in the pickle (cloudpickle, dill).
        attributes: names that getattr takes from it or its instances, in order.
    """

    module: str
    name: str
    constructed: list[Call] = field(default_factory=list)
    called: list[Call] = field(default_factory=list)
    bases: set[str] = field(default_factory=set)
    is_tensor: bool = False
    is_wrapper: bool = False
    is_flag: bool = False
    by_value: bool = False
    attributes: dict[str, None] = field(default_factory=dict)

    @property
    def calls(self) -> list[Call]:
        return [*self.constructed, *self.called]

    @property
    def has_call_arguments(self) -> bool:
        return any(call.args for call in self.called)


@dataclass(slots=True)
class RecordedSource:
    """Source of methods that the file contains.

    Attributes:
        lines: of the methods, not indented; empty if the stub leaves the source out.
        names: dotted names that the methods read.
        has_forward: the file has the source of a forward, in the stub or not.
        fx_name: for a torch.fx module, the class name that torch prints.
        fx_code: for a torch.fx module, the code in the file; None if it is left out.
        unknown_names: names that the code reads and the stub does not import.
    """

    lines: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    has_forward: bool = True
    fx_name: str | None = None
    fx_code: str | None = None
    unknown_names: list[str] = field(default_factory=list)


MemberKind = Literal["attribute", "child", "parameter", "buffer", "late"]
"""A late attribute refers to children, and so is set after them."""


@dataclass(frozen=True, slots=True)
class Member:
    """What an instance has under a name.

    Attributes:
        plain: for a buffer, whether it is persistent. For an attribute, False if assigning it
            would register a child or parameter.
    """

    kind: MemberKind
    name: str
    expr: Expr
    plain: bool = True


@dataclass(slots=True, eq=False)
class Instance(Expr):
    """An object of a class that the stub defines.

    Attributes:
        call: the object in the file; None if it is inferred from a state_dict.
        number: position among all instances, in the order in which they were collected.
        constructor_call: set by `infer` once the constructor of its class is known.
    """

    call: Call | None
    definition: Definition
    number: int
    members: list[Member] = field(default_factory=list)
    constructor_call: Expr | None = None
    own_depth: ClassVar[int] = 0

    @property
    def module(self) -> Module | None:
        """The object as a module, or None if it is not one."""
        return module_of(self.call) if self.call is not None else None

    def one_line(self) -> str:
        if self.constructor_call is not None:
            return self.constructor_call.text
        return f"{UNSOLVED}{self.number}{UNSOLVED}"

    def brackets(self) -> Brackets:
        call = self.constructor_call
        return call.brackets() if call is not None else super().brackets()

    def children(self) -> list[Expr]:
        return [self.constructor_call] if self.constructor_call is not None else []


def nested_depth(expr: Expr) -> int:
    """Return the number of brackets inside each other, including those of instances."""
    if isinstance(expr, Instance):
        return expr.depth
    return max(map(nested_depth, expr.children()), default=0) + (expr.depth > 0)


@dataclass(slots=True, eq=False)
class Definition:
    """A class or function that the stub defines.

    Attributes:
        module, qualname: as pickle looks it up. `ident` is its name in the stub.
        kind: `module`, `object`, `enum`, `tuple`, `str`, `int`, `float`, `bytes`, `dict`, `list`,
            `set`, `exception`, `tensor`, `tracer`, `function` or `class`.
        usage: without a name for classes that only the stub has: traced by torch.fx, or inferred.
        methods: methods that the file refers to.
        is_hook: state_dict() or load_state_dict() calls it.
        has_extra_state: its state_dict has what its get_extra_state returns.
        root: the instance that `build()` creates without arguments.
    """

    module: str
    qualname: str
    ident: str
    kind: str
    usage: NameUsage = field(default_factory=lambda: NameUsage("", ""))
    methods: list[str] = field(default_factory=list)
    recorded: RecordedSource = field(default_factory=lambda: RecordedSource(has_forward=False))
    is_hook: bool = False
    has_extra_state: bool = False
    instances: list[Instance] = field(default_factory=list)
    root: Instance | None = None

    @property
    def path(self) -> str:
        return f"{self.module}.{self.qualname}"

    @property
    def restores_itself(self) -> bool:
        """True if only a `__setstate__` of the class can set the state of an instance."""
        if self.kind == "module":
            return any(module_of(call) is None for call in self.usage.calls)
        states = [call.state for call in self.usage.calls]
        parts = [s if isinstance(s, tuple) and len(s) == 2 else (s,) for s in states]
        return not all(part is None or isinstance(part, dict) for pair in parts for part in pair)

    @property
    def outer_path(self) -> str:
        """Path of the class that it is nested in; empty if it is not nested."""
        outer = self.qualname.rpartition(".")[0]
        return f"{self.module}.{outer}" if outer else ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """An attribute that can only be set once the whole model is built."""

    module: Module
    name: str

    @property
    def value(self) -> Value:
        return self.module.attributes[self.name]

    @property
    def description(self) -> str:
        """Names the attribute if it cannot be set either."""
        name = f"{self.module.class_name}.{self.name}"
        return f"{name}, which refers to modules elsewhere in the model"


# Recorded source


def class_source(text: str, use: bool = True) -> RecordedSource:
    """Return the methods of a class. Without `use`, only whether there is a forward."""
    tree = _parse(textwrap.dedent(text)) if use else None
    functions: list[ast.FunctionDef] = []
    if tree is not None and len(tree.body) == 1 and isinstance(tree.body[0], ast.ClassDef):
        body = tree.body[0].body
        functions = [node for node in body if isinstance(node, ast.FunctionDef) and _is_plain(node)]
    lines: list[str] = []
    for source in filter(None, map(_unparse, functions)):
        lines += [*([""] if lines else []), *source]
    if not any(line.startswith("def forward(") for line in lines):
        lines = []
    pattern = r"^[ \t]+(?:async )?def forward[ \t]*\("
    has_forward = bool(lines) or re.search(pattern, text, re.MULTILINE) is not None
    return RecordedSource(lines, _names(functions) if lines else set(), has_forward)


def fx_source(module: Module, use: bool = True) -> RecordedSource:
    """Return the forward of a module that torch.fx traced."""
    name = module.attributes.get("_graphmodule_cls_name")
    name = str(name) if isinstance(name, str) and is_identifier(str(name)) else "GraphModule"
    recorded = RecordedSource(fx_name=name)
    code = module.attributes.get("_code", module.attributes.get("code"))
    function = fx_function(str(code)) if use and isinstance(code, str) else None
    lines = _unparse(function) if function is not None else []
    if not function or not lines:
        return recorded
    recorded.fx_code, recorded.names = str(code), _names([function])
    imports = next((str(arg) for arg in module.call.args if isinstance(arg, str)), "")
    statements = import_statements(imports)
    read: dict[str, None] = {}
    bound: set[str] = {"torch"}  # the stub imports it
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            read[node.id] = None
        elif isinstance(node, ast.Name):
            bound.add(node.id)
    local: list[str] = []
    for free_name in (name for name in read if name not in bound):
        if free_name in statements:  # imported when the method is called
            local.append(f"    {statements[free_name]}")
        elif not hasattr(builtins, free_name):
            recorded.unknown_names.append(free_name)
    recorded.lines = [lines[0], *local, *lines[1:]]
    return recorded


def fx_function(text: str) -> ast.FunctionDef | None:
    """Return the `forward` that is the only statement of `text`, as torch.fx writes it."""
    tree = _parse(text)
    node = tree.body[0] if tree is not None and len(tree.body) == 1 else None
    if not isinstance(node, ast.FunctionDef) or node.name != "forward" or not _is_plain(node):
        return None
    return node


def import_statements(imports: str) -> dict[str, str]:
    """Return, by the name that it binds, each import of a module that only defines things."""
    from ptinspect.safety.policy import load_policy

    statements = {"NoneType": "NoneType = type(None)"}
    tree = _parse(imports)
    for node in tree.body if tree is not None else ():
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            name = alias.asname or alias.name
            if isinstance(node, ast.Import):
                is_harmless = alias.name in _IMPORTABLE
            else:
                row = load_policy().row(str(node.module), alias.name)
                is_allowed = row is not None and row.verdict in ("allowed", "reference", "module")
                is_allowed |= (str(node.module), alias.name) in _IMPORTABLE_NAMES
                is_library = not node.level and node.module in _IMPORTABLE_FROM
                is_harmless = is_allowed and is_library and is_identifier(alias.name)
            if is_identifier(name) and is_harmless:
                single = type(node)(**{**vars(node), "names": [alias]})
                statements[name] = ast.unparse(single)
    return statements


def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text) if len(text) <= MAX_CHARACTERS else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_plain(node: ast.FunctionDef) -> bool:
    """Return True if defining the function does nothing, and nothing calls it implicitly."""
    name = node.name
    if node.decorator_list or not is_identifier(name) or name.startswith(("__", "_load_from")):
        return False
    if name != "forward" and name in MODULE_METHODS:
        return False
    defaults: list[ast.expr] = []
    for default in filter(None, (*node.args.defaults, *node.args.kw_defaults)):
        defaults += default.elts if isinstance(default, ast.Tuple) else [default]
    values = [item.operand if isinstance(item, ast.UnaryOp) else item for item in defaults]
    return all(isinstance(value, ast.Constant) for value in values)


def _unparse(node: ast.FunctionDef) -> list[str]:
    """Return the source of a function without annotations in its head; empty if unprintable."""
    node.returns = None
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    for argument in (*every, node.args.vararg, node.args.kwarg):
        if argument is not None:
            argument.annotation = None
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        return []
    is_printable = all(char.isprintable() or char == "\n" for char in text)
    return text.split("\n") if is_printable else []


def _names(functions: Iterable[ast.FunctionDef]) -> set[str]:
    """Return the dotted names that functions read."""
    names: set[str] = set()
    for function in functions:
        for node in ast.walk(function):
            parts: list[str] = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            if isinstance(node, ast.Name):
                names.add(".".join([node.id, *reversed(parts)]))
    return names
