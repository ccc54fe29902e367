"""Tensors that torch.distributed.checkpoint wrote in pieces, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from ptinspect.dtypes import DType
from ptinspect.errors import DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import Archive, Span
from ptinspect.formats.safetensors import Safetensors
from ptinspect.limits import Limits
from ptinspect.pickling.pyobjects import as_mapping, as_sequence
from ptinspect.pickling.values import Call, Global, PersistentId, TensorCall
from ptinspect.source.base import MemorySource, Source
from ptinspect.text import bounded_repr, printable_name

METADATA = ".metadata"

MAX_PIECES = 4096
"""Pieces of one tensor, which are compared with each other."""

BLOCK = 8 << 20
"""Bytes of a tensor that are put together at once, unless one row is larger."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor.

    Attributes:
        offsets, shape: its place in the whole tensor, in elements.
        path: the file, relative to the folder.
        start, length: its bytes in the file, a file of torch.save of its own.
        transforms: e.g. "stream.zstd/1" for a compressed piece.
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    path: str
    start: int
    length: int
    transforms: tuple[str, ...] = ()


class PiecedSpan(Span):
    """The bytes of a whole tensor, in C order, put together from its pieces."""

    __slots__ = ("dtype", "pieces", "shape")

    def __init__(self, dtype: DType, shape: tuple[int, ...], pieces: list[Piece]) -> None:
        super().__init__(None, prod(shape) * dtype.itemsize, None, None)
        self.dtype = dtype
        self.shape = shape
        self.pieces = pieces


