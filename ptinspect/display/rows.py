"""A document's tensors as rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.select import selected
from ptinspect.display.text.columns import Table
from ptinspect.display.text.escape import cut
from ptinspect.display.text.fold import fold
from ptinspect.text import count_text

HEADERS = ("key", "role", "dtype", "shape", "device")

if TYPE_CHECKING:
    from ptinspect.display.options import Look
    from ptinspect.document import Document, TensorInfo


def table_of(document: Document, look: Look) -> Table:
    """The selected tensors: those that repeat as one row where the look folds, those deeper
    than its depth summed up; what is special about one in a column `note`, if any is."""
    infos = selected(document, look)
    notes = Notes(document)
    if look.stats or look.hash:
        from ptinspect.display.tensor_columns import extended

        return extended(infos, [_row(info, notes) for info in infos], look)
    kept: list[tuple[str, ...]] = []
    if look.fold:
        kept = _optimizer_state(document, infos)
        infos = [info for info in infos if info.role != "optimizer"] if kept else infos
    if look.depth is not None and any(info.key.count(".") >= look.depth for info in infos):
        rows = _summed(infos, look.depth, notes)
    else:
        rows = _rows(infos, notes)
    if look.fold:
        rows = _folded(rows)
    return _without_empty(rows + kept)


def _rows(infos: list[TensorInfo], notes: Notes) -> list[tuple[str, ...]]:
    """A row per tensor. What many have in common is written once."""
    made = []
    known: dict[object, tuple[str, ...]] = {}
    for info in infos:
        tensor = info.tensor
        facts = (info.role, id(tensor.dtype), tensor.shape, tensor.device)
        common = known.get(facts)
        if common is None:
            common = known[facts] = _common(info)
        made.append((_key(info.key), *common, notes.of(info)))
    return made


def _row(info: TensorInfo, notes: Notes) -> tuple[str, ...]:
    return (_key(info.key), *_common(info), notes.of(info))


def _key(key: str) -> str:
    if not key:
        return "(root)"  # a file that is one tensor
    return key if key.isascii() and key.isprintable() and len(key) < 1000 else cut(key)


def _common(info: TensorInfo) -> tuple[str, ...]:
    dtype = info.tensor.dtype.name if info.tensor.dtype else "unknown"
    return info.role, dtype, shape_text(info.tensor.shape), cut(info.tensor.device)


def shape_text(shape: tuple[int, ...]) -> str:
    """`(1, 2)`; a ragged dimension as `*`."""
    return str(shape).replace("-1", "*") if -1 in shape else str(shape)


class Notes:
    """What is special about a tensor, in few words."""

    def __init__(self, document: Document) -> None:
        self.told = document.kind == "module"
        self.first: dict[object, TensorInfo] = {}  # of each of those that share a storage
        seen: dict[object, TensorInfo] = {}
        for info in document.tensors.values():
            storage = info.tensor.storage
            if storage is None or not info.tensor.numel:
                continue
            before = seen.setdefault((storage.key, id(storage.archive)), info)
            if before is not info:
                self.first.setdefault(before.tensor.same(), before)
                self.first.setdefault(info.tensor.same(), info)

    def of(self, info: TensorInfo) -> str:
        """The note; empty for an ordinary tensor."""
        tensor = info.tensor
        made = []
        first = self.first.get(tensor.same()) if self.first and tensor.numel else None
        if first is not None and first is not info:
            made.append(f"= {_key(first.key)}")
        if not info.persistent and info.role == "buffer":
            made.append("not in state_dict")
        if tensor.layout != "strided":
            made.append(cut(tensor.layout))
        if tensor.subclass:
            made.append(cut(tensor.subclass.rsplit(".", 1)[-1]))
        if tensor.quantizer:
            made.append(str(tensor.quantizer.get("qscheme", "quantized")))
        if self.told and info.role == "parameter" and not tensor.requires_grad:
            made.append("frozen")
        return ", ".join(made)


def _folded(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    made = []
    for item in fold((row[0], row[1:]) for row in rows):
        assert isinstance(item.facts, tuple)
        key = item.key if item.times == 1 else f"{item.key} × {item.times:,}"
        made.append((key, *item.facts))
    return made


def _summed(infos: list[TensorInfo], depth: int, notes: Notes) -> list[tuple[str, ...]]:
    """Keys cut to `depth` parts, one row for all tensors below each."""
    groups: dict[str, list[TensorInfo]] = {}
    for info in infos:
        parts = info.key.split(".")
        key = info.key if len(parts) <= depth else ".".join([*parts[:depth], "*"])
        groups.setdefault(key, []).append(info)
    return [
        _row(group[0], notes)
        if len(group) == 1 and key == group[0].key
        else _sum(key, group, elements=True)
        for key, group in groups.items()
    ]


def _sum(key: str, group: list[TensorInfo], elements: bool = False) -> tuple[str, ...]:
    dtypes = _all([info.tensor.dtype.name if info.tensor.dtype else "unknown" for info in group])
    shape = count_text(len(group), "tensor")
    if elements:
        shape += f", {count_text(sum(info.tensor.numel for info in group), 'element')}"
    devices = cut(_all([info.tensor.device for info in group]))
    return _key(key), _all([info.role for info in group]), dtypes, shape, devices, ""


def _optimizer_state(document: Document, infos: list[TensorInfo]) -> list[tuple[str, ...]]:
    """What an optimizer keeps for its parameters, a row for each name: `state.*.exp_avg`."""
    groups: dict[str, list[TensorInfo]] = {}
    starts = [(*found.path, "state") for found in document.optimizers]
    for info in infos:
        if info.role == "optimizer":
            own = info.path[:-2] in starts
            parts = (*info.path[:-2], "*", info.path[-1]) if own else info.path
            groups.setdefault(".".join(map(str, parts)), []).append(info)
    return [_sum(key, group) for key, group in groups.items()]


def _all(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _without_empty(rows: list[tuple[str, ...]]) -> Table:
    """Without the notes, where no tensor has one."""
    if any(row[-1] for row in rows):
        return Table([*HEADERS, "note"], rows, frozenset())
    return Table([*HEADERS], [row[:-1] for row in rows], frozenset())
