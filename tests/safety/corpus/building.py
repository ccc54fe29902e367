"""Builds containers: torch's of three generations, zips, tars, numpy's, joblib's."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterable

from tests.safety.corpus.sample import (
    COMMAND,
    PAYLOAD_2,
    calling,
    named,
    tuple_of,
)

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
PROTOCOL = pickle.dumps(1001, 2)
SYSTEM_INFO = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
NO_KEYS = pickle.dumps([], 2)
TEXT_PAYLOAD = b"cposix\nsystem\n(V" + COMMAND.encode() + b"\ntR."
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40)
GIF = b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(30)
ONE = b"\0\0\x80?"
"""A float32."""


def tensors(*sizes: tuple[int, int]) -> bytes:
    """torch's pickle of {"w": a tensor}, or a list of them. sizes: elements that the storage is
    said to have, and that the tensor has."""
    made = b""
    for elements, shown in sizes or ((1, 1),):
        storage = tuple_of("storage", named("torch.FloatStorage"), "0", "cpu", elements) + b"Q"
        made += calling("torch._utils._rebuild_tensor_v2", storage, 0, (shown,), (1,), False,
                        calling("collections.OrderedDict"))  # fmt: skip
    made = b"](" + made + b"e" if sizes else made
    return b"\x80\x04}X\x01\0\0\0w" + made + b"s."


Records = Iterable[tuple[str, bytes]]


def zipped(records: Records, method: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """A zip with these records, in order. comment: of the zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, data in records:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            made.writestr(info, data)
        made.comment = more.get("comment", b"")
    return file.getvalue()


def torch_records(data: bytes = PAYLOAD_2, root: str = "archive/") -> list[tuple[str, bytes]]:
    """What torch.save writes, with this as the pickle."""
    return [
        (f"{root}data.pkl", data),
        (f"{root}byteorder", b"little"),
        (f"{root}data/0", ONE),
        (f"{root}version", b"3\n"),
        (f"{root}.data/serialization_id", b"0" * 40),
    ]


def good_and(*more: tuple[str, bytes]) -> bytes:
    """A torch zip that is as it should be, and more records."""
    return zipped([*torch_records(tensors()), *more])


def legacy(place: int, trailing: bytes = b"") -> bytes:
    """torch's legacy stream with the payload in place of one of its five pickles, or behind."""
    streams = [MAGIC, PROTOCOL, SYSTEM_INFO, pickle.dumps({"epoch": 1}, 2), NO_KEYS]
    if place < 5:
        streams[place] = PAYLOAD_2
    return b"".join(streams) + trailing


def tarred(records: Records, mode: str = "w") -> bytes:
    """A tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.USTAR_FORMAT) as made:  # type: ignore[call-overload]
        for name, data in records:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def torch_tar(**changed: bytes) -> bytes:
    """A file of torch 0.1, which torch.load reads by way of a tar."""
    none = pickle.dumps(0, 2)
    members = {
        "sys_info": SYSTEM_INFO,
        "pickle": pickle.dumps({"epoch": 1}, 2),
        "storages": none + NO_KEYS,
        "tensors": none,
    }
    return tarred({**members, **changed}.items())


def npy(data: bytes, descr: str = "'|O'", version: int = 1) -> bytes:
    """numpy's file of one array."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}"
    size = "<H" if version == 1 else "<I"
    before = 8 + struct.calcsize(size)
    header += " " * (-(before + len(header) + 1) % 64) + "\n"
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack(size, len(header)) + header.encode() + data
    )


def joblib(numbers: bytes, behind: bytes, dtype: bytes, shape: tuple[int, ...]) -> bytes:
    """joblib's file of [an array, something behind it]."""
    state = {
        "subclass": b"",
        "shape": shape,
        "order": "C",
        "allow_mmap": True,
    }
    wrapper = named("joblib.numpy_pickle.NumpyArrayWrapper") + b")\x81}("
    for key, given in state.items():
        wrapper += pickle.dumps(key, 3)[2:-1]
        wrapper += named("numpy.ndarray") if key == "subclass" else pickle.dumps(given, 3)[2:-1]
    wrapper += pickle.dumps("dtype", 3)[2:-1] + dtype
    wrapper += pickle.dumps("numpy_array_alignment_bytes", 3)[2:-1] + b"K\x10ub"
    padding = b"" if b"O8" in dtype else b"\x03\0\0\0"  # only numbers are aligned
    return b"\x80\x03](" + wrapper + padding + numbers + behind + b"e."


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """The same with other bytes in places."""
    made = bytearray(data)
    for at, new in changes:
        made[at : at + len(new)] = new
    return bytes(made)


def central(data: bytes, number: int = 0) -> int:
    """Where the entry of that number begins in a zip's directory."""
    at = data.index(b"PK\x01\x02")
    for _ in range(number):
        at = data.index(b"PK\x01\x02", at + 4)
    return at
