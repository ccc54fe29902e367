"""Write classes and functions as source."""

from __future__ import annotations

from collections.abc import Iterable

from ptinspect.stubs.collect.definitions import Definition, Names, NameUsage
from ptinspect.stubs.collect.modules import MODULE_METHODS
from ptinspect.stubs.collect.source import (
    FALSE,
    NONE,
    WIDTH,
    Access,
    CallExpr,
    Expr,
    Literal,
    ModuleContainer,
    Sequence,
    Source,
    call_expr,
    columns,
    has_placeholder,
    names_in,
    resolve,
    templates,
)
from ptinspect.stubs.collect.values import is_attribute, literal, prose, string, text_literal
from ptinspect.stubs.infer.anti_unify import InitStatement
from ptinspect.stubs.infer.constructors import Assignment, InferredClass
from ptinspect.torchnn.printer import READABLE_HINT

_BASES = {
    "tuple": "tuple", "str": "str", "int": "int", "float": "float", "bytes": "bytes",
    "dict": "dict", "list": "list", "set": "set", "exception": "Exception",
    "tensor": "torch.Tensor", "tracer": "torch.fx.Tracer",
}  # fmt: skip
_IN_AND_OUT = {
    "Linear": "(*, {in_features}) -> (*, {out_features})",
    "Conv1d": "(N, {in_channels}, L) -> (N, {out_channels}, L')",
    "Conv2d": "(N, {in_channels}, H, W) -> (N, {out_channels}, H', W')",
    "Conv3d": "(N, {in_channels}, D, H, W) -> (N, {out_channels}, D', H', W')",
    "Conv": "(N, {in_channels}, ...) -> (N, {out_channels}, ...')",
    "Embedding": "(*) of indices -> (*, {embedding_dim})",
    **dict.fromkeys(
        ("LSTM", "GRU", "RNN"), "sequences of {input_size} -> of {hidden_size}, and a state"
    ),
}
"""Shapes of a layer's input and output, by its class and with its arguments."""
MAX_LISTED_CHILDREN = 100
"""Children that are listed in a comment in forward."""


def write_definition(
    definition: Definition, inferred: InferredClass, guess_forward: bool
) -> Source:
    """Return the source of a class or function."""
    kind, ident = definition.kind, definition.ident
    if kind == "function":
        return _function(definition)
    if kind == "enum":
        return _enum(definition)
    base = (inferred.base_text or "nn.Module") if kind == "module" else _BASES.get(kind)
    unrecorded = [_unrecorded_method(ident, name) for name in definition.methods]
    if kind == "module":
        methods = [
            _init(definition, inferred),
            *_new_method(definition.usage),
            *unrecorded,
            *_traced_repr(definition),
            *([templates()["module_setstate_method"]] if definition.restores_itself else []),
            *([templates()["extra_state_methods"]] if definition.has_extra_state else []),
            _forward(definition, inferred, guess_forward),
        ]
    elif base is not None:
        usage, methods = definition.usage, unrecorded
        if usage.is_wrapper:
            name, parameters = "__torch_dispatch__", "cls, func, kinds, args=(), kwargs=None"
            dispatch = _unrecorded_method(ident, name, parameters)
            dispatch.lines.insert(0, "    @classmethod")
            methods = [dispatch, *methods]
        if kind in ("dict", "list", "set") and usage.has_call_arguments:
            methods = [templates()["init_method"], *methods]
        if kind == "tuple" and any(len(call.args) != 1 for call in usage.constructed):
            methods = [templates()["tuple_new_methods"], *methods]
    else:
        methods = [*_object_methods(definition, inferred), *unrecorded]
    source = Source([f"class {ident}({base}):" if base else f"class {ident}:"])
    source.read(*([base] if base else []))
    written = [method for method in methods if method.lines]
    for index, method in enumerate(written):
        source.add(*([""] if index else []))
        source.extend(method)
    if not written:
        source.add("    pass")
    return source


def _new_method(usage: NameUsage) -> list[Source]:
    """Return `__new__` if pickle passes it arguments."""
    takes_arguments = "__new__" in usage.attributes or any(
        call.args or call.kwargs
        for call in usage.constructed
        if call.opcode in ("NEWOBJ", "NEWOBJ_EX")
    )
    return [templates()["new_method"]] if takes_arguments else []


# Modules


