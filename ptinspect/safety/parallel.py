"""Scan many files in several processes.

A file that kills or hangs its process takes no other file's report with it: the files that its
process was working on are scanned again, each by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

from ptinspect.errors import PtInspectError
from ptinspect.safety.report import ScanReport, dump_reports, load_reports, unreadable_report
from ptinspect.source.local import MAX_COPY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from concurrent.futures import Executor

    Scan: TypeAlias = Callable[[str], ScanReport]
    Outcomes: TypeAlias = Generator[tuple[range, list[ScanReport]], None, None]
    """Batches, as ranges of indexes of the files, and their reports."""

BATCH = 16
"""Files that a process is given at a time."""

FILES_PER_PROCESS = 64
"""Starting a process takes as long as scanning this many small files."""

BASE_SECONDS = 120
BYTES_PER_SECOND = 1 << 21
"""A file may take BASE_SECONDS, and a second more for every BYTES_PER_SECOND: far above what any
file takes."""

_DIED = "the process that read it died"


def choose_job_count(files: int) -> int:
    """Return how many processes scan so many small files in the shortest time."""
    if files < 2 * FILES_PER_PROCESS or not can_fork():
        return 1
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every POSIX system
        processors = os.cpu_count() or 1
    return min(processors, files // FILES_PER_PROCESS)


def can_fork() -> bool:
    """Return True if a forked copy of this process will work.

    It may not on macOS, whose libraries do not support it, nor in a process with threads: one of
    them may hold a lock at that moment.
    """
    if not hasattr(os, "fork") or sys.platform == "darwin":
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1  # includes threads of C libraries
    except OSError:
        threading = sys.modules.get("threading")
        return threading is None or threading.active_count() == 1


def map_files(
    scan: Scan,
    files: Sequence[str],
    *,
    jobs: int,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:
    """Return `scan(file)` for each file, in order.

    Args:
        scan: a function that can be pickled.
        files: paths. `-`, standard input, is scanned in this process.
        jobs: number of processes; 1 scans all files in this process.
        executor: scans the files instead. Files that it fails to scan are tried again in `jobs`
            processes of this machine.
        progress: called with (files done, files in total).
    """
    reports = {index: scan(path) for index, path in enumerate(files) if path == "-"}
    indexes = [index for index in range(len(files)) if index not in reports]
    paths = [files[index] for index in indexes]
    with closing(_scan_batches(scan, paths, jobs, executor)) as outcomes:
        for batch, batch_reports in outcomes:
            reports.update(zip(indexes[batch.start : batch.stop], batch_reports, strict=True))
            if progress is not None:
                progress(len(reports), len(files))
    return [reports[index] for index in range(len(files))]


def _scan_batches(scan: Scan, paths: list[str], jobs: int, executor: Executor | None) -> Outcomes:
    size = max(1, min(BATCH, -(-len(paths) // (4 * jobs))))
    batches = [range(i, min(i + size, len(paths))) for i in range(0, len(paths), size)]
    if executor is not None:
        batches = list((yield from _submit(executor, scan, paths, batches)))
    elif jobs == 1:
        yield from _scan_here(scan, paths, batches)
        return
    if batches and can_fork():
        yield from _ForkPool(scan, paths, batches, min(jobs, len(batches))).run()
    elif batches:
        yield from _scan_in_pools(scan, paths, batches, jobs)


def _scan_here(scan: Scan, paths: list[str], batches: Sequence[range]) -> Outcomes:
    for batch in batches:
        for index in batch:
            single = range(index, index + 1)
            # A mapped file that becomes shorter kills the process that reads it (SIGBUS).
            if _is_mapped(paths[index]) and can_fork():
                yield from _ForkPool(scan, paths, [single], 1).run()
            else:
                yield single, [scan(paths[index])]


def _is_mapped(path: str) -> bool:
    try:
        return os.path.getsize(path) > MAX_COPY_BYTES
    except (OSError, ValueError):
        return False


def _time_limit(paths: list[str]) -> float:
    """Return the seconds that a batch may take."""
    size = 0
    for path in paths:
        with suppress(OSError):
            size += os.path.getsize(path)
    return BASE_SECONDS + size / BYTES_PER_SECOND


# --- executors ----------------------------------------------------------------------------


def _scan_batch(scan: Scan, paths: list[str]) -> list[ScanReport]:
    return [scan(path) for path in paths]


def _submit(
    executor: Executor, scan: Scan, paths: list[str], batches: list[range], is_ours: bool = False
) -> Generator[tuple[range, list[ScanReport]], None, dict[range, str]]:
    """Yield the reports of an executor; return the batches without reports, with the reason.

    Only an executor that is ours gets a time limit: others may wait for their workers.
    """
    from concurrent.futures import TimeoutError as FutureTimeout

    lost: dict[range, str] = {}
    futures = {}
    for batch in batches:
        try:
            task = (scan, paths[batch.start : batch.stop])
            futures[batch] = executor.submit(_scan_batch, *task)
        except RuntimeError:  # BrokenExecutor: an earlier batch has killed a worker
            lost[batch] = _DIED
    try:
        for batch, future in futures.items():
            limit = _time_limit(paths[batch.start : batch.stop]) if is_ours else None
            try:
                reports = future.result(limit)
            except FutureTimeout:
                lost[batch] = f"it took more than {limit:.0f} seconds"
                for process in list((getattr(executor, "_processes", None) or {}).values()):
                    process.kill()
            except Exception:  # noqa: BLE001 - executors raise anything when a worker dies
                lost[batch] = _DIED
            else:
                yield batch, reports
    finally:
        for future in futures.values():  # when this is interrupted, the executor would go on
            future.cancel()
    return {batch: lost[batch] for batch in batches if batch in lost}


def _scan_in_pools(scan: Scan, paths: list[str], batches: list[range], jobs: int) -> Outcomes:
    """Scan batches where this process cannot be forked."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    context = get_context("spawn")
    while batches:
        with ProcessPoolExecutor(min(jobs, len(batches)), context) as pool:
            lost = yield from _submit(pool, scan, paths, batches, is_ours=True)
        # Batches start in order: one of the first has broken the pool.
        suspects, batches = list(lost)[: jobs + 1], list(lost)[jobs + 1 :]
        for index in (index for batch in suspects for index in batch):
            single = range(index, index + 1)
            with ProcessPoolExecutor(1, context) as pool:
                lost = yield from _submit(pool, scan, paths, [single], is_ours=True)
            if lost:
                yield single, [_lost_report(paths[index], lost[single])]


