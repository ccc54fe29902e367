"""Tables and rules that identify a file by its content: first bytes, text, or the names in a zip.

No rule looks at the file's name. `detect` applies them in torch's order.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, FormatError, Place
from ptinspect.pickling.opcodes import BY_CODE, skip_opcode
from ptinspect.text import bounded_repr, python_literal, shell_word

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source


class Identity(NamedTuple):
    """The format of a file: its name in JSON, its description ("a safetensors file"), and what to
    do with it, where `(path`, FILE and FOLDER stand for the file."""

    format: str
    description: str
    hint: str | None = None

    def advice(self, path: str) -> str | None:
        """Return the hint with the file's path in it; it can be pasted."""
        words = {"(path": f"({python_literal(path)}", "FILE": shell_word(path)}
        words["FOLDER"] = shell_word(os.path.dirname(path) or ".")
        pattern = r"\(path\b|\bFILE\b|\bFOLDER\b"
        return self.hint and re.sub(pattern, lambda match: words[match[0]], self.hint)

    def error(self, path: str) -> FormatError:
        message = f"it is {self.description}, not a file that torch.save writes"
        return FormatError(message, hint=self.advice(path))


def unknown_format_error(head: bytes) -> FormatError:
    first_bytes = " ".join(f"{byte:02x}" for byte in head[:16])
    return FormatError(
        "it is not a file that torch.save writes, nor of another known format: it begins with the"
        f" bytes {first_bytes}",
        where=Place(None, 0),
    )


ZIP_MAGIC = b"PK\x03\x04"

TEXT_BYTES = 1 << 16
"""Bytes by which a file that was treated as text is recognized."""

_PROTOCOL_0 = rb"\(?(?:[dl]p\d+|[ci][\w.]+\r\n\w+\r\np\d+)\r\n"
_NON_ASCII = [text.encode() for text in ("\x80", "\u20ac", "\ufffd")]
"""What 0x80 becomes in UTF-8: read as latin1 or as cp1252, or replaced."""


class Signature(NamedTuple):
    """A file with the bytes `magic` at `offset` has this format."""

    offset: int
    magic: bytes
    format: str
    description: str
    hint: str | None = None


_UNPACK = "unpack it and show what was in it: "
_STREAM = _UNPACK + "{} < FILE > unpacked"
_JOBLIB = "import joblib; joblib.load(path)  # runs what the file says"
JOBLIB = Identity("joblib", "a dump of joblib", _JOBLIB)
_KERAS = 'import h5py; h5py.File(path, "r")  # or keras.models.load_model'
_LUA = "import torchfile; torchfile.load(path)"
_MATLAB = "import scipy.io; scipy.io.loadmat(path)"
_GGUF = "import gguf; gguf.GGUFReader(path)"

SIGNATURES = (
    Signature(0, b"\x93NUMPY", "npy", "a numpy array", "import numpy; numpy.load(path)"),
    Signature(0, b"\x1f\x8b", "compressed", "compressed by gzip", _STREAM.format("gunzip")),
    Signature(0, b"BZh", "compressed", "compressed by bzip2", _STREAM.format("bunzip2")),
    Signature(0, b"\xfd7zXZ\0", "compressed", "compressed by xz", _STREAM.format("unxz")),
    Signature(0, b"\x28\xb5\x2f\xfd", "compressed", "compressed by zstd", _STREAM.format("unzstd")),
    Signature(0, b"\x04\x22\x4d\x18", "compressed", "compressed by lz4", _STREAM.format("unlz4")),
    Signature(0, b"ZF0x", "compressed", "a compressed dump of joblib before 0.10", _JOBLIB),
    Signature(0, b"\x1f\x9d\x90", "compressed", "compressed by compress", _STREAM.format("zcat")),
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
    Signature(0, b"PAR1", "parquet", "a Parquet file", "import pandas; pandas.read_parquet(path)"),
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
    Signature(0, b"\0\5\x16\7", "appledouble", "what macOS stores beside a file (AppleDouble)"),
    Signature(0, b"\xff\xfe", "text", "a text in UTF-16"),
    Signature(0, b"\xfe\xff", "text", "a text in UTF-16"),
)  # fmt: skip

_SSTABLE = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_SAFETENSORS_HEADER = 100_000_000  # bytes of the longest header that safetensors itself accepts


