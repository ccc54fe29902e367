"""What one process is asked for at a time, and how long that may take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

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


def scan_here(
    paths: list[str], settings: Settings, progress: Callable[[int, int], None] | None
) -> list[ScanReport]:
    """The same in this process. progress: told (files done, files in all)."""
    if progress is None:
        return scan_batch(paths, settings)
    made: list[ScanReport] = []
    for path in paths:
        made += scan_batch([path], settings)
        progress(len(made), len(paths))
    return made


def seconds(batch: list[str]) -> float:
    """How long the files of a batch may take together."""
    total = 0
    for path in batch:
        try:
            total += os.path.getsize(path)
        except OSError:
            continue
    return SECONDS + total / PER_SECOND
