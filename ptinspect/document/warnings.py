"""What a user should know about a file, beyond what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.walk import Path, Warned

if TYPE_CHECKING:
    from ptinspect.document.document import Document
    from ptinspect.document.storages import Storage

DRAGGED = 1024
"""Bytes that views must leave unused, and half of the storage, before that is worth a line."""


def warnings_of(document: Document) -> list[Warned]:
    """All of them: the container's, the pickles', the walk's, the tensors', the entries'."""
    made = [Warned(found.kind, None, found.message) for found in document.archive.warnings]
    for stream in document.archive.streams:
        made += [Warned(found.kind, None, found.message) for found in stream.warnings]
        if stream.dropped_warnings:
            made.append(Warned("more", None, f"{stream.dropped_warnings:,} more of this stream"))
    made += document.contents.warnings
    made += _beyond(document)
    made += _dragged(document)
    made += _left_out(document)
    made += _not_a_number(document)
    made += _shared(document)
    return made


def _beyond(document: Document) -> list[Warned]:
    """Tensors that show more than their storage has: torch refuses to load such a file."""
    made: list[Warned] = []
    fits: set[object] = set()
    for info in document.contents.tensors:
        tensor = info.tensor
        storage, dtype = tensor.storage, tensor.dtype
        if storage is None or dtype is None:
            continue
        form = (tensor.shape, tensor.stride, tensor.storage_offset, dtype, storage.nbytes)
        if form in fits:
            continue
        end = -(-tensor.extent[1] // tensor.per_byte) * dtype.itemsize
        if end <= storage.nbytes or tensor.numel == 0:
            fits.add(form)
        elif len(made) < document.limits.warnings:
            text = f"a tensor reaches beyond its storage: byte {end:,} of {storage.nbytes:,}"
            made.append(Warned("beyond-storage", info.path, f"{text}: torch.load refuses it"))
    return made


def _dragged(document: Document) -> list[Warned]:
    """Views that keep a storage alive of which they show less than half."""
    whole: set[int] = set()  # storages that a tensor shows all of
    parts: dict[int, tuple[Storage, Path, list[tuple[int, int]]]] = {}
    known: dict[object, tuple[int, int]] = {}
    for info in document.contents.tensors:
        tensor = info.tensor
        storage, dtype = tensor.storage, tensor.dtype
        if storage is None or dtype is None or storage.nbytes < DRAGGED:
            continue
        form = (tensor.shape, tensor.stride, tensor.storage_offset, dtype.itemsize)
        span = known.get(form)
        if span is None:
            low, high = tensor.extent
            span = known[form] = (low * dtype.itemsize, high * dtype.itemsize)
        if span[0] == 0 and span[1] >= storage.nbytes:
            whole.add(id(storage))
        elif id(storage) not in whole:
            parts.setdefault(id(storage), (storage, info.path, []))[2].append(span)
    made = []
    for number, (storage, path, spans) in parts.items():
        unused = 0 if number in whole else storage.nbytes - _covered(spans)
        if unused >= DRAGGED and unused * 2 >= storage.nbytes:
            text = f"of its storage's {storage.nbytes:,} bytes {unused:,} are shown by no tensor"
            made.append(Warned("large-storage", path, f"{text}: save a clone to leave them behind"))
    return made


def _covered(spans: list[tuple[int, int]]) -> int:
    """Bytes in the union of the spans."""
    total, end = 0, 0
    for low, high in sorted(spans):
        total += max(0, high - max(low, end))
        end = max(end, high)
    return total


def _left_out(document: Document) -> list[Warned]:
    """Buffers that a full model holds and its state_dict does not."""
    names = [i for i in document.contents.tensors if i.role == "buffer" and not i.persistent]
    if not names:
        return []
    text = f"{len(names)} non-persistent buffer{'s' * (len(names) > 1)}: state_dict() leaves "
    return [Warned("non-persistent", names[0].path, text + "them out")]


def _not_a_number(document: Document) -> list[Warned]:
    made = []
    for entry in document.entries:
        if isinstance(entry.value, float) and entry.value != entry.value:
            made.append(Warned("nan", entry.path, "is NaN"))
    return made


SHARED = 20
"""Lines about tensors that are one, before the rest is counted."""


def _shared(document: Document) -> list[Warned]:
    """Paths to the same bytes seen in the same way: tied weights, or an alias by accident."""
    pairs = list(document.survey.duplicates.items())
    made = [
        Warned("shared-storage", info.path, f"the same bytes as {'.'.join(map(str, first.path))}")
        for info, first in pairs[:SHARED]
    ]
    if len(pairs) > SHARED:
        text = f"{len(pairs) - SHARED:,} more tensors share the bytes of another"
        made.append(Warned("shared-storage", None, text))
    return made
