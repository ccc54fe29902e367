"""What is planned, looked at as `scan` will look at it: before the first byte is written, and for a
dry run as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.conversion import told
from ptinspect.errors import UnsafeError
from ptinspect.safety.part import Budget, Part
from ptinspect.safety.report import report_of
from ptinspect.safety.scanner import scan_source
from ptinspect.source.base import MemorySource

if TYPE_CHECKING:
    from ptinspect.conversion.plan import Plan
    from ptinspect.document import Document
    from ptinspect.safety.report import ScanReport


def judge(plan: Plan, document: Document) -> None:
    """UnsafeError where loading what is planned would run something: no payload of SRC gets into a
    file that ptinspect writes. What nobody vouches for is told."""
    if plan.to == "safetensors":
        return
    report = _scanned(plan.files[0].head, document)
    if report.verdict == "dangerous":
        found = next(each for each in report.all_findings() if each.verdict == "dangerous")
        raise UnsafeError(
            f"what would be written acts when it is loaded: {found.name}",
            hint="nothing was written; --to safetensors takes the tensors alone",
        )
    if report.errors:
        raise UnsafeError(
            f"what would be written cannot be read to its end by scan: {report.errors[0]}",
            hint="nothing was written; --to safetensors takes the tensors alone",
        )
    names = list(dict.fromkeys(found.name for found in report.all_findings()))
    if names:
        plan.told.append(f"kept as it is, and vouched for by nobody: {told.listed(names)}")


def _scanned(pickle: bytes, document: Document) -> ScanReport:
    """The pickle as `scan` meets it in the record of a zip."""
    part = Part(document.path, "data.pkl", 0, Budget(document.limits))
    scan_source(MemorySource(pickle, document.path), part)
    return report_of(part)
