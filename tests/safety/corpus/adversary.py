"""Harmful files made by someone who wants to get past scan: by what readers of containers do.

A sample's `load` names its reader in `acting.py`, where the payload really acts; "" where that
reader is not on every machine.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.safety.corpus.building import (
    MAGIC,
    ONE,
    SYSTEM_INFO,
    TEXT_PAYLOAD,
    legacy,
    npy,
    tarred,
    tensors,
    torch_records,
    torch_tar,
    zipped,
)
from tests.safety.corpus.sample import (
    COMMAND,
    GOOD,
    PAYLOAD,
    PAYLOAD_2,
    calling,
    dict_of,
    raw,
    stream,
    tuple_of,
)

TORCH = zipped(torch_records())
FORMS = {
    "pickle": PAYLOAD,
    "text-pickle": TEXT_PAYLOAD,
    "zip": TORCH,
    "array": npy(PAYLOAD),
    "gzip": gzip.compress(PAYLOAD, mtime=0),
    "bzip2": bz2.compress(PAYLOAD),
    "xz": lzma.compress(PAYLOAD),
    "tar": tarred([("a", PAYLOAD)]),
}
"""The payload in the forms in which a part of a file may hold it."""


class Attack(NamedTuple):
    """A file. `load`: its reader. `least`: the mildest right verdict. `beside`: another file."""

    data: bytes
    load: str
    least: str = "dangerous"
    beside: tuple[str, bytes] | None = None


# --- tar: as tarfile reads it -------------------------------------------------------------


def header(name: bytes = b"a", size: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header of a tar with its checksum; `chksum` makes another notation of it."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124:136] = b"0000644\0", size.ljust(12, b"\0")
    block[156:157] = kind
    block[157 : 157 + len(fields.get("link", b""))] = fields.get("link", b"")
    block[257:265] = fields.get("ustar", b"ustar\x0000")
    rest = fields.get("rest", b"")
    block[345 : 345 + len(rest)] = rest
    block[148:156] = b" " * 8
    total = sum(block)
    if fields.get("signed"):
        total = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = (fields.get("chksum", b"%06o\0 ") % total).ljust(8, b"\0")
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def octal(number: int) -> bytes:
    return b"%011o" % number


def member(data: bytes = PAYLOAD, **fields: bytes) -> bytes:
    """A member of a tar: its header and its bytes."""
    fields.setdefault("size", octal(len(data)))
    return header(**fields) + padded(data)


END = bytes(1024)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return member(records, name=b"p", kind=kind)


def pax_record(key: bytes, value: bytes) -> bytes:
    line = b" " + key + b"=" + value + b"\n"
    length = len(line) + 2
    return (b"%d" % (length + (length > 99))) + line


def tars() -> dict[str, Attack]:
    n = len(PAYLOAD)
    hello = padded(b"hello")
    evil = member()
    numbers = {
        "spaces": b"   %o " % n, "plus": b"+%o" % n, "underscore": b"0_%o" % n,
        "prefix": b"0o%o" % n, "base-256": b"\x80" + n.to_bytes(11, "big"),
        "after-nul": b"%o\0 99" % n,
    }  # fmt: skip
    made = {f"tar-size-{key}": member(size=size) for key, size in numbers.items()}
    sums = {"plus": b"+%05o\0", "underscore": b"0_%o\0", "prefix": b"0o%o\0", "bare": b"%o"}
    made |= {f"tar-sum-{key}": member(chksum=form) for key, form in sums.items()}
    made["tar-sum-signed"] = member(name=b"\xff\xfe", signed=b"1")
    made["tar-sum-signed-prefix"] = member(name=b"\xff", signed=b"1", chksum=b"0o%o\0")
    made["tar-no-name"] = member(name=b"", rest=b"folder")
    made["tar-no-magic"] = member(ustar=b"\0" * 8)
    # Members that have a size and no bytes: the next header follows at once.
    for kind, label in ((b"5", "folder"), (b"2", "symlink"), (b"3", "device"), (b"6", "fifo")):
        made[f"tar-{label}-with-a-size"] = (
            header(name=b"d", size=octal(len(evil)), kind=kind, link=b"a") + evil
        )
    for kind, label in ((b"7", "contiguous"), (b"Z", "unknown"), (b"\0", "old"), (b"V", "volume")):
        made[f"tar-type-{label}"] = member(kind=kind)
    # Sizes that stand elsewhere.
    size = pax_record(b"size", b"%d" % n)
    outer = header(name=b"z", size=octal(0))
    made["tar-pax-size"] = pax(size) + outer + padded(PAYLOAD)
    made["tar-pax-size-twice"] = pax(pax_record(b"size", b"512") + size) + outer + padded(PAYLOAD)
    made["tar-pax-size-plus"] = pax(pax_record(b"size", b" +%d" % n)) + outer + padded(PAYLOAD)
    made["tar-pax-size-underscore"] = (
        pax(pax_record(b"size", b"0_%d" % n)) + outer + padded(PAYLOAD)
    )
    made["tar-pax-size-in-a-comment"] = (
        pax(pax_record(b"comment", b"\n15 size=%d\n" % 512))
        + header(size=octal(0))
        + member()
        + hello
    )
    made["tar-pax-size-of-a-folder"] = pax(pax_record(b"size", b"512")) + header(kind=b"5") + evil
    made["tar-solaris-pax"] = pax(size, b"X") + outer + padded(PAYLOAD)
    made["tar-pax-global"] = pax(pax_record(b"comment", b"x"), b"g") + evil
    made["tar-pax-global-size"] = pax(size, b"g") + outer + padded(PAYLOAD)
    made["tar-long-name"] = member(b"x" * 300 + b"\0", kind=b"L", name=b"././@LongLink") + evil
    made["tar-long-link"] = member(b"y" * 300 + b"\0", kind=b"K", name=b"././@LongLink") + evil
    # Sparse members: the file that is read is not the bytes that are stored.
    regions = (octal(0) + b" " + octal(n)).ljust(96, b"\0")
    made["tar-sparse-gnu"] = member(kind=b"S", rest=bytes(41) + regions + b"\0" + octal(n))
    whole = stream(raw(bytes(1024)), calling("posix.system", COMMAND))
    hole = whole.index(bytes(1024))
    parts = ((0, hole), (hole + 1024, len(whole) - hole - 1024))
    kept = whole[:hole] + whole[hole + 1024 :]
    real = b"%d" % len(whole)
    flat = [number for part in parts for number in part]
    listed = b",".join(b"%d" % number for number in flat)
    made["tar-sparse-pax-0.1"] = pax(
        pax_record(b"GNU.sparse.map", listed) + pax_record(b"GNU.sparse.size", real)
    ) + member(kept)
    made["tar-sparse-pax-1.0"] = pax(
        pax_record(b"GNU.sparse.major", b"1")
        + pax_record(b"GNU.sparse.minor", b"0")
        + pax_record(b"GNU.sparse.realsize", real)
    ) + member(padded(b"".join(b"%d\n" % number for number in (len(parts), *flat))) + kept)
    attacks = {name: Attack(data + END, "tar") for name, data in made.items()}
    first = member(b"hello", name=b"readme")
    attacks["tar-zeros-inside"] = Attack(first + END + evil + END, "tar of zeros")
    attacks["tar-bad-header-then-more"] = Attack(first + b"junk" * 128 + evil + END, "tar of zeros")
    attacks["tar-size-in-base-256-negative"] = Attack(
        first + header(name=b"n", size=b"\xff" * 12) + evil + END, "tar of zeros", "unreadable"
    )
    return attacks  # fmt: skip


def outside() -> dict[str, Attack]:
    """Members that a tar writes outside of the folder that it is unpacked in."""
    mark = b"ptinspect-marker"
    up = mark
    link = header(name=b"l", kind=b"2", link=b"..")
    made = {
        "name": member(b"x", name=b"../" + up),
        "name-in-the-middle": member(b"x", name=b"./.././" + mark),
        "prefix": member(b"x", name=mark, rest=b".."),
        "pax-path": pax(pax_record(b"path", b"../" + up)) + member(b"x"),
        "pax-global-path": pax(pax_record(b"path", b"../" + up), b"g") + member(b"x"),
        "long-name": member(b"../" + up + b"\0", kind=b"L", name=b"././@LongLink") + member(b"x"),
        "symlink": link + member(b"x", name=b"l/" + mark),
        "symlink-of-pax": pax(pax_record(b"linkpath", b".."))
        + header(name=b"s", kind=b"2", link=b"b")
        + member(b"x", name=b"s/" + mark),
        "symlink-absolute-name": link + member(b"x", name=b"./l/./" + mark),
    }
    return {f"untar-{name}": Attack(data + END, "untar") for name, data in made.items()}


SIGNATURES = {
    "numpy": b"\x93NUMPY\x01\0v\0", "gzip": b"\x1f\x8b\x08", "bzip2": b"BZh9", "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18", "7z": b"7z\xbc\xaf\x27\x1c",
    "rar": b"Rar!\x1a\x07", "hdf5": b"\x89HDF\r\n\x1a\n", "gguf": b"GGUF\x03", "onnx":
    b"\x08\x07\x12\x07pytorch:", "parquet": b"PAR1", "arrow": b"ARROW1", "sqlite":
    b"SQLite format 3", "pdf": b"%PDF-1.4", "png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff",
    "gif": b"GIF89a", "elf": b"\x7fELF\x02\x01\x01", "exe": b"MZ\x90", "safetensors":
    b"\x10\0\0\0\0\0\0\0{", "text": b"version https://git-lfs.github.com/spec/v1", "json": b'{"a":',
    "html": b"<!DOCTYPE html>", "empty-zip": b"PK\x05\x06", "script": b"#!/bin/sh",
}  # fmt: skip


def disguised_tars() -> dict[str, Attack]:
    """torch.load tries tarfile first, and a tar's first hundred bytes are free."""
    made = {}
    for name, magic in SIGNATURES.items():
        data = bytearray(torch_tar(storages=PAYLOAD_2))
        data[:512] = header(name=magic, size=bytes(data[124:135]))
        made[f"torch-tar-as-{name}"] = Attack(bytes(data), "torch")
    data = torch_tar()[:-1024].rstrip(b"\0")
    evil = member(PAYLOAD_2, name=b"storages")
    made["torch-tar-only-storages"] = Attack(evil + END, "torch")
    made["torch-tar-odd-sum"] = Attack(
        member(PAYLOAD_2, name=b"storages", chksum=b"0o%o\0") + END, "torch"
    )
    made["torch-tar-hard-link"] = Attack(
        member(PAYLOAD_2, name=b"x") + header(name=b"storages", kind=b"1", link=b"x") + END, "torch"
    )
    made["torch-tar-after-a-folder"] = Attack(
        header(name=b"d", size=octal(len(evil)), kind=b"5") + evil + END, "torch"
    )
    return made  # fmt: skip