def _init(definition: Definition, inferred: InferredClass) -> Source:
    """Return the constructor; without lines if it would do nothing."""
    post_init, call = inferred.post_init or [], inferred.base_call
    if not (inferred.parameters or inferred.statements or call or post_init):
        return Source()
    source, body = Source(), Source()
    texts = ["self"]
    for name, default, default_in_body in inferred.parameters:
        if default is None:
            texts.append(name)
        elif default_in_body:
            texts.append(f"{name}=...")
            body.add(f"        if {name} is ...:")
            body.add_assignment(name, default, 12)
        else:
            texts.append(f"{name}={default.text}")
            source.read(*names_in(default))
    if definition.usage.has_call_arguments:
        texts += ["*args", "**kwargs"]
    line = f"    def __init__({', '.join(texts)}):"
    if columns(line) <= WIDTH:
        source.add(line)
    else:
        inside = f"        {', '.join(texts)}"
        on_one_line = columns(inside) <= WIDTH and definition.usage.has_call_arguments
        lines = [inside] if on_one_line else [f"        {text}," for text in texts]
        source.add("    def __init__(", *lines, "    ):")
    source.extend(body)
    if call is not None:
        source.add_expr("", CallExpr("super().__init__", call.args, call.positional), 8)
    elif definition.kind == "module":
        source.add("        super().__init__()")
    children = {item.name for item in inferred.statements if item.kind == "child"}
    for statement in inferred.statements:
        # A bitsandbytes weight is a tensor, and has tensors below: `weight`, `weight.absmax`.
        is_child_too = statement.kind in ("parameter", "buffer") and statement.name in children
        _add_init_statement(source, statement, is_child_too)
    source.extend(write_assignments(post_init, 8))
    return source


def _add_init_statement(source: Source, statement: InitStatement, is_child_too: bool) -> None:
    """Append the statement that sets an attribute, child, parameter or buffer of `self`."""
    indent, name, expr = 8, statement.name, statement.expr
    if statement.condition is not None:
        source.add(f"        if {statement.condition}:")
        indent = 12
    if expr.depth and has_placeholder(expr):
        source.add(f"{' ' * indent}# zeros instead of the file's numbers")
    key = string(name)
    may_register = is_attribute(name) and name not in MODULE_METHODS and not is_child_too
    args: list[Expr] = [Literal(key), expr]
    if statement.kind in ("attribute", "late"):
        plain = is_attribute(name) and statement.plain
        source.add_assignment(f"self.{name}" if plain else f"vars(self)[{key}]", expr, indent)
    elif statement.kind == "buffer" and may_register:
        persistent = {} if statement.plain else {"persistent": FALSE}
        source.add_expr("", call_expr("self.register_buffer", *args, **persistent), indent)
    elif statement.kind == "buffer":
        source.add_assignment(f"self._buffers[{key}]", expr, indent)
        if not statement.plain:
            source.add(f"{' ' * indent}self._non_persistent_buffers_set.add({key})")
    elif statement.may_be_none and may_register:
        method = "register_parameter" if statement.kind == "parameter" else "add_module"
        source.add_expr("", call_expr(f"self.{method}", *args), indent)
    elif expr.text != "None" and may_register:
        source.add_assignment(f"self.{name}", expr, indent)
    else:
        store = "_parameters" if statement.kind == "parameter" else "_modules"
        source.add_assignment(f"self.{store}[{key}]", expr, indent)


def write_assignments(assignments: Iterable[Assignment], indent: int) -> Source:
    """Return the statements that follow the construction of a model."""
    source = Source()
    blank = " " * indent
    for target, suffix, value, for_all_modules in assignments:
        if target is None:
            source.add_expr("", value or NONE, indent)
            continue
        if for_all_modules:
            source.add(f"{blank}for module in {target.text}.modules():")
            source.add_assignment(f"    module{suffix}", value or NONE, indent)
            source.read(target.name())
            continue
        # With `get_submodule` where the line would be too long.
        source.read(target.name(), *(names_in(value) if value is not None else ()))
        text = f"{target.text}{suffix}"
        split_value = None
        if isinstance(value, Access) and columns(f"{blank}{text} = {value.text}") > WIDTH:
            split_value = value.split_submodule_path()
        stays_on_line = value is not None and not value.brackets()[1] and split_value is None
        start = value.text if value is not None and stays_on_line else "model.get_submodule("
        split = (
            target.split_submodule_path() if columns(f"{blank}{text} = {start}") > WIDTH else None
        )
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
            source.add_assignment(text, value, indent)
    return source


def _traced_repr(definition: Definition) -> list[Source]:
    """Return the methods that print a module as torch.fx prints it."""
    methods = []
    recorded = definition.recorded
    if recorded.fx_name is not None and definition.ident != recorded.fx_name:
        name = string(recorded.fx_name)
        methods.append(Source(["    def _get_name(self):", f"        return {name}"]))
    if recorded.fx_code is not None:
        source = Source(["    def __str__(self):"])
        lines = [text_literal(line) for line in (*recorded.fx_code.split("\n"), READABLE_HINT)]
        content = Sequence("[]", [call_expr("super().__str__"), *lines])
        source.add_expr("return ", call_expr('"\\n".join', content), 8)
        methods.append(source)
    return methods


