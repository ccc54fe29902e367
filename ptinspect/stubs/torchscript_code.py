"""The recorded code of a TorchScript program, translated to Python that runs with torch alone.

torch.jit.save writes each class and function as Python-like source (python_print.cpp of torch).
It is parsed with `ast`, never run, and each node is translated by the rules below. A function
with a node that no rule covers raises NotImplementedError instead, so that nothing in a stub comes
unchecked from the file:

- `torch.relu(x)` is `aten.relu(x)`, the operator of torch.ops itself: it takes what TorchScript
  passes, dtypes as numbers included. Operators of lists, dicts and any value are Python's own
  (torchscript_rules.txt).
- Names of classes and functions (`__torch__.pkg.mod.Name`) are those of the stub.
- A method is called on an object of the stub's own classes only, which `_own` checks.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from ptinspect.stubs.collect.source import templates
from ptinspect.stubs.collect.values import is_attribute, is_identifier, string
from ptinspect.text import read_sections

MAX_DEPTH = 120
"""Nodes inside each other in one function."""
NOT_TRANSLATED = "not translated: "
"""Beginning of the error that a method raises in a stub if its code could not be translated."""

_RULES = read_sections("stubs/torchscript_rules.txt")


def _table(section: str) -> dict[str, str]:
    return {key: value for key, _, value in (row.partition(" ") for row in _RULES[section])}


def _words(section: str) -> frozenset[str]:
    return frozenset(" ".join(_RULES[section]).split())


OPERATORS, TYPES, NUMBERS = _table("operators"), _table("types"), _table("numbers")
DIFFERENCES = _table("differences")
"""What a stub does otherwise than torch.jit.load if its code uses a type, or is of torch < 1.4."""
EXCEPTIONS, DUNDER_METHODS = _words("exceptions"), _words("methods")
PRIM_SAME, REFUSED = _words("prim"), _words("refused")
MODULE_NAMES = _words("modules")
"""Names that a stub uses itself."""
HELPERS = tuple(name for name in templates() if name.startswith("_"))
"""Functions that a stub contains if it calls them."""
_TAKEN = MODULE_NAMES | set(HELPERS) | EXCEPTIONS | _words("builtins")
_SCALARS = ("number", "int", "float")
_SIMPLE_NODES = (
    ast.Pass, ast.Expr, ast.Return, ast.Assign, ast.For, ast.While, ast.With, ast.withitem,
    ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.unaryop, ast.Add,
    ast.Sub, ast.expr_context,
)  # fmt: skip
"""Nodes that mean the same in Python, if what is in them does."""


class Untranslatable(Exception):
    """A part of the recorded code that no rule covers."""


@cache
def parsed(text: str) -> ast.expr:
    """Return the tree of an expression."""
    return ast.parse(text, mode="eval").body


class _Filler(ast.NodeTransformer):
    """Puts arguments in the place of `_0`, `_1`, …"""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)


@dataclass(eq=False)
class FunctionTranslator(ast.NodeTransformer):
    """Translates one method or function, in place.

    Attributes:
        name_of: returns the stub's name of a class or function by its path, or None.
        kind_of: returns what a path is: "function", "Module", "NamedTuple", "Enum", "class", None.
        reserved: names of the stub that locals must not hide.
        version: of the archive. Before 4 a division of integers was one.
    """

    name_of: Callable[[str], str | None]
    kind_of: Callable[[str], str | None]
    reserved: set[str]
    version: int
    locals: dict[str, str] = field(default_factory=dict)
    callables: set[str] = field(default_factory=set)

    def translate(self, node: ast.FunctionDef, is_method: bool) -> ast.FunctionDef:
        """Return the function; one that raises NotImplementedError if no rule covers a part of
        it."""
        try:
            if is_too_deep(node):
                raise Untranslatable("it nests too deep")
            arguments = node.args
            if _has_unusual_arguments(node):
                raise Untranslatable("its arguments are unusual")
            self._collect_locals(node)
            args = [ast.arg(self.locals[a.arg], self.type(a.annotation)) for a in arguments.args]
            if is_method and args:
                args[0].annotation = None
            defaults: list[ast.expr] = []
            body: list[ast.stmt] = []
            with_default = args[len(args) - len(arguments.defaults) :]
            for arg, recorded in zip(with_default, arguments.defaults, strict=True):
                default = self.visit(recorded)
                if any(
                    isinstance(part, ast.Name) and part.id == "CONSTANTS"
                    for part in ast.walk(default)
                ):
                    # build() sets the constants, after this definition was run.
                    is_unset = ast.parse(f"{arg.arg} is _unset", mode="eval").body
                    setting = ast.Assign([ast.Name(arg.arg, ast.Store())], default, lineno=0)
                    body.append(ast.If(is_unset, [setting], []))
                    default = ast.Name("_unset", ast.Load())
                defaults.append(default)
            new = ast.arguments([], args, None, [], [], None, defaults)
            body += [self.visit(item) for item in node.body]
            return _function(
                method_name(node.name) or node.name, new, body, self.type(node.returns)
            )
        except Untranslatable as reason:
            text = string(f"{NOT_TRANSLATED}{node.name}: {reason}")
            owner = "self, " if is_method else ""
            code = f"def f({owner}*args, **kwargs):\n    raise NotImplementedError({text})"
            result: ast.FunctionDef = ast.parse(code).body[0]  # type: ignore[assignment]
            result.name = node.name
            return result

    def _collect_locals(self, node: ast.FunctionDef) -> None:
        """Find the names that the function binds, and those bound once, to a function."""
        bound = Counter(arg.arg for arg in node.args.args)
        functions: set[str] = set()
        for item in ast.walk(node):
            if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
                bound[item.id] += 1
            elif isinstance(item, ast.FunctionDef) and item is not node:
                bound[item.name] += 1
                functions.add(item.name)
            elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                path = dotted_path(item.value) or ""
                functions |= {item.targets[0].id} if self.kind_of(path) == "function" else set()
        self.callables = {name for name in functions if bound[name] == 1}
        taken = self.reserved | _TAKEN
        for name in bound:
            new = name
            while new in taken or (new != name and new in bound):
                new += "_"
            if not is_identifier(new):
                raise Untranslatable(f"the name {name}")
            self.locals[name] = new

    # Types

    def type(self, node: ast.expr | None) -> ast.expr | None:
        """Return an annotation, or None if it has no meaning in Python."""
        if isinstance(node, ast.Constant) and node.value is None:
            return node
        path = dotted_path(node) if node is not None else None
        if path is not None:
            known = self.name_of(path) if path.startswith("__torch__.") else TYPES.get(path)
            return parsed(known) if known and self.kind_of(path) != "Interface" else None
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            return None
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        types = [self.type(item) for item in inner]
        if not types or any(item is None for item in types):
            return None
        items = [item for item in types if item is not None]
        kind = node.value.id
        if kind in ("Optional", "Union"):
            items += [ast.Constant(None)] if kind == "Optional" else []
            result = items[0]
            for item in items[1:]:
                result = ast.BinOp(result, ast.BitOr(), item)
            return result
        if kind not in ("List", "Dict", "Tuple"):
            return None
        index = items[0] if len(items) == 1 else ast.Tuple(items, ast.Load())
        return ast.Subscript(ast.Name(kind.lower(), ast.Load()), index, ast.Load())

    # Statements and expressions

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Translate what is in a node that means the same in Python."""
        is_sum = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)
        is_unpacking = isinstance(node, ast.Dict) and None in node.keys
        if is_unpacking or not (is_sum or isinstance(node, _SIMPLE_NODES)):
            raise Untranslatable(type(node).__name__)
        return super().generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        if not isinstance(call, ast.Call) or dotted_path(call.func) != "ops.prim.RaiseException":
            return self.generic_visit(node)
        if not call.args:
            raise Untranslatable("an exception without a message")
        kind = call.args[-1]
        name = str(kind.value) if isinstance(kind, ast.Constant) and len(call.args) > 1 else ""
        name = name.removeprefix("builtins.")
        name = name if name in EXCEPTIONS else "RuntimeError"
        return ast.Raise(_call(name, [self.visit(call.args[0])]), None)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            raise Untranslatable("AnnAssign")
        value = self.visit(node.value)
        return ast.Assign([self.visit(node.target)], value, lineno=0)

    def visit_If(self, node: ast.If) -> ast.AST:
        if all(isinstance(item, ast.Pass) for item in node.orelse):
            node.orelse = []
        return super().generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if _has_unusual_arguments(node) or node.args.args:
            raise Untranslatable("FunctionDef")
        return _function(
            self.locals[node.name], node.args, [self.visit(item) for item in node.body], None
        )

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.locals:
            return ast.Name(self.locals[node.id], node.ctx)
        if node.id in NUMBERS:
            return parsed(NUMBERS[node.id])
        raise Untranslatable(f"the name {node.id}")

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not is_plain_constant(node):
            raise Untranslatable("a constant")
        if not isinstance(node.value, str):
            return node
        try:  # torch escapes each byte of utf-8
            return ast.Constant(node.value.encode("latin1").decode("utf-8", "surrogateescape"))
        except UnicodeError:
            return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        path = dotted_path(node) or ""
        if path.startswith("__torch__.") and isinstance(node.ctx, ast.Load):
            owner, _, member = path.rpartition(".")
            if self.kind_of(path) == "function":
                return self._reference(path)
            if self.kind_of(owner) == "Enum" and is_attribute(member):
                return ast.Attribute(self._reference(owner), member, ast.Load())
            raise Untranslatable(path)
        if path == f"CONSTANTS.{node.attr}" and isinstance(node.ctx, ast.Load):
            return node
        if not is_attribute(node.attr):
            raise Untranslatable(f"the attribute {node.attr}")
        return super().generic_visit(node)

    def _reference(self, path: str) -> ast.Name:
        name = self.name_of(path)
        if name is None:
            raise Untranslatable(path)
        return ast.Name(name, ast.Load())

    # Calls

    def visit_Call(self, node: ast.Call) -> ast.AST:
        path = dotted_path(node.func) or ""
        root, *steps = path.split(".")
        if path and not steps:
            return self._builtin(path, node)
        if root not in self.locals:
            if root == "torch" and len(steps) == 1:
                return self._operator("aten", steps[0], node)
            if root == "ops" and len(steps) == 2:
                return self._operator(steps[0], steps[1], node)
            if root == "__torch__":
                owner, _, member = path.rpartition(".")
                if member == "__new__" and self.kind_of(owner) in ("class", "Module"):
                    reference = self._reference(owner)
                    new = ast.Attribute(reference, "__new__", ast.Load())
                    return _call(new, [reference])
                if self.kind_of(path) not in ("function", "NamedTuple") or node.keywords:
                    raise Untranslatable(path)
                return _call(self._reference(path), self._args(node))
        if not isinstance(node.func, ast.Attribute) or node.keywords:
            raise Untranslatable("a call")
        name, receiver = node.func.attr, self.visit(node.func.value)
        method = method_name(name)
        if method is None:
            raise Untranslatable(f"the method {name}")
        is_self = isinstance(node.func.value, ast.Name) and node.func.value.id == "self"
        if name not in ("forward", "tolist") and not is_self:
            receiver = _call("_own", [receiver])
        return _call(ast.Attribute(receiver, method, ast.Load()), self._args(node))

    def _args(self, node: ast.Call) -> list[ast.expr]:
        return [self.visit(item) for item in node.args]

    def _builtin(self, name: str, node: ast.Call) -> ast.AST:
        """Translate a call of a plain name: TorchScript's own words, or a local function."""
        args = node.args
        if name in self.locals:
            if name not in self.callables or node.keywords:
                raise Untranslatable(f"a call of the value {name}")
            return _call(self.locals[name], self._args(node))
        if name == "getattr" and len(args) == 2 and isinstance(args[1], ast.Constant):
            if not isinstance(args[1].value, str) or args[1].value.startswith("__"):
                raise Untranslatable("getattr")
            return _call(name, [self.visit(args[0]), args[1]])
        if name == "fork" and args:
            return self.visit_Call(ast.Call(args[0], args[1:], []))
        if name == "print":
            return _call(name, [_call("_text", [item]) for item in self._args(node)])
        if name == "isinstance" and len(args) == 2:
            return _call(name, [self.visit(args[0]), self._plain_type(args[1])])
        if name == "annotate" and len(args) == 2 and dotted_path(args[0]) in _SCALARS:
            value = self.visit(args[1])  # torch turns a tensor of one element into its number
            return value if is_plain_constant(value) else _call("_scalar", [value])
        return self._filled(name, node)

    def _plain_type(self, node: ast.expr) -> ast.expr:
        """Return a type for isinstance; one with parameters cannot be checked."""
        if isinstance(node, ast.List | ast.Tuple):
            return ast.Tuple([self._plain_type(item) for item in node.elts], ast.Load())
        path = dotted_path(node)
        result = self.type(node) if path is not None else None
        if result is None or isinstance(result, ast.Constant):
            raise Untranslatable("isinstance of a type with parameters")
        return result

    def _operator(self, namespace: str, name: str, node: ast.Call) -> ast.AST:
        """Translate an operator by its rule, or to the one of torch.ops that has the same name."""
        count = len(node.args)
        if namespace == "aten" and name in ("tensor", "as_tensor") and count == 1:
            return self._new_tensor(name, node)
        if namespace == "aten" and not node.keywords:
            if name == "format" and count:
                return _call("_format", self._args(node))
            if name in ("div", "div_") and self.version < 4 and count == 2:
                ending = [ast.Constant(True)] if name == "div_" else []
                return _call("_old_div", [*self._args(node), *ending])
        operator = f"{namespace}::{name}"
        if f"{operator}/{count}" in OPERATORS and not node.keywords:
            return self._filled(operator, node)
        is_refused = name in REFUSED or (namespace == "prim" and name not in PRIM_SAME)
        if is_refused or not is_attribute(namespace) or not is_identifier(name):
            raise Untranslatable(f"the operator {operator}")
        if name.endswith("__") or any(not is_attribute(word.arg or "") for word in node.keywords):
            raise Untranslatable(f"the operator {operator}")
        space = "aten" if namespace == "aten" else f"torch.ops.{namespace}"
        is_private = name.startswith("__")  # `aten.__range_length` would be mangled in a class
        func = parsed(f'getattr({space}, "{name}")' if is_private else f"{space}.{name}")
        keywords = [ast.keyword(word.arg, self.visit(word.value)) for word in node.keywords]
        return ast.Call(func, self._args(node), keywords)

    def _new_tensor(self, name: str, node: ast.Call) -> ast.expr:
        """Return `torch.tensor(...)`, which torch.ops has not for numbers and lists."""
        keywords = []
        for word in node.keywords:
            is_none = isinstance(word.value, ast.Constant) and word.value.value is None
            if word.arg in ("dtype", "device", "requires_grad") and not is_none:
                value = self.visit(word.value)
                value = _call("_dtype", [value]) if word.arg == "dtype" else value
                keywords.append(ast.keyword(word.arg, value))
        return ast.Call(parsed(f"torch.{name}"), self._args(node), keywords)

    def _filled(self, name: str, node: ast.Call) -> ast.expr:
        """Return the rule for an operator or builtin with the call's arguments in it."""
        rule = OPERATORS.get(f"{name}/{len(node.args)}")
        if rule is None or node.keywords:
            raise Untranslatable(f"{name} with {len(node.args)} arguments")
        tree = copy.deepcopy(parsed(rule))
        values = {f"_{index}": arg for index, arg in enumerate(node.args)}
        filler = _Filler({key: self.visit(arg) for key, arg in values.items() if key in rule})
        result: ast.expr = filler.visit(tree)
        return result


