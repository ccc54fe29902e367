"""Small files of every kind, made on the spot from hand-made pickles."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from struct import pack

from ptinspect.safety.report import ScanReport
from ptinspect.safety.scan import scan
from tests.safety.making import args, call, name, path, plain, text, whole

BAD = whole(call(name("posix", "system"), text("touch x")))
GOOD = whole(plain({"a": 1, "b": [1.5, "x"]}))
OWN = whole(name("mine", "Thing") + b")\x81}b")


def put(folder: Path, data: bytes, called: str = "file.bin") -> Path:
    file = folder / called
    file.write_bytes(data)
    return file


def scanned(folder: Path, data: bytes, called: str = "file.bin") -> ScanReport:
    return scan(put(folder, data, called))


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for called, data in members:
            made.writestr(zipfile.ZipInfo(called), data, compress_type=method)
    return file.getvalue()


def torch_zip(data: bytes, *more: tuple[str, bytes]) -> bytes:
    return zipped(("archive/data.pkl", data), ("archive/version", b"3\n"), *more)


def tarred(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for called, data in members:
            info = tarfile.TarInfo(called)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def pickled(value: object) -> bytes:
    return whole(plain(value))


def legacy(
    data: bytes, *, first: bytes = b"", keys: bytes | None = None, tail: bytes = b""
) -> bytes:
    """torch's old format: three pickles of its own, the object, the keys, the storages."""
    magic = pickled(0x1950A86A20F9469CFC6C)
    info = pickled({"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return first + magic + pickled(1001) + info + data + (keys or pickled([])) + tail


def storage(key: str, numel: int, kind: str = "torch.FloatStorage") -> bytes:
    named = args(text("storage"), path(kind), text(key), text("cpu"), plain(numel))
    return named + b"Q"


def tensor(key: str, numel: int) -> bytes:
    return call(
        path("torch._utils._rebuild_tensor_v2"),
        storage(key, numel),
        plain(0),
        plain((numel,)),
        plain((1,)),
        plain(False),
        call(path("collections.OrderedDict")),
    )


def npy(header: str, data: bytes) -> bytes:
    raw = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + pack("<H", len(raw)) + raw + data
