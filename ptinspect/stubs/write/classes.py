"""Classes and functions as source."""

from __future__ import annotations

from collections.abc import Iterator

from ptinspect.stubs.collect.classes import ATTRIBUTE, BUFFER, CHILD, LATE, PARAMETER, Plan
from ptinspect.stubs.collect.fx_graph import Traced
from ptinspect.stubs.collect.object_graph import Graph
from ptinspect.stubs.expr.identifiers import Names, attribute, prose, string
from ptinspect.stubs.expr.nodes import (
    WIDTH,
    Atom,
    Expr,
    Items,
    Make,
    Many,
    as_make,
    assigned,
    columns,
    has_blank,
    laid_out,
)
from ptinspect.stubs.infer.constructors import Given, Line, Solved
from ptinspect.stubs.infer.post_init import Set, far
from ptinspect.stubs.torch.calls import TAKEN, class_text
from ptinspect.torchnn.printer import READABLE_HINT

_CONV = {"1d": "L", "2d": "H, W", "3d": "D, H, W"}


def signature(expr: Expr) -> str:
    """`Linear, (*, 2) -> (*, 1)`"""
    made = as_make(expr)
    if not isinstance(made, Make | Many):
        return f"the argument {prose(made.text)}"
    name = made.func.rpartition(".")[2]
    args = {key: prose(value.text) for key, value in made.args} if isinstance(made, Make) else {}
    shapes = _shapes(name, args)
    return f"{name}, {shapes}" if shapes else name


def _shapes(name: str, args: dict[str | None, str]) -> str:
    if name == "Linear" and {"in_features", "out_features"} <= set(args):
        return f"(*, {args['in_features']}) -> (*, {args['out_features']})"
    if name.startswith("Conv") and {"in_channels", "out_channels"} <= set(args):
        dims = _CONV.get(name[-2:], "...")
        out = ", ".join(f"{dim}'" for dim in dims.split(", "))
        return f"(N, {args['in_channels']}, {dims}) -> (N, {args['out_channels']}, {out})"
    if name == "Embedding" and "embedding_dim" in args:
        return f"(*) of indices -> (*, {args['embedding_dim']})"
    if name in ("LSTM", "GRU", "RNN") and {"input_size", "hidden_size"} <= set(args):
        return f"sequences of {args['input_size']} -> of {args['hidden_size']}, and a state"
    return ""


# ---


_BASES = {
    "tuple": "tuple", "str": "str", "int": "int", "float": "float", "bytes": "bytes",
    "dict": "dict", "list": "list", "set": "set", "exception": "Exception",
    "tensor": "torch.Tensor", "enum": "enum.Enum",
}  # fmt: skip


FILLED = """
    def append(self, item):
        # what the class itself makes of its items is not recorded
        vars(self).setdefault("items", []).append(item)

    def extend(self, items):
        for item in items:
            self.append(item)

    def __setitem__(self, key, value):
        vars(self).setdefault("pairs", {})[key] = value
"""


def class_lines(
    graph: Graph, plan: Plan, solved: Solved | None, fixups: list[Set], guess: bool
) -> Iterator[str]:
    """The lines of one class or function."""
    if plan.kind == "module":
        yield from _module(graph, plan, solved or Solved(plan), fixups, guess)
    elif plan.kind == "function":
        yield from _function(plan)
    elif plan.kind == "enum":
        yield from _enum(plan)
    elif plan.kind in _BASES:
        yield from _subclass(plan)
    else:
        yield from _object(plan, solved or Solved(plan))


# --- modules


def _module(
    graph: Graph, plan: Plan, solved: Solved, fixups: list[Set], guess: bool
) -> Iterator[str]:
    base = "nn.Module"
    if plan.base is not None:
        base = class_text(plan.base.path)
    elif plan.sequence:
        base = "nn.Sequential"
    yield f"class {plan.ident}({base}):"
    body = list(_init(plan, solved, fixups))
    if body:
        yield from body
        yield ""
    if _called_with_arguments(plan):
        yield "    def __new__(cls, *args, **kwargs):"
        yield "        return super().__new__(cls)"
        yield ""
    for name in plan.methods:
        yield from _method(plan, name)
        yield ""
    if plan.traced is not None:
        yield from _as_torch_fx_prints(plan, plan.traced)
    yield from _forward(plan, solved, guess)


