"""Which storages are written, and where in them each tensor lies.

Tensors that share a storage go on sharing it, at the same distances where they overlap. What
none of them shows is left behind, so that a slice of a large storage is written as the slice.
A storage of which nothing is left behind is copied as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.tensors import dtype_cast
from ptinspect.conversion.tensors.byte_ranges import Cast, Gather, Piece, Range
from ptinspect.conversion.tensors.pickle_values import storage_class
from ptinspect.document.tensor import Storage
from ptinspect.errors import DamagedError, Place, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType


_PACKED = ("quint4x2", "quint2x4")
"""Quantized types of which several elements lie in a byte: their storage is taken whole."""


class Wish(NamedTuple):
    """What is to be changed of every tensor: its dtype (floating ones), its device, its layout."""

    dtype: DType | None = None
    device: str | None = None
    contiguous: bool = False

    def dtype_of(self, tensor: Tensor) -> DType:
        """The dtype that a tensor is written with."""
        own = tensor.dtype
        if own is None:
            raise UnsupportedError("a tensor whose dtype only foreign code would tell")
        wanted = self.dtype
        if wanted is None or tensor.quantizer or not dtype_cast.can_cast(own):
            return own
        return wanted


class Written:
    """A storage of the output. kind: what its dtype is called there; key: its name in the zip,
    given when it is first referred to."""

    __slots__ = ("dtype", "key", "location", "pieces")

    def __init__(self, pieces: list[Piece], dtype: DType, location: str) -> None:
        self.pieces = pieces
        self.dtype = dtype
        self.location = location
        self.key: str | None = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return sum(piece.length for piece in self.pieces)


class Spot(NamedTuple):
    """Where a tensor lies: `offset` in elements of `dtype`; laid_out: in C order without gaps,
    whatever its strides were."""

    written: Written
    offset: int
    dtype: DType
    laid_out: bool


class Layout:
    """The storages for a number of tensors, planned together. Give all, then ask for each."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self._uses: dict[tuple[object, ...], dict[int, Tensor]] = {}
        self._whole: dict[tuple[object, ...], list[Storage]] = {}
        self._spots: dict[int, Spot] = {}
        self._storages: dict[int, Written] = {}
        self._alone: dict[tuple[object, ...], Written] = {}
        self._planned = False

    def add(self, tensor: Tensor) -> None:
        """A tensor that will be written. UnsupportedError where it is not dense, DamagedError
        where it reaches beyond its storage."""
        storage, own = tensor.storage, tensor.stored
        if storage is None or own is None or tensor.stride is None:
            raise UnsupportedError("the tensor has no bytes of its own in the file")
        check_extent(tensor)
        group = (id(storage.archive), storage.key, storage_class(own).name)
        self._uses.setdefault(group, {})[id(tensor)] = tensor

    def add_storage(self, storage: Storage, dtype: DType) -> None:
        """A storage that is itself a value of the file: written whole."""
        storage.check()
        group = (id(storage.archive), storage.key, storage_class(dtype).name)
        self._whole.setdefault(group, []).append(storage)
        self._uses.setdefault(group, {})

    def plan(self) -> None:
        """Decides about all that was given."""
        for group, tensors in self._uses.items():
            self._plan_group(list(tensors.values()), self._whole.get(group, []))
        self._planned = True

    def spot(self, tensor: Tensor) -> Spot:
        """Where a tensor lies."""
        return self._spots[id(tensor)]

    def dtype_of(self, tensor: Tensor) -> DType | None:
        """The dtype that a tensor is written with; None for one that is not dense."""
        spot = self._spots.get(id(tensor))
        return spot.dtype if spot else None

    def storage(self, storage: Storage) -> Written:
        """The written storage of one that is itself a value."""
        return self._storages[id(storage)]

    # --- one source storage ---------------------------------------------------------------

    def _plan_group(self, tensors: list[Tensor], whole: list[Storage]) -> None:
        kept = [tensor for tensor in tensors if not self._must_be_laid_out(tensor)]
        if not _may_share(kept, self.wish):
            kept = []
        for tensor in tensors:
            if tensor not in kept:
                self._lay_out(tensor)
        if kept or whole:
            self._keep(kept, whole)

    def _must_be_laid_out(self, tensor: Tensor) -> bool:
        odd = tensor.dtype is not tensor.stored
        return odd or (self.wish.contiguous and not tensor.is_contiguous)

    def _lay_out(self, tensor: Tensor) -> None:
        """A storage for one tensor alone; views that are the same share it."""
        target = self.wish.dtype_of(tensor)
        mark = (*same(tensor), target)
        if mark not in self._alone:
            assert tensor.dtype is not None and tensor.storage is not None
            convert = None if target is tensor.dtype else dtype_cast.caster(tensor.dtype, target)
            piece = Gather(tensor, target, convert)
            self._alone[mark] = Written([piece], target, self._location(tensor.storage))
        self._spots[id(tensor)] = Spot(self._alone[mark], 0, target, True)

    def _keep(self, tensors: list[Tensor], whole: list[Storage]) -> None:
        """One storage for all of them."""
        first = tensors[0].storage if tensors else whole[0]
        assert first is not None
        root = whole[0] if whole else first
        source = tensors[0].stored if tensors else None
        target = self.wish.dtype_of(tensors[0]) if tensors else None
        if source is None or target is None or whole:
            source = target = source or _byte()
        spans = [_span(tensor) for tensor in tensors if tensor.numel]
        spans += [(each.begin, each.begin + each.nbytes) for each in whole]
        regions = _regions(spans, _grain(tensors))
        written = Written([], target, self._location(root))
        moved = {}
        total = 0
        for low, high in regions:
            moved[low] = total - low
            piece = _piece(_root_of(first, high), low, high, source, target)
            written.pieces.append(piece)
            total += high - low
        for tensor in tensors:
            low, _ = _span(tensor)
            start = _begin(tensor)
            at = start + _moved(low, regions, moved) - low if tensor.numel else 0
            own = tensor.stored or source
            offset = at // own.itemsize if tensor.numel else _empty(tensor, total)
            self._spots[id(tensor)] = Spot(written, offset, self.wish.dtype_of(tensor), False)
        for each in whole:
            self._storages[id(each)] = written

    def _location(self, storage: Storage) -> str:
        return self.wish.device or storage.location


