"""Python source: expressions, named as in Python's ast, folding of alike items, and their layout.

Equal expressions have equal text, so `text` also serves to compare them. The layout is that of
`ruff format`: what does not fit on a line has one item per line, and a trailing comma.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from types import UnionType
from typing import ClassVar
from unicodedata import east_asian_width

from ptinspect.text import read_sections

UNSOLVED = "\0"
"""Marks the text of an object whose constructor is not inferred yet."""
MIN_REPEATS = 3
"""Alike items from which they are folded into a loop."""
WIDTH = 88
"""Columns of a line: the default of ruff and black."""

Argument = tuple["str | None", "Expr"]
Brackets = tuple[str, list[tuple[str, "Expr", str]], str]
"""An expression over several lines: opening text, (prefix, item, suffix) per line, closing text."""


class Expr:
    """An expression.

    Attributes:
        depth: number of brackets inside each other.
        own_depth: number of brackets that a node adds to those of its children.
        text: the source on one line.
    """

    __slots__ = ("_text", "depth")
    own_depth: ClassVar[int] = 1

    def __init__(self, text: str | None = None) -> None:
        self.depth = 0
        self._text = text

    def __post_init__(self) -> None:
        self.depth = self.own_depth + max([item.depth for item in self.children()], default=0)
        self._text = None

    @property
    def text(self) -> str:
        if self._text is not None:
            return self._text
        text = self.one_line()
        self._text = text if UNSOLVED not in text else None
        return text

    def one_line(self) -> str:
        """Build `text` from the brackets."""
        opening, items, closing = self.brackets()
        inside = " ".join([f"{before}{item.text}{after}" for before, item, after in items])
        return f"{opening}{inside.removesuffix(',')}{closing}"

    def brackets(self) -> Brackets:
        """Return the expression over several lines; with no items if it has to stay on one."""
        return self._text or "", [], ""

    def children(self) -> Iterable[Expr]:
        """Return the expressions directly inside this one."""
        return [item for _, item, _ in self.brackets()[1]]

    def name(self) -> str:
        """Return the dotted name that this node reads, without those of its children."""
        return ""


class Literal(Expr):
    """A number, a string, None, True or False."""

    __slots__ = ()


class Name(Expr):
    """A variable, or a dotted name such as `torch.float16`."""

    __slots__ = ()

    def name(self) -> str:
        return self.text


@dataclass(slots=True, eq=False)
class Access(Expr):
    """A way through a model: `model.layers[0].weight`.

    Attributes:
        parent: what the last step is taken from; None for the variable at the start.
        key: name of the submodule that the last step reaches; None if it reaches something else.
        argument: a dotted name in the last step, as in `model.weight.data.to(torch.float16)`.
    """

    step: str
    parent: Access | None = None
    key: str | None = None
    argument: str | None = None

    def __post_init__(self) -> None:
        before = self.parent.text if self.parent is not None else ""
        Expr.__init__(self, f"{before}{self.step}")

    def steps(self) -> list[Access]:
        """Return the way step by step, from the variable on."""
        steps = [self]
        while (parent := steps[-1].parent) is not None:
            steps.append(parent)
        return steps[::-1]

    def children(self) -> list[Expr]:
        return [Name(self.argument)] if self.argument else []

    def name(self) -> str:
        return self.steps()[0].text

    def renamed(self, name: str) -> Access:
        """Return the same way through the model in the variable `name`."""
        access = Access(name)
        for step in self.steps()[1:]:
            access = Access(step.step, access, step.key, step.argument)
        return access

    def split_submodule_path(self) -> tuple[str, str, str] | None:
        """Split at the last brackets, for a shorter line with `get_submodule`.

        `model.a[0].b.weight` is split into the root `model`, the path `a.0`, and `.b.weight`.
        Returns None if there are no brackets, or the steps before them are not all submodules.
        """
        root, *steps = self.steps()
        while steps and not steps[-1].step.endswith("]"):
            steps.pop()
        keys = [step.key or "" for step in steps]
        if not keys or any(not key or any(char in key for char in '."\\') for key in keys):
            return None
        return root.text, ".".join(keys), self.text[len(steps[-1].text) :]


@dataclass(slots=True, eq=False)
class CallExpr(Expr):
    """A call: `func(args)`.

    Attributes:
        positional: number of leading arguments that are written without their names.
        defaults: value of each argument that may be absent from `args`.
    """

    func: str
    args: list[Argument] = field(default_factory=list)
    positional: int = 0
    defaults: dict[str, Expr] = field(default_factory=dict)

    def brackets(self) -> Brackets:
        written = [
            (f"{name}=" if name and index >= self.positional else "", value, ",")
            for index, (name, value) in enumerate(self.args)
        ]
        return f"{self.func}(", written, ")"

    def one_line(self) -> str:  # most expressions of a large model: faster than from its brackets
        texts = [value.text for _, value in self.args[: self.positional]]
        named = self.args[self.positional :]
        texts += [f"{name}={value.text}" if name else value.text for name, value in named]
        return f"{self.func}({', '.join(texts)})"

    def children(self) -> list[Expr]:
        return [value for _, value in self.args]

    def name(self) -> str:
        return self.func


def call_expr(func: str, *args: Expr, **keywords: Expr) -> CallExpr:
    """Return `func(*args, **keywords)`."""
    return CallExpr(func, [*[(None, arg) for arg in args], *keywords.items()])


class PlaceholderCall(CallExpr):
    """Zeros in place of numbers that are in the file, but too many to be written."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Sequence(Expr):
    """A list, tuple or set. `brackets_text` is `[]`, `()` or `{}`."""

    brackets_text: str
    items: list[Expr]

    def brackets(self) -> Brackets:
        opening, closing = self.brackets_text[0], self.brackets_text[1]
        return opening, [("", item, ",") for item in self.items], closing

    def one_line(self) -> str:
        is_single_tuple = self.brackets_text == "()" and len(self.items) == 1
        return f"({self.items[0].text},)" if is_single_tuple else Expr.one_line(self)


