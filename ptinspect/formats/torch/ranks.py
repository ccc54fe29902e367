"""The files of torch.save of several ranks, whose DTensors and ShardedTensors are put together.

    model_world_size_8_rank_0.pt … model_world_size_8_rank_7.pt

A DTensor records its whole size, the mesh of processes, the coordinate of its own process, and for
each dimension of the mesh whether it cuts a dimension of the tensor (Shard) or not (Replicate). A
ShardedTensor records offset and size of every shard. What is no such tensor should be the same in
all files. Nothing is concatenated by guess: `check_cover` proves that the pieces are the whole, and
copies are compared, bit by bit, while they are read.

Sources: torch/distributed/tensor/_utils.py (_compute_local_shape_and_global_offset),
placement_types.py (Shard.local_shard_size_and_offset, _StridedShard), and
torch/distributed/_shard/sharded_tensor/api.py (ShardedTensor.__getstate__).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.dtypes import DType, dtype_by_name
from ptinspect.errors import DamagedError, FormatError, PtInspectError, UnsupportedError
from ptinspect.formats.archive import Archive, Finding, PicklelessArchive, prefix_storage_keys
from ptinspect.formats.safetensors import dense_tensor, ordered_dict
from ptinspect.formats.torch.pieces import (
    Elements,
    Piece,
    PiecedSpan,
    check_cover,
    locate,
    sizes_of,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, attributes_of, class_path
from ptinspect.pickling.values import Call, Global, PersistentId, Value, key_value
from ptinspect.text import bounded_repr, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import OpenArchive
    from ptinspect.source.base import Source

_NAME = re.compile(r"(?:.*?world_size_(\d{1,6})_)?.*?rank_?(\d{1,6})\D*")
_CLASSES = ("DTensor", "ShardedTensor")
_REBUILD_PARAMETER = Global("torch._utils", "_rebuild_parameter", 0)

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes of a piece in the whole tensor."""


class RankFiles(PicklelessArchive):
    """See the module's docstring. `parts` are the files, in the order of the ranks."""

    format = "torch-ranks"

    @property
    def size(self) -> int:
        """See `Archive.size`."""
        return sum(part.source.size for part in self.parts)


class _Shards(NamedTuple):
    """What one file records of a tensor: dtype and whole shape, the boxes of all processes, and the
    tensors that it has itself."""

    dtype: DType | None
    shape: tuple[int, ...]
    boxes: list[Box]
    own: list[tuple[Box, Value]]
    is_parameter: bool = False
    requires_grad: bool = True


def is_rank_file(archive: Archive) -> bool:
    """Return True if a file of torch.save has a name that says which rank wrote it."""
    path = archive.source.path
    name = os.path.basename(path)
    return archive.format == "torch-zip" and os.path.isfile(path) and bool(_NAME.fullmatch(name))


def read_ranks(source: Source, open_archive: OpenArchive, limits: Limits = LIMITS) -> RankFiles:
    """Read the files of all ranks, one of which is `source`. DamagedError if the pieces of a tensor
    are not the whole, UnsupportedError for sums that are not added up yet."""
    folder, name = os.path.split(source.path)
    names, missing = _rank_names(folder, name)
    archive = RankFiles(source, limits)
    archive.open_parts(folder, list(names.values()), open_archive)
    try:
        _join(archive, list(names), missing)
    except PtInspectError:
        archive.close()
        raise
    archive.facts["set"] = {
        "ranks": len(names) + len(missing), "files": list(names.values()), "missing": missing,
    }  # fmt: skip
    if missing:
        text = f"files are missing: {join_names(map(printable_name, missing))}"
        archive.warnings.append(Finding("missing-file", text))
    return archive


def _rank_names(folder: str, name: str) -> tuple[dict[int, str], list[str]]:
    """Return the files of the ranks that are in the folder, and the names of the others.
    DamagedError if two files are of one rank, or a rank is beyond the number in the name."""
    match = _NAME.fullmatch(name)
    assert match is not None
    head, tail = name[: match.start(2)], name[match.end(2) :]
    pattern = re.compile(re.escape(head) + r"(\d{1,6})" + re.escape(tail))
    found: dict[int, str] = {}
    for file in filter(None, map(pattern.fullmatch, sorted(os.listdir(folder or ".")))):
        other = found.setdefault(int(file[1]), file[0])
        if other != file[0]:
            both = join_names(map(printable_name, (other, file[0])))
            raise DamagedError(f"two files are of rank {int(file[1])}: {both}")
    last = max(found)
    world = int(match[1]) if match[1] else last + 1
    if last >= world:
        raise DamagedError(f"{printable_name(found[last])}: rank {last} is beyond {world} ranks")
    names = {rank: found[rank] for rank in sorted(found)}
    return names, [f"{head}{rank}{tail}" for rank in range(world) if rank not in names]


