"""Judge what a pickle imports and what it calls, by the policy and the rules for arguments.

An allowed name is only as safe as its arguments. A callable that calls, creates or loads its
arguments has a rule here, which judges these in turn.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.numpy_objects import REBUILDERS_FROM_TYPE
from ptinspect.pickling.pyobjects import RECONSTRUCTORS, function_path, resolve_global
from ptinspect.pickling.source_text import describe
from ptinspect.pickling.values import Blob, Call, Extension, Global, Inert, OutOfBand, PersistentId
from ptinspect.safety import policy, values
from ptinspect.safety.report import CLEAN, DANGEROUS, SEVERITY, UNKNOWN
from ptinspect.safety.shapes import Shapes, block_exceeds_table, parse_shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.pickling.values import Value

_CREATING = ("NEWOBJ", "CLASS")
SHAPE_LETTERS = {"REDUCE": "R", "NEWOBJ": "N", "NEWOBJ_EX": "N", "CLASS": "C"}
_UNDEFINED_FUNCTION = "sympy.core.function._rebuild_undef"
_MAX_EXAMINED = 64  # arguments of a call of another shape that are examined
_SLOW_KINDS = re.compile(r"\[|\*|hashable|index|class|codec|pickle|!|&")


class Judgement(NamedTuple):
    """The verdict on one import or call.

    Attributes:
        verdict: "clean", "unknown" or "dangerous".
        name: the name that the verdict is about.
        reason: the explanation, in words.
        payload: bytes that the call would load as a file, for the caller to scan. A text has one
            byte per character.
    """

    verdict: str
    name: str = ""
    reason: str = ""
    payload: bytes | Blob | str | None = None


HARMLESS = Judgement(CLEAN)


def resolve_callable(func: Value) -> Value:
    """Return the global that a callable resolves to, or the callable itself."""
    if isinstance(func, Call) and function_path(func) == "cloudpickle.cloudpickle._builtin_type":
        return Global("types", str(func.args[0]), func.offset) if func.args else func
    return resolve_global(func, values.MAX_DEPTH) or func


# --- names --------------------------------------------------------------------------------


def judge_import(target: Value) -> Judgement:
    """Judge a name that is imported and not (yet) called.

    Args:
        target: a Global, an Extension, or a pair of module and name if a call computes one of them.
    """
    if isinstance(target, Extension):
        reason = "an extension code: its meaning depends on the machine that loads the file"
        return Judgement(UNKNOWN, f"copyreg.extension_{target.code}", reason)
    if isinstance(target, tuple):
        for value in target:
            func = value.func if isinstance(value, Call) and value.opcode == "NEWOBJ" else None
            if not isinstance(value, str | Inert) or (
                isinstance(func, Global)
                and policy.is_known_package(func.module)
                and policy.is_class_name(func.name)
            ):
                return HARMLESS  # not a text, but an object: pickle stops here
        return Judgement(DANGEROUS, "STACK_GLOBAL", "imports a name that the file computes")
    if not isinstance(target, Global) or policy.is_listed(target.module, target.name):
        return HARMLESS
    row = policy.policy_row(target.module, target.name)
    if row is None:
        return Judgement(UNKNOWN, target.path, _unlisted_reason(target))
    verdict = DANGEROUS if row.verdict == "dangerous" else UNKNOWN
    return Judgement(verdict, target.path, row.reason)


def _unlisted_reason(name: Global) -> str:
    if policy.is_stdlib(name.module):
        return "belongs to the standard library, but is not on the allowlist"
    package = name.module.partition(".")[0]
    if policy.is_known_package(package):
        return f"belongs to the package {package}, but is not on the allowlist"
    if package == "__torch__":
        return "its class is TorchScript code in the archive"
    return f"needs your own class `{name.path}`"


# --- calls --------------------------------------------------------------------------------

_BASES = policy.listed_words("builtin bases")


def judge_call(
    func: Value,
    args: tuple[Value, ...],
    how: str,
    depth: int = values.MAX_DEPTH,
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
    row = policy.policy_row(func.module, func.name)
    if func.path == "builtins.type" and how == "REDUCE" and len(args) == 1:
        return HARMLESS  # type(None): only three arguments create a class
    if row is None or row.verdict == "reference":
        return _judge_unlisted(func, args, how)
    if (
        row.verdict == "acts"
        and how in _CREATING
        and (not args or row.name.endswith(".*"))
        and (
            policy.is_known_package(func.module)
            or policy.is_plain_class(func.module, func.name, True)
        )
    ):
        return Judgement(UNKNOWN, func.path, "creates an object without its constructor")
    if row.verdict in ("acts", "dangerous"):
        return Judgement(DANGEROUS, func.path, row.reason)
    if row.verdict == "unknown" and not row.shapes:
        return Judgement(UNKNOWN, func.path, row.reason)
    return _judge_listed(func, args, how, depth, keywords, row)


def _judge_unlisted(func: Global, args: Value, how: str) -> Judgement:
    """Judge a call of a name that the policy does not list, or only as a value.

    Only functions act: the constructor of a class is dangerous if the policy lists it.
    """
    if values.runs_source(func, args):
        return Judgement(DANGEROUS, func.path, RUNS_SOURCE)
    if any(map(policy.is_special, func.name.split("."))):
        return Judgement(DANGEROUS, func.path, "accesses an object's special attributes")
    if policy.is_stdlib(func.module):
        if policy.is_plain_class(func.module, func.name, how.startswith(_CREATING)):
            return Judgement(UNKNOWN, func.path, "creates an object of the standard library")
        reason = "a callable of the standard library that is not on the allowlist"
        return Judgement(DANGEROUS, func.path, reason)
    if policy.is_known_package(func.module):
        package = func.module.partition(".")[0]
        is_plain = policy.is_plain_class(func.module, func.name, creates=False)
        if how.startswith("NEWOBJ") or is_plain or policy.is_class_name(func.name):
            return Judgement(UNKNOWN, func.path, f"creates an object of the package {package}")
        reason = f"a function of the package {package} that is not on the allowlist"
        return Judgement(DANGEROUS, func.path, reason)
    return Judgement(UNKNOWN, func.path, _unlisted_reason(func))


RUNS_SOURCE = "runs a text that it gets as Python source"


def _judge_listed(
    func: Global, args: tuple[Value, ...], how: str, depth: int,
    keywords: dict[Value, Value] | None, row: policy.PolicyRow,
) -> Judgement:  # fmt: skip
    """Judge a call of a callable with shapes: its own writer's calls, and all others."""
    shapes = parse_shapes(row.shapes)
    for arg in args[:3] if shapes.methods else ():
        method = values.overridden_method(arg, shapes.methods)
        if method is not None:
            reason = f"calls {method}() of its argument, a method that the file has replaced"
            return Judgement(DANGEROUS, func.path, reason)
    shape = None
    if not keywords and not how.endswith("*"):
        shape = shapes.find_call(args, SHAPE_LETTERS.get(how, "R" if args else "N"))
    if shape is None:
        if keywords and shapes.keywords_act:
            reason = f"gets {describe(args, keywords)}, with which it can reach any memory"
            return Judgement(DANGEROUS, func.path, reason)
        return _judge_other_shape(func, (*args, *(keywords or {}).values()), how, depth, row)
    if shape.acts:
        return Judgement(DANGEROUS, func.path, row.reason)
    for index, kind in shape.judged:
        if kind == "pickle":  # bytes that the callable loads: judged as a file of their own
            payload = values.literal_bytes(args[index])
            if payload is None:
                return Judgement(DANGEROUS, func.path, "loads bytes that a call computes")
            if isinstance(payload, Blob) and payload.mutable:  # APPENDS can change it later
                reason = "loads a bytearray, whose content may change while the pickle runs"
                return Judgement(DANGEROUS, func.path, reason, payload)
            verdict = UNKNOWN if row.verdict == "unknown" else CLEAN
            return Judgement(verdict, func.path, row.reason, payload)
        if index < len(args) and isinstance(args[index], Inert):
            judgement = judge_call(args[index], (), "CLASS", depth - 1)
            if judgement.verdict != CLEAN:
                return judgement
    if func.path in RULES:
        return RULES[func.path](args, depth - 1)
    return Judgement(UNKNOWN, func.path, row.reason) if row.verdict == "unknown" else HARMLESS


