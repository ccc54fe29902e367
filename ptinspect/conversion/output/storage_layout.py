"""Which storages are written, and at which offset in them each tensor lies.

Tensors that share a storage keep sharing it, at the same distances where they overlap. Bytes
that no tensor uses are dropped, so that a slice of a large storage is written as the slice alone.
A storage whose every byte is used is copied unchanged.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.output.pieces import CAST_DTYPES, Piece, TensorPiece, storage_piece
from ptinspect.document.elements import dense_storage, out_of_bounds_error
from ptinspect.document.tensor import PACKED, Storage
from ptinspect.dtypes import DTYPES, DType
from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.values import TensorForm

    Group = tuple[object, ...]


class TensorOptions(NamedTuple):
    """Changes that apply to every tensor: the dtype of floating ones, the device tag, and whether
    strided ones are written in C order."""

    dtype: DType | None = None
    device: str | None = None
    contiguous: bool = False

    def output_dtype(self, tensor: Tensor) -> DType:
        """Return the dtype with which a tensor is written."""
        if tensor.dtype is None:
            raise UnsupportedError("a tensor whose dtype only the code of its class knows")
        if self.dtype is None or tensor.quantizer or tensor.dtype.name not in CAST_DTYPES:
            return tensor.dtype
        return self.dtype


@dataclass(slots=True, eq=False)
class OutputStorage:
    """A storage of the output: its bytes, its device tag, and its name in the zip, which is
    assigned when the pickle first refers to it."""

    pieces: Sequence[Piece]
    nbytes: int
    location: str
    key: str | None = None


class Placement(NamedTuple):
    """Storage, storage_offset and dtype of a tensor in the output, and whether it is written in C
    order whatever its strides were."""

    storage: OutputStorage
    offset: int
    dtype: DType
    contiguous: bool


_new_tuple = tuple.__new__  # skips the Python function that Placement(…) would call


class StorageLayout:
    """Lays out the storages of one output. Add all tensors, call `plan`, then ask for each.
    `placements` has the tensors by id, `by_source` the storages that were added as such."""

    def __init__(self, options: TensorOptions) -> None:
        self.options = options
        self._tensors: dict[Group, Tensor | None] = {}  # the first one of each group
        self._sharing: dict[Group, dict[int, Tensor]] = {}  # all of groups of several, by id
        self._bare_storages: dict[Group, list[Storage]] = {}
        self.placements: dict[int, Placement] = {}
        self.by_source: dict[int, OutputStorage] = {}
        self._by_view: dict[Group, OutputStorage] = {}
        self._forms: dict[int, DType] = {}  # by id: those that fit into their own storages

    def add_tensor(self, tensor: Tensor, form: TensorForm | None = None) -> None:
        """Add a tensor that will be written. UnsupportedError if it is not dense, DamagedError if
        it exceeds its storage. Tensors with the same `form` are alike, but for the storage."""
        checked, storage = self._forms.get(id(form)), tensor.storage
        if checked is not None and storage is not None:
            dtype = checked
            storage.check()
        else:
            storage, dtype = check_bounds(tensor)
            # Another reference to this storage may have enlarged it, but not that of the next one.
            if form is not None and tensor.extent[1] <= form.numel:
                self._forms[id(form)] = dtype
        group = (id(storage.archive), storage.key, dtype.storage)
        first = self._tensors.setdefault(group, tensor)
        if first is not tensor:
            sharing = self._sharing.setdefault(group, {id(first): first} if first else {})
            sharing[id(tensor)] = tensor

    def add_storage(self, storage: Storage, dtype: DType) -> None:
        """Add a storage that is a value of the pickle: it is written in full."""
        storage.check()
        if storage.begin:
            # A view of a storage in a legacy file. A zip has no views, so it becomes a copy.
            if id(storage) not in self.by_source:
                end = storage.begin + storage.nbytes
                root = _root_storage(storage, end)
                piece = storage_piece(root, storage.begin, end, dtype, dtype)
                self.by_source[id(storage)] = self._output(storage, [piece])
            return
        group = (id(storage.archive), storage.key, dtype.storage)
        self._bare_storages.setdefault(group, []).append(storage)
        self._tensors.setdefault(group, None)

    def plan(self) -> None:
        """Lay out everything that was added."""
        for group, first in self._tensors.items():
            bare, by_id = self._bare_storages.get(group, []), self._sharing.get(group)
            if first is not None and by_id is None and not bare and self._place_single(first):
                continue
            tensors = [*by_id.values()] if by_id else [first] if first is not None else []
            sharing = [
                tensor
                for tensor in tensors
                if tensor.dtype is tensor.stored
                and not (self.options.contiguous and not tensor.is_contiguous)
            ]
            if not _can_share(sharing, self.options):
                sharing = []
            shared_ids = set(map(id, sharing))
            for tensor in tensors:
                if id(tensor) not in shared_ids:
                    self._place_alone(tensor)
            if sharing or bare:
                self._place_together(sharing, bare)

    def _place_single(self, tensor: Tensor) -> bool:
        """Place the only tensor of a storage, which is the usual case, and return True; return
        False if its elements have to be moved."""
        source, storage = tensor.stored, tensor.storage
        if source is None or storage is None or tensor.dtype is not source:
            return False
        low, high = byte_span(tensor)
        if not tensor.numel or low % source.itemsize:
            return False
        if self.options.contiguous and not tensor.is_contiguous:
            return False
        dtype = self.options.output_dtype(tensor)
        piece = storage_piece(_root_storage(storage, high), low, high, source, dtype)
        output = self._output(storage, (piece,))
        begin = storage.begin - low + (tensor.storage_offset or 0) * source.itemsize
        placement = (output, begin // source.itemsize, dtype, False)
        self.placements[id(tensor)] = _new_tuple(Placement, placement)
        return True

    def _place_alone(self, tensor: Tensor) -> None:
        """Give a tensor a storage of its own. Identical views share it."""
        dtype = self.options.output_dtype(tensor)
        view = (*tensor.view_key(), dtype)
        if view not in self._by_view:
            assert tensor.storage is not None
            self._by_view[view] = self._output(tensor.storage, (TensorPiece(tensor, dtype),))
        self.placements[id(tensor)] = Placement(self._by_view[view], 0, dtype, True)

    def _place_together(self, tensors: list[Tensor], bare: list[Storage]) -> None:
        """Give tensors, and references to their source storage itself, one storage."""
        storage = tensors[0].storage if tensors else bare[0]
        assert storage is not None
        if tensors and not bare:
            assert tensors[0].stored is not None
            source, target = tensors[0].stored, self.options.output_dtype(tensors[0])
        else:  # bytes that are referred to as such are never converted
            source = target = (tensors[0].stored if tensors else None) or DTYPES["uint8"]
        spans = [byte_span(tensor) for tensor in tensors if tensor.numel]
        spans += [(0, reference.nbytes) for reference in bare]
        itemsizes = [tensor.stored.itemsize for tensor in tensors if tensor.stored]
        regions = _merge_spans(spans, max(itemsizes, default=1))
        pieces: list[Piece] = []
        shifts: list[int] = []  # per region: from an offset in the source to one in the output
        total = 0
        for low, high in regions:
            shifts.append(total - low)
            root = _root_storage(storage, high)
            pieces.append(storage_piece(root, low, high, source, target))
            total += high - low
        output = self._output(bare[0] if bare else storage, pieces)
        starts = [low for low, _ in regions]
        for tensor in tensors:
            itemsize = (tensor.stored or source).itemsize
            if tensor.numel:
                assert tensor.storage is not None
                low, _ = byte_span(tensor)
                begin = tensor.storage.begin + (tensor.storage_offset or 0) * itemsize
                offset = (begin + shifts[bisect_right(starts, low) - 1]) // itemsize
            else:  # may point anywhere
                offset = min(tensor.storage_offset or 0, total // itemsize)
            dtype = self.options.output_dtype(tensor)
            self.placements[id(tensor)] = Placement(output, offset, dtype, False)
        for reference in bare:
            self.by_source[id(reference)] = output

    def _output(self, storage: Storage, pieces: Sequence[Piece]) -> OutputStorage:
        nbytes = pieces[0].length if len(pieces) == 1 else sum(piece.length for piece in pieces)
        return OutputStorage(pieces, nbytes, self.options.device or storage.location)


def check_bounds(tensor: Tensor) -> tuple[Storage, DType]:
    """Return the storage of a dense tensor and the dtype of its elements there. UnsupportedError if
    it is not dense, DamagedError if it exceeds its storage, or the storage the file."""
    storage, dtype = dense_storage(tensor)
    low, high = tensor.extent
    if dtype.name in PACKED:
        high = low
    if (low < 0 or high * dtype.itemsize > storage.nbytes) and tensor.numel:
        raise out_of_bounds_error(tensor, storage, high, dtype.itemsize)
    storage.check()
    return storage, dtype


def _can_share(tensors: list[Tensor], options: TensorOptions) -> bool:
    """Return True if tensors can keep sharing a storage: a conversion of its elements must be
    the same for all of them."""
    if not tensors:
        return False
    is_cast = any(options.output_dtype(tensor) is not tensor.dtype for tensor in tensors)
    if not is_cast and not any(t.storage and t.storage.archive.byteorder == "big" for t in tensors):
        return True
    dtype = tensors[0].stored
    assert dtype is not None
    return all(t.stored is dtype and byte_span(t)[0] % dtype.itemsize == 0 for t in tensors)


def byte_span(tensor: Tensor) -> tuple[int, int]:
    """Return the bytes of the root storage between which a tensor lies."""
    assert tensor.storage is not None and tensor.stored is not None
    begin, itemsize = tensor.storage.begin, tensor.stored.itemsize
    if tensor.stored.name in PACKED:
        return begin, begin + tensor.storage.nbytes
    low, high = tensor.extent
    return begin + low * itemsize, begin + high * itemsize


def _merge_spans(spans: list[tuple[int, int]], unit: int) -> list[tuple[int, int]]:
    """Return the union of the spans as ranges in order. Ends are moved outwards to multiples of
    `unit` where needed (a storage viewed as several dtypes), so that every offset remains a whole
    number of elements."""
    regions: list[tuple[int, int]] = []
    for low, high in sorted(set(spans)):
        low -= low % unit
        if regions and low <= regions[-1][1]:
            regions[-1] = (regions[-1][0], max(regions[-1][1], high))
            continue
        if regions:
            start, end = regions[-1]
            regions[-1] = (start, min(end + -end % unit, low))
        regions.append((low, high))
    return regions


def _root_storage(storage: Storage, high: int) -> Storage:
    """Return the root of a legacy view: the same bytes, counted from their beginning."""
    if not storage.begin and high <= storage.nbytes:
        return storage
    return Storage(storage.archive, storage.key, storage.location, high)
