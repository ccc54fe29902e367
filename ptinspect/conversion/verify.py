"""The output, read again: each tensor's place, dtype and shape against the plan, and what describes
them. With `verify` all bytes, in two ways: each tensor's values against those of its source, and
the file from its first byte to its last against what would be written another time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ptinspect.atomic_file import AtomicFile
from ptinspect.conversion.io.copy import Sink
from ptinspect.conversion.tensors import dtype_cast
from ptinspect.conversion.tensors.byte_ranges import whole_units
from ptinspect.conversion.tensors.contiguous import laid_out
from ptinspect.conversion.tensors.storage_layout import check_extent
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError
from ptinspect.formats.torch_zip import TorchZip
from ptinspect.source.local import open_source
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.conversion.plan import File, Move, Plan
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.formats.archive import Archive
    from ptinspect.source.base import Source


def check(plan: Plan, paths: Sequence[str], document: Document, verify: bool) -> None:
    """PtInspectError where an output is not what was planned. paths: where each file lies now."""
    left = {move.key: move for move in plan.moves}
    for file, path in zip(plan.files, paths, strict=True):
        if not file.records and file.path.endswith(".json"):
            _check_text(file, path)
            continue
        try:
            output = open_document(path, limits=document.limits)
        except PtInspectError as error:
            raise _wrong(file.path, error.message) from error
        with output:
            output.check()
            if _head(output.archive, len(file.head)) != file.head:
                raise _wrong(file.path, "its pickle or header is another")
            for key in [key for key in output.tensors if key in left]:
                _check_one(file.path, left.pop(key), output.tensors[key].tensor, verify)
            if verify:
                plan.told += _other_crcs(output.archive)
                _check_bytes(file, output.archive.source)
    if left:
        raise _wrong(plan.files[0].path, f"{len(left):,} tensors are missing: {next(iter(left))}")


def _check_text(file: File, path: str) -> None:
    with open_source(path) as source:
        if source.read(0, source.size) != file.head:
            raise _wrong(file.path, "the index is another")


def _head(archive: Archive, length: int) -> bytes:
    if isinstance(archive, TorchZip):
        return archive.directory.read(archive.directory.index[archive.record or ""])
    return archive.source.read(0, min(length, archive.source.size))


def _check_one(path: str, move: Move, made: Tensor, verify: bool) -> None:
    wanted = move.dtype or move.tensor.dtype
    if made.shape != move.tensor.shape or made.dtype is not wanted:
        raise _wrong(path, f"{move.key} is {made.dtype} {made.shape}")
    if made.storage is None or made.stride is None or made.uninitialized:
        return
    if made.stride != move.tensor.stride and not made.is_contiguous:
        raise _wrong(path, f"{move.key} has the strides {made.stride}")
    check_extent(made)
    if verify and not made.quantizer and not _same(_expected(move), laid_out(made)):
        raise _wrong(path, f"the bytes of {move.key} differ")


def _expected(move: Move) -> Iterator[bytes]:
    own, wanted = move.tensor.dtype, move.dtype
    chunks = laid_out(move.tensor)
    if own is None or wanted is None or own is wanted:
        return chunks
    convert = dtype_cast.caster(own, wanted)
    return map(convert, whole_units(chunks, own.itemsize))


class _Compared(AtomicFile):
    """Takes the bytes of an output another time, and holds them against those that are there."""

    def __init__(self, path: str, there: Source) -> None:
        super().__init__(path, force=True)
        self.there = there
        self.at = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """PtInspectError where other bytes stand there."""
        left = min(len(data), self.there.size - self.at)
        found = self.there.read(self.at, left)
        if found != data:
            differs = (i for i, (a, b) in enumerate(zip(found, data, strict=False)) if a != b)
            raise _wrong(self.path, f"byte {self.at + next(differs, left):,} is another")
        self.at += left


def _check_bytes(file: File, there: Source) -> None:
    compared = _Compared(file.path, there)
    file.write(Sink(compared))
    if compared.at != there.size:
        raise _wrong(file.path, f"{there.size - compared.at:,} bytes follow its end")


def _other_crcs(archive: Archive) -> Iterator[str]:
    """What is said of CRCs that were taken over, and are not those of the bytes: torch looks at
    none, and writes such itself (`torch.serialization.skip_data`), but it may be damage."""
    if isinstance(archive, TorchZip):
        directory = archive.directory
        wrong = [name for name, at in directory.index.items() if directory.check_crc(at) is False]
        if wrong:
            yield f"the CRC-32 that it records is not that of the bytes: {join_names(wrong)}"


def _same(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    """Whether two streams have the same bytes, however they are cut."""
    a, b = b"", b""
    while True:
        a, b = a or next(one, b""), b or next(other, b"")
        if not a or not b:
            return a == b
        size = min(len(a), len(b))
        if a[:size] != b[:size]:
            return False
        a, b = a[size:], b[size:]


def _wrong(path: str, what: str) -> PtInspectError:
    return PtInspectError(
        f"what was written is not what was planned: {what}",
        path=path,
        hint="nothing was written: it is a fault of the disk or of ptinspect, please report it",
    )
