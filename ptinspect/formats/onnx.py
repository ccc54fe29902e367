"""ONNX: the tensors of a model's graph. Its bytes are not parsed beyond what is needed for that.

A file is a protobuf message, ModelProto (onnx/onnx.proto). Read are the graph's initializers, the
tensors of its Constant nodes, and those of the graphs inside nodes (If, Loop). The elements of a
TensorProto are in `raw_data` (little-endian), in typed fields (numbers as varints, float16 as bits
in `int32_data`), or in another file: `external_data` with location, offset and length. A location
outside the model's folder is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import dtype_by_name
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, UnsupportedError
from ptinspect.formats.archive import (
    CHUNK,
    Finding,
    OutsideFolderError,
    PicklelessArchive,
    Span,
    check_range,
)
from ptinspect.formats.archive import read_chunks as read_source
from ptinspect.formats.safetensors import dense_tensor, encoded_tensor, ordered_dict
from ptinspect.limits import LIMITS, Limits
from ptinspect.text import bounded_repr, printable_name

if TYPE_CHECKING:
    from ptinspect.pickling.values import Buffer, Value
    from ptinspect.source.base import Source

MAX_DEPTH = 32
"""Graphs inside nodes of graphs."""

# TensorProto.DataType: torch's name, or None; ONNX's name; elements per byte if more than one.
_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
    15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
    19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
_ENCODED = {8: "STRING", 21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1


class Field(NamedTuple):
    """A field of a message: its number, wire type, the number itself (varints), its bytes."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


class _TypedSpan(Span):
    """Elements in typed fields: ranges of the file with little-endian numbers, or with varints if
    `itemsize` is not 0."""

    __slots__ = ("itemsize", "ranges")

    def __init__(self, length: int, itemsize: int, ranges: list[tuple[int, int]]) -> None:
        super().__init__(None, length, None, None)
        self.itemsize = itemsize
        self.ranges = ranges


class _ExternalSpan(Span):
    """Elements in another file, from `offset` on."""

    __slots__ = ("begin", "path")

    def __init__(self, length: int, path: str, begin: int) -> None:
        super().__init__(path, length, None, None)
        self.path = path
        self.begin = begin


