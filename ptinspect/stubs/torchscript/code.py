"""The recorded code of a TorchScript program, translated to Python that runs with torch alone.

torch.jit.save writes each class and function as Python-like source (python_print.cpp of torch).
It is parsed with `ast`, never run, and each node is translated by the rules below. A function
with a node that no rule covers raises NotImplementedError instead, so that nothing in a stub comes
unchecked from the file:

- `torch.relu(x)` is `aten.relu(x)`, the operator of torch.ops itself: it takes what TorchScript
  passes, dtypes as numbers included. Operators of lists, dicts and any value are Python's own.
- Names of classes and functions (`__torch__.pkg.mod.Name`) are those of the stub.
- A method is called on an object of the stub's own classes only, which `_own` checks.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable

from ptinspect.stubs.expr.literals import is_attribute, is_identifier
from ptinspect.stubs.torchscript.operators import (
    BUILTINS,
    DUNDER_METHODS,
    EXCEPTIONS,
    HELPERS,
    MAX_DEPTH,
    MODULE_NAMES,
    NUMBERS,
    OPERATORS,
    PRIM_OPERATORS,
    PRIM_SAME,
    REFUSED,
    TYPES,
    USED_BUILTINS,
    Filler,
    parsed,
)


class Untranslatable(Exception):
    """A part of the recorded code that no rule covers."""


class FunctionTranslator:
    """Translates one method or function.

    Attributes:
        name_of: returns the stub's name of a class or function by its path, or None.
        kind_of: returns what a path is: "function", "Module", "NamedTuple", "Enum", "class", None.
        reserved: names of the stub that locals must not hide.
        version: of the archive. Before 4 a division of integers was one.
    """

    def __init__(
        self, name_of: Callable[[str], str | None], kind_of: Callable[[str], str | None],
        reserved: set[str], version: int,
    ) -> None:  # fmt: skip
        self.name_of = name_of
        self.kind_of = kind_of
        self.reserved = reserved
        self.version = version
        self.used: set[str] = set()
        self.locals: dict[str, str] = {}
        self.callables: set[str] = set()

    def translate(self, node: ast.FunctionDef, is_method: bool) -> ast.FunctionDef:
        """Return the function. `Untranslatable` if no rule covers a part of it."""
        if depth_exceeds(node, MAX_DEPTH):
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
            default = self.expr(recorded)
            if any(
                isinstance(part, ast.Name) and part.id == "CONSTANTS" for part in ast.walk(default)
            ):
                # build() sets the constants, after this definition was run.
                self.used.add("_unset")
                is_unset = ast.parse(f"{arg.arg} is _unset", mode="eval").body
                setting = ast.Assign([ast.Name(arg.arg, ast.Store())], default, lineno=0)
                body.append(ast.If(is_unset, [setting], []))
                default = ast.Name("_unset", ast.Load())
            defaults.append(default)
        new = ast.arguments([], args, None, [], [], None, defaults)
        body += self.block(node.body)
        return _function(node.name, new, body, self.type(node.returns))

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
        taken = self.reserved | MODULE_NAMES | set(HELPERS) | USED_BUILTINS
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

    # Statements

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        return [self.statement(item) for item in statements] or [ast.Pass()]

    def statement(self, node: ast.stmt) -> ast.stmt:
        if isinstance(node, ast.Pass):
            return node
        if isinstance(node, ast.Expr):
            raised = self._raise(node.value)
            return raised or ast.Expr(self.expr(node.value))
        if isinstance(node, ast.Return):
            return ast.Return(self.expr(node.value) if node.value is not None else None)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            value = self.expr(node.value)
            return ast.Assign([self.target(node.targets[0])], value, lineno=0)
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            value = self.expr(node.value)
            return ast.Assign([self.target(node.target)], value, lineno=0)
        if isinstance(node, ast.If):
            other = self.block(node.orelse)
            other = [] if all(isinstance(item, ast.Pass) for item in other) else other
            return ast.If(self.expr(node.test), self.block(node.body), other)
        if isinstance(node, ast.While) and not node.orelse:
            return ast.While(self.expr(node.test), self.block(node.body), [])
        if isinstance(node, ast.For) and not node.orelse:
            iterated, target = self.expr(node.iter), self.target(node.target)
            return ast.For(target, iterated, self.block(node.body), [], lineno=0)
        if isinstance(node, ast.With):
            items = [
                ast.withitem(
                    self.expr(item.context_expr),
                    self.target(item.optional_vars) if item.optional_vars is not None else None,
                )
                for item in node.items
            ]
            return ast.With(items, self.block(node.body), lineno=0)
        is_function = isinstance(node, ast.FunctionDef) and not _has_unusual_arguments(node)
        if is_function and isinstance(node, ast.FunctionDef) and not node.args.args:
            return _function(self.locals[node.name], node.args, self.block(node.body), None)
        raise Untranslatable(type(node).__name__)

    def target(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Name):
            return ast.Name(self.locals[node.id], ast.Store())
        if isinstance(node, ast.Tuple):
            return ast.Tuple([self.target(item) for item in node.elts], ast.Store())
        if isinstance(node, ast.Attribute) and is_attribute(node.attr):
            return ast.Attribute(self.expr(node.value), node.attr, ast.Store())
        raise Untranslatable(f"an assignment to {type(node).__name__}")

    def _raise(self, node: ast.expr) -> ast.stmt | None:
        if not isinstance(node, ast.Call) or dotted_path(node.func) != "ops.prim.RaiseException":
            return None
        if not node.args:
            raise Untranslatable("an exception without a message")
        kind = node.args[-1]
        name = str(kind.value) if isinstance(kind, ast.Constant) and len(node.args) > 1 else ""
        name = name.removeprefix("builtins.")
        name = name if name in EXCEPTIONS else "RuntimeError"
        return ast.Raise(_call(ast.Name(name, ast.Load()), [self.expr(node.args[0])]), None)

    # Expressions

    def expr(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            if node.id in self.locals:
                return ast.Name(self.locals[node.id], ast.Load())
            if node.id in NUMBERS:
                return parsed(NUMBERS[node.id])
            raise Untranslatable(f"the name {node.id}")
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Subscript):
            return ast.Subscript(self.expr(node.value), self.expr(node.slice), ast.Load())
        if isinstance(node, ast.Slice):
            bounds = (node.lower, node.upper, node.step)
            return ast.Slice(*[None if item is None else self.expr(item) for item in bounds])
        if isinstance(node, ast.Tuple | ast.List):
            return type(node)([self.expr(item) for item in node.elts], ast.Load())
        if isinstance(node, ast.Dict) and None not in node.keys:
            keys = [self.expr(key) for key in node.keys if key is not None]
            return ast.Dict(list(keys), [self.expr(value) for value in node.values])
        if isinstance(node, ast.UnaryOp):
            return ast.UnaryOp(node.op, self.expr(node.operand))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            return ast.BinOp(self.expr(node.left), node.op, self.expr(node.right))
        raise Untranslatable(type(node).__name__)

    def _constant(self, node: ast.Constant) -> ast.expr:
        if not is_plain_constant(node):
            raise Untranslatable("a constant")
        if not isinstance(node.value, str):
            return node
        try:  # torch escapes each byte of utf-8
            return ast.Constant(node.value.encode("latin1").decode())
        except UnicodeError:
            return node

    def _attribute(self, node: ast.Attribute) -> ast.expr:
        path = dotted_path(node)
        root = path.partition(".")[0] if path is not None else ""
        if path is not None and root == "__torch__":
            owner, _, member = path.rpartition(".")
            if self.kind_of(path) == "function":
                return self._reference(path)
            if self.kind_of(owner) == "Enum" and is_attribute(member):
                return ast.Attribute(self._reference(owner), member, ast.Load())
            raise Untranslatable(path)
        if path is not None and root == "CONSTANTS" and path.count(".") == 1:
            return ast.Attribute(ast.Name("CONSTANTS", ast.Load()), node.attr, ast.Load())
        if not is_attribute(node.attr):
            raise Untranslatable(f"the attribute {node.attr}")
        return ast.Attribute(self.expr(node.value), node.attr, ast.Load())

    def _reference(self, path: str) -> ast.expr:
        name = self.name_of(path)
        if name is None:
            raise Untranslatable(path)
        return ast.Name(name, ast.Load())

    def _call(self, node: ast.Call) -> ast.expr:
        path = dotted_path(node.func) or ""
        root, _, rest = path.partition(".")
        if root in self.locals and rest:
            root = ""
        if root == "torch" and rest.count(".") == 0 and rest:
            return self._operator(rest, node)
        if root == "ops" and rest.startswith("aten.") and rest.count(".") == 1:
            return self._operator(rest[5:], node)
        if root == "ops" and rest.count(".") == 1:
            namespace, _, name = rest.partition(".")
            return self._namespace_operator(namespace, name, node)
        if root == "__torch__":
            return self._own_call(path, node)
        if not rest and root:
            return self._builtin(root, node)
        if not isinstance(node.func, ast.Attribute) or node.keywords:
            raise Untranslatable("a call")
        name, receiver = node.func.attr, self.expr(node.func.value)
        args = [self.expr(item) for item in node.args]
        if not is_attribute(name) and name not in DUNDER_METHODS:
            raise Untranslatable(f"the method {name}")
        is_self = isinstance(node.func.value, ast.Name) and node.func.value.id == "self"
        if name not in ("forward", "tolist") and not is_self:
            self.used.add("_own")
            receiver = _call(ast.Name("_own", ast.Load()), [receiver])
        return _call(ast.Attribute(receiver, name, ast.Load()), args)

    def _own_call(self, path: str, node: ast.Call) -> ast.expr:
        owner, _, member = path.rpartition(".")
        if member == "__new__" and self.kind_of(owner) in ("class", "Module"):
            name = self._reference(owner)
            return _call(ast.Attribute(name, "__new__", ast.Load()), [name])
        if self.kind_of(path) not in ("function", "NamedTuple") or node.keywords:
            raise Untranslatable(path)
        return _call(self._reference(path), [self.expr(item) for item in node.args])

    def _builtin(self, name: str, node: ast.Call) -> ast.expr:
        """Translate a call of a plain name: TorchScript's own words, or a local function."""
        args = node.args
        if name in self.locals:
            if name not in self.callables or node.keywords:
                raise Untranslatable(f"a call of the value {name}")
            return _call(ast.Name(self.locals[name], ast.Load()), [self.expr(a) for a in args])
        if name == "uninitialized":
            return ast.Constant(None)
        if name in ("annotate", "unchecked_cast") and len(args) == 2:
            return self.expr(args[1])
        if name == "getattr" and len(args) == 2 and isinstance(args[1], ast.Constant):
            if not isinstance(args[1].value, str) or args[1].value.startswith("__"):
                raise Untranslatable("getattr")
            return _call(ast.Name("getattr", ast.Load()), [self.expr(args[0]), args[1]])
        if name == "fork" and args:
            return self.expr(ast.Call(args[0], args[1:], []))
        if name == "print":
            texts = [self._helper("_text", [self.expr(item)]) for item in args]
            return _call(ast.Name("print", ast.Load()), texts)
        if name == "isinstance" and len(args) == 2:
            types = self._plain_type(args[1])
            return _call(ast.Name("isinstance", ast.Load()), [self.expr(args[0]), types])
        return self._filled(BUILTINS, name, node)

    def _plain_type(self, node: ast.expr) -> ast.expr:
        """Return a type for isinstance; one with parameters cannot be checked."""
        if isinstance(node, ast.List | ast.Tuple):
            return ast.Tuple([self._plain_type(item) for item in node.elts], ast.Load())
        path = dotted_path(node)
        result = self.type(node) if path is not None else None
        if result is None or isinstance(result, ast.Constant):
            raise Untranslatable("isinstance of a type with parameters")
        return result

    def _helper(self, name: str, args: list[ast.expr]) -> ast.expr:
        self.used.add(name)
        return _call(ast.Name(name, ast.Load()), args)

    def _operator(self, name: str, node: ast.Call) -> ast.expr:
        """Translate an operator of aten."""
        args, count = node.args, len(node.args)
        if name in ("tensor", "as_tensor") and count == 1:
            keywords = [
                ast.keyword(
                    word.arg,
                    self._helper("_dtype", [self.expr(word.value)])
                    if word.arg == "dtype" else self.expr(word.value),
                )
                for word in node.keywords
                if word.arg in ("dtype", "device", "requires_grad")
                and not (isinstance(word.value, ast.Constant) and word.value.value is None)
            ]  # fmt: skip
            return ast.Call(parsed(f"torch.{name}"), [self.expr(args[0])], keywords)
        if name == "format" and args and not node.keywords:
            self.used.add("_text")
            return self._helper("_format", [self.expr(item) for item in args])
        if name in ("div", "div_") and self.version < 4 and count == 2 and not node.keywords:
            ending = [ast.Constant(True)] if name == "div_" else []
            return self._helper("_old_div", [*map(self.expr, args), *ending])
        if f"{name}/{count}" in OPERATORS and not node.keywords:
            return self._filled(OPERATORS, name, node)
        return self._namespace_operator("aten", name, node)

    def _namespace_operator(self, namespace: str, name: str, node: ast.Call) -> ast.expr:
        """Translate an operator that torch.ops has under the same name."""
        if namespace == "prim" and f"{name}/{len(node.args)}" in PRIM_OPERATORS:
            return self._filled(PRIM_OPERATORS, name, node)
        if name in REFUSED or (namespace == "prim" and name not in PRIM_SAME):
            raise Untranslatable(f"the operator {namespace}::{name}")
        is_private = name.startswith("__")  # `aten.__range_length` would be mangled in a class
        if not is_attribute(namespace) or not is_identifier(name) or name.endswith("__"):
            raise Untranslatable(f"the operator {namespace}::{name}")
        space = "aten" if namespace == "aten" else f"torch.ops.{namespace}"
        func = parsed(f'getattr({space}, "{name}")' if is_private else f"{space}.{name}")
        keywords = [ast.keyword(word.arg, self.expr(word.value)) for word in node.keywords]
        if any(word.arg is None or not is_attribute(word.arg) for word in keywords):
            raise Untranslatable("keyword arguments")
        return ast.Call(func, [self.expr(item) for item in node.args], keywords)

    def _filled(self, table: dict[str, str], name: str, node: ast.Call) -> ast.expr:
        """Return the template of a table with the call's arguments in it."""
        template = table.get(f"{name}/{len(node.args)}")
        if template is None or node.keywords:
            raise Untranslatable(f"{name} with {len(node.args)} arguments")
        tree = copy.deepcopy(parsed(template))
        self.used |= {item.id for item in ast.walk(tree) if isinstance(item, ast.Name)}
        values = {f"_{index}": arg for index, arg in enumerate(node.args)}
        filler = Filler({key: self.expr(arg) for key, arg in values.items() if key in template})
        result: ast.expr = filler.visit(tree)
        return result


def _call(func: ast.expr, args: list[ast.expr]) -> ast.Call:
    return ast.Call(func, args, [])


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


def depth_exceeds(node: ast.AST, limit: int) -> bool:
    """Return True if nodes are nested deeper than `limit`."""
    level: list[ast.AST] = [node]
    for _ in range(limit):
        level = [child for item in level for child in ast.iter_child_nodes(item)]
        if not level:
            return False
    return True
