"""What is to be thought of a name that is imported, and of a name that is called.

An allowed name is only as safe as its arguments: what calls, makes or loads what it is given
has a rule here, which asks the same question of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    OutOfBand,
    PersistentId,
    Python2Str,
    Value,
)
from ptinspect.safety.analysis.allocation import (
    EMPTY,
    MAKERS,
    TOO_MUCH,
    asks_too_much,
    elements,
    has_many_digits,
)
from ptinspect.safety.policy.table import Row, is_known, is_standard, policy, row_of

_GENERIC = ("typing", "typing_extensions", "builtins", "collections", "collections.abc")
_CONTENTS = (list, tuple, dict, str, bytes, int)
ITERATORS = (
    "builtins.iter", "builtins.reversed", "builtins.enumerate", "builtins.zip"
)  # fmt: skip
ALIASES = (
    "_functools.reduce", "_operator.getitem", "functools.reduce", "operator.getitem",
    "types.GenericAlias",
)  # fmt: skip
"""What gives an annotation: an attribute that is set on it is set on the class behind it."""


def getitem(args: tuple[Value, ...], depth: int) -> Opinion:
    """`List[int]`, as typing writes it; anything else may reach for what is behind a name."""
    first = args[0] if args else None
    plain = isinstance(first, Global) and first.name.isidentifier() and first.name[0] != "_"
    if isinstance(first, Global) and plain and first.module in _GENERIC:
        return Opinion(UNKNOWN, "operator.getitem", "an annotation such as List[int]")
    return Opinion(DANGEROUS, "operator.getitem", "takes an item out of something")


def union(args: tuple[Value, ...], depth: int) -> Opinion:
    """`int | None`, as Python writes it up to 3.13."""
    first = args[0] if len(args) == 2 else None
    if isinstance(first, Global) and first.path in ("_operator.or_", "operator.or_"):
        return Opinion(UNKNOWN, "functools.reduce", "an annotation such as int | None")
    return Opinion(DANGEROUS, "functools.reduce", "calls what it is given")


def iterator(name: str) -> Rule:
    """An iterator over what stands in the file itself."""

    def rule(args: tuple[Value, ...], depth: int) -> Opinion:
        harmless = all(isinstance(arg, _CONTENTS) or _is_iterator(arg) for arg in args)
        if harmless and (len(args) == 1 or name in ("builtins.enumerate", "builtins.zip")):
            return Opinion(UNKNOWN, name, "an iterator, kept where it stood")
        return Opinion(DANGEROUS, name, "calls what it is given, one item after another")

    return rule


def _is_iterator(value: Value) -> bool:
    func = value.func if isinstance(value, Call) else None
    return isinstance(func, Global) and func.path in (*ITERATORS, "builtins.range")


# ---


_TENSOR = ("detach", "requires_grad_", "to", "numpy", "as_subclass")
_MAPPING = ("keys", "items")

CALLED: dict[str, tuple[str, ...]] = {
    # torch/_utils.py, torch/nn/parameter.py: Parameter.__new__ calls data.detach()
    "torch._utils._rebuild_parameter": _TENSOR,
    "torch._utils._rebuild_parameter_with_state": _TENSOR,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _TENSOR,
    "torch.nn.parameter.Parameter": _TENSOR,
    "torch.nn.parameter.Buffer": _TENSOR,
    "torch.nn.Parameter": _TENSOR,
    # Objects/dictobject.c: dict_update_arg asks for keys()
    "builtins.dict": _MAPPING,
    "collections.OrderedDict": _MAPPING,
    "collections.defaultdict": _MAPPING,
    "collections.Counter": _MAPPING,
    "collections.UserDict": _MAPPING,
}
"""By the name of an allowed function: the methods of an argument that it may call."""


def put_in_place(func: Global, args: tuple[Value, ...]) -> str | None:
    """The name of a method that `func` would call, and that the file has put there."""
    names = CALLED.get(func.path)
    if names is None:
        return None
    return next((name for arg in args[:3] if (name := _put(arg, names))), None)


def put_in_state(state: Value) -> str | None:
    """The same of a state that is no dictionary: `__setstate__` would take it as a mapping."""
    return _put(state, _MAPPING)


def _put(made: Value, names: tuple[str, ...]) -> str | None:
    for part in _attributes(made) if isinstance(made, Call) else ():
        for name in names:
            if isinstance(part.get(name), Call | Global):
                return name
    return None


def _attributes(made: Call) -> list[dict[Value, Value]]:
    """What BUILD gave an object, or the call that made it."""
    found: list[dict[Value, Value]] = []
    for state in (made.state, *made.args[:4]):
        parts = state[:4] if isinstance(state, tuple) else (state,)
        found += [part for part in parts if isinstance(part, dict)]
    return found


# ---


OK, UNKNOWN, DANGEROUS = 0, 1, 2


class Opinion(NamedTuple):
    """level: OK, UNKNOWN or DANGEROUS. name: what it is about. inner: bytes that the call
    would load as a file, which are for the caller to judge; a text has a byte per character."""

    level: int
    name: str = ""
    why: str = ""
    inner: bytes | Blob | str | None = None


FINE = Opinion(OK)
Rule = Callable[[tuple[Value, ...], int], Opinion]


# ---


DEPTH = 8
"""How far calls within the arguments of calls are followed; honest files have two."""


def imported(value: Value) -> Opinion:
    """Of a name that is imported and, so far, nothing else."""
    if isinstance(value, Extension):
        why = "an extension code stands for whatever the machine that loads it has registered"
        return Opinion(UNKNOWN, f"copyreg.extension_{value.code}", why)
    if isinstance(value, tuple):
        return Opinion(DANGEROUS, "STACK_GLOBAL", "imports a name that the file computes")
    if not isinstance(value, Global):
        return FINE
    row = _row(value)
    if row is None:
        return _unlisted_import(value)
    if row.verdict in ("allowed", "reference", "module"):
        return FINE
    return Opinion(DANGEROUS if row.verdict == "dangerous" else UNKNOWN, value.path, row.reason)


def _unlisted_import(name: Global) -> Opinion:
    if is_standard(name.module):
        return Opinion(UNKNOWN, name.path, "of the standard library, and not on the list")
    if is_known(name.module):
        return Opinion(UNKNOWN, name.path, f"of the package {_top(name)}, and not on the list")
    return Opinion(UNKNOWN, name.path, f"needs your own class `{name.path}`")


def _top(name: Global) -> str:
    return name.module.partition(".")[0]


def _row(name: Global) -> Row | None:
    """The line of the policy; for a name with dots that leads through a module of the standard
    library (`torch.serialization` `os.system`), the line of where it leads."""
    row = row_of(name)
    if "." in name.name and (row is None or row.verdict not in ("allowed", "dangerous")):
        parts = name.name.split(".")
        for at, part in enumerate(parts[:-1]):
            if is_standard(part):
                found = policy().row(part, ".".join(parts[at + 1 :]))
                reason = f"reaches the module {part} by another road"
                return found or Row("acts", name.path, reason, "")
    return row


def resolved(func: Value) -> Value:
    """What would be called: in legacy full models a class is a persistent id with its source."""
    if isinstance(func, PersistentId) and isinstance(func.value, tuple) and len(func.value) > 2:
        first, named = func.value[:2]
        if isinstance(first, Global):
            return first  # the tar of torch 0.1: (class, file, source)
        return named if first == "module" and isinstance(named, Global) else func
    if isinstance(func, Call):
        return _attribute(func) or func
    return func


def _attribute(call: Call) -> Global | None:
    """`getattr(Outer, "Inner")`, as protocols 0 to 3 write a name with a dot, as that name."""
    names: list[str] = []
    value: Value = call
    while isinstance(value, Call) and len(names) < DEPTH:
        func, args = value.func, value.args
        if not isinstance(func, Global) or func.path != "builtins.getattr" or len(args) != 2:
            return None
        if not isinstance(args[1], str) or not args[1].isidentifier():
            return None
        names.insert(0, str(args[1]))
        value = args[0]
    if not isinstance(value, Global):
        return None
    return Global(value.module, ".".join([value.name, *names]), call.offset)


def called(func: Value, args: tuple[Value, ...], how: str, depth: int = DEPTH) -> Opinion:
    """Of calling `func` with `args`, by the opcode `how` (with a star: `args` is one object that
    would be unpacked)."""
    func = resolved(func)
    if depth <= 0:
        return Opinion(DANGEROUS, "call", "calls what a call gives it, again and again")
    if isinstance(func, Extension):
        return imported(func)
    if not isinstance(func, Global):
        return _of_a_result(func, args, how, depth)
    if func.name.endswith(".__new__") and args:
        return _new(func, args, depth)
    row = _row(func)
    if func.path == "builtins.type" and how == "REDUCE" and len(args) == 1:
        return FINE  # type(None): only with three arguments it makes a class
    if row is None or row.verdict == "reference":
        return _unlisted(func, how)
    if row.verdict == "acts" and how == "NEWOBJ" and is_known(func.module):
        return Opinion(UNKNOWN, func.path, f"makes an object of a class of {_top(func)}")
    if row.verdict in ("acts", "dangerous"):
        return Opinion(DANGEROUS, func.path, row.reason)
    if row.verdict == "module":
        return _module(func, args, how, row)
    if (method := put_in_place(func, args)) is not None:
        why = f"calls {method}() of what it is given, which the file has put in the method's place"
        return Opinion(DANGEROUS, func.path, why)
    rule = RULES.get(func.path)
    if rule is not None:
        if how.endswith("*"):
            return Opinion(DANGEROUS, func.path, "its arguments are made by a call")
        return rule(args, depth)
    if row.verdict == "unknown":
        return Opinion(UNKNOWN, func.path, row.reason)
    if how.endswith("*"):
        return Opinion(UNKNOWN, func.path, "its arguments are made by a call")
    return _sized(func, args) if args else FINE


def _of_a_result(func: Value, args: tuple[Value, ...], how: str, depth: int) -> Opinion:
    """Of calling what a call gave: a partial is judged by what it is a part of."""
    inner = resolved(func.func) if isinstance(func, Call) else None
    name = inner.path if isinstance(inner, Global) else "call"
    if isinstance(func, Call) and name == "functools.partial" and how == "REDUCE":
        state = func.state
        target, given = (func.args[0] if func.args else None), func.args[1:]
        if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], tuple):
            target, given = state[0], state[1]
        found = called(target, (*given, *args), how, depth - 1)
        return found if found.level else Opinion(UNKNOWN, name, "a call that was kept for later")
    return Opinion(DANGEROUS, name, "what a call gave is called in turn")


def _new(func: Global, args: tuple[Value, ...], depth: int) -> Opinion:
    """`cls.__new__(cls, …)`: as protocols 2 and 3 write __getnewargs_ex__."""
    owner = Global(func.module, func.name.removesuffix(".__new__"), func.offset)
    first = resolved(args[0])
    if isinstance(first, Global) and first.path == owner.path:
        return called(owner, args[1:], "NEWOBJ", depth - 1)
    return Opinion(DANGEROUS, func.path, "makes an object of another class")


def _module(func: Global, args: tuple[Value, ...], how: str, row: Row) -> Opinion:
    if how == "NEWOBJ" and not args:
        return FINE
    return Opinion(UNKNOWN, func.path, "a module of torch.nn whose constructor runs")


def _unlisted(func: Global, how: str) -> Opinion:
    """A callable that no line names."""
    path, parts = func.path, func.name.split(".")
    if any(part.startswith("__") and part.endswith("__") for part in parts):
        return Opinion(DANGEROUS, path, "reaches into an object through its special names")
    if is_standard(func.module):
        why = "a callable of the standard library that is not on the list of the harmless"
        return Opinion(DANGEROUS, path, why)
    if is_known(func.module):
        if how.startswith("NEWOBJ"):
            return Opinion(UNKNOWN, path, f"makes an object of a class of {_top(func)}")
        why = f"a callable of the package {_top(func)} that is not on the list of the harmless"
        return Opinion(DANGEROUS, path, why)
    return Opinion(UNKNOWN, path, f"needs your own class `{path}`")


def _sized(func: Global, args: tuple[Value, ...]) -> Opinion:
    """Of an allowed call: that it does not take items without end."""
    for value in args:
        made = value.func if isinstance(value, Call) else None
        if isinstance(made, Global) and made.path in ("itertools.count", "builtins.range"):
            return Opinion(UNKNOWN, func.path, "takes items from what need not end")
    return FINE


# --- rules ---------------------------------------------------------------------------------


def _making(*positions: int) -> Rule:
    """It makes an object of the classes that stand at these places."""

    def rule(args: tuple[Value, ...], depth: int) -> Opinion:
        found = [called(args[at], (), "NEWOBJ", depth - 1) for at in positions if at < len(args)]
        return max(found, key=lambda opinion: opinion.level, default=FINE)

    return rule


def _reconstructor(args: tuple[Value, ...], depth: int) -> Opinion:
    """copyreg: `base.__new__(cls, state)`, and base's `__init__`."""
    made = _making(0)(args, depth)
    base = args[1] if len(args) > 1 else None
    if isinstance(base, Global) and base.path != "builtins.object":
        other = called(base, args[2:], "REDUCE", depth - 1)
        return max(made, other, key=lambda opinion: opinion.level)
    return made


