"""Read numpy's arrays, scalars and dtypes, as pickles of numpy 1 and 2 write them.

Sources: numpy's `ndarray.__reduce__` (`_reconstruct`, then BUILD with version, shape, dtype,
order and bytes), `ndarray.__reduce_ex__(5)` (`_frombuffer`), `generic.__reduce__` (`scalar`),
`dtype.__reduce__`. Their module is `numpy.core…` in numpy 1 and `numpy._core…` in numpy 2.

Also the strides of torch's views, and whether their storages have the elements that they need.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import by_numpy_code, decoder, numpy_itemsize, numpy_name
from ptinspect.pickling.pyobjects import (
    RECONSTRUCTORS,
    as_bytes,
    as_sequence,
    function_path,
    global_path,
    resolve_global,
)
from ptinspect.pickling.values import Blob, Call, Global, PersistentId, TensorCall, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_DIMS = 64
"""Dimensions of a tensor, and of an array since numpy 2 (32 before). Both refuse more."""
_MAX_HELPERS = 8
"""Calls in one another that make a dtype."""


class Array(NamedTuple):
    """A numpy array: its dtype as numpy spells it (`<f4`), its stride in elements, and the value
    that holds its bytes, a list of objects for the dtype `|O`."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    data: Value

    @property
    def name(self) -> str:
        """The dtype as numpy prints it, e.g. `float32`."""
        return numpy_name(self.dtype)

    @property
    def content(self) -> Blob | bytes | None:
        """Its bytes; None for objects."""
        return self.data if isinstance(self.data, Blob) else as_bytes(self.data)


def _numpy_function(value: Value) -> str:
    """Return the numpy function that `value` calls, without the module that moved in numpy 2."""
    path = function_path(value) if isinstance(value, Call) else None
    if not path or not path.startswith("numpy."):
        return ""
    return path.removeprefix("numpy.").removeprefix("_core.").removeprefix("core.")


def dtype_code(value: Value) -> str | None:
    """Return `numpy.dtype("f4")`, with its byte order from BUILD, as `<f4`."""
    # numpy 2 pickles some dtypes by their class, e.g. numpy.dtypes.Float32DType: not read.
    if not isinstance(value, Call) or _numpy_function(value) != "dtype":
        return None
    code = value.args[0] if value.args else None
    if not isinstance(code, str):
        return None
    state = value.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    return f"{order if isinstance(order, str) else '|'}{code}"


def as_array(value: Value, scalars: bool = False) -> Array | None:
    """Return the array that `value` stands for, with `scalars` also that without dimensions for a
    scalar; None for other values."""
    if not isinstance(value, Call):
        return None
    function = _numpy_function(value)
    if scalars and function == "multiarray.scalar":
        code = dtype_code(value.args[0]) if value.args else None
        return Array(code, (), (), value.args[1] if len(value.args) > 1 else None) if code else None
    if function == "multiarray._reconstruct":
        state = value.state
        if not isinstance(state, tuple) or len(state) < 5:
            return None
        shape, dtype, is_fortran, data = state[1], dtype_code(state[2]), state[3] is True, state[4]
    elif function == "numeric._frombuffer" and len(value.args) == 4:
        data, dtype, shape = value.args[0], dtype_code(value.args[1]), value.args[2]
        is_fortran = value.args[3] == "F"
    else:
        return None
    if dtype is None:
        return None
    sizes = tuple(size for size in as_sequence(shape) or () if isinstance(size, int))
    return Array(dtype, sizes, contiguous_strides(sizes, is_fortran), data)


def contiguous_strides(shape: tuple[int, ...], is_fortran: bool = False) -> tuple[int, ...]:
    """Return the strides, in elements, of an array in C (or Fortran) order without gaps."""
    strides, step = [], 1
    for size in shape if is_fortran else reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(strides if is_fortran else reversed(strides))


