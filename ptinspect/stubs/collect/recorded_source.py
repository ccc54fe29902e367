"""Methods whose source the file itself holds, as legacy full models do.

Only what runs when it is called: plain methods without decorators, with constant defaults, and none
that Python or torch calls while a file is loaded. They are written anew from their syntax tree,
without annotations, so that nothing stands in the stub that cannot be seen.
"""

from __future__ import annotations

import ast

from ptinspect.stubs.expr.identifiers import plain
from ptinspect.stubs.torch.calls import TAKEN

LONGEST = 200_000
"""Characters of a class's source."""


def methods(text: str) -> list[str]:
    """The lines of the methods, not indented; empty where there are none to be had."""
    import textwrap

    if len(text) > LONGEST:
        return []
    try:
        tree = ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.ClassDef):
        return []
    lines: list[str] = []
    for node in tree.body[0].body:
        if isinstance(node, ast.FunctionDef) and _is_plain(node):
            lines += [*([""] if lines else []), *_written(node)]
    return lines if any(line.startswith("def forward(") for line in lines) else []


def has_forward(text: str) -> bool:
    """Whether the source of a class has a method of that name, be it printed or not."""
    import re

    return re.search(r"^[ \t]+(?:async )?def forward[ \t]*\(", text, re.MULTILINE) is not None


def function(text: str) -> list[str]:
    """The lines of a `forward` that stands alone, as torch.fx writes it; empty where it is none,
    or more than that."""
    if len(text) > LONGEST:
        return []
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    node = tree.body[0] if len(tree.body) == 1 else None
    if not isinstance(node, ast.FunctionDef) or node.name != "forward" or not _is_plain(node):
        return []
    return _written(node)


def _is_plain(node: ast.FunctionDef) -> bool:
    """Whether defining it does nothing, and nobody calls it unasked."""
    if node.decorator_list or not plain(node.name) or node.name.startswith("__"):
        return False
    if (node.name != "forward" and node.name in TAKEN) or node.name.startswith("_load_from"):
        return False
    defaults = [*node.args.defaults, *node.args.kw_defaults]
    return all(default is None or _is_constant(default) for default in defaults)


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return all(isinstance(item, ast.Constant) for item in node.elts)
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant)


def _written(node: ast.FunctionDef) -> list[str]:
    """The source of a method, without annotations in its head."""
    node.returns = None
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    for argument in (*every, node.args.vararg, node.args.kwarg):
        if argument is not None:
            argument.annotation = None
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        return []
    safe = all(char.isprintable() or char == "\n" for char in text)
    return text.split("\n") if safe else []
