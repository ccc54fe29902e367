"""What a pickle says of the elements of numpy's arrays, held against itself. numpy believes it: a
type of objects that says it holds none makes pointers of the file's bytes, and a field that lies
beyond its element reads what lies beyond the array.

Source: numpy/_core/src/multiarray/descriptor.c, `arraydescr_reduce` and `arraydescr_setstate`. The
state is (version, order, (base, shape), names, fields, itemsize, alignment, flags), -1 for both
sizes where the type's name says them; a field is (type, offset), or (type, offset, title).
"""

from __future__ import annotations

import re

from ptinspect.pickling.values import Call, Global, Value
from ptinspect.safety.analysis.calls import DEPTH, OK, imported, resolved

DTYPE = "numpy.dtype"
_THROUGH = frozenset(
    (  # noqa: SIM905
        "copyreg._reconstructor copyreg.__newobj__ copyreg.__newobj_ex__"
        " torch._tensor._rebuild_from_type torch._tensor._rebuild_from_type_v2"
        " torch.tensor._rebuild_from_type torch.tensor._rebuild_from_type_v2"
    ).split()
)

FROM_FIELDS = 0x1B
"""Flags of whatever holds objects: NPY_ITEM_REFCOUNT, LIST_PICKLE, NEEDS_INIT and NEEDS_PYAPI."""

MOST = 1 << 31
"""Bytes that an element has less of: numpy counts them in a C int."""

DIMS = 64
"""NPY_MAXDIMS, of numpy 2; 32 before."""

_NAME = re.compile(r"[<>=|]?([a-zA-Z?])([0-9]{0,10})")
_LETTERS = {
    "?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "l": 8, "L": 8, "q": 8,
    "Q": 8, "d": 8, "g": 16, "F": 8, "D": 16, "G": 32, "O": 8, "m": 8, "M": 8, "p": 8, "P": 8,
}  # fmt: skip
_RECORDS = frozenset(
    ("numpy.record", "numpy.rec.record", "numpy.core.records.record", "numpy._core.records.record")
)


def ill_made(dtype: Call) -> str | None:
    """What is wrong with a call of numpy.dtype that BUILD was used on; None where nothing is."""
    if not isinstance(dtype.func, Global) or dtype.func.path != DTYPE:
        return "a type of elements that numpy does not write like this"
    if dtype.changes is None or len(dtype.changes.states) != 1:
        return "a type of elements that is made twice"
    state = dtype.state
    if not isinstance(state, tuple) or len(state) < 6:
        return "a type of elements whose state is none"
    kind = _kind(dtype)
    if kind is None:
        # A class of a package with elements of its own is unknown by its name.
        foreign = dtype.args and imported(dtype.args[0]).level != OK
        return None if foreign else "a type of elements that numpy does not write like this"
    if len(dtype.args) < 3 or not dtype.args[2]:  # it is not told to make a copy
        return "changes a type of numpy's own"
    size = state[5]
    if kind not in "VSUa":
        if state[2] is not None or state[3] is not None or state[4] is not None or size != -1:
            return "a plain type of elements that has parts, or another size"
        return _held(kind == "O", state)
    if type(size) is not int or not 0 <= size < MOST or (kind == "U" and size % 4):
        return "a type of elements that has no such size"
    if kind != "V":
        return None if state[2] is state[3] is state[4] is None else "text that has parts"
    return _parts(state, size)


LENDING = (
    "__array_interface__",
    "__array_struct__",
    "__array__",
    "__cuda_array_interface__",
    "__dlpack__",
)
"""Attributes by which an object says where its numbers lie in memory: numpy believes it."""


def lends(attributes: Value) -> str | None:
    """The first of LENDING that attributes have, which BUILD or a call sets."""
    if not isinstance(attributes, dict):
        return None
    return next((name for name in LENDING if name in attributes), None)


def makes(call: Call) -> bool:
    """Whether a call makes such a type, itself or through what calls it."""
    func: Value = call
    for _ in range(DEPTH):
        if not isinstance(func, Call):
            break
        given = resolved(func.func)
        through = isinstance(given, Global) and given.path in _THROUGH
        func = resolved(func.args[0]) if through and func.args else given
    return isinstance(func, Global) and func.path == DTYPE


def _kind(dtype: Call) -> str | None:
    """The letter of its type; None for one that is not said by a letter."""
    first = dtype.args[0] if dtype.args else None
    if isinstance(first, Global) and first.path in _RECORDS:
        return "V"
    found = _NAME.fullmatch(first) if isinstance(first, str) else None
    return found[1] if found else None


def _parts(state: tuple[Value, ...], size: int) -> str | None:
    """Of a structure, or of an array as an element."""
    holds = False
    if state[2] is not None:
        base, shape = state[2] if isinstance(state[2], tuple) and len(state[2]) == 2 else (None, 0)
        inner = item_size(base)
        sizes = shape if isinstance(shape, tuple) else (shape,)
        for length in sizes if len(sizes) <= DIMS else (None,):
            if type(length) is not int or length < 0 or inner is None:
                return "an array as an element that is none"
            inner = min(inner * length, MOST)
        if inner != size:
            return "an array as an element that has another size than its element"
        holds = _has_objects(base)
    names, fields = state[3], state[4]
    if names is not None or fields is not None:
        if not isinstance(names, tuple) or not isinstance(fields, dict):
            return "a structure whose fields are none"
        if any(not isinstance(name, str) or name not in fields for name in names):
            return "a structure that lacks one of its fields"
        for field in fields.values():
            inner = item_size(field[0]) if isinstance(field, tuple) and len(field) > 1 else None
            if inner is None or not isinstance(field, tuple) or type(field[1]) is not int:
                return "a field that is none"
            if field[1] < 0 or field[1] + inner > size:
                return "a field that lies beyond its element"
            holds = holds or _has_objects(field[0])
    return _held(holds, state)


def _held(holds: bool, state: tuple[Value, ...]) -> str | None:
    """Whether the flags say that there are objects, where there are; before version 3 numpy looks
    for itself."""
    version, flags = state[0], state[7] if len(state) > 7 else 0
    if not holds or (type(version) is int and version < 3):
        return None
    if type(flags) is not int or flags & FROM_FIELDS != FROM_FIELDS:
        return "a type of objects that says that it holds none"
    return None


def item_size(dtype: Value) -> int | None:
    """Bytes of one element; None where nobody can tell."""
    if not isinstance(dtype, Call) or not isinstance(dtype.func, Global) or not dtype.args:
        return None
    if dtype.func.path != DTYPE:
        return None
    state = dtype.state
    told = state[5] if isinstance(state, tuple) and len(state) > 5 else None
    if type(told) is int and told >= 0:
        return told
    first = dtype.args[0]
    found = _NAME.fullmatch(first) if isinstance(first, str) else None
    if found is None:
        return None
    letter, digits = found[1], found[2]
    if letter in "mMO" or not digits:
        return _LETTERS.get(letter, 0)
    return int(digits) * (4 if letter == "U" else 1)


def _has_objects(dtype: Value) -> bool:
    if not isinstance(dtype, Call) or not dtype.args:
        return True
    first, state = dtype.args[0], dtype.state
    if state is None:
        return not isinstance(first, str) or "O" in first
    flags = state[7] if isinstance(state, tuple) and len(state) > 7 else 0
    return first == "O8" or type(flags) is not int or bool(flags & 1)
