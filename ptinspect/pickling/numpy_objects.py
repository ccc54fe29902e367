"""Read numpy's arrays, scalars and dtypes, as pickles of numpy 1 and 2 write them.

Sources: numpy's `ndarray.__reduce__` (`_reconstruct`, then BUILD with version, shape, dtype,
order and bytes), `ndarray.__reduce_ex__(5)` (`_frombuffer`), `generic.__reduce__` (`scalar`),
`dtype.__reduce__`. Their module is `numpy.core…` in numpy 1 and `numpy._core…` in numpy 2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ptinspect.dtypes import by_numpy_code, decoder, numpy_name
from ptinspect.pickling.pyobjects import as_bytes, as_sequence, function_path
from ptinspect.pickling.values import Call, Value


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


def as_array(value: Value) -> Array | None:
    """Return the array that `value` stands for; None for other values."""
    if not isinstance(value, Call):
        return None
    function = _numpy_function(value)
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


def scalar_as_array(value: Value) -> Array | None:
    """Return the array without dimensions that has the bytes of a numpy scalar; None for other
    values."""
    if not isinstance(value, Call) or _numpy_function(value) != "multiarray.scalar":
        return None
    code = dtype_code(value.args[0]) if value.args else None
    return Array(code, (), (), value.args[1] if len(value.args) > 1 else None) if code else None


def as_scalar(value: Value) -> tuple[str, Value] | None:
    """Return a numpy scalar's type name and its number or text (None if it cannot be read)."""
    array = scalar_as_array(value)
    if array is None or not isinstance(value, Call):
        return None
    code, name, raw = array.dtype, array.name, as_bytes(array.data)
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
