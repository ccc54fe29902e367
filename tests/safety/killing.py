"""A worker that is killed while it scans, whatever engine it belongs to."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import ptinspect
from ptinspect.safety import scan as scan_module
from ptinspect.safety.report import ScanReport
from tests.safety.files import BAD, GOOD, OWN, torch_zip

REAL = scan_module.scan_file
LONGEST = 60
"""Seconds after which a test has failed."""


def waits_to_be_killed(path: str, mark: str) -> None:
    """In a worker: at this file it says which process it is, and waits; once, whoever it is."""

    def scan_or_wait(asked: str, **more: Any) -> ScanReport:
        if asked == path and not os.path.exists(mark):
            Path(f"{mark}.new").write_text(str(os.getpid()))
            os.replace(f"{mark}.new", mark)
            time.sleep(LONGEST)
        return REAL(asked, **more)

    scan_module.scan_file = scan_or_wait  # type: ignore[assignment]


class Killer(threading.Thread):
    """Kills the process that a file tells of, as soon as it does."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.mark = mark
        self.killed = 0

    def run(self) -> None:
        end = time.monotonic() + LONGEST
        while not os.path.exists(self.mark):
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        self.killed = int(Path(self.mark).read_text())
        assert self.killed != os.getpid()
        os.kill(self.killed, signal.SIGKILL)


def many_files(folder: Path) -> list[str]:
    """40 small files, a third each of them harmless, of a class of one's own, and harmful."""
    made = []
    for number in range(40):
        file = folder / f"{number:02}.pt"
        file.write_bytes(torch_zip((GOOD, OWN, BAD)[number % 3]))
        made.append(str(file))
    return made


def killed_in_the_middle(many: list[str], mark: str, executor: Any) -> None:
    """Each path is answered, as here, though a worker is killed at the 18th."""
    killer = Killer(mark)
    killer.start()
    reports = ptinspect.scan_many(many, executor)
    killer.join(LONGEST)
    assert killer.killed
    assert [report.path for report in reports] == many
    assert reports == ptinspect.scan_many(many)