def _join(archive: RankFiles, ranks: Sequence[int], missing: list[str]) -> None:
    """Replace the tensors in the first file's value by whole ones."""
    leaves = []
    for number, part in enumerate(archive.parts):
        prefix_storage_keys(part.pickled, str(number))
        archive.streams += part.streams
        leaves.append(_leaves(part.root))
    first = archive.parts[0]
    archive.pickled, archive.value, archive.byteorder = first.pickled, first.root, first.byteorder
    others: list[str] = []
    for path in dict.fromkeys(path for items in leaves for path in items):
        name = ".".join(map(str, path))
        found = {n: items[path][2] for n, items in enumerate(leaves) if path in items}
        shards = {n: _describe(archive, value, name) for n, value in found.items()}
        whole = [each for each in shards.values() if each is not None]
        if len(whole) == len(found):
            value = _whole_tensor(archive, name, shards, missing)  # type: ignore[arg-type]
        else:
            value = next(iter(found.values()))
            if any(_differ(value, other) for other in found.values()):
                others.append(name)
        if path in leaves[0]:
            container, key, _ = leaves[0][path]
            container[key] = value
        elif not _insert(first.root, path, value):
            others.append(name)
    if others:
        text = f"ranks have other values, those of rank {ranks[0]} are shown: {join_names(others)}"
        archive.warnings.append(Finding("rank-values", text))


def _leaves(root: Value) -> dict[tuple[Value, ...], tuple[Any, Value, Value]]:
    """Return what the dicts and lists of a file contain: (container, key, value) by path."""
    if not as_mapping(root):
        raise FormatError("the file of a rank is not a state_dict")
    leaves: dict[tuple[Value, ...], tuple[Any, Value, Value]] = {}
    stack: list[tuple[tuple[Value, ...], Any, Value, Value]] = [((), None, None, root)]
    seen: set[int] = set()
    while stack:
        path, container, key, value = stack.pop()
        items = as_mapping(value)
        inside: Any = items if items else value if isinstance(value, list) and value else None
        if inside is None or id(inside) in seen:
            leaves[path] = container, key, value
            continue
        seen.add(id(inside))
        pairs = list(inside.items() if items else enumerate(inside))
        stack += [((*path, key_value(k)), inside, k, item) for k, item in reversed(pairs)]
    return leaves


def _insert(root: Value, path: tuple[Value, ...], value: Value) -> bool:
    """Insert what only other files have; False if the first file has no dict for it."""
    for key in path[:-1]:
        items = as_mapping(root)
        root = items.get(key) if items else None
    items = as_mapping(root)
    if not items or path[-1] in items:
        return False
    items[path[-1]] = value
    return True


def _differ(a: Value, b: Value, depth: int = 8) -> bool:
    """Return True if two plain values, or tuples and sets of them, surely differ."""
    items, others = as_sequence(a), as_sequence(b)
    if type(a) is not type(b) or not depth:
        return bool(depth)
    if items is not None and others is not None:
        return len(items) != len(others) or any(
            _differ(*pair, depth - 1) for pair in zip(items, others, strict=True)
        )
    if isinstance(a, Call) and isinstance(b, Call):
        return _differ(a.args, b.args, depth - 1)
    if isinstance(a, float) and a != a:
        return b == b
    return isinstance(a, (str, bytes, int, float)) and a != b


def _describe(archive: Archive, value: Value, name: str) -> _Shards | None:
    """Return what a file records of a tensor; None for other values."""
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return None
    function, args = value.func.name, value.args
    if function.startswith("_rebuild_from_type") and len(args) == 4:
        kind, inner = getattr(args[1], "name", ""), as_sequence(args[2]) or ()
        if kind not in _CLASSES or len(inner) < 8:
            return None
        dtype = dtype_by_name(inner[1].name) if isinstance(inner[1], Global) else None
        shape = sizes_of(inner[2], bounded_repr(name))
        if kind == "ShardedTensor":
            return _sharded(dtype, shape, args[3], name)
        return _dtensor(dtype, shape, args[3], name)._replace(requires_grad=inner[7] is True)
    if function in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"):
        elements = locate(archive, value, bounded_repr(name))
        box = ((0,) * len(elements.shape), elements.shape)
        shards = _Shards(elements.dtype, elements.shape, [box], [(box, value)])
        if function != "_rebuild_parameter":
            return shards
        return shards._replace(is_parameter=True, requires_grad=args[1] is True)
    return None


