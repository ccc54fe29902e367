"""Many files in other processes. What kills or hangs a process is one file, and that one is found:
those that were at work when a process died are asked again, each in a process of its own."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, TypeAlias

from ptinspect.errors import PtInspectError
from ptinspect.safety.batches import scan_batch, seconds
from ptinspect.safety.report import ScanReport, unread

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

    from ptinspect.safety.batches import Settings

    Asked: TypeAlias = "Future[list[ScanReport]]"

BATCH = 32
"""Files that a process is asked for at a time."""


def scan_elsewhere(
    files: list[str],
    settings: Settings,
    executor: Executor | None,
    jobs: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:
    """The reports, in the order of the files. Standard input is read here. progress: told (files
    done, files in all)."""
    size = max(1, min(BATCH, -(-len(files) // (4 * max(jobs, 1)))))
    batches = [files[at : at + size] for at in range(0, len(files), size)]
    work = _Work(batches, settings, progress, len(files))
    left = [at for at, batch in enumerate(batches) if "-" not in batch]
    if executor is not None:
        left = work.round(executor, left)
    while left:
        jobs = max(1, min(jobs, len(left)))
        pool = ProcessPoolExecutor(jobs, _context())
        try:
            left = work.round(pool, left, own=True)
        finally:
            _stop(pool)
        for at in left[: jobs + 1]:  # in turn they were begun: among these is what broke it
            work.one_by_one(at)
        left = left[jobs + 1 :]
    for at, batch in enumerate(batches):
        if "-" in batch:
            work.one_by_one(at)
    return [report for at in range(len(batches)) for report in work.made[at]]


class _Work:
    """made: the reports of each batch, by its number."""

    def __init__(
        self,
        batches: list[list[str]],
        settings: Settings,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self.batches = batches
        self.settings = settings
        self.made: dict[int, list[ScanReport]] = {}
        self._progress = progress
        self._done, self._total = 0, total

    def round(self, pool: Executor, numbers: list[int], own: bool = False) -> list[int]:
        """Asks a pool for these batches; the numbers of those that it does not answer."""
        asked = [(at, self._submit(pool, at)) for at in numbers]
        failed = []
        try:
            for at, future in asked:
                if future is None or not self._answered(pool, at, future, own):
                    failed.append(at)
        finally:
            for _, future in asked:  # of an engine that goes on when this is interrupted
                if future is not None:
                    future.cancel()
        return failed

    def _submit(self, pool: Executor, at: int) -> Asked | None:
        try:
            return pool.submit(scan_batch, self.batches[at], self.settings)
        except RuntimeError:  # BrokenExecutor is one: an earlier batch has killed a worker
            return None

    def _answered(self, pool: Executor, at: int, future: Asked, own: bool) -> bool:
        batch = self.batches[at]
        try:
            reports = future.result(seconds(batch) if own else None)
        except FutureTimeout:
            _kill(pool)
            return False
        except Exception:  # noqa: BLE001 - whatever an engine raises when a worker dies
            return False
        if [report.path for report in reports] != batch:
            return False
        self._keep(at, reports)
        return True

    def one_by_one(self, at: int) -> None:
        """Each file of a batch by itself."""
        self._keep(at, [_alone(path, self.settings) for path in self.batches[at]])

    def _keep(self, at: int, reports: list[ScanReport]) -> None:
        self.made[at] = reports
        self._done += len(reports)
        if self._progress is not None:
            self._progress(self._done, self._total)


def _context() -> BaseContext:
    """How processes are started: as the system does it; but what has threads, such as the client
    of an engine, is not forked."""
    import multiprocessing
    import threading

    if threading.active_count() > 1:
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context()


def _alone(path: str, settings: Settings) -> ScanReport:
    """One file in a process of its own."""
    if path == "-":
        return scan_batch([path], settings)[0]
    pool = ProcessPoolExecutor(1, _context())
    try:
        return pool.submit(scan_batch, [path], settings).result(seconds([path]))[0]
    except FutureTimeout:
        _kill(pool)
        return unread(path, PtInspectError(f"it took more than {seconds([path]):.0f} seconds"))
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
