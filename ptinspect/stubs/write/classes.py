"""Write classes and functions as source."""

from __future__ import annotations

from collections.abc import Iterable

from ptinspect.stubs.collect.classes import (
    ATTRIBUTE,
    BUFFER,
    CHILD,
    LATE,
    PARAMETER,
    Definition,
    NameUsage,
)
from ptinspect.stubs.collect.recorded_source import RecordedSource
from ptinspect.stubs.expr.literals import Names, is_attribute, literal, prose, string
from ptinspect.stubs.expr.nodes import (
    FALSE,
    Access,
    Argument,
    CallExpr,
    Expr,
    Literal,
    ModuleContainer,
    Sequence,
    has_placeholder,
    names_in,
    resolve,
)
from ptinspect.stubs.expr.torch_calls import MODULE_METHODS
from ptinspect.stubs.infer.constructors import InferredClass, InitParameter, InitStatement
from ptinspect.stubs.infer.post_init import Assignment
from ptinspect.stubs.write.source import (
    INIT_METHOD,
    INIT_METHOD_KEEPING_ARGUMENTS,
    ITEM_METHODS,
    NEW_METHOD,
    SETSTATE_METHOD,
    TUPLE_NEW_METHODS,
    WIDTH,
    Source,
    columns,
)
from ptinspect.torchnn.printer import READABLE_HINT

_BASES = {
    "tuple": "tuple", "str": "str", "int": "int", "float": "float", "bytes": "bytes",
    "dict": "dict", "list": "list", "set": "set", "exception": "Exception",
    "tensor": "torch.Tensor", "enum": "enum.Enum", "tracer": "torch.fx.Tracer",
}  # fmt: skip
_CONVOLVED_DIMS = {"1d": "L", "2d": "H, W", "3d": "D, H, W"}
MAX_LISTED_CHILDREN = 100
"""Children that are listed in a comment in forward."""


def write_definition(
    definition: Definition,
    inferred: InferredClass | None,
    post_init: list[Assignment],
    guess_forward: bool,
) -> Source:
    """Return the source of a class or function."""
    inferred = inferred or InferredClass(definition)
    if definition.kind == "module":
        return _module(definition, inferred, post_init, guess_forward)
    if definition.kind == "function":
        return _function(definition)
    if definition.kind == "enum":
        return _enum(definition)
    if definition.kind in _BASES:
        return _subclass(definition)
    return _object(definition, inferred)


def _join(head: str, methods: Iterable[Source]) -> Source:
    """Return a class with an empty line between its methods."""
    source = Source([head])
    written = [method for method in methods if method.lines]
    for index, method in enumerate(written):
        source.add(*([""] if index else []))
        source.extend(method)
    if not written:
        source.add("    pass")
    return source


# Modules


def _module(
    definition: Definition,
    inferred: InferredClass,
    post_init: list[Assignment],
    guess_forward: bool,
) -> Source:
    base = inferred.base_text or "nn.Module"
    methods = [_init(definition, inferred, post_init)]
    if definition.usage is not None and definition.usage.has_new_arguments:
        methods.append(NEW_METHOD)
    methods += [_unrecorded_method(definition, name) for name in definition.methods]
    recorded = definition.recorded
    if recorded is not None and recorded.fx_name is not None:
        methods += _traced_repr(definition, recorded)
    methods.append(_forward(definition, inferred, guess_forward))
    source = _join(f"class {definition.ident}({base}):", methods)
    source.read(base)
    return source


def _init(definition: Definition, inferred: InferredClass, post_init: list[Assignment]) -> Source:
    has_base_call = inferred.base_call is not None or inferred.star is not None
    if not (inferred.parameters or inferred.statements or has_base_call or post_init):
        return Source()
    usage = definition.usage
    source = _signature(inferred.parameters, usage is not None and usage.has_call_arguments)
    if inferred.star is not None:
        source.add(f"        super().__init__(*{inferred.star})")
    elif inferred.base_call is not None:
        call = inferred.base_call
        source.add_expr("", CallExpr("super().__init__", call.args, call.positional), "", 8)
    else:
        source.add("        super().__init__()")
    children = {item.name for item in inferred.statements if item.kind == CHILD}
    for statement in inferred.statements:
        # A bitsandbytes weight is a tensor, and has tensors below: `weight`, `weight.absmax`.
        is_child_too = statement.kind in (PARAMETER, BUFFER) and statement.name in children
        _add_init_statement(source, statement, is_child_too)
    source.extend(write_assignments(post_init, 8))
    return source


