"""Python expressions as the stub writes them, and their layout: that of `ruff format`.

An expression that fits a line stands on one; else its brackets open, one item per line, each with
a comma. What is equal prints equal, and so `text` is also what expressions are compared by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from unicodedata import east_asian_width

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


# ---


WIDTH = 88
"""Columns: the default of ruff and black."""


OPEN = "\0"
"""Marks the text of an object whose class is not solved yet."""


class Expr:
    """depth: brackets inside brackets. text: all on one line, made once."""

    __slots__ = ("_text", "depth")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._text: str | None = None

    @property
    def text(self) -> str:
        """On one line."""
        if self._text is not None:
            return self._text
        made = self.flat()
        if OPEN not in made:
            self._text = made
        return made

    def flat(self) -> str:
        """The text, made anew."""
        raise NotImplementedError

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        """Opening, (prefix, item, suffix) per line, closing; None for what has no brackets."""
        return None


class Atom(Expr):
    """A name, a number, a string: no brackets that could open."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(0)
        self._text = text


class Var(Expr):
    """An argument of the class at hand, by its number until it has a name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(0)
        self.name = name

    def flat(self) -> str:
        return self.name


Argument = tuple["str | None", Expr]


class Make(Expr):
    """`func(args)`. The first `positional` arguments are written without their names. unset:
    what an argument that is not given would be."""

    __slots__ = ("args", "func", "positional", "unset")

    def __init__(
        self,
        func: str,
        args: Sequence[Argument],
        positional: int = 0,
        unset: dict[str, Expr] | None = None,
    ) -> None:
        super().__init__(1 + max((value.depth for _, value in args), default=0))
        self.func = func
        self.args = list(args)
        self.positional = positional
        self.unset = unset or {}

    def _named(self) -> list[Argument]:
        return [
            (None if at < self.positional else name, value)
            for at, (name, value) in enumerate(self.args)
        ]

    def flat(self) -> str:
        inside = ", ".join([f"{n}={v.text}" if n else v.text for n, v in self._named()])
        return f"{self.func}({inside})"

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        if not self.args:
            return None
        lines = [(f"{n}=" if n else "", v, ",") for n, v in self._named()]
        return f"{self.func}(", lines, ")"


class Blank(Make):
    """Zeros in place of numbers that the file has."""

    __slots__ = ()


def has_blank(expr: Expr) -> bool:
    """Whether zeros stand in it for numbers that the file has."""
    todo = [expr]
    while todo:
        item = todo.pop()
        if isinstance(item, Blank):
            return True
        if isinstance(item, Make):
            todo += [value for _, value in item.args]
        elif isinstance(item, Items):
            todo += item.items
        elif isinstance(item, Pairs):
            todo += [value for _, value in item.items]
    return False


class Items(Expr):
    """A list, tuple or set: its brackets and its items."""

    __slots__ = ("brackets", "items")

    def __init__(self, brackets: str, items: list[Expr]) -> None:
        super().__init__(1 + max((item.depth for item in items), default=0))
        self.brackets = brackets
        self.items = items

    def flat(self) -> str:
        comma = "," if self.brackets == "()" and len(self.items) == 1 else ""
        inside = ", ".join([item.text for item in self.items])
        return f"{self.brackets[0]}{inside}{comma}{self.brackets[1]}"

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        if not self.items:
            return None
        return self.brackets[0], [("", item, ",") for item in self.items], self.brackets[1]


class Pairs(Expr):
    """A dict."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[Expr, Expr]]) -> None:
        super().__init__(1 + max((max(k.depth, v.depth) for k, v in items), default=0))
        self.items = items

    def flat(self) -> str:
        return "{" + ", ".join([f"{k.text}: {v.text}" for k, v in self.items]) + "}"

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        if not self.items:
            return None
        return "{", [(f"{k.text}: ", v, ",") for k, v in self.items], "}"


class Each(Expr):
    """`[item for names in over]`."""

    __slots__ = ("item", "names", "over")

    def __init__(self, item: Expr, names: str, over: Expr) -> None:
        super().__init__(1 + max(item.depth, over.depth))
        self.item = item
        self.names = names
        self.over = over

    def flat(self) -> str:
        return f"[{self.item.text} for {self.names} in {self.over.text}]"

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        return "[", [("", self.item, ""), (f"for {self.names} in ", self.over, "")], "]"


class Star(Expr):
    """`*inner`, an argument that is many."""

    __slots__ = ("inner",)

    def __init__(self, inner: Expr) -> None:
        super().__init__(inner.depth)
        self.inner = inner

    def flat(self) -> str:
        return f"*{self.inner.text}"

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        inner = self.inner.parts()
        return None if inner is None else (f"*{inner[0]}", inner[1], inner[2])


class Many(Expr):
    """A container of modules, `func(a, b, c)`; how its items are folded is seen when all of them
    are known. listed: whether they are one argument, a list."""

    __slots__ = ("func", "items", "listed")

    def __init__(self, func: str, items: list[Expr], listed: bool) -> None:
        super().__init__(2 + max((item.depth for item in items), default=0))
        self.func = func
        self.items = items
        self.listed = listed

    def folded(self) -> Make:
        """With runs of items that are alike as loops."""

        return folded(self)

    def flat(self) -> str:
        return self.folded().text

    def parts(self) -> tuple[str, list[tuple[str, Expr, str]], str] | None:
        return self.folded().parts()


NONE, TRUE, FALSE = Atom("None"), Atom("True"), Atom("False")


def columns(text: str) -> int:
    """The width of a line; letters of East Asian scripts take two."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def laid_out(prefix: str, expr: Expr, suffix: str = "", indent: int = 0) -> list[str]:
    """The lines of `prefix expr suffix`, indented by so many blanks."""
    start = " " * indent + prefix
    line = f"{start}{expr.text}{suffix}"
    if columns(line) <= WIDTH:
        return [line]
    parts = expr.parts()
    if parts is None:
        return [line]
    opening, inside, closing = parts
    made = [start + opening]
    for before, item, after in inside:
        made += laid_out(before, item, after, indent + 4)
    made.append(" " * indent + closing + suffix)
    return made


def assigned(target: str, expr: Expr, indent: int) -> list[str]:
    """The lines of `target = expr`. What has no brackets of its own gets some, where that helps."""
    lines = laid_out(f"{target} = ", expr, "", indent)
    inside = " " * (indent + 4) + expr.text
    if len(lines) == 1 and columns(lines[0]) > WIDTH >= columns(inside) and expr.parts() is None:
        return [f"{' ' * indent}{target} = (", inside, " " * indent + ")"]
    if len(lines) > 1 and columns(lines[0]) > WIDTH:
        within = laid_out("", expr, "", indent + 4)
        if columns(within[0]) <= WIDTH:
            return [f"{' ' * indent}{target} = (", *within, " " * indent + ")"]
    return lines
