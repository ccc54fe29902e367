"""What is told by content alone: each format is named, with what to do, and no suffix counts."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pytest

from ptinspect.errors import DamagedError, FormatError
from ptinspect.formats.detect import open_archive
from ptinspect.formats.signatures import SIGNATURES, ZIP_KINDS
from ptinspect.source.base import MemorySource
from tests.formats.identify import READABLE, identify
from tests.formats.making import Record, make_tar, make_zip

POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 132735873
"""
PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>
 Sign in \xec\x95\x88\xeb\x85\x95 \x1b[2J</title></head></html>"""


def zipped(*names: str) -> bytes:
    opened = io.BytesIO()
    with zipfile.ZipFile(opened, "w") as writer:
        for name in names:
            writer.writestr(name, b"x")
    return opened.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


CASES = [
    ("empty", b"", "an empty file (0 bytes)", "download or copy"),
    ("zeros", bytes(5000), "a file of 5,000 zero bytes", "never written"),
    ("zeros", bytes(2 << 20), "a file whose first 1,048,576 bytes are zero", "never written"),
    ("zeros", bytes(5000) + b"x", "a file that begins with zeros", "never written"),
    ("safetensors", safetensors(), "a safetensors file", "safetensors.torch.load_file(path)"),
    (
        "safetensors",
        b"\x80\x02\0\0\0\0\0\0" + b'{"a":' + b" " * 640,
        "a safetensors file",
        "load_file(path)",
    ),
    ("git-lfs", POINTER, "a Git LFS pointer to a file of 132,735,873 bytes", "git lfs pull"),
    ("git-lfs", POINTER, "sha256:4d7a214614ab", "git lfs pull"),
    ("html", PAGE, "a web page titled 'Sign in 안녕 \\x1b[2J'", "resolve"),
    ("html", b"  \n<html><body>no title</body>", "a web page", "link to the file itself"),
    ("xml", b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code>', "NoSuchKey", "download"),
    ("json", b'{"error":"Repository not found"}', "JSON, which says 'Repository not", "download"),
    ("json", b'[1, 2, {"a": null}]', "JSON, which begins", "download"),
    (
        "safetensors-index",
        b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
        "index of a model in several files",
        "ptinspect show",
    ),
    ("torch-index", b'{"weight_map": {"a": "pytorch_model-1.bin"}}', "index of a model", "show"),
    ("text", "모델을 찾을 수 없습니다\n".encode(), "a text, which begins '모델을", None),
    ("text", b"# a text\n" * 1000, "a text, which begins", None),
    ("compressed", gzip.compress(b"x"), "compressed by gzip", "gunzip"),
    ("compressed", bz2.compress(b"x"), "compressed by bzip2", "bunzip2"),
    ("compressed", lzma.compress(b"x"), "compressed by xz", "unxz"),
    ("compressed", b"\x28\xb5\x2f\xfd\x24", "compressed by zstd", "unzstd"),
    ("hdf5", b"\x89HDF\r\n\x1a\n\0\0\0", "an HDF5 file", "h5py.File"),
    ("hdf5", b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", "MATLAB 7.3", "h5py"),
    ("matlab", b"MATLAB 5.0 MAT-file, Platform", "a MATLAB file", "scipy.io.loadmat"),
    ("onnx", b"\x08\x07\x12\x07pytorch\x1a\x03", "an ONNX model", "onnx.load"),
    ("tensorflow", b"\x08\x01\x12\xff\x8f\x04\n", "a TensorFlow SavedModel", "folder"),
    ("tensorflow", b"\0\0\1" + bytes(9) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "index", "tf.train"),
    ("tflite", b"\x1c\0\0\0TFL3\0\0", "a TensorFlow Lite model", None),
    ("executorch", b"\x1c\0\0\0ET12\0\0", "an ExecuTorch program", None),
    ("pdf", b"%PDF-1.7\n", "a PDF document", None),
    ("image", b"\x89PNG\r\n\x1a\n\0\0", "a PNG image", None),
    ("image", b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image", None),
    ("torch7", b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x11", "Lua Torch7", "torchfile"),
    ("tar", make_tar([("model.ckpt", b"x"), ("b", b"y")]), "a tar of 2 files", "show the model"),
    ("compressed", b"ZF" + hex(15).ljust(19).encode() + b"x", "joblib before 0.10", "joblib.load"),
    ("tar", make_tar([("notes", b"x")]), "a tar of 1 files", "tar -xf"),
    ("zip", zipped(), "an empty zip", None),
    ("zip", zipped("a/weights.pth", "b"), "a zip of 2 files", "show the model in it"),
    ("zip", zipped("a", "b"), "a zip of 2 files", None),
    ("zip", zipped("m/version", "m/.data/serialization_id"), "failed torch.save", "again"),
    ("torchscript", zipped("m/version", "m/model.json"), "torch < 1.4", "jit"),
    ("torch-export", zipped("m/archive_format", "m/models/model.json"), ".pt2", "export"),
    ("torch-export", zipped("serialized_exported_program.json", "version"), ".pt2", "export"),
    ("torch-package", zipped("m/.data/extern_modules", "m/x.py"), "torch.package", "Importer"),
    ("zip", zipped("MAR-INF/MANIFEST.json", "model.pt"), "a TorchServe archive", "unzip"),
    ("zip", zipped("metadata.json", "config.json", "model.weights.h5"), "Keras 3", "keras"),
    ("zip", zipped("pytorch_variables.pth", "policy.pth"), "Stable-Baselines3", "policy"),
    ("zip", zipped("[Content_Types].xml", "word/document.xml"), "an Office document", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "what", "hint"), CASES, ids=range(len(CASES)))
def test_what_is_named(name: str, data: bytes, what: str, hint: str | None) -> None:
    found = identify(MemorySource(data, "model.pth"))
    assert found is not None
    assert (found.format, found.hint is None) == (name, hint is None)
    assert what in found.description
    if found.format in READABLE:
        return
    with pytest.raises(FormatError) as caught:
        open_archive(MemorySource(data, "model.pth"))
    said = str(caught.value)
    assert said == f"it is {found.description}, not a file that torch.save writes"
    assert said.isprintable()
    assert (hint or "") in (caught.value.hint or "")


def test_every_row_of_the_tables_is_tried() -> None:
    """By itself: the row's own words come out for content that has just what it asks for."""
    for row in SIGNATURES:
        data = (b"\x10" * row.offset + row.magic).ljust(1024, b"\x01")
        found = identify(MemorySource(data, "x"))
        assert found is not None and (found.format, found.description) == (
            row.format,
            row.description,
        )
    for kind in ZIP_KINDS:
        names = [name.replace("FOLDER/", "m/") for name in kind.has]
        found = identify(MemorySource(zipped(*names), "x"))
        assert found is not None and (found.format, found.description) == (
            kind.format,
            kind.description,
        )


@pytest.mark.parametrize("data", [b"\x01\x02\x03\x04\x1b[2J\xff", b"\xfe\xed", b"PK\x03", b"\x80"])
def test_what_is_not_known(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        open_archive(MemorySource(data, "x.pth"))
    first = " ".join(f"{byte:02x}" for byte in data[:16])
    assert first in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_utf_8_character_cut_in_two_is_still_text() -> None:
    data = (b"a" * 4094 + "한글".encode())[:5000]
    found = identify(MemorySource(b"# " + data[2:], "x"))
    assert found is not None and found.format == "text"


def test_words_in_a_pickle_are_no_signature() -> None:
    """Protocol 2 of Python 2: the word begins at byte 4, where MP4 and TFLite have theirs."""
    for word in (b"ftyp", b"TFL3", b"ET12"):
        assert open_archive(MemorySource(b"\x80\x02U\x04" + word + b".", "x")).root == word.decode()


def test_a_zip_whose_first_bytes_are_damaged() -> None:
    data = bytearray(make_zip([Record("m/data.pkl", b"N.")]))
    data[:4] = b"\xff\xff\xff\xff"
    with pytest.raises(
        (FormatError, DamagedError), match="contains a zip that does not begin at the start"
    ):
        open_archive(MemorySource(bytes(data), "x"))


def test_a_tar_by_tarfile_and_one_of_version_7() -> None:
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        opened = io.BytesIO()
        with tarfile.open(fileobj=opened, mode="w:", format=kind) as writer:
            info = tarfile.TarInfo("모델/" + "x" * 80)
            info.size, info.mtime = 3, 1.5
            writer.addfile(info, io.BytesIO(b"abc"))
        found = identify(MemorySource(opened.getvalue(), "x"))
        assert found is not None and found.description == "a tar of 1 files"
    old = bytearray(make_tar([("a", b"x")]))
    old[257:265] = bytes(8)
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old[:512])
    found = identify(MemorySource(bytes(old), "x"))
    assert found is not None and found.format == "tar"
