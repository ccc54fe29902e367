"""The output, read again: each tensor's place, dtype and shape against the plan; with `verify`
all bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ptinspect.conversion import elements
from ptinspect.conversion.pieces import whole_units
from ptinspect.conversion.storages import check_extent
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError, UnsafeError
from ptinspect.safety.scanning import scan

if TYPE_CHECKING:
    from ptinspect.conversion.plan import Move, Plan
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor


def check(plan: Plan, paths: Sequence[str], document: Document, verify: bool) -> None:
    """PtInspectError where an output is not what was planned. paths: where each file lies now."""
    left = {move.key: move for move in plan.moves}
    for file, path in zip(plan.files, paths, strict=True):
        if file.path.endswith(".json"):
            continue
        with open_document(path, limits=document.limits) as output:
            output.check()
            for key in list(left):
                made = output.tensors.get(key)
                if made is not None:
                    _check_one(file.path, left.pop(key), made.tensor, verify)
    if left:
        raise _wrong(plan.files[0].path, f"{len(left):,} tensors are missing: {next(iter(left))}")


def must_be_harmless(path: str, document: Document) -> None:
    """UnsafeError where loading what was written would run something: no payload of SRC gets into
    a file that ptinspect has written."""
    report = scan(path, limits=document.limits)
    if report.verdict == "dangerous":
        found = next(each for each in report.all_findings() if each.verdict == "dangerous")
        raise UnsafeError(
            f"what would be written acts when it is loaded: {found.name}",
            hint="nothing was written; --to safetensors takes the tensors alone",
        )


def _check_one(path: str, move: Move, made: Tensor, verify: bool) -> None:
    wanted = move.dtype or move.tensor.dtype
    if made.shape != move.tensor.shape or made.dtype is not wanted:
        raise _wrong(path, f"{move.key} is {made.dtype} {made.shape}")
    if made.storage is None or made.stride is None or made.uninitialized:
        return
    check_extent(made)
    if verify and not made.quantizer and not _same(_expected(move), elements.laid_out(made)):
        raise _wrong(path, f"the bytes of {move.key} differ")


def _expected(move: Move) -> Iterator[bytes]:
    own, wanted = move.tensor.dtype, move.dtype
    chunks = elements.laid_out(move.tensor)
    if own is None or wanted is None or own is wanted:
        return chunks
    convert = elements.caster(own, wanted)
    return map(convert, whole_units(chunks, own.itemsize))


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
