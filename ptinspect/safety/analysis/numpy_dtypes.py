"""Check pickled numpy dtypes for consistency, and compute the size of their elements.

numpy trusts what a dtype records: a dtype of objects that denies to hold any turns the file's bytes
into pointers, and a field outside its element reads memory outside the array.

Source: numpy/_core/src/multiarray/descriptor.c, `arraydescr_reduce` and `arraydescr_setstate`. The
state is (version, order, (base, shape), names, fields, itemsize, alignment, flags), with -1 for
both sizes if the dtype's name implies them; a field is (dtype, offset), or (dtype, offset, title).
"""

from __future__ import annotations

import re

from ptinspect.dtypes import numpy_itemsize
from ptinspect.pickling.values import Call, Global, Value
from ptinspect.safety.analysis.call_rules import MAX_DEPTH, resolve_callable
from ptinspect.safety.analysis.calls import judge_import
from ptinspect.safety.report import CLEAN

NUMPY_DTYPE = "numpy.dtype"

_CALL_FIRST_ARGUMENT = frozenset(
    (  # noqa: SIM905
        "copyreg._reconstructor copyreg.__newobj__ copyreg.__newobj_ex__"
        " torch._tensor._rebuild_from_type torch._tensor._rebuild_from_type_v2"
        " torch.tensor._rebuild_from_type torch.tensor._rebuild_from_type_v2"
    ).split()
)

_HAS_OBJECT = 0x01
_OBJECT_FLAGS = 0x1B
"""NPY_ITEM_REFCOUNT, LIST_PICKLE, NEEDS_INIT and NEEDS_PYAPI: every dtype of objects has them."""

_MAX_ITEM_SIZE = 1 << 31
"""numpy counts the bytes of an element in a C int."""

_MAX_DIMS = 64
"""NPY_MAXDIMS of numpy 2; 32 before."""

_NAME = re.compile(r"[<>=|]?([a-zA-Z?])([0-9]{0,10})")

_RECORD_CLASSES = frozenset(
    ("numpy.record", "numpy.rec.record", "numpy.core.records.record", "numpy._core.records.record")
)

_MEMORY_INTERFACES = (
    "__array_interface__", "__array_struct__", "__array__", "__cuda_array_interface__",
    "__dlpack__",
)  # fmt: skip


def memory_interface_attribute(attributes: Value) -> str | None:
    """Return the first attribute by which an object tells numpy where its memory is, or None.

    numpy trusts such an attribute, whoever set it: BUILD, or a call.
    """
    if not isinstance(attributes, dict):
        return None
    return next((name for name in _MEMORY_INTERFACES if name in attributes), None)


def builds_dtype(call: Call) -> bool:
    """Return True if a call creates a numpy dtype, by itself or through a helper."""
    func: Value = call
    for _ in range(MAX_DEPTH):
        if not isinstance(func, Call):
            break
        target = resolve_callable(func.func)
        is_helper = isinstance(target, Global) and target.path in _CALL_FIRST_ARGUMENT
        func = resolve_callable(func.args[0]) if is_helper and func.args else target
    return isinstance(func, Global) and func.path == NUMPY_DTYPE


def invalid_dtype_reason(dtype: Call) -> str | None:
    """Return what is wrong with a dtype that BUILD was applied to, or None if it is valid."""
    if not isinstance(dtype.func, Global) or dtype.func.path != NUMPY_DTYPE:
        return "a dtype in a form that numpy does not write"
    if dtype.changes is None or len(dtype.changes.states) != 1:
        return "a dtype whose state is set twice"
    state = dtype.state
    if not isinstance(state, tuple) or len(state) < 6:
        return "a dtype with an invalid state"
    kind = _kind(dtype)
    if kind is None:
        # A package's own dtype: its class was judged when it was imported.
        is_listed = not dtype.args or judge_import(dtype.args[0]).verdict == CLEAN
        return "a dtype in a form that numpy does not write" if is_listed else None
    if len(dtype.args) < 3 or not dtype.args[2]:  # the argument `copy`
        return "changes a dtype of numpy's own"
    subarray, names, fields, size = state[2:6]
    has_parts = subarray is not None or names is not None or fields is not None
    if kind not in "VSUa":
        if has_parts or size != -1:
            return "a plain dtype that has parts, or another size than its name says"
        return _object_flags_reason(kind == "O", state)
    if type(size) is not int or not 0 <= size < _MAX_ITEM_SIZE or (kind == "U" and size % 4):
        return "a dtype with an invalid item size"
    if kind != "V":
        return "a dtype of text that has parts" if has_parts else None
    return _invalid_structure_reason(state, size)


