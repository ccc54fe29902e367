"""A folder of torch.distributed.checkpoint: `.metadata`, and pieces of tensors in `.distcp` files.

`.metadata` is a pickle of `torch.distributed.checkpoint.metadata.Metadata`:

    state_dict_metadata   {name: TensorStorageMetadata(properties, size, chunks)
                           or BytesStorageMetadata}
    planner_data          {name: path in the state_dict that was saved}
    storage_data          {MetadataIndex(name, offset, index): _StorageInfo(relative_path, offset,
                           length, transform_descriptors)}

A `.distcp` file is one file of torch.save (or of safetensors) after another, with a tensor or value
each; only `.metadata` says where they begin. Sources: torch/distributed/checkpoint/metadata.py,
filesystem.py and default_planner.py of torch 2.13.

Every element of a tensor must be in exactly one piece: this is checked before anything is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from ptinspect.dtypes import dtype_by_name
from ptinspect.errors import (
    DamagedError,
    FormatError,
    Place,
    PtInspectError,
)
from ptinspect.formats.archive import CHUNK, Archive, Finding, Span, check_range
from ptinspect.formats.safetensors import dense_tensor
from ptinspect.formats.torch.pieces import (
    METADATA,
    Piece,
    PiecedSpan,
    assemble,
    check_cover,
    undo_transform,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, attributes_of, class_path
from ptinspect.pickling.values import Call, Global, Value, key_value
from ptinspect.source.base import SliceSource, Source
from ptinspect.source.local import open_source
from ptinspect.text import bounded_repr, is_outside, join_names, printable_name

if TYPE_CHECKING:
    from collections.abc import Callable

    OpenArchive = Callable[[Source, Limits], Archive]

_MODULE = "torch.distributed.checkpoint."


class TorchDcp(Archive):
    """See the module's docstring.

    Attributes:
        paths: the files that `.metadata` names.
        missing: those of them that are not in the folder.
    """

    format = "torch-dcp"

    def __init__(
        self, source: Source, folder: str, open_archive: OpenArchive, limits: Limits
    ) -> None:
        data, start, stop = source.window()
        super().__init__(
            source, run(data, start, stop=stop, record=METADATA, limits=limits), limits=limits
        )
        self.folder = folder
        self.paths: list[str] = []
        self.missing: list[str] = []
        self.value: Value = None
        self._open_archive = open_archive
        self._files: dict[str, Source] = {}

    @property
    def root(self) -> Value:
        """The state_dict that was saved, as `planner_data` describes it."""
        return self.value

    def chunks(
        self, span: Span, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        """See `Archive.chunks`. A tensor in several pieces is put together block by block."""
        if not isinstance(span, PiecedSpan):
            return super().chunks(span, start, stop, size)
        start, stop = check_range(span, start, stop)
        return assemble(span, start, stop, self.open_piece)

    def file(self, path: str) -> Source:
        """Return a file of the folder, opened; DamagedError if it is missing."""
        if path not in self._files:
            full = os.path.join(self.folder, path)
            if not os.path.isfile(full):
                raise DamagedError(
                    f"the file {printable_name(path)} is missing, which has pieces of tensors",
                    hint="copy all files of the checkpoint into one folder",
                )
            self._files[path] = open_source(full)
        return self._files[path]

    def open_piece(self, piece: Piece) -> Archive:
        """Open the file of torch.save that a piece is. DamagedError if it is missing or truncated,
        UnsupportedError for unknown compressions."""
        source = self.file(piece.path)
        part: Source = SliceSource(source, piece.start, piece.length)
        for transform in reversed(piece.transforms):
            part = undo_transform(part, transform, self.limits)
        return self._open_archive(part, self.limits)

    @property
    def size(self) -> int:
        """See `Archive.size`."""
        paths = [os.path.join(self.folder, path) for path in self.paths]
        return self.source.size + sum(os.path.getsize(p) for p in paths if os.path.isfile(p))

    def close(self) -> None:
        """See `Archive.close`."""
        for source in self._files.values():
            source.close()


def is_metadata(root: Value) -> bool:
    """Return True if a pickle's value is what `.metadata` holds."""
    return isinstance(root, Call) and class_path(root) == f"{_MODULE}metadata.Metadata"


def read_dcp(
    source: Source, folder: str, open_archive: OpenArchive, limits: Limits = LIMITS
) -> TorchDcp:
    """Read `.metadata`, which `source` is, and the values of the folder that are not tensors.
    FormatError for another pickle; DamagedError if an element is in no piece or in two, or a file
    is outside the folder."""
    archive = TorchDcp(source, folder, open_archive, limits)
    root = archive.pickled.root
    if not isinstance(root, Call) or not is_metadata(root):
        raise FormatError(f"{METADATA} is not that of torch.distributed.checkpoint")
    fields = attributes_of(root)
    described = as_mapping(fields.get("state_dict_metadata")) or {}
    paths = as_mapping(fields.get("planner_data")) or {}
    infos = _storage_infos(as_mapping(fields.get("storage_data")) or {})
    archive.paths = sorted({piece.path for pieces in infos.values() for _, piece in pieces})
    archive.missing = [
        path for path in archive.paths if not os.path.isfile(os.path.join(folder, path))
    ]
    archive.facts["set"] = {"files": [METADATA, *archive.paths], "missing": archive.missing}
    values: dict[Value, Value] = {}
    spans: dict[object, Span] = {}
    for name, description in described.items():
        if not isinstance(name, str) or not isinstance(description, Call):
            raise DamagedError("an entry is not described", where=Place(METADATA))
        steps = as_sequence(paths.get(name)) or (name,)
        if class_path(description) == f"{_MODULE}metadata.BytesStorageMetadata":
            value = _plain_value(archive, infos.get(name, []), name)
        else:
            span = _tensor_span(str(name), attributes_of(description), infos.get(name, []))
            spans[str(name)] = span
            value = dense_tensor(str(name), span.dtype, span.shape)
        _insert(values, steps, value)
    archive.value = _lists(values)
    archive.storages = spans
    if archive.missing:
        names = join_names(map(printable_name, archive.missing))
        archive.warnings.append(Finding("missing-file", f"files are missing: {names}"))
    return archive


