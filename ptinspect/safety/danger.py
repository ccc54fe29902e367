"""What `show` must not advise to load: the dangerous findings of scan, for an opened document."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ptinspect.safety.weights_only import ALLOWED
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.pickling.values import Global
    from ptinspect.safety.findings import Finding


def dangers(document: Document) -> list[Finding]:
    """What the file would do that no file of weights does, the worst first; empty for a file
    that is not called dangerous. Nothing is scanned where all names are harmless by themselves:
    torch's own, classes of torch.nn, and those of no library that is known to act."""
    if all(map(_is_plain, document.globals)):
        return []
    from ptinspect.safety.findings import DANGEROUS
    from ptinspect.safety.part import Budget, Part
    from ptinspect.safety.report import report_of
    from ptinspect.safety.scanner import scan_source

    part = Part(document.path, None, 0, Budget(document.limits))
    scan_source(document.archive.source, part)
    report, found = report_of(part), []
    reports = [report]
    while reports:
        report = reports.pop(0)
        found += [finding for finding in report.findings if finding.verdict == DANGEROUS]
        reports += report.members
    return found


def _is_plain(name: Global) -> bool:
    """Whether a name can be called without harm, as far as the name alone tells."""
    if name.path in ALLOWED or lookup(name.path) is not None:
        return True
    top = name.module.split(".", 1)[0]
    return top == "__main__" and "." not in name.name and top not in sys.stdlib_module_names
