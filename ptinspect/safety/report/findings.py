"""What scan finds, and how bad it is."""

from __future__ import annotations

from typing import NamedTuple

CLEAN, UNKNOWN, DANGEROUS = "clean", "unknown", "dangerous"
UNREADABLE, POINTER = "unreadable", "pointer"

_RANK = {CLEAN: 0, POINTER: 1, UNREADABLE: 2, UNKNOWN: 3, DANGEROUS: 4}


def worst(verdicts: list[str]) -> str:
    """Of a file's parts. What was found in one part counts, though another could not be read;
    what could not be read is never clean."""
    return max(verdicts, key=_RANK.__getitem__, default=CLEAN)


class Finding(NamedTuple):
    """One reason why a file is not clean.

    name: what the pickle would import or call ("posix.system"), or a kind of finding of the
    container ("zip-duplicate"). verdict: "unknown" or "dangerous". record: the member of the
    archive; None: the file itself. offset: of the opcode in that record, in bytes. opcode: its
    name. call: the call as it would stand in Python, shortened. why: in words. times: how often.
    """

    name: str
    verdict: str
    why: str
    record: str | None = None
    offset: int | None = None
    opcode: str | None = None
    call: str | None = None
    times: int = 1

    @property
    def chain(self) -> str:
        """Where and what: `data.pkl @ 1043: REDUCE posix.system('…')`."""
        at = self.record or ""
        if self.offset is not None:
            at = f"{at} @ {self.offset}" if at else f"byte {self.offset}"
        what = f"{self.opcode} {self.call or self.name}" if self.opcode else self.name
        return f"{at}: {what}" if at else what


class Findings:
    """Findings as they come: of one name in one record the worst is kept, and counted."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str | None], Finding] = {}

    def add(self, finding: Finding) -> None:
        """Keeps it, unless a worse one of its name is there."""
        key = (finding.name, finding.record)
        old = self._kept.get(key)
        if old is None:
            self._kept[key] = finding
        elif _weight(finding) > _weight(old):
            self._kept[key] = finding  # that it was named before it was called counts no more
        elif (finding.opcode, finding.verdict) == (old.opcode, old.verdict):
            self._kept[key] = old._replace(times=old.times + finding.times)

    def list(self) -> list[Finding]:
        """The worst first, each kind in the order of the file."""
        if not self._kept:
            return []
        return sorted(self._kept.values(), key=lambda found: found.verdict != DANGEROUS)


def _weight(finding: Finding) -> tuple[int, bool]:
    return _RANK[finding.verdict], finding.call is not None
