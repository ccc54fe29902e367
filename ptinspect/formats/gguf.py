"""GGUF, the format of llama.cpp: a header with metadata, a list of tensors, their bytes.

    "GGUF"  uint32 version  uint64 tensors  uint64 metadata items
    metadata: name, uint32 type, value
    tensors: name, uint32 dimensions, uint64 sizes (the fastest first), uint32 type, uint64 offset
    padding to general.alignment, the tensors' bytes

Source: docs/gguf.md and gguf-py/gguf/constants.py of ggml. Version 1 has 32-bit counts and is not
read. A big-endian file has its version in that order.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from struct import Struct
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import Finding, PicklelessArchive, Span
from ptinspect.formats.safetensors import dense_tensor, encoded_tensor, ordered_dict
from ptinspect.limits import LIMITS, Limits
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

MAGIC = b"GGUF"
MAX_DIMS = 8
MAX_DEPTH = 8
"""Arrays of metadata in one another."""
MAX_ITEMS = 16
"""Items of a metadata array that are read; of a longer one only the length is."""

# By number (ggml_type): name, elements in a block, bytes of a block.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


class _Reader:
    """Reads the header from its beginning on."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 4
        version = source.read(4, 4)
        self.order = ">" if version[0] == 0 and version[3] else "<"

    def numbers(self, layout: str) -> tuple[int, ...]:
        """Return the next numbers, by their struct letters."""
        shape = Struct(self.order + layout)
        values = shape.unpack(self.take(shape.size))
        return values

    def take(self, length: int) -> bytes:
        if length > self.source.size - self.position:
            raise DamagedError(
                f"the header needs {length:,} bytes here, and the file ends",
                where=Place(None, self.position),
                hint=DOWNLOAD_AGAIN,
            )
        raw = self.source.read(self.position, length)
        self.position += length
        return raw

    def text(self) -> str:
        (length,) = self.numbers("Q")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> object:
        """Return the next metadata value; of a long array its length."""
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.numbers(_SCALARS[kind])[0]
        if kind != _ARRAY:
            raise DamagedError(f"metadata of the unknown type {kind}", where=self.place())
        if depth > MAX_DEPTH:
            message = f"metadata with more than {MAX_DEPTH} arrays in arrays"
            raise UnsupportedError(message, where=self.place())
        inner, count = self.numbers("IQ")
        is_skipped = inner in _SCALARS  # the rest of an array of numbers
        shown = []
        for index in range(min(count, MAX_ITEMS) if is_skipped else count):
            item = self.value(inner, depth + 1)
            if index < MAX_ITEMS:
                shown.append(item)
        if is_skipped:
            left = (count - len(shown)) * Struct(self.order + _SCALARS[inner]).size
            if left > self.source.size - self.position:
                self.take(left)  # raises
            self.position += left
        return shown if len(shown) == count else {"length": count, "head": shown}

    def place(self) -> Place:
        return Place(None, self.position)


def read_gguf(source: Source, limits: Limits = LIMITS) -> PicklelessArchive:
    """Read the header of a GGUF file. DamagedError if it is truncated or inconsistent,
    UnsupportedError if its version or the type of a tensor is unknown."""
    reader = _Reader(source)
    version, tensor_count, item_count = reader.numbers("IQQ")
    if version not in (2, 3):
        raise UnsupportedError(f"version {version} of GGUF, 2 and 3 are read")
    for count in (tensor_count, item_count):
        if count > limits.zip_entries:
            raise LimitError(f"the header lists {count:,} items", limit="zip_entries")
    archive = PicklelessArchive(source, limits, "gguf")
    archive.version = str(version)
    archive.byteorder = "big" if reader.order == ">" else "little"
    metadata: dict[str, object] = {}
    for _ in range(item_count):
        name = reader.text()
        (kind,) = reader.numbers("I")
        metadata[name] = reader.value(kind)
    archive.facts = {"metadata": metadata}
    parts = metadata.get("split.count", 1)
    if parts != 1:
        text = f"one of {parts} files of a model, the tensors of the others are not read:"
        text += " `llama-gguf-split --merge` joins them"
        archive.warnings.append(Finding("not-joined", text))
    listed = []
    for _ in range(tensor_count):
        name, (dims,) = reader.text(), reader.numbers("I")
        if dims > MAX_DIMS:
            raise DamagedError(f"a tensor has {dims:,} dimensions", where=reader.place())
        *sizes, type_number, offset = reader.numbers(f"{dims}QIQ")
        listed.append((name, tuple(reversed(sizes)), type_number, offset))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise DamagedError(f"the alignment {bounded_repr(alignment)} is impossible")
    start = -(-reader.position // alignment) * alignment
    stops = sorted({offset for *_, offset in listed} | {source.size - start})
    following = dict(pairwise(stops))
    values: dict[str, Value] = {}
    for name, shape, kind, offset in listed:
        if name in values:
            raise DamagedError(f"the tensor {bounded_repr(name)} is listed twice")
        room = following.get(offset, 0)
        values[name], nbytes = _tensor(name, shape, kind, room - offset, alignment)
        if start + offset + nbytes > source.size:
            raise DamagedError(
                f"the tensor {bounded_repr(name)} ends {start + offset + nbytes - source.size:,}"
                " bytes behind the end of the file",
                where=Place(None, start + offset),
                hint=DOWNLOAD_AGAIN,
            )
        if offset + nbytes > room and nbytes:
            message = f"the tensor {bounded_repr(name)} overlaps the next one"
            raise DamagedError(message, where=Place(None, start + offset))
        archive.spans[name] = Span(None, nbytes, start + offset, source.base)
    archive.value = ordered_dict(values)
    return archive


def _tensor(
    name: str, shape: tuple[int, ...], kind: int, room: int, alignment: int
) -> tuple[Value, int]:
    """Return the call that builds a tensor, and its bytes. `room` are those up to the next one."""
    if kind not in _TYPES:
        raise UnsupportedError(f"the tensor {bounded_repr(name)} is of the unknown type {kind}")
    encoding, block, block_bytes = _TYPES[kind]
    numel = prod(shape)
    if numel % block:
        raise DamagedError(f"the tensor {bounded_repr(name)} has a broken block of {encoding}")
    nbytes = numel // block * block_bytes
    if encoding == "Q8_1":  # with two numbers of 16 bits in ggml, of 32 in its package for Python
        wide = nbytes // 36 * 40
        nbytes = wide if wide <= room < wide + alignment else nbytes
    if encoding in _DTYPES:
        return dense_tensor(name, DTYPES[_DTYPES[encoding]], shape), nbytes
    return encoded_tensor(name, encoding, shape, nbytes), nbytes
