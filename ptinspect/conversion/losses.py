"""What was lost while bytes were converted: numbers that the new dtype cannot hold, and records
whose bytes do not match their CRC-32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.conversion.output.pieces import ConvertedRange, SourceRange, TensorPiece
from ptinspect.conversion.plan import LostValues
from ptinspect.document.checksums import checksum_message
from ptinspect.errors import LossError
from ptinspect.formats.torch.zip_file import ZipSpan
from ptinspect.text import count_text, join_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ptinspect.conversion.output.pieces import Piece
    from ptinspect.conversion.plan import OutputFile, Plan
    from ptinspect.document.tensor import Storage, Tensor


def lost_values(plan: Plan) -> list[LostValues]:
    """Return the numbers that were lost in each tensor, after the files were written."""
    pieces = [piece for file in plan.files for _, record in file.records for piece in record]
    losses = [
        (piece, piece.loss)
        for piece in pieces
        if isinstance(piece, ConvertedRange | TensorPiece) and piece.loss
    ]
    if not losses:
        return []
    keys = _keys_by_bytes(plan)
    return [
        LostValues(keys.get(_bytes_of(piece), []), loss.overflowed, loss.largest, loss.underflowed)
        for piece, loss in losses
    ]


def loss_of_values_warnings(lost: list[LostValues], dtype: str) -> list[str]:
    """Return a warning for numbers that overflowed, and one for those that became zero."""
    warnings = []
    if any(item.overflowed for item in lost):
        warnings.append(_overflow_text(lost, dtype))
    zeros = [f"{', '.join(i.keys)} ({i.underflowed:,})" for i in lost if i.underflowed]
    if zeros:
        count = count_text(sum(item.underflowed for item in lost), "number")
        warnings.append(f"{count} too small for {dtype} became 0: {join_names(zeros)}")
    return warnings


def refuse_overflow(lost: list[LostValues], dtype: str, command: str) -> None:
    """Raise LossError if numbers overflowed."""
    if any(item.overflowed for item in lost):
        raise LossError(
            _overflow_text(lost, dtype),
            hint="nothing was written: bfloat16 has the range of float32; or accept the loss:\n"
            + command,
        )


def _overflow_text(lost: list[LostValues], dtype: str) -> str:
    names = [
        f"{', '.join(item.keys)} ({item.overflowed:,}, the largest is {item.largest:g})"
        for item in lost
        if item.overflowed
    ]
    count = count_text(sum(item.overflowed for item in lost), "number")
    return f"{count} exceeded the range of {dtype}: {join_names(names)}"


def crc_warnings(mismatches: Iterable[SourceRange], file: OutputFile, plan: Plan) -> list[str]:
    """Return a warning for each record whose bytes do not match its CRC-32: those of `mismatches`,
    and those of which a part was cast, which are read once more."""
    damaged = {_storage_id(piece.storage): piece.storage for piece in mismatches}
    checked: set[object] = set()
    for storage in _partly_cast(file):
        span, identity = storage.archive.storages.get(storage.key), _storage_id(storage)
        if identity not in checked and isinstance(span, ZipSpan):
            checked.add(identity)
            if span.directory.check_crc(span.index) is False:
                damaged[identity] = storage
    warnings = []
    keys = _keys_by_bytes(plan) if damaged else {}
    for identity, storage in damaged.items():
        span = storage.archive.storages.get(storage.key)
        assert isinstance(span, ZipSpan)
        record = span.directory.names[span.index]
        warnings.append(checksum_message(record, keys.get(identity, [])))
    return warnings


def _partly_cast(file: OutputFile) -> Iterator[Storage]:
    """Yield the storages of which only a part, or a strided view, was cast."""
    for _, record in file.records:
        for piece in record:
            if isinstance(piece, ConvertedRange) and piece.source.recorded_crc() is None:
                yield piece.source.storage
            elif isinstance(piece, TensorPiece) and piece.tensor.dtype is not piece.dtype:
                storage = piece.tensor.storage
                yield from () if storage is None else (storage,)


def _keys_by_bytes(plan: Plan) -> dict[object, list[str]]:
    """Return the keys of the tensors of each source storage and of each view."""
    keys: dict[object, list[str]] = {}
    for planned in plan.tensors:
        if planned.tensor.storage is not None:
            keys.setdefault(_storage_id(planned.tensor.storage), []).append(planned.key)
            keys.setdefault(_view(planned.tensor), []).append(planned.key)
    return keys


def _bytes_of(piece: Piece) -> object:
    if isinstance(piece, ConvertedRange):
        return _storage_id(piece.source.storage)
    assert isinstance(piece, TensorPiece)
    return _view(piece.tensor)


def _storage_id(storage: Storage) -> object:
    return ("storage", id(storage.archive), storage.key)


def _view(tensor: Tensor) -> object:
    return ("view", *tensor.view_key())