def _from_type(args: tuple[Value, ...], depth: int) -> Opinion:
    """torch._tensor._rebuild_from_type(_v2)(func, type, args, state): calls func(*args)."""
    if len(args) < 3:
        return FINE  # it raises
    given, how = (args[2], "REDUCE") if isinstance(args[2], tuple) else ((args[2],), "REDUCE*")
    assert isinstance(given, tuple)
    func = resolved(args[0])
    if isinstance(func, Global) and is_standard(func.module):
        return Opinion(DANGEROUS, func.path, "is called to make a tensor, and makes none")
    return called(args[0], given, how, depth - 1)


def _generator(args: tuple[Value, ...], depth: int) -> Opinion:
    """numpy.random._pickle: calls its second argument with its first."""
    return called(args[1], args[:1], "REDUCE", depth - 1) if len(args) > 1 else FINE


def _bit_generator(args: tuple[Value, ...], depth: int) -> Opinion:
    """A name, or a class, which it calls."""
    if not args or isinstance(args[0], str):
        return FINE
    return called(args[0], (), "REDUCE", depth - 1)


def _load_from_bytes(args: tuple[Value, ...], depth: int) -> Opinion:
    data = _literal(args[0]) if args else b""
    if data is None:
        why = "loads bytes that the file does not hold as they are"
        return Opinion(DANGEROUS, "torch.storage._load_from_bytes", why)
    if isinstance(data, Blob) and data.mutable:  # APPENDS can fill it at any time
        why = "loads a bytearray, which need not be what the file holds"
        return Opinion(DANGEROUS, "torch.storage._load_from_bytes", why, data)
    return Opinion(OK, inner=data)


