"""Files that begin with bytes of their own: one row per format."""

from __future__ import annotations

from typing import NamedTuple

from ptinspect.errors import FormatError, Place


class Identity(NamedTuple):
    """format: its name, as in JSON. what: in words, "a safetensors file". hint: what to do
    with it, where ptinspect does not read it."""

    format: str
    what: str
    hint: str | None = None

    def refused(self) -> FormatError:
        """The error that names it."""
        return FormatError(f"it is {self.what}, not a file that torch.save writes", hint=self.hint)


READABLE = (
    "torch-zip", "torch-legacy", "torch-legacy-tar", "pickle", "safetensors", "safetensors-index",
    "torch-index",
)  # fmt: skip
"""The formats that `open_archive` opens."""


def unknown(head: bytes) -> FormatError:
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
    what: str
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


def signature(head: bytes, tail: bytes, size: int) -> Identity | None:
    """The format that the first bytes tell of (a few kilobytes; and the last 8 of `size`)."""
    for row in SIGNATURES:
        if row.offset == 4 and head[:1] == b"\x80":  # a pickle, with that word in it
            continue
        if head.startswith(row.magic, row.offset):
            return Identity(row.format, row.what, row.hint)
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
