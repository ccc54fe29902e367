"""ONNX: the tensors of a model's graph. Its bytes are not parsed beyond what is needed for that.

A file is a protobuf message, ModelProto (onnx/onnx.proto). Read are the graph's initializers, the
tensors of its Constant nodes, and those of the graphs inside nodes (If, Loop), of functions and of
training. The elements of a TensorProto are in `raw_data` (little-endian), in typed fields (numbers
as varints, float16 as bits in `int32_data`), or in another file: `external_data` with location,
offset and length. A location outside the model's folder is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import DTYPES, DType, dtype_by_name
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, UnsupportedError
from ptinspect.formats.archive import (
    Finding,
    OutsideFolderError,
    PicklelessArchive,
    Span,
    read_chunks,
)
from ptinspect.formats.safetensors import dense_tensor, encoded_tensor, ordered_dict
from ptinspect.limits import LIMITS, Limits
from ptinspect.text import bounded_repr, is_outside, printable_name

if TYPE_CHECKING:
    from ptinspect.pickling.values import Buffer, Call, Value
    from ptinspect.source.base import Source

MAX_DEPTH = 32
"""Graphs inside nodes of graphs."""

# TensorProto.DataType: torch's name, or ONNX's name and the bits of an element.
_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64",
    15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
    19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
_ENCODED = {
    8: ("STRING", 0), 21: ("UINT4", 4), 22: ("INT4", 4), 23: ("FLOAT4E2M1", 4), 25: ("UINT2", 2),
    26: ("INT2", 2), 27: ("FLOAT6E2M3", 6), 28: ("FLOAT6E3M2", 6),
}  # fmt: skip
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Bytes of a field with the wire type of a fixed-size number."""
_EXTERNAL = 1
_SIX = 6
"""Bits of the only numbers that are packed in `raw_data`, but not in `int32_data`."""
_VALUES = {
    "value_float": (2, "float32"), "value_int": (3, "int64"), "value_string": (4, "STRING"),
    "value_floats": (7, "float32"), "value_ints": (8, "int64"), "value_strings": (9, "STRING"),
}  # fmt: skip
"""The attributes of a Constant that are not tensors: the field, and the type of the tensor."""
_VARINT_FIELDS, _FIXED_FIELDS = (5, 7, 11), (4, 10)
"""int32_data, int64_data and uint64_data; float_data and double_data of a TensorProto."""