def _literal(value: Value) -> bytes | Blob | str | None:
    """Bytes, which protocols 0 to 2 write as `_codecs.encode(text, "latin1")`: then the text, which
    many calls may share."""
    if isinstance(value, bytes | Blob):
        return value
    if isinstance(value, str):  # of Python 2
        return value.raw if isinstance(value, Python2Str) else value
    if isinstance(value, Call) and isinstance(value.func, Global):
        args = value.args
        encoded = value.func.path == "_codecs.encode" and len(args) == 2 and _plain_codec(args[1])
        if encoded and isinstance(args[0], str):
            return args[0]
        if value.func.path == "builtins.bytes" and not args:
            return b""
    return None


def _plain_codec(name: Value) -> bool:
    return isinstance(name, str) and name.lower().replace("-", "").replace("_", "") in (
        "latin1", "utf8", "ascii", "iso88591",
    )  # fmt: skip


def _encode(args: tuple[Value, ...], depth: int) -> Opinion:
    if len(args) < 2 or _plain_codec(args[1]):
        return FINE
    return Opinion(UNKNOWN, "_codecs.encode", "an encoding's name is the name of a module")


def _getattr(args: tuple[Value, ...], depth: int) -> Opinion:
    """Unknown as pickle writes it; whoever calls its result calls what a call gave."""
    name = "builtins.getattr"
    if len(args) != 2 or not isinstance(args[1], str) or not args[1].isidentifier():
        return Opinion(DANGEROUS, name, "reaches for what is no plain attribute")
    target, attribute = resolved(args[0]), args[1]
    if attribute.startswith("__") and attribute.endswith("__") and attribute != "__new__":
        return Opinion(DANGEROUS, name, "reaches into an object through its special names")
    if isinstance(target, Global):
        through = Global(target.module, f"{target.name}.{attribute}", target.offset)
        row = _row(through)
        if row is not None and row.verdict in ("acts", "dangerous"):
            return Opinion(DANGEROUS, through.path, row.reason)
        if is_standard(target.name) or (row_of(target) is None and is_standard(target.module)):
            return Opinion(DANGEROUS, name, f"reaches into the module {target.path}")
    elif isinstance(target, Extension | PersistentId | OutOfBand):
        return Opinion(DANGEROUS, name, "reaches into what is no object of the file")
    return Opinion(UNKNOWN, name, "a bound method or an enum's member; it is not called")


