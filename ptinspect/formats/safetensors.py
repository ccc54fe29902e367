"""safetensors: a length, a header in JSON, the tensors' bytes.

    uint64        length of the header
    header        {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …,
                   "__metadata__": {"format": "pt"}}
    bytes         of each tensor, C order, little-endian, without gaps

The format has no pickle. Its tensors are presented as the state_dict of a torch file, so that the
rest of the package treats them alike. Tensors that safetensors' `save_model` dropped because they
share memory with another are recorded in the metadata ({dropped: kept}) and are restored.

Source: safetensors' `SafeTensors::read_metadata` and `Metadata::validate`; the checks have the same
order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.dtypes import SAFETENSORS_BITS, SAFETENSORS_DTYPES, DType
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import Finding, PicklelessArchive, Span
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.numpy_objects import contiguous_strides
from ptinspect.pickling.values import Call, Global, PersistentId, Value
from ptinspect.text import bounded_repr, count_text

if TYPE_CHECKING:
    from ptinspect.source.base import Source

HEADER_BYTES = 100_000_000
"""Longest header that safetensors itself reads (`MAX_HEADER_SIZE`)."""


FORMAT = "format"
"""Key of the metadata that names the framework (`pt`), never a tensor that shares memory."""

_HEADER = Place(None, 8)


class TensorEntry(NamedTuple):
    """A tensor in the header; `begin` and `end` are offsets in the bytes after it."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def torch_form(self) -> tuple[DType | None, tuple[int, ...]]:
        """Return the dtype of torch, None if it has no such type, and the shape."""
        dtype, shape = SAFETENSORS_DTYPES.get(self.type_name), self.shape
        if self.type_name == "F4":
            if not shape or shape[-1] % 2:
                return None, shape
            shape = (*shape[:-1], shape[-1] // 2)
        return dtype, shape

    def call(self, key: str) -> Call:
        """Return the call that builds the tensor; `key` is that of its storage."""
        dtype, shape = self.torch_form()
        if dtype is None:
            return encoded_tensor(key, self.type_name, shape, self.end - self.begin)
        return dense_tensor(key, dtype, shape)


class Safetensors(PicklelessArchive):
    """A safetensors file: the header's entries by name, its metadata, and `aliases`, names that
    only the metadata has, with the tensor that they stand for."""

    format = "safetensors"

    def __init__(self, source: Source, limits: Limits) -> None:
        super().__init__(source, limits)
        self.tensors: dict[str, TensorEntry] = {}
        self.metadata: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    @property
    def root(self) -> Value:
        """The tensors by name. Built at the first use."""
        if self.value is None:
            calls = self.tensor_calls()
            self.value = ordered_dict((name, calls[name]) for name in order_keys(calls))
        return self.value

    def tensor_calls(self, prefix: str = "") -> dict[str, Call]:
        """Return the call that builds each tensor, aliases included; `prefix` goes before storage
        keys."""
        names = {name: name for name in self.tensors} | self.aliases
        return {alias: self.tensors[name].call(f"{prefix}{name}") for alias, name in names.items()}


def read_safetensors(
    source: Source, limits: Limits = LIMITS, *, any_size: bool = False
) -> Safetensors:
    """Read the file in `source`. DamagedError if the header is damaged, or disagrees with the
    file's size."""
    header, start = read_header(source)
    archive = Safetensors(source, limits)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DamagedError("the header's metadata contains values that are not text", where=_HEADER)
    archive.metadata = metadata
    archive.facts = {"metadata": metadata} if metadata else {}
    archive.tensors = {name: _read_entry(name, fields) for name, fields in header.items()}
    position = 0  # the tensors fill the file without gap or overlap
    for entry in sorted(archive.tensors.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            problem = "overlaps the one" if entry.begin < position else "leaves a gap after the one"
            message = f"the tensor {bounded_repr(entry.name)} {problem} before it"
            raise DamagedError(message, where=_HEADER)
        position = entry.end
    if not any_size and position != source.size - start:
        raise DamagedError(
            f"the tensors have {position:,} bytes, but {source.size - start:,} follow the header",
            hint=DOWNLOAD_AGAIN,
        )
    archive.storages = {
        name: Span(None, entry.end - entry.begin, start + entry.begin, source.base)
        for name, entry in archive.tensors.items()
    }
    archive.aliases = {
        name: target
        for name, target in metadata.items()
        if name not in archive.tensors and target in archive.tensors and name != FORMAT
    }
    if archive.aliases:
        message = f"{count_text(len(archive.aliases), 'tensor')} shared with another (metadata)"
        archive.warnings.append(Finding("safetensors-alias", message))
    return archive


def order_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys of a state_dict in the order of their modules. safetensors sorts by type
    and name, so that `10` comes before `2`. Modules stay in the order of their first key; those
    with numeric names, as in a Sequential, are ordered as numbers."""
    tree: dict[str | None, Any] = {}
    for key in keys:
        node = tree
        for part in key.split("."):
            node = node.setdefault(part, {})
        node[None] = key  # a key may also be the prefix of others
    ordered: list[str] = []
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            ordered.append(node)
            continue
        numbers = iter(sorted((name for name in node if _is_index(name)), key=int))
        names = [next(numbers) if _is_index(name) else name for name in node]
        stack += [node[name] for name in reversed(names)]
    return ordered


def _is_index(name: str | None) -> bool:
    return name is not None and name.isascii() and name.isdigit() and len(name) < 10


def read_header(source: Source) -> tuple[dict[str, Value], int]:
    if source.size < 8:
        message = f"{source.size} bytes are too few for the length of a header"
        raise DamagedError(message, hint=DOWNLOAD_AGAIN)
    length = int.from_bytes(source.read(0, 8), "little")
    if length > HEADER_BYTES:
        raise LimitError(
            f"the header is {length:,} bytes long, above safetensors' limit of {HEADER_BYTES:,}",
            limit="pickle_bytes",
            where=Place(None, 0),
            hint=DOWNLOAD_AGAIN,
        )
    if 8 + length > source.size:
        raise DamagedError(
            f"the header should be {length:,} bytes long, but only {source.size - 8:,} follow",
            where=Place(None, 0),
            hint=DOWNLOAD_AGAIN,
        )
    header = parse_json(source.read(8, length), "header", start=8)
    if not isinstance(header, dict):
        raise DamagedError("the header is not a JSON object", where=_HEADER)
    return header, 8 + length


def _read_entry(name: str, fields: Value) -> TensorEntry:
    if not isinstance(fields, dict):
        raise DamagedError(
            f"the header's entry for the tensor {bounded_repr(name)} is not an object",
            where=_HEADER,
        )
    shape, offsets = _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    type_name = fields.get("dtype")
    bits = SAFETENSORS_BITS.get(type_name) if isinstance(type_name, str) else None
    if bits is None:
        raise UnsupportedError(
            f"the tensor {bounded_repr(name)} has the unknown type {bounded_repr(type_name)}",
            where=_HEADER,
        )
    if shape is None or offsets is None or len(offsets) != 2:
        raise DamagedError(
            f"the shape or the offsets of the tensor {bounded_repr(name)} are invalid",
            where=_HEADER,
        )
    begin, end = offsets
    for dim in shape:
        bits *= dim
    if bits % 8:
        raise DamagedError(f"the tensor {bounded_repr(name)} does not end at a byte", where=_HEADER)
    nbytes = bits // 8
    if end - begin != nbytes:
        raise DamagedError(
            f"the tensor {bounded_repr(name)} needs {bounded_repr(nbytes)} bytes,"
            f" but has {end - begin:,}",
            where=_HEADER,
        )
    return TensorEntry(name, str(type_name), shape, begin, end)


def _sizes(value: Value) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value):
        return tuple(value)
    return None


def unique_names(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    items = dict(pairs)
    if len(items) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{bounded_repr(name)} occurs twice in one object")
            seen.add(name)
    return items


def parse_json(raw: bytes, name: str, start: int = 0, encoding: str = "utf-8") -> Value:
    """Parse JSON whose objects have unique names; DamagedError for any other text. `name` names
    the text in errors ("header"), `start` is its offset in the file. The encoding "utf-8-sig"
    accepts a byte order mark."""
    import json

    place = Place(None, start)
    try:
        return json.loads(raw.decode(encoding), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        position = getattr(error, "pos", None)
        if position:
            place = Place(None, start + len(raw.decode(encoding)[:position].encode()))
        message = f"the {name} is not valid JSON: {reason}"
        hint = f"{DOWNLOAD_AGAIN}: nothing can be saved without the {name}"
        raise DamagedError(message, where=place, hint=hint) from None


_REBUILD = {n: Global("torch._utils", f"_rebuild_tensor_v{n}", 0) for n in (2, 3)}
ENCODED = "encoded_tensor"
_ORDERED_DICT = Global("collections", "OrderedDict", 0)


def dense_tensor(
    key: str,
    dtype: DType,
    shape: tuple[int, ...],
    location: str = "cpu",
    *,
    is_fortran: bool = False,
    stride: tuple[int, ...] | None = None,
    offset: int = 0,
    nbytes: int | None = None,
    requires_grad: bool = False,
) -> Call:
    """Return the call that builds a tensor from the storage with that key, which has `nbytes`
    bytes. In Fortran order the first dimension changes fastest, not the last."""
    size = prod(shape) * dtype.itemsize if nbytes is None else nbytes
    if dtype.storage:
        storage_type, size = Global("torch", dtype.storage, 0), size // dtype.itemsize
    else:
        storage_type = Global("torch.storage", "UntypedStorage", 0)
    pid = PersistentId(("storage", storage_type, key, location, size), 0)
    steps = contiguous_strides(shape, is_fortran) if stride is None else stride
    args = (pid, offset, shape, steps, requires_grad, ordered_dict({}))
    if dtype.storage:
        return Call(_REBUILD[2], args, "REDUCE", 0)
    return Call(_REBUILD[3], (*args, Global("torch", dtype.name, 0)), "REDUCE", 0)


def encoded_tensor(key: str, encoding: str, shape: tuple[int, ...], nbytes: int) -> Call:
    """Return the call that builds a tensor whose element type torch lacks. No library has this
    function: `document` reads the call, and nothing else does."""
    storage_type = Global("torch.storage", "UntypedStorage", 0)
    pid = PersistentId(("storage", storage_type, key, "cpu", nbytes), 0)
    return Call(Global("ptinspect", ENCODED, 0), (pid, shape, encoding), "REDUCE", 0)


def ordered_dict(
    pairs: Mapping[Any, Value] | Iterable[tuple[Value, Value]] = (),
    attributes: dict[Value, Value] | None = None,
) -> Call:
    """Return an OrderedDict, with attributes such as `_metadata` of a state_dict."""
    call = Call(_ORDERED_DICT, (), "REDUCE", 0)
    items = dict(pairs)
    if items:
        call.change().pairs.update(items)
    if attributes:
        call.change().states.append(attributes)
    return call
