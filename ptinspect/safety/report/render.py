"""Reports as text for people, as JSON and as SARIF 2.1.0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.safety.report.findings import CLEAN, DANGEROUS, POINTER, UNKNOWN, UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptinspect.safety.report.findings import Finding
    from ptinspect.safety.report.report import ScanReport

SHOWN = 12
"""Findings of one file that the text lists before it counts the rest."""


# --- text ---------------------------------------------------------------------------------


def text_lines(reports: Sequence[ScanReport]) -> Iterator[str]:
    """A line per file, findings under it, a total. Text of the file is not escaped yet."""
    for report in reports:
        if not report.passed_over or len(reports) == 1:
            yield from _file(report)
    yield total(reports)


def _file(report: ScanReport) -> Iterator[str]:
    said = "passed over" if report.passed_over else report.verdict
    what = report.what if report.format == "unknown" or report.passed_over else report.format
    yield f"{report.path}: {said}" + (f" ({what})" if what else "")
    yield from _inside(report, "  ")
    for step in report.steps:
        yield f"  next: {step}"


def _inside(report: ScanReport, indent: str) -> Iterator[str]:
    for found in report.findings[:SHOWN]:
        times = f" ({found.times:,} times)" if found.times > 1 else ""
        yield f"{indent}{found.verdict}: {found.chain}{times}"
        yield f"{indent}  {found.why}"
    if len(report.findings) > SHOWN:
        yield f"{indent}and {len(report.findings) - SHOWN:,} more"
    for error in report.errors[:SHOWN]:
        yield f"{indent}not read to its end: {error}"
    for note in report.notes[:SHOWN]:
        yield f"{indent}note: {note}"
    for member in report.members:
        if member.verdict != CLEAN:
            yield f"{indent}{member.path}: {member.verdict} ({member.format})"
            yield from _inside(member, indent + "  ")


def total(reports: Sequence[ScanReport]) -> str:
    """`3 files: 1 dangerous, 2 clean; 4 passed over`"""
    taken = [report.verdict for report in reports if not report.passed_over]
    passed = len(reports) - len(taken)
    order = (DANGEROUS, UNKNOWN, UNREADABLE, POINTER, CLEAN)
    parts = [f"{taken.count(kind):,} {kind}" for kind in order if kind in taken]
    made = f"{len(taken):,} file{'' if len(taken) == 1 else 's'}"
    made += f": {', '.join(parts)}" if parts else ""
    return f"{made}; {passed:,} passed over" if passed else made


# --- JSON ---------------------------------------------------------------------------------


def json_text(reports: Sequence[ScanReport], as_list: bool) -> str:
    """One object, or a list exactly when several files or a folder were asked for."""
    import json

    made = [report.as_dict() for report in reports if not (as_list and report.passed_over)]
    whole: object = made if as_list else made[0]
    return json.dumps(whole, indent=2).replace("\x7f", "\\u007f") + "\n"


# --- SARIF --------------------------------------------------------------------------------

_LEVELS = {DANGEROUS: "error", UNKNOWN: "warning", UNREADABLE: "error", POINTER: "note"}
_RULES = {
    DANGEROUS: "Loading the file runs code, or reaches what it should not.",
    UNKNOWN: "The file needs something that nobody vouches for.",
    UNREADABLE: "The file could not be read to its end.",
    POINTER: "The file is a Git LFS pointer; its content is elsewhere.",
}


def sarif_text(reports: Sequence[ScanReport]) -> str:
    """A run with a result per finding, per file that could not be read, and per pointer.

    https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
    """
    import json

    from ptinspect._version import __version__

    rules = [
        {"id": f"ptinspect/{name}", "shortDescription": {"text": text},
         "defaultConfiguration": {"level": _LEVELS[name]}}
        for name, text in _RULES.items()
    ]  # fmt: skip
    driver = {"name": "ptinspect", "version": __version__, "rules": rules}
    results = [result for report in reports for result in _results(report, report.path)]
    whole = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "utf16CodeUnits", "results": results}],
    }
    return json.dumps(whole, indent=2).replace("\x7f", "\\u007f") + "\n"


def _results(report: ScanReport, path: str) -> Iterator[dict[str, object]]:
    for found in report.findings:
        yield _result(found.verdict, f"{found.chain}: {found.why}", path, found)
    for error in report.errors:
        yield _result(UNREADABLE, str(error), path)
    if report.verdict == POINTER:
        yield _result(POINTER, "; ".join(report.notes), path)
    for member in report.members:
        yield from _results(member, path)


def _result(verdict: str, text: str, path: str, found: Finding | None = None) -> dict[str, object]:
    physical: dict[str, object] = {"artifactLocation": {"uri": _uri(path)}}
    if found is not None and found.record is None and found.offset is not None:
        physical["region"] = {"byteOffset": max(found.offset, 0), "byteLength": 1}
    location: dict[str, object] = {"physicalLocation": physical}
    if found is not None and found.record:  # a record may have no name at all
        location["logicalLocations"] = [{"name": found.record, "kind": "member"}]
    return {
        "ruleId": f"ptinspect/{verdict}",
        "level": _LEVELS[verdict],
        "message": {"text": text},
        "locations": [location],
    }


def _uri(path: str) -> str:
    """A path as a relative reference; an absolute one as file:."""
    import os
    from pathlib import Path
    from urllib.parse import quote

    if os.path.isabs(path):
        return Path(path).as_uri()
    return quote(os.path.normpath(path).replace(os.sep, "/"), errors="surrogateescape")