def _signature(parameters: list[InitParameter], accepts_more: bool) -> Source:
    """Return `def __init__(self, a, b=2):` and the defaults that are created in the body."""
    source = Source()
    texts = ["self"]
    for parameter in parameters:
        default = parameter.default
        if default is None:
            texts.append(parameter.name)
        elif parameter.default_in_body:
            texts.append(f"{parameter.name}=...")
        else:
            texts.append(f"{parameter.name}={default.text}")
            source.read(*names_in(default))
    if accepts_more:
        texts += ["*args", "**kwargs"]
    line = f"    def __init__({', '.join(texts)}):"
    if columns(line) <= WIDTH:
        source.add(line)
    else:
        inside = f"        {', '.join(texts)}"
        on_one_line = columns(inside) <= WIDTH and accepts_more
        lines = [inside] if on_one_line else [f"        {text}," for text in texts]
        source.add("    def __init__(", *lines, "    ):")
    for parameter in parameters:
        if parameter.default_in_body and parameter.default is not None:
            source.add(f"        if {parameter.name} is ...:")
            source.add_assignment(parameter.name, parameter.default, 12)
    return source


def _add_init_statement(
    source: Source, statement: InitStatement, is_child_too: bool = False
) -> None:
    """Append the statement that sets an attribute, child, parameter or buffer of `self`."""
    indent, name, expr = 8, statement.name, statement.expr
    if statement.condition is not None:
        source.add(f"        if {statement.condition}:")
        indent = 12
    if expr.depth and has_placeholder(expr):
        source.add(f"{' ' * indent}# zeros instead of the file's numbers")
    key = string(name)
    may_register = is_attribute(name) and name not in MODULE_METHODS and not is_child_too
    args: list[Argument] = [(None, Literal(key)), (None, expr)]
    if statement.kind in (ATTRIBUTE, LATE):
        plain = is_attribute(name) and statement.plain
        source.add_assignment(f"self.{name}" if plain else f"vars(self)[{key}]", expr, indent)
    elif statement.kind == BUFFER and may_register:
        if not statement.plain:
            args.append(("persistent", FALSE))
        source.add_expr("", CallExpr("self.register_buffer", args), "", indent)
    elif statement.kind == BUFFER:
        source.add_assignment(f"self._buffers[{key}]", expr, indent)
        if not statement.plain:
            source.add(f"{' ' * indent}self._non_persistent_buffers_set.add({key})")
    elif statement.may_be_none and may_register:
        method = "register_parameter" if statement.kind == PARAMETER else "add_module"
        source.add_expr("", CallExpr(f"self.{method}", args), "", indent)
    elif expr.text != "None" and may_register:
        source.add_assignment(f"self.{name}", expr, indent)
    else:
        store = "_parameters" if statement.kind == PARAMETER else "_modules"
        source.add_assignment(f"self.{store}[{key}]", expr, indent)


def write_assignments(assignments: list[Assignment], indent: int) -> Source:
    """Return the statements that follow the construction of a model."""
    source = Source()
    blank = " " * indent
    for target, suffix, value, for_all_modules in assignments:
        if not target:
            if value is not None:
                source.add_expr("", value, "", indent)
        elif for_all_modules and value is not None:
            source.add(f"{blank}for module in {target.text}.modules():")
            source.add_assignment(f"    module{suffix}", value, indent)
            source.read(target.name())
        else:
            _add_assignment(source, target, suffix, value, blank)
    return source


def _add_assignment(
    source: Source, target: Access, suffix: str, value: Expr | None, blank: str
) -> None:
    """Append `target suffix = value`, with `get_submodule` where the line would be too long."""
    source.read(target.name(), *(names_in(value) if value is not None else ()))
    text = f"{target.text}{suffix}"
    is_flat = value is not None and not value.brackets()[1]
    split_value = None
    if isinstance(value, Access) and columns(f"{blank}{text} = {value.text}") > WIDTH:
        split_value = value.split_submodule_path()
    written = value.text if value is not None and is_flat and split_value is None else None
    written = "model.get_submodule(" if written is None else written
    split = target.split_submodule_path() if columns(f"{blank}{text} = {written}") > WIDTH else None
    if split is not None:
        root, path, rest = split
        source.add(f"{blank}{root}.get_submodule(", f"{blank}    {string(path)},")
        text = f"){rest}{suffix}"
    if split_value is not None:
        root, path, rest = split_value
        source.add(f"{blank}{text} = {root}.get_submodule(", f"{blank}    {string(path)},")
        source.add(f"{blank}){rest}")
    elif value is None:
        source.add(f"{blank}{text}")
    else:
        source.add_assignment(text, value, len(blank))