def _as_torch_fx_prints(plan: Plan, traced: Traced) -> Iterator[str]:
    if plan.ident != traced.name:
        yield "    def _get_name(self):"
        yield f"        return {string(traced.name)}"
        yield ""
    if traced.code is None:
        return
    lines: list[Expr] = [Atom("super().__str__()")]
    lines += [Atom(string(line)) for line in (*traced.code.split("\n"), READABLE_HINT)]
    yield "    def __str__(self):"
    yield from laid_out("return ", Make('"\\n".join', [(None, Items("[]", lines))]), "", 8)
    yield ""


def _called_with_arguments(plan: Plan) -> bool:
    if plan.use is None:
        return False
    return "__new__" in plan.use.reached or any(
        call.args or call.kwargs for call in plan.use.made if call.opcode in ("NEWOBJ", "NEWOBJ_EX")
    )


def _init(plan: Plan, solved: Solved, fixups: list[Set]) -> Iterator[str]:
    if not (solved.arguments or solved.lines or solved.base or solved.star or fixups):
        return
    open_ended = plan.use is not None and any(call.args for call in plan.use.called)
    yield from _signature(solved.arguments, open_ended)
    yield from _late(solved.arguments)
    if solved.star is not None:
        yield f"        super().__init__(*{solved.star})"
    elif solved.base is not None:
        call = Make("super().__init__", solved.base.args, solved.base.positional)
        yield from laid_out("", call, "", 8)
    else:
        yield "        super().__init__()"
    for line in solved.lines:
        yield from _set_line(line)
    yield from statements(fixups)


def _signature(arguments: list[Given], open_ended: bool) -> Iterator[str]:
    """`def __init__(self, a, b=2):`"""
    parts = ["self"]
    for argument in arguments:
        if argument.default is None:
            parts.append(argument.name)
        elif argument.late:
            parts.append(f"{argument.name}=...")
        else:
            parts.append(f"{argument.name}={argument.default.text}")
    if open_ended:
        parts += ["*args", "**kwargs"]
    yield from def_lines("__init__", parts)


def def_lines(name: str, parts: list[str]) -> Iterator[str]:
    """The head of a method, on one line, on two, or one argument per line."""
    line = f"    def {name}({', '.join(parts)}):"
    if columns(line) <= WIDTH:
        yield line
        return
    yield f"    def {name}("
    inside = f"        {', '.join(parts)}"
    if columns(inside) <= WIDTH and parts[-1] == "**kwargs":
        yield inside
    else:
        yield from (f"        {part}," for part in parts)
    yield "    ):"


def _late(arguments: list[Given]) -> Iterator[str]:
    """Defaults that are made anew for each object."""
    for argument in arguments:
        if argument.late and argument.default is not None:
            yield f"        if {argument.name} is ...:"
            yield from assigned(argument.name, argument.default, 12)


def _set_line(line: Line) -> Iterator[str]:
    indent = 8
    if line.when is not None:
        yield f"        if {line.when}:"
        indent = 12
    if line.expr.depth and has_blank(line.expr):
        yield f"{' ' * indent}# zeros here: the file has its numbers"
    yield from set_lines(line, indent)


def set_lines(line: Line, indent: int) -> Iterator[str]:
    """One attribute, child, parameter or buffer of `self`."""
    name, expr = line.name, line.expr
    simple = attribute(name)
    none = expr.text == "None"
    if line.kind in (ATTRIBUTE, LATE):
        target = f"self.{name}" if simple and line.persistent else f"vars(self)[{string(name)}]"
        yield from assigned(target, expr, indent)
    elif line.kind == BUFFER:
        args: list[tuple[str | None, Expr]] = [(None, Atom(string(name))), (None, expr)]
        if not line.persistent:
            args.append(("persistent", Atom("False")))
        if simple and name not in TAKEN:
            yield from laid_out("", Make("self.register_buffer", args), "", indent)
            return
        yield from assigned(f"self._buffers[{string(name)}]", expr, indent)
        if not line.persistent:
            yield f"{' ' * indent}self._non_persistent_buffers_set.add({string(name)})"
    elif line.empty and simple and name not in TAKEN:
        how = "register_parameter" if line.kind == PARAMETER else "add_module"
        given: list[tuple[str | None, Expr]] = [(None, Atom(string(name))), (None, expr)]
        yield from laid_out("", Make(f"self.{how}", given), "", indent)
    elif simple and not none and name not in TAKEN:
        yield from assigned(f"self.{name}", expr, indent)
    else:
        store = "_parameters" if line.kind == PARAMETER else "_modules"
        yield from assigned(f"self.{store}[{string(name)}]", expr, indent)