def method_name(name: str) -> str | None:
    """Return the name of a method in the stub, or None if it has none.

    The functions of a property are `__size_getter` and `__size_setter`, which Python would mangle.
    """
    if name.startswith("__") and name.endswith(("_getter", "_setter")) and is_identifier(name):
        return f"property{name[1:]}"
    return name if is_attribute(name) or name in DUNDER_METHODS else None


def _call(func: ast.expr | str, args: list[ast.expr]) -> ast.Call:
    return ast.Call(ast.Name(func, ast.Load()) if isinstance(func, str) else func, args, [])


def _function(
    name: str, args: ast.arguments, body: list[ast.stmt], returns: ast.expr | None
) -> ast.FunctionDef:
    node = ast.FunctionDef(name, args, body, [], returns, lineno=0)
    node.type_params = []  # type: ignore[attr-defined] # Python 3.12
    return node


def _has_unusual_arguments(node: ast.FunctionDef) -> bool:
    args = node.args
    return any((
        args.vararg, args.kwarg, args.kwonlyargs, args.posonlyargs, node.decorator_list,
    ))  # fmt: skip


def is_plain_constant(node: ast.expr | None) -> bool:
    """Return True for a number that can be written, a string, None, True or False."""
    if not isinstance(node, ast.Constant):
        return False
    value = node.value
    if isinstance(value, int):
        return value.bit_length() < 10_000
    return value is None or isinstance(value, str | float | complex)


def dotted_path(node: ast.AST) -> str | None:
    """Return "a.b.c" for a chain of attributes of a name; None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def is_too_deep(node: ast.AST) -> bool:
    """Return True if nodes are nested deeper than `MAX_DEPTH`."""
    level: list[ast.AST] = [node]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in ast.iter_child_nodes(item)]
        if not level:
            return False
    return True
