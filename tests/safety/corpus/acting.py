"""Load each file of the adversary's corpus as its reader does, in a process of its own, and see
whether the payload acts.

    python -m tests.safety.corpus.acting FOLDER < lines of [name, reader]

FOLDER/NAME/folder/file is the file; each process is a fork that works in
FOLDER/NAME/cwd. Prints a line per file: true if the marker appeared there or in FOLDER/NAME.
"""

from __future__ import annotations

import base64
import bz2
import faulthandler
import gzip
import io
import json
import lzma
import os
import pickle
import re
import sys
import tarfile
import zipfile
import zlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

MARK = "ptinspect-marker"
SECONDS = 60


def by_content(data: bytes) -> object:
    """Load bytes as what they are, as a consumer does that knows what it once put there."""
    if data.startswith(b"PK\x03\x04"):
        return import_module("torch").load(io.BytesIO(data), weights_only=False)
    if data.startswith(b"\x93NUMPY"):
        return import_module("numpy").load(io.BytesIO(data), allow_pickle=True)
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7z", lzma)):
        if data.startswith(magic):
            return by_content(module.decompress(data))
    if data.startswith(b"\x78"):
        return by_content(zlib.decompress(data))
    if tarfile.is_tarfile(io.BytesIO(data)):
        return tar(io.BytesIO(data))
    return pickle.loads(data)


def content(path: str) -> io.BytesIO:
    return io.BytesIO(Path(path).read_bytes())


def unpickled(module: Any, path: str) -> object:
    with module.open(path) as file:
        return pickle.load(file)


def each(items: list[bytes]) -> None:
    for data in items:
        with suppress(Exception):
            by_content(data)


def values(root: object) -> None:
    """Load the bytes and texts in a value."""
    stack, items = [root], []
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, io.BytesIO):
            items.append(value.getvalue())
        elif isinstance(value, str):
            with suppress(ValueError):
                items.append(base64.b64decode(value, validate=True))
        elif isinstance(value, bytes | bytearray):
            items.append(bytes(value))
    each(items)


def records(file: Any) -> None:
    with zipfile.ZipFile(file) as archive:
        each([archive.read(name) for name in archive.namelist()])


def local_records(data: bytes) -> None:
    """Read a zip from its front, as readers of a stream do."""
    items, pos = [], 0
    while data[pos : pos + 4] == b"PK\x03\x04":
        method = int.from_bytes(data[pos + 8 : pos + 10], "little")
        size, name, extra = (
            int.from_bytes(data[pos + a : pos + b], "little")
            for a, b in ((18, 22), (26, 28), (28, 30))
        )
        start = pos + 30 + name + extra
        pos = start + size
        items.append(zlib.decompress(data[start:pos], -15) if method else data[start:pos])
    each(items)


def tar(file: Any, **options: Any) -> None:
    with tarfile.open(fileobj=file, **options) as archive:
        files = [archive.extractfile(member) for member in archive if not member.isdir()]
        items = [file.read() for file in files if file]
    each(items)


def untar(file: Any) -> None:
    os.mkdir("out")
    with tarfile.open(fileobj=file) as archive:
        archive.extractall("out")


def stable_baselines(file: Any) -> None:
    """stable_baselines3.common.save_util.json_to_data."""
    with zipfile.ZipFile(file) as archive:
        for item in json.loads(archive.read("data")).values():
            pickle.loads(base64.b64decode(item[":serialized:"]))


def sharded(path: str) -> None:
    """transformers.modeling_utils.load_sharded_checkpoint, by json and torch.load."""
    text = Path(path).read_text("utf-8-sig")
    for name in sorted(set(json.loads(text)["weight_map"].values())):
        target = os.path.join(os.path.dirname(path), name)
        import_module("torch").load(target, weights_only=False)


def parquet(data: bytes) -> None:
    """pyarrow before 14.0.1: the type of a column is a pickle in the file's schema."""
    for text in re.findall(rb"ARROW:schema.{1,4}?([A-Za-z0-9+/=]{40,})", data, re.DOTALL):
        schema = base64.b64decode(text)
        pickle.loads(schema[schema.index(b"ARROW:extension:metadata") + 28 :])


def rows(data: bytes) -> None:
    """A .distcp file: torch.load of a slice, whose offset and length stand in `.metadata`."""
    starts = [m.start() for m in re.finditer(rb"PK\x03\x04|\x80[\x02\x04][c\x8a\x8c]", data)]
    for start in starts:
        with suppress(Exception):
            import_module("torch").load(io.BytesIO(data[start:]), weights_only=False)


def torch_package(path: str) -> None:
    importer = import_module("torch.package").PackageImporter(path)
    importer.load_pickle("m", "m.pkl")


def numpys(file: Any) -> None:
    while True:
        import_module("numpy").load(file, allow_pickle=True)


def npz(file: Any) -> None:
    with import_module("numpy").load(file, allow_pickle=True) as arrays:
        for name in arrays.files:
            with suppress(Exception):
                arrays[name]


def shelf(path: str) -> None:
    """shelve with dbm.dumb: values at offsets that the .dir file names, padded by zeros."""
    data = Path(path).read_bytes()
    each([data[start:] for start in range(0, len(data), 512)])


READERS: dict[str, Any] = {
    "torch": lambda path: import_module("torch").load(path, weights_only=False),
    "pickle": lambda path: pickle.loads(Path(path).read_bytes()),
    "values": lambda path: values(pickle.loads(Path(path).read_bytes())),
    "torch values": lambda path: values(import_module("torch").load(path, weights_only=False)),
    "gzip": lambda path: unpickled(gzip, path),
    "bz2": lambda path: unpickled(bz2, path),
    "lzma": lambda path: unpickled(lzma, path),
    "zlib": lambda path: pickle.loads(zlib.decompress(Path(path).read_bytes())),
    "records": records,
    "local records": lambda path: local_records(Path(path).read_bytes()),
    "tar": lambda path: tar(content(path)),
    "tar of zeros": lambda path: tar(content(path), ignore_zeros=True),
    "untar": lambda path: untar(content(path)),
    "numpys": lambda path: numpys(content(path)),
    "npz": npz,
    "rows": lambda path: rows(Path(path).read_bytes()),
    "parquet": lambda path: parquet(Path(path).read_bytes()),
    "content values": lambda path: values(import_module("numpy").load(path, allow_pickle=True)),
    "content": lambda path: by_content(Path(path).read_bytes()),
    "sharded": sharded,
    "stable-baselines": stable_baselines,
    "package": torch_package,
    "shelf": shelf,
}


def main(folder: Path) -> None:
    with suppress(ImportError):
        import_module("torch")
        import_module("torch.package")
    for line in sys.stdin:
        name, reader = json.loads(line)
        child = os.fork()
        if not child:
            os.chdir(folder / name / "cwd")
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                READERS[reader](str(folder / name / "folder" / "file"))
            except BaseException as error:  # noqa: BLE001
                os.write(2, f"{name}: {type(error).__name__}: {error}\n".encode()[:600])
            os._exit(0)
        os.waitpid(child, 0)
        place = folder / name
        acted = (place / "cwd" / MARK).exists() or (place / MARK).exists()
        print(json.dumps(acted), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
