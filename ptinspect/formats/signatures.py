"""Files that begin with bytes of their own: one row per format."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ptinspect.errors import FormatError, Place
from ptinspect.text import bounded_repr


class Identity(NamedTuple):
    """format: its name, as in JSON. what: in words, "a safetensors file". hint: what to do
    with it, where ptinspect does not read it."""

    format: str
    description: str
    hint: str | None = None

    def error(self) -> FormatError:
        """The error that names it."""
        return FormatError(
            f"it is {self.description}, not a file that torch.save writes", hint=self.hint
        )


def unknown_format_error(head: bytes) -> FormatError:
    """The error for content that nothing is known to begin with."""
    start = head[:16]
    shown = " ".join(f"{byte:02x}" for byte in start)
    return FormatError(
        f"it is not a file that torch.save writes, nor one of another known format: it begins"
        f" with the bytes {shown}",
        where=Place(None, 0),
    )


# ---


class Signature(NamedTuple):
    """`magic` at `offset` says that a file is `what`; `format` is the name in JSON."""

    offset: int
    magic: bytes
    format: str
    description: str
    hint: str | None = None


_UNPACK = "unpack it and show what was in it: "
_KERAS = 'open it with h5py.File(path, "r") or keras.models.load_model(path)'
_LUA = "torchfile.load(path) reads it, and so did torch.utils.serialization of torch 0.4"
_MATLAB = "read it with scipy.io.loadmat(path)"
_GGUF = "gguf.GGUFReader(path), of the package gguf, reads it"

SIGNATURES = (
    Signature(0, b"\x93NUMPY", "npy", "a numpy array", "read it with numpy.load(path)"),
    Signature(0, b"\x1f\x8b", "compressed", "compressed by gzip", _UNPACK + "gunzip FILE"),
    Signature(0, b"BZh", "compressed", "compressed by bzip2", _UNPACK + "bunzip2 FILE"),
    Signature(0, b"\xfd7zXZ\0", "compressed", "compressed by xz", _UNPACK + "unxz FILE"),
    Signature(0, b"\x28\xb5\x2f\xfd", "compressed", "compressed by zstd", _UNPACK + "unzstd FILE"),
    Signature(0, b"\x04\x22\x4d\x18", "compressed", "compressed by lz4", _UNPACK + "unlz4 FILE"),
    Signature(0, b"\x1f\x9d", "compressed", "compressed by compress", _UNPACK + "uncompress FILE"),
    Signature(0, b"7z\xbc\xaf\x27\x1c", "compressed", "a 7z archive", _UNPACK + "7z x FILE"),
    Signature(0, b"Rar!\x1a\x07", "compressed", "a RAR archive", _UNPACK + "unrar x FILE"),
    Signature(0, b"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file (Keras writes these)", _KERAS),
    Signature(512, b"\x89HDF\r\n\x1a\n", "hdf5", "a MATLAB 7.3 file", _KERAS),
    Signature(0, b"MATLAB 5.0 MAT", "matlab", "a MATLAB file", _MATLAB),
    Signature(0, b"GGUF", "gguf", "a GGUF file (llama.cpp)", _GGUF),
    Signature(0, b"lmgg", "gguf", "a GGML file (llama.cpp before GGUF)"),
    Signature(0, b"fmgg", "gguf", "a GGML file (llama.cpp before GGUF)"),
    Signature(0, b"tjgg", "gguf", "a GGML file (llama.cpp before GGUF)"),
    Signature(4, b"TFL3", "tflite", "a TensorFlow Lite model"),
    Signature(4, b"ET12", "executorch", "an ExecuTorch program"),
    Signature(0, b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1", "torch7", "a file of Lua Torch7", _LUA),
    Signature(0, b"\x03\0\0\0\x01\0\0\0", "torch7", "a file of Lua Torch7", _LUA),
    Signature(0, b"\x12\x01\0\0\0\0\0\0", "mxnet", "an MXNet parameter file"),
    Signature(0, b"ftrt", "tensorrt", "a TensorRT engine"),
    Signature(0, b"PAR1", "parquet", "a Parquet file", "read it with pandas.read_parquet(path)"),
    Signature(0, b"ARROW1", "arrow", "an Arrow file"),
    Signature(0, b"SQLite format 3\0", "sqlite", "an SQLite database"),
    Signature(0, b"%PDF-", "pdf", "a PDF document"),
    Signature(0, b"\x89PNG\r\n\x1a\n", "image", "a PNG image"),
    Signature(0, b"\xff\xd8\xff", "image", "a JPEG image"),
    Signature(0, b"GIF8", "image", "a GIF image"),
    Signature(0, b"RIFF", "media", "a RIFF file (WebP, WAV or AVI)"),
    Signature(4, b"ftyp", "media", "a video or image (MP4 family)"),
    Signature(0, b"\x7fELF", "program", "a program or library (ELF)"),
    Signature(0, b"MZ\x90\0", "program", "a Windows program or library"),
    Signature(0, b"\xcf\xfa\xed\xfe", "program", "a macOS program or library"),
    Signature(0, b"!<arch>\n", "program", "a library archive (ar)"),
    Signature(0, b"\xff\xfe", "text", "a text in UTF-16"),
    Signature(0, b"\xfe\xff", "text", "a text in UTF-16"),
)  # fmt: skip

_SSTABLE = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_SAFETENSORS_HEADER = 100_000_000
"""Bytes of the longest header that safetensors itself accepts."""


def identify_signature(head: bytes, tail: bytes, size: int) -> Identity | None:
    """The format that the first bytes tell of (a few kilobytes; and the last 8 of `size`)."""
    for row in SIGNATURES:
        if row.offset == 4 and head[:1] == b"\x80":  # a pickle, with that word in it
            continue
        if head.startswith(row.magic, row.offset):
            return Identity(row.format, row.description, row.hint)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= _SAFETENSORS_HEADER and length + 8 <= max(size, len(head)):
        return Identity(
            "safetensors", "a safetensors file", "load it with safetensors.torch.load_file(path)"
        )
    if tail == _SSTABLE:
        return Identity(
            "tensorflow",
            "the index of a TensorFlow checkpoint",
            "read it with tf.train.load_checkpoint(prefix)",
        )
    return _protobuf(head)


def _protobuf(head: bytes) -> Identity | None:
    """ONNX and TensorFlow have no magic number: their first field is a version, their second a
    producer's name there, a graph here (`onnx.proto`, `saved_model.proto`)."""
    if len(head) < 4 or head[0] != 0x08 or not 0 < head[1] < 0x20:
        return None
    if head[2] == 0x12 and head[3] < 64 and head[4 : 4 + head[3]].isascii():
        producer = head[4 : 4 + head[3]].decode()
        if producer.isprintable():
            return Identity("onnx", "an ONNX model", "load it with onnx.load(path)")
    if head[2] in (0x3A, 0x42):
        return Identity("onnx", "an ONNX model", "load it with onnx.load(path)")
    if head[1] == 1 and head[2] == 0x12:
        return Identity("tensorflow", "a TensorFlow SavedModel", "load its folder in TensorFlow")
    return Identity("protobuf", "a protobuf message (a Core ML model is one)")


