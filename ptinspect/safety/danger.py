"""The dangerous findings of an open document, which `show` must not advise to load.

Imported by every `show`: the scanner itself is imported only for a file with suspicious names,
because that takes 5 ms of the 65 ms of CPU time that `show` takes for a small file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ptinspect.safety.policy import WEIGHTS_ONLY_NAMES
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.pickling.values import Global
    from ptinspect.safety.load_advice import LoadAdvice
    from ptinspect.safety.report import Finding
    from ptinspect.safety.scan_state import ScanState


def dangerous_findings(document: Document) -> list[Finding]:
    """Return the dangerous findings of an open file, in the order of the report.

    Nothing is scanned if all names are harmless by themselves: torch's own, classes of torch.nn,
    and user-defined classes.
    """
    if all(map(_is_harmless_name, document.globals)):
        return []
    from ptinspect.safety.report import DANGEROUS

    findings: list[Finding] = []
    reports = [_scan(document).report()]
    for report in reports:
        findings += [finding for finding in report.findings if finding.verdict == DANGEROUS]
        reports += report.members
    return findings


def has_safe_globals_line(document: Document, advice: LoadAdvice) -> bool:
    """Return True if `scan` prints the line with which weights_only loads the file."""
    from ptinspect.safety.load_advice import MAX_SAFE_GLOBALS, is_in_today_torch

    if all(map(_is_harmless_name, document.globals)):
        names = {name.path: name for name in document.globals}
        needed = [names.get(path) for path in advice.safe_globals]
        return len(needed) <= MAX_SAFE_GLOBALS and all(
            name is not None and is_in_today_torch(name) for name in needed
        )
    from ptinspect.safety.next_steps import safe_globals_line

    return safe_globals_line(_scan(document), advice) is not None


def _scan(document: Document) -> ScanState:
    from ptinspect.safety.containers.dispatch import scan_source
    from ptinspect.safety.scan_state import Budget, ScanState

    state = ScanState(document.path, None, 0, Budget(document.limits))
    scan_source(document.archive.source, state)
    return state


def _is_harmless_name(name: Global) -> bool:
    if name.path in WEIGHTS_ONLY_NAMES or lookup(name.path) is not None:
        return True
    top = name.module.split(".", 1)[0]
    return top == "__main__" and "." not in name.name and top not in sys.stdlib_module_names
