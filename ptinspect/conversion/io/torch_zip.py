"""torch's zip, as torch.save of 2.13 writes it, byte for byte.

A record is a local header without CRC and sizes (flag 3), the name, the zip64 field where it is
needed, an extra field "FB" that pads with "Z" to the alignment of 64 bytes, the bytes, and a
data descriptor with CRC and sizes, which an empty record does not have. After the last: the
directory, and always the zip64 end record, its locator and the plain end record.

Sources: `mz_zip_writer_add_mem_ex_v2` in torch's third_party/miniz; `PyTorchStreamWriter` in
caffe2/serialize/inline_container.cc; `torch.serialization._save` for names and order.
"""

from __future__ import annotations

import os
from struct import pack
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from ptinspect.conversion.tensors.byte_ranges import Held

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ptinspect.conversion.io.copy import Sink
    from ptinspect.conversion.tensors.byte_ranges import Piece

ALIGNMENT = 64
FULL32 = 0xFFFFFFFF
FULL16 = 0xFFFF
UTF8, DESCRIBED = 0x0800, 0x0008
MADE_BY, NEEDED = 0x031E, 45  # of the zip64 end record, as miniz has them


class Record(NamedTuple):
    """A line of the directory. `at`: offset of the local header."""

    name: bytes
    size: int
    crc: int
    at: int


class ZipWriter:
    """Writes records to `sink`, in order. `folder`: what all names begin with."""

    def __init__(self, sink: Sink, folder: str) -> None:
        self.sink = sink
        self.folder = folder
        self.records: list[Record] = []

    def add(self, name: str, pieces: Sequence[Piece]) -> None:
        """A record of these pieces."""
        sink = self.sink
        raw = f"{self.folder}/{name}".encode()
        size = sum(piece.length for piece in pieces)
        at = sink.position
        sink.write(_local_header(raw, size, at))
        crc = sink.put(pieces, want_crc=True)
        if size:
            form = "<4sIQQ" if size >= FULL32 or at >= FULL32 else "<4sIII"
            sink.write(pack(form, b"PK\x07\x08", crc, size, size))
        self.records.append(Record(raw, size, crc, at))

    def hold(self, name: str, data: bytes) -> None:
        """A record of these bytes."""
        self.add(name, [Held(data)])

    def finish(self) -> None:
        """The last records, and the directory."""
        self.hold("version", b"3\n")
        self.hold(".data/serialization_id", serialization_id(self.records))
        sink, start = self.sink, self.sink.position
        for record in self.records:
            sink.write(_directory_line(record))
        size, count = sink.position - start, len(self.records)
        end = sink.position
        sink.write(
            pack(
                "<4sQHHIIQQQQ", b"PK\x06\x06", 44, MADE_BY, NEEDED, 0, 0, count, count, size, start
            )
        )
        sink.write(pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        few = min(count, FULL16)
        lines = (few, few, min(size, FULL32), min(start, FULL32), 0)
        sink.write(pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, *lines))
        sink.flush()


def write_torch_zip(
    sink: Sink, folder: str, pickle: bytes, storages: Iterable[tuple[str, Sequence[Piece]]]
) -> None:
    """A whole file. `storages`: name and pieces of each, in order."""
    writer = ZipWriter(sink, folder)
    writer.hold("data.pkl", pickle)
    writer.hold(".format_version", b"1")
    writer.hold(".storage_alignment", str(ALIGNMENT).encode())
    writer.hold("byteorder", b"little")
    for key, pieces in storages:
        writer.add(f"data/{key}", pieces)
    writer.finish()


def folder_name(path: str) -> str:
    """The folder that torch.save makes of a file's name: without its path and its last suffix;
    `archive` where the name is not ASCII (`torch.serialization._open_zipfile_writer_file`)."""
    name = os.path.basename(path)
    if not path.isascii():
        return "archive"
    stem, dot, _ = name.rpartition(".")
    return (stem if dot else name) or "archive"


def serialization_id(records: Sequence[Record]) -> bytes:
    """40 digits that depend on names and CRCs, as torch's do. torch hashes with std::hash, over a
    std::unordered_set, which differ from one C++ library to the next; nobody reads them."""
    names, crcs = 0xCBF29CE484222325, 0
    for record in records:
        for byte in record.name:  # FNV-1a
            names = (names ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        crcs = crc32(record.crc.to_bytes(4, "little"), crcs)
    return b"%020d%020d" % (names, crcs)


def _local_header(name: bytes, size: int, at: int) -> bytes:
    wide = b""
    if size >= FULL32:
        wide += pack("<QQ", size, 0)
    if at >= FULL32:
        wide += pack("<Q", at)
    if wide:
        wide = pack("<HH", 1, len(wide)) + wide
    begin = at + 30 + len(name) + len(wide) + 4
    padding = -begin % ALIGNMENT
    extra = wide + pack("<2sH", b"FB", padding) + b"Z" * padding
    flags = UTF8 | (DESCRIBED if size else 0)
    return pack("<4sHH18xHH", b"PK\x03\x04", 0, flags, len(name), len(extra)) + name + extra


def _directory_line(record: Record) -> bytes:
    wide = b""
    if record.size >= FULL32:
        wide += pack("<QQ", record.size, record.size)
    if record.at >= FULL32:
        wide += pack("<Q", record.at)
    if wide:
        wide = pack("<HH", 1, len(wide)) + wide
    flags = UTF8 | (DESCRIBED if record.size else 0)
    size = min(record.size, FULL32)
    fixed = pack("<4sHHHHII", b"PK\x01\x02", 0, 0, flags, 0, 0, record.crc)
    sizes = pack("<IIHH", size, size, len(record.name), len(wide))
    return fixed + sizes + pack("<10xI", min(record.at, FULL32)) + record.name + wide
