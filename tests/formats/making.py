"""Containers made byte by byte, without torch and without zipfile, so that each part can be
made wrong."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from struct import pack
from typing import NamedTuple

MAGIC_PICKLE = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
PROTOCOL_PICKLE = b"\x80\x02M\xe9\x03."


# --- pickles ----------------------------------------------------------------------------------


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    """BININT, or LONG1."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


class Stored(NamedTuple):
    """A storage that a pickle refers to."""

    key: str
    data: bytes
    kind: str = "FloatStorage"
    itemsize: int = 4
    location: str = "cpu"

    @property
    def numel(self) -> int:
        return len(self.data) // self.itemsize


def reference(stored: Stored, legacy: bool = False, numel: int | None = None) -> bytes:
    """The persistent id of a storage."""
    body = text("storage") + b"ctorch\n" + stored.kind.encode() + b"\n" + text(stored.key)
    body += text(stored.location) + integer(stored.numel if numel is None else numel)
    return b"(" + body + (b"N" if legacy else b"") + b"tQ"


def listing(storages: Sequence[Stored], legacy: bool = False) -> bytes:
    """A pickle of a list of storages."""
    return b"\x80\x02](" + b"".join(reference(each, legacy) for each in storages) + b"e."


# --- zips -------------------------------------------------------------------------------------


class Record(NamedTuple):
    """An entry of a zip. `local_name` and the others are for one that lies."""

    name: str | bytes
    data: bytes
    method: int = 0
    flags: int = 0x808
    local_name: str | bytes | None = None
    local_method: int | None = None
    local_size: int = 0
    declared_size: int | None = None
    header: int | None = None
    crc: int | None = None


def make_zip(
    records: Sequence[Record], *, align: int = 64, comment: bytes = b"", zip64: bool = True
) -> bytes:
    """A zip as torch writes it: aligned by an FB field, sizes in descriptors, zip64 at its end."""
    out = bytearray()
    central = bytearray()
    for record in records:
        header = len(out)
        name = _bytes(record.name)
        packed = deflate(record.data) if record.method == 8 else record.data
        crc = zlib.crc32(record.data) if record.crc is None else record.crc
        size = len(record.data) if record.declared_size is None else record.declared_size
        local = name if record.local_name is None else _bytes(record.local_name)
        pad = -(header + 30 + len(local) + 4) % align
        method = record.method if record.local_method is None else record.local_method
        sizes = (0, record.local_size, record.local_size)
        flags = record.flags if record.data else record.flags & ~8
        out += pack("<4s5H3L2H", b"PK\x03\x04", 0, flags, method, 0, 0, *sizes, len(local), pad + 4)
        out += local + b"FB" + pack("<H", pad) + b"Z" * pad + packed
        if flags & 8:
            out += pack("<4s3L", b"PK\x07\x08", crc, len(packed), size & 0xFFFFFFFF)
        at = header if record.header is None else record.header
        central += make_entry(name, flags, record.method, crc, len(packed), size, at)
    return bytes(out + central + make_end(len(records), len(out), len(central), comment, zip64))


def make_entry(
    name: bytes, flags: int, method: int, crc: int, packed: int, size: int, header: int
) -> bytes:
    """A line of the directory, with what does not fit into 32 bits in a zip64 field."""
    numbers = [size, packed, header]
    wide = b"".join(pack("<Q", number) for number in numbers if number >= 0xFFFFFFFF)
    size, packed, header = (min(number, 0xFFFFFFFF) for number in numbers)
    extra = pack("<2H", 1, len(wide)) + wide if wide else b""
    lengths = (len(name), len(extra), 0, 0, 0, 0)
    fields = (0, 0, flags, method, 0, 0, crc, packed, size, *lengths, header)
    return pack("<4s6H3L5H2L", b"PK\x01\x02", *fields) + name + extra


def make_end(count: int, start: int, size: int, comment: bytes = b"", zip64: bool = True) -> bytes:
    """The end of a zip whose directory has `size` bytes at `start`."""
    wide = b""
    if zip64:
        wide = pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
        wide += pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    few, low = min(count, 0xFFFF), min(start, 0xFFFFFFFF)
    return wide + pack("<4s4H2LH", b"PK\x05\x06", 0, 0, few, few, size, low, len(comment)) + comment


def deflate(data: bytes) -> bytes:
    """Raw deflate, as zips have it."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(data) + squeeze.flush()


def _bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def torch_zip(
    storages: Sequence[Stored], *, folder: str = "archive", where: str = "data", **facts: str
) -> list[Record]:
    """The records of a file of torch.save: `make_zip` makes the file."""
    records = [Record(f"{folder}/data.pkl", listing(storages))]
    records += [Record(f"{folder}/{name}", value.encode()) for name, value in facts.items()]
    records += [Record(f"{folder}/{where}/{each.key}", each.data) for each in storages]
    return [*records, Record(f"{folder}/version", b"3\n")]


# --- the legacy stream and the tar ------------------------------------------------------------


def torch_legacy(
    storages: Sequence[Stored], *, little: bool = True, big_counts: bool = False
) -> bytes:
    """A stream of the legacy format, storages in the order of their keys."""
    info = b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03"
    info += text("little_endian") + (b"\x88" if little else b"\x89") + b"u."
    ordered = sorted(storages, key=lambda each: each.key)
    keys = b"\x80\x02](" + b"".join(text(each.key) for each in ordered) + b"e."
    data = b"".join(pack(">q" if big_counts else "<q", each.numel) + each.data for each in ordered)
    return MAGIC_PICKLE + PROTOCOL_PICKLE + info + listing(storages, legacy=True) + keys + data


def make_tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar of plain files."""
    out = b""
    for name, data in members:
        head = bytearray(512)
        head[:100] = name.encode().ljust(100, b"\0")
        head[100:108] = b"0000644\0"
        head[124:136] = b"%011o\0" % len(data)
        head[148:156] = b" " * 8
        head[156:157] = b"0"
        head[257:265] = b"ustar\x0000"
        head[148:156] = b"%06o\0 " % sum(head)
        out += bytes(head) + data + b"\0" * (-len(data) % 512)
    return out + b"\0" * 1024