def _sharded(dtype: DType | None, shape: tuple[int, ...], state: Value, name: str) -> _Shards:
    """`ShardedTensor.__getstate__`: (shards of this process, metadata of all, …)."""
    parts = as_sequence(state) or ()
    shards, metadata = parts[:2] if len(parts) > 1 else ((), None)
    fields = attributes_of(metadata) if isinstance(metadata, Call) else {}
    boxes = [_shard_box(item, name) for item in as_sequence(fields.get("shards_metadata")) or ()]
    own = []
    for shard in as_sequence(shards) or ():
        attributes = attributes_of(shard) if isinstance(shard, Call) else {}
        own.append((_shard_box(attributes.get("metadata"), name), attributes.get("tensor")))
    return _Shards(dtype, shape, boxes, own)


def _shard_box(metadata: Value, name: str) -> Box:
    fields = attributes_of(metadata) if isinstance(metadata, Call) else {}
    keys = ("shard_offsets", "shard_sizes")
    offsets, sizes = (sizes_of(fields.get(key), bounded_repr(name)) for key in keys)
    return offsets, sizes


def _dtensor(dtype: DType | None, shape: tuple[int, ...], state: Value, name: str) -> _Shards:
    """Return the boxes that the placements of a DTensor give the processes of its mesh."""
    attributes: dict[Value, Value] = {}
    for part in as_sequence(state) or (state,):
        attributes |= as_mapping(part) or {}
    spec, mesh = attributes.get("_spec"), None
    fields = attributes_of(spec) if isinstance(spec, Call) else {}
    mesh = fields.get("mesh")
    mesh_fields = attributes_of(mesh) if isinstance(mesh, Call) else {}
    sizes, own = _mesh_shape(mesh_fields, name), mesh_fields.get("_coordinate_on_dim")
    placements = as_sequence(fields.get("placements")) or ()
    if own is None or len(placements) != len(sizes) or len(as_sequence(own) or ()) != len(sizes):
        raise DamagedError(f"{bounded_repr(name)} has no placement")
    cuts = _cuts(placements, sizes, name)
    boxes = {
        coordinate: _box(shape, cuts, sizes, coordinate)
        for coordinate in product(*map(range, sizes))
    }
    coordinate = sizes_of(own, bounded_repr(name))
    if coordinate not in boxes:
        raise DamagedError(f"{bounded_repr(name)} is of a process outside its mesh")
    local = attributes.get("_local_tensor")
    return _Shards(
        dtype, shape, list(dict.fromkeys(boxes.values())), [(boxes[coordinate], local)],
        attributes.get("_is_param") is True,
    )  # fmt: skip


def _mesh_shape(fields: dict[Value, Value], name: str) -> tuple[int, ...]:
    """Return the size of each dimension of a mesh: `_layout` since torch 2.9 or so, before that the
    tensor `mesh` of all ranks."""
    layout = fields.get("_layout")
    if isinstance(layout, Call):
        state = attributes_of(layout)
        sizes: list[int] = []
        for axis in as_sequence(state.get("axes")) or ():
            inner = attributes_of(axis) if isinstance(axis, Call) else {}
            sizes.append(prod(sizes_of(inner.get("shape"), bounded_repr(name))))
        if not sizes:
            value = state.get("shape")
            sizes = list(sizes_of((value,) if isinstance(value, int) else value, name))
        return tuple(sizes)
    mesh = fields.get("mesh")
    return sizes_of(mesh.args[2] if isinstance(mesh, Call) else None, bounded_repr(name))


def _cuts(placements: Sequence[Value], sizes: tuple[int, ...], name: str) -> list[tuple[int, int]]:
    """Return (dimension of the mesh, dimension of the tensor) of each cut, the outer ones first.
    `_StridedShard` is a cut that was made after those of later dimensions of the mesh."""
    normal: list[tuple[int, int]] = []
    strided: list[tuple[int, int]] = []
    for index, placement in enumerate(placements):
        kind = (class_path(placement) if isinstance(placement, Call) else None) or ""
        kind = kind.rpartition(".")[2]
        fields = attributes_of(placement) if isinstance(placement, Call) else {}
        dim = fields.get("dim")
        if kind == "Replicate":
            continue
        if kind not in ("Shard", "_StridedShard") or not isinstance(dim, int):
            raise UnsupportedError(f"{bounded_repr(name)} is placed by {kind or 'nothing known'}")
        (strided if kind == "_StridedShard" else normal).append((index, dim))
        factor = fields.get("split_factor")
        later = range(index + 1, len(placements))
        same = [i for i in later if _shard_dim(placements[i]) == dim]
        if kind == "_StridedShard" and factor != prod(sizes[i] for i in same):
            raise UnsupportedError(f"{bounded_repr(name)} is cut into strides of other processes")
    return [*normal, *reversed(strided)]


