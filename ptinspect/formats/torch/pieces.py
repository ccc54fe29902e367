"""Tensors in pieces, which several files or ranks have, put together.

A piece is a box in the whole tensor. Before anything is read, `check_cover` proves that each
element of the tensor is in exactly one piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from ptinspect.dtypes import DType, dtype_by_name, dtype_of_class
from ptinspect.errors import DamagedError, LimitError, UnsupportedError
from ptinspect.formats.archive import CHUNK, Archive, FileRange, Span
from ptinspect.pickling.numpy_objects import is_in_c_order, required_numel
from ptinspect.pickling.pyobjects import (
    as_mapping,
    as_sequence,
    attributes_of,
    class_path,
    function_path,
)
from ptinspect.pickling.values import Call, Global, PersistentId, Value
from ptinspect.text import bounded_repr, printable_name

if TYPE_CHECKING:
    from ptinspect.source.base import Source

MAX_PIECES = 4096
"""Pieces of one tensor, which are compared with each other."""

BLOCK = 1 << 20
"""Bytes of a tensor that are put together at once, unless one row is larger."""

IOV_MAX = 1024
"""Number of buffers that `preadv` fills at most, on Linux and macOS."""

_REBUILD = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
_PARAMETER = "torch._utils._rebuild_parameter"
_OTHER_SIGN = bytes(byte ^ 0x80 for byte in range(256))
"""The last byte of a number, little-endian, with the sign changed."""


LEAVE_OUT = "convert a part without it: --entry PATH, or --exclude NAME"
"""The hint of errors in one tensor, of which the others are whole."""

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes of a piece in the whole tensor."""


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of a tensor in C order, little-endian: `nbytes` of a storage from `begin` on, or
    `data` if they are not together in the file. `key` is that of the storage. A range of a vector
    has the index of its `first` element there, and the `group` of parameters that the vector is."""

    archive: Archive
    span: Span
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    data: bytes | None = None
    key: str = ""
    first: int = 0
    group: int | None = None

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def range(self, start: int, stop: int) -> Elements:
        """Return elements `start` to `stop`, as a vector."""
        size = self.dtype.itemsize
        data = None if self.data is None else self.data[start * size : stop * size]
        return replace(
            self, shape=(stop - start,), begin=self.begin + start * size, data=data,
            first=self.first + start,
        )  # fmt: skip

    def chunks(self, start: int, stop: int, size: int = CHUNK) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` of the elements."""
        if self.data is not None:
            return iter((self.data[start:stop],))
        return self.archive.chunks(self.span, self.begin + start, self.begin + stop, size)

    @property
    def place(self) -> tuple[int, int] | None:
        """Descriptor and offset of an open file that has these bytes, if there is one."""
        descriptor, offset = self.archive.source.descriptor, self.span.offset
        if self.data is not None or descriptor is None or offset is None:
            return None
        return descriptor, offset + self.begin


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor.

    Attributes:
        offsets, shape: its place in the whole tensor, in elements.
        path: the file, relative to the folder.
        vector: of DeepSpeed: first element and end in a vector of the file, and the index of that
            vector's parameter group; None as index for a tensor that is there by its name.
        open: returns the elements, and those of copies in other files, which must be equal.
            DamagedError if the file is missing or damaged.
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    path: str
    open: Callable[[], list[Elements]]
    vector: tuple[int, int, int | None] | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the object that `show -f json` prints."""
        if self.vector is None:
            return {"file": self.path, "offsets": self.offsets, "shape": self.shape}
        first, stop, group = self.vector
        entry: dict[str, object] = {"file": self.path, "elements": [first, stop]}
        return entry if group is None else entry | {"group": group}


class PiecedSpan(Span):
    """The bytes of a whole tensor, in C order, put together from its pieces. `name` names it in
    errors."""

    __slots__ = ("dtype", "name", "pieces", "shape")

    def __init__(
        self, dtype: DType, shape: tuple[int, ...], pieces: list[Piece], name: str = "a tensor"
    ) -> None:
        super().__init__(None, prod(shape) * dtype.itemsize, None, None)
        self.dtype = dtype
        self.shape = shape
        self.name = name
        self.pieces = sorted(pieces, key=lambda piece: piece.offsets)

    def chunks(self, source: Source, start: int, stop: int, size: int) -> Iterator[bytes]:
        """See `Span.chunks`. Pieces that are whole rows follow one another."""
        if not self._is_in_rows:
            yield from _assemble(self, start, stop)
            return
        for piece, low, high in self._rows(start, stop):
            yield from _equal_chunks(self.name, piece.open(), low, high, size)

    @property
    def _is_in_rows(self) -> bool:
        return all(piece.shape[1:] == self.shape[1:] for piece in self.pieces)

    def _rows(self, start: int, stop: int) -> Iterator[tuple[Piece, int, int]]:
        """Yield the pieces of bytes `start` to `stop`, and the range of bytes in each."""
        row_bytes = self.length // self.shape[0] if self.pieces and self.shape else self.length
        for piece in self.pieces:
            begin = piece.offsets[0] * row_bytes if self.shape else 0
            length = prod(piece.shape) * self.dtype.itemsize
            low, high = max(start - begin, 0), min(stop - begin, length)
            if low < high:
                yield piece, low, high

    def file_ranges(self, start: int, stop: int) -> list[FileRange] | None:
        """See `Span.file_ranges`. None also for pieces with copies, which have to be compared."""
        ranges: list[FileRange] = []
        for piece, low, high in self._rows(start, stop) if self._is_in_rows else ():
            elements, *copies = piece.open()
            if copies or elements.place is None:
                return None
            descriptor, offset = elements.place
            is_whole = not elements.begin and (low, high) == (0, elements.span.length)
            crc = elements.span.crc if is_whole else None
            ranges.append(FileRange(descriptor, offset + low, high - low, crc))
        return ranges or None


def _assemble(span: PiecedSpan, start: int, stop: int) -> Iterator[bytes]:
    """Yield bytes of a tensor that is cut in other dimensions than the first."""
    row_bytes = span.length // span.shape[0]
    opened: dict[int, tuple[list[Elements], tuple[list[int], int]]] = {}
    step = max(BLOCK // row_bytes, 1)
    end = -(-stop // row_bytes)
    block = memoryview(bytearray(step * row_bytes))
    for first in range(start // row_bytes, end, step):
        last = min(first + step, end)
        for number, piece in enumerate(span.pieces):
            low = max(first, piece.offsets[0])
            high = min(last, piece.offsets[0] + piece.shape[0])
            if low < high:
                if number not in opened:
                    opened[number] = piece.open(), _runs(span, piece)
                rows = block[(low - first) * row_bytes : (high - first) * row_bytes]
                _fill_rows(span, *opened[number], rows, low - piece.offsets[0])
        begin = max(start - first * row_bytes, 0)
        yield bytes(block[begin : min(stop - first * row_bytes, (last - first) * row_bytes)])


def _fill_rows(
    span: PiecedSpan, copies: list[Elements], row_runs: tuple[list[int], int], rows: memoryview,
    first_row: int,
) -> None:  # fmt: skip
    """Copy rows of a piece, from `first_row` on, to their places in rows of the whole tensor."""
    starts, length = row_runs
    row_bytes = span.length // span.shape[0]
    runs = [
        rows[begin + start : begin + start + length]
        for begin in range(0, len(rows), row_bytes)
        for start in starts
    ]
    begin, size = first_row * len(starts) * length, len(runs) * length
    if len(copies) == 1 and _read_runs(copies[0], begin, runs):
        return
    data = b"".join(_equal_chunks(span.name, copies, begin, begin + size, size))
    for index, run in enumerate(runs):
        run[:] = data[index * length : (index + 1) * length]


def _equal_chunks(
    name: str, copies: list[Elements], start: int, stop: int, size: int
) -> Iterator[bytes]:
    """Yield bytes of a piece. DamagedError if its copies differ."""
    for chunk in copies[0].chunks(start, stop, size):
        for copy in copies[1:]:
            if b"".join(copy.chunks(start, start + len(chunk))) != chunk:
                a, b = (os.path.basename(each.archive.source.path) for each in (copies[0], copy))
                raise DamagedError(
                    f"{name} should be the same in {printable_name(a)} and {printable_name(b)},"
                    " and differs",
                    hint=LEAVE_OUT,
                )
        start += len(chunk)
        yield chunk


def _runs(span: PiecedSpan, piece: Piece) -> tuple[list[int], int]:
    """Return where in a row of the whole the runs of a piece begin, and the bytes of a run: the
    elements that are together in both."""
    whole, part = span.shape[1:], piece.shape[1:]
    last = max((i for i in range(len(whole)) if whole[i] != part[i]), default=0)
    steps = [prod(whole[index + 1 :]) * span.dtype.itemsize for index in range(last + 1)]
    start = sum(offset * step for offset, step in zip(piece.offsets[1:], steps, strict=False))
    starts = [
        start + sum(number * step for number, step in zip(numbers, steps, strict=False))
        for numbers in product(*map(range, part[:last]))
    ]
    return starts, part[last] * steps[last]


def _read_runs(elements: Elements, start: int, runs: list[memoryview]) -> bool:
    """Fill buffers of one length with the bytes of a file from `start` on, without copying them in
    this process. False if that is not possible, or fails: then another read raises the error."""
    if elements.place is None or not hasattr(os, "preadv"):
        return False
    descriptor, offset = elements.place[0], elements.place[1] + start
    with suppress(OSError):
        for index in range(0, len(runs), IOV_MAX):
            buffers = runs[index : index + IOV_MAX]
            size = len(buffers) * len(buffers[0])
            if os.preadv(descriptor, buffers, offset) != size:
                return False
            offset += size
        return True
    return False


def locate(archive: Archive, value: Value, name: str) -> Elements:
    """Return the elements of a tensor, perhaps a parameter, in a file of torch.save. DamagedError
    if the value is not a strided tensor, or exceeds its storage; `name` names it in errors."""
    if isinstance(value, Call) and function_path(value) == _PARAMETER and value.args:
        value = value.args[0]
    args = value.args if isinstance(value, Call) and function_path(value) in _REBUILD else ()
    pid = args[0].value if len(args) > 3 and isinstance(args[0], PersistentId) else None
    dtype = None
    if isinstance(pid, tuple) and len(pid) > 4 and isinstance(pid[1], Global):
        dtype = dtype_of_class(pid[1].name)
    if len(args) > 6 and isinstance(args[6], Global):  # _rebuild_tensor_v3
        dtype = dtype_by_name(args[6].name)
    if dtype is None or not isinstance(args[1], int) or args[1] < 0:
        raise DamagedError(f"{name} is not a tensor")
    shape, stride, offset = sizes_of(args[2], name), sizes_of(args[3], name), args[1]
    if len(shape) != len(stride):
        raise DamagedError(f"{name} has {len(shape)} dimensions and {len(stride)} strides")
    assert isinstance(pid, tuple)
    owner, key = archive.resolve_storage(str(pid[2]))
    span = owner.storages.get(key)
    needed = required_numel(offset, shape, stride) * dtype.itemsize
    if span is None or owner.byteorder == "big" or needed > span.length:
        raise DamagedError(f"{name} exceeds its storage, or is big-endian")
    data = None
    if not is_in_c_order(shape, stride):
        raw, size = owner.read(span), dtype.itemsize
        starts = (
            offset + sum(number * step for number, step in zip(numbers, stride, strict=True))
            for numbers in product(*map(range, shape))
        )
        data = b"".join([raw[start * size : (start + 1) * size] for start in starts])
    bits = as_mapping(args[-1]) or {}
    if bits.get("conj") is True or bits.get("neg") is True:
        begin = offset * dtype.itemsize
        if data is None:
            data = owner.read(span, begin, begin + prod(shape) * dtype.itemsize)
        values, size = bytearray(data), dtype.itemsize  # torch applies the bits when it reads
        if bits.get("conj") is True:
            values[size - 1 :: size] = values[size - 1 :: size].translate(_OTHER_SIGN)
        if bits.get("neg") is True:
            part = size // 2 if dtype.name.startswith("complex") else size
            values[part - 1 :: part] = values[part - 1 :: part].translate(_OTHER_SIGN)
        data = bytes(values)
    return Elements(owner, span, dtype, shape, offset * dtype.itemsize, data, str(pid[2]))


def sizes_of(value: Value, name: str) -> tuple[int, ...]:
    """Return a shape, strides or offsets; DamagedError if it is something else."""
    if isinstance(value, Call) and len(value.args) == 1:  # torch.Size, in any spelling
        value = value.args[0]
    sizes = as_sequence(value)
    if sizes is None or not all(type(size) is int and 0 <= size < 1 << 62 for size in sizes):
        raise DamagedError(f"{name} has no shape")
    return tuple(sizes)  # type: ignore[arg-type]


def check_cover(name: str, shape: tuple[int, ...], pieces: list[Piece]) -> list[Piece]:
    """Return the pieces that have elements. DamagedError unless each element of the tensor is in
    exactly one."""
    real = [piece for piece in pieces if prod(piece.shape)]
    if len(real) > MAX_PIECES:
        raise LimitError(f"a tensor in {len(real):,} pieces", limit="streams")
    for piece in real:
        ends = [offset + size for offset, size in zip(piece.offsets, piece.shape, strict=False)]
        if len(piece.offsets) != len(shape) or len(piece.shape) != len(shape):
            raise DamagedError(f"a piece of {bounded_repr(name)} has other dimensions")
        if any(end > size for end, size in zip(ends, shape, strict=True)):
            raise DamagedError(f"a piece of {bounded_repr(name)} exceeds its shape {shape}")
    for number, a in enumerate(real):
        for b in real[:number]:
            if all(
                x < y + m and y < x + n
                for x, n, y, m in zip(a.offsets, a.shape, b.offsets, b.shape, strict=True)
            ):
                raise DamagedError(
                    f"two pieces of {bounded_repr(name)} overlap, at {b.offsets} and {a.offsets}"
                )
    covered = sum(prod(piece.shape) for piece in real)
    if covered != prod(shape):
        message = f"the pieces of {bounded_repr(name)} have {covered:,} of {prod(shape):,} elements"
        raise DamagedError(message)
    return real


# Places of the pieces of a DTensor


def mesh_shape(fields: dict[Value, Value], name: str) -> tuple[int, ...]:
    """Return the size of each dimension of a mesh: `_layout` since torch 2.9 or so, before that the
    tensor `mesh` of all ranks."""
    layout = fields.get("_layout")
    if isinstance(layout, Call):
        state = attributes_of(layout)
        sizes: list[int] = []
        for axis in as_sequence(state.get("axes")) or ():
            inner = attributes_of(axis) if isinstance(axis, Call) else {}
            sizes.append(prod(sizes_of(inner.get("shape"), bounded_repr(name))))
        if not sizes:
            value = state.get("shape")
            sizes = list(sizes_of((value,) if isinstance(value, int) else value, name))
        return tuple(sizes)
    mesh = fields.get("mesh")
    return sizes_of(mesh.args[2] if isinstance(mesh, Call) else None, bounded_repr(name))


def mesh_cuts(
    placements: Sequence[Value], sizes: tuple[int, ...], name: str
) -> list[tuple[int, int]]:
    """Return (dimension of the mesh, dimension of the tensor) of each cut, the outer ones first.
    `_StridedShard` is a cut that was made after those of later dimensions of the mesh."""
    normal: list[tuple[int, int]] = []
    strided: list[tuple[int, int]] = []
    for index, placement in enumerate(placements):
        kind = (class_path(placement) if isinstance(placement, Call) else None) or ""
        kind = kind.rpartition(".")[2]
        fields = attributes_of(placement) if isinstance(placement, Call) else {}
        dim = fields.get("dim")
        if kind == "Replicate":
            continue
        if kind not in ("Shard", "_StridedShard") or not isinstance(dim, int):
            raise UnsupportedError(f"{bounded_repr(name)} is placed by {kind or 'nothing known'}")
        (strided if kind == "_StridedShard" else normal).append((index, dim))
        factor = fields.get("split_factor")
        later = range(index + 1, len(placements))
        others = ((i, placements[i]) for i in later)
        same = [i for i, p in others if isinstance(p, Call) and attributes_of(p).get("dim") == dim]
        if kind == "_StridedShard" and factor != prod(sizes[i] for i in same):
            raise UnsupportedError(f"{bounded_repr(name)} is cut into strides of other processes")
    return [*normal, *reversed(strided)]


def piece_box(
    shape: tuple[int, ...], cuts: list[tuple[int, int]], sizes: tuple[int, ...],
    coordinate: tuple[int, ...],
) -> Box:  # fmt: skip
    """Return the piece of one process: each cut divides as `torch.chunk` does."""
    offsets, lengths = [0] * len(shape), list(shape)
    for index, dim in cuts:
        if not -len(shape) <= dim < len(shape):
            raise DamagedError(f"a tensor with {len(shape)} dimensions is cut along {dim}")
        step = -(-lengths[dim] // sizes[index])
        start = min(step * coordinate[index], lengths[dim])
        offsets[dim] += start
        lengths[dim] = min(step, lengths[dim] - start)
    return tuple(offsets), tuple(lengths)