def _lost_report(path: str, reason: str) -> ScanReport:
    return unreadable_report(path, PtInspectError(reason))


# --- forked processes ---------------------------------------------------------------------

_ORDER = Struct("<QQ")
_LENGTH = Struct("<Q")


@dataclass(slots=True)
class _Worker:
    """A forked process, and the batches that it was given: the current one, then the next."""

    pid: int
    orders: int
    answers: int
    batches: deque[range] = field(default_factory=deque)
    started: float = 0.0
    deadline: float = 0.0

    def start_clock(self) -> None:
        self.started = time.monotonic()
        self.deadline = self.started + BASE_SECONDS

    def read_answer(self) -> bytes | None:
        """Return the next answer; None if the process died before it was complete."""
        head = _read(self.answers, _LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        answer = _read(self.answers, length)
        return answer if length and len(answer) == length else None

    def kill(self) -> str:
        """End the process; return why it died if it was dead before."""
        os.close(self.orders)
        os.close(self.answers)
        with suppress(OSError):  # where SIGCHLD is ignored, no process is left to wait for
            os.kill(self.pid, signal.SIGKILL)
            status = os.waitpid(self.pid, 0)[1]
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS:
                return "the file became shorter while it was read, or its disk failed (SIGBUS)"
        return _DIED


def _read(descriptor: int, length: int) -> bytes:
    """Read `length` bytes from a pipe; fewer only if it was closed."""
    data = bytearray()
    while len(data) < length and (chunk := os.read(descriptor, length - len(data))):
        data += chunk
    return bytes(data)


class _ForkPool:
    """Scans batches in forked copies of this process.

    A ProcessPoolExecutor takes 40 ms more to import and to start, as long as 150 small files take,
    and when one worker dies, it loses the batches of all of them.
    """

    def __init__(self, scan: Scan, paths: list[str], batches: list[range], jobs: int) -> None:
        self.scan = scan
        self.paths = paths
        self.queue = deque(batches)
        self.jobs = jobs
        self.workers: dict[int, _Worker] = {}

    def run(self) -> Outcomes:
        """Yield the batches with their reports."""
        _preload()
        try:
            try:
                self._start_workers()
            except OSError:
                if not self.workers:
                    yield from _scan_here(self.scan, self.paths, self.queue)
            while self.workers:
                for worker, is_ready in self._wait():
                    answer = worker.read_answer() if is_ready else None
                    if answer is not None:
                        batch = worker.batches.popleft()
                        worker.start_clock()
                        self._assign(worker)
                        yield batch, load_reports(answer)
                    elif is_ready:
                        yield from self._on_worker_lost(worker)
                    elif (limit := self._exceeded_limit(worker)) is not None:
                        reason = f"it took more than {limit:.0f} seconds"
                        yield from self._on_worker_lost(worker, reason)
        finally:
            for worker in self.workers.values():
                worker.kill()

    def _start_workers(self) -> None:
        """Start processes, as many as there is work for. Raises OSError if one does not start."""
        while self.queue and len(self.workers) < self.jobs:
            worker = self._fork()
            self.workers[worker.answers] = worker
            self._assign(worker)

    def _assign(self, worker: _Worker) -> None:
        """Give a worker its next batches; end it without any."""
        while self.queue and len(worker.batches) < 2:  # one ahead, so that it never waits for us
            batch = self.queue.popleft()
            if not worker.batches:
                worker.start_clock()
            worker.batches.append(batch)
            with suppress(OSError):  # it died, as reading its answer will show
                os.write(worker.orders, _ORDER.pack(batch.start, batch.stop))
        if not worker.batches:
            del self.workers[worker.answers]
            worker.kill()

    def _wait(self) -> list[tuple[_Worker, bool]]:
        """Wait for an answer or a deadline; return the workers, True for those with an answer."""
        import select

        poll = select.poll()
        for descriptor in self.workers:
            poll.register(descriptor, select.POLLIN)
        seconds = min(worker.deadline for worker in self.workers.values()) - time.monotonic()
        ready = {descriptor for descriptor, _ in poll.poll(max(seconds, 0) * 1000 + 1)}
        return [(worker, descriptor in ready) for descriptor, worker in self.workers.items()]

    def _exceeded_limit(self, worker: _Worker) -> float | None:
        """Return the time limit of a worker's current batch if it was exceeded."""
        if time.monotonic() < worker.deadline:
            return None
        batch = worker.batches[0]
        limit = _time_limit(self.paths[batch.start : batch.stop])
        worker.deadline = worker.started + limit
        return limit if time.monotonic() >= worker.deadline else None

    def _on_worker_lost(self, worker: _Worker, reason: str = "") -> Outcomes:
        """Scan the files of a lost worker's current batch again, each by itself."""
        del self.workers[worker.answers]
        cause = worker.kill()
        batch = worker.batches.popleft()
        self.queue.extendleft(reversed(worker.batches))
        if len(batch) == 1:
            yield batch, [_lost_report(self.paths[batch.start], reason or cause)]
        else:
            self.queue.extend(range(index, index + 1) for index in batch)
        try:
            self._start_workers()
        except OSError as error:
            reason = f"no process could be started to read it: {error.strerror or error}"
            while self.queue and not self.workers:
                batch = self.queue.popleft()
                yield batch, [_lost_report(self.paths[index], reason) for index in batch]

    def _fork(self) -> _Worker:
        order_reader, order_writer = os.pipe()
        answer_reader, answer_writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            for descriptor in (order_reader, order_writer, answer_reader, answer_writer):
                os.close(descriptor)
            raise
        if pid:
            os.close(order_reader)
            os.close(answer_writer)
            return _Worker(pid, order_writer, answer_reader)
        try:
            os.close(order_writer)  # so that it reads an end of file when its parent dies
            os.close(answer_reader)
            while order := _read(order_reader, _ORDER.size):
                start, stop = _ORDER.unpack(order)
                data = dump_reports(_scan_batch(self.scan, self.paths[start:stop]))
                answer = memoryview(_LENGTH.pack(len(data)) + data)
                while answer:
                    answer = answer[os.write(answer_writer, answer) :]
        finally:
            os._exit(1)


def _preload() -> None:
    """Load what every worker would load for itself."""
    import ptinspect.safety.containers.zip  # noqa: F401
    from ptinspect.safety.policy import load_policy

    load_policy()
