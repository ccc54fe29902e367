"""Checks of an output: before it is written, that it is safe to load; afterwards, by reading it.

The written files are always compared with the plan: each tensor's dtype, shape and place, and the
pickle or header. With `--verify` all bytes are compared, too: each tensor's elements with those
of its source, and the file from first to last byte with what would be written a second time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ptinspect.conversion.output.pieces import TensorPiece
from ptinspect.conversion.output.sink import Sink
from ptinspect.conversion.output.storage_layout import check_bounds
from ptinspect.document import open as open_document
from ptinspect.document.elements import aligned, iter_contiguous
from ptinspect.errors import PtInspectError, UnsafeError, UnsupportedError
from ptinspect.formats.safetensors import read_safetensors
from ptinspect.formats.torch.zip_file import TorchZip
from ptinspect.safety.containers.dispatch import scan_source
from ptinspect.safety.next_steps import state_load_advice
from ptinspect.safety.scan_state import Budget, ScanState
from ptinspect.source.base import MemorySource
from ptinspect.source.local import open_source
from ptinspect.text import count_text, join_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.conversion.options import ConvertOptions
    from ptinspect.conversion.plan import OutputFile, Plan, PlannedTensor
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.limits import Limits
    from ptinspect.source.base import Source


def refuse_unsafe_output(plan: Plan, document: Document, options: ConvertOptions) -> list[str]:
    """Scan the planned pickle, so that no payload of SRC gets into a file that ptinspect writes.
    Return warnings about names that are not on the allowlist. UnsafeError if loading the output
    would run something, UnsupportedError if torch lacks the type of a tensor (GGUF's blocks)."""
    if plan.to == "safetensors":
        return []
    encodings = sorted({str(item.tensor.encoding) for item in plan.tensors if item.tensor.encoding})
    if encodings:
        raise UnsupportedError(
            f"torch has no dtype for tensors encoded as {join_names(encodings)}",
            hint="leave them out with --exclude GLOB",
        )
    file = plan.files[0]
    state = ScanState(file.path, "data.pkl", 0, Budget(document.limits))
    scan_source(MemorySource(file.head, file.path), state)
    state.format = "torch-zip"
    report = state.report()
    dangerous = report.first_dangerous()
    hint = None
    if dangerous is not None or report.errors:
        hint = "nothing was written"
        if can_write_safetensors(document, options):
            hint += "; --to safetensors writes the tensors alone"
    if dangerous is not None:
        raise UnsafeError(f"loading the output would run {dangerous.name}", hint=hint)
    if report.errors:
        raise UnsafeError(f"scan cannot read the output: {report.errors[0]}", hint=hint)
    warnings = []
    names = list(dict.fromkeys(finding.name for finding in report.all_findings()))
    if names:
        warnings.append(f"kept unchanged, but not on the allowlist: {join_names(names)}")
    advice = state_load_advice(state)
    if plan.to != "same" and advice is not None and not advice.weights_only:
        # Users of a state_dict expect that a bare torch.load accepts it.
        names = list(advice.safe_globals or advice.blockers)
        warnings.append(
            f"a bare torch.load refuses the output because of {join_names(names)}:"
            f" {advice.call}; --to checkpoint with --plain writes plain values"
        )
    return warnings


def can_write_safetensors(document: Document, options: ConvertOptions) -> bool:
    """Return True if the model of a file can be written as safetensors."""
    from ptinspect.conversion.targets.safetensors import plan_safetensors

    try:
        plan_safetensors(document, "", replace(options, to="safetensors", shared="keep-one"))
    except PtInspectError:
        return False
    return True


def verify_outputs(
    plan: Plan, paths: Sequence[str], limits: Limits, *, compare_bytes: bool
) -> None:
    """Compare the written files, at their temporary paths, with the plan: places, dtypes, shapes,
    and if asked for all bytes. PtInspectError if they differ."""
    missing = {planned.key: planned for planned in plan.tensors}
    for file, path in zip(plan.files, paths, strict=True):
        if plan.to == "safetensors" and file.records and not compare_bytes:
            _check_header(file, path, missing, limits)
            continue
        if not file.records and file.path.endswith(".json"):
            with open_source(path) as source:
                if source.read(0, source.size) != file.head:
                    raise _difference(file.path, "the index differs")
            continue
        try:
            output = open_document(path, limits=limits)
        except PtInspectError as error:
            raise _difference(file.path, error.message) from error
        with output:
            output.check()
            archive, length = output.archive, min(len(file.head), output.archive.source.size)
            if isinstance(archive, TorchZip):
                head = archive.directory.read(archive.directory.index[archive.record or ""])
            else:
                head = archive.source.read(0, length)
            if head != file.head:
                raise _difference(file.path, "the pickle or header differs")
            for key in [key for key in output.tensors if key in missing]:
                tensor = output.tensors[key].tensor
                _check_tensor(file.path, missing.pop(key), tensor, compare_bytes)
            if compare_bytes:
                comparison = _Comparison(file.path, output.archive.source)
                file.write(Sink(comparison))
                comparison.check_end()
    if missing:
        count = count_text(len(missing), "tensor")
        raise _difference(plan.files[0].path, f"{count} missing, such as {next(iter(missing))}")


def _check_header(
    file: OutputFile, path: str, missing: dict[str, PlannedTensor], limits: Limits
) -> None:
    """Compare the header of a safetensors file with the plan, and remove its tensors from
    `missing`. Its reader checks that the tensors fill the file."""
    try:
        with open_source(path) as source:
            archive = read_safetensors(source, limits)
            head = source.read(0, min(len(file.head), source.size))
    except PtInspectError as error:
        raise _difference(file.path, error.message) from error
    if head != file.head:
        raise _difference(file.path, "the pickle or header differs")
    for name, entry in archive.tensors.items():
        planned = missing.pop(name, None)
        if planned and entry.torch_form() != (planned.dtype, planned.tensor.shape):
            raise _difference(file.path, f"{name} is {entry.type_name} {entry.shape}")


def _check_tensor(path: str, planned: PlannedTensor, written: Tensor, compare_bytes: bool) -> None:
    key, tensor = planned.key, planned.tensor
    dtype = planned.dtype or tensor.dtype
    if written.shape != tensor.shape or written.dtype is not dtype:
        raise _difference(path, f"{key} is {written.dtype} {written.shape}")
    if written.storage is None or written.stride is None or written.uninitialized:
        return
    if written.stride != tensor.stride and not written.is_contiguous:
        raise _difference(path, f"{key} has the strides {written.stride}")
    if written.stored is not None:
        check_bounds(written)
    if compare_bytes and not written.quantizer:
        expected = (
            TensorPiece(tensor, dtype).chunks()
            if dtype
            else iter_contiguous(tensor, max_repeated=None)
        )
        pairs = aligned(expected, iter_contiguous(written, max_repeated=None))
        if any(a != b for a, b in pairs):
            raise _difference(path, f"the bytes of {key} differ")


class _Comparison:
    """Output of a sink that compares the bytes with a file instead of writing them."""

    descriptor = -1  # the kernel cannot copy into it

    def __init__(self, path: str, file: Source) -> None:
        self.path = path
        self.file = file
        self.offset = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raise PtInspectError if the file has other bytes next."""
        length = min(len(data), self.file.size - self.offset)
        written = self.file.read(self.offset, length)
        if written != data:
            pairs = enumerate(zip(written, data, strict=False))
            index = next((index for index, (a, b) in pairs if a != b), length)
            raise _difference(self.path, f"byte {self.offset + index:,} differs")
        self.offset += length

    def count_written(self, count: int) -> None:
        raise NotImplementedError

    def check_end(self) -> None:
        rest = self.file.size - self.offset
        if rest:
            raise _difference(self.path, f"{count_text(rest, 'byte')} too many at its end")


def _difference(path: str, difference: str) -> PtInspectError:
    return PtInspectError(
        f"the written file is not what was planned: {difference}",
        path=path,
        hint="no file was written: this is a fault of the disk or of ptinspect, please report it",
    )