class _TypedSpan(Span):
    """Elements in typed fields: ranges of the file with little-endian numbers or text, or with
    varints that stand for `bits` each, if these are not 0."""

    __slots__ = ("bits", "ranges")

    def __init__(self, length: int, bits: int, ranges: list[tuple[int, int]]) -> None:
        super().__init__(None, length, None, None)
        self.bits = bits
        self.ranges = ranges

    def chunks(self, source: Source, start: int, stop: int, size: int) -> Iterator[bytes]:
        """See `Span.chunks`."""
        data, _, _ = source.window()
        parts = [bytes(data[begin:end]) for begin, end in self.ranges]
        if self.bits:
            mask = (1 << self.bits) - 1
            values = [value & mask for part in parts for value in _varints(part)]
            parts = [value.to_bytes(-(-self.bits // 8), "little") for value in values]
            if self.bits == _SIX:  # four numbers are three bytes
                fours = (values[i : i + 4] for i in range(0, len(values), 4))
                numbers = (sum(x << _SIX * k for k, x in enumerate(four)) for four in fours)
                parts = [number.to_bytes(3, "little") for number in numbers]
                parts = [b"".join(parts)[: -(-_SIX * len(values) // 8)]]
        joined = b"".join(parts)
        if len(joined) != self.length:
            raise DamagedError(f"a tensor has {len(joined):,} bytes instead of {self.length:,}")
        return (joined[i : min(i + size, stop)] for i in range(start, stop, size))


class _ExternalSpan(Span):
    """Elements in another file of the model's folder, from `begin` on."""

    __slots__ = ("begin",)

    def __init__(self, length: int, path: str, begin: int) -> None:
        super().__init__(path, length, None, None)
        self.begin = begin

    def chunks(self, source: Source, start: int, stop: int, size: int) -> Iterator[bytes]:
        """See `Span.chunks`. DamagedError if the file is missing or too short."""
        from ptinspect.source.local import open_source

        path = os.path.join(os.path.dirname(source.path), self.record or "")
        name = printable_name(self.record or "")
        if not os.path.isfile(path):
            raise DamagedError(
                f"the file {name} is missing, which has a tensor's elements",
                hint="copy it into the folder of the model",
            )
        with open_source(path) as file:
            if self.begin + self.length > file.size:
                message = f"a tensor needs bytes up to {self.begin + self.length:,} of {name}"
                raise DamagedError(f"{message}, which has {file.size:,}", hint=DOWNLOAD_AGAIN)
            yield from read_chunks(file, self.begin + start, self.begin + stop, size)


class Field(NamedTuple):
    """A field of a message: the number itself (of a varint), and its bytes."""

    wire: int
    value: int
    start: int
    stop: int


_NOTHING = Field(_VARINT, 0, 0, 0)


class Message:
    """A protobuf message: its fields by their numbers. DamagedError if the bytes are not one."""

    def __init__(self, data: Buffer, start: int, stop: int) -> None:
        self.data = data
        self.where = Place(None, start)
        self.fields: dict[int, list[Field]] = {}
        pos = start
        while pos < stop:
            begin = pos
            key, pos = _varint(data, pos, stop)
            wire, value, end = key & 7, 0, pos
            if wire == _VARINT:
                value, end = _varint(data, pos, stop)
            elif wire == _BYTES:
                length, pos = _varint(data, pos, stop)
                end = pos + length
            elif wire in _FIXED:
                end = pos + _FIXED[wire]
            if end > stop or (end == pos and wire != _BYTES):
                raise DamagedError(
                    "the file is cut off, or not protobuf",
                    where=Place(None, begin),
                    hint=DOWNLOAD_AGAIN,
                )
            self.fields.setdefault(key >> 3, []).append(Field(wire, value, pos, end))
            pos = end

    def number(self, number: int) -> int:
        """Return the last number in a field, or 0."""
        return self.fields.get(number, [_NOTHING])[-1].value

    def texts(self, number: int) -> list[str]:
        """Return the texts in a field."""
        fields = self.fields.get(number, ())
        return [bytes(self.data[f.start : f.stop]).decode("utf-8", "replace") for f in fields]

    def text(self, number: int) -> str:
        """Return the last text in a field, or ""."""
        return (self.texts(number) or [""])[-1]

    def numbers(self, number: int) -> list[int]:
        """Return the numbers in a field, packed or one by one."""
        result: list[int] = []
        for field in self.fields.get(number, ()):
            packed = bytes(self.data[field.start : field.stop])
            result += _varints(packed) if field.wire == _BYTES else [field.value]
        return result

    def messages(self, *numbers: int) -> Iterator[Message]:
        """Yield the messages in fields."""
        for number in numbers:
            for field in self.fields.get(number, ()):
                if field.wire != _BYTES:
                    raise DamagedError("a message is expected", where=Place(None, field.start))
                yield Message(self.data, field.start, field.stop)

    def pairs(self, number: int) -> dict[str, str]:
        """Return the keys and values in a field of StringStringEntryProto."""
        return {pair.text(1): pair.text(2) for pair in self.messages(number)}


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


class _Reader:
    """Reads one model: its tensors become the archive's value."""

    def __init__(self, archive: PicklelessArchive) -> None:
        self.archive = archive
        self.missing: list[str] = []
        self.operators: Counter[str] = Counter()

    def read_graph(self, main: Message, model: Message) -> dict[str, object]:
        """Read the main graph, the graphs inside its nodes, and those of training and functions.
        Return the facts of the main one."""
        root: dict[str, Value] = {}
        graphs: dict[str, dict[str, Value]] = {"": root}
        training = (graph for item in model.messages(20) for graph in item.messages(1, 2))
        stack = [*((graph, f"training.{graph.text(2)}", 0) for graph in training), (main, "", 0)]
        for function in model.messages(25):
            path = function.text(1)
            tensors = graphs.setdefault(path, {})
            for number, node in enumerate(function.messages(7), 1):
                for name, inner in self._read_node(node, tensors, number):
                    stack.insert(0, (inner, f"{path}.{name}", 1))
        while stack:
            graph, path, depth = stack.pop()
            if depth > MAX_DEPTH:
                raise DamagedError("graphs are nested too deep", where=graph.where)
            tensors = graphs.setdefault(path, {})
            for number, node in enumerate(graph.messages(1), 1):
                for name, inner in self._read_node(node, tensors, number):
                    stack.append((inner, f"{path}.{name}" if path else name, depth + 1))
            for tensor in graph.messages(5):
                self._add_tensor(tensor, tensors)
            for sparse in graph.messages(15):
                self._add_sparse(sparse, tensors)
        nested = {_unique(root, path): graphs[path] for path in graphs if path and graphs[path]}
        self.archive.value = ordered_dict(root | nested)
        inputs, outputs = ([item.text(1) for item in main.messages(n)] for n in (11, 12))
        return {  # before IR version 4, initializers are inputs as well
            "name": main.text(2),
            "inputs": [name for name in inputs if name not in root],
            "outputs": outputs,
        }

    def _read_node(
        self, node: Message, tensors: dict[str, Value], number: int
    ) -> list[tuple[str, Message]]:
        """Count a node, add the tensor of a Constant; return its graphs with their names."""
        kind, outputs = node.text(4), node.texts(2)
        self.operators[kind] += 1
        graphs = []
        for attribute in node.messages(5):
            label = f"{node.text(3) or f'{kind} {number}'}.{attribute.text(1)}"
            graphs += [(label, graph) for graph in attribute.messages(6, 11)]
            if kind == "Constant" and outputs:
                for tensor in attribute.messages(5):
                    self._add_tensor(tensor, tensors, outputs[0])
                for sparse in attribute.messages(22):
                    self._add_sparse(sparse, tensors, outputs[0])
                if attribute.text(1) in _VALUES:
                    value = self._attribute_value(attribute, outputs[0])
                    tensors[_unique(tensors, outputs[0])] = value
        return graphs

    def _attribute_value(self, attribute: Message, name: str) -> Call:
        """Return the tensor that a Constant makes of numbers or strings in an AttributeProto."""
        number, type_name = _VALUES[attribute.text(1)]
        ranges = [(field.start, field.stop) for field in attribute.fields.get(number, ())]
        nbytes = sum(stop - start for start, stop in ranges)
        count = nbytes // 4 if type_name == "float32" else len(ranges)
        if type_name == "int64":
            count = len(attribute.numbers(number))
        shape = (count,) if attribute.text(1).endswith("s") else ()
        if type_name == "STRING":
            return self._located(name, None, type_name, shape, _TypedSpan(nbytes, 0, ranges))
        dtype = DTYPES[type_name]
        span = _TypedSpan(prod(shape) * dtype.itemsize, 64 * (type_name == "int64"), ranges)
        return self._located(name, dtype, "", shape, span)

    def _add_tensor(
        self, tensor: Message, tensors: dict[str, Value], name: str | None = None
    ) -> None:
        """Add the tensor of a TensorProto."""
        name = tensor.text(8) if name is None else name
        tensors[_unique(tensors, name)] = self._tensor(tensor, name)

    def _add_sparse(
        self, sparse: Message, tensors: dict[str, Value], name: str | None = None
    ) -> None:
        """Add the two tensors of a SparseTensorProto: `values`, and their `indices` in the dense
        tensor, one number or one row for each."""
        parts = {"values": sparse.messages(1), "indices": sparse.messages(2)}
        label = name or next((part.text(8) for part in sparse.messages(1)), "")
        shape = sparse.numbers(3)
        value: dict[Value, Value] = {"shape": list(shape)}
        for key, messages in parts.items():
            for part in messages:
                value[key] = self._tensor(part, f"{label}.{key}")
        tensors[_unique(tensors, label)] = value

    def _tensor(self, tensor: Message, name: str) -> Call:
        """Return the call that builds the tensor of a TensorProto, whose elements it locates."""
        where, data_type = tensor.where, tensor.number(2)
        shape = tuple(tensor.numbers(1))
        if any(size >= 1 << 62 for size in shape) or len(shape) > 64:
            raise DamagedError(f"the tensor {bounded_repr(name)} has no shape", where=where)
        type_name, (encoding, bits) = _TYPES.get(data_type), _ENCODED.get(data_type, ("", 0))
        dtype = dtype_by_name(type_name) if type_name is not None else None
        if dtype is None and not encoding:
            message = f"the tensor {bounded_repr(name)} is of the unknown type {data_type}"
            raise UnsupportedError(message, where=where)
        bits = bits if dtype is None else 8 * dtype.itemsize
        nbytes = -(-prod(shape) * bits // 8)
        raw = tensor.fields.get(9)
        if tensor.number(14) == _EXTERNAL:
            span = self._external(name, tensor.pairs(13), nbytes, where)
        elif raw is not None:
            _check_size(name, "raw_data", nbytes, raw[-1].stop - raw[-1].start, where)
            span = Span(None, nbytes, raw[-1].start, self.archive.source.base)
        else:
            varints = [f for number in _VARINT_FIELDS for f in tensor.fields.get(number, ())]
            fixed = [f for number in _FIXED_FIELDS for f in tensor.fields.get(number, ())]
            if not varints:
                bits = 0
            elif bits != _SIX and dtype is None:  # numbers in pairs or fours are a byte
                bits = 8
            ranges = [(field.start, field.stop) for field in varints or fixed]
            if encoding == "STRING":
                strings = tensor.fields.get(6, [])
                ranges = [(field.start, field.stop) for field in strings]
                nbytes = sum(stop - start for start, stop in ranges)
                _check_size(name, "string_data", prod(shape), len(strings), where, "strings")
            span = _TypedSpan(nbytes, bits, ranges)
        return self._located(name, dtype, encoding, shape, span)

    def _located(
        self, name: str, dtype: DType | None, encoding: str, shape: tuple[int, ...], span: Span
    ) -> Call:
        """Return the call that builds a tensor with these elements."""
        key = _unique(self.archive.spans, name)
        self.archive.spans[key] = span
        if dtype is not None:
            return dense_tensor(key, dtype, shape)
        return encoded_tensor(key, encoding, shape, span.length)

    def _external(self, name: str, entries: dict[str, str], nbytes: int, where: Place) -> Span:
        """Return the span of a tensor in another file."""
        path = entries.get("location", "")
        offset, length = entries.get("offset", "0"), entries.get("length", str(nbytes))
        if path and (is_outside(path) or "\0" in path):
            raise OutsideFolderError(
                f"the elements of {bounded_repr(name)} are at {bounded_repr(path)}, outside the"
                " folder of the model",
                where=where,
            )
        numbers = [n for n in (offset, length) if n.isascii() and n.isdigit() and len(n) < 20]
        if not path or len(numbers) < 2:
            message = f"the tensor {bounded_repr(name)} does not say where its elements are"
            raise DamagedError(message, where=where)
        _check_size(name, "external data", nbytes, int(length), where)
        path = os.path.normpath(path.replace("\\", "/"))
        full = os.path.join(os.path.dirname(self.archive.source.path), path)
        exists = os.path.isfile(full)
        paths, entry = (self.archive.data_paths, full) if exists else (self.missing, path)
        if entry not in paths:
            paths.append(entry)
        return _ExternalSpan(nbytes, path, int(offset))


def _check_size(
    name: str, place: str, needed: int, present: int, where: Place, unit: str = "bytes"
) -> None:
    if needed != present:
        message = f"the tensor {bounded_repr(name)} needs {needed:,} {unit}, its {place}"
        message += f" has {present:,}"
        raise DamagedError(message, where=where)


def _unique(names: object, name: str) -> str:
    """Return a name that is not among the names: a second "w" becomes "w (2)"."""
    assert isinstance(names, dict)
    unique, number = name, 2
    while unique in names:
        unique, number = f"{name} ({number})", number + 1
    return unique


def read_onnx(source: Source, limits: Limits = LIMITS) -> PicklelessArchive:
    """Read the tensors of a model. DamagedError if it is cut or inconsistent, UnsupportedError for
    an unknown element type, OutsideFolderError if elements are outside the model's folder."""
    data, start, stop = source.window()
    archive = PicklelessArchive(source, limits, "onnx")
    archive.origin = None if source.base is None else source.base - start
    model, reader = Message(data, start, stop), _Reader(archive)
    graphs = [reader.read_graph(graph, model) for graph in model.messages(7)]
    if not graphs:
        raise DamagedError("the model has no graph", hint=DOWNLOAD_AGAIN)
    metadata: dict[str, object] = {}
    if 1 in model.fields:
        metadata["ir_version"] = model.number(1)
    for number, name in ((2, "producer"), (3, "producer_version")):
        if number in model.fields:
            metadata[name] = model.text(number)
    opsets = [f"{item.text(1) or 'ai.onnx'} {item.number(2)}" for item in model.messages(8)]
    archive.facts["metadata"] = metadata | model.pairs(14) | {"opset": ", ".join(opsets)}
    operators = [{"name": n, "count": count} for n, count in reader.operators.most_common()]
    archive.facts["programs"] = [graphs[-1] | {"operators": operators, "ranges": {}}]
    if reader.missing:
        archive.facts["set"] = {"missing": reader.missing}
        for path in reader.missing:
            text = f"{printable_name(path)} is missing, which has elements of tensors"
            archive.warnings.append(Finding("missing-file", text))
    return archive
