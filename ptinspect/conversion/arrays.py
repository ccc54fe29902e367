"""NumPy arrays as weights, as in the `.pkl` files of detectron2: read as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.elements import swap_bytes
from ptinspect.document.tensor import InlineStorage, Tensor
from ptinspect.dtypes import DTYPES
from ptinspect.pickling.numpy_objects import as_array
from ptinspect.pickling.pyobjects import as_bytes, as_mapping
from ptinspect.pickling.values import Blob, Value, key_value

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive


def array_tensor(value: Value, archive: Archive) -> Tensor | None:
    """Return the tensor with the elements of a NumPy array; None for all other values, and for
    arrays of a dtype that torch does not have."""
    array = as_array(value)
    dtype = DTYPES.get(array.name) if array else None
    if array is None or dtype is None:
        return None
    data = array.data
    if not isinstance(data, Blob) and as_bytes(data) is None:
        return None
    if dtype.swap > 1 and (array.dtype[0] == ">") != (archive.byteorder == "big"):
        content = data.read() if isinstance(data, Blob) else as_bytes(data) or b""
        data = swap_bytes(content, dtype.swap)
    storage = InlineStorage(archive, data, "cpu")
    return Tensor(dtype, array.shape, array.stride, 0, storage, "cpu", False, 0)


def is_array_state_dict(value: Value) -> bool:
    """Return True for a mapping of strings to NumPy arrays."""
    items = as_mapping(value)
    return bool(items) and all(
        isinstance(key_value(key), str) and as_array(item) is not None
        for key, item in (items or {}).items()
    )