def identify_signature(head: bytes, tail: bytes, size: int) -> Identity | None:
    """Return the format that the first kilobytes, or the last 8 of `size` bytes, identify."""
    for row in SIGNATURES:
        if row.offset == 4 and head[:1] == b"\x80":  # a pickle that contains these bytes
            continue
        if head.startswith(row.magic, row.offset):
            return Identity(row.format, row.description, row.hint)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= _SAFETENSORS_HEADER and length + 8 <= max(size, len(head)):
        return Identity(
            "safetensors",
            "a safetensors file",
            "import safetensors.torch; safetensors.torch.load_file(path)",
        )
    if tail == _SSTABLE:
        return Identity(
            "tensorflow",
            "the index of a TensorFlow checkpoint",
            'import tensorflow as tf; tf.train.load_checkpoint(path.removesuffix(".index"))',
        )
    # ONNX and TensorFlow have no magic number. Their first field is a version, their second a
    # producer's name (ONNX) or a graph (`onnx.proto`, `saved_model.proto`).
    if len(head) < 4 or head[0] != 0x08 or not 0 < head[1] < 0x20:
        return None
    onnx = Identity("onnx", "an ONNX model", "import onnx; onnx.load(path)")
    producer = head[4 : 4 + head[3]]
    if head[2] == 0x12 and head[3] < 64 and producer.isascii() and producer.decode().isprintable():
        return onnx
    if head[2] in (0x3A, 0x42):
        return onnx
    if head[1] == 1 and head[2] == 0x12:
        return Identity("tensorflow", "a TensorFlow SavedModel", "load its folder in TensorFlow")
    return Identity("protobuf", "a protobuf message (a Core ML model is one)")


TAR_BLOCK = 512


def is_tar(head: bytes) -> bool:
    """Return True if `tarfile` takes the first block for a header. The checksum decides, because
    the oldest tars do not contain the word "ustar". `tarfile` is not used here: importing it takes
    longer than reading a small model."""
    if len(head) < TAR_BLOCK:
        return False
    field = head[148:156]
    if field[0] in (0o200, 0o377):  # GNU's binary notation
        checksum = int.from_bytes(field[1:], "big")
    else:
        try:
            checksum = int(field.partition(b"\0")[0].decode("ascii").strip() or "0", 8)
        except ValueError:
            return False
    block = head[:148] + head[156:TAR_BLOCK]
    surplus = sum(block) + 256 - checksum
    if surplus <= 0 or surplus % 256:
        return surplus == 0
    return surplus == 256 * sum(byte > 127 for byte in block)  # of signed characters


# Patterns are compiled when they are used: most files are not text.
_TITLE = r"(?is)<title[^>]*>(.*?)</title>"
_JSON = r'[{\[]\s*(?:["{}\[\]\d-]|true|false|null|$)'
_JSON_MESSAGE = r'"(?:error|message|detail|error_message)"\s*:\s*"([^"]{1,200})'
_LFS = "version https://git-lfs.github.com/spec/v"
_SERVER_ERROR = "if it is the error message of a server, download the file again"


def identify_text(head: bytes, size: int) -> Identity | None:
    """Return the kind of text that a file is, mostly what a failed download leaves; None for other
    content. A pickle of protocol 0 is text as well, so try to run it first."""
    decode = codecs.utf_8_decode
    if 0 in head[:4]:  # JSON without a byte order mark, as `json.loads` detects it
        from json import detect_encoding

        # `head.decode` would import a codec that the content chooses.
        name = detect_encoding(head).removesuffix("-sig").replace("-", "_")
        decode = getattr(codecs, f"{name}_decode")
    try:
        decoded, _ = decode(head, "strict", True)
    except UnicodeDecodeError as error:
        if len(head) >= size or error.start < len(head) - 3:
            return None
        decoded, _ = decode(head[: error.start])  # without a truncated last character
    if any(ord(char) < 32 and char not in "\t\n\r\f\x1b" for char in decoded):
        return None
    if decode is not codecs.utf_8_decode and not re.match(_JSON, decoded.lstrip()):
        return None
    start = decoded.lstrip("\ufeff \t\r\n")
    if start.startswith(_LFS):
        # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
        fields = dict(line.partition(" ")[::2] for line in start.splitlines()[:20])
        oid, length = fields.get("oid", "?"), fields.get("size", "?")
        is_number = length.isdigit() and len(length) < 20
        real = f"{int(length):,} bytes" if is_number else "unknown size"
        return Identity(
            "git-lfs",
            f"a Git LFS pointer to a file of {real} ({bounded_repr(oid)})",
            "download the file itself, in its repository: git lfs pull",
        )
    lower = start[:200].lower()
    if lower.startswith(("<!doctype html", "<html", "<head", "<body")):
        title = re.search(_TITLE, start)
        titled = f" titled {bounded_repr(' '.join(title[1].split()))}" if title else ""
        return Identity(
            "html",
            f"a web page{titled}",
            "the server sent a page instead of the file: use the link to the file itself"
            ' (on Hugging Face "resolve" in place of "blob"), and log in if necessary',
        )
    excerpt = bounded_repr(start[:60])
    if lower.startswith("<"):
        return Identity("xml", f"XML, which begins {excerpt}", _SERVER_ERROR)
    if not re.match(_JSON, start):
        return Identity("text", f"a text, which begins {excerpt}")
    index = identify_index(head, 0, len(head))
    if index:
        return index
    message = re.search(_JSON_MESSAGE, start)
    if message:
        return Identity("json", f"JSON, which says {bounded_repr(message[1])}", _SERVER_ERROR)
    return Identity("json", f"JSON, which begins {excerpt}", _SERVER_ERROR)