def assemble(
    span: PiecedSpan, start: int, stop: int, open_piece: Callable[[Piece], Archive]
) -> Iterator[bytes]:
    """Yield bytes `start` to `stop` of a tensor, block by block. `open_piece` opens the file of
    torch.save that a piece is."""
    itemsize = span.dtype.itemsize
    rows = span.shape[0] if span.shape else 1
    row_bytes = span.length // rows if rows else 0
    if not span.length:
        return
    readers = {piece: _PieceReader(open_piece, piece, span.dtype) for piece in span.pieces}
    step = max(BLOCK // max(row_bytes, 1), 1)
    for first in range(start // row_bytes, -(-stop // row_bytes), step):
        last = min(first + step, -(-stop // row_bytes))
        block = bytearray((last - first) * row_bytes)
        for piece, reader in readers.items():
            _copy_rows(block, first, last, span.shape, piece, reader, itemsize)
        begin = max(start - first * row_bytes, 0)
        yield bytes(block[begin : stop - first * row_bytes])


def undo_transform(source: Source, transform: str, limits: Limits) -> Source:
    """Return the bytes before a stream transform.

    Source: torch/distributed/checkpoint/_extension.py.
    """
    if transform.partition("/")[0] != "stream.zstd":
        raise UnsupportedError(f"a piece is stored with the unknown transform {transform!r}")
    try:
        import zstandard
    except ImportError:
        raise UnsupportedError(
            "the pieces are compressed with zstd", hint="pip install zstandard"
        ) from None
    most = limits.inflated_bytes
    reader: Any = zstandard.ZstdDecompressor().stream_reader(source.read(0, source.size))
    data = reader.read(most + 1)
    if len(data) > most:
        raise LimitError(f"a piece unpacks to more than {most:,} bytes", limit="inflated_bytes")
    return MemorySource(data, source.path, base=None)


class _PieceReader:
    """The elements of a piece in C order, little-endian. Opened at the first read."""

    def __init__(self, open_piece: Callable[[Piece], Archive], piece: Piece, dtype: DType) -> None:
        self._open_piece = open_piece
        self.piece = piece
        self.dtype = dtype
        self._part: tuple[Archive, Span, int] | None = None
        self._data: bytes | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` of the elements."""
        if self._part is None:
            self._part = self._open()
        archive, span, begin = self._part
        if self._data is not None:
            return self._data[start:stop]
        return archive.read(span, begin + start, begin + stop)

    def _open(self) -> tuple[Archive, Span, int]:
        piece = self.piece
        where = f"the piece at {piece.start:,} of {printable_name(piece.path)}"
        archive = self._open_piece(piece)
        call = _single_tensor(archive)
        if call is None or len(call.args) < 4:
            raise DamagedError(f"{where} is not a tensor")
        pid, offset, size, stride = call.args[:4]
        shape = tuple(as_sequence(size) or ())
        steps = tuple(as_sequence(stride) or ())
        parts = pid.value if isinstance(pid, PersistentId) else ()
        if shape != piece.shape or not isinstance(parts, tuple) or not isinstance(offset, int):
            raise DamagedError(f"{where} has the shape {shape}, {METADATA} says {piece.shape}")
        owner, key = archive.resolve_storage(str(parts[2]))
        span = owner.storages.get(key)
        if span is None or owner.byteorder == "big":
            raise DamagedError(f"{where} has no storage that can be read")
        numel, itemsize = prod(piece.shape), self.dtype.itemsize
        begin = offset * itemsize
        if _is_contiguous(piece.shape, steps):
            if begin + numel * itemsize > span.length:
                raise DamagedError(f"{where} exceeds its storage")
            return owner, span, begin
        self._data = _gathered(owner.read(span), piece.shape, steps, offset, itemsize)
        return owner, span, begin


def _single_tensor(archive: Archive) -> Call | None:
    """Return the call that builds the one tensor of a file."""
    root = archive.root
    if isinstance(archive, Safetensors):
        items = list((as_mapping(root) or {}).values())
        root = items[0] if len(items) == 1 else None
    if isinstance(root, TensorCall):
        return root
    if not isinstance(root, Call) or not isinstance(root.func, Global):
        return None
    if root.func.path == "torch._utils._rebuild_parameter" and root.args:
        root = root.args[0]
    is_strided = isinstance(root, Call) and getattr(root.func, "path", "") in (
        "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
    )  # fmt: skip
    return root if isinstance(root, Call) and is_strided else None


def _is_contiguous(shape: tuple[int, ...], stride: tuple[Any, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return 0 in shape
        expected *= size
    return True


def _gathered(
    raw: bytes, shape: tuple[int, ...], stride: tuple[Any, ...], offset: int, itemsize: int
) -> bytes:
    """Return the elements of a strided view in C order."""
    starts = [offset]
    for size, step in zip(shape, stride, strict=True):
        starts = [start + index * step for start in starts for index in range(size)]
    if starts and (min(starts) < 0 or (max(starts) + 1) * itemsize > len(raw)):
        raise DamagedError("a piece exceeds its storage")
    return b"".join([raw[at * itemsize : (at + 1) * itemsize] for at in starts])


def _copy_rows(
    block: bytearray, first: int, last: int, whole: tuple[int, ...], piece: Piece,
    reader: _PieceReader, itemsize: int,
) -> None:  # fmt: skip
    """Copy what a piece has of rows `first` to `last` of the whole tensor into `block`."""
    if not whole:
        block[:] = reader.read(0, itemsize)
        return
    low = max(first, piece.offsets[0])
    high = min(last, piece.offsets[0] + piece.shape[0])
    inner, piece_inner = whole[1:], piece.shape[1:]
    row, piece_row = prod(inner) * itemsize, prod(piece_inner) * itemsize
    if low >= high or not piece_row:
        return
    skipped = low - piece.offsets[0]
    data = reader.read(skipped * piece_row, (skipped + high - low) * piece_row)
    if piece_inner == inner:
        block[(low - first) * row : (high - first) * row] = data
        return
    # The longest run of elements that lie together in both, and where each run begins.
    depth = len(inner)
    while depth and inner[depth - 1] == piece_inner[depth - 1]:
        depth -= 1
    run_bytes = prod(piece_inner[max(depth - 1, 0) :]) * itemsize
    starts = [0]
    for index, size in enumerate(piece_inner[: max(depth - 1, 0)]):
        step = prod(inner[index + 1 :]) * itemsize
        base = piece.offsets[1 + index]
        starts = [start + (base + n) * step for start in starts for n in range(size)]
    last_dim = max(depth - 1, 0)
    shift = piece.offsets[1 + last_dim] * prod(inner[last_dim + 1 :]) * itemsize
    position = 0
    for number in range(low - first, high - first):
        for start in starts:
            target = number * row + start + shift
            block[target : target + run_bytes] = data[position : position + run_bytes]
            position += run_bytes


def check_cover(name: str, shape: tuple[int, ...], pieces: list[Piece]) -> None:
    """Raise DamagedError unless each element of the tensor is in exactly one piece."""
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
        raise DamagedError(
            f"the pieces of {bounded_repr(name)} have {covered:,} of {prod(shape):,} elements",
            where=Place(METADATA),
        )
