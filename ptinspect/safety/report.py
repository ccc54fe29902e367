"""Findings and scan reports: plain facts, and their renderings as text, JSON and SARIF."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ptinspect.errors import Place
from ptinspect.limits import LIMITS
from ptinspect.report import LoadAdvice, Report, __version__
from ptinspect.text import count_text, read_package_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import Any

    from ptinspect.errors import PtInspectError

SCHEMA = 1

CLEAN, UNKNOWN, DANGEROUS = "clean", "unknown", "dangerous"
UNREADABLE, POINTER = "unreadable", "pointer"
# A finding in one part of a file outweighs another part that could not be read, and a file with a
# part that could not be read is never clean.
SEVERITY = {CLEAN: 0, POINTER: 1, UNREADABLE: 2, UNKNOWN: 3, DANGEROUS: 4}

FAIL_ON = (POINTER, UNKNOWN, DANGEROUS)
"""The values of `--fail-on`."""

ALLOWED = "allowed: "
"""Begins the note that lists the names that `allow` lifted."""

LEFT_OUT, FURTHER = "left out, because the report is too large: ", "and "
"""Begin the notes that count what a report does not list."""

WITHOUT_WEIGHTS_ONLY = "weights_only cannot load it: "
"""Begins the step that says why the steps after it are needed."""

SHOWN_ITEMS = 12
"""Findings, errors and notes that the text lists for one file."""


def shorten(text: str, width: int = LIMITS.name_chars) -> str:
    """Return a text of at most `width` characters and an ellipsis in place of its middle."""
    if len(text) <= width:
        return text
    return f"{text[: width - width // 4]}…{text[-(width // 4) :]}"


def worst(verdicts: Collection[str]) -> str:
    """Return the worst of the verdicts; "clean" without any."""
    return max(verdicts, key=SEVERITY.__getitem__, default=CLEAN)


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a file is not clean.

    Attributes:
        name: the name that would be imported or called ("posix.system"), or a kind of container
            finding ("zip-duplicate").
        verdict: "unknown" or "dangerous".
        reason: the explanation, in words.
        record: the archive's member; None for the file itself.
        offset: byte offset of the opcode in that record.
        opcode: name of the opcode.
        call: the call as Python source, shortened.
        count: how often the same finding occurred.
    """

    name: str
    verdict: str
    reason: str
    record: str | None = None
    offset: int | None = None
    opcode: str | None = None
    call: str | None = None
    count: int = 1

    @property
    def chain(self) -> str:
        """Place and action: `data.pkl @ 1043: REDUCE posix.system('…')`."""
        place = str(Place(self.record, self.offset))
        action = f"{self.opcode} {self.call or self.name}" if self.opcode else self.name
        return f"{place}: {action}" if place else action

    def shortened(self) -> Finding:
        """Return the finding with its texts cut to `LIMITS.name_chars`."""
        texts = ((key, getattr(self, key) or "") for key in ("name", "reason", "record", "call"))
        long = {key: shorten(text) for key, text in texts if len(text) > LIMITS.name_chars}
        return replace(self, **long) if long else self  # type: ignore[arg-type]

    def is_allowed(self, allow: Collection[str], allow_unknown: Collection[str]) -> bool:
        """Return True if the finding is lifted: unknown by a glob, dangerous by its exact name."""
        if self.verdict == DANGEROUS:
            return self.name in allow
        return any(fnmatchcase(self.name, glob) for glob in (*allow, *allow_unknown))


@dataclass(frozen=True, slots=True)
class ReadError:
    """The reason why a file, or a part of it, could not be read. `kind`: see errors.py."""

    kind: str
    message: str
    record: str | None = None
    offset: int | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: PtInspectError) -> ReadError:
        """Return the facts of an exception."""
        where = error.where or Place()
        record = where.record and shorten(where.record)
        message = shorten(error.message, 4 * LIMITS.name_chars)
        return cls(error.kind, message, record, where.offset, error.hint)

    def as_dict(self) -> dict[str, object]:
        """Return the error as in JSON."""
        is_known = self.record is not None or self.offset is not None
        where = {"record": self.record, "offset": self.offset} if is_known else None
        return {"kind": self.kind, "message": self.message, "where": where, "hint": self.hint}

    def __str__(self) -> str:
        place = str(Place(self.record, self.offset))
        return f"{self.message}, {place}" if place else self.message


