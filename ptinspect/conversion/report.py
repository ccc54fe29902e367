"""The report of a conversion."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.errors import spell_options
from ptinspect.report import Report
from ptinspect.text import count_text, size_text

if TYPE_CHECKING:
    from ptinspect.conversion.output.pieces import LostValues
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
        lost_values: numbers that `--dtype` could not keep.
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
    lost_values: list[LostValues]
    written: bool
    verified: bool
    _planned: list[PlannedTensor] = field(repr=False)

    @classmethod
    def of_plans(
        cls, source: str, plans: list[Plan], *, written: bool, verified: bool
    ) -> ConversionReport:
        """Return the report of plans that were carried out, or of a dry run. Each has a part of
        the source."""
        files = [file for plan in plans for file in plan.files]

        def of_file(plan: Plan, text: str) -> str:
            return text if len(plans) == 1 else f"{os.path.basename(plan.files[0].path)}: {text}"

        return cls(
            source=source,
            to=plans[0].to,
            files=[file.path for file in files],
            tensors=sum(max(len(plan.tensors), plan.tensor_count) for plan in plans),
            copied=sum(file.copied for file in files),
            changed=sum(file.changed for file in files),
            warnings=[
                spell_options(of_file(plan, text)) for plan in plans for text in plan.warnings
            ],
            dropped=list(dict.fromkeys(name for plan in plans for name in plan.dropped)),
            lost_values=[item for plan in plans for item in plan.lost_values],
            written=written,
            verified=verified,
            _planned=[planned for plan in plans for planned in plan.tensors],
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
            for tensor in self._planned:
                before, after = tensor.tensor.dtype, tensor.dtype
                key = tensor.key
                if key != tensor.source:
                    key = f"{tensor.source} -> {key}"
                dtype = before.name if before else ""
                if tensor.is_cast and after:
                    dtype = f"{dtype} -> {after.name}"
                lines.append(f"  {key}  {dtype} {tuple(tensor.tensor.shape)}")
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
            "tensors": [planned.as_dict() for planned in self._planned],
            "bytes": {"copied": self.copied, "changed": self.changed},
            "dropped": self.dropped,
            "lost_values": [item.as_dict() for item in self.lost_values],
            "warnings": self.warnings,
        }