def _traced_repr(definition: Definition, recorded: RecordedSource) -> list[Source]:
    """Return the methods that print a module as torch.fx prints it."""
    methods = []
    if definition.ident != recorded.fx_name:
        name = string(recorded.fx_name or "")
        methods.append(Source(["    def _get_name(self):", f"        return {name}"]))
    if recorded.fx_code is not None:
        source = Source(["    def __str__(self):"])
        lines = [Literal(string(line)) for line in (*recorded.fx_code.split("\n"), READABLE_HINT)]
        content = Sequence("[]", [CallExpr("super().__str__"), *lines])
        source.add_expr("return ", CallExpr('"\\n".join', [(None, content)]), "", 8)
        methods.append(source)
    return methods


def _unrecorded_method(definition: Definition, name: str) -> Source:
    source = Source([f"    def {name}(self, *args, **kwargs):"])
    _add_refusal(source, f"the file does not record {definition.ident}.{name}", 8)
    return source


def _add_refusal(source: Source, message: str, indent: int) -> None:
    error = CallExpr("NotImplementedError", [(None, Literal(string(message)))])
    source.add_expr("raise ", error, "", indent)


def _add_warning(source: Source, message: str, indent: int) -> None:
    args: list[Argument] = [(None, Literal(string(message))), ("stacklevel", Literal("2"))]
    source.add_expr("", CallExpr("warnings.warn", args), "", indent)


def _forward(definition: Definition, inferred: InferredClass, guess: bool) -> Source:
    recorded, ident = definition.recorded, definition.ident
    if recorded is not None and recorded.lines:
        source = Source(names=recorded.names)
        source.add(
            "    # fmt: off",
            "    # Source from the file itself: read it before you call it.",
        )
        for name in recorded.unknown_names:
            source.add(f"    # {name} comes from a module that the stub does not import")
        source.add(*(f"    {line}" if line else "" for line in recorded.lines), "    # fmt: on")
        return source
    source = Source(["    def forward(self, *args, **kwargs):"])
    base = inferred.base_text
    children = [statement for statement in inferred.statements if statement.kind == CHILD]
    if base is not None:
        source.add(
            f"        # inferred: {ident} has the members of {base}, but may work differently"
        )
        _add_warning(source, f"{ident}.forward is inferred to be that of {base}", 8)
        source.add("        return super().forward(*args, **kwargs)")
    elif guess and children:
        source = Source(["    def forward(self, x):"])
        source.add("        # guessed: one child after the other")
        _add_warning(source, f"{ident}.forward is guessed: its children in order", 8)
        source.add("        for child in self.children():", "            x = child(x)")
        source.add("        return x")
    else:
        for child in children[:MAX_LISTED_CHILDREN]:
            source.add(f"        # {prose(child.name)}: {_layer_signature(child.expr)}")
        if recorded is not None and recorded.has_forward:
            _add_refusal(source, f"the source of {ident}.forward is left out here", 8)
        else:
            _add_refusal(source, f"the file does not record {ident}.forward", 8)
    return source


def _layer_signature(expr: Expr) -> str:
    """Return `Linear, (*, 2) -> (*, 1)`."""
    call = resolve(expr)
    if not isinstance(call, CallExpr | ModuleContainer):
        return f"the argument {prose(call.text)}"
    name = call.func.rpartition(".")[2]
    args = {k: prose(v.text) for k, v in call.args} if isinstance(call, CallExpr) else {}
    shapes = ""
    if name == "Linear" and {"in_features", "out_features"} <= set(args):
        shapes = f"(*, {args['in_features']}) -> (*, {args['out_features']})"
    elif name.startswith("Conv") and {"in_channels", "out_channels"} <= set(args):
        dims = _CONVOLVED_DIMS.get(name[-2:], "...")
        out = ", ".join(f"{dim}'" for dim in dims.split(", "))
        shapes = f"(N, {args['in_channels']}, {dims}) -> (N, {args['out_channels']}, {out})"
    elif name == "Embedding" and "embedding_dim" in args:
        shapes = f"(*) of indices -> (*, {args['embedding_dim']})"
    elif name in ("LSTM", "GRU", "RNN") and {"input_size", "hidden_size"} <= set(args):
        shapes = f"sequences of {args['input_size']} -> of {args['hidden_size']}, and a state"
    return f"{name}, {shapes}" if shapes else name