# ---

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_JSON = re.compile(r'[{\[]\s*(?:["{}\[\]\d-]|true|false|null|$)')
_LFS = "version https://git-lfs.github.com/spec/v"


def identify_text(head: bytes, size: int) -> Identity | None:
    """What the text in `head`, the first kilobytes of a file of `size` bytes, is; None for
    what is no text.

    A pickle of protocol 0 is text as well; so ask this of what no pickle begins with, or what
    could not be run as one.
    """
    decoded = _decoded(head, len(head) < size)
    if decoded is None:
        return None
    start = decoded.lstrip("\ufeff \t\r\n")
    if start.startswith(_LFS):
        return _pointer(start)
    lower = start[:200].lower()
    if lower.startswith(("<!doctype html", "<html", "<head", "<body")):
        title = _TITLE.search(start)
        named = f" titled {bounded_repr(' '.join(title[1].split()))}" if title else ""
        return Identity(
            "html",
            f"a web page{named}",
            "the download gave a page instead of the file: take the link to the file itself"
            ' (on Hugging Face "resolve" in place of "blob"), and log in where it asks for it',
        )
    if lower.startswith("<"):
        return Identity(
            "xml", f"XML, which begins {bounded_repr(start[:60])}", _again("error message")
        )
    if _JSON.match(start):
        return _json(start)
    return Identity("text", f"a text, which begins {bounded_repr(start[:60])}")


def _again(what: str) -> str:
    return f"if it is the {what} of a server, download the file again"


def _decoded(head: bytes, cut: bool) -> str | None:
    """As text, if it is: utf-8 (the last character may be cut in two) without control codes."""
    try:
        decoded = head.decode()
    except UnicodeDecodeError as error:
        if not cut or error.start < len(head) - 3:
            return None
        decoded = head[: error.start].decode()
    if any(ord(char) < 32 and char not in "\t\n\r\f\x1b" for char in decoded):
        return None
    return decoded


def _pointer(start: str) -> Identity:
    """A Git LFS pointer: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md"""
    fields = dict(line.partition(" ")[::2] for line in start.splitlines()[:20])
    oid, size = fields.get("oid", "?"), fields.get("size", "?")
    real = f"{int(size):,} bytes" if size.isdigit() and len(size) < 20 else "of unknown size"
    return Identity(
        "git-lfs",
        f"a Git LFS pointer to a file of {real} ({bounded_repr(oid)})",
        "fetch the file itself, in its repository: git lfs pull",
    )


def identify_index(start: str) -> Identity | None:
    """The index of a model in several files, if JSON that begins so is one."""
    if '"weight_map"' not in start:
        return None
    kind = "safetensors-index" if ".safetensors" in start else "torch-index"
    return Identity(
        kind,
        "the index of a model in several files (JSON)",
        "show it where the files lie that its weight_map names: ptinspect show FOLDER",
    )