@dataclass(frozen=True, slots=True)
class ScanReport(Report):
    """The answer of `scan` for one file.

    Attributes:
        path: the path as it was passed.
        format: name of the format, as in JSON.
        verdict: "clean", "unknown", "dangerous", "unreadable" or "pointer".
        description: the format in words.
        findings: why the file is not clean, the worst first.
        members: reports on the files inside it.
        load: how to load it; None if torch.load does not read it, or if it is dangerous.
        steps: what to do next, lines to paste first.
        errors: why the file could not be read to its end.
        notes: further remarks that do not change the verdict.
        skipped: True if no reader of pickles opens such a file.
    """

    path: str
    format: str
    verdict: str
    description: str = ""
    findings: tuple[Finding, ...] = ()
    members: tuple[ScanReport, ...] = ()
    load: LoadAdvice | None = None
    steps: tuple[str, ...] = ()
    errors: tuple[ReadError, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: bool = False

    @property
    def ok(self) -> bool:
        """True if the file was read to its end and nothing in it is unknown or dangerous."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """The exit code of `ptinspect scan` for this file."""
        return exit_code([self])

    def text(self) -> str:
        """Return the report as text. Names from the file are not escaped."""
        return "".join(f"{line}\n" for line in text_lines([self]))

    def all_findings(self) -> Iterator[Finding]:
        """Yield the findings of the file and of its members."""
        yield from self.findings
        for member in self.members:
            yield from member.all_findings()

    def left_out(self) -> Iterator[str]:
        """Yield the notes on what the report and those of the members do not list."""
        yield from (note for note in self.notes if note.startswith((LEFT_OUT, FURTHER)))
        for member in self.members:
            yield from member.left_out()

    def first_dangerous(self) -> Finding | None:
        """Return the first dangerous finding of the file and its members, if there is one."""
        dangerous = (each for each in self.all_findings() if each.verdict == DANGEROUS)
        return next(dangerous, None)

    def as_dict(self) -> dict[str, object]:
        """Return the report as in JSON; see scan.schema.json."""
        fields: dict[str, object] = {
            "schema": SCHEMA,
            "path": self.path,
            "format": self.format,
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "members": [member.as_dict() for member in self.members],
            "load": asdict(self.load) if self.load else None,
            "next": list(self.steps),
            "notes": list(self.notes),
            "skipped": self.skipped,
        }
        if self.errors:
            fields["error"] = self.errors[0].as_dict()
            fields["errors"] = [error.as_dict() for error in self.errors]
        return fields

    def _has_errors(self) -> bool:
        return bool(self.errors) or any(member._has_errors() for member in self.members)


def unreadable_report(path: str, error: PtInspectError) -> ScanReport:
    """Return the report on a file that could not be opened."""
    return ScanReport(path, "unknown", UNREADABLE, errors=(ReadError.of(error),))


def exit_code(reports: Collection[ScanReport], fail_on: str = UNKNOWN) -> int:
    """Return the exit code of `ptinspect scan`.

    Returns:
        1 if a verdict is as bad as `fail_on` or worse; else 2 if a file could not be read to its
        end; else 0.
    """
    failing = FAIL_ON[FAIL_ON.index(fail_on) :]
    if any(report.verdict in failing for report in reports):
        return 1
    return 2 if any(report._has_errors() for report in reports) else 0


# --- text ---------------------------------------------------------------------------------


def is_listed(
    report: ScanReport, several: bool, *, verbose: bool = False, quiet: bool = False
) -> bool:
    """Return True if the text lists a report, one of several or the only one; see `text_lines`."""
    if report.verdict != CLEAN:
        return True
    was_lifted = any(note.startswith(ALLOWED) for note in report.notes)
    return not quiet and (not several or was_lifted or (verbose and not report.skipped))


def text_lines(
    reports: Sequence[ScanReport], left_out: str = "", *, verbose: bool = False, quiet: bool = False
) -> Iterator[str]:
    """Yield a line per file, the worst last, with findings and next steps below, and a total.

    Names from the files are not escaped yet. Of several files, clean and skipped ones are only
    counted, unless `--allow` or a configuration made them clean.

    Args:
        reports: the reports on all files.
        left_out: what was not scanned at all, for the total.
        verbose: list clean files as well.
        quiet: list the files that are not clean, and nothing else.
    """
    several = len(reports) > 1
    for report in sorted(reports, key=lambda report: SEVERITY[report.verdict]):
        if not is_listed(report, several, verbose=verbose, quiet=quiet):
            continue
        verdict = "skipped" if report.skipped else report.verdict
        in_words = report.format == "unknown" or report.skipped
        description = report.description if in_words else report.format
        yield f"{report.path}: {verdict}" + (f" ({description})" if description else "")
        if quiet:
            continue
        yield from _detail_lines(report, "  ")
        for step in report.steps:
            yield f"  {'note' if step.startswith(WITHOUT_WEIGHTS_ONLY) else 'next'}: {step}"
    if not quiet:
        yield total_text(reports, left_out)


def _detail_lines(report: ScanReport, indent: str) -> Iterator[str]:
    for finding in report.findings[:SHOWN_ITEMS]:
        times = f" ({finding.count:,} times)" if finding.count > 1 else ""
        yield f"{indent}{finding.verdict}: {finding.chain}{times}"
        yield f"{indent}  {finding.reason}"
    if len(report.findings) > SHOWN_ITEMS:
        yield f"{indent}and {len(report.findings) - SHOWN_ITEMS:,} more"
    for error in report.errors[:SHOWN_ITEMS]:
        yield f"{indent}not read to its end: {error}"
    for note in report.notes[:SHOWN_ITEMS]:
        yield f"{indent}note: {note}"
    for member in report.members:
        if member.verdict != CLEAN:
            yield f"{indent}{member.path}: {member.verdict} ({member.format})"
            yield from _detail_lines(member, indent + "  ")


def total_text(reports: Sequence[ScanReport], left_out: str = "") -> str:
    """Return the last line: `3 files: 1 dangerous, 2 clean; 4 skipped; not scanned: 1 excluded`."""
    verdicts = [report.verdict for report in reports if not report.skipped]
    order = (DANGEROUS, UNKNOWN, UNREADABLE, POINTER, CLEAN)
    counts = ", ".join(f"{verdicts.count(each):,} {each}" for each in order if each in verdicts)
    skipped = len(reports) - len(verdicts)
    return (
        count_text(len(verdicts), "file")
        + (f": {counts}" if counts else "")
        + (f"; {skipped:,} skipped" if skipped else "")
        + (f"; not scanned: {left_out}" if left_out else "")
    )


# --- transport between processes ----------------------------------------------------------


def dump_reports(reports: list[ScanReport]) -> bytes:
    """Return reports as bytes, for `load_reports` in another process."""
    import json

    def fields(item: Finding | LoadAdvice | ReadError | ScanReport) -> dict[str, list[object]]:
        return {type(item).__name__: [getattr(item, name) for name in item.__slots__]}

    return json.dumps(reports, check_circular=False, separators=(",", ":"), default=fields).encode()


def load_reports(data: bytes) -> list[ScanReport]:
    """Return the reports that `dump_reports` wrote."""
    import json

    classes = {cls.__name__: cls for cls in (Finding, LoadAdvice, ReadError, ScanReport)}

    def restore(item: dict[str, list[Any]]) -> object:
        ((name, fields),) = item.items()
        if name == "ScanReport":
            fields = [tuple(field) if isinstance(field, list) else field for field in fields]
        return classes[name](*fields)

    reports: list[ScanReport] = json.loads(data, object_hook=restore)
    return reports


# --- JSON and SARIF -----------------------------------------------------------------------


def json_text(reports: Sequence[ScanReport], as_list: bool) -> str:
    """Return one object, or a list exactly when several files or a folder were asked for."""
    listed = [report.as_dict() for report in reports if not (as_list and report.skipped)]
    return _dumps(listed if as_list else listed[0])


def json_lines_text(reports: Sequence[ScanReport], as_list: bool) -> str:
    """Return the objects of `json_text`, each on a line of its own."""
    shown = [report for report in reports if not (as_list and report.skipped)]
    return "".join(_dumps(report.as_dict(), None) for report in shown)


def _dumps(value: object, indent: int | None = 2) -> str:
    import json

    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f") + "\n"


def sarif_text(reports: Sequence[ScanReport]) -> str:
    """Return a SARIF 2.1.0 run: a result per finding, per unreadable file and per pointer, and a
    notification per report that is cut.

    https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
    """
    import json

    log = json.loads(read_package_file("safety/sarif.json"))  # its rules are the verdicts
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    driver["version"] = __version__
    levels = {rule["id"]: rule["defaultConfiguration"]["level"] for rule in driver["rules"]}
    run["results"] = [
        result for report in reports for result in _sarif_results(report, report.path)
    ]
    notices = [_sarif_result(UNKNOWN, note, r.path) for r in reports for note in r.left_out()]
    for result in (*run["results"], *notices):
        result["level"] = levels[result["ruleId"]]
    for notice in notices:
        del notice["ruleId"]
    if notices:
        run["invocations"] = [{"executionSuccessful": True, "toolExecutionNotifications": notices}]
    return _dumps(log)


def _sarif_results(report: ScanReport, path: str) -> Iterator[dict[str, object]]:
    for finding in report.findings:
        text = f"{finding.chain}: {finding.reason}"
        yield _sarif_result(finding.verdict, text, path, finding)
    for error in report.errors:
        yield _sarif_result(UNREADABLE, str(error), path)
    if report.verdict == POINTER:
        yield _sarif_result(POINTER, "; ".join(report.notes), path)
    for member in report.members:
        yield from _sarif_results(member, path)


def _sarif_result(
    verdict: str, text: str, path: str, finding: Finding | None = None
) -> dict[str, object]:
    import os
    from pathlib import Path
    from urllib.parse import quote

    if os.path.isabs(path):
        uri = Path(path).as_uri()
    else:
        uri = quote(os.path.normpath(path).replace(os.sep, "/"), errors="surrogateescape")
    physical: dict[str, object] = {"artifactLocation": {"uri": uri}}
    location: dict[str, object] = {"physicalLocation": physical}
    if finding is not None and finding.record is None and finding.offset is not None:
        physical["region"] = {"byteOffset": max(finding.offset, 0), "byteLength": 1}
    if finding is not None and finding.record:  # a record's name can be empty
        location["logicalLocations"] = [{"name": finding.record, "kind": "member"}]
    return {
        "ruleId": f"ptinspect/{verdict}",
        "level": "",
        "message": {"text": text},
        "locations": [location],
    }