def _kind(dtype: Call) -> str | None:
    """Return the letter of a dtype's kind, or None if it is not named by a letter."""
    name = dtype.args[0] if dtype.args else None
    if isinstance(name, Global) and name.path in _RECORD_CLASSES:
        return "V"
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    return match[1] if match else None


def _invalid_structure_reason(state: tuple[Value, ...], size: int) -> str | None:
    """Check a structured dtype, or one whose element is an array."""
    has_objects = False
    subarray, names, fields = state[2:5]
    if subarray is not None:
        is_pair = isinstance(subarray, tuple) and len(subarray) == 2
        base, shape = subarray if isinstance(subarray, tuple) and is_pair else (None, 0)
        total = item_size(base)
        lengths = shape if isinstance(shape, tuple) else (shape,)
        if total is None or len(lengths) > _MAX_DIMS:
            return "an invalid array as an element"
        for length in lengths:
            if type(length) is not int or length < 0:
                return "an invalid array as an element"
            total = min(total * length, _MAX_ITEM_SIZE)
        if total != size:
            return "an array as an element whose size differs from the element's"
        has_objects = holds_objects(base)
    if names is not None or fields is not None:
        if not isinstance(names, tuple) or not isinstance(fields, dict):
            return "a structure with invalid fields"
        if any(not isinstance(name, str) or name not in fields for name in names):
            return "a structure that lacks one of its fields"
        for field in fields.values():
            is_field = isinstance(field, tuple) and len(field) > 1
            field_size = item_size(field[0]) if isinstance(field, tuple) and is_field else None
            if field_size is None or not isinstance(field, tuple) or type(field[1]) is not int:
                return "an invalid field"
            if field[1] < 0 or field[1] + field_size > size:
                return "a field outside its element"
            has_objects = has_objects or holds_objects(field[0])
    return _object_flags_reason(has_objects, state)


def _object_flags_reason(has_objects: bool, state: tuple[Value, ...]) -> str | None:
    """Check that a dtype of objects has the flags of one. Before version 3 numpy sets them."""
    version, flags = state[0], state[7] if len(state) > 7 else 0
    if not has_objects or (type(version) is int and version < 3):
        return None
    if type(flags) is not int or flags & _OBJECT_FLAGS != _OBJECT_FLAGS:
        return "a dtype of objects that denies to hold any"
    return None


def item_size(dtype: Value) -> int | None:
    """Return the bytes of one element, or None if the dtype is not numpy's or records no size."""
    if not isinstance(dtype, Call) or not isinstance(dtype.func, Global) or not dtype.args:
        return None
    if dtype.func.path != NUMPY_DTYPE:
        return None
    state, name = dtype.state, dtype.args[0]
    size = state[5] if isinstance(state, tuple) and len(state) > 5 else None
    if type(size) is int and size >= 0:
        return size
    return numpy_itemsize(name) if isinstance(name, str) else None


def holds_objects(dtype: Value) -> bool:
    """Return True if elements of the dtype are, or contain, Python objects."""
    if not isinstance(dtype, Call) or not dtype.args:
        return True
    name, state = dtype.args[0], dtype.state
    if isinstance(name, str) and "O" in name:
        return True
    if state is None:
        return not isinstance(name, str)
    flags = state[7] if isinstance(state, tuple) and len(state) > 7 else 0
    return type(flags) is not int or bool(flags & _HAS_OBJECT)