@dataclass(slots=True, eq=False)
class DictExpr(Expr):
    """A dict."""

    items: list[tuple[Expr, Expr]]

    def brackets(self) -> Brackets:
        return "{", [(f"{key.text}: ", value, ",") for key, value in self.items], "}"

    def children(self) -> list[Expr]:
        return [expr for item in self.items for expr in item]


@dataclass(slots=True, eq=False)
class ListComp(Expr):
    """A list comprehension: `[element for target in iterable]`."""

    element: Expr
    target: str
    iterable: Expr

    def brackets(self) -> Brackets:
        return "[", [("", self.element, ""), (f"for {self.target} in ", self.iterable, "")], "]"


@dataclass(slots=True, eq=False)
class Starred(Expr):
    """An unpacked argument: `*value`."""

    value: Expr
    own_depth: ClassVar[int] = 0

    def brackets(self) -> Brackets:
        opening, items, closing = self.value.brackets()
        return f"*{opening}", items, closing

    def one_line(self) -> str:
        return f"*{self.value.text}"

    def children(self) -> list[Expr]:
        return [self.value]


@dataclass(slots=True, eq=False)
class ModuleContainer(Expr):
    """A container of modules, `nn.Sequential(a, b, c)`; `as_list` if they are one list argument.

    Its items are folded into loops only when it is written, because the constructor calls of
    their classes have to be inferred first.
    """

    func: str
    items: list[Expr]
    as_list: bool
    own_depth: ClassVar[int] = 2

    def folded(self) -> CallExpr:
        """Return the call, with runs of alike items as loops."""
        items: list[Expr] = []
        for item, count in repeats(self.items):
            loop = Starred(ListComp(item, "_", call_expr("range", Literal(str(count)))))
            items += [loop] if count >= MIN_REPEATS else [item] * count
        # Neighbours that differ in only one argument are a loop over its values.
        folded: list[Expr] = []
        start = 0
        while start < len(items):
            calls = [resolve(items[start])]
            argument: str | None = None
            for item in map(resolve, items[start + 1 :]):
                differing = _differing_argument(calls[0], item)
                if differing is None or argument not in (None, differing):
                    break
                argument = differing
                calls.append(item)
            first = calls[0]
            if len(calls) < MIN_REPEATS or not isinstance(first, CallExpr):
                folded.append(items[start])
                start += 1
                continue
            # [Block(8, drop=value) for value in (0.0, 0.1)]
            index = [name for name, _ in first.args].index(argument)
            values = [call.args[index][1] for call in calls if isinstance(call, CallExpr)]
            args = [*first.args[:index], (argument, Name("value")), *first.args[index + 1 :]]
            element = CallExpr(first.func, args, first.positional)
            folded.append(Starred(ListComp(element, "value", Sequence("()", values))))
            start += len(calls)
        return container_call(self.func, folded, self.as_list)

    def one_line(self) -> str:
        return self.folded().text

    def brackets(self) -> Brackets:
        return self.folded().brackets()

    def children(self) -> list[Expr]:
        return self.items

    def name(self) -> str:
        return self.func


NONE, TRUE, FALSE = Literal("None"), Literal("True"), Literal("False")


