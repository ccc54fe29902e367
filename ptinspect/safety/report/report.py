"""What a scan answers, as plain facts that can be sent to another process."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.safety.load_advice import LoadAdvice
from ptinspect.safety.report.findings import CLEAN, DANGEROUS, POINTER, UNREADABLE, Finding, worst

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ptinspect.errors import PtInspectError
    from ptinspect.safety.report.scan_state import Part

SCHEMA = 1


class Unread(NamedTuple):
    """Why a file, or a part of it, could not be read. kind: of the error; see errors.py."""

    kind: str
    message: str
    record: str | None = None
    offset: int | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: PtInspectError) -> Unread:
        """The same, as plain facts."""
        where = error.where
        record, offset = (where.record, where.offset) if where else (None, None)
        return cls(error.kind, error.message, record, offset, error.hint)

    def as_dict(self) -> dict[str, object]:
        """As in JSON."""
        where = None
        if self.record is not None or self.offset is not None:
            where = {"record": self.record, "offset": self.offset}
        return {"kind": self.kind, "message": self.message, "where": where, "hint": self.hint}

    def __str__(self) -> str:
        at = self.record or ""
        if self.offset is not None:
            at = f"{at} @ {self.offset}" if at else f"byte {self.offset}"
        return f"{self.message}, {at}" if at else self.message


class ScanReport(NamedTuple):
    """What may be said of one file.

    path: as it was given. format: as in JSON; what: the same in words. verdict: "clean",
    "unknown", "dangerous", "unreadable" or "pointer". findings: why it is not clean, the worst
    first. members: files inside it. load: how to load it; None where that is not for torch.load,
    or better left. steps: what to do next, lines to paste first. errors: why it could not be read
    to its end. notes: what a reader should know besides. passed_over: nothing that a reader of
    pickles takes.
    """

    path: str
    format: str
    verdict: str
    what: str = ""
    findings: tuple[Finding, ...] = ()
    members: tuple[ScanReport, ...] = ()
    load: LoadAdvice | None = None
    steps: tuple[str, ...] = ()
    errors: tuple[Unread, ...] = ()
    notes: tuple[str, ...] = ()
    passed_over: bool = False

    def all_findings(self) -> Iterator[Finding]:
        """Its own, and those of its members."""
        yield from self.findings
        for member in self.members:
            yield from member.all_findings()

    def as_dict(self) -> dict[str, object]:
        """As in JSON."""
        made: dict[str, object] = {
            "schema": SCHEMA,
            "path": self.path,
            "format": self.format,
            "verdict": self.verdict,
            "findings": [_finding(found) for found in self.findings],
            "members": [member.as_dict() for member in self.members],
            "load": self.load._asdict() if self.load else None,
            "next": list(self.steps),
            "notes": list(self.notes),
            "passed_over": self.passed_over,
        }
        if self.errors:
            made["error"] = self.errors[0].as_dict()
            made["errors"] = [error.as_dict() for error in self.errors]
        return made


def _finding(found: Finding) -> dict[str, object]:
    made = found._asdict()
    made["count"] = made.pop("times")
    return made


def report_of(part: Part, allow: Collection[str] = ()) -> ScanReport:
    """The report of a part and of those inside it. `allow`: globs that lift what is unknown, and
    whole names that lift what is dangerous."""
    kept: list[Finding] = []
    lifted: list[Finding] = []
    for found in part.findings.list():
        (lifted if _is_lifted(found, allow) else kept).append(found)
    members = tuple(report_of(member, allow) for member in part.members)
    errors = tuple(map(Unread.of, part.errors))
    verdicts = [found.verdict for found in kept] + [member.verdict for member in members]
    if errors:
        verdicts.append(UNREADABLE)
    if part.format == "git-lfs":
        verdicts.append(POINTER)
    notes = list(part.notes)
    if part.format == "git-lfs":
        notes.append(f"it is {part.what}")
    if lifted:
        notes.append("allowed: " + ", ".join(found.name for found in lifted))
    return ScanReport(
        part.path,
        part.format,
        worst(verdicts),
        part.what,
        tuple(kept),
        members,
        errors=errors,
        notes=tuple(notes),
        passed_over=part.passed and not verdicts,
    )


def _is_lifted(found: Finding, allow: Collection[str]) -> bool:
    if found.verdict == DANGEROUS:
        return found.name in allow
    return any(fnmatchcase(found.name, glob) for glob in allow)


def unread(path: str, error: PtInspectError) -> ScanReport:
    """The report of a file that could not be opened."""
    return ScanReport(path, "unknown", UNREADABLE, errors=(Unread.of(error),))


FAIL_ON = {"pointer": 1, "unknown": 2, "dangerous": 3}
"""What `--fail-on` may be, and from which rank on a verdict fails."""

_RANK = {CLEAN: 0, UNREADABLE: 0, "pointer": 1, "unknown": 2, "dangerous": 3}


def exit_code(reports: Collection[ScanReport], fail_on: str = "unknown") -> int:
    """1 where a verdict is as bad as `fail_on` or worse; else 2 where a file could not be read to
    its end; else 0."""
    if any(_RANK[report.verdict] >= FAIL_ON[fail_on] for report in reports):
        return 1
    return 2 if any(_has_errors(report) for report in reports) else 0


def _has_errors(report: ScanReport) -> bool:
    return bool(report.errors) or any(map(_has_errors, report.members))