def statements(fixups: list[Set], indent: int = 8) -> Iterator[str]:
    """What is set at the end."""
    for item in fixups:
        yield from _statement(item, indent)


def _statement(item: Set, indent: int) -> Iterator[str]:
    """One of them. Where it is too long for a line, what has numbers in it is `get_submodule`."""
    blank, target, expr = " " * indent, item.target, item.expr
    flat = expr is not None and expr.parts() is None
    source = None
    if expr is not None and flat and columns(f"{blank}{target} = {expr.text}") > WIDTH:
        source = far(expr.text)
    given = expr.text if expr is not None and flat and source is None else "model.get_submodule("
    way = far(target) if columns(f"{blank}{target} = {given}") > WIDTH else None
    if way is not None:
        root, path, rest = way
        yield from (f"{blank}{root}.get_submodule(", f"{blank}    {path},")
        target = f"){rest}"
    if source is not None:
        root, path, rest = source
        yield from (f"{blank}{target} = {root}.get_submodule(", f"{blank}    {path},")
        yield f"{blank}){rest}"
    elif expr is None:
        yield f"{blank}{target}"
    elif not target:
        yield from laid_out("", expr, "", indent)
    else:
        yield from assigned(target, expr, indent)


def _method(plan: Plan, name: str) -> Iterator[str]:
    yield f"    def {name}(self, *args, **kwargs):"
    yield from _refusal(f"{plan.ident}.{name}", 8)


def _refusal(what: str, indent: int) -> Iterator[str]:
    text = string(f"the file does not record {what}")
    yield from laid_out("raise ", Make("NotImplementedError", [(None, Atom(text))]), "", indent)


def _forward(plan: Plan, solved: Solved, guess: bool) -> Iterator[str]:
    recovered = plan.traced.lines if plan.traced is not None else plan.recovered
    if recovered:
        yield "    # fmt: off"
        yield "    # Source that the file itself holds: read it before you call it."
        for name in plan.traced.missing if plan.traced is not None else ():
            yield f"    # {name} is of a module that the stub does not import"
        yield from (f"    {line}" if line else "" for line in recovered)
        yield "    # fmt: on"
        return
    children = [line for line in solved.lines if line.kind == CHILD]
    if plan.base is not None or plan.sequence:
        of = class_text(plan.base.path) if plan.base is not None else "nn.Sequential"
        yield "    def forward(self, *args, **kwargs):"
        yield f"        # inferred: {plan.ident} holds what {of} holds, and may do otherwise"
        text = string(f"{plan.ident}.forward is inferred to be that of {of}")
        args: list[tuple[str | None, Expr]] = [(None, Atom(text)), ("stacklevel", Atom("2"))]
        yield from laid_out("", Make("warnings.warn", args), "", 8)
        yield "        return super().forward(*args, **kwargs)"
        return
    if guess and children:
        yield "    def forward(self, x):"
        yield "        # guessed: one child after the other"
        text = string(f"{plan.ident}.forward is guessed: its children in order")
        args = [(None, Atom(text)), ("stacklevel", Atom("2"))]
        yield from laid_out("", Make("warnings.warn", args), "", 8)
        yield "        for child in self.children():"
        yield "            x = child(x)"
        yield "        return x"
        return
    yield "    def forward(self, *args, **kwargs):"
    for line in children[:100]:
        yield f"        # {prose(line.name)}: {signature(line.expr)}"
    if plan.traced is not None or plan.unprinted:
        text = string(f"the source of {plan.ident}.forward is left out here")
        yield from laid_out("raise ", Make("NotImplementedError", [(None, Atom(text))]), "", 8)
        return
    yield from _refusal(f"{plan.ident}.forward", 8)


# --- all else


def _function(plan: Plan) -> Iterator[str]:
    yield f"def {plan.ident}(*args, **kwargs):"
    if plan.hook:
        yield from _does_nothing(plan, 4)
        return
    if plan.use is not None and plan.use.called:
        yield f"    return _Result({plan.ident}, *args, **kwargs)"
        return
    text = string(f"the file does not record {plan.ident}")
    yield from laid_out("raise ", Make("NotImplementedError", [(None, Atom(text))]), "", 4)


def _does_nothing(plan: Plan, indent: int) -> Iterator[str]:
    """A hook that state_dict() calls: without it the state_dict is had all the same."""
    text = string(f"the file does not record {plan.ident}: this hook does nothing")
    args: list[tuple[str | None, Expr]] = [(None, Atom(text)), ("stacklevel", Atom("2"))]
    yield from laid_out("", Make("warnings.warn", args), "", indent)


