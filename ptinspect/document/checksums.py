"""Checksums of a file's records: whether the bytes are still those that were written.

torch.save records a CRC-32 of each record of its zip; torch.load does not check it for the
storages, so a flipped bit is loaded in silence. The other containers record no checksums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ptinspect.document.walk import DocumentWarning
from ptinspect.formats.torch.zip_file import TorchZip, ZipSpan
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.document.document import Document
    from ptinspect.document.tensors import TensorInfo
    from ptinspect.formats.zip.directory import ZipDirectory


def checksum_warnings(
    infos: Iterable[TensorInfo], advance: Callable[[int], None] = lambda length: None
) -> list[DocumentWarning]:
    """Return a warning of kind "checksum" for each record with bytes of these tensors that do not
    match its CRC-32. `advance` gets the number of bytes that were checked."""
    records: dict[tuple[int, int], tuple[ZipDirectory, int, list[TensorInfo]]] = {}
    for info in infos:
        for tensor in (info.tensor, *info.tensor.parts.values()):
            storage = tensor.storage
            if storage is None or not isinstance(storage.archive, TorchZip):
                continue
            span = storage.archive.storages.get(storage.key)
            if isinstance(span, ZipSpan):
                key = id(span.directory), span.index
                records.setdefault(key, (span.directory, span.index, []))[2].append(info)
    warnings = []
    for directory, index, tensors in records.values():
        if directory.check_crc(index) is False:
            warnings.append(_warning(directory.names[index], tensors))
        advance(directory.sizes[index])
    return warnings


def checksum_message(record: str, keys: Sequence[str]) -> str:
    """Return the warning about a record whose bytes do not match, with the tensors in it."""
    message = f"the bytes of {record} do not match their CRC-32"
    return f"{message}: {join_names(keys)} may be damaged" if keys else message


def _warning(record: str, tensors: list[TensorInfo]) -> DocumentWarning:
    message = checksum_message(record, [info.key for info in tensors])
    return DocumentWarning("checksum", tensors[0].path if tensors else None, message)


def all_checksum_warnings(
    document: Document, advance: Callable[[int], None] = lambda length: None
) -> tuple[int, list[DocumentWarning]]:
    """Check every record of the file, those without tensors included. Return the number of records
    that have a CRC-32, and a warning for each that does not match."""
    owners: dict[str, list[TensorInfo]] = {}
    for info in document.tensors.values():
        storage = info.tensor.storage
        if storage is not None and storage.record is not None:
            owners.setdefault(storage.record, []).append(info)
    checked, warnings = 0, []
    for archive in (document.archive, *document.archive.parts):
        if not isinstance(archive, TorchZip):
            continue
        directory = archive.directory
        for index, name in enumerate(directory.names):
            matches = directory.check_crc(index)
            checked += matches is not None
            if matches is False:
                warnings.append(_warning(name, owners.get(name, [])))
            advance(directory.sizes[index])
    return checked, warnings