class Onnx(PicklelessArchive):
    """See the module's docstring. `folder` is that of the model."""

    format = "onnx"

    def __init__(self, source: Source, limits: Limits) -> None:
        super().__init__(source, limits)
        self.folder = os.path.dirname(source.path)
        self.spans: dict[object, Span] = {}
        self.storages = self.spans
        self.missing: list[str] = []

    def chunks(
        self, span: Span, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        start, stop = check_range(span, start, stop)
        if isinstance(span, _TypedSpan):
            data = self._typed_bytes(span)
            return (data[i : min(i + size, stop)] for i in range(start, stop, size))
        if isinstance(span, _ExternalSpan):
            return self._external_chunks(span, start, stop, size)
        return super().chunks(span, start, stop, size)

    def _typed_bytes(self, span: _TypedSpan) -> bytes:
        data, _, _ = self.source.window()
        parts = [bytes(data[start:stop]) for start, stop in span.ranges]
        if span.itemsize:
            mask = (1 << (8 * span.itemsize)) - 1
            parts = [
                (value & mask).to_bytes(span.itemsize, "little")
                for part in parts
                for value in _varints(part)
            ]
        joined = b"".join(parts)
        if len(joined) != span.length:
            raise DamagedError(f"a tensor has {len(joined):,} bytes instead of {span.length:,}")
        return joined

    def _external_chunks(
        self, span: _ExternalSpan, start: int, stop: int, size: int
    ) -> Iterator[bytes]:
        from ptinspect.source.local import open_source

        path = os.path.join(self.folder, span.path)
        if not os.path.isfile(path):
            raise DamagedError(
                f"the file {printable_name(span.path)} is missing, which has a tensor's elements",
                hint="copy it into the folder of the model",
            )
        with open_source(path) as file:
            if span.begin + span.length > file.size:
                raise DamagedError(
                    f"a tensor needs bytes up to {span.begin + span.length:,} of"
                    f" {printable_name(span.path)}, which has {file.size:,}",
                    hint=DOWNLOAD_AGAIN,
                )
            yield from read_source(file, span.begin + start, span.begin + stop, size)


def fields(data: Buffer, pos: int, stop: int) -> Iterator[Field]:
    """Yield the fields of a message. DamagedError if it is not one."""
    while pos < stop:
        begin = pos
        key, pos = _varint(data, pos, stop)
        wire, value, end = key & 7, 0, pos
        if wire == _VARINT:
            value, end = _varint(data, pos, stop)
        elif wire == _BYTES:
            length, pos = _varint(data, pos, stop)
            end = pos + length
        elif wire in (_FIXED32, _FIXED64):
            end = pos + (4 if wire == _FIXED32 else 8)
        if end > stop or (end == pos and wire not in (_BYTES,)):
            raise DamagedError(
                "the file is cut off, or not protobuf",
                where=Place(None, begin),
                hint=DOWNLOAD_AGAIN,
            )
        yield Field(key >> 3, wire, value, pos, end)
        pos = end


def _varint(data: Buffer, pos: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while pos < stop and shift < 70:
        byte = data[pos]
        value |= (byte & 0x7F) << shift
        pos += 1
        if byte < 0x80:
            return value, pos
        shift += 7
    raise DamagedError(
        "a number is cut off or too long", where=Place(None, pos), hint=DOWNLOAD_AGAIN
    )


def _varints(data: bytes) -> Iterator[int]:
    pos = 0
    while pos < len(data):
        value, pos = _varint(data, pos, len(data))
        yield value


@dataclass(slots=True)
class _Reader:
    """Reads one model; `data` is its file."""

    archive: Onnx
    data: Buffer
    operators: Counter[str] = field(default_factory=Counter)

    def text(self, item: Field) -> str:
        return bytes(self.data[item.start : item.stop]).decode("utf-8", "replace")

    def fields(self, item: Field) -> Iterator[Field]:
        if item.wire != _BYTES:
            raise DamagedError("a message is expected", where=Place(None, item.start))
        return fields(self.data, item.start, item.stop)

    def graph(self, item: Field) -> dict[str, object]:
        """Read the main graph: its tensors are the archive's value. Return its facts."""
        root: dict[str, Value] = {}
        facts: dict[str, object] = {"name": "", "inputs": [], "outputs": []}
        inner: dict[str, dict[str, Value]] = {}
        stack: list[tuple[Field, str, int]] = [(item, "", 0)]
        while stack:
            current, path, depth = stack.pop()
            tensors = inner.setdefault(path, {}) if depth else root
            if depth > MAX_DEPTH:
                raise DamagedError("graphs are nested too deep", where=Place(None, current.start))
            inputs: list[str] = []
            outputs: list[str] = []
            number = 0
            for part in self.fields(current):
                if part.number == 1:
                    number += 1
                    for name, graph in self.node(part, tensors, number):
                        stack.append((graph, f"{path}.{name}" if path else name, depth + 1))
                elif part.number == 5:
                    self.tensor(part, tensors)
                elif part.number == 15:
                    text = "a sparse initializer, which is not read"
                    where = Place(None, part.start)
                    self.archive.warnings.append(Finding("unread-object", text, where))
                elif part.number in (11, 12):
                    names = [self.text(f) for f in self.fields(part) if f.number == 1]
                    (inputs if part.number == 11 else outputs).extend(names)
                elif part.number == 2 and not depth:
                    facts["name"] = self.text(part)
            if not depth:
                initialized = set(root)  # before IR version 4, initializers are inputs as well
                facts["inputs"] = [name for name in inputs if name not in initialized]
                facts["outputs"] = outputs
        nested = {_unique(root, path): tensors for path, tensors in inner.items() if tensors}
        self.archive.value = ordered_dict(root | nested)
        return facts

    def node(self, item: Field, tensors: dict[str, Value], number: int) -> list[tuple[str, Field]]:
        """Count a node, add the tensor of a Constant; return its graphs with their names."""
        kind, name, outputs, attributes = "", "", [], []
        for part in self.fields(item):
            if part.number == 2:
                outputs.append(self.text(part))
            elif part.number == 3:
                name = self.text(part)
            elif part.number == 4:
                kind = self.text(part)
            elif part.number == 5:
                attributes.append(part)
        self.operators[kind] += 1
        graphs = []
        for attribute in attributes:
            label = ""
            for part in self.fields(attribute):
                if part.number == 1:
                    label = self.text(part)
                elif part.number in (6, 11):
                    graphs.append((f"{name or f'{kind} {number}'}.{label}", part))
                elif part.number == 5 and kind == "Constant" and outputs:
                    self.tensor(part, tensors, outputs[0])
        return graphs

    def tensor(self, item: Field, tensors: dict[str, Value], name: str | None = None) -> None:
        """Add the tensor of a TensorProto."""
        dims: list[int] = []
        data_type = location = 0
        raw: Field | None = None
        typed: list[Field] = []
        external: dict[str, str] = {}
        for part in self.fields(item):
            if part.number == 1:
                packed = bytes(self.data[part.start : part.stop])
                dims += _varints(packed) if part.wire == _BYTES else [part.value]
            elif part.number == 2:
                data_type = part.value
            elif part.number == 8 and name is None:
                name = self.text(part)
            elif part.number == 9:
                raw = part
            elif part.number in (4, 5, 7, 10, 11):
                typed.append(part)
            elif part.number == 13:
                entry = {pair.number: self.text(pair) for pair in self.fields(part)}
                external[entry.get(1, "")] = entry.get(2, "")
            elif part.number == 14:
                location = part.value
        where, name = Place(None, item.start), name or ""
        if any(size >= 1 << 62 for size in dims) or len(dims) > 64:
            raise DamagedError(f"the tensor {bounded_repr(name)} has no shape", where=where)
        shape = tuple(dims)
        type_name, encoding = _TYPES.get(data_type), _ENCODED.get(data_type)
        dtype = dtype_by_name(type_name) if type_name is not None else None
        if dtype is None and encoding is None:
            message = f"the tensor {bounded_repr(name)} is of the unknown type {data_type}"
            raise UnsupportedError(message, where=where)
        nbytes = prod(shape) * dtype.itemsize if dtype is not None else -(-prod(shape) // 2)
        if encoding == "STRING":
            nbytes = 0
        key = _unique(self.archive.spans, name)
        if location == _EXTERNAL:
            span = self.external(name, external, nbytes, where)
        elif raw is not None:
            if raw.stop - raw.start != nbytes:
                raise DamagedError(
                    f"the tensor {bounded_repr(name)} needs {nbytes:,} bytes, its raw_data has"
                    f" {raw.stop - raw.start:,}",
                    where=where,
                )
            span = Span(None, nbytes, raw.start, self.archive.source.base)
        else:
            has_varints = any(part.number in (5, 7, 11) for part in typed)
            itemsize = (dtype.itemsize if dtype is not None else 1) if has_varints else 0
            span = _TypedSpan(nbytes, itemsize, [(part.start, part.stop) for part in typed])
        self.archive.spans[key] = span
        tensors[_unique(tensors, name)] = (
            dense_tensor(key, dtype, shape)
            if dtype is not None
            else encoded_tensor(key, encoding or "", shape, nbytes)
        )

    def external(self, name: str, entries: dict[str, str], nbytes: int, where: Place) -> Span:
        """Return the span of a tensor in another file."""
        path = entries.get("location", "")
        numbers = [
            entries.get(key, default) for key, default in (("offset", "0"), ("length", str(nbytes)))
        ]
        normal = os.path.normpath(path.replace("\\", "/"))
        drive = os.path.splitdrive(path)[0] or path[1:2] == ":"
        if os.path.isabs(normal) or normal.split("/")[0] == ".." or drive or "\0" in path:
            raise OutsideFolderError(
                f"the elements of {bounded_repr(name)} are at {bounded_repr(path)}, outside the"
                " folder of the model",
                where=where,
            )
        if not path or not all(text.isdigit() and len(text) < 20 for text in numbers):
            message = f"the tensor {bounded_repr(name)} does not say where its elements are"
            raise DamagedError(message, where=where)
        if int(numbers[1]) != nbytes:
            raise DamagedError(
                f"the tensor {bounded_repr(name)} needs {nbytes:,} bytes, its external data has"
                f" {int(numbers[1]):,}",
                where=where,
            )
        is_missing = not os.path.isfile(os.path.join(self.archive.folder, normal))
        if is_missing and normal not in self.archive.missing:
            self.archive.missing.append(normal)
        return _ExternalSpan(nbytes, normal, int(numbers[0]))


def _unique(names: object, name: str) -> str:
    """Return a name that is not among the names: a second "w" becomes "w (2)"."""
    assert isinstance(names, dict)
    unique, number = name, 2
    while unique in names:
        unique, number = f"{name} ({number})", number + 1
    return unique


def read_onnx(source: Source, limits: Limits = LIMITS) -> Onnx:
    """Read the tensors of a model. DamagedError if it is cut or inconsistent, UnsupportedError for
    an unknown element type, OutsideFolderError if elements are outside the model's folder."""
    data, start, stop = source.window()
    archive = Onnx(source, limits)
    archive.origin = None if source.base is None else source.base - start
    reader = _Reader(archive, data)
    metadata: dict[str, object] = {}
    facts: dict[str, object] | None = None
    opsets = []
    for item in fields(data, start, stop):
        if item.number == 1 and item.wire == _VARINT:
            metadata["ir_version"] = item.value
        elif item.number in (2, 3) and item.wire == _BYTES:
            metadata["producer" if item.number == 2 else "producer_version"] = reader.text(item)
        elif item.number == 7:
            facts = reader.graph(item)
        elif item.number == 8:
            entry = {part.number: part for part in reader.fields(item)}
            domain = reader.text(entry[1]) if 1 in entry else ""
            opsets.append(f"{domain or 'ai.onnx'} {entry[2].value if 2 in entry else 0}")
        elif item.number == 14:
            pair = {part.number: reader.text(part) for part in reader.fields(item)}
            metadata[pair.get(1, "")] = pair.get(2, "")
    if facts is None:
        raise DamagedError("the model has no graph", hint=DOWNLOAD_AGAIN)
    operators = [{"name": n, "count": count} for n, count in reader.operators.most_common()]
    archive.facts["metadata"] = metadata | {"opset": ", ".join(opsets)}
    archive.facts["programs"] = [facts | {"operators": operators, "ranges": {}}]
    if archive.missing:
        archive.facts["set"] = {"missing": archive.missing}
        for path in archive.missing:
            text = f"{printable_name(path)} is missing, which has elements of tensors"
            archive.warnings.append(Finding("missing-file", text))
    return archive
