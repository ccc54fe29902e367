"""Warnings about a file that are not errors: unused bytes, tied weights, NaN and the like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ptinspect.document.walk import Contents, DocumentWarning
from ptinspect.pickling.pyobjects import Path
from ptinspect.text import count_text

if TYPE_CHECKING:
    from ptinspect.document.tensor import Storage
    from ptinspect.document.tensors import TensorInfo
    from ptinspect.formats.archive import Archive

UNUSED = 1024
"""Bytes of a storage, and half of it, that must be in no view before that is worth a warning."""

SHARED = 20
"""Shared tensors that are listed before the rest is counted."""


def warnings_of(
    archive: Archive,
    contents: Contents,
    duplicates: dict[TensorInfo, TensorInfo],
    max_warnings: int,
) -> list[DocumentWarning]:
    """Return all warnings: the container's, the pickles', the walk's, the tensors' (at most
    `max_warnings` for exceeding their storage), the entries', the `duplicates`."""
    tensors = contents.tensors
    return [
        *_archive_warnings(archive),
        *contents.warnings,
        *islice(_out_of_bounds_views(tensors), max_warnings),
        *_oversized_storages(tensors),
        *_facts(tensors),
        *(
            DocumentWarning("nan", entry.path, "is NaN")
            for entry in contents.entries
            if isinstance(entry.value, float) and entry.value != entry.value
        ),
        *_shared_tensors(duplicates),
    ]


def _archive_warnings(archive: Archive) -> Iterator[DocumentWarning]:
    for finding in archive.warnings:
        yield DocumentWarning(finding.kind, None, finding.message)
    for stream in archive.streams:
        for warning in stream.warnings:
            yield DocumentWarning(warning.kind, None, warning.message)
        if stream.dropped_warnings:
            yield DocumentWarning("more", None, f"{stream.dropped_warnings:,} more of this stream")


def _out_of_bounds_views(tensors: Iterable[TensorInfo]) -> Iterator[DocumentWarning]:
    within_bounds: set[object] = set()
    for info in tensors:
        tensor = info.tensor
        storage, dtype = tensor.storage, tensor.dtype
        if storage is None or dtype is None:
            continue
        form = (tensor.shape, tensor.stride, tensor.storage_offset, dtype, storage.nbytes)
        if form in within_bounds:
            continue
        end = -(-tensor.extent[1] // tensor.per_byte) * dtype.itemsize
        if end <= storage.nbytes or tensor.numel == 0:
            within_bounds.add(form)
        else:
            message = f"a tensor reaches beyond its storage: byte {end:,} of {storage.nbytes:,}"
            yield DocumentWarning("beyond-storage", info.path, f"{message}: torch.load refuses it")


def _oversized_storages(tensors: Iterable[TensorInfo]) -> Iterator[DocumentWarning]:
    """Yield views that keep a storage alive of which they use less than half."""
    fully_used: set[int] = set()
    spans_in: dict[int, tuple[Storage, Path, list[tuple[int, int]]]] = {}
    spans_of_form: dict[object, tuple[int, int]] = {}
    for info in tensors:
        tensor = info.tensor
        storage, dtype = tensor.storage, tensor.dtype
        if storage is None or dtype is None or storage.nbytes < UNUSED:
            continue
        form = (tensor.shape, tensor.stride, tensor.storage_offset, dtype.itemsize)
        span = spans_of_form.get(form)
        if span is None:
            low, high = tensor.extent
            span = spans_of_form[form] = (low * dtype.itemsize, high * dtype.itemsize)
        if span[0] == 0 and span[1] >= storage.nbytes:
            fully_used.add(id(storage))
        elif id(storage) not in fully_used:
            spans_in.setdefault(id(storage), (storage, info.path, []))[2].append(span)
    for storage_id, (storage, path, spans) in spans_in.items():
        unused, end = 0 if storage_id in fully_used else storage.nbytes, 0
        for low, high in sorted(spans):
            unused -= max(0, high - max(low, end))
            end = max(end, high)
        if unused >= UNUSED and unused * 2 >= storage.nbytes:
            message = f"no tensor uses {unused:,} of its storage's {storage.nbytes:,} bytes"
            yield DocumentWarning("large-storage", path, f"{message}: save a clone to drop them")


def _facts(tensors: Iterable[TensorInfo]) -> Iterator[DocumentWarning]:
    """Yield warnings about non-persistent buffers, and about placeholders: if most weights have the
    shape (0,), they are those of DeepSpeed's ZeRO stage 3."""
    buffers = [info for info in tensors if info.role == "buffer" and not info.persistent]
    if buffers:
        count = count_text(len(buffers), "non-persistent buffer")
        yield DocumentWarning("non-persistent", buffers[0].path, f"{count} that state_dict() omits")
    weights = [info for info in tensors if info.role in ("parameter", "tensor") and info.shape]
    empty = [info for info in weights if info.shape == (0,)]
    if empty and 2 * len(empty) >= len(weights):
        count = f"{len(empty):,} of {count_text(len(weights), 'tensor')}"
        message = f"{count} without elements, as ZeRO-3 saves them: the weights are in other files"
        yield DocumentWarning("placeholder", empty[0].path, message)


def _shared_tensors(duplicates: dict[TensorInfo, TensorInfo]) -> Iterator[DocumentWarning]:
    """Yield paths to the same view of the same bytes: tied weights, or an alias by accident."""
    for info, first in islice(duplicates.items(), SHARED):
        path = ".".join(map(str, first.path))
        yield DocumentWarning("shared-storage", info.path, f"the same bytes as {path}")
    if len(duplicates) > SHARED:
        message = f"{len(duplicates) - SHARED:,} more tensors share the bytes of another"
        yield DocumentWarning("shared-storage", None, message)
