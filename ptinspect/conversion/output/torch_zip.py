"""A file as torch.save of 2.13 writes it: which storages it has, and its zip, byte for byte.

Tensors that share a storage keep sharing it, at the same distances where they overlap. Bytes
that no tensor uses are dropped, so that a slice of a large storage is written as the slice alone.
A storage whose every byte is used is copied unchanged.

A record is a local header without CRC and sizes (flag 3), the name, the zip64 field if needed,
an extra field "FB" padded with "Z" so that the data is aligned to 64 bytes, the data, and a data
descriptor with CRC and sizes, which an empty record lacks. After the last record come the
directory and always all three end records: zip64 end record, its locator, plain end record.

Sources: `mz_zip_writer_add_mem_ex_v2` in torch's third_party/miniz; `PyTorchStreamWriter` in
caffe2/serialize/inline_container.cc; `torch.serialization._save` for names and order.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from struct import Struct, pack
from typing import TYPE_CHECKING, NamedTuple
from zlib import adler32, crc32

from ptinspect.conversion.output.pieces import (
    CAST_DTYPES,
    BytesPiece,
    Piece,
    TensorPiece,
    storage_piece,
)
from ptinspect.document.elements import dense_storage, out_of_bounds_error
from ptinspect.document.tensor import PACKED, Storage
from ptinspect.dtypes import DTYPES, DType
from ptinspect.errors import UnsupportedError
from ptinspect.formats.zip_records import combine_crcs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ptinspect.conversion.output.sink import Sink
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.values import TensorForm

    Group = tuple[object, ...]

ALIGNMENT = 64
MAX_UINT32 = 0xFFFFFFFF
MAX_UINT16 = 0xFFFF
_UTF8_FLAG, _DESCRIPTOR_FLAG = 0x0800, 0x0008
_LOCAL_HEADER = Struct("<4sHH18xHH")
_DESCRIPTOR, _LARGE_DESCRIPTOR = Struct("<4sIII"), Struct("<4sIQQ")
_DIRECTORY_LINE = Struct("<4sHHHHIIIIHH10xI")
_PADDINGS = [b"FB%c\0" % size + b"Z" * size for size in range(ALIGNMENT)]
_MADE_BY, _VERSION_NEEDED = 0x031E, 45  # of the zip64 end record, as in miniz
_new_tuple = tuple.__new__  # skips the Python function that Record(…) would call


# --- storages -----------------------------------------------------------------------------


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
            # A conversion of the elements has to be the same for all tensors that share a storage.
            is_cast = any(self.options.output_dtype(each) is not each.dtype for each in sharing)
            if is_cast or any(t.storage and t.storage.archive.byteorder == "big" for t in sharing):
                dtype = sharing[0].stored or DTYPES["uint8"]
                if any(t.stored is not dtype or t.byte_span[0] % dtype.itemsize for t in sharing):
                    sharing = []
            shared_ids = set(map(id, sharing))
            for tensor in tensors:
                if id(tensor) not in shared_ids:  # it gets a storage that identical views share
                    dtype = self.options.output_dtype(tensor)
                    view = (*tensor.view_key, dtype)
                    if view not in self._by_view:
                        assert tensor.storage is not None
                        piece = TensorPiece(tensor, dtype)
                        self._by_view[view] = self._output(tensor.storage, (piece,))
                    self.placements[id(tensor)] = Placement(self._by_view[view], 0, dtype, True)
            if sharing or bare:
                self._place_together(sharing, bare)

    def _place_single(self, tensor: Tensor) -> bool:
        """Place the only tensor of a storage, which is the usual case, and return True; return
        False if its elements have to be moved."""
        source, storage = tensor.stored, tensor.storage
        if source is None or storage is None or tensor.dtype is not source:
            return False
        low, high = tensor.byte_span
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

    def _place_together(self, tensors: list[Tensor], bare: list[Storage]) -> None:
        """Give tensors, and references to their source storage itself, one storage."""
        storage = tensors[0].storage if tensors else bare[0]
        assert storage is not None
        if tensors and not bare:
            assert tensors[0].stored is not None
            source, target = tensors[0].stored, self.options.output_dtype(tensors[0])
        else:  # bytes that are referred to as such are never converted
            source = target = (tensors[0].stored if tensors else None) or DTYPES["uint8"]
        spans = [tensor.byte_span for tensor in tensors if tensor.numel]
        spans += [(0, reference.nbytes) for reference in bare]
        # The union of the spans. Where several dtypes view the storage, ends are moved outwards to
        # multiples of the largest, so that every offset remains a whole number of elements.
        unit = max((tensor.stored.itemsize for tensor in tensors if tensor.stored), default=1)
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
                low, _ = tensor.byte_span
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


def _root_storage(storage: Storage, high: int) -> Storage:
    """Return the root of a legacy view: the same bytes, counted from their beginning."""
    if not storage.begin and high <= storage.nbytes:
        return storage
    return Storage(storage.archive, storage.key, storage.location, high)


# --- the zip ------------------------------------------------------------------------------


class Record(NamedTuple):
    """A line of the directory. `offset` is that of the local header."""

    name: bytes
    size: int
    crc: int
    offset: int


class ZipWriter:
    """Writes records to a sink, in order, below `folder` if it is not empty."""

    def __init__(self, sink: Sink, folder: str) -> None:
        self.sink = sink
        self.prefix = f"{folder}/" if folder else ""
        self.records: list[Record] = []

    def write_record(self, name: str, pieces: Sequence[Piece], head: bytes = b"") -> None:
        """Write a record that consists of `head` and these pieces."""
        sink = self.sink
        full_name = f"{self.prefix}{name}".encode()
        length = pieces[0].length if len(pieces) == 1 else sum(piece.length for piece in pieces)
        offset, size = sink.position, len(head) + length
        sink.write(_local_header(full_name, size, offset) + head)
        crc = sink.write_pieces(pieces, with_crc=True)
        if head:
            crc = combine_crcs(crc32(head), crc, length)
        if size:
            is_large = size >= MAX_UINT32 or offset >= MAX_UINT32
            descriptor = _LARGE_DESCRIPTOR if is_large else _DESCRIPTOR
            sink.write(descriptor.pack(b"PK\x07\x08", crc, size, size))
        self.records.append(_new_tuple(Record, (full_name, size, crc, offset)))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a record that consists of these bytes."""
        self.write_record(name, [BytesPiece(data)])

    def finish(self) -> None:
        """Write torch's last records and the directory."""
        self.write_bytes("version", b"3\n")
        self.write_bytes(".data/serialization_id", serialization_id(self.records))
        self.write_directory()

    def write_directory(self) -> None:
        """Write the directory and the end records."""
        sink = self.sink
        start = sink.position
        sink.write(b"".join(map(_directory_line, self.records)))
        size, count, end = sink.position - start, len(self.records), sink.position
        sink.write(pack("<4sQHHII", b"PK\x06\x06", 44, _MADE_BY, _VERSION_NEEDED, 0, 0))
        sink.write(pack("<QQQQ", count, count, size, start))
        sink.write(pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        short_count = min(count, MAX_UINT16)
        numbers = (short_count, short_count, min(size, MAX_UINT32), min(start, MAX_UINT32), 0)
        sink.write(pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, *numbers))
        sink.flush()


