"""What scan has found out about a file, or about one inside another, while it is at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import LimitError, Place
from ptinspect.safety.report.findings import (
    CLEAN,
    POINTER,
    UNKNOWN,
    UNREADABLE,
    Finding,
    Findings,
    worst,
)

if TYPE_CHECKING:
    from ptinspect.errors import PtInspectError
    from ptinspect.formats.archive import Finding as Odd
    from ptinspect.limits import Limits
    from ptinspect.pickling.machine import Pickled


class Budget:
    """What is shared by all parts of one file: how much may be unpacked in all, and how many
    parts there may be."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.inflated_bytes
        self.parts = limits.streams

    def unpack(self, size: int, record: str | None) -> None:
        """Counts `size` bytes that were unpacked. LimitError where they are too many."""
        self.left -= size
        if self.left < 0:
            raise LimitError(
                "more is packed in it than may be unpacked",
                limit="inflated_bytes",
                where=Place(record),
            )

    def part(self, record: str | None) -> None:
        """Counts one part."""
        self.parts -= 1
        if self.parts < 0:
            raise LimitError(
                "it has more parts than are looked into", limit="streams", where=Place(record)
            )


class Part:
    """One file, or one inside another. path: its name; record: the same inside the outer file.

    format: as in JSON; what: in words. passed: no reader of pickles takes it. errors: why it
    could not be read to its end. notes: what a reader should know, and is no finding. streams:
    its pickles, run. unfit: see `Judge`. facts: what `load_advice` asks of the container.
    """

    def __init__(self, path: str, record: str | None, depth: int, budget: Budget) -> None:
        self.path = path
        self.record = record
        self.depth = depth
        self.budget = budget
        self.limits = budget.limits
        self.format = "unknown"
        self.what = ""
        self.hint: str | None = None
        self.passed = False
        self.findings = Findings()
        self.members: list[Part] = []
        self.errors: list[PtInspectError] = []
        self.notes: list[str] = []
        self.streams: list[Pickled] = []
        self.facts: dict[str, object] = {}
        self.unfit: set[str] = set()

    @property
    def verdict(self) -> str:
        """The worst of what was found, in it and in what it holds."""
        found = [finding.verdict for finding in self.findings.list()]
        found += [member.verdict for member in self.members]
        if self.errors:
            found.append(UNREADABLE)
        if self.format == "git-lfs" and not self.members:
            found.append(POINTER)
        return worst(found) if found else CLEAN

    def find(self, name: str, why: str, record: str | None, verdict: str = UNKNOWN) -> None:
        """Adds a finding about the container."""
        self.findings.add(Finding(name, verdict, why, record))

    def odd(self, found: Odd, verdict: str) -> None:
        """Adds what the reader of the container found odd."""
        where = found.where
        self.findings.add(Finding(found.kind, verdict, found.message, where.record, where.offset))

    def inside(self, record: str) -> Part:
        """A part of this one."""
        self.budget.part(record)
        if self.depth >= 2 * self.limits.nested_archives:  # its records count as well
            raise LimitError(
                f"archives and their records lie in one another {self.depth + 1} deep",
                limit="nested_archives",
                where=Place(record),
            )
        return Part(f"{self.path}/{record}", record, self.depth + 1, self.budget)

    def take(self, inner: Part) -> None:
        """Keeps a part inside this one: as a member where it is a container of its own or could
        not be read; else just what was found in it."""
        if inner.format in ("pickle", "torch-legacy") and not inner.members:
            for finding in inner.findings.list():
                self.findings.add(finding)
            self.errors += inner.errors
            self.streams += inner.streams
            self.notes += inner.notes
            self.unfit |= inner.unfit
        elif not inner.passed or inner.findings.list() or inner.errors or inner.members:
            self.members.append(inner)