def same(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors exactly when they are the same values in the same bytes."""
    return (*tensor.view_key(), tensor.conj, tensor.neg)


def check_extent(tensor: Tensor) -> None:
    """DamagedError where a tensor reaches beyond its storage, or that beyond the file."""
    storage, dtype = tensor.storage, tensor.stored
    if storage is None or dtype is None:
        return
    low, high = tensor.extent
    if dtype.name in _PACKED:
        high = low
    if tensor.numel and (low < 0 or high * dtype.itemsize > storage.nbytes):
        raise DamagedError(
            f"a tensor reaches beyond its storage {storage.key}: element {high:,} of "
            f"{storage.nbytes // dtype.itemsize:,}",
            where=Place(storage.archive.record, tensor.pickle_offset),
        )
    storage.check()


def _may_share(tensors: list[Tensor], wish: Wish) -> bool:
    """Whether they can go on sharing a storage: what changes its elements must be the same for
    all of them."""
    if not tensors:
        return False
    changed = any(wish.dtype_of(tensor) is not tensor.dtype for tensor in tensors)
    swapped = any(t.storage is not None and t.storage.archive.byteorder == "big" for t in tensors)
    if not changed and not swapped:
        return True
    first = tensors[0].stored
    assert first is not None
    return all(t.stored is first and _span(t)[0] % first.itemsize == 0 for t in tensors)


def _begin(tensor: Tensor) -> int:
    """The byte of the root storage at which the tensor's storage_offset points."""
    assert tensor.storage is not None and tensor.stored is not None
    return tensor.storage.begin + (tensor.storage_offset or 0) * tensor.stored.itemsize


def _span(tensor: Tensor) -> tuple[int, int]:
    """The bytes of the root storage between which a tensor lies."""
    assert tensor.storage is not None and tensor.stored is not None
    low, high = tensor.extent
    size, begin = tensor.stored.itemsize, tensor.storage.begin
    if tensor.stored.name in _PACKED:
        return begin, begin + tensor.storage.nbytes
    return begin + low * size, begin + high * size


def _empty(tensor: Tensor, total: int) -> int:
    """The offset of a tensor without elements, which may point anywhere."""
    size = tensor.stored.itemsize if tensor.stored else 1
    return min(tensor.storage_offset or 0, total // size)


def _grain(tensors: Iterable[Tensor]) -> int:
    """What regions must be whole multiples of, so that each offset stays one in elements."""
    return max((tensor.stored.itemsize for tensor in tensors if tensor.stored), default=1)


def _regions(spans: list[tuple[int, int]], grain: int) -> list[tuple[int, int]]:
    """The spans' union, as ranges in order, their ends moved outwards to multiples of `grain`
    of the first where needed (a storage viewed as several types)."""
    made: list[tuple[int, int]] = []
    for low, high in sorted(set(spans)):
        low -= low % grain
        if made and low <= made[-1][1]:
            made[-1] = (made[-1][0], max(made[-1][1], high))
        else:
            if made:
                start, end = made[-1]
                made[-1] = (start, min(end + -end % grain, low))
            made.append((low, high))
    return made


def _moved(low: int, regions: list[tuple[int, int]], moved: dict[int, int]) -> int:
    """Where a byte of the source's storage lies in the written one."""
    from bisect import bisect_right

    start = regions[bisect_right(regions, low, key=lambda region: region[0]) - 1][0]
    return low + moved[start]


def _root_of(storage: Storage, high: int) -> Storage:
    """The root of a legacy view: the same bytes counted from their beginning."""
    if not storage.begin and high <= storage.nbytes:
        return storage
    return Storage(storage.archive, storage.key, storage.location, high)


def _piece(storage: Storage, low: int, high: int, source: DType, target: DType) -> Piece:
    big = storage.archive.byteorder == "big"
    inner = Range(storage, low, high)
    convert = dtype_cast.chained(
        dtype_cast.swapper(source) if big else None,
        dtype_cast.caster(source, target) if source is not target else None,
    )
    if convert is None:
        return inner
    return Cast(inner, convert, source.itemsize, target.itemsize)


def _byte() -> DType:
    from ptinspect.dtypes import DTYPES

    return DTYPES["uint8"]
