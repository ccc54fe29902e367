"""Calls that act on what they are given, in the forms in which honest pickles have them: the
annotations of typing, and iterators over what the file itself holds."""

from __future__ import annotations

from ptinspect.pickling.values import Call, Global, Value
from ptinspect.safety.opinion import DANGEROUS, UNKNOWN, Opinion, Rule

_GENERIC = ("typing", "typing_extensions", "builtins", "collections", "collections.abc")
_CONTENTS = (list, tuple, dict, str, bytes, int)
ITERATORS = (
    "builtins.iter", "builtins.reversed", "builtins.enumerate", "builtins.zip"
)  # fmt: skip
ALIASES = (
    "_functools.reduce", "_operator.getitem", "functools.reduce", "operator.getitem",
    "types.GenericAlias",
)  # fmt: skip
"""What gives an annotation: an attribute that is set on it is set on the class behind it."""


def getitem(args: tuple[Value, ...], depth: int) -> Opinion:
    """`List[int]`, as typing writes it; anything else may reach for what is behind a name."""
    first = args[0] if args else None
    plain = isinstance(first, Global) and first.name.isidentifier() and first.name[0] != "_"
    if isinstance(first, Global) and plain and first.module in _GENERIC:
        return Opinion(UNKNOWN, "operator.getitem", "an annotation such as List[int]")
    return Opinion(DANGEROUS, "operator.getitem", "takes an item out of something")


def union(args: tuple[Value, ...], depth: int) -> Opinion:
    """`int | None`, as Python writes it up to 3.13."""
    first = args[0] if len(args) == 2 else None
    if isinstance(first, Global) and first.path in ("_operator.or_", "operator.or_"):
        return Opinion(UNKNOWN, "functools.reduce", "an annotation such as int | None")
    return Opinion(DANGEROUS, "functools.reduce", "calls what it is given")


def iterator(name: str) -> Rule:
    """An iterator over what stands in the file itself."""

    def rule(args: tuple[Value, ...], depth: int) -> Opinion:
        harmless = all(isinstance(arg, _CONTENTS) or _is_iterator(arg) for arg in args)
        if harmless and (len(args) == 1 or name in ("builtins.enumerate", "builtins.zip")):
            return Opinion(UNKNOWN, name, "an iterator, kept where it stood")
        return Opinion(DANGEROUS, name, "calls what it is given, one item after another")

    return rule


def _is_iterator(value: Value) -> bool:
    func = value.func if isinstance(value, Call) else None
    return isinstance(func, Global) and func.path in (*ITERATORS, "builtins.range")