@lru_cache(1 << 10)  # thousands of tensors of a model have the same few shapes
def is_in_c_order(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return True if the elements of a tensor follow each other in C order."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return 0 in shape
        expected *= size
    return True


@lru_cache(1 << 10)
def required_numel(offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many elements the storage of a view needs; 0 if the view is empty."""
    last = offset
    for size, step in zip(shape, stride, strict=False):
        if size == 0:
            return 0
        last += (size - 1) * step
    return last + 1


def as_scalar(value: Value) -> tuple[str, Value] | None:
    """Return a numpy scalar's type name and its number or text (None if it cannot be read)."""
    array = as_array(value, scalars=True)
    is_scalar = _numpy_function(value) == "multiarray.scalar"
    if array is None or not isinstance(value, Call) or not is_scalar:
        return None
    code, name, raw = array.dtype, array.name, array.content
    raw = raw.read() if isinstance(raw, Blob) else raw
    if raw is None:
        return name, None
    is_big = code[0] == ">"
    if code.lstrip("<>=|")[:1] == "U":
        return name, raw.decode("utf-32-be" if is_big else "utf-32-le", "replace").rstrip("\0")
    dtype = by_numpy_code(code)
    if dtype is None or len(raw) != dtype.itemsize:
        return name, None
    if dtype.kind == "bool" and "numpy.core." in (function_path(value) or ""):
        name = "bool_"  # numpy 2 calls it bool
    return name, decoder(dtype, "big" if is_big else "little")(raw)[0]


NUMPY_DTYPE = "numpy.dtype"

REBUILDERS_FROM_TYPE = frozenset(
    f"torch.{module}._rebuild_from_type{version}"
    for module in ("_tensor", "tensor")
    for version in ("", "_v2")
)

_HAS_OBJECT = 0x01
_OBJECT_FLAGS = 0x1B
"""NPY_ITEM_REFCOUNT, LIST_PICKLE, NEEDS_INIT and NEEDS_PYAPI: every dtype of objects has them."""

_MAX_ITEM_SIZE = 1 << 31  # numpy counts the bytes of an element in a C int
_NAME = re.compile(r"[<>=|]?([a-zA-Z?])([0-9]{0,10})")

_RECORD_CLASSES = frozenset(
    ("numpy.record", "numpy.rec.record", "numpy.core.records.record", "numpy._core.records.record")
)


def builds_dtype(call: Call) -> bool:
    """Return True if a call creates a numpy dtype, by itself or through a helper."""
    func: Value = call
    for _ in range(_MAX_HELPERS):
        if not isinstance(func, Call):
            break
        target = resolve_global(func.func)
        is_helper = target and target.path in (*RECONSTRUCTORS, *REBUILDERS_FROM_TYPE)
        func = (resolve_global(func.args[0]) or func.args[0]) if is_helper and func.args else target
    return isinstance(func, Global) and func.path == NUMPY_DTYPE


def invalid_dtype_reason(dtype: Call, is_foreign: bool) -> str | None:
    """Return what is wrong with a dtype that BUILD was applied to, or None if it is valid. One of a
    package's own (`is_foreign`) may have any state.

    numpy trusts what a dtype records: a dtype of objects that denies to hold any turns the file's
    bytes into pointers, and a field outside its element reads memory outside the array.

    Source: numpy/_core/src/multiarray/descriptor.c, `arraydescr_reduce` and `arraydescr_setstate`.
    The state is (version, order, (base, shape), names, fields, itemsize, alignment, flags), with -1
    for both sizes if the dtype's name implies them; a field is (dtype, offset), or (dtype, offset,
    title).
    """
    if not isinstance(dtype.func, Global) or dtype.func.path != NUMPY_DTYPE:
        return "a dtype in a form that numpy does not write"
    if dtype.changes is None or len(dtype.changes.states) != 1:
        return "a dtype whose state is set twice"
    state = dtype.state
    if not isinstance(state, tuple) or len(state) < 6:
        return "a dtype with an invalid state"
    name = dtype.args[0] if dtype.args else None
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    kind = match[1] if match else None  # the letter by which a name begins
    if isinstance(name, Global) and name.path in _RECORD_CLASSES:
        kind = "V"
    if kind is None:
        return None if is_foreign else "a dtype in a form that numpy does not write"
    if len(dtype.args) < 3 or not dtype.args[2]:  # the argument `copy`
        return "changes a dtype of numpy's own"
    has_parts = any(part is not None for part in state[2:5])
    size = state[5]
    if kind not in "VSUa":
        if has_parts or size != -1:
            return "a plain dtype that has parts, or another size than its name says"
        return _object_flags_reason(kind == "O", state)
    if type(size) is not int or not 0 <= size < _MAX_ITEM_SIZE or (kind == "U" and size % 4):
        return "a dtype with an invalid item size"
    if kind != "V":
        return "a dtype of text that has parts" if has_parts else None
    return _invalid_structure_reason(state, size)


def _invalid_structure_reason(state: tuple[Value, ...], size: int) -> str | None:
    """Check a structured dtype, or one whose element is an array."""
    has_objects = False
    subarray, names, fields = state[2:5]
    if subarray is not None:
        base, shape = subarray if isinstance(subarray, tuple) and len(subarray) == 2 else (None, 0)
        total = item_size(base)
        lengths = shape if isinstance(shape, tuple) else (shape,)
        is_shape = all(type(length) is int and length >= 0 for length in lengths)
        if total is None or len(lengths) > MAX_DIMS or not is_shape:
            return "an invalid array as an element"
        for length in lengths:
            assert isinstance(length, int)
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
            dtype, offset = field[:2] if isinstance(field, tuple) and len(field) > 1 else (None, 0)
            field_size = item_size(dtype)
            if field_size is None or type(offset) is not int:
                return "an invalid field"
            if not 0 <= offset <= size - field_size:
                return "a field outside its element"
            has_objects = has_objects or holds_objects(dtype)
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


# --- views of storages --------------------------------------------------------------------

VIEW_FUNCTIONS = frozenset(
    f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "qtensor")
)

_PACKED = {"torch.QUInt4x2Storage": 2, "torch.QUInt2x4Storage": 4}
"""Elements of a tensor in each byte of such a storage."""


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
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) > MAX_DIMS:
        return False
    stride = stride[: len(size)]
    if not set(map(type, (*size, *stride))) <= {int}:
        return False
    needed = required_numel(offset, size, stride)
    if needed <= numel:
        return False
    storage_type = fields[1].path if isinstance(fields[1], Global) else ""
    return needed > numel * _PACKED.get(storage_type, 1)


