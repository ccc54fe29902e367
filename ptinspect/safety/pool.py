"""Many files in other processes. What kills or hangs a process is one file, and that one is found:
the others of its batch are asked again, each by itself."""

from __future__ import annotations

import os
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, TypeAlias

from ptinspect.errors import PtInspectError
from ptinspect.safety.report import ScanReport, unread

if TYPE_CHECKING:
    from ptinspect.limits import Limits

    Settings: TypeAlias = "tuple[tuple[str, ...], Limits, tuple[str, ...]]"

BATCH = 32
"""Files that a process is asked for at a time."""

SECONDS, PER_SECOND = 120, 1 << 21
"""A file may take this long, and a second more for each so many bytes: far above what any
takes."""


def scan_batch(paths: list[str], settings: Settings) -> list[ScanReport]:
    """What a worker does."""
    from ptinspect.safety.scanning import scan

    allow, limits, commands = settings
    return [scan(path, allow=allow, limits=limits, commands=commands) for path in paths]


def scan_elsewhere(
    files: list[str], settings: Settings, executor: Executor | None, jobs: int
) -> list[ScanReport]:
    """The reports, in the order of the files. Standard input is read here."""
    size = max(1, min(BATCH, -(-len(files) // (4 * max(jobs, 1)))))
    batches = [files[at : at + size] for at in range(0, len(files), size)]
    own = executor is None
    pool: Executor = ProcessPoolExecutor(min(jobs, len(batches))) if executor is None else executor
    try:
        asked = [_submit(pool, batch, settings) for batch in batches]
        made: list[ScanReport] = []
        for batch, future in zip(batches, asked, strict=True):
            made += _answer(pool, batch, future, settings, own)
        return made
    finally:
        if own:
            _stop(pool)


def _submit(
    pool: Executor, batch: list[str], settings: Settings
) -> Future[list[ScanReport]] | None:
    if "-" in batch:
        return None
    try:
        return pool.submit(scan_batch, batch, settings)
    except RuntimeError:  # BrokenExecutor is one: an earlier batch has killed a worker
        return None


def _answer(
    pool: Executor,
    batch: list[str],
    future: Future[list[ScanReport]] | None,
    settings: Settings,
    own: bool,
) -> list[ScanReport]:
    if future is None:
        return [_alone(path, settings) for path in batch]
    try:
        return future.result(_seconds(batch) if own else None)
    except FutureTimeout:
        _kill(pool)
    except CancelledError:
        pass
    except Exception:  # noqa: BLE001 - whatever an engine raises when a worker dies
        pass
    return [_alone(path, settings) for path in batch]


def _seconds(batch: list[str]) -> float:
    total = 0
    for path in batch:
        try:
            total += os.path.getsize(path)
        except OSError:
            continue
    return SECONDS + total / PER_SECOND


def _alone(path: str, settings: Settings) -> ScanReport:
    """One file in a process of its own."""
    if path == "-":
        return scan_batch([path], settings)[0]
    pool = ProcessPoolExecutor(1)
    try:
        return pool.submit(scan_batch, [path], settings).result(_seconds([path]))[0]
    except FutureTimeout:
        _kill(pool)
        return unread(path, PtInspectError(f"it took more than {_seconds([path]):.0f} seconds"))
    except Exception as error:  # noqa: BLE001 - as above
        name = type(error).__name__
        return unread(path, PtInspectError(f"the process that read it died ({name})"))
    finally:
        _stop(pool)


def _kill(pool: Executor) -> None:
    """Ends processes that do not answer."""
    processes = getattr(pool, "_processes", None) or {}
    for process in list(processes.values()):
        process.kill()


def _stop(pool: Executor) -> None:
    """Waits for its processes to end, so that none outlives this one."""
    pool.shutdown(wait=True, cancel_futures=True)
