"""Judge what a pickle imports and what it calls, by the policy and the rules for arguments."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache, partial
from itertools import islice

from ptinspect.pickling.pyobjects import RECONSTRUCTORS
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    Inert,
    PersistentId,
    SetOf,
    Value,
    key_value,
)
from ptinspect.safety.analysis.call_rules import (
    HARMLESS,
    MAX_DEPTH,
    RULES,
    Judgement,
    is_class_name,
    is_special,
    resolve_callable,
    worst_judgement,
)
from ptinspect.safety.analysis.shapes import Shapes, describe, parse_shapes
from ptinspect.safety.policy import (
    PolicyRow,
    is_known_package,
    is_plain_class,
    is_stdlib,
    policy_row,
)
from ptinspect.safety.report import CLEAN, DANGEROUS, UNKNOWN

_TENSOR_METHODS = ("detach", "requires_grad_", "to", "numpy", "as_subclass")
_MAPPING_METHODS = ("keys", "items")
_CREATING = ("NEWOBJ", "CLASS")
_SHAPE_LETTERS = {"REDUCE": "R", "NEWOBJ": "N", "NEWOBJ_EX": "N", "CLASS": "C"}
_MAX_EXAMINED = 64
"""Arguments of a call of another shape that are examined."""

_SLOW_KINDS = re.compile(r"\[|\*|hashable|index|class|storage|!|_rebuild")

_OTHER_RECONSTRUCTION = Judgement(UNKNOWN, "copyreg", "creates an object as no writer does")

# By the name of an allowed callable: the methods of its arguments that it may call. Sources:
# torch/_utils.py; torch/nn/parameter.py (Parameter.__new__ calls data.detach()); and
# Objects/dictobject.c (dict_update_arg looks up keys()).
_METHODS_CALLED_BY = {
    "torch._utils._rebuild_parameter": _TENSOR_METHODS,
    "torch._utils._rebuild_parameter_with_state": _TENSOR_METHODS,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _TENSOR_METHODS,
    "torch.nn.parameter.Parameter": _TENSOR_METHODS,
    "torch.nn.parameter.Buffer": _TENSOR_METHODS,
    "torch.nn.Parameter": _TENSOR_METHODS,
    "builtins.dict": _MAPPING_METHODS,
    "collections.OrderedDict": _MAPPING_METHODS,
    "collections.defaultdict": _MAPPING_METHODS,
    "collections.Counter": _MAPPING_METHODS,
    "collections.UserDict": _MAPPING_METHODS,
}


# --- imports ------------------------------------------------------------------------------


def judge_import(target: Value) -> Judgement:
    """Judge a name that is imported and not (yet) called.

    Args:
        target: a Global, an Extension, or a pair of module and name if a call computes one of them.
    """
    if isinstance(target, Extension):
        reason = "an extension code: its meaning depends on the machine that loads the file"
        return Judgement(UNKNOWN, f"copyreg.extension_{target.code}", reason)
    if isinstance(target, tuple):
        if any(map(_is_not_text, target)):
            return HARMLESS  # pickle stops here
        return Judgement(DANGEROUS, "STACK_GLOBAL", "imports a name that the file computes")
    if not isinstance(target, Global):
        return HARMLESS
    row = policy_row(target.module, target.name)
    if row is None:
        return Judgement(UNKNOWN, target.path, _unlisted_reason(target))
    if row.verdict in ("allowed", "reference", "module"):
        return HARMLESS
    verdict = DANGEROUS if row.verdict == "dangerous" else UNKNOWN
    return Judgement(verdict, target.path, row.reason)


def _is_not_text(value: Value) -> bool:
    """Return True for a value that is no str, such as an object of a class of a known package."""
    if not isinstance(value, Call):
        return not isinstance(value, str | Inert)
    func = value.func if value.opcode == "NEWOBJ" else None
    return isinstance(func, Global) and is_known_package(func.module) and is_class_name(func.name)


def _unlisted_reason(name: Global) -> str:
    if is_stdlib(name.module):
        return "belongs to the standard library, but is not on the allowlist"
    if is_known_package(name.module):
        return f"belongs to the package {_package(name)}, but is not on the allowlist"
    if _package(name) == "__torch__":
        return "its class is TorchScript code in the archive"
    return f"needs your own class `{name.path}`"


def _package(name: Global) -> str:
    return name.module.partition(".")[0]


# --- calls --------------------------------------------------------------------------------

_BASES = frozenset(
    (  # noqa: SIM905
        "bool bytearray bytes complex dict float frozenset int list object set str tuple"
    ).split()
)
"""Builtin classes that an object of protocols 0 and 1 is made of. What else is made of an own
class is judged as a call of it."""


def judge_call(
    func: Value,
    args: tuple[Value, ...],
    how: str,
    depth: int = MAX_DEPTH,
    keywords: dict[Value, Value] | None = None,
) -> Judgement:
    """Judge a call.

    Args:
        func: what is called.
        args: its arguments.
        how: the opcode, or CLASS if another callable creates an object of it; with a star
            ("REDUCE*") if `args` is one object that would be unpacked.
        depth: how many levels of calls inside the arguments are followed.
        keywords: its keyword arguments.
    """
    func = resolve_callable(func)
    if depth <= 0:
        return Judgement(DANGEROUS, "call", "calls results of calls, too deeply nested to follow")
    if isinstance(func, Extension):
        return judge_import(func)
    if not isinstance(func, Global):
        return _judge_result_call(func, args, how, depth)
    if func.path in RECONSTRUCTORS and args and not how.endswith("*"):
        return _judge_reconstruction(func, args, depth)
    if func.name.endswith(".__new__") and args:
        return _judge_new(func, args, depth, keywords)
    row = policy_row(func.module, func.name)
    if func.path == "builtins.type" and how == "REDUCE" and len(args) == 1:
        return HARMLESS  # type(None): only three arguments create a class
    if row is None or row.verdict == "reference":
        if runs_source(func, args):
            return Judgement(DANGEROUS, func.path, RUNS_SOURCE)
        return _judge_unlisted(func, how)
    is_created = how in _CREATING and (not args or row.name.endswith(".*"))
    if row.verdict == "acts" and is_created and _is_created_quietly(func):
        return Judgement(UNKNOWN, func.path, "creates an object without its constructor")
    if row.verdict in ("acts", "dangerous"):
        return Judgement(DANGEROUS, func.path, row.reason)
    if row.verdict == "unknown" and not row.shapes:
        return Judgement(UNKNOWN, func.path, row.reason)
    return _judge_listed(func, args, how, depth, keywords, row)


RUNS_SOURCE = "runs a text that it gets as Python source"


def runs_source(func: Global, args: Value) -> bool:
    """Return True for a class of sympy with a text that could be a call: sympify() evaluates it."""
    if _package(func) != "sympy":
        return False
    seen: set[int] = set()
    todo = [args]
    while todo and len(seen) < _MAX_EXAMINED * _MAX_EXAMINED:
        value = todo.pop()
        if isinstance(value, str):
            if "(" in value:
                return True
        elif isinstance(value, tuple | list | dict | SetOf) and id(value) not in seen:
            seen.add(id(value))
            todo += value
            todo += value.values() if isinstance(value, dict) else ()
        elif isinstance(value, Call) and id(value) not in seen:
            seen.add(id(value))  # sympify() evaluates str(value) of what it does not know
            if not (isinstance(value.func, Global) and _package(value.func) == "sympy"):
                todo += (value.args, value.state)
    return False


def _is_created_quietly(func: Global) -> bool:
    """Return True for a class of which an object can be created without an action."""
    return is_known_package(func.module) or is_plain_class(func.module, func.name, creates=True)


def _judge_listed(
    func: Global,
    args: tuple[Value, ...],
    how: str,
    depth: int,
    keywords: dict[Value, Value] | None,
    row: PolicyRow,
) -> Judgement:
    """Judge a call of a callable with shapes: its own writer's calls, and all others."""
    shapes = parse_shapes(row.shapes)
    if func.path in _METHODS_CALLED_BY:
        method = _overridden_argument_method(func, args)
        if method is not None:
            reason = f"calls {method}() of its argument, a method that the file has replaced"
            return Judgement(DANGEROUS, func.path, reason)
    is_plain = not keywords and not how.endswith("*")
    shape = (
        shapes.find_call(args, _SHAPE_LETTERS.get(how, "R" if args else "N")) if is_plain else None
    )
    if shape is None:
        if keywords and shapes.keywords_act:
            reason = f"gets {describe(args, keywords)}, with which it can reach any memory"
            return Judgement(DANGEROUS, func.path, reason)
        return _judge_other_shape(func, (*args, *(keywords or {}).values()), how, depth, row)
    if shape.acts:
        return Judgement(DANGEROUS, func.path, row.reason)
    rule = RULES.get(func.path)
    for index in shape.classes:
        if index < len(args) and isinstance(args[index], Inert):
            judgement = judge_call(args[index], (), "CLASS", depth - 1)
            if judgement.verdict != CLEAN:
                return judgement
    if rule is None and row.verdict == "unknown":
        return Judgement(UNKNOWN, func.path, row.reason)
    return HARMLESS if rule is None else rule(args, partial(judge_call, depth=depth - 1))


