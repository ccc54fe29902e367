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
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.dtypes import DType, dtype_by_name
from ptinspect.errors import (
    DOWNLOAD_AGAIN,
    DamagedError,
    LimitError,
    Place,
    PtInspectError,
    UnsupportedError,
)
from ptinspect.formats.archive import Archive, Finding, PicklelessArchive, prefix_storage_keys
from ptinspect.formats.safetensors import Safetensors, dense_tensor, parse_json, read_safetensors
from ptinspect.formats.torch.pieces import (
    Elements,
    Piece,
    PiecedSpan,
    check_cover,
    locate,
    sizes_of,
)
from ptinspect.limits import Limits
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, attributes_of, class_path
from ptinspect.pickling.values import Call, Global, Value, key_value
from ptinspect.source.base import MemorySource, SliceSource, Source
from ptinspect.source.local import open_source
from ptinspect.text import bounded_repr, is_outside, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import OpenArchive
    from ptinspect.pickling.machine import Pickled

METADATA = ".metadata"
_SHARDING_INFO = "DCP_SHARDING_INFO"
"""Key of the metadata of safetensors with the place of each piece."""
_CLASS = re.compile(r"torch\.distributed\.(_shard\.)?checkpoint\.metadata\.Metadata")
"""The class in `.metadata`; of torch 1.13, the one in `_shard`."""