def _forward(definition: Definition, inferred: InferredClass, guess: bool) -> Source:
    recorded, ident, base = definition.recorded, definition.ident, inferred.base_text
    if recorded.lines:
        source = Source(["    # fmt: off"], set(recorded.names))
        source.add("    # Source from the file itself: read it before you call it.")
        for name in recorded.unknown_names:
            source.add(f"    # {name} comes from a module that the stub does not import")
        source.add(*(f"    {line}" if line else "" for line in recorded.lines), "    # fmt: on")
        return source
    children = [statement for statement in inferred.statements if statement.kind == "child"]
    is_guessed = guess and bool(children) and base is None
    arguments = "x" if is_guessed else "*args, **kwargs"
    source = Source([f"    def forward(self, {arguments}):"])
    if base is not None:
        words = f"inferred: {ident} has the members of {base}, but may work differently"
        source.add(f"        # {words}")
        _add_warning(source, f"{ident}.forward is inferred to be that of {base}", 8)
        source.add("        return super().forward(*args, **kwargs)")
    elif is_guessed:
        source.add("        # guessed: one child after the other")
        _add_warning(source, f"{ident}.forward is guessed: its children in order", 8)
        source.add("        for child in self.children():", "            x = child(x)")
        source.add("        return x")
    else:
        for child in children[:MAX_LISTED_CHILDREN]:
            source.add(f"        # {prose(child.name)}: {_layer_signature(child.expr)}")
        is_left_out = f"the source of {ident}.forward is left out here"
        is_unknown = f"the file does not record {ident}.forward"
        _add_refusal(source, is_left_out if recorded.has_forward else is_unknown, 8)
    return source


def _layer_signature(expr: Expr) -> str:
    """Return `Linear, (*, 2) -> (*, 1)`."""
    call = resolve(expr)
    if not isinstance(call, CallExpr | ModuleContainer):
        return f"the argument {prose(call.text)}"
    name = call.func.rpartition(".")[2]
    args = {k: prose(v.text) for k, v in call.args if k} if isinstance(call, CallExpr) else {}
    shapes = _IN_AND_OUT.get(name, "")
    if name.startswith("Conv"):
        shapes = _IN_AND_OUT.get(f"Conv{name[-2:]}", _IN_AND_OUT["Conv"])
    try:
        return f"{name}, {shapes.format(**args)}" if shapes else name
    except KeyError:  # an argument that is not in the call
        return name


# Other definitions


def _function(definition: Definition) -> Source:
    ident = definition.ident
    source = Source([f"def {ident}(*args, **kwargs):"])
    if definition.is_hook:
        _add_hook_body(source, ident, 4)
    elif definition.usage.called:
        source.add(f"    return _Result({ident}, *args, **kwargs)")
        source.read("_Result")
    else:
        _add_refusal(source, f"the file does not record {ident}", 4)
    return source


def _enum(definition: Definition) -> Source:
    """Return an enum with the members that the file names, or whose values it has."""
    usage = definition.usage
    base = "enum.Flag" if usage.is_flag else "enum.Enum"
    source = Source([f"class {definition.ident}({base}):"], {"enum"})
    if usage.called:
        source.add("    # inferred: the names; only the values are recorded")
    named = [
        name
        for name in usage.attributes
        if (name.isupper() or usage.is_flag) and is_attribute(name) and name[0] != "_"
    ]
    named = [name for name in named if name != "mro"]
    names = Names({"name", "value", "mro", *named})
    written = set()
    for value in (call.args[0] for call in usage.called if call.args):
        expr = literal(value)
        if expr is None or expr.text in written:
            continue
        written.add(expr.text)
        word = str(value) if isinstance(value, str) else f"VALUE_{value}".replace("-", "MINUS_")
        source.add_assignment(names.new(word.upper().strip("_") or "VALUE", "VALUE"), expr, 4)
    source.add(*(f"    {name} = enum.auto()" for name in named))
    if not written and not named:
        source.add("    pass")
    return source


def _object_methods(definition: Definition, inferred: InferredClass) -> list[Source]:
    usage = definition.usage
    methods: list[Source] = []
    if inferred.statements:
        methods.append(_init(definition, inferred))
    elif usage.has_call_arguments:
        methods.append(templates()["init_method_keeping_arguments"])
    methods += _new_method(usage)
    if definition.restores_itself:
        methods.append(templates()["setstate_method"])
    if definition.is_hook:
        hook = Source(["    def __call__(self, *args, **kwargs):"])
        _add_hook_body(hook, definition.ident, 8)
        methods.append(hook)
    if any(call.items for call in usage.calls):
        methods.append(templates()["item_methods"])
    return methods


# Bodies


def _unrecorded_method(ident: str, name: str, parameters: str = "self, *args, **kwargs") -> Source:
    source = Source([f"    def {name}({parameters}):"])
    _add_refusal(source, f"the file does not record {ident}.{name}", 8)
    return source


def _add_hook_body(source: Source, ident: str, indent: int) -> None:
    # state_dict() calls the hook, and returns the state_dict without it all the same.
    _add_warning(source, f"the file does not record {ident}: this hook does nothing", indent)


def _add_refusal(source: Source, message: str, indent: int) -> None:
    source.add_expr("raise ", call_expr("NotImplementedError", text_literal(message)), indent)


def _add_warning(source: Source, message: str, indent: int) -> None:
    call = call_expr("warnings.warn", text_literal(message), stacklevel=Literal("2"))
    source.add_expr("", call, indent)