@lru_cache(512)
def quick_shapes(module: str, name: str) -> Shapes:
    """Return the shapes of a callable that decide on its calls without a look into wide values or
    into other calls: all of them, or those without arguments."""
    row = policy_row(module, name)
    if row is None or row.verdict not in ("allowed", "module"):
        return parse_shapes("")
    shapes = parse_shapes(row.shapes)
    path = f"{module}.{name}"
    is_judged_further = path in RULES or path in _METHODS_CALLED_BY
    if is_judged_further or _SLOW_KINDS.search(row.shapes):
        calls = tuple(shape for shape in shapes.calls if shape.args(()) and not shape.acts)
        return shapes._replace(calls=calls)
    return shapes


def _judge_other_shape(
    func: Global, args: tuple[Value, ...], how: str, depth: int, row: PolicyRow
) -> Judgement:
    """Judge a call of a shape that no writer uses: it acts if one of its arguments does."""
    if row.verdict == "unknown" or (how.endswith("*") and func.path in RULES):
        return Judgement(DANGEROUS, func.path, f"{how} with {describe(args)} acts")
    for arg in args[:_MAX_EXAMINED]:
        if isinstance(resolve_callable(arg), Global):
            judgement = judge_call(arg, (), "REDUCE", depth - 1)
            if judgement.verdict == DANGEROUS:
                return judgement
    if row.verdict == "module":
        return Judgement(UNKNOWN, func.path, "runs the constructor of a module of torch.nn")
    if how.endswith("*"):
        return Judgement(UNKNOWN, func.path, "gets its arguments from a call")
    return Judgement(UNKNOWN, func.path, f"{how} with {describe(args)}: no writer calls it so")


