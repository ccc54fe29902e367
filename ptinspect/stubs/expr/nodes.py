"""Python expressions of the generated source, named as in Python's ast, and folding of alike items.

Equal expressions have equal text, so `text` also serves to compare them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

UNSOLVED = "\0"
"""Marks the text of an object whose constructor is not inferred yet."""
MIN_REPEATS = 3
"""Number of alike items from which they are folded into a loop."""

Argument = tuple["str | None", "Expr"]
Brackets = tuple[str, list[tuple[str, "Expr", str]], str]
"""An expression over several lines: opening text, (prefix, item, suffix) per line, closing text."""


class Expr:
    """An expression.

    Attributes:
        depth: number of brackets inside each other.
        text: the source on one line.
    """

    __slots__ = ("_text", "depth")

    def __init__(self, depth: int, text: str | None = None) -> None:
        self.depth = depth
        self._text = text

    @property
    def text(self) -> str:
        if self._text is not None:
            return self._text
        text = self.one_line()
        if UNSOLVED not in text:
            self._text = text
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

    def __init__(self, text: str) -> None:
        super().__init__(0, text)


class Name(Expr):
    """A variable, or a dotted name such as `torch.float16`."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(0, text)

    def name(self) -> str:
        return self.text


class Access(Expr):
    """A way through a model: `model.layers[0].weight`.

    Attributes:
        parent: what the last step is taken from; None for the variable at the start.
        key: name of the submodule that the last step reaches; None if it reaches something else.
        argument: a dotted name in the last step, as in `model.weight.data.to(torch.float16)`.
    """

    __slots__ = ("argument", "key", "parent")

    def __init__(
        self,
        step: str,
        parent: Access | None = None,
        key: str | None = None,
        argument: str | None = None,
    ) -> None:
        super().__init__(0)
        self._text = f"{parent.text}{step}" if parent is not None else step
        self.parent = parent
        self.key = key
        self.argument = argument

    def children(self) -> list[Expr]:
        return [Name(self.argument)] if self.argument else []

    def name(self) -> str:
        root = self
        while root.parent is not None:
            root = root.parent
        return root.text

    def renamed(self, name: str) -> Access:
        """Return the same way through the model in the variable `name`."""
        steps: list[Access] = []
        node = self
        while node.parent is not None:
            steps.append(node)
            node = node.parent
        access = Access(name)
        for step in reversed(steps):
            assert step.parent is not None
            text = step.text[len(step.parent.text) :]
            access = Access(text, access, step.key, step.argument)
        return access

    def split_submodule_path(self) -> tuple[str, str, str] | None:
        """Split at the last brackets, for a shorter line with `get_submodule`.

        `model.a[0].b.weight` is split into the root `model`, the path `a.0`, and `.b.weight`.
        Returns None if there are no brackets, or the steps before them are not all submodules.
        """
        node: Access = self
        while node.parent is not None and not node.text.endswith("]"):
            node = node.parent
        rest = self.text[len(node.text) :]
        keys: list[str] = []
        while node.parent is not None:
            if node.key is None or any(char in node.key for char in '."\\') or not node.key:
                return None
            keys.append(node.key)
            node = node.parent
        return (node.text, ".".join(reversed(keys)), rest) if keys else None


class CallExpr(Expr):
    """A call: `func(args)`.

    Attributes:
        positional: number of leading arguments that are written without their names.
        defaults: value of each argument that may be absent from `args`.
    """

    __slots__ = ("args", "defaults", "func", "positional")

    def __init__(
        self,
        func: str,
        args: Iterable[Argument] = (),
        positional: int = 0,
        defaults: dict[str, Expr] | None = None,
    ) -> None:
        self.args = list(args)
        super().__init__(1 + max((value.depth for _, value in self.args), default=0))
        self.func = func
        self.positional = positional
        self.defaults = defaults or {}

    def brackets(self) -> Brackets:
        written = [
            (f"{name}=" if name and index >= self.positional else "", value, ",")
            for index, (name, value) in enumerate(self.args)
        ]
        return f"{self.func}(", written, ")"

    def one_line(self) -> str:  # most expressions of a large model: faster than from its brackets
        texts = [
            f"{name}={value.text}" if name and index >= self.positional else value.text
            for index, (name, value) in enumerate(self.args)
        ]
        return f"{self.func}({', '.join(texts)})"

    def children(self) -> list[Expr]:
        return [value for _, value in self.args]

    def name(self) -> str:
        return self.func


class PlaceholderCall(CallExpr):
    """Zeros in place of numbers that are in the file, but too many to be written."""

    __slots__ = ()


class Sequence(Expr):
    """A list, tuple or set. `brackets_text` is `[]`, `()` or `{}`."""

    __slots__ = ("brackets_text", "items")

    def __init__(self, brackets_text: str, items: list[Expr]) -> None:
        super().__init__(1 + max((item.depth for item in items), default=0))
        self.brackets_text = brackets_text
        self.items = items

    def one_line(self) -> str:
        is_single_tuple = self.brackets_text == "()" and len(self.items) == 1
        return f"({self.items[0].text},)" if is_single_tuple else super().one_line()

    def brackets(self) -> Brackets:
        opening, closing = self.brackets_text[0], self.brackets_text[1]
        return opening, [("", item, ",") for item in self.items], closing

    def children(self) -> list[Expr]:
        return self.items