def _room(name: str) -> Rule:
    """It makes room for as much as it is told."""

    def rule(args: tuple[Value, ...], depth: int) -> Opinion:
        why = asks_too_much(args)
        return Opinion(UNKNOWN, name, why) if why else FINE

    return rule


def _digits(name: str) -> Rule:
    def rule(args: tuple[Value, ...], depth: int) -> Opinion:
        why = has_many_digits(args)
        return Opinion(UNKNOWN, name, why) if why else FINE

    return rule


def _array(name: str, shape: int) -> Rule:
    """numpy makes an array of classes and of a shape, which is (0,) in honest files."""
    making = _making(*range(shape))

    def rule(args: tuple[Value, ...], depth: int) -> Opinion:
        opinion = making(args, depth)
        if opinion.level or len(args) <= shape:
            return opinion
        count = elements(args[shape])
        if count is None or count > EMPTY:
            return Opinion(UNKNOWN, name, TOO_MUCH)
        return opinion

    return rule


def _scalar(args: tuple[Value, ...], depth: int) -> Opinion:
    """numpy: of a type and its bytes; without these of as many zeros as the type has."""
    if len(args) < 2 or args[1] is None:
        return Opinion(UNKNOWN, "numpy.core.multiarray.scalar", TOO_MUCH)
    return FINE