def _storage_infos(storage_data: dict[Value, Value]) -> dict[str, list[tuple[Any, Piece]]]:
    """Return where the pieces of each name are, with the offsets that identify them."""
    infos: dict[str, list[tuple[Any, Piece]]] = {}
    for key, info in storage_data.items():
        index = key_value(key)
        if not isinstance(index, Call) or not isinstance(info, Call):
            raise DamagedError("storage_data is damaged", where=Place(METADATA))
        identity, place = attributes_of(index), attributes_of(info)
        path, start, length = (place.get(n) for n in ("relative_path", "offset", "length"))
        if not isinstance(path, str) or type(start) is not int or type(length) is not int:
            raise DamagedError("storage_data is damaged", where=Place(METADATA))
        if not path or is_outside(path):
            raise DamagedError(
                f"the file {bounded_repr(path)} is outside the folder", where=Place(METADATA)
            )
        transforms = as_sequence(place.get("transform_descriptors")) or ()
        offsets = as_sequence(identity.get("offset"))
        piece = Piece((), (), str(path), start, length, tuple(map(str, transforms)))
        name = str(identity.get("fqn"))
        infos.setdefault(name, []).append((None if offsets is None else tuple(offsets), piece))
    return infos


def _tensor_span(
    name: str, fields: dict[Value, Value], infos: list[tuple[Any, Piece]]
) -> PiecedSpan:
    """Return the bytes of a tensor, after checking that its pieces cover it exactly."""
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Call) else None
    first = state[0] if isinstance(state, tuple) and state else None
    if first is None and isinstance(properties, Call):
        first = attributes_of(properties).get("dtype")
    dtype = dtype_by_name(first.name) if isinstance(first, Global) else None
    size, chunks = as_sequence(_size(fields.get("size"))), as_sequence(fields.get("chunks"))
    if dtype is None or size is None or chunks is None:
        raise DamagedError(f"{bounded_repr(name)} is not described", where=Place(METADATA))
    shape = _sizes(name, size)
    places = dict(infos)
    pieces = []
    for chunk in chunks:
        chunk_fields = attributes_of(chunk) if isinstance(chunk, Call) else {}
        offsets = _sizes(name, as_sequence(_size(chunk_fields.get("offsets"))) or ())
        sizes = _sizes(name, as_sequence(_size(chunk_fields.get("sizes"))) or ())
        place = places.get(offsets) or (places.get(None) if len(chunks) == 1 else None)
        if place is None:
            raise DamagedError(
                f"the piece of {bounded_repr(name)} at {offsets} is in no file",
                where=Place(METADATA),
            )
        pieces.append(
            Piece(offsets, sizes, place.path, place.start, place.length, place.transforms)
        )
    check_cover(name, shape, pieces)
    return PiecedSpan(dtype, shape, [piece for piece in pieces if prod(piece.shape)])


def _size(value: Value) -> Value:
    """Return the tuple that a `torch.Size` is built from."""
    return value.args[0] if isinstance(value, Call) and len(value.args) == 1 else value


def _sizes(name: str, values: Any) -> tuple[int, ...]:
    sizes = tuple(values)
    if not all(type(size) is int and 0 <= size < 1 << 62 for size in sizes):
        raise DamagedError(f"{bounded_repr(name)} has no shape", where=Place(METADATA))
    return sizes


def _plain_value(archive: TorchDcp, infos: list[tuple[Any, Piece]], name: str) -> Value:
    """Return a value that is not a tensor, from the file of torch.save that it is."""
    if not infos:
        raise DamagedError(f"{bounded_repr(name)} is in no file", where=Place(METADATA))
    try:
        part = archive.open_piece(infos[0][1])
    except PtInspectError:
        if infos[0][1].path in archive.missing:
            return None
        raise
    if part.pickled.persistent:
        message = f"{bounded_repr(name)} is a value with tensors of its own, which are not read"
        archive.warnings.append(Finding("not-read", message))
        return None
    archive.streams.append(part.pickled)
    return part.root


def _insert(values: dict[Value, Value], steps: Any, value: Value) -> None:
    node: Any = values
    for step in steps[:-1]:
        node = node.setdefault(step, {})
        if not isinstance(node, dict):
            raise DamagedError("two entries have one path", where=Place(METADATA))
    if steps[-1] in node:
        raise DamagedError(f"two entries have the path {steps!r}", where=Place(METADATA))
    node[steps[-1]] = value


def _lists(root: dict[Value, Value]) -> Value:
    """Turn dicts whose keys are 0, 1, 2, … into lists, as they were before they were flattened."""
    stack: list[tuple[dict[Value, Value], dict[Value, Value] | None, Value]] = [(root, None, None)]
    order = []
    while stack:
        node, parent, key = stack.pop()
        order.append((node, parent, key))
        stack += [(v, node, k) for k, v in node.items() if isinstance(v, dict)]
    for node, parent, key in reversed(order):
        count = range(len(node))
        if parent is not None and node and all(index in node for index in count):
            parent[key] = [node[index] for index in count]
    return root