@lru_cache(512)
def quick_shapes(module: str, name: str) -> Shapes:
    """Return the shapes of a callable in which a call is clean, without a look into wide values or
    into other calls."""
    row, path = policy.policy_row(module, name), f"{module}.{name}"
    if row is None or row.verdict not in ("allowed", "module"):
        return parse_shapes("")
    shapes = parse_shapes(row.shapes)
    if path in RULES or _SLOW_KINDS.search(row.shapes):
        calls = tuple(shape for shape in shapes.calls if shape.args(()) and not shape.acts)
        return shapes._replace(calls=calls)
    return shapes


def _judge_other_shape(
    func: Global, args: tuple[Value, ...], how: str, depth: int, row: policy.PolicyRow
) -> Judgement:
    """Judge a call of a shape that no writer uses: it acts if one of its arguments does."""
    if row.verdict == "unknown" or (how.endswith("*") and func.path in RULES):
        return Judgement(DANGEROUS, func.path, f"{how} with {describe(args)} acts")
    for arg in args[:_MAX_EXAMINED]:
        if isinstance(resolve_callable(arg), Global):
            judgement = judge_call(arg, (), "REDUCE", depth - 1)
            if judgement.verdict == DANGEROUS:
                return judgement
    reason = f"{how} with {describe(args)}: no writer calls it so"
    if row.verdict == "module":
        reason = "runs the constructor of a module of torch.nn"
    elif how.endswith("*"):
        reason = "gets its arguments from a call"
    return Judgement(UNKNOWN, func.path, reason)