class DictExpr(Expr):
    """A dict."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[Expr, Expr]]) -> None:
        super().__init__(1 + max((max(k.depth, v.depth) for k, v in items), default=0))
        self.items = items

    def brackets(self) -> Brackets:
        return "{", [(f"{k.text}: ", v, ",") for k, v in self.items], "}"

    def children(self) -> list[Expr]:
        return [expr for item in self.items for expr in item]


class ListComp(Expr):
    """A list comprehension: `[element for target in iterable]`."""

    __slots__ = ("element", "iterable", "target")

    def __init__(self, element: Expr, target: str, iterable: Expr) -> None:
        super().__init__(1 + max(element.depth, iterable.depth))
        self.element = element
        self.target = target
        self.iterable = iterable

    def brackets(self) -> Brackets:
        return "[", [("", self.element, ""), (f"for {self.target} in ", self.iterable, "")], "]"


class Starred(Expr):
    """An unpacked argument: `*value`."""

    __slots__ = ("value",)

    def __init__(self, value: Expr) -> None:
        super().__init__(value.depth)
        self.value = value

    def one_line(self) -> str:
        return f"*{self.value.text}"

    def brackets(self) -> Brackets:
        opening, items, closing = self.value.brackets()
        return f"*{opening}", items, closing

    def children(self) -> list[Expr]:
        return [self.value]


class ModuleContainer(Expr):
    """A container of modules, `nn.Sequential(a, b, c)`; `as_list` if they are one list argument.

    Its items are folded into loops only when it is written, because the constructor calls of
    their classes have to be inferred first.
    """

    __slots__ = ("as_list", "func", "items")

    def __init__(self, func: str, items: list[Expr], as_list: bool) -> None:
        super().__init__(2 + max((item.depth for item in items), default=0))
        self.func = func
        self.items = items
        self.as_list = as_list

    def folded(self) -> CallExpr:
        """Return the call, with runs of alike items as loops."""
        items: list[Expr] = []
        for item, count in repeats(self.items):
            if count >= MIN_REPEATS:
                items.append(Starred(repeated(item, Literal(str(count)))))
            else:
                items += [item] * count
        return container_call(self.func, _fold_varying_argument(items), self.as_list)

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


def names_in(expr: Expr) -> set[str]:
    """Return the dotted names that an expression reads."""
    stack, seen, names = [expr], set(), set()
    while stack:
        item = stack.pop()
        if id(item) not in seen:
            seen.add(id(item))
            names.add(item.name())
            stack += item.children()
    return names - {""}


def has_placeholder(expr: Expr) -> bool:
    """Return True if an expression contains zeros in place of the file's numbers."""
    stack = [expr]
    while stack:
        item = stack.pop()
        if isinstance(item, PlaceholderCall):
            return True
        if isinstance(item, CallExpr | Sequence | DictExpr):
            stack += item.children()
    return False


# Folding of alike items


def repeats(items: list[Expr]) -> list[tuple[Expr, int]]:
    """Return runs of neighbours with the same text, and their lengths."""
    runs = [list(run) for _, run in groupby(items, key=lambda item: item.text)]
    return [(run[0], len(run)) for run in runs]


def repeated(element: Expr, count: Expr) -> ListComp:
    """Return `[element for _ in range(count)]`."""
    return ListComp(element, "_", CallExpr("range", [(None, count)]))


def container_call(func: str, items: list[Expr], as_list: bool) -> CallExpr:
    """Return `func(*items)`, or `func([*items])` if they are one list argument."""
    if as_list and len(items) == 1 and isinstance(items[0], Starred):
        return CallExpr(func, [(None, items[0].value)])
    if as_list:
        return CallExpr(func, [(None, Sequence("[]", items))] if items else [])
    return CallExpr(func, [(None, item) for item in items])


def _fold_varying_argument(items: list[Expr]) -> list[Expr]:
    """Fold neighbours that differ in only one argument into a loop over its values."""
    folded: list[Expr] = []
    start = 0
    while start < len(items):
        calls, argument = _alike_calls(items, start)
        if len(calls) < MIN_REPEATS:
            folded.append(items[start])
            start += 1
            continue
        # [Block(8, drop=value) for value in (0.0, 0.1)]
        values = [value for call in calls for name, value in call.args if name == argument]
        args: list[Argument] = [
            (name, Name("value") if name == argument else value) for name, value in calls[0].args
        ]
        element = CallExpr(calls[0].func, args, calls[0].positional)
        folded.append(Starred(ListComp(element, "value", Sequence("()", values))))
        start += len(calls)
    return folded


def _alike_calls(items: list[Expr], start: int) -> tuple[list[CallExpr], str | None]:
    """Return the calls from `start` on that differ in the same argument only, and its name."""
    calls: list[CallExpr] = []
    argument: str | None = None
    for index in range(start, len(items)):
        call = resolve(items[index])
        if not isinstance(call, CallExpr):
            break
        first = calls[0] if calls else call
        names = [name for name, _ in call.args]
        if (call.func, call.positional) != (first.func, first.positional):
            break
        if names != [name for name, _ in first.args]:
            break
        different = [
            name
            for (name, a), (_, b) in zip(first.args, call.args, strict=True)
            if a.text != b.text
        ]
        if calls and (len(different) != 1 or None in different):
            break
        if calls and argument not in (None, different[0]):
            break
        argument = different[0] if calls else None
        calls.append(call)
    return calls, argument
