"""What is planned, looked at as `scan` will look at it: before the first byte is written, and for a
dry run as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import UnsafeError
from ptinspect.safety.containers.dispatch import scan_source
from ptinspect.safety.next_steps import advice_of
from ptinspect.safety.report.report import report_of
from ptinspect.safety.report.scan_state import Budget, Part
from ptinspect.source.base import MemorySource
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.conversion.plan import Plan
    from ptinspect.document import Document


def judge(plan: Plan, document: Document) -> None:
    """UnsafeError where loading what is planned would run something: no payload of SRC gets into a
    file that ptinspect writes. What nobody vouches for is told."""
    if plan.to == "safetensors":
        return
    part = _scanned(plan.files[0].head, document, plan.files[0].path)
    report = report_of(part)
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
        plan.told.append(f"kept as it is, and vouched for by nobody: {join_names(names)}")
    if plan.to != "same":
        _tell_how_to_load(plan, part)


def _tell_how_to_load(plan: Plan, part: Part) -> None:
    """What a bare torch.load does not take: users of a state_dict expect that it does."""
    advice = advice_of(part)
    if advice is not None and not advice.weights_only:
        plan.told.append(
            f"a bare torch.load refuses it, since it keeps"
            f" {join_names(advice.safe_globals or advice.why)}: {advice.call};"
            " --to checkpoint --plain makes plain values of what it can"
        )


def _scanned(pickle: bytes, document: Document, path: str) -> Part:
    """The pickle as `scan` meets it in the record of a zip."""
    part = Part(path, "data.pkl", 0, Budget(document.limits))
    scan_source(MemorySource(pickle, path), part)
    part.format = "torch-zip"
    return part