def _judge_reconstruction(func: Global, args: tuple[Value, ...], depth: int) -> Judgement:
    """Judge copyreg's helpers, with which older protocols write NEWOBJ and NEWOBJ_EX."""
    if func.name == "__newobj__":
        return judge_call(args[0], args[1:], "NEWOBJ", depth - 1)
    if func.name == "__newobj_ex__" and len(args) == 3:
        cls, inner, keywords = args
        if isinstance(inner, tuple) and isinstance(keywords, dict):
            return judge_call(cls, inner, "NEWOBJ", depth - 1, keywords)
    if func.name != "_reconstructor" or len(args) != 3:
        judgement = judge_call(args[0], (), "NEWOBJ", depth - 1)
        return worst_judgement(judgement, _OTHER_RECONSTRUCTION)
    base, state = args[1:]  # `base.__new__(cls, state)`, and `base.__init__`
    name = base.name if isinstance(base, Global) and base.module == "builtins" else ""
    if name not in _BASES:
        judgement = judge_call(args[0], (), "NEWOBJ", depth - 1)
        return worst_judgement(judgement, judge_call(base, (state,), "REDUCE", depth - 1))
    inner = () if name == "object" and state is None else (state,)
    if name == "tuple" and isinstance(state, tuple):
        inner = state
    return judge_call(args[0], inner, "NEWOBJ", depth - 1)


def _judge_result_call(func: Value, args: tuple[Value, ...], how: str, depth: int) -> Judgement:
    """Judge the call of a result. A partial is judged by the function in it."""
    callee = resolve_callable(func.func) if isinstance(func, Call) else None
    name = callee.path if isinstance(callee, Global) else "call"
    if isinstance(func, Call) and name == "functools.partial" and how == "REDUCE":
        target, bound, keywords = (func.args[0] if func.args else None), func.args[1:], None
        state = func.state
        if isinstance(state, tuple) and len(state) > 2 and isinstance(state[1], tuple):
            target, bound, keywords = state[:3]
        keywords = keywords if isinstance(keywords, dict) else None
        judgement = judge_call(target, (*bound, *args), how, depth - 1, keywords)
        if judgement.verdict != CLEAN:
            return judgement
        return Judgement(UNKNOWN, name, "a call that is stored for later")
    if is_own_object(func):
        return Judgement(UNKNOWN, name, "calls an object of your own class")
    return Judgement(DANGEROUS, name, "calls the result of a call")


def is_own_object(value: Value) -> bool:
    """Return True for an object that NEWOBJ creates of a class that no package is known to have.

    Its methods are the user's own code. What a function returns may be anything.
    """
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return False
    cls: Value = value.func
    if value.func.path in RECONSTRUCTORS:
        cls = resolve_callable(value.args[0]) if value.args else None
    elif value.opcode != "NEWOBJ":
        return False
    if not isinstance(cls, Global) or is_stdlib(cls.module) or is_known_package(cls.module):
        return False
    return policy_row(cls.module, cls.name) is None


def _judge_new(
    func: Global, args: tuple[Value, ...], depth: int, keywords: dict[Value, Value] | None
) -> Judgement:
    """Judge `cls.__new__(cls, …)`, as protocols 2 and 3 write __getnewargs_ex__."""
    owner = Global(func.module, func.name.removesuffix(".__new__"), func.offset)
    cls = resolve_callable(args[0])
    if isinstance(cls, Global) and cls.path == owner.path:
        return judge_call(owner, args[1:], "NEWOBJ", depth - 1, keywords)
    return Judgement(DANGEROUS, func.path, "creates an object of another class")


