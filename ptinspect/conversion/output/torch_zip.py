"""torch's zip, byte for byte as torch.save of 2.13 writes it.

A record is a local header without CRC and sizes (flag 3), the name, the zip64 field if needed,
an extra field "FB" padded with "Z" so that the data is aligned to 64 bytes, the data, and a data
descriptor with CRC and sizes, which an empty record lacks. After the last record come the
directory and always all three end records: zip64 end record, its locator, plain end record.

Sources: `mz_zip_writer_add_mem_ex_v2` in torch's third_party/miniz; `PyTorchStreamWriter` in
caffe2/serialize/inline_container.cc; `torch.serialization._save` for names and order.
"""

from __future__ import annotations

import os
from struct import Struct, pack
from typing import TYPE_CHECKING, NamedTuple
from zlib import adler32, crc32

from ptinspect.conversion.output.pieces import BytesPiece
from ptinspect.conversion.output.sink import combine_crcs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ptinspect.conversion.output.pieces import Piece
    from ptinspect.conversion.output.sink import Sink

ALIGNMENT = 64
MAX_UINT32 = 0xFFFFFFFF
MAX_UINT16 = 0xFFFF
_UTF8_FLAG, _DESCRIPTOR_FLAG = 0x0800, 0x0008
_LOCAL_HEADER = Struct("<4sHH18xHH")
_DESCRIPTOR, _LARGE_DESCRIPTOR = Struct("<4sIII"), Struct("<4sIQQ")
_DIRECTORY_LINE = Struct("<4sHHHHIIIIHH10xI")
_PADDINGS = [b"FB%c\0" % size + b"Z" * size for size in range(ALIGNMENT)]
_MADE_BY, _VERSION_NEEDED = 0x031E, 45  # of the zip64 end record, as in miniz


class Record(NamedTuple):
    """A line of the directory. `offset` is that of the local header."""

    name: bytes
    size: int
    crc: int
    offset: int


_new_tuple = tuple.__new__  # skips the Python function that Record(…) would call


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
    """Return the extra field for numbers that do not fit into 32 bits; empty if all do."""
    if size < MAX_UINT32 and offset < MAX_UINT32:
        return b""
    numbers = pack("<QQ", size, compressed_size) if size >= MAX_UINT32 else b""
    numbers += pack("<Q", offset) if offset >= MAX_UINT32 else b""
    return pack("<HH", 1, len(numbers)) + numbers


def _local_header(name: bytes, size: int, offset: int) -> bytes:
    zip64 = _zip64_field(size, 0, offset)
    data_offset = offset + 30 + len(name) + len(zip64) + 4
    extra = zip64 + _PADDINGS[-data_offset % ALIGNMENT]
    flags = _UTF8_FLAG | (_DESCRIPTOR_FLAG if size else 0)
    return _LOCAL_HEADER.pack(b"PK\x03\x04", 0, flags, len(name), len(extra)) + name + extra


def _directory_line(record: Record) -> bytes:
    name, size, crc, offset = record
    zip64 = _zip64_field(size, size, offset)
    flags = _UTF8_FLAG | (_DESCRIPTOR_FLAG if size else 0)
    size, offset = min(size, MAX_UINT32), min(offset, MAX_UINT32)
    fixed = (b"PK\x01\x02", 0, 0, flags, 0, 0, crc, size, size, len(name), len(zip64), offset)
    return _DIRECTORY_LINE.pack(*fixed) + name + zip64
