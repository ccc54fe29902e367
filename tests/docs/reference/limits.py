"""docs/reference/limits.md: each bound with its default and what stands below it in the source."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields

import ptinspect.limits
from tests.docs.reference.words import code, marked, table


def made() -> str:
    """One table."""
    defaults = {field.name: field.default for field in fields(ptinspect.limits.Limits)}
    rows = [(code(name), _said(defaults[name]), marked(text)) for name, text in meanings()]
    return table(["field", "default", "what it bounds"], rows)


def meanings() -> Iterator[tuple[str, str]]:
    """Each field, and the text below it."""
    (tree,) = (
        node
        for node in ast.parse(inspect.getsource(ptinspect.limits)).body
        if isinstance(node, ast.ClassDef)
    )
    name = ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            yield name, " ".join(str(node.value.value).split())
            name = ""


def _said(value: object) -> str:
    assert isinstance(value, int)
    power = value.bit_length() - 1
    return f"2<sup>{power}</sup>" if value == 1 << power and power > 12 else f"{value:,}"