def _judge_unlisted(func: Global, how: str) -> Judgement:
    """Judge a call of a name that the policy does not list, or only as a value.

    Only functions act: the constructor of a class is dangerous if the policy lists it.
    """
    if any(map(is_special, func.name.split("."))):
        return Judgement(DANGEROUS, func.path, "accesses an object's special attributes")
    if is_stdlib(func.module):
        if is_plain_class(func.module, func.name, how.startswith(_CREATING)):
            return Judgement(UNKNOWN, func.path, "creates an object of the standard library")
        reason = "a callable of the standard library that is not on the allowlist"
        return Judgement(DANGEROUS, func.path, reason)
    if is_known_package(func.module):
        package = _package(func)
        is_plain = is_plain_class(func.module, func.name, creates=False)
        if how.startswith("NEWOBJ") or is_plain or is_class_name(func.name):
            return Judgement(UNKNOWN, func.path, f"creates an object of the package {package}")
        reason = f"a function of the package {package} that is not on the allowlist"
        return Judgement(DANGEROUS, func.path, reason)
    return Judgement(UNKNOWN, func.path, _unlisted_reason(func))


# --- methods that the file replaces -------------------------------------------------------


def _overridden_argument_method(func: Global, args: tuple[Value, ...]) -> str | None:
    """Return a method that `func` would call on an argument and that the file has replaced."""
    methods = _METHODS_CALLED_BY.get(func.path, ())
    overridden = (_overridden_method(arg, methods) for arg in args[:3]) if methods else ()
    return next(filter(None, overridden), None)


def overridden_mapping_method(state: Value) -> str | None:
    """Return a mapping method that the file has replaced on a state that is not a dictionary.

    `__setstate__` would use such a state as a mapping.
    """
    return _overridden_method(state, _MAPPING_METHODS)


def _overridden_method(value: Value, methods: tuple[str, ...]) -> str | None:
    if not isinstance(value, Call):
        return None
    for state in (value.state, *value.args[:4]):  # set by BUILD, or by the call itself
        for attributes in state[:4] if isinstance(state, tuple) else (state,):
            if isinstance(attributes, dict):
                for name in methods:
                    if isinstance(attributes.get(name), Call | Global):
                        return name
    return None


# --- text of calls ------------------------------------------------------------------------

_DEPTH = 4
_ITEMS = 6
_STRING_LENGTH = 120
_CALL_LENGTH = 400


def call_repr(func: Value, args: Value, depth: int = _DEPTH) -> str:
    """Return a call as Python source: `posix.system('touch x')`."""
    items = args if isinstance(args, tuple) else (args,)
    text = f"{value_repr(func, depth - 1)}({_items_repr(items, depth)})"
    return text if len(text) <= _CALL_LENGTH else f"{text[:_CALL_LENGTH]}…"


def value_repr(value: Value, depth: int = _DEPTH) -> str:
    """Return any value as Python source; `…` replaces values nested deeper than `depth`."""
    if isinstance(value, Global):
        path = value.path
        return path if len(path) <= _STRING_LENGTH else f"{path[:_STRING_LENGTH]}…"
    if isinstance(value, str | bytes):
        text = value if isinstance(value, bytes) else str(value)
        return repr(text) if len(text) <= _STRING_LENGTH else f"{text[:_STRING_LENGTH]!r}…"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"<a number of {value.bit_length():,} bits>"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Blob):
        return f"<{value.length:,} bytes>"
    if isinstance(value, Extension):
        return f"<extension {value.code}>"
    if depth <= 0:
        return "…"
    if isinstance(value, Call):
        return call_repr(value.func, value.args, depth)
    if isinstance(value, PersistentId):
        return f"<{value_repr(value.value, depth - 1)}>"
    if isinstance(value, tuple):
        return f"({_items_repr(value, depth)}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{_items_repr(value, depth)}]"
    if isinstance(value, dict):
        pairs = [
            f"{value_repr(key_value(key), depth - 1)}: {value_repr(item, depth - 1)}"
            for key, item in islice(value.items(), _ITEMS)
        ]
        return "{" + ", ".join([*pairs, "…"] if len(value) > _ITEMS else pairs) + "}"
    if isinstance(value, SetOf):
        return f"<a set of {len(value):,}>"
    return "…"


def _items_repr(values: Collection[Value], depth: int) -> str:
    items = [value_repr(value, depth - 1) for value in islice(values, _ITEMS)]
    return ", ".join([*items, "…"] if len(values) > _ITEMS else items)
