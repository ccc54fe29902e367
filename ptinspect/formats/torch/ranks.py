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
from collections.abc import Iterable
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.dtypes import DType, dtype_by_name
from ptinspect.errors import DamagedError, PtInspectError
from ptinspect.formats.archive import Archive, Finding, PicklelessArchive, prefix_storage_keys
from ptinspect.formats.safetensors import dense_tensor, ordered_dict
from ptinspect.formats.torch.pieces import (
    LEAVE_OUT,
    Box,
    Elements,
    Piece,
    PiecedSpan,
    check_cover,
    locate,
    mesh_cuts,
    mesh_shape,
    piece_box,
    sizes_of,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.pyobjects import Path, as_mapping, as_sequence, attributes_of, path_step
from ptinspect.pickling.values import Blob, Call, Changes, Global, PersistentId, SetOf, Value
from ptinspect.text import bounded_repr, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import OpenArchive
    from ptinspect.source.base import Source

_NAME = re.compile(r"(?:.*?world_size_(\d{1,6})_)?.*rank_?(\d{1,6})(?!\d).*")
_CLASSES = ("DTensor", "ShardedTensor")

MAX_DEPTH = 100
"""Objects in one another in which tensors are found."""

_REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2", 0)
_REBUILD_PARAMETER = Global("torch._utils", "_rebuild_parameter", 0)


class RankFiles(PicklelessArchive):
    """See the module's docstring. `parts` are the files, in the order of the ranks.

    Attributes:
        missing: the files of ranks that are not in the folder.
        differing: the names of values that are not the same in all files.
        merged: results of `_merge`, by the objects that it was called with.
        keys: keys of `spans`, by the elements in the files.
    """

    format = "torch-ranks"

    def __init__(self, source: Source, limits: Limits, missing: list[str]) -> None:
        super().__init__(source, limits)
        self.missing = missing
        self.differing: dict[str, None] = {}
        self.merged: dict[tuple[int, ...], Value] = {}
        self.keys: dict[object, str] = {}


class _Shards(NamedTuple):
    """What one file records of a tensor: dtype and whole shape, the boxes of all processes, and the
    tensors that it has itself."""

    dtype: DType | None
    shape: tuple[int, ...]
    boxes: list[Box]
    own: list[tuple[Box, Value]]
    requires_grad: bool = False
    is_parameter: bool = False


def is_rank_file(archive: Archive) -> bool:
    """Return True if a file of torch.save has a name that says which rank wrote it."""
    path = archive.source.path
    name = os.path.basename(path)
    return archive.format == "torch-zip" and os.path.isfile(path) and bool(_NAME.fullmatch(name))


def read_ranks(source: Source, open_archive: OpenArchive, limits: Limits = LIMITS) -> RankFiles:
    """Read the files of all ranks, one of which is `source`. DamagedError if the pieces of a tensor
    are not the whole, two files are of one rank or a rank is beyond the number in the name,
    UnsupportedError for sums that are not added up yet."""
    folder, name = os.path.split(source.path)
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
    missing = [f"{head}{rank}{tail}" for rank in range(world) if rank not in names]
    archive = RankFiles(source, limits, missing)
    archive.open_parts(folder, list(names.values()), open_archive)
    try:
        _join(archive, min(names))
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


def _join(archive: RankFiles, first_rank: int) -> None:
    """Replace the tensors in the first file's value by whole ones."""
    # What the dicts and lists of each file contain: (container, key, value) by path.
    leaves: list[dict[Path, tuple[Any, Value, Value]]] = []
    for number, part in enumerate(archive.parts):
        prefix_storage_keys(part.pickled, str(number))
        archive.streams += part.streams
        leaves.append({})
        stack: list[tuple[Path, Any, Value, Value]] = [((), None, None, part.root)]
        seen: set[int] = set()
        while stack:
            path, container, key, value = stack.pop()
            inside: Any = as_mapping(value) or (isinstance(value, list) and value)
            if not inside:
                leaves[-1][path] = container, key, value
            elif id(inside) not in seen:
                seen.add(id(inside))
                pairs = reversed(_items(inside).items())
                stack += [((*path, step), inside, k, item) for step, (k, item) in pairs]
    first = archive.parts[0]
    archive.pickled, archive.value, archive.byteorder = first.pickled, first.root, first.byteorder
    for path in dict.fromkeys(path for items in leaves for path in items):
        name = ".".join(map(str, path)) or "the root"
        found = {number: items[path] for number, items in enumerate(leaves) if path in items}
        value = _merge(archive, name, {number: leaf for number, (*_, leaf) in found.items()})
        container, key, _ = next(iter(found.values()))
        if not path:
            archive.value = value
        elif 0 in found:
            container[key] = value
        elif not _insert(first.root, path, key, value):
            archive.differing[name] = None
    if archive.differing:
        names = join_names(archive.differing)
        text = f"ranks have other values, those of rank {first_rank} are shown: {names}"
        archive.warnings.append(Finding("rank-values", text))


def _items(value: Any) -> dict[str | int, tuple[Value, Value]]:
    """Return (key, item) of a dict, list or tuple. Files are compared by the text of keys that are
    objects."""
    if not isinstance(value, dict):
        return {index: (index, item) for index, item in enumerate(value)}
    items: dict[str | int, tuple[Value, Value]] = {}
    for key, item in value.items():
        step = path_step(key)
        while step in items:
            step = f"{step}'"
        items[step] = key, item
    return items


def _insert(root: Value, path: Path, key: Value, value: Value) -> bool:
    """Insert what only other files have; False if the first file has no dict for it."""
    for step in path[:-1]:
        items = as_mapping(root)
        root = items.get(step) if items else None
    items = as_mapping(root)
    if not items or key in items:
        return False
    items[key] = value
    return True


def _merge(archive: RankFiles, name: str, values: dict[int, Any], depth: int = 0) -> Any:
    """Return what the files have in one place: the first one's value, in which each tensor is the
    whole one. The name of values that differ is added to `archive.differing`."""
    identity = tuple(map(id, values.values()))
    first = next(iter(values.values()))
    is_shared = isinstance(first, Call | PersistentId | dict | list | tuple)
    if not is_shared or identity not in archive.merged:  # equal numbers and texts are one object
        archive.merged[identity] = first
        shards = {number: _describe(archive, value, name) for number, value in values.items()}
        whole = {number: each for number, each in shards.items() if each is not None}
        if len(whole) < len(values):
            archive.merged[identity] = _merge_parts(archive, name, values, depth + 1)
        else:
            tensor = _whole_tensor(archive, name, whole)
            if isinstance(first, PersistentId):
                parts: Any = first.value
                tensor = tensor.args[0]
                tensor.value = (*parts[:2], tensor.value[2], *parts[3:])
            archive.merged[identity] = tensor
    return archive.merged[identity]


def _merge_parts(archive: RankFiles, name: str, values: dict[int, Any], depth: int) -> Any:
    """Return the first of values that are not tensors, after merging what they consist of."""

    def merge(parts: Iterable[Value]) -> Any:
        return _merge(archive, name, dict(zip(values, parts, strict=True)), depth)

    first, *others = values.values()
    is_same = all(type(value) is type(first) for value in others) and depth <= MAX_DEPTH
    if is_same and isinstance(first, Call):
        merge(value.func for value in values.values())
        first.args = merge(value.args for value in values.values())
        changes = [value.change() for value in values.values() if value.changes]
        is_same = len(changes) in (0, len(values))
        for part in Changes.__slots__ if changes and is_same else ():
            merge(getattr(change, part) for change in changes)
    elif is_same and isinstance(first, (dict, list, tuple)):
        tables = [_items(value) for value in values.values()]
        is_same = all(table.keys() == tables[0].keys() for table in tables)
        if is_same:
            merged = {step: merge(table[step][1] for table in tables) for step in tables[0]}
            if isinstance(first, tuple):
                return tuple(merged.values())
            target: Any = first
            for step, (key, _) in tables[0].items():
                target[key] = merged[step]
    else:
        is_same = is_same and all(_plain(value) == _plain(first) for value in others)
    if not is_same:
        archive.differing[name] = None
    return first


def _plain(value: Value) -> Value:
    """Return something that is equal for equal values without tensors."""
    if isinstance(value, Global):
        return value.path
    if isinstance(value, SetOf):
        return sorted(str(path_step(member)) for member in value)
    if isinstance(value, Blob):
        return value.digest()
    return repr(value) if isinstance(value, float) else value


def _describe(archive: Archive, value: Value, name: str) -> _Shards | None:
    """Return what a file records of a tensor or storage; None for other values."""
    if isinstance(value, PersistentId):
        parts = value.value
        if not isinstance(parts, tuple) or len(parts) < 5 or parts[0] != "storage":
            return None
        value = Call(_REBUILD_TENSOR, (value, 0, (parts[4],), (1,)), "REDUCE", 0)
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
            # ShardedTensor.__getstate__: (shards of this process, metadata of all, …)
            shards, metadata = [*(as_sequence(args[3]) or ()), None, None][:2]
            fields = attributes_of(metadata) if isinstance(metadata, Call) else {}
            listed = as_sequence(fields.get("shards_metadata")) or ()
            own = []
            for shard in as_sequence(shards) or ():
                attributes = attributes_of(shard) if isinstance(shard, Call) else {}
                box = _shard_box(attributes.get("metadata"), name)
                own.append((box, attributes.get("tensor")))
            return _Shards(dtype, shape, [_shard_box(item, name) for item in listed], own)
        return _dtensor(dtype, shape, args[3], name)._replace(requires_grad=inner[7] is True)
    if function in ("_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        elements = locate(archive, value, bounded_repr(name))
        box = ((0,) * len(elements.shape), elements.shape)
        needs_grad = len(args) > 4 and args[4] is True
        return _Shards(elements.dtype, elements.shape, [box], [(box, value)], needs_grad)
    return None


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
    sizes, own = mesh_shape(mesh_fields, name), mesh_fields.get("_coordinate_on_dim")
    placements = as_sequence(fields.get("placements")) or ()
    if own is None or len(placements) != len(sizes) or len(as_sequence(own) or ()) != len(sizes):
        raise DamagedError(f"{bounded_repr(name)} has no placement")
    cuts = mesh_cuts(placements, sizes, name)
    boxes = {
        coordinate: piece_box(shape, cuts, sizes, coordinate)
        for coordinate in product(*map(range, sizes))
    }
    coordinate = sizes_of(own, bounded_repr(name))
    if coordinate not in boxes:
        raise DamagedError(f"{bounded_repr(name)} is of a process outside its mesh")
    local = attributes.get("_local_tensor")
    return _Shards(
        dtype, shape, list(dict.fromkeys(boxes.values())), [(boxes[coordinate], local)],
        is_parameter=attributes.get("_is_param") is True,
    )  # fmt: skip


def _whole_tensor(archive: RankFiles, name: str, shards: dict[int, _Shards]) -> Any:
    """Return the call that builds the whole tensor, after proving that it is in the files. One that
    is not cut, and has another shape or dtype in another file, is an error when it is read."""
    first = next(iter(shards.values()))
    copies: dict[Box, list[Elements]] = {}
    mismatch = None
    for number, each in shards.items():
        path = os.path.basename(archive.parts[number].source.path)
        if (each.shape, each.dtype, set(each.boxes)) != (
            first.shape, first.dtype, set(first.boxes),
        ):  # fmt: skip
            mismatch = DamagedError(
                f"{printable_name(path)}: {bounded_repr(name)} has another shape, dtype or"
                " placement than in the first file"
            )
            if len(each.boxes) != 1 or len(first.boxes) != 1 or not prod(first.shape):
                raise mismatch
            mismatch.hint = LEAVE_OUT
            archive.differing[name] = None
            continue
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
        opener: partial[list[Elements]] = partial(list, found)
        if not found or mismatch is not None:
            files = join_names(map(printable_name, archive.missing), 3) or "no file"
            error = mismatch or DamagedError(
                f"a piece of {bounded_repr(name)} is missing, it is in {files}",
                hint="copy the files of all ranks into one folder",
            )
            opener = partial(_refuse, error)
        pieces.append(Piece(*box, path, opener))
    real = check_cover(name, first.shape, pieces)
    places = [(box, e.key, e.begin, e.data) for box, found in copies.items() for e in found]
    whole = (first.dtype.name, first.shape, *places) if places else name
    identity = whole if mismatch is None else mismatch
    key = archive.keys.setdefault(identity, f"{len(archive.keys)}/{name}")
    archive.spans[key] = PiecedSpan(first.dtype, first.shape, real, bounded_repr(name))
    needs_grad = first.requires_grad
    if first.is_parameter:
        call = dense_tensor(key, first.dtype, first.shape, _device(first))
        return Call(_REBUILD_PARAMETER, (call, needs_grad, ordered_dict({})), "REDUCE", 0)
    return dense_tensor(key, first.dtype, first.shape, _device(first), requires_grad=needs_grad)


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


def _refuse(error: DamagedError) -> list[Elements]:
    raise error