RULES: dict[str, Rule] = {
    **{name: _room(name) for name in MAKERS},
    **{name: iterator(name) for name in ITERATORS},
    "_codecs.encode": _encode,
    "array._array_reconstructor": _making(0),
    "builtins.getattr": _getattr,
    "fractions.Fraction": _digits("fractions.Fraction"),
    "decimal.Decimal": _digits("decimal.Decimal"),
    "copyreg.__newobj__": _making(0),
    "copyreg.__newobj_ex__": _making(0),
    "copyreg._reconstructor": _reconstructor,
    "numpy._core.multiarray._reconstruct": _array("numpy._core.multiarray._reconstruct", 1),
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core._internal._reconstruct": _array("numpy.core._internal._reconstruct", 1),
    "numpy.core.multiarray._reconstruct": _array("numpy.core.multiarray._reconstruct", 1),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.ma.core._mareconstruct": _array("numpy.ma.core._mareconstruct", 2),
    "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
    "numpy.random._pickle.__generator_ctor": _generator,
    "numpy.random._pickle.__randomstate_ctor": _generator,
    "_functools.reduce": union,
    "_operator.getitem": getitem,
    "functools.reduce": union,
    "operator.getitem": getitem,
    "pandas.core.indexes.base._new_Index": _making(0),
    "pandas.core.indexes.datetimes._new_DatetimeIndex": _making(0),
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.tensor._rebuild_from_type": _from_type,
    "torch.tensor._rebuild_from_type_v2": _from_type,
    "torch.storage._load_from_bytes": _load_from_bytes,
}
"""By name: what the arguments of a call have to be asked."""