def _shard_dim(placement: Value) -> Value:
    return attributes_of(placement).get("dim") if isinstance(placement, Call) else None


def _box(
    shape: tuple[int, ...], cuts: list[tuple[int, int]], sizes: tuple[int, ...],
    coordinate: tuple[int, ...],
) -> Box:  # fmt: skip
    """Return the piece of one process: each cut divides as `torch.chunk` does."""
    offsets, lengths = [0] * len(shape), list(shape)
    for index, dim in cuts:
        if not -len(shape) <= dim < len(shape):
            raise DamagedError(f"a tensor with {len(shape)} dimensions is cut along {dim}")
        step = -(-lengths[dim] // sizes[index])
        start = min(step * coordinate[index], lengths[dim])
        offsets[dim] += start
        lengths[dim] = min(step, lengths[dim] - start)
    return tuple(offsets), tuple(lengths)


def _whole_tensor(
    archive: RankFiles, name: str, shards: dict[int, _Shards], missing: list[str]
) -> Value:
    """Return the call that builds the whole tensor, after proving that it is in the files."""
    first = next(iter(shards.values()))
    copies: dict[Box, list[Elements]] = {}
    for number, each in shards.items():
        path = os.path.basename(archive.parts[number].source.path)
        if (each.shape, each.dtype, set(each.boxes)) != (
            first.shape, first.dtype, set(first.boxes),
        ):  # fmt: skip
            raise DamagedError(
                f"{printable_name(path)}: {bounded_repr(name)} has another shape, dtype or"
                " placement than in the first file"
            )
        for box, value in each.own:
            if prod(box[1]):
                elements = locate(archive, value, f"{printable_name(path)}: {bounded_repr(name)}")
                copies.setdefault(box, []).append(_without_padding(archive, elements, box, name))
    if first.dtype is None:
        raise DamagedError(f"{bounded_repr(name)} has no dtype")
    pieces = []
    for box in first.boxes:
        found = copies.get(box, [])
        path = os.path.basename(found[0].archive.source.path) if found else ""
        opener = partial(list, found) if found else partial(_missing_piece, name, missing)
        pieces.append(Piece(*box, path, opener))
    real = check_cover(name, first.shape, pieces)
    archive.spans[name] = PiecedSpan(first.dtype, first.shape, real, bounded_repr(name))
    call = dense_tensor(name, first.dtype, first.shape, _device(first))
    if first.is_parameter:
        args = call, first.requires_grad, ordered_dict({})
        call = Call(_REBUILD_PARAMETER, args, "REDUCE", 0)
    return call


def _device(shards: _Shards) -> str:
    """Return the device of the first tensor that a file has itself."""
    value = shards.own[0][1] if shards.own else None
    while isinstance(value, Call) and value.args:
        value = value.args[0]
    fields = value.value if isinstance(value, PersistentId) else ()
    return str(fields[3]) if isinstance(fields, tuple) and len(fields) > 3 else "cpu"


def _without_padding(archive: RankFiles, elements: Elements, box: Box, name: str) -> Elements:
    """Return the elements of a piece. Rows behind those of its place are padding."""
    if elements.shape == box[1]:
        return elements
    rows = elements.shape[0] if elements.shape else 0
    extra = rows - (box[1][0] if box[1] else 0)
    path = printable_name(os.path.basename(elements.archive.source.path))
    if elements.shape[1:] != box[1][1:] or extra <= 0:
        raise DamagedError(
            f"{path}: {bounded_repr(name)} has the shape {elements.shape}, its place is {box[1]}"
        )
    text = f"{path}: {extra:,} rows of padding of {bounded_repr(name)} are left out"
    archive.warnings.append(Finding("padding", text))
    return elements.range(0, prod(box[1]))


def _missing_piece(name: str, missing: list[str]) -> list[Elements]:
    files = join_names(map(printable_name, missing), 3) or "no file"
    raise DamagedError(
        f"a piece of {bounded_repr(name)} is missing, it is in {files}",
        hint="copy the files of all ranks into one folder",
    )