class TorchDcp(PicklelessArchive):
    """See the module's docstring.

    Attributes:
        paths: the files that `.metadata` names.
        missing: those of them that are not in the folder.
    """

    format = "torch-dcp"

    def __init__(
        self, source: Source, pickled: Pickled, folder: str, open_archive: OpenArchive,
        limits: Limits,
    ) -> None:  # fmt: skip
        super().__init__(source, limits)
        self.set_pickle(replace(pickled, record=METADATA))
        self.origin = source.base
        self.folder = folder
        self.paths: list[str] = []
        self.missing: list[str] = []
        self._open_archive = open_archive
        self._files: dict[str, Source] = {}
        self._safetensors: dict[tuple[str, int], tuple[Safetensors, dict[str, Value]]] = {}

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

    def open_place(self, place: _Place) -> Archive:
        """Open the file of torch.save that a piece or value is. DamagedError if it is missing or
        truncated, UnsupportedError for unknown compressions."""
        source = self.file(place.path)
        try:
            part: Source = SliceSource(source, place.start, place.length)
            for transform in reversed(place.transforms):
                part = undo_transform(part, transform, self.limits)
            return self._open_archive(part, self.limits)
        except PtInspectError as error:
            error.path = error.path or source.path
            raise

    def open_piece(
        self, name: str, place: _Place, dtype: DType, offsets: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> list[Elements]:  # fmt: skip
        """Return the elements of a piece. DamagedError if they are not what `.metadata` says."""
        where = f"the piece at {place.start:,} of {printable_name(place.path)}"
        source = self.file(place.path)
        if source.read(place.start, min(9, max(source.size - place.start, 0)))[8:] == b"{":
            # it has all tensors of a file, after its other values; the length is a tensor's
            if (place.path, place.start) not in self._safetensors:
                part = SliceSource(source, place.start, source.size - place.start)
                safetensors = read_safetensors(part, self.limits)
                opened = safetensors, saved_offsets(safetensors)
                self._safetensors[place.path, place.start] = opened
            safetensors, places = self._safetensors[place.path, place.start]
            if places.get(name) != list(offsets):
                raise DamagedError(f"{where} has no {bounded_repr(name)} at {offsets}")
            elements = locate(safetensors, (as_mapping(safetensors.root) or {}).get(name), where)
        else:
            archive = self.open_place(place)
            elements = locate(archive, archive.root, where)
        if elements.shape != shape or elements.dtype is not dtype:
            raise DamagedError(
                f"{where} has the shape {elements.shape} and dtype {elements.dtype.name},"
                f" {METADATA} says {shape} and {dtype.name}"
            )
        return [elements]

    @property
    def size(self) -> int:
        """See `Archive.size`."""
        return self.source.size + sum(map(os.path.getsize, self.data_paths))

    @property
    def files(self) -> Sequence[Source]:
        """See `Archive.files`."""
        return [self.source, *self._files.values()]

    def close(self) -> None:
        """See `Archive.close`."""
        for source in self._files.values():
            source.close()


class _Place(NamedTuple):
    """Where a piece or value is: a file of torch.save of its own in `path`. `transforms` are those
    of a compressed one ("stream.zstd/1")."""

    path: str
    start: int
    length: int
    transforms: tuple[str, ...]


_MISSING = object()
"""Stands for a value whose file is missing."""


def saved_offsets(archive: Archive) -> dict[str, Value]:
    """Return where the tensors of a safetensors file begin in the whole ones.

    Source: torch/distributed/checkpoint/_hf_utils.py (CUSTOM_METADATA_KEY).
    """
    text = archive.metadata.get(_SHARDING_INFO, "{}") if isinstance(archive, Safetensors) else "{}"
    info = parse_json(text.encode(), "sharding info")
    entries = info.items() if isinstance(info, dict) else ()
    return {str(name): e.get("saved_offsets") for name, e in entries if isinstance(e, dict)}


_Places = dict[tuple[int, ...] | None, _Place]
"""The places of an entry's pieces, by their offsets in the tensor; None for other values."""


def undo_transform(source: Source, transform: str, limits: Limits) -> Source:
    """Return the bytes before a stream transform.

    Source: torch/distributed/checkpoint/_extension.py.
    """
    if transform.partition("/")[0] != "stream.zstd":
        raise UnsupportedError(f"a piece is stored with the unknown transform {transform!r}")
    try:
        import zstandard
    except ImportError:
        raise UnsupportedError(
            "the pieces are compressed with zstd", hint="pip install 'ptinspect[zstd]'"
        ) from None
    most = limits.inflated_bytes
    reader: Any = zstandard.ZstdDecompressor().stream_reader(source.read(0, source.size))
    try:
        data = reader.read(most + 1)
    except zstandard.ZstdError as error:
        raise DamagedError(
            f"a compressed piece is damaged ({error})", hint=DOWNLOAD_AGAIN
        ) from None
    if len(data) > most:
        raise LimitError(f"a piece unpacks to more than {most:,} bytes", limit="inflated_bytes")
    return MemorySource(data, source.path, base=None)


def is_metadata(root: Value) -> bool:
    """Return True if a pickle's value is what `.metadata` holds."""
    if not isinstance(root, Call) or not _CLASS.fullmatch(class_path(root) or ""):
        return False
    return as_mapping(attributes_of(root).get("state_dict_metadata")) is not None


def read_dcp(
    source: Source, metadata: Pickled, folder: str, open_archive: OpenArchive, limits: Limits
) -> TorchDcp:
    """Read the values of the folder that are not tensors. `metadata` is the pickle in `.metadata`,
    which `source` is. DamagedError if an element is in no piece or in two, or a file is outside the
    folder."""
    archive = TorchDcp(source, metadata, folder, open_archive, limits)
    assert isinstance(metadata.root, Call)
    fields = attributes_of(metadata.root)
    described = as_mapping(fields.get("state_dict_metadata")) or {}
    paths = as_mapping(fields.get("planner_data")) or {}
    infos = _storage_infos(archive, as_mapping(fields.get("storage_data")) or {})
    archive.paths = sorted({place.path for places in infos.values() for place in places.values()})
    full_paths = {path: os.path.join(folder, path) for path in archive.paths}
    archive.missing = [path for path, full in full_paths.items() if not os.path.isfile(full)]
    archive.data_paths = [full for path, full in full_paths.items() if path not in archive.missing]
    files = [os.path.basename(source.path), *archive.paths]
    archive.facts["set"] = {"files": files, "missing": archive.missing}
    values: dict[Value, Value] = {}
    left_out: list[str] = []
    for name, description in described.items():
        if not isinstance(name, str) or not isinstance(description, Call):
            raise DamagedError("an entry is not described", where=Place(METADATA))
        steps = as_sequence(paths.get(name)) or (name,)
        if (class_path(description) or "").endswith(".BytesStorageMetadata"):
            value = _plain_value(archive, infos.get(name, {}), name)
            if value is _MISSING:
                left_out.append(str(name))
                continue
        else:
            span = _tensor_span(archive, name, attributes_of(description), infos.get(name, {}))
            archive.spans[str(name)] = span
            value = dense_tensor(str(name), span.dtype, span.shape)
            if span.dtype.kind == "quantized":  # the scale is in the piece
                places = infos.get(name, {})
                if len(places) != 1:
                    text = f"{bounded_repr(name)} is quantized, and in {len(places)} pieces"
                    raise UnsupportedError(text)
                places = dict.fromkeys([None], *places.values())
                quantized = _plain_value(archive, places, name)
                value = value if quantized is _MISSING else quantized
        _insert(values, steps, value)
    archive.value = _lists(values)
    if archive.missing:
        text = f"files are missing: {join_names(map(printable_name, archive.missing))}"
        if left_out:
            text += f"; what is in them is left out: {join_names(map(printable_name, left_out))}"
        archive.warnings.append(Finding("missing-file", text))
    return archive


def _storage_infos(archive: TorchDcp, storage_data: dict[Value, Value]) -> dict[str, _Places]:
    """Return where the pieces of each name are. Of two places of one piece, the last counts, as in
    torch, with a warning."""
    infos: dict[str, _Places] = {}
    for key, info in storage_data.items():
        index = key_value(key)
        identity = attributes_of(index) if isinstance(index, Call) else {}
        info_fields = attributes_of(info) if isinstance(info, Call) else {}
        path, start, length = (info_fields.get(n) for n in ("relative_path", "offset", "length"))
        if not isinstance(path, str) or type(start) is not int or type(length) is not int:
            raise DamagedError("storage_data is damaged", where=Place(METADATA))
        if not path or is_outside(path):
            raise DamagedError(
                f"the file {bounded_repr(path)} is outside the folder", where=Place(METADATA)
            )
        transforms = as_sequence(info_fields.get("transform_descriptors")) or ()
        offset = identity.get("offset")
        offsets = None if offset is None else sizes_of(offset, "a piece")
        name = str(identity.get("fqn"))
        place = _Place(str(path), start, length, tuple(map(str, transforms)))
        places = infos.setdefault(name, {})
        other = places.setdefault(offsets, place)
        if other != place:
            places[offsets] = place
            both = " and ".join(f"{printable_name(p.path)} at {p.start:,}" for p in (other, place))
            which = f" at {offsets}" if offsets else ""
            text = f"{bounded_repr(name)}{which} is in two places, the last counts: {both}"
            archive.warnings.append(Finding("piece-twice", text))
    return infos


def _tensor_span(
    archive: TorchDcp, name: str, fields: dict[Value, Value], places: _Places
) -> PiecedSpan:
    """Return the bytes of a tensor, after checking that its pieces cover it exactly."""
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Call) else None
    first = state[0] if isinstance(state, tuple) and state else None
    if first is None and isinstance(properties, Call):
        first = attributes_of(properties).get("dtype")
    dtype = dtype_by_name(first.name) if isinstance(first, Global) else None
    chunks = as_sequence(fields.get("chunks"))
    if dtype is None or chunks is None:
        raise DamagedError(f"{bounded_repr(name)} is not described", where=Place(METADATA))
    pieces = []
    for chunk in chunks:
        chunk_fields = attributes_of(chunk) if isinstance(chunk, Call) else {}
        offsets, sizes = (
            sizes_of(chunk_fields.get(key), bounded_repr(name)) for key in ("offsets", "sizes")
        )
        place = places.get(offsets) or (places.get(None) if len(chunks) == 1 else None)
        if place is None:
            raise DamagedError(
                f"the piece of {bounded_repr(name)} at {offsets} is in no file",
                where=Place(METADATA),
            )
        elements = partial(archive.open_piece, name, place, dtype, offsets, sizes)
        pieces.append(Piece(offsets, sizes, place.path, elements))
    shape = sizes_of(fields.get("size"), bounded_repr(name))
    return PiecedSpan(dtype, shape, check_cover(name, shape, pieces))


def _plain_value(archive: TorchDcp, places: _Places, name: str) -> Value:
    """Return a value that is not a tensor, from the file of torch.save that it is; `_MISSING` if
    that is not there."""
    place = places.get(None)
    if place is None:
        raise DamagedError(f"{bounded_repr(name)} is in no file", where=Place(METADATA))
    try:
        part = archive.open_place(place)
    except PtInspectError:
        if place.path in archive.missing:
            return _MISSING
        raise
    prefix = f"{len(archive.inner)} of {METADATA}"
    prefix_storage_keys(part.pickled, prefix)
    archive.inner[prefix] = part
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