# --- zip: as each reader sees it ----------------------------------------------------------


def entry(name: bytes, data: bytes, offset: int, **more: bytes) -> tuple[bytes, bytes]:
    """A stored record with its local header, and its entry of the directory."""
    crc, size = zlib.crc32(data), len(data)
    fields = struct.pack("<HHHHHLLLHH", 20, 0, 0, 0, 33, crc, size, size, len(name), 0)
    local = b"PK\x03\x04" + fields + name + data
    extra = more.get("extra", b"")
    rest = struct.pack("<HHHHHLLLHHHHHLL", 20, 0, 0, 0, 33, crc, size, size, len(name),
                       len(extra), 0, 0, 0, 0, offset)  # fmt: skip
    return local, b"PK\x01\x02" + struct.pack("<H", 20) + rest + name + extra


def end_of(count: int, size: int, start: int, comment: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, comment)


def end_64(count: int, size: int, start: int) -> bytes:
    fields = (44, 45, 45, 0, 0, count, count, size, start)
    return struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", *fields)


def locator(offset: int) -> bytes:
    return struct.pack("<4sLQL", b"PK\x06\x07", 0, offset, 1)


def directories() -> dict[str, Attack]:
    """Zips in which the harmful record is only in the directory that one reader uses."""
    evil_array = npy(PAYLOAD)
    inner, inner_entry = entry(b"b.npy", evil_array, 0)
    # The harmful record lies inside the numbers of the good one.
    numbers = inner + bytes(-len(inner) % 8)
    shaped = npy(numbers, f"'|V{len(numbers)}'")
    local, good_entry = entry(b"a.npy", shaped, 0)
    inside = len(local) - len(numbers)
    evil_entry = inner_entry[:42] + struct.pack("<L", inside) + inner_entry[46:]
    both = good_entry + evil_entry
    made = {}
    body, start = local + both, len(local)
    made["zip-uncounted-entry"] = body + end_of(1, len(both), start)
    made["zip-uncounted-entries"] = body + end_of(0, len(both), start)
    first_64 = end_64(1, len(good_entry), start)
    wide = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    one = local + good_entry
    for key, between in (("another", b""), ("foreign-bytes", b"foreign!")):
        front = one + first_64 + between
        second_64 = end_64(1, len(evil_entry), len(front))
        ends = second_64 + locator(len(one))
        made[f"zip64-end-behind-{key}"] = front + evil_entry + ends + end_of(*wide)
        made[f"zip64-end-behind-{key}-not-needed"] = (
            front + evil_entry + ends + end_of(1, len(good_entry), start)
        )
    made["zip64-end-uncounted"] = (
        body + end_64(1, len(both), start) + locator(len(body)) + end_of(*wide)
    )
    # Two zips of one layout: offsets lead into the first, zipfile shifts them to the second.
    evil_zip = zipped([("b.npy", evil_array)])
    numbers = npy(b"", f"'|V{len(PAYLOAD)}'")
    twin = zipped([("b.npy", numbers[: len(evil_array)].ljust(len(evil_array), b"\0"))])
    made["zip-twice-of-one-layout"] = twin + evil_zip
    made["zip-three-times-of-one-layout"] = twin * 2 + evil_zip
    # An end record in a comment.
    fake = evil_entry + end_of(1, len(evil_entry), len(one) + 22) + b"comment"
    made["zip-end-in-the-comment"] = one + end_of(1, len(good_entry), start, len(fake)) + fake
    attacks = {name: Attack(data, "npz") for name, data in made.items()}
    empty = b"PK\x05\x06" + bytes(18)
    attacks["zip-behind-an-empty-zip"] = Attack(empty + evil_zip, "npz")
    attacks["zip-behind-a-marker"] = Attack(b"PK00" + evil_zip, "records")
    # torch's reader looks for the end record a little further than zipfile does.
    deflated = zipped(torch_records(), zipfile.ZIP_DEFLATED)
    attacks["zip-end-far-from-the-end"] = Attack(TORCH + bytes(69_200), "torch")
    attacks["zip-deflated-end-far-from-the-end"] = Attack(deflated + bytes(69_200), "torch")
    # Readers of a stream need no directory.
    for name, form in FORMS.items():
        lone, _ = entry(b"m/data/0", form, 0)
        attacks[f"zip-stream-{name}"] = Attack(lone + bytes(9), "local records")
    packed = zipped([("m/data/0", PAYLOAD)], zipfile.ZIP_DEFLATED)
    attacks["zip-stream-deflated"] = Attack(
        packed[: packed.index(b"PK\x01\x02")] + bytes(9), "local records"
    )
    return attacks  # fmt: skip


