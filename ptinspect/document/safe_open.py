"""The interface of `safetensors.safe_open`, for every format that ptinspect reads."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from ptinspect.document.document import open as open_document
from ptinspect.document.to_array import to_numpy, to_torch
from ptinspect.errors import PtInspectError, add_error_path

if TYPE_CHECKING:
    from os import PathLike
    from types import EllipsisType

    from ptinspect.document.document import Document
    from ptinspect.document.tensor import Tensor

    Index = int | slice | EllipsisType

_FRAMEWORKS = {
    **dict.fromkeys(("pt", "torch", "pytorch"), "pt"),
    **dict.fromkeys(("np", "numpy"), "np"),
}


def safe_open(
    path: str | PathLike[str], framework: str, device: str | int = "cpu"
) -> SafeTensorFile:
    """Open a file of any format like `safetensors.safe_open`: a context manager.

    Args:
        path: a file, or a folder that is one checkpoint.
        framework: `pt` for tensors of torch, `np` for arrays of numpy.
        device: where `pt` moves each tensor; the device that the file records does not count.

    Raises:
        PtInspectError: an error of `open`, or an unknown framework.
    """
    if framework not in _FRAMEWORKS:
        raise PtInspectError(f"the framework {framework!r} is neither 'pt' nor 'np'")
    if _FRAMEWORKS[framework] == "np" and device != "cpu":
        raise PtInspectError(f"numpy has no device {device!r}, only 'cpu'")
    return SafeTensorFile(open_document(path), _FRAMEWORKS[framework], device)


class SafeTensorFile:
    """The tensors of an open file, by the keys that `show` prints."""

    def __init__(self, document: Document, framework: str, device: str | int) -> None:
        self._document = document
        self._framework = framework
        self._device = device

    def __enter__(self) -> SafeTensorFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._document.close()

    def keys(self) -> list[str]:
        """Return the keys in alphabetical order."""
        return sorted(self._document.tensors)

    def offset_keys(self) -> list[str]:
        """Return the keys in the order of the file."""
        return list(self._document.tensors)

    def metadata(self) -> dict[str, Any] | None:
        """Return the metadata of a safetensors or GGUF file; None for all others."""
        return self._document.archive.facts.get("metadata")  # type: ignore[return-value]

    def get_tensor(self, name: str) -> Any:
        """Return a tensor in C order. PtInspectError if there is none of this name."""
        return self._load(self._tensor(name))

    def get_tensors(self) -> dict[str, Any]:
        """Return all tensors by key, in the order of the file."""
        return {key: self._load(info.tensor) for key, info in self._document.tensors.items()}

    def get_slice(self, name: str) -> TensorSlice:
        """Return an object whose items are parts of a tensor, such as `get_slice("w")[:, ::8]`."""
        return TensorSlice(self, self._tensor(name))

    def _tensor(self, name: str) -> Tensor:
        if name not in self._document.tensors:
            raise PtInspectError(f"there is no tensor {name!r}", path=self._document.path)
        return self._document.tensors[name].tensor

    def _load(self, tensor: Tensor) -> Any:
        with add_error_path(self._document.path):
            if self._framework == "np":
                return to_numpy(tensor)
            loaded = to_torch(tensor)
        return loaded if self._device == "cpu" else loaded.to(self._device)


class TensorSlice:
    """A tensor of which only the parts that are asked for are read."""

    def __init__(self, file: SafeTensorFile, tensor: Tensor) -> None:
        self._file = file
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        """Return the shape of the whole tensor."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """Return the dtype as safetensors names it, e.g. `F32`; its name in torch if safetensors
        lacks it."""
        dtype = self._tensor.dtype
        return (dtype.safetensors or dtype.name) if dtype else self._tensor.encoding or "unknown"

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Any:
        """Return a part, indexed by integers, slices and `...` as in numpy."""
        items = index if isinstance(index, tuple) else (index,)
        view = _view(self._tensor, items)
        return self._file._load(self._tensor)[items] if view is None else self._file._load(view)


def _view(tensor: Tensor, items: tuple[Index, ...]) -> Tensor | None:
    """Return a part of a tensor as a view of its storage; None if it has no strides, or if the
    items are not integers, slices that step forward, and one `...`. IndexError as in numpy."""
    if tensor.stride is None or tensor.storage_offset is None or tensor.storage is None:
        return None
    dots = [number for number, item in enumerate(items) if item is ...]
    if tensor.quantizer or tensor.encoding or tensor.per_byte > 1 or len(dots) > 1:
        return None
    missing = len(tensor.shape) - len(items) + len(dots)
    if missing < 0:
        raise IndexError(f"{len(items)} indices for a tensor of {len(tensor.shape)} dimensions")
    middle, whole = (*dots, len(items))[0], (slice(None),) * missing
    offset, shape, stride = tensor.storage_offset, [], []
    for item, size, step in zip(
        (*items[:middle], *whole, *items[middle + 1 :]), tensor.shape, tensor.stride, strict=True
    ):
        if isinstance(item, slice):
            positions = range(*item.indices(size))
            if positions.step < 0:
                return None
            offset += positions.start * step
            shape.append(len(positions))
            stride.append(positions.step * step)
        elif type(item) is int:
            if not -size <= item < size:
                raise IndexError(f"index {item} for a dimension of {size}")
            offset += item % size * step
        else:
            return None
    view = copy(tensor)
    view.storage_offset, view.shape, view.stride = offset, tuple(shape), tuple(stride)
    return view
