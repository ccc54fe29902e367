"""Warnings about a file that are not errors: unused bytes, tied weights, NaN, wrong checksums.

torch.save records a CRC-32 of each record of its zip; torch.load does not check it for the
storages, so a flipped bit is loaded in silence. The other containers record no checksums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from ptinspect.document.walk import Contents, DocumentWarning
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError
from ptinspect.pickling.pyobjects import Path
from ptinspect.source.base import SliceSource
from ptinspect.text import count_text, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.document.tensor import Storage, Tensor
    from ptinspect.document.tensors import TensorInfo
    from ptinspect.formats.archive import Archive
    from ptinspect.formats.zip_directory import ZipDirectory

UNUSED = 1024
"""Bytes of a storage, and half of it, that must be in no view before that is worth a warning."""

SHARED = 20
"""Shared tensors that are listed before the rest is counted."""


class NamedTensor(Protocol):
    """A tensor with its key: in a document, or in an output."""

    @property
    def key(self) -> str: ...
    @property
    def tensor(self) -> Tensor: ...


def warnings_of(
    archive: Archive, contents: Contents, duplicates: dict[TensorInfo, TensorInfo],
    max_warnings: int,
) -> list[DocumentWarning]:  # fmt: skip
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
    """Yield views that keep a storage alive and use less than half of it."""
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


# Checksums


def checksum_warnings(tensors: Iterable[NamedTensor]) -> list[DocumentWarning]:
    """Return a warning of kind "checksum" for each record with bytes of these tensors that do not
    match its CRC-32."""
    return [
        _checksum_warning(directory, index, damaged)
        for (directory, index), damaged in _tensors_by_record(tensors).items()
        if directory.check_crc(index) is False
    ]


def all_checksum_warnings(
    archive: Archive, infos: Iterable[TensorInfo]
) -> tuple[int, list[DocumentWarning]]:
    """Check every record of a file with these tensors, those without tensors included. Return the
    number of records that have a CRC-32, and a warning for each that does not match."""
    from ptinspect.formats.torch.zip_file import TorchZip

    records = _tensors_by_record(infos)
    checked, warnings = 0, []
    archives = (archive, *archive.parts, *archive.inner.values())
    directories = [part.directory for part in archives if isinstance(part, TorchZip)]
    for directory in dict.fromkeys([*directories, *(directory for directory, _ in records)]):
        for index in range(len(directory.names)):
            matches = directory.check_crc(index)
            checked += matches is not None
            if matches is False:
                tensors = records.get((directory, index), [])
                warnings.append(_checksum_warning(directory, index, tensors))
    return checked, warnings


def require_checksums(archive: Archive, infos: Iterable[TensorInfo]) -> None:
    """Raise DamagedError if a record of a file with these tensors does not match its CRC-32."""
    _, warnings = all_checksum_warnings(archive, infos)
    if warnings:
        raise DamagedError(warnings[0].message, hint=DOWNLOAD_AGAIN)


def checksum_message(record: str, keys: Sequence[str]) -> str:
    """Return the warning about a record whose bytes do not match, with the tensors in it."""
    message = f"the bytes of {record} do not match their CRC-32"
    return f"{message}: {join_names(keys)} may be damaged" if keys else message


def _checksum_warning(
    directory: ZipDirectory, index: int, tensors: list[NamedTensor]
) -> DocumentWarning:
    message = checksum_message(record_name(directory, index), [tensor.key for tensor in tensors])
    path = getattr(tensors[0], "path", None) if tensors else None  # none in an output
    return DocumentWarning("checksum", path, message)


def record_name(directory: ZipDirectory, index: int) -> str:
    """Return the name of a record, with its file or zip if the document has several."""
    record, source = directory.names[index], directory.source
    name = printable_name(os.path.basename(source.path))
    if isinstance(source, SliceSource) and source.base is not None:  # one of several zips in a file
        record += f" (in the zip at {source.base:,} of {name})"
    elif source.owner is not None:
        record += f" of {name}"
    return record


def _tensors_by_record(
    infos: Iterable[NamedTensor],
) -> dict[tuple[ZipDirectory, int], list[NamedTensor]]:
    from ptinspect.formats.torch.pieces import PiecedSpan
    from ptinspect.formats.zip_directory import ZipSpan

    records: dict[tuple[ZipDirectory, int], list[NamedTensor]] = {}
    for info in infos:
        for tensor in (info.tensor, *info.tensor.parts.values()):
            storage = tensor.storage
            whole = storage.archive.storages.get(storage.key) if storage is not None else None
            spans = [whole]
            if isinstance(whole, PiecedSpan):
                spans = [elements.span for piece in whole.pieces for elements in piece.open()]
            for span in spans:
                if isinstance(span, ZipSpan):
                    records.setdefault((span.directory, span.index), []).append(info)
    return records