def resolve(expr: Expr) -> Expr:
    """Return the constructor call of an object whose class is inferred; else `expr` itself."""
    call = getattr(expr, "constructor_call", None)
    return call if isinstance(call, Expr) else expr


def walk(root: Expr, inside: type | UnionType = Expr) -> Iterator[Expr]:
    """Yield an expression and all expressions in it, each once, but only in nodes of some types."""
    stack, seen = [root], set()
    while stack:
        item = stack.pop()
        if id(item) not in seen:
            seen.add(id(item))
            yield item
            stack += item.children() if isinstance(item, inside) else ()


def names_in(expr: Expr) -> set[str]:
    """Return the dotted names that an expression reads."""
    return {item.name() for item in walk(expr)} - {""}


def has_placeholder(expr: Expr) -> bool:
    """Return True if an expression contains zeros in place of the file's numbers."""
    nodes = walk(expr, CallExpr | Sequence | DictExpr)
    return any(isinstance(item, PlaceholderCall) for item in nodes)


# Folding of alike items


def repeats(items: list[Expr]) -> list[tuple[Expr, int]]:
    """Return runs of neighbours with the same text, and their lengths."""
    runs = [list(run) for _, run in groupby(items, key=lambda item: item.text)]
    return [(run[0], len(run)) for run in runs]


def container_call(func: str, items: list[Expr], as_list: bool) -> CallExpr:
    """Return `func(*items)`, or `func([*items])` if they are one list argument."""
    if as_list and len(items) == 1 and isinstance(items[0], Starred):
        items = [items[0].value]
    elif as_list and items:
        items = [Sequence("[]", items)]
    return call_expr(func, *items)


def _differing_argument(first: Expr, second: Expr) -> str | None:
    """Return the name of the only argument in which two calls of a function differ."""
    if not isinstance(first, CallExpr) or not isinstance(second, CallExpr):
        return None
    heads = [(c.func, c.positional, [name for name, _ in c.args]) for c in (first, second)]
    if heads[0] != heads[1]:
        return None
    pairs = zip(first.args, second.args, strict=True)
    different = [name for (name, a), (_, b) in pairs if a.text != b.text]
    return different[0] if len(different) == 1 else None


# Layout


def columns(text: str) -> int:
    """Return the width of a line. Letters of East Asian scripts take two columns."""
    wide = 0 if text.isascii() else sum(east_asian_width(char) in "WF" for char in text)
    return len(text) + wide


def layout(prefix: str, expr: Expr, suffix: str = "", indent: int = 0) -> list[str]:
    """Return the lines of `prefix expr suffix`, indented by `indent` spaces."""
    start = " " * indent + prefix
    line = f"{start}{expr.text}{suffix}"
    opening, inside, closing = expr.brackets() if columns(line) > WIDTH else ("", [], "")
    if not inside:
        return [line]
    lines = [start + opening]
    for before, item, after in inside:
        lines += layout(before, item, after, indent + 4)
    return [*lines, " " * indent + closing + suffix]


def layout_assignment(target: str, expr: Expr, indent: int) -> list[str]:
    """Return the lines of `target = expr`, in parentheses where that makes a long line fit."""
    blank = " " * indent
    lines = layout(f"{target} = ", expr, "", indent)
    if columns(lines[0]) <= WIDTH:
        return lines
    inside = layout("", expr, "", indent + 4)
    if columns(inside[0]) <= WIDTH:
        return [f"{blank}{target} = (", *inside, f"{blank})"]
    return lines


@dataclass(slots=True)
class Source:
    """Lines of Python, and the dotted names that they read."""

    lines: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def add(self, *lines: str) -> None:
        """Append lines that read no names that matter for imports."""
        self.lines += lines

    def read(self, *names: str) -> None:
        """Record names that appended lines read."""
        self.names.update(names)

    def add_expr(self, prefix: str, expr: Expr, indent: int, suffix: str = "") -> None:
        """Append `prefix expr suffix`."""
        self.extend(Source(layout(prefix, expr, suffix, indent), names_in(expr)))

    def add_assignment(self, target: str, expr: Expr, indent: int) -> None:
        """Append `target = expr`."""
        self.extend(Source(layout_assignment(target, expr, indent), names_in(expr)))

    def extend(self, source: Source) -> None:
        """Append other source."""
        self.lines += source.lines
        self.names |= source.names


@cache
def templates() -> dict[str, Source]:
    """Return the code in `templates.txt` by name; functions follow two empty lines."""
    code: dict[str, Source] = {}
    for head, lines in read_sections("stubs/templates.txt").items():
        name, *names = head.split()
        is_method = lines[0].startswith(" ")
        code[name] = Source(lines if is_method else ["", "", *lines], set(names))
    return code