def write_torch_zip(
    sink: Sink, folder: str, pickle: bytes, storages: Iterable[tuple[str, Sequence[Piece]]]
) -> None:
    """Write a complete file. `storages` are key and pieces of each storage, in order."""
    writer = ZipWriter(sink, folder)
    writer.write_bytes("data.pkl", pickle)
    writer.write_bytes(".format_version", b"1")
    writer.write_bytes(".storage_alignment", str(ALIGNMENT).encode())
    writer.write_bytes("byteorder", b"little")
    for key, pieces in storages:
        writer.write_record(f"data/{key}", pieces)
    writer.finish()


def folder_name(path: str) -> str:
    """Return the folder that torch.save derives from a file's name: without directories and the
    last suffix; `archive` if the path is not ASCII. Source:
    `torch.serialization._open_zipfile_writer_file`."""
    name = os.path.basename(path)
    if not path.isascii():
        return "archive"
    stem, dot, _ = name.rpartition(".")
    return (stem if dot else name) or "archive"


def serialization_id(records: Sequence[Record]) -> bytes:
    """Return 40 digits that depend on names and CRCs, like torch's, which come from std::hash over
    a std::unordered_set and differ from one C++ library to the next. Nothing reads them."""
    names = b"".join([record.name for record in records])
    crcs = pack(f"<{len(records)}I", *[record.crc for record in records])
    return b"%020d%020d" % (adler32(names) << 32 | crc32(names), crc32(crcs))


def _zip64_field(size: int, compressed_size: int, offset: int) -> bytes:
    """Return the extra field for numbers that do not fit into 32 bits."""
    numbers = pack("<QQ", size, compressed_size) if size >= MAX_UINT32 else b""
    numbers += pack("<Q", offset) if offset >= MAX_UINT32 else b""
    return pack("<HH", 1, len(numbers)) + numbers


def _local_header(name: bytes, size: int, offset: int) -> bytes:
    zip64 = _zip64_field(size, 0, offset) if max(size, offset) >= MAX_UINT32 else b""
    data_offset = offset + 30 + len(name) + len(zip64) + 4
    extra = zip64 + _PADDINGS[-data_offset % ALIGNMENT]
    flags = _UTF8_FLAG | (_DESCRIPTOR_FLAG if size else 0)
    return _LOCAL_HEADER.pack(b"PK\x03\x04", 0, flags, len(name), len(extra)) + name + extra


def _directory_line(record: Record) -> bytes:
    name, size, crc, offset = record
    zip64 = _zip64_field(size, size, offset) if max(size, offset) >= MAX_UINT32 else b""
    flags = _UTF8_FLAG | (_DESCRIPTOR_FLAG if size else 0)
    size, offset = min(size, MAX_UINT32), min(offset, MAX_UINT32)
    fixed = (b"PK\x01\x02", 0, 0, flags, 0, 0, crc, size, size, len(name), len(zip64), offset)
    return _DIRECTORY_LINE.pack(*fixed) + name + zip64