def identify_zeros(source: Source) -> Identity:
    """Identify a file that has its length, but not (all of) its content."""
    count = min(source.size, 1 << 20)
    if any(source.read(0, count)):
        description = "a file that begins with zeros"
    elif count == source.size:
        description = f"a file of {count:,} zero bytes"
    else:
        description = f"a file whose first {count:,} bytes are zero"
    return Identity("zeros", description, f"its content was never written: {DOWNLOAD_AGAIN}")


def text_transfer_error(source: Source) -> DamagedError | None:
    """Return the error for a zip or pickle that a transfer has treated as text, if it looks like
    one: each LF became CR LF, or each byte above 127 became several, as in UTF-8."""
    head = source.read(0, min(source.size, TEXT_BYTES))
    if head.startswith((b"\xff\xfeP\0K\0", b"\xff\xfe\x80\0")):
        return as_text_error("its bytes are characters of UTF-16")
    if not head.startswith((ZIP_MAGIC, b"\x80", *_NON_ASCII)) and not re.match(_PROTOCOL_0, head):
        return None
    if head.count(b"\n") >= 2 and head.count(b"\n") == head.count(b"\r\n"):
        return as_text_error()
    if not any(text + bytes([protocol]) in head for text in _NON_ASCII for protocol in range(2, 6)):
        return None
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start <= len(head) - 4:  # not a character that is cut off
            return None
    return as_text_error("its bytes above 127 are characters of UTF-8")


def as_text_error(change: str = "each LF is a CR LF") -> DamagedError:
    """Return the error for a file that a transfer has treated as text."""
    return DamagedError(
        f"the file was read as text and written again: {change}",
        hint="transfer the original again in binary mode; for git: `*.pt binary` in .gitattributes",
    )


_LETTERS = "".join(rf"(?:{char}|\\u00(?i:{ord(char):02x}))" for char in "weight_map")
_WEIGHT_MAP = rf'"{_LETTERS}"\s*:'


def identify_index(data: Buffer, start: int, stop: int) -> Identity | None:
    """Return the kind of index of a model in several files if a JSON text is one. Each letter of
    its key may be escaped."""
    if not re.compile(_WEIGHT_MAP.encode()).search(data, start, stop):
        return None
    return Identity(
        "safetensors-index" if data.find(b".safetensors", start, stop) >= 0 else "torch-index",
        "the index of a model in several files (JSON)",
        "show it in the folder of the files that its weight_map names: ptinspect show FOLDER",
    )


class ZipKind(NamedTuple):
    """A zip that contains all of `has` has this format. `FOLDER/` stands for the first entry's
    folder."""

    has: tuple[str, ...]
    format: str
    description: str
    hint: str | None = None


_JIT = 'import torch; torch.jit.load(path, map_location="cpu")'
_EXPORT = "import torch; torch.export.load(path)"
_TORCH_SAVE = "a file of torch.save"