# Other definitions


def _function(definition: Definition) -> Source:
    ident, usage = definition.ident, definition.usage
    source = Source([f"def {ident}(*args, **kwargs):"])
    if definition.is_hook:
        _add_hook_body(source, definition, 4)
    elif usage is not None and usage.called:
        source.add(f"    return _Result({ident}, *args, **kwargs)")
        source.read("_Result")
    else:
        _add_refusal(source, f"the file does not record {ident}", 4)
    return source


def _add_hook_body(source: Source, definition: Definition, indent: int) -> None:
    # state_dict() calls the hook, and returns the state_dict without it all the same.
    message = f"the file does not record {definition.ident}: this hook does nothing"
    _add_warning(source, message, indent)


def _enum(definition: Definition) -> Source:
    """Return an enum with the members that the file names, or whose values it has."""
    usage = definition.usage or NameUsage("", "")
    base = "enum.Flag" if usage.is_flag else "enum.Enum"
    source = Source([f"class {definition.ident}({base}):"], ["enum"])
    if usage.called:
        source.add("    # inferred: the names; only the values are recorded")
    named = [
        name
        for name in usage.attributes
        if (name.isupper() or usage.is_flag)
        and is_attribute(name)
        and not name.startswith("_")
        and name != "mro"
    ]
    names = Names({"name", "value", "mro", *named})
    values: set[str] = set()
    for call in usage.called:
        expr = literal(call.args[0]) if call.args else None
        if expr is None or expr.text in values:
            continue
        values.add(expr.text)
        value = call.args[0]
        word = str(value) if isinstance(value, str) else f"VALUE_{value}".replace("-", "MINUS_")
        source.add_assignment(names.new(word.upper().strip("_") or "VALUE", "VALUE"), expr, 4)
    source.add(*(f"    {name} = enum.auto()" for name in named))
    if not values and not named:
        source.add("    pass")
    return source


def _subclass(definition: Definition) -> Source:
    """Return a class that extends a built-in class or torch.Tensor."""
    usage = definition.usage or NameUsage("", "")
    base = _BASES[definition.kind]
    methods: list[Source] = []
    if definition.kind == "tuple" and any(len(call.args) != 1 for call in usage.constructed):
        methods.append(TUPLE_NEW_METHODS)
    if definition.kind in ("dict", "list", "set") and usage.has_call_arguments:
        methods.append(INIT_METHOD)
    if usage.is_wrapper:
        dispatch = Source(["    @classmethod"])
        dispatch.add("    def __torch_dispatch__(cls, func, kinds, args=(), kwargs=None):")
        name = f"{definition.ident}.__torch_dispatch__"
        _add_refusal(dispatch, f"the file does not record {name}", 8)
        methods.append(dispatch)
    methods += [_unrecorded_method(definition, name) for name in definition.methods]
    source = _join(f"class {definition.ident}({base}):", methods)
    source.read(base)
    return source


def _object(definition: Definition, inferred: InferredClass) -> Source:
    usage = definition.usage or NameUsage("", "")
    methods: list[Source] = []
    if inferred.statements:
        init = _signature(inferred.parameters, usage.has_call_arguments)
        for statement in inferred.statements:
            _add_init_statement(init, statement)
        methods.append(init)
    elif usage.has_call_arguments:
        methods.append(INIT_METHOD_KEEPING_ARGUMENTS)
    if usage.has_new_arguments:
        methods.append(NEW_METHOD)
    if any(not _is_plain_state(call.state) for call in usage.calls):
        methods.append(SETSTATE_METHOD)
    if definition.is_hook:
        hook = Source(["    def __call__(self, *args, **kwargs):"])
        _add_hook_body(hook, definition, 8)
        methods.append(hook)
    if any(call.changes is not None and call.changes.items for call in usage.calls):
        methods.append(ITEM_METHODS)
    methods += [_unrecorded_method(definition, name) for name in definition.methods]
    return _join(f"class {definition.ident}:", methods)


def _is_plain_state(state: object) -> bool:
    """Return True if pickle can set a state without a `__setstate__`."""
    if isinstance(state, tuple) and len(state) == 2:
        return all(part is None or isinstance(part, dict) for part in state)
    return state is None or isinstance(state, dict)
