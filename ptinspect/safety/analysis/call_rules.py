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
from ptinspect.safety.policy import is_known_package, is_stdlib, load_policy, policy_row
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


# --- callables that call or create their arguments ----------------------------------------


def _rebuild_from_type(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """torch._tensor._rebuild_from_type(_v2)(func, type, args, state): calls func(*args)."""
    func = resolve_callable(args[0])
    if isinstance(func, Global) and is_stdlib(func.module):
        return Judgement(
            DANGEROUS, func.path, "is called to create a tensor, but does not return one"
        )
    assert isinstance(args[2], tuple)
    return judge_call(args[0], args[2], "REDUCE")


def _load_from_bytes(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    name = "torch.storage._load_from_bytes"
    payload = _literal_bytes(args[0])
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
    if _is_plain_codec(args[1]):
        return HARMLESS
    reason = "imports the module that its encoding names"
    return Judgement(UNKNOWN, "_codecs.encode", reason)


def _getattr(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """Bound methods and enum members: unknown, unless a special attribute or a module is reached.

    A call of the result is judged as the call of a result.
    """
    name = "builtins.getattr"
    assert isinstance(args[1], str)
    if not args[1].isidentifier():
        return Judgement(DANGEROUS, name, "accesses something other than a plain attribute")
    target, attribute = resolve_callable(args[0]), args[1]
    if is_special(attribute) and attribute != "__new__":
        return Judgement(DANGEROUS, name, "accesses an object's special attributes")
    if isinstance(target, Global):
        path = f"{target.path}.{attribute}"
        row = policy_row(target.module, f"{target.name}.{attribute}")
        is_member = is_known_package(target.module) and is_class_name(target.name)
        forbidden = ("dangerous",) if is_member else ("acts", "dangerous")
        if row is not None and row.verdict in forbidden:
            return Judgement(DANGEROUS, path, row.reason)
        owner = load_policy().row(target.module, target.name)
        is_class = owner is not None and owner.verdict == "allowed"  # such as datetime.datetime
        is_module = is_stdlib(target.name) and not is_class
        if is_module or (owner is None and is_stdlib(target.module)):
            return Judgement(DANGEROUS, name, f"accesses the module {target.path}")
    elif isinstance(target, Extension | PersistentId | OutOfBand):
        return Judgement(DANGEROUS, name, "accesses an object from outside the file")
    return Judgement(UNKNOWN, name, "a bound method or a member of an enum; it is not called")


# A class (`Tree`, `cKDTree`), also within classes, or what Cython writes for one: it creates an
# object and sets its attributes.
_CLASS = r"_*[a-z]?[A-Z]\w*[a-z]\w*"
_CLASS_NAME = re.compile(rf"({_CLASS}\.)*({_CLASS}|__pyx_unpickle_\w+)")


def is_class_name(name: str) -> bool:
    """Return True if a name looks like a class, by the customs of Python and Cython."""
    return _CLASS_NAME.fullmatch(name) is not None


ALIASING = (
    "_functools.reduce", "_operator.getitem", "functools.reduce", "operator.getitem",
    "types.GenericAlias",
)  # fmt: skip
"""Callables that return an annotation: setting its attributes sets those of the class itself."""


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
    f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "qtensor")
)

_PACKED = {"torch.QUInt4x2Storage": 2, "torch.QUInt2x4Storage": 4}
"""Elements of a tensor in each byte of such a storage."""

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
    storage_type = fields[1].path if isinstance(fields[1], Global) else ""
    return required_numel(offset, size, stride) > numel * _PACKED.get(storage_type, 1)


def required_numel(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many elements the storage of a view needs; 0 if the view is empty."""
    last = offset
    for length, step in zip(size, stride, strict=False):
        if length == 0:
            return 0
        last += (length - 1) * step
    return last + 1


# --- blocks of tables -------------------------------------------------------------------------


def _block_manager(args: tuple[Value, ...], judge_call: JudgeCall) -> Judgement:
    """pandas' BlockManager(blocks, axes). It writes to memory where a block says that it belongs,
    without a look at the length of the axis."""
    if not args:
        return HARMLESS  # created by NEWOBJ, and filled by BUILD
    blocks, axes = args
    length = _axis_length(axes[0]) if isinstance(axes, list) and axes else None
    for block in blocks if isinstance(blocks, tuple) else (blocks,):
        placement = block.args[1] if isinstance(block, Call) and len(block.args) > 1 else None
        bounds = placement.args if isinstance(placement, Call) else ()
        start, stop, step = bounds if len(bounds) == 3 else (None, None, None)
        is_known = isinstance(start, int) and isinstance(stop, int) and step in (1, None)
        if length is None or not is_known or not 0 <= start <= stop <= length:  # type: ignore[operator]
            reason = "the place of a block in its table is not known, or outside of it"
            return Judgement(UNKNOWN, "pandas.core.internals.managers.BlockManager", reason)
    return HARMLESS


def _axis_length(index: Value) -> int | None:
    """Return the number of labels of `_new_Index(class, fields)`, or None if it is not recorded."""
    fields = index.args[1] if isinstance(index, Call) and len(index.args) == 2 else None
    if not isinstance(fields, dict):
        return None
    start, stop, step = (fields.get(name) for name in ("start", "stop", "step"))
    if isinstance(start, int) and isinstance(stop, int) and step == 1:
        return max(stop - start, 0)
    data = fields.get("data")
    if not isinstance(data, Call) or not isinstance(data.func, Global):
        return None
    shape = data.state[1] if isinstance(data.state, tuple) and len(data.state) == 5 else None
    if data.func.name == "_frombuffer":
        shape = data.args[2] if len(data.args) > 2 else None
    length = shape[0] if isinstance(shape, tuple) and len(shape) == 1 else None
    return length if isinstance(length, int) else None


RULES: dict[str, Rule] = {
    "_codecs.encode": _encode,
    "builtins.getattr": _getattr,
    "pandas.core.internals.managers.BlockManager": _block_manager,
    "pandas.core.internals.managers.SingleBlockManager": _block_manager,
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.tensor._rebuild_from_type": _rebuild_from_type,
    "torch.tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.storage._load_from_bytes": _load_from_bytes,
}
"""Rules by the callable's name."""