def _judge_reconstruction(func: Global, args: tuple[Value, ...], depth: int) -> Judgement:
    """Judge copyreg's helpers, with which older protocols write NEWOBJ and NEWOBJ_EX."""
    if func.name == "__newobj__":
        return judge_call(args[0], args[1:], "NEWOBJ", depth - 1)
    if func.name == "__newobj_ex__" and len(args) == 3:
        cls, inner, keywords = args
        if isinstance(inner, tuple) and isinstance(keywords, dict):
            return judge_call(cls, inner, "NEWOBJ", depth - 1, keywords)
    if func.name != "_reconstructor" or len(args) != 3:
        other = Judgement(UNKNOWN, "copyreg", "creates an object as no writer does")
        return _worst(judge_call(args[0], (), "NEWOBJ", depth - 1), other)
    base, state = args[1:]  # `base.__new__(cls, state)`, and `base.__init__`
    name = base.name if isinstance(base, Global) and base.module == "builtins" else ""
    if name not in _BASES:
        judgement = judge_call(args[0], (), "NEWOBJ", depth - 1)
        return _worst(judgement, judge_call(base, (state,), "REDUCE", depth - 1))
    inner = () if name == "object" and state is None else (state,)
    if name == "tuple" and isinstance(state, tuple):
        inner = state
    return judge_call(args[0], inner, "NEWOBJ", depth - 1)


def _worst(*judgements: Judgement) -> Judgement:
    return max(judgements, key=lambda each: SEVERITY[each.verdict])


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
    if name == _UNDEFINED_FUNCTION and isinstance(callee, Global):  # a class, as f(x) pickles it
        return _judge_unlisted(callee, args, "NEWOBJ")
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
    if (
        not isinstance(cls, Global)
        or policy.is_stdlib(cls.module)
        or policy.is_known_package(cls.module)
    ):
        return False
    return policy.policy_row(cls.module, cls.name) is None


def _judge_new(
    func: Global, args: tuple[Value, ...], depth: int, keywords: dict[Value, Value] | None
) -> Judgement:
    """Judge `cls.__new__(cls, …)`, as protocols 2 and 3 write __getnewargs_ex__."""
    owner = Global(func.module, func.name.removesuffix(".__new__"), func.offset)
    cls = resolve_callable(args[0])
    if isinstance(cls, Global) and cls.path == owner.path:
        return judge_call(owner, args[1:], "NEWOBJ", depth - 1, keywords)
    return Judgement(DANGEROUS, func.path, "creates an object of another class")


# --- rules for callables that call, create or load their arguments ------------------------


def _rebuild_from_type(args: tuple[Value, ...], depth: int) -> Judgement:
    """torch._tensor._rebuild_from_type(_v2)(func, type, args, state): calls func(*args)."""
    func = resolve_callable(args[0])
    if isinstance(func, Global) and policy.is_stdlib(func.module):
        reason = "is called to create a tensor, but does not return one"
        return Judgement(DANGEROUS, func.path, reason)
    assert isinstance(args[2], tuple)
    return judge_call(args[0], args[2], "REDUCE", depth)


def _getattr(args: tuple[Value, ...], depth: int) -> Judgement:
    """Bound methods and enum members: unknown, unless a special attribute or a module is reached.

    A call of the result is judged as the call of a result.
    """
    name = "builtins.getattr"
    target, attribute = resolve_callable(args[0]), args[1]
    assert isinstance(attribute, str)
    if not attribute.isidentifier():
        return Judgement(DANGEROUS, name, "accesses something other than a plain attribute")
    if policy.is_special(attribute) and attribute != "__new__":
        return Judgement(DANGEROUS, name, "accesses an object's special attributes")
    if isinstance(target, Global):
        row = policy.policy_row(target.module, f"{target.name}.{attribute}")
        is_member = policy.is_known_package(target.module) and policy.is_class_name(target.name)
        forbidden = ("dangerous",) if is_member else ("acts", "dangerous")
        if row is not None and row.verdict in forbidden:
            return Judgement(DANGEROUS, f"{target.path}.{attribute}", row.reason)
        owner = policy.load_policy().row(target.module, target.name)
        is_class = owner is not None and owner.verdict == "allowed"  # such as datetime.datetime
        is_module = policy.is_stdlib(target.name) and not is_class
        if is_module or (owner is None and policy.is_stdlib(target.module)):
            return Judgement(DANGEROUS, name, f"accesses the module {target.path}")
    elif isinstance(target, Extension | PersistentId | OutOfBand):
        return Judgement(DANGEROUS, name, "accesses an object from outside the file")
    return Judgement(UNKNOWN, name, "a bound method or a member of an enum; it is not called")


def _block_manager(args: tuple[Value, ...], depth: int) -> Judgement:
    if not block_exceeds_table(args):
        return HARMLESS
    reason = "the place of a block in its table is not known, or outside of it"
    return Judgement(UNKNOWN, "pandas.core.internals.managers.BlockManager", reason)


RULES: dict[str, Callable[[tuple[Value, ...], int], Judgement]] = {
    "builtins.getattr": _getattr,
    "pandas.core.internals.managers.BlockManager": _block_manager,
    "pandas.core.internals.managers.SingleBlockManager": _block_manager,
    **dict.fromkeys(REBUILDERS_FROM_TYPE, _rebuild_from_type),
}
"""Judge the arguments of a call, to a depth, by the callable's name."""