# The first row that matches decides.
ZIP_KINDS = (
    ZipKind(("FOLDER/constants.pkl", "FOLDER/bytecode.pkl"), "torchscript",
            "a TorchScript program for mobile devices", _JIT),
    ZipKind(("FOLDER/constants.pkl",), "torchscript", "a TorchScript program", _JIT),
    ZipKind(("FOLDER/model.json",), "torchscript", "a TorchScript program (torch < 1.4)", _JIT),
    ZipKind(("FOLDER/data.pkl",), "torch-zip", _TORCH_SAVE),
    ZipKind(("FOLDER/.data/extern_modules",), "torch-package", "a torch.package archive",
            "import torch.package; torch.package.PackageImporter(path)  # runs its code"),
    ZipKind(("FOLDER/archive_format",), "torch-export", "a .pt2 program (torch.export)", _EXPORT),
    ZipKind(("serialized_exported_program.json",), "torch-export", "a .pt2 program (torch.export)",
            _EXPORT),
    ZipKind(("MAR-INF/MANIFEST.json",), "zip", "a TorchServe archive (.mar)",
            "unzip it and show the .pt or .pth file in it"),
    ZipKind(("model.weights.h5", "config.json"), "zip", "a Keras 3 model",
            "import keras; keras.models.load_model(path)"),
    ZipKind(("policy.pth", "pytorch_variables.pth"), "zip", "a Stable-Baselines3 model",
            "unzip it and show policy.pth"),
    ZipKind(("[Content_Types].xml",), "zip", "an Office document"),
    ZipKind(("META-INF/MANIFEST.MF",), "zip", "a Java archive or an Android app"),
)  # fmt: skip

CONCATENATED_ZIPS = Identity(
    "torch-dcp",
    "several zips in a row, such as torch.distributed.checkpoint writes (.distcp)",
    "convert the folder to one file: python -m torch.distributed.checkpoint.format_utils"
    " dcp_to_torch FOLDER model.pt",
)

_UNFINISHED = Identity(
    "zip",
    "the file of a failed torch.save, without a data.pkl",
    "save it again: the error that torch.save raised names what it could not pickle",
)

MODEL_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def identify_zip(names: Sequence[str], index: Collection[str]) -> tuple[Identity, str]:
    """Return the format of a zip with these names, and the folder of torch's pickle if it has
    one. torch looks into the folder of the first entry. A zip whose pickle is elsewhere (packed
    again by hand, or in another order) is also torch's if it contains only one candidate."""
    first = names[0] if names else ""
    folder = first[: first.find("/") + 1]
    for kind in ZIP_KINDS:
        if all(name.replace("FOLDER/", folder) in index for name in kind.has):
            return Identity(kind.format, kind.description, kind.hint), folder
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) == 1:
        return Identity("torch-zip", _TORCH_SAVE), pickles[0][: -len("data.pkl")]
    if names and all(name.endswith(".npy") for name in names):
        description = "a zip of numpy arrays (.npz)"
        return Identity("npz", description, "import numpy; numpy.load(path)"), folder
    if not names:
        return Identity("zip", "an empty zip"), folder
    if f"{folder}.data/serialization_id" in index:  # torch's writer always writes it last
        return _UNFINISHED, folder
    has_model = any(name.endswith(MODEL_ENDINGS) for name in names)
    hint = "unzip it, and show the model in it" if has_model else None
    return Identity("zip", f"a zip of {len(names):,} files", hint), folder


_FILE_STARTS = (
    b"PK\x03\x04", b"\x93NUMPY", b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x04\x22\x4d\x18",
    b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07",
)  # fmt: skip
_FIRST_BYTES = frozenset(signature[0] for signature in _FILE_STARTS)
_OPCODES = 6  # opcodes in a row by which bytes look like a pickle
_TAKES_NOTHING = frozenset(code for code, opcode in BY_CODE.items() if not opcode.before)
_STOP = ord(".")

# Opcodes that import a name: without one, a pickle cannot do anything.
_IMPORT = re.compile(rb"[ci\x82-\x84\x93]")


def looks_like_file(data: Buffer, start: int, stop: int) -> bool:
    """Return True if bytes begin like an archive, compressed data, an array or a pickle."""
    if stop - start < 4:
        return False
    code = data[start]
    if code in _TAKES_NOTHING and begins_like_pickle(data, start, stop):
        return _IMPORT.search(data, start, stop) is not None
    if code in _FIRST_BYTES and data[start : start + 8].startswith(_FILE_STARTS):
        return True
    may_be_tar = stop - start >= TAR_BLOCK and code and data[start + 156] in b"\x000xgLK"
    return bool(may_be_tar) and is_tar(data[start : start + TAR_BLOCK])


def begins_like_pickle(data: Buffer, start: int, stop: int) -> bool:
    offset = start
    for number in range(_OPCODES):
        if offset >= stop:
            return False
        code = data[offset]
        if code == _STOP:
            return number > 1
        if code not in BY_CODE:
            return False
        offset = skip_opcode(data, offset, stop, 256)
    return offset <= stop
