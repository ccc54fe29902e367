"""The report of a conversion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.report import Report
from ptinspect.text import count_text, size_text

if TYPE_CHECKING:
    from ptinspect.conversion.plan import Plan, PlannedTensor


@dataclass(frozen=True, slots=True)
class ConversionReport(Report):
    """What a conversion did, or would do in a dry run.

    Attributes:
        source: SRC.
        to: the target.
        files: the files of the output, in the order in which they were written.
        tensors: number of tensors.
        copied, changed: bytes that were copied unchanged, and bytes that were converted.
        warnings: what the output lacks, and what to know before loading it.
        dropped: keys and entries of SRC that are not in the output.
        written: False for a dry run.
        verified: True if all bytes were compared afterwards.
    """

    source: str
    to: str
    files: list[str]
    tensors: int
    copied: int
    changed: int
    warnings: list[str]
    dropped: list[str]
    written: bool
    verified: bool
    _planned: list[PlannedTensor] = field(repr=False)

    @classmethod
    def of_plan(cls, source: str, plan: Plan, *, written: bool, verified: bool) -> ConversionReport:
        """Return the report of a plan that was carried out, or of a dry run."""
        return cls(
            source=source,
            to=plan.to,
            files=[file.path for file in plan.files],
            tensors=max(len(plan.tensors), plan.tensor_count),
            copied=sum(file.copied for file in plan.files),
            changed=sum(file.changed for file in plan.files),
            warnings=plan.warnings,
            dropped=plan.dropped,
            written=written,
            verified=verified,
            _planned=plan.tensors,
        )

    @property
    def ok(self) -> bool:
        """True: a conversion that fails raises an error."""
        return True

    def text(self) -> str:
        """Return a line for the output; for a dry run also a line per tensor."""
        lines = [
            f"{'wrote' if self.written else 'would write'} {', '.join(self.files)}: "
            f"{count_text(self.tensors, 'tensor')}, {size_text(self.copied)} copied, "
            f"{size_text(self.changed)} changed" + ", every byte compared" * self.verified
        ]
        if not self.written:
            lines += [f"  {_line(tensor)}" for tensor in self._planned]
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, object]:
        """Return the object that `convert -f json` prints."""
        return {
            "schema": 1,
            "source": self.source,
            "to": self.to,
            "files": self.files,
            "written": self.written,
            "verified": self.verified,
            "tensors": [_tensor_dict(tensor) for tensor in self._planned],
            "bytes": {"copied": self.copied, "changed": self.changed},
            "dropped": self.dropped,
            "warnings": self.warnings,
        }


def _tensor_dict(planned: PlannedTensor) -> dict[str, object]:
    tensor, dtype = planned.tensor, planned.dtype or planned.tensor.dtype
    return {
        "key": planned.key,
        "source": planned.source,
        "dtype": dtype.name if dtype else None,
        "shape": None if tensor.uninitialized else [None if n < 0 else n for n in tensor.shape],
        "nbytes": planned.nbytes,
        "changed": planned.is_cast,
    }


def _line(planned: PlannedTensor) -> str:
    before, after = planned.tensor.dtype, planned.dtype
    key = planned.key
    if key != planned.source:
        key = f"{planned.source} -> {key}"
    dtype = before.name if before else ""
    if planned.is_cast and after:
        dtype = f"{dtype} -> {after.name}"
    return f"{key}  {dtype} {tuple(planned.tensor.shape)}"