EXCEEDS_STORAGE = "a tensor extends past the end of its storage"
"""CVE-2026-24747 and similar; torch itself refuses such a view."""


def conflicting_storages(
    persistent: Sequence[PersistentId | TensorCall],
) -> Iterator[tuple[str, int, str]]:
    """Yield (name, offset, reason) of storages with two sizes (CVE-2026-24747: memory behind the
    smaller one is read) or types (torch reads all views by the first one), and of views that exceed
    their storage in `tensor_fastpath`."""
    seen: dict[Value, tuple[Value, Value]] = {}
    fitting: set[int] = set()  # ids of forms
    for item in persistent:
        key: Value
        numel: Value
        storage_type: Value
        if isinstance(item, TensorCall):
            form, key, offset = item.form, item.storage_key, item.persistent_id_offset
            numel, storage_type = form.numel, form.storage_type
            if id(form) not in fitting:
                if required_numel(form.storage_offset, form.size, form.stride) > form.numel:
                    yield "tensor", item.offset, EXCEEDS_STORAGE
                else:
                    fitting.add(id(form))
        else:
            fields, offset = item.value, item.offset
            if not isinstance(fields, tuple) or len(fields) < 5 or fields[0] != "storage":
                continue
            storage_type, key, numel = fields[1], fields[2], fields[4]
        if not isinstance(key, str | int):
            continue
        first = seen.setdefault(key, (numel, storage_type))
        if first[0] != numel:
            yield "storage", offset, "a storage is recorded with two sizes"
        elif first[1] is not storage_type and global_path(first[1]) != global_path(storage_type):
            yield "storage", offset, "a storage is recorded with two types"