# --- records by their content -------------------------------------------------------------


def storages() -> dict[str, Attack]:
    """The record that a pickle calls a storage is read as something else."""
    made = {}
    for name, form in FORMS.items():
        data = form + bytes(-len(form) % 4)
        pickled = tensors((len(data) // 4, 1))
        for folder, records in (
            ("torch", [("archive/data.pkl", pickled), ("archive/data/0", data)]),
            ("script", [("m/constants.pkl", pickled), ("m/constants/0", data)]),
            ("old", [("a/data.pkl", pickled), ("a/tensors/0", data)]),
        ):
            made[f"storage-of-{folder}-{name}"] = Attack(
                zipped([*records, (f"{records[0][0].split('/')[0]}/version", b"3\n")]), "records"
            )
    return made  # fmt: skip


def values() -> dict[str, Attack]:
    """Bytes in a pickle that a program loads in its turn."""
    made = {}
    state = lambda data: tuple_of(raw(data), 0, None)  # noqa: E731
    for name, form in FORMS.items():
        holders = {
            "bytes": raw(form),
            "bytearray": b"\x96" + len(form).to_bytes(8, "little") + form,
            "bytesio": calling("_io.BytesIO") + state(form) + b"b",
            "encoded": calling("_codecs.encode", form.decode("latin1"), "latin1"),
            "base64": pickle.dumps(base64.b64encode(form).decode(), 4)[2:-1].removesuffix(b"\x94"),
        }
        for holder, opcodes in holders.items():
            if holder == "base64" and name != "pickle":
                continue
            if opcodes[:1] == b"\x95":
                opcodes = opcodes[9:]
            data = b"\x80\x05" + dict_of(optimizer=opcodes) + b"."
            made[f"value-{holder}-{name}"] = Attack(data, "values")
    data = b"\x80\x02" + dict_of(state=calling("_io.BytesIO", raw(PAYLOAD_2)))[1:].join(
        (b"}", b".")
    )
    made["value-in-torch"] = Attack(zipped(torch_records(data)), "torch values")
    long = stream(raw(bytes(1 << 20)), calling("posix.system", COMMAND))
    made["value-of-a-megabyte"] = Attack(b"\x80\x05" + dict_of(a=raw(long)) + b".", "values")
    made["value-array"] = Attack(npy(stream(b"](" + raw(PAYLOAD) + b"e")), "content values")
    return made


def bytes_loaders() -> dict[str, Attack]:
    """torch.storage._load_from_bytes, by every opcode that calls and every form of bytes."""
    made = {}
    payload = legacy(3)
    latin = payload.decode("latin1")
    encoded = calling("_codecs.encode", latin, "latin1")
    forms = {
        "binbytes": raw(payload),
        "binbytes8": b"\x8e" + len(payload).to_bytes(8, "little") + payload,
        "encoded": encoded,
        "bytes": calling("builtins.bytes", latin, "latin1"),
        "list": calling("builtins.bytes", pickle.dumps(list(payload), 3)[2:-1]),
    }
    name = b"ctorch.storage\n_load_from_bytes\n"
    for form, data in forms.items():
        made[f"load-reduce-{form}"] = name + data + b"\x85R."
        made[f"load-obj-{form}"] = b"(" + name + data + b"o."
        made[f"load-inst-{form}"] = b"(" + data + b"itorch.storage\n_load_from_bytes\n."
    return {
        f"{key}-{protocol}": Attack(
            (b"\x80" + bytes([protocol]) if protocol else b"") + data, "pickle"
        )
        for key, data in made.items()
        for protocol in ((0, 3, 5) if "binbytes" in key else (2,))
    }


# --- compression --------------------------------------------------------------------------


def alone(**options: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, **options}]
    return lzma.compress(PAYLOAD, lzma.FORMAT_ALONE, filters=filters)


def compressed() -> dict[str, Attack]:
    half = len(PAYLOAD) // 2
    made = {
        "lzma-properties-0": (alone(lc=0, lp=0, pb=0), "lzma"),
        "lzma-properties-1": (alone(lc=1, lp=0, pb=0), "lzma"),
        "lzma-properties-224": (alone(lc=0, lp=4, pb=4), "lzma"),
        "lzma-properties-p": (alone(lc=2, lp=1, pb=1), "lzma"),
        "lzma-small-dictionary": (alone(dict_size=4096), "lzma"),
        "xz-then-lzma": (
            lzma.compress(PAYLOAD[:half]) + lzma.compress(PAYLOAD[half:], lzma.FORMAT_ALONE),
            "lzma"),
        "lzma-then-xz": (
            lzma.compress(PAYLOAD[:half], lzma.FORMAT_ALONE) + lzma.compress(PAYLOAD[half:]),
            "lzma"),
        "xz-without-a-check": (
            lzma.compress(PAYLOAD, check=lzma.CHECK_NONE), "lzma"),
        "bzip2-twice": (bz2.compress(PAYLOAD[:half]) + bz2.compress(PAYLOAD[half:]), "bz2"),
        "gzip-zeros-between": (
            gzip.compress(PAYLOAD[:half], mtime=0) + bytes(64)
            + gzip.compress(PAYLOAD[half:], mtime=0), "gzip"),
        "gzip-extra-and-comment": (
            b"\x1f\x8b\x08\x1c\0\0\0\0\0\xff\x04\0abcdname\0comment\0"
            + gzip.compress(PAYLOAD, mtime=0)[10:], "gzip"),
        "gzip-of-tar-of-torch": (
            gzip.compress(tarred([("m", TORCH)]), mtime=0), "content"),
    }  # fmt: skip
    for bits in range(9, 15):
        packer = zlib.compressobj(9, zlib.DEFLATED, bits)
        made[f"zlib-window-{bits}"] = (packer.compress(PAYLOAD) + packer.flush(), "zlib")
    attacks = {name: Attack(data, load) for name, (data, load) in made.items()}
    body = struct.pack("<L", len(PAYLOAD) | 1 << 31) + PAYLOAD + bytes(4)
    frame = b"\x04\x22\x4d\x18\x60\x40\x82" + body
    attacks["lz4.joblib"] = Attack(frame, "", "unreadable")
    attacks["lz4-in-torch.pt"] = Attack(
        zipped([*torch_records(GOOD), ("archive/extra", frame)]), "", "unreadable"
    )
    return attacks


# --- rows of files ------------------------------------------------------------------------


def row_files() -> dict[str, Attack]:
    good = zipped(torch_records(tensors()))
    twin = zipped(torch_records(GOOD.ljust(len(PAYLOAD_2), b"\0")))
    good_legacy = legacy(9)
    with_data = b"".join((MAGIC, pickle.dumps(1001, 2), SYSTEM_INFO, tensors(),
                          pickle.dumps(["0"], 2), struct.pack("<q", 1), ONE))  # fmt: skip
    made = {
        "row-gap.distcp": good + PAYLOAD_2 + good,
        "row-front.distcp": good * 2 + PAYLOAD_2,
        "row-of-one-layout.distcp": twin * 3 + TORCH + twin,
        "row-of-one-layout-last.distcp": twin * 3 + TORCH,
        "row-padded.distcp": good + bytes(512) + TORCH,
        "row-padded-last.distcp": good + TORCH + bytes(512),
        "row-of-legacy.distcp": with_data * 2 + legacy(3),
        "row-of-legacy-and-zip.distcp": with_data + TORCH + good,
        "row-of-zip-and-legacy.distcp": good + with_data + legacy(3),
        "row-legacy-then-pickle.distcp": good_legacy + with_data + PAYLOAD_2,
        "row-tar.distcp": good + tarred([("a", PAYLOAD)]) + good,
    }
    attacks = {name: Attack(data, "rows") for name, data in made.items()}
    attacks["row-tar.distcp"] = attacks["row-tar.distcp"]._replace(load="")
    for gap in (1, 200, 512):
        page = GOOD + bytes(-len(GOOD) % 512) + PAYLOAD
        attacks[f"shelf-{gap}"] = Attack(page + bytes(gap) + b"\xff", "shelf")
    attacks["shelf-after-numbers"] = Attack(
        padded(GOOD) + padded(b"\xff\x01\xfe") + PAYLOAD, "shelf"
    )
    return attacks


def arrays() -> dict[str, Attack]:
    """One array after another: where the second begins is computed from the first."""
    made = {}
    sizes = {
        "?": 1, "b": 1, "B": 1, "h": 2, "i": 4, "l": 8, "L": 8, "q": 8, "p": 8, "P": 8, "e": 2,
        "f": 4, "d": 8, "g": 16, "F": 8, "D": 16, "G": 32, "S3": 3, "S": 0, "a5": 5, "U2": 8,
        "V7": 7, "V": 0, "M8[ns]": 8, "m8": 8, "<f16": 16, "<c32": 32, ">i2": 2, "|b1": 1,
        "=u4": 4,
    }  # fmt: skip
    for kind, size in sizes.items():
        made[f"array-after-{kind}"] = npy(bytes(range(65, 65 + size)), repr(kind)) + npy(PAYLOAD)
    nested = "[('a', '<f4', (2, 3)), (('t', 'b'), [('c', 'S3', 2)])]"
    made["array-after-fields"] = npy(b"A" * 30, nested) + npy(PAYLOAD)
    return {name: Attack(data, "numpys") for name, data in made.items()}


# --- JSON, and what only some package reads -----------------------------------------------


def texts() -> dict[str, Attack]:
    name = "../evil.bin"
    index = {"metadata": {"total_size": 4}, "weight_map": {"a": name}}
    plain_text = json.dumps(index)
    forms = {
        "plain": plain_text,
        "escaped": plain_text.replace("weight_map", "weight\\u005fmap"),
        "escaped-quote": plain_text.replace("weight_map", "\\u0077eight_map"),
        "late": json.dumps({"metadata": {"x": "y" * (1 << 20)}, "weight_map": {"a": name}}),
        "mark": "\ufeff" + plain_text,
        "spaces": " " * 5000 + plain_text,
        "name-escaped": plain_text.replace("../", "\\u002e./"),
        "twice": plain_text[:-1] + ', "weight_map": {"a": "' + name + '"}}',
    }
    made = {
        f"index-{key}.json": Attack(
            form.encode(), "sharded", "unreadable" if key == "twice" else "dangerous", (name, TORCH)
        )
        for key, form in forms.items()
    }
    serialized = {":type:": "<class 'x'>", ":serialized:": base64.b64encode(PAYLOAD).decode()}
    old = {":type:": "<class 'x'>", ":serialized:": base64.b64encode(TEXT_PAYLOAD).decode()}
    for key, item in (("", serialized), ("-text", old)):
        data = json.dumps({"policy_class": item}).encode()
        made[f"stable-baselines{key}.zip"] = Attack(
            zipped([("data", data), ("policy.pth", b""), ("pytorch_variables.pth", b"")]),
            "stable-baselines",
        )
        escaped = data.replace(b":serialized:", b":serialize\\u0064:")
        made[f"stable-baselines-escaped{key}.zip"] = Attack(
            zipped([("data", escaped), ("policy.pth", b""), ("pytorch_variables.pth", b"")]),
            "stable-baselines",
        )
    schema = b"....ARROW:extension:name....arrow.py_extension_type"
    schema += b"ARROW:extension:metadata\x9e\0\0\0" + PAYLOAD + b"...."
    footer = b"ARROW:schema\x18\xb0\x02" + base64.b64encode(schema)
    footer += b"\0\x18\x20parquet-cpp-arrow version 13.0.0\0"
    data = b"PAR1" + bytes(64) + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    made["extension-type.parquet"] = Attack(data, "parquet")
    made["extension-type-in-a-zip.zip"] = Attack(zipped([("a/b.parquet", data)]), "")
    return made  # fmt: skip


def packages() -> dict[str, Attack]:
    """What runs source code: nobody judges that, and so it is unknown."""
    code = b"import os\nos.system('" + COMMAND.encode() + b"')\nclass A: pass\n"
    module = pickle.dumps({"a": 1}, 2)[:-1] + b"0cpkg\nA\n."
    package = [
        ("m/.data/extern_modules", b"os\n"),
        ("m/.data/version", b"6\n"),
        ("m/.data/python_version", b"3.11\n"),
        ("m/pkg.py", code),
        ("m/m/m.pkl", module),
    ]
    return {
        "package-beside-data.pt": Attack(
            zipped([("m/data.pkl", tensors()), ("m/data/0", ONE), ("m/version", b"3\n"), *package]),
            "package", "unknown"),
        "handler.mar": Attack(
            zipped([("MAR-INF/MANIFEST.json", b"{}"), ("handler.py", code)]), "", "unknown"),
        "lambda.keras": Attack(
            zipped([("metadata.json", b"{}"),
                    ("config.json", b'{"class_name": "Lambda", "config": {"code": "4wEAAA"}}')]),
            "", "unknown"),
    }  # fmt: skip


GROUPS: tuple[Callable[[], dict[str, Attack]], ...] = (
    tars, outside, disguised_tars, directories, storages, values, bytes_loaders, compressed,
    row_files, arrays, texts, packages,
)  # fmt: skip


@cache
def attacks() -> dict[str, Attack]:
    """Every file by its name."""
    made: dict[str, Attack] = {}
    for group in GROUPS:
        files = group()
        assert not made.keys() & files.keys()
        made |= files
    return made


FILE = "folder/file"


def write(folder: Path, names: Iterable[str]) -> None:
    """Write each file to FOLDER/NAME/folder/file, and what its index names."""
    for name in names:
        attack = attacks()[name]
        (folder / name / "cwd").mkdir(parents=True)
        path = folder / name / FILE
        path.parent.mkdir()
        path.write_bytes(attack.data)
        if attack.beside:
            (path.parent / attack.beside[0]).write_bytes(attack.beside[1])
