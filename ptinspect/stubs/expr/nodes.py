"""Python expressions of the generated source, named as in Python's ast, and folding of alike items.

Equal expressions have equal text, so `text` also serves to compare them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._text: str | None = None

    @property
    def text(self) -> str:
        if self._text is not None:
            return self._text
        text = self.one_line()
        if UNSOLVED not in text:
            self._text = text
        return text

    def one_line(self) -> str:
        """Build `text`."""
        raise NotImplementedError

    def brackets(self) -> Brackets | None:
        """Return the expression over several lines, or None if it has no brackets to open."""
        return None

    def children(self) -> list[Expr]:
        """Return the expressions directly inside this one."""
        return []

    def name(self) -> str:
        """Return the dotted name that this node reads, without those of its children."""
        return ""


class Literal(Expr):
    """A number, a string, None, True or False."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(0)
        self._text = text


class Name(Expr):
    """A variable, or a dotted name such as `torch.float16`."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(0)
        self._text = text

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

    def _written(self) -> list[tuple[str, Expr]]:
        return [
            (f"{name}=" if name and index >= self.positional else "", value)
            for index, (name, value) in enumerate(self.args)
        ]

    def one_line(self) -> str:
        return f"{self.func}({', '.join([name + value.text for name, value in self._written()])})"

    def brackets(self) -> Brackets | None:
        if not self.args:
            return None
        return f"{self.func}(", [(name, value, ",") for name, value in self._written()], ")"

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
        opening, closing = self.brackets_text[0], self.brackets_text[1]
        comma = "," if opening == "(" and len(self.items) == 1 else ""
        return f"{opening}{', '.join([item.text for item in self.items])}{comma}{closing}"

    def brackets(self) -> Brackets | None:
        if not self.items:
            return None
        return (
            self.brackets_text[0],
            [("", item, ",") for item in self.items],
            self.brackets_text[1],
        )

    def children(self) -> list[Expr]:
        return self.items


class DictExpr(Expr):
    """A dict."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[Expr, Expr]]) -> None:
        super().__init__(1 + max((max(k.depth, v.depth) for k, v in items), default=0))
        self.items = items

    def one_line(self) -> str:
        return "{" + ", ".join([f"{k.text}: {v.text}" for k, v in self.items]) + "}"

    def brackets(self) -> Brackets | None:
        return ("{", [(f"{k.text}: ", v, ",") for k, v in self.items], "}") if self.items else None

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

    def one_line(self) -> str:
        return f"[{self.element.text} for {self.target} in {self.iterable.text}]"

    def brackets(self) -> Brackets | None:
        return "[", [("", self.element, ""), (f"for {self.target} in ", self.iterable, "")], "]"

    def children(self) -> list[Expr]:
        return [self.element, self.iterable]


class Starred(Expr):
    """An unpacked argument: `*value`."""

    __slots__ = ("value",)

    def __init__(self, value: Expr) -> None:
        super().__init__(value.depth)
        self.value = value

    def one_line(self) -> str:
        return f"*{self.value.text}"

    def brackets(self) -> Brackets | None:
        inside = self.value.brackets()
        return None if not inside else (f"*{inside[0]}", inside[1], inside[2])

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

    def brackets(self) -> Brackets | None:
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


def walk(expr: Expr) -> Iterator[Expr]:
    """Yield an expression and all expressions in it, each once. Not recursive."""
    stack, seen = [expr], set()
    while stack:
        item = stack.pop()
        if id(item) not in seen:
            seen.add(id(item))
            yield item
            stack += item.children()


def names_in(expr: Expr) -> set[str]:
    """Return the dotted names that an expression reads."""
    return {name for item in walk(expr) if (name := item.name())}


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
    runs: list[tuple[Expr, int]] = []
    for item in items:
        if runs and runs[-1][0].text == item.text:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((item, 1))
    return runs


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
        end, argument = _alike_until(items, start)
        if end - start < MIN_REPEATS or argument is None:
            folded.append(items[start])
            start += 1
            continue
        # [Block(8, drop=value) for value in (0.0, 0.1)]
        calls = [call for item in items[start:end] if isinstance(call := resolve(item), CallExpr)]
        values = [value for call in calls for name, value in call.args if name == argument]
        args: list[Argument] = [
            (name, Name("value") if name == argument else value) for name, value in calls[0].args
        ]
        element = CallExpr(calls[0].func, args, calls[0].positional)
        folded.append(Starred(ListComp(element, "value", Sequence("()", values))))
        start = end
    return folded


def _alike_until(items: list[Expr], start: int) -> tuple[int, str | None]:
    """Return the end of the run of calls that differ in the same argument only, and its name."""
    first = resolve(items[start])
    argument: str | None = None
    end = start + 1
    if not isinstance(first, CallExpr) or not first.args:
        return end, None
    names = [name for name, _ in first.args]
    while end < len(items):
        call = resolve(items[end])
        if not isinstance(call, CallExpr) or [name for name, _ in call.args] != names:
            break
        if call.func != first.func or call.positional != first.positional:
            break
        different = [
            name
            for (name, a), (_, b) in zip(first.args, call.args, strict=True)
            if a.text != b.text
        ]
        if len(different) != 1 or different[0] is None or argument not in (None, different[0]):
            break
        argument = different[0]
        end += 1
    return end, argument
