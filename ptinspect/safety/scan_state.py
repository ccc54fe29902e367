"""The state of a running scan: findings so far, members, errors, and the remaining budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ptinspect.errors import LimitError, Place
from ptinspect.formats.signatures import as_text_error, text_transfer_error
from ptinspect.limits import LIMITS
from ptinspect.safety import report as reports
from ptinspect.safety.policy import listed_words
from ptinspect.safety.report import UNKNOWN, Finding, ReadError, ScanReport, shorten
from ptinspect.text import count_text, join_names

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import TypeAlias

    from ptinspect.errors import PtInspectError
    from ptinspect.limits import Limits
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Call
    from ptinspect.source.base import Source

    ScanSource: TypeAlias = "Callable[[Source, ScanState], None]"


Item = TypeVar("Item", Finding, ReadError, str)

_MODEL_SUFFIXES = listed_words("model suffixes")


class FindingCollector:
    """Collects findings: per name and record the worst one, with a count of its repeats."""

    def __init__(self) -> None:
        self._worst: dict[tuple[str, str | None], tuple[Finding, int]] = {}

    def add(self, finding: Finding) -> None:
        """Add a finding, unless a worse one about the same name and record was added before."""
        finding = finding.shortened()
        key = (finding.name, finding.record)
        old, count = self._worst.get(key, (None, 0))
        if old is None or _rank(finding) > _rank(old):
            self._worst[key] = finding, finding.count  # a call replaces the import before it
        elif (finding.opcode, finding.verdict) == (old.opcode, old.verdict):
            self._worst[key] = old, count + finding.count

    def count_repeated_call(self, name: str, record: str | None, opcode: str, verdict: str) -> bool:
        """Count a call that was found before, without a text of its own. Return False if it was
        not."""
        key = (shorten(name), record)
        old, count = self._worst.get(key, (None, 0))
        if old is None or _rank(old) < (reports.SEVERITY[verdict], True):
            return False
        if (opcode, verdict) == (old.opcode, old.verdict):
            self._worst[key] = old, count + 1
        return True

    def sorted(self) -> list[Finding]:
        """Return the dangerous findings first, each kind in the order of the file."""
        if not self._worst:
            return []
        counted = [
            finding if count == finding.count else replace(finding, count=count)
            for finding, count in self._worst.values()
        ]
        return sorted(counted, key=lambda finding: finding.verdict != reports.DANGEROUS)

    def __bool__(self) -> bool:
        return bool(self._worst)


def _rank(finding: Finding) -> tuple[int, bool]:
    return reports.SEVERITY[finding.verdict], finding.call is not None


class Budget:
    """What all members of one file share: bounds on bytes to unpack and on the number of members.

    Attributes:
        scan_source: scans the content of a member of any format; set by the scan of the file.
    """

    scan_source: ScanSource

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._unpacked_bytes = 0
        self._members = 0

    @property
    def is_exhausted(self) -> bool:
        """True if nothing more is scanned: the reason is an error of the file."""
        return self._members > self.limits.streams

    def count_unpacked(self, size: int, record: str | None) -> None:
        """Count `size` unpacked bytes. Raises LimitError if they are too many in total."""
        self._unpacked_bytes += size
        if self._unpacked_bytes > self.limits.inflated_bytes:
            raise LimitError(
                "more bytes are unpacked from it than the limit allows",
                limit="inflated_bytes",
                where=Place(record),
            )

    def count_member(self, record: str | None) -> None:
        """Count one member or pickle. Raises LimitError if they are too many in total."""
        self._members += 1
        if self._members > self.limits.streams:
            raise LimitError(
                "it has more members than the limit", limit="streams", where=Place(record)
            )


@dataclass(slots=True, eq=False)
class ScanState:
    """The state of the scan of one file, or of one member inside another file.

    Attributes:
        path: its name, below the outer file's.
        record: its name inside the outer file; None for the file itself.
        depth: how many files it is nested in.
        format: name of the format, as in JSON; `description`: the same in words.
        hint: what to do with a file of that format.
        skipped: True if no reader of pickles opens it.
        errors: why it could not be read to its end.
        notes: remarks that do not change the verdict.
        streams: its pickles, after they were run.
        sparse: the calls of its pickles that make sparse and nested tensors.
        facts: what `load_advice` needs to know about the container.
        weights_only_blockers: classes whose instances weights_only refuses to fill.
    """

    path: str
    record: str | None
    depth: int
    budget: Budget
    format: str = "unknown"
    description: str = ""
    hint: str | None = None
    skipped: bool = False
    findings: FindingCollector = field(default_factory=FindingCollector)
    members: list[ScanState] = field(default_factory=list)
    errors: list[PtInspectError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    streams: list[Pickled] = field(default_factory=list)
    sparse: list[Call] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    weights_only_blockers: set[str] = field(default_factory=set)

    @property
    def limits(self) -> Limits:
        """The limits of the scan."""
        return self.budget.limits

    @property
    def real_path(self) -> str:
        """The path for lines to paste: `-` for a file inside another one."""
        return "-" if self.depth else self.path

    def decompress(self, source: Source, compression: str) -> tuple[Source, PtInspectError | None]:
        """Return the decompressed bytes and the error that ended them early; report what follows
        them."""
        from ptinspect.source.decompressed import decompress

        result, error = decompress(
            source,
            compression,
            self.limits,
            record=self.record,
            count=lambda size: self.budget.count_unpacked(size, self.record),
            on_trailing=lambda: self.find(
                "trailing-bytes", "bytes follow the compressed data", self.record
            ),
        )
        result.path = self.path
        return result, error

    @property
    def has_model_name(self) -> bool:
        """True if the file is named like a model."""
        return self.path.lower().endswith(_MODEL_SUFFIXES)

    def find(
        self, name: str, reason: str, record: str | None, verdict: str = UNKNOWN,
        offset: int | None = None, opcode: str | None = None,
    ) -> None:  # fmt: skip
        """Add a finding about the container, or about a place in a record."""
        self.findings.add(Finding(name, verdict, reason, record, offset, opcode))

    def new_member(self, record: str) -> ScanState:
        """Return the state for a member. Raises LimitError if it is nested too deep."""
        self.budget.count_member(record)
        record = shorten(record)
        if self.depth >= 2 * self.limits.nested_archives:  # a record of an archive is a level too
            raise LimitError(
                f"archives are nested {self.depth + 1} deep",
                limit="nested_archives",
                where=Place(record),
            )
        return ScanState(f"{self.path}/{record}", record, self.depth + 1, self.budget)

    def add_member(self, member: ScanState) -> None:
        """Add a scanned member: as a member if it is a container or unreadable, else merge it."""
        if member.format in ("pickle", "torch-legacy") and not member.members:
            self.merge(member)
        elif not member.skipped or member.findings or member.errors or member.members:
            self.members.append(member)

    def merge(self, other: ScanState) -> None:
        """Take over the findings, errors, notes and pickles of another state."""
        for finding in other.findings.sorted():
            self.findings.add(finding)
        self.errors += other.errors
        self.notes += other.notes
        self.streams += other.streams
        self.sparse += other.sparse
        self.weights_only_blockers |= other.weights_only_blockers

    def report(
        self, allow: Collection[str] = (), allow_unknown: Collection[str] = ()
    ) -> ScanReport:
        """Return the report of this file and its members; see `scan` for the arguments."""
        lifted: dict[str, None] = {}
        report = self._report(allow, allow_unknown, lifted)
        if not lifted:
            return report
        names = join_names(list(lifted), self.limits.reported_items)
        return replace(report, notes=(reports.ALLOWED + names, *report.notes))

    def _report(
        self, allow: Collection[str], allow_unknown: Collection[str], lifted: dict[str, None]
    ) -> ScanReport:
        findings: list[Finding] = []
        most = self.limits.reported_items
        for finding in self.findings.sorted():
            if finding.is_allowed(allow, allow_unknown):
                lifted[finding.name] = None
            else:
                findings.append(finding)
        members = [member._report(allow, allow_unknown, lifted) for member in self.members]
        verdicts = [finding.verdict for finding in findings]
        verdicts += [member.verdict for member in members]
        if len(members) > most:
            members.sort(key=lambda member: -reports.SEVERITY[member.verdict])
        notes = list(self.notes)
        for items, noun in ((findings, "finding"), (members, "member"), (self.errors, "error")):
            if len(items) > most:
                notes.append(f"{reports.FURTHER}{count_text(len(items) - most, f'further {noun}')}")
        if self.errors:
            verdicts.append(reports.UNREADABLE)
        if self.format == "git-lfs":
            verdicts.append(reports.POINTER)
            notes.append(f"it is {self.description}")
        return ScanReport(
            self.path,
            self.format,
            reports.worst(verdicts),
            self.description,
            tuple(findings[:most]),
            tuple(members[:most]),
            errors=tuple(map(ReadError.of, self.errors[:most])),
            notes=tuple(notes),
            skipped=self.skipped and not verdicts,
        )


def damaged_report(state: ScanState, report: ScanReport, source: Source) -> ScanReport:
    """Return the report, with the reason if a transfer has treated the file as text.

    Such a file is unreadable if all findings come from that: names that end in CR, and a zip whose
    offsets are wrong.
    """
    names = [finding.name for finding in report.all_findings()]
    names += report.left_out()  # nobody knows where further findings come from
    has_cr = any("\r" in name for name in names)
    cause = text_transfer_error(source) if state.errors else None
    cause = as_text_error() if has_cr else cause
    if cause is None:
        return report
    errors = (ReadError.of(cause), *report.errors)
    state.errors.insert(0, cause)
    if all("\r" in name or name.startswith("zip-") for name in names):
        return replace(report, verdict=reports.UNREADABLE, findings=(), members=(), errors=errors)
    return replace(report, errors=errors)


def scan_member(outer: ScanState, source: Source, record: str) -> ScanState | None:
    """Scan a file inside another one, and add it to the outer file's state.

    Args:
        outer: the state of the outer file.
        source: the member's bytes.
        record: the member's name.

    Returns:
        The member's state, or None if it is nested too deep, which is an error of `outer`.
    """
    try:
        member = outer.new_member(record)
    except LimitError as error:
        outer.errors.append(error)
        return None
    outer.budget.scan_source(source, member)
    outer.add_member(member)
    return member


# --- size of reports ----------------------------------------------------------------------

_INDENT = 100  # bytes of the indentation of one item
_BASE_BYTES = 500  # bytes of the JSON of a report without items, and of its indentation
_MOST_BYTES = 50 * LIMITS.name_chars  # bytes of the JSON of one item, at most


def fit(report: ScanReport, size: int) -> ScanReport:
    """Return a report whose JSON takes about `size` bytes at most.

    Errors, findings and members are listed as long as they fit; a note counts the others.
    """
    return report if _count_items(report) * _MOST_BYTES < size else _fit(report, size)[0]


def _count_items(report: ScanReport) -> int:
    count = 1 + len(report.errors) + len(report.findings) + len(report.notes)
    count += len(report.load.safe_globals) if report.load else 0
    return count + sum(map(_count_items, report.members))


def _fit(report: ScanReport, room: int) -> tuple[ScanReport, int]:
    """Return the part of a report that fits, and how many bytes are left."""
    room -= _BASE_BYTES + _json_size(report.path)
    left_out: list[str] = []
    load = report.load
    if load is not None and _json_size(load) > room:
        load = None
        left_out.append("the advice on loading")
    room -= _json_size(load) if load else 0

    def fitting(items: tuple[Item, ...], noun: str) -> tuple[Item, ...]:
        nonlocal room
        for count, item in enumerate(items):
            room -= _json_size(item)
            if room < 0 and count:  # the first one is kept in any case
                left_out.append(count_text(len(items) - count, noun))
                return items[:count]
        return items

    errors, findings = fitting(report.errors, "error"), fitting(report.findings, "finding")
    notes = fitting(report.notes, "note")
    members: list[ScanReport] = []
    for member in sorted(report.members, key=lambda member: -reports.SEVERITY[member.verdict]):
        if room < _BASE_BYTES and members:
            left_out.append(count_text(len(report.members) - len(members), "member"))
            break
        fitted, room = _fit(member, room)
        members.append(fitted)
    if left_out:
        notes += (reports.LEFT_OUT + ", ".join(left_out),)
    fitted = replace(
        report, load=load, errors=errors, findings=findings, notes=notes, members=tuple(members)
    )
    return fitted, room


def _json_size(value: object) -> int:
    """Return about how many bytes a text or an item takes in JSON, with its indentation."""
    import json

    return len(json.dumps(value, default=asdict)) + _INDENT
