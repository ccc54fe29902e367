"""Rules for allowed callables: which arguments make a call of them unsafe.

An allowed name is only as safe as its arguments. A callable that calls, creates or loads its
arguments has a rule here, which judges these in turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ptinspect.pickling.pyobjects import resolve_global
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
from ptinspect.safety.policy import (
    WEIGHTS_ONLY_NAMES,
    is_stdlib,
    load_policy,
    policy_row,
)
from ptinspect.safety.report import CLEAN, DANGEROUS, SEVERITY, UNKNOWN


@dataclass(frozen=True, slots=True)
class Judgement:
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


def worst_judgement(*judgements: Judgement) -> Judgement:
    """Return the first of the worst judgements; HARMLESS without any."""
    return max(judgements, key=lambda each: SEVERITY[each.verdict], default=HARMLESS)


class JudgeCall(Protocol):
    """Judges a call that an argument leads to."""

    def __call__(self, func: Value, args: tuple[Value, ...], how: str) -> Judgement: ...


Rule = Callable[[tuple[Value, ...], JudgeCall], Judgement]
"""Judges the arguments of a call."""


# --- memory and digits --------------------------------------------------------------------

_HUGE = 1 << 33
"""More bytes or elements than any honest call asks for."""

_MAX_EMPTY_ELEMENTS = 1 << 16
"""Elements of an array that an honest file creates empty and fills by BUILD."""

ALLOCATORS = frozenset(
    (  # noqa: SIM905
        "builtins.bytes builtins.bytearray numpy.ndarray numpy.matrix numpy.recarray"
        " numpy.rec.recarray numpy.core.records.recarray numpy._core.records.recarray"
        " numpy.matrixlib.defmatrix.matrix"
    ).split()
) | frozenset(name for name in WEIGHTS_ONLY_NAMES if name.endswith(("Storage", "Tensor")))
"""Callables that accept a size or a shape instead of content."""

_TOO_LARGE = "asks for more memory than any honest file needs"
_COMPUTED_SIZE = "gets its size from the result of a call"
_TOO_MANY_DIGITS = "is a number with too many digits to compute"

_LARGE_EXPONENT = re.compile(r"e[+-]?0*[1-9][0-9_]{4}", re.IGNORECASE)
_SIZE_PRESERVING = frozenset(("_codecs.encode", "torch.Size"))


def element_count(shape: Value) -> int | None:
    """Return the number of elements of a size or a shape, or None if it is neither of them."""
    if isinstance(shape, Call) and isinstance(shape.func, Global):
        if shape.func.path != "torch.Size" or len(shape.args) != 1:
            return None
        shape = shape.args[0]
    count = 1
    for size in shape if isinstance(shape, tuple | list) else (shape,):
        if not isinstance(size, int):
            return None
        count = min(count * abs(size), _HUGE + 1)  # keeps the product of many sizes short
    return count


def oversized_allocation(args: tuple[Value, ...]) -> str | None:
    """Return why the arguments of an allocator may ask for too much memory, or None."""
    sizes = tuple(arg for arg in args if type(arg) is int)
    counts = [element_count(sizes), *map(element_count, args)]
    if any(count is not None and count > _HUGE for count in counts):
        return _TOO_LARGE
    if any(
        isinstance(arg, Call)
        and isinstance(arg.func, Global)
        and arg.func.path not in _SIZE_PRESERVING
        for arg in args
    ):
        return _COMPUTED_SIZE
    return None


def too_many_digits(args: tuple[Value, ...]) -> str | None:
    """Return why a Decimal or Fraction takes too long to compute (`1e999999999`), or None."""
    for arg in args:
        if isinstance(arg, str) and _LARGE_EXPONENT.search(arg):
            return _TOO_MANY_DIGITS
        if isinstance(arg, tuple) and any(type(e) is int and abs(e) > 9999 for e in arg):
            return _TOO_MANY_DIGITS
        if isinstance(arg, Call):
            return _COMPUTED_SIZE
    return None


def _refuse_if(name: str, reason_for: Callable[[tuple[Value, ...]], str | None]) -> Rule:
    def rule(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
        reason = reason_for(args)
        return Judgement(UNKNOWN, name, reason) if reason else HARMLESS

    return rule


def _array(name: str, shape_index: int) -> Rule:
    """Return a rule for numpy's array constructors: classes, then a shape, (0,) in honest files."""
    creates_classes = _creates(*range(shape_index))

    def rule(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
        judgement = creates_classes(args, judge_call)
        if judgement.verdict != CLEAN or len(args) <= shape_index:
            return judgement
        count = element_count(args[shape_index])
        if count is None or count > _MAX_EMPTY_ELEMENTS:
            return Judgement(UNKNOWN, name, _TOO_LARGE)
        return judgement

    return rule


def _numpy_scalar(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """A dtype and its bytes; without bytes, numpy allocates as many zeros as the dtype has."""
    if len(args) < 2 or args[1] is None:
        return Judgement(UNKNOWN, "numpy.core.multiarray.scalar", _TOO_LARGE)
    return HARMLESS


# --- callables that call or create their arguments ----------------------------------------


def _creates(*indexes: int) -> Rule:
    """Return a rule for a callable that creates objects of the classes at these arguments."""

    def rule(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
        classes = [args[index] for index in indexes if index < len(args)]
        return worst_judgement(*(judge_call(cls, (), "NEWOBJ") for cls in classes))

    return rule


def _reconstructor(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """copyreg._reconstructor: `base.__new__(cls, state)`, and `base.__init__`."""
    judgement = _creates(0)(args, judge_call)
    base = args[1] if len(args) > 1 else None
    if isinstance(base, Global) and base.path != "builtins.object":
        return worst_judgement(judgement, judge_call(base, args[2:], "REDUCE"))
    return judgement


def _rebuild_from_type(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """torch._tensor._rebuild_from_type(_v2)(func, type, args, state): calls func(*args)."""
    if len(args) < 3:
        return HARMLESS  # raises a TypeError
    func = resolve_callable(args[0])
    if isinstance(func, Global) and is_stdlib(func.module):
        return Judgement(
            DANGEROUS, func.path, "is called to create a tensor, but does not return one"
        )
    if isinstance(args[2], tuple):
        return judge_call(args[0], args[2], "REDUCE")
    return judge_call(args[0], (args[2],), "REDUCE*")


def _generator(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """numpy.random._pickle: calls its second argument with its first."""
    return judge_call(args[1], args[:1], "REDUCE") if len(args) > 1 else HARMLESS


def _bit_generator(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """numpy.random._pickle: takes a name, or a class, which it calls."""
    if not args or isinstance(args[0], str):
        return HARMLESS
    return judge_call(args[0], (), "REDUCE")


def _load_from_bytes(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    name = "torch.storage._load_from_bytes"
    payload = _literal_bytes(args[0]) if args else b""
    if payload is None:
        return Judgement(DANGEROUS, name, "loads bytes that a call computes")
    if isinstance(payload, Blob) and payload.mutable:  # APPENDS can change it later
        reason = "loads a bytearray, whose content may change while the pickle runs"
        return Judgement(DANGEROUS, name, reason, payload)
    return Judgement(CLEAN, payload=payload)


def _literal_bytes(value: Value) -> bytes | Blob | str | None:
    """Return bytes that the pickle holds literally, or None.

    Protocols 0 to 2 write bytes as `_codecs.encode(text, "latin1")`: the text is returned, since
    many calls may share it.
    """
    if isinstance(value, bytes | Blob):
        return value
    if isinstance(value, str):  # of Python 2
        return value.raw if isinstance(value, Python2Str) else value
    if isinstance(value, Call) and isinstance(value.func, Global):
        args = value.args
        if value.func.path == "_codecs.encode" and len(args) == 2 and _is_plain_codec(args[1]):
            # Writers use latin1; in other codecs only ASCII has the same bytes.
            is_same = isinstance(args[0], str) and (_is_latin1(args[1]) or args[0].isascii())
            return args[0] if is_same and isinstance(args[0], str) else None
        if value.func.path == "builtins.bytes" and not args:
            return b""
    return None


def _is_latin1(name: Value) -> bool:
    return isinstance(name, str) and re.sub("[-_]", "", name.lower()) in ("latin1", "iso88591")


def _is_plain_codec(name: Value) -> bool:
    plain_codecs = ("utf8", "ascii")
    is_plain = isinstance(name, str) and re.sub("[-_]", "", name.lower()) in plain_codecs
    return is_plain or _is_latin1(name)


def _encode(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    if len(args) < 2 or _is_plain_codec(args[1]):
        return HARMLESS
    reason = "imports the module that its encoding names"
    return Judgement(UNKNOWN, "_codecs.encode", reason)


def _getattr(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """Bound methods and enum members: unknown, unless a special attribute or a module is reached.

    A call of the result is judged as the call of a result.
    """
    name = "builtins.getattr"
    if len(args) != 2 or not isinstance(args[1], str) or not args[1].isidentifier():
        return Judgement(DANGEROUS, name, "accesses something other than a plain attribute")
    target, attribute = resolve_callable(args[0]), args[1]
    if is_special(attribute) and attribute != "__new__":
        return Judgement(DANGEROUS, name, "accesses an object's special attributes")
    if isinstance(target, Global):
        path = f"{target.path}.{attribute}"
        row = policy_row(target.module, f"{target.name}.{attribute}")
        if row is not None and row.verdict in ("acts", "dangerous"):
            return Judgement(DANGEROUS, path, row.reason)
        is_listed = load_policy().row(target.module, target.name) is not None
        if is_stdlib(target.name) or (not is_listed and is_stdlib(target.module)):
            return Judgement(DANGEROUS, name, f"accesses the module {target.path}")
    elif isinstance(target, Extension | PersistentId | OutOfBand):
        return Judgement(DANGEROUS, name, "accesses an object from outside the file")
    return Judgement(UNKNOWN, name, "a bound method or a member of an enum; it is not called")


def is_special(name: str) -> bool:
    """Return True if a name is a special attribute such as `__class__`."""
    return name.startswith("__") and name.endswith("__")


MAX_DEPTH = 8
"""Nesting of calls in arguments of calls that is followed; honest files have two."""


def resolve_callable(func: Value) -> Value:
    """Return the global that a callable resolves to, or the callable itself."""
    return resolve_global(func, MAX_DEPTH) or func


# --- views of storages -------------------------------------------------------------------

VIEW_FUNCTIONS = frozenset(
    f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")
)

_MAX_DIMS = 64
"""Dimensions of a tensor. torch itself refuses more."""


def view_exceeds_storage(args: tuple[Value, ...]) -> bool:
    """Return True if a view needs elements that its storage does not have.

    Args:
        args: (storage, offset, size, stride, …) of torch._utils._rebuild_tensor and its versions.
            If they have other types, torch refuses them itself.
    """
    fields = args[0].value if args and isinstance(args[0], PersistentId) else None
    if not isinstance(fields, tuple) or len(fields) < 5 or len(args) < 4:
        return False
    numel, (offset, size, stride) = fields[4], args[1:4]
    if isinstance(size, Call) and size.args:
        size = size.args[0]  # torch.Size((2, 2))
    if type(numel) is not int or type(offset) is not int:
        return False
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) > _MAX_DIMS:
        return False
    stride = stride[: len(size)]
    if not set(map(type, (*size, *stride))) <= {int}:
        return False
    return required_numel(offset, size, stride) > numel


def required_numel(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many elements the storage of a view needs; 0 if the view is empty."""
    last = offset
    for length, step in zip(size, stride, strict=False):
        if length == 0:
            return 0
        last += (length - 1) * step
    return last + 1


# --- annotations and iterators ------------------------------------------------------------

_GENERIC_MODULES = ("typing", "typing_extensions", "builtins", "collections", "collections.abc")

_ITERATORS = ("builtins.iter", "builtins.reversed", "builtins.enumerate", "builtins.zip")

ALIASING = (
    "_functools.reduce", "_operator.getitem", "functools.reduce", "operator.getitem",
    "types.GenericAlias",
)  # fmt: skip
"""Callables that return an annotation: setting its attributes sets those of the class itself."""


def _getitem(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """`List[int]`, as typing writes it. Other items may be anything that a name contains."""
    name = "operator.getitem"
    owner = args[0] if args else None
    if (
        isinstance(owner, Global)
        and owner.module in _GENERIC_MODULES
        and owner.name.isidentifier()
        and not owner.name.startswith("_")
    ):
        return Judgement(UNKNOWN, name, "an annotation such as List[int]")
    return Judgement(DANGEROUS, name, "accesses an item of a name that it imports")


def _reduce(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """`int | None`, as Python up to 3.13 writes it."""
    name = "functools.reduce"
    function = args[0] if len(args) == 2 else None
    if isinstance(function, Global) and function.path in ("_operator.or_", "operator.or_"):
        return Judgement(UNKNOWN, name, "an annotation such as int | None")
    return Judgement(DANGEROUS, name, "calls its first argument")


def _iterator(name: str) -> Rule:
    """Return a rule for iterators over content that the file itself holds."""

    def is_content(value: Value) -> bool:
        if isinstance(value, list | tuple | dict | str | bytes | int):
            return True
        func = value.func if isinstance(value, Call) else None
        return isinstance(func, Global) and func.path in (*_ITERATORS, "builtins.range")

    def rule(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
        takes_several = name in ("builtins.enumerate", "builtins.zip")
        if all(map(is_content, args)) and (len(args) == 1 or takes_several):
            return Judgement(UNKNOWN, name, "an iterator over values of the file")
        return Judgement(DANGEROUS, name, "calls its argument for one item after another")

    return rule


RULES: dict[str, Rule] = {
    **{name: _refuse_if(name, oversized_allocation) for name in ALLOCATORS},
    **{name: _iterator(name) for name in _ITERATORS},
    "_codecs.encode": _encode,
    "array._array_reconstructor": _creates(0),
    "builtins.getattr": _getattr,
    "fractions.Fraction": _refuse_if("fractions.Fraction", too_many_digits),
    "decimal.Decimal": _refuse_if("decimal.Decimal", too_many_digits),
    "copyreg.__newobj__": _creates(0),
    "copyreg.__newobj_ex__": _creates(0),
    "copyreg._reconstructor": _reconstructor,
    "numpy._core.multiarray._reconstruct": _array("numpy._core.multiarray._reconstruct", 1),
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core._internal._reconstruct": _array("numpy.core._internal._reconstruct", 1),
    "numpy.core.multiarray._reconstruct": _array("numpy.core.multiarray._reconstruct", 1),
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.ma.core._mareconstruct": _array("numpy.ma.core._mareconstruct", 2),
    "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
    "numpy.random._pickle.__generator_ctor": _generator,
    "numpy.random._pickle.__randomstate_ctor": _generator,
    "_functools.reduce": _reduce,
    "_operator.getitem": _getitem,
    "functools.reduce": _reduce,
    "operator.getitem": _getitem,
    "pandas.core.indexes.base._new_Index": _creates(0),
    "pandas.core.indexes.datetimes._new_DatetimeIndex": _creates(0),
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.tensor._rebuild_from_type": _rebuild_from_type,
    "torch.tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.storage._load_from_bytes": _load_from_bytes,
}
"""Rules by the callable's name."""
