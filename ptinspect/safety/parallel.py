"""Many files in other processes. What kills or hangs a process is one file, and that one is found:
those that were at work when a process died are asked again, each in a process of its own."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ptinspect.errors import PtInspectError
from ptinspect.safety import parallel
from ptinspect.safety.load_advice import LoadAdvice
from ptinspect.safety.report.findings import Finding
from ptinspect.safety.report.report import ScanReport, Unread, unread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


FORKED_BATCH = 16
"""Files that a worker is asked for at a time."""

AHEAD = 2
"""Ranges that a worker has been told of, with the one that it is at."""

CHUNK = 1 << 18
_ORDER = Struct("<QQ")
_LENGTH = Struct("<Q")


def can_fork() -> bool:
    """Whether a copy of this process can be trusted to work: not on macOS, whose libraries do not
    stand it, nor beside threads, which may hold a lock at that moment."""
    if not hasattr(os, "fork") or not hasattr(select, "poll") or sys.platform == "darwin":
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1  # those of C libraries too
    except OSError:
        threading = sys.modules.get("threading")
        return threading is None or threading.active_count() == 1


def fastest(files: int) -> int:
    """How many processes scan so many files in the shortest time, on what this process may use."""
    if files < MANY or not can_fork():
        return 1
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every POSIX
        processors = os.cpu_count() or 1
    return min(processors, 2 * files // MANY)


def scan_forked(
    files: list[str],
    settings: Settings,
    jobs: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:
    """The reports, in the order of the files. OSError where not even one process can be started;
    then nothing was done. Standard input is read here. progress: told (files done, files in
    all)."""
    return _Workers(files, settings, jobs, progress).all()


class _Worker:
    """A process, and what it has been asked: ranges of the files, the one that it is at first."""

    def __init__(self, process: int, orders: int, answers: int) -> None:
        self.process = process
        self.orders = orders
        self.answers = answers
        self.asked: deque[tuple[int, int]] = deque()
        self.since = self.until = 0.0
        self.received = bytearray()

    def begin(self) -> None:
        """It is at the first range that it was asked."""
        self.since = time.monotonic()
        self.until = self.since + parallel.SECONDS

    def close(self, kill: bool) -> None:
        """Ends it. Told nothing more, it ends by itself."""
        os.close(self.orders)
        with suppress(OSError):  # where SIGCHLD is ignored, nothing is left of it
            if kill:
                os.kill(self.process, 9)
            os.waitpid(self.process, 0)
        os.close(self.answers)


class _Workers:
    """made: the reports, by their files' numbers."""

    def __init__(
        self,
        files: list[str],
        settings: Settings,
        jobs: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.files = files
        self.settings = settings
        self.made: dict[int, ScanReport] = {}
        self.progress = progress
        self.waiting = deque(_ranges(files, jobs))
        self.jobs = min(jobs, len(self.waiting))
        self.workers: dict[int, _Worker] = {}
        self.poll = select.poll()

    def all(self) -> list[ScanReport]:
        """Everything."""
        warm()
        try:
            self._start()
            for at, path in enumerate(self.files):
                if path == "-":
                    self._keep(at, scan_batch([path], self.settings))
            while self.workers:
                self._wait()
        finally:
            for worker in self.workers.values():
                worker.close(kill=True)
        return [self.made[at] for at in range(len(self.files))]

    def _keep(self, start: int, reports: list[ScanReport]) -> None:
        self.made.update(enumerate(reports, start))
        if self.progress is not None:
            self.progress(len(self.made), len(self.files))

    # --- workers --------------------------------------------------------------------------

    def _start(self) -> None:
        """As many as are wanted and there is work for."""
        while self.waiting and len(self.workers) < self.jobs:
            try:
                worker = self._fork()
            except OSError as error:
                if self.workers:
                    return  # the others will do it
                if not self.made:
                    raise
                self._give_up(error)
                return
            self.workers[worker.answers] = worker
            self.poll.register(worker.answers, select.POLLIN)
            self._tell(worker)

    def _give_up(self, error: OSError) -> None:
        why = f"no process could be started to read it: {error.strerror or error}"
        while self.waiting:
            for at in range(*self.waiting.popleft()):
                self._keep(at, [unread(self.files[at], PtInspectError(why))])

    def _fork(self) -> _Worker:
        orders, told = os.pipe()
        answers, given = os.pipe()
        try:
            process = os.fork()
        except OSError:
            for each in (orders, told, answers, given):
                os.close(each)
            raise
        if process:
            os.close(orders)
            os.close(given)
            return _Worker(process, told, answers)
        try:
            for each in (told, answers, *(w.orders for w in self.workers.values())):
                os.close(each)  # or it would not be seen that this end of a pipe is closed
            _work(orders, given, self.files, self.settings)
        finally:
            os._exit(1)

    def _tell(self, worker: _Worker) -> None:
        """Of ranges, as many as it should know of; of no more, if there are none."""
        while self.waiting and len(worker.asked) < AHEAD:
            asked = self.waiting.popleft()
            if not worker.asked:
                worker.begin()
            worker.asked.append(asked)
            try:
                os.write(worker.orders, _ORDER.pack(*asked))
            except OSError:  # it is dead, as its other pipe will tell
                return

    def _wait(self) -> None:
        """Until one of them says something, or one has said nothing for too long."""
        first = min(worker.until for worker in self.workers.values())
        heard = dict(self.poll.poll(max(first - time.monotonic(), 0) * 1000 + 1))
        silent = [worker for answers, worker in self.workers.items() if answers not in heard]
        for answers in heard:
            worker = self.workers[answers]
            data = os.read(answers, CHUNK)
            worker.received += data
            if not data:
                self._lose(worker, "the process that read it died")
            else:
                self._take(worker)
        for worker in silent:
            self._hurry(worker)

    def _hurry(self, worker: _Worker) -> None:
        """Ends one that has taken too long. Only now its files' sizes are asked for."""
        if time.monotonic() < worker.until:
            return
        limit = seconds(self.files[slice(*worker.asked[0])])
        worker.until = worker.since + limit
        if time.monotonic() >= worker.until:
            self._lose(worker, f"it took more than {limit:.0f} seconds")

    def _take(self, worker: _Worker) -> None:
        """The answers that are whole. Who has no more to do is sent home."""
        received = worker.received
        while len(received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
            if len(received) < end:
                return
            reports = [_report(row) for row in json.loads(received[_LENGTH.size : end])]
            self._keep(worker.asked.popleft()[0], reports)
            del received[:end]
            if worker.asked:
                worker.begin()
            self._tell(worker)
        if not worker.asked:
            self._dismiss(worker, kill=False)

    def _dismiss(self, worker: _Worker, kill: bool) -> None:
        self.poll.unregister(worker.answers)
        del self.workers[worker.answers]
        worker.close(kill)

    def _lose(self, worker: _Worker, why: str) -> None:
        """What it was at is asked again, file by file; another takes its place."""
        self._dismiss(worker, kill=True)
        if worker.asked:
            start, stop = worker.asked.popleft()
            self.waiting.extendleft(reversed(worker.asked))
            if stop - start > 1:
                self.waiting.extend((at, at + 1) for at in range(start, stop))
            else:
                self._keep(start, [unread(self.files[start], PtInspectError(why))])
        self._start()


def _ranges(files: list[str], jobs: int) -> list[tuple[int, int]]:
    """Ranges of the files, without standard input."""
    size = max(1, min(FORKED_BATCH, -(-len(files) // (4 * jobs))))
    made: list[tuple[int, int]] = []
    start = 0
    for end in (*(at for at, path in enumerate(files) if path == "-"), len(files)):
        made += [(at, min(at + size, end)) for at in range(start, end, size)]
        start = end + 1
    return made


def warm() -> None:
    """Loads here what all the workers would load, each for itself."""
    import ptinspect.safety.containers.zip  # noqa: F401
    from ptinspect.safety.policy.table import policy

    policy()


_JSON = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


def _report(row: Sequence[Any]) -> ScanReport:
    """A report from the lists that JSON makes of its tuples."""
    made = ScanReport._make(row)
    return made._replace(
        findings=tuple(map(Finding._make, made.findings)),
        members=tuple(map(_report, made.members)),
        load=LoadAdvice._make(made.load) if made.load is not None else None,
        steps=tuple(made.steps),
        errors=tuple(map(Unread._make, made.errors)),
        notes=tuple(made.notes),
    )


def _work(orders: int, answers: int, files: list[str], settings: Settings) -> NoReturn:
    """What a worker does, until nobody asks it any more."""
    while order := os.read(orders, _ORDER.size):
        start, stop = _ORDER.unpack(order)
        data = _JSON(scan_batch(files[start:stop], settings)).encode()
        told = memoryview(_LENGTH.pack(len(data)) + data)
        while told:
            told = told[os.write(answers, told) :]
    os._exit(0)


# ---


if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.limits import Limits
    from ptinspect.safety.report.report import ScanReport

    Settings: TypeAlias = "tuple[tuple[str, ...], Limits, tuple[str, ...]]"
    """allow, limits, commands: see `scan`."""

MANY = 128
"""Files for which a second process pays."""

SECONDS, PER_SECOND = 120, 1 << 21
"""A file may take this long, and a second more for each so many bytes: far above what any
takes."""


def scan_batch(paths: list[str], settings: Settings) -> list[ScanReport]:
    """What a worker does."""
    from ptinspect.safety.scan import scan

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


# ---


if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

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