def _json(start: str) -> Identity:
    found = identify_index(start)
    if found:
        return found
    message = re.search(r'"(?:error|message|detail|error_message)"\s*:\s*"([^"]{1,200})', start)
    if message:
        return Identity(
            "json", f"JSON, which says {bounded_repr(message[1])}", _again("error message")
        )
    return Identity(
        "json", f"JSON, which begins {bounded_repr(start[:60])}", _again("error message")
    )


# ---


class ZipKind(NamedTuple):
    """A zip that has all of `has` (FOLDER/ stands for the folder of its first entry) is `what`."""

    has: tuple[str, ...]
    format: str
    description: str
    hint: str | None = None


_JIT = 'load it with torch.jit.load(path, map_location="cpu")'
_EXPORT = "load it with torch.export.load(path)"

ZIP_KINDS = (
    ZipKind(("FOLDER/constants.pkl", "FOLDER/bytecode.pkl"), "torchscript",
            "a TorchScript program for mobile devices", _JIT),
    ZipKind(("FOLDER/constants.pkl",), "torchscript", "a TorchScript program", _JIT),
    ZipKind(("FOLDER/model.json",), "torchscript", "a TorchScript program (torch < 1.4)", _JIT),
    ZipKind(("FOLDER/data.pkl",), "torch-zip", "a file of torch.save"),
    ZipKind(("FOLDER/.data/extern_modules",), "torch-package", "a torch.package archive",
            "torch.package.PackageImporter(path) opens it; that runs the code in it"),
    ZipKind(("FOLDER/archive_format",), "torch-export", "a .pt2 program (torch.export)", _EXPORT),
    ZipKind(("serialized_exported_program.json",), "torch-export", "a .pt2 program (torch.export)",
            _EXPORT),
    ZipKind(("MAR-INF/MANIFEST.json",), "zip", "a TorchServe archive (.mar)",
            "unzip it and show the .pt or .pth file in it"),
    ZipKind(("model.weights.h5", "config.json"), "zip", "a Keras 3 model",
            "load it with keras.models.load_model(path)"),
    ZipKind(("policy.pth", "pytorch_variables.pth"), "zip", "a Stable-Baselines3 model",
            "unzip it and show policy.pth"),
    ZipKind(("[Content_Types].xml",), "zip", "an Office document"),
    ZipKind(("META-INF/MANIFEST.MF",), "zip", "a Java archive or an Android app"),
)  # fmt: skip

SEVERAL = Identity(
    "torch-dcp",
    "several zips in a row, such as torch.distributed.checkpoint writes (.distcp)",
    "make one file of the folder: python -m torch.distributed.checkpoint.format_utils"
    " dcp_to_torch FOLDER model.pt",
)

UNFINISHED = Identity(
    "zip",
    "what a torch.save that failed leaves behind, without a data.pkl",
    "save it again: the error that torch.save raised names what it could not pickle",
)

_MODEL = re.compile(r"\.(?:pt|pth|bin|ckpt|pkl)$")


def torch_folder(names: Sequence[str]) -> str:
    """The folder that torch's reader looks into: the first entry's, with its slash. "" where
    there is none."""
    first = names[0] if names else ""
    return first[: first.find("/") + 1]


def identify_zip(names: Sequence[str], index: Collection[str]) -> tuple[Identity, str]:
    """What the zip with these names is, and, if it is torch.save's, the folder it is in.

    A zip whose pickle lies elsewhere than torch looks (packed again by hand, or in another
    order) is torch.save's, too, if there is but one pickle that could be meant.
    """
    folder = torch_folder(names)
    for kind in ZIP_KINDS:
        if all(name.replace("FOLDER/", folder) in index for name in kind.has):
            return Identity(kind.format, kind.description, kind.hint), folder
    others = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(others) == 1:
        return Identity("torch-zip", "a file of torch.save"), others[0][: -len("data.pkl")]
    if names and all(name.endswith(".npy") for name in names):
        what = "a zip of numpy arrays (.npz)"
        return Identity("npz", what, "read it with numpy.load(path)"), folder
    if not names:
        return Identity("zip", "an empty zip"), folder
    if f"{folder}.data/serialization_id" in index:  # torch's writer ends a zip with it, always
        return UNFINISHED, folder
    inner = next((name for name in names if _MODEL.search(name)), None)
    hint = "unzip it, and show the model in it" if inner else None
    return Identity("zip", f"a zip of {len(names):,} files", hint), folder


# ---

TAR_BLOCK = 512


def is_tar(head: bytes) -> bool:
    """Whether the first block is a tar header: its checksum says so, which the oldest tars,
    without the word "ustar", have too."""
    if len(head) < TAR_BLOCK or not head[0]:
        return False
    try:
        told = tar_number(head[148:156])
    except ValueError:
        return False
    return told == sum(head[:148]) + sum(head[156:TAR_BLOCK]) + 8 * 0x20


def tar_number(field: bytes) -> int:
    """A number of a header: octal digits, or binary where the first bit is set (GNU, pax)."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() and digits:
        raise ValueError(digits)
    return int(digits or b"0", 8)
