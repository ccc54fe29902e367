"""Repeated children as a loop."""

from __future__ import annotations

from typing import NamedTuple

from ptinspect.stubs.code import Argument, Atom, Each, Expr, Items, Make, Many, Star

LEAST = 3
"""Items that are alike before they become a loop."""


class Run(NamedTuple):
    """So many times the same item."""

    item: Expr
    times: int


def runs(items: list[Expr]) -> list[Run]:
    """Neighbours of the same text, as one."""
    made: list[Run] = []
    for item in items:
        if made and made[-1].item.text == item.text:
            made[-1] = Run(made[-1].item, made[-1].times + 1)
        else:
            made.append(Run(item, 1))
    return made


def folded(many: Many) -> Make:
    """The call, with its loops."""
    args: list[Expr] = []
    for run in runs(many.items):
        if run.times >= LEAST:
            args.append(Star(looped(run.item, Atom(str(run.times)))))
        else:
            args += [run.item] * run.times
    return call(many.func, _rows(args), many.listed)


def call(func: str, args: list[Expr], listed: bool) -> Make:
    """`func(*args)`, or `func([*args])`."""
    if listed and len(args) == 1 and isinstance(args[0], Star):
        return Make(func, [(None, args[0].inner)])
    if listed:
        return Make(func, [(None, Items("[]", args))] if args else [])
    return Make(func, [(None, item) for item in args])


def looped(item: Expr, count: Expr) -> Expr:
    """`[item for _ in range(count)]`."""
    return Each(item, "_", Make("range", [(None, count)]))


def _rows(args: list[Expr]) -> list[Expr]:
    """Neighbours that differ in one argument alone, as a loop over its values."""
    made: list[Expr] = []
    at = 0
    while at < len(args):
        end, name = _alike(args, at)
        if end - at < LEAST or name is None:
            made.append(args[at])
            at += 1
            continue
        made.append(Star(_over(args[at:end], name)))
        at = end
    return made


def as_make(expr: Expr) -> Expr:
    """An object of the file as the call that makes it."""
    made = getattr(expr, "made", None)
    return made if isinstance(made, Expr) else expr


def _alike(args: list[Expr], at: int) -> tuple[int, str | None]:
    """Up to where the items that begin at `at` differ in one argument, and in which."""
    first = as_make(args[at])
    name: str | None = None
    end = at + 1
    if not isinstance(first, Make) or not first.args:
        return end, None
    while end < len(args):
        other = as_make(args[end])
        if not isinstance(other, Make) or not _same_call(first, other):
            break
        different = [
            key for (key, a), (_, b) in zip(first.args, other.args, strict=True) if a.text != b.text
        ]
        if len(different) != 1 or different[0] is None or name not in (None, different[0]):
            break
        name = different[0]
        end += 1
    return end, name


def _same_call(first: Make, other: Make) -> bool:
    same = first.func == other.func and first.positional == other.positional
    return same and [name for name, _ in first.args] == [name for name, _ in other.args]


def _over(items: list[Expr], name: str) -> Expr:
    """`[Block(8, drop=value) for value in (0.0, 0.1)]`."""
    first = as_make(items[0])
    assert isinstance(first, Make)
    values: list[Expr] = []
    for item in items:
        make = as_make(item)
        assert isinstance(make, Make)
        values += [value for key, value in make.args if key == name]
    args: list[Argument] = [
        (key, Atom("value") if key == name else value) for key, value in first.args
    ]
    return Each(Make(first.func, args, first.positional), "value", Items("()", values))