def _enum(plan: Plan) -> Iterator[str]:
    """Members: those that the file names, and a name made from the value for the others."""
    yield f"class {plan.ident}({'enum.Flag' if plan.use and plan.use.flag else 'enum.Enum'}):"
    if plan.use is not None and plan.use.called:
        yield "    # inferred: the names, made from the values, which alone are recorded"
    from ptinspect.stubs.expr.literals import plain

    reached = [name for name in (plan.use.reached if plan.use else ()) if _is_member(plan, name)]
    names = Names({"name", "value", "mro", *reached})
    seen: set[str] = set()
    for call in plan.use.called if plan.use is not None else ():
        made = plain(call.args[0]) if call.args else None
        if made is None or made.text in seen:
            continue
        seen.add(made.text)
        value = call.args[0]
        word = str(value) if isinstance(value, str) else f"VALUE_{value}".replace("-", "MINUS_")
        name = names.new(word.upper().strip("_") or "VALUE", "VALUE")
        yield from assigned(name, made, 4)
    yield from (f"    {name} = enum.auto()" for name in reached)
    if not seen and not reached:
        yield "    pass"


def _is_member(plan: Plan, name: str) -> bool:
    """Whether a name that getattr takes from an enum is a member's."""
    sure = name.isupper() or (plan.use is not None and plan.use.flag)
    return sure and attribute(name) and not name.startswith("_") and name != "mro"


def _subclass(plan: Plan) -> Iterator[str]:
    """A class that extends one of Python's, or torch.Tensor."""
    yield f"class {plan.ident}({_BASES[plan.kind]}):"
    several = plan.use is not None and any(len(call.args) != 1 for call in plan.use.made)
    wrote = False
    if plan.kind == "tuple" and several:
        yield "    def __new__(cls, *args):"
        yield "        return super().__new__(cls, args)"
        yield ""
        yield "    def __getnewargs__(self):"
        yield "        return tuple(self)"
        wrote = True
    called = plan.use.called if plan.use is not None else []
    if plan.kind in ("dict", "list", "set") and any(call.args for call in called):
        yield "    def __init__(self, *args, **kwargs):"
        yield "        super().__init__()"
        wrote = True
    if plan.use is not None and plan.use.wrapper:
        yield "    @classmethod"
        yield "    def __torch_dispatch__(cls, func, kinds, args=(), kwargs=None):"
        yield from _refusal(f"{plan.ident}.__torch_dispatch__", 8)
        wrote = True
    for name in plan.methods:
        if wrote:
            yield ""
        yield from _method(plan, name)
        wrote = True
    if not wrote:
        yield "    pass"


def _object(plan: Plan, solved: Solved) -> Iterator[str]:
    yield f"class {plan.ident}:"
    body: list[list[str]] = []
    use = plan.use
    if solved.lines:
        open_ended = use is not None and any(call.args for call in use.called)
        lines = list(_signature(solved.arguments, open_ended))
        lines += _late(solved.arguments)
        for line in solved.lines:
            lines += _set_line(line)
        body.append(lines)
    elif use is not None and any(call.args for call in use.called):
        body.append(["    def __init__(self, *args, **kwargs):", "        self.args = args"])
    if _called_with_arguments(plan):
        body.append(
            ["    def __new__(cls, *args, **kwargs):", "        return super().__new__(cls)"]
        )
    if use is not None and any(_odd_state(call.state) for call in use.instances):
        body.append([
            "    def __setstate__(self, state):",
            "        # what the class itself makes of its state is not recorded",
            "        if isinstance(state, dict):",
            "            vars(self).update(state)",
            "        else:",
            "            self.state = state",
        ])  # fmt: skip
    if plan.hook:
        head = ["    def __call__(self, *args, **kwargs):"]
        body.append([*head, *_does_nothing(plan, 8)])
    if use is not None and any(c.changes and c.changes.items for c in use.instances):
        body.append(FILLED.strip("\n").split("\n"))
    body += [list(_method(plan, name)) for name in plan.methods]
    if not body:
        yield "    pass"
    for number, lines in enumerate(body):
        if number:
            yield ""
        yield from lines


def _odd_state(state: object) -> bool:
    """Whether pickle's own way of setting a state would fail."""
    if state is None or isinstance(state, dict):
        return False
    if isinstance(state, tuple) and len(state) == 2:
        return not all(part is None or isinstance(part, dict) for part in state)
    return True
