"""What one process is asked for at a time, and how long that may take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ptinspect.limits import Limits
    from ptinspect.safety.report import ScanReport

    Settings: TypeAlias = "tuple[tuple[str, ...], Limits, tuple[str, ...]]"
    """allow, limits, commands: see `scan`."""

MANY = 128
"""Files for which a second process pays."""

SECONDS, PER_SECOND = 120, 1 << 21
"""A file may take this long, and a second more for each so many bytes: far above what any
takes."""


def scan_batch(paths: list[str], settings: Settings) -> list[ScanReport]:
    """What a worker does."""
    from ptinspect.safety.scanning import scan

    allow, limits, commands = settings
    return [scan(path, allow=allow, limits=limits, commands=commands) for path in paths]


def seconds(batch: list[str]) -> float:
    """How long the files of a batch may take together."""
    total = 0
    for path in batch:
        try:
            total += os.path.getsize(path)
        except OSError:
            continue
    return SECONDS + total / PER_SECOND
