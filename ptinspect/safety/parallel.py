"""Scan many files in several processes.

A file that kills or hangs its process takes no other file's report with it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing, suppress
from mmap import mmap
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ptinspect.errors import PtInspectError
from ptinspect.safety.report import ScanReport, dump_reports, load_reports, unreadable_report
from ptinspect.source.local import MAX_COPY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from concurrent.futures import Executor

    Scan: TypeAlias = Callable[[str], ScanReport]
    Batch: TypeAlias = tuple[int, ...]
    """Indexes of files."""
    Outcomes: TypeAlias = Generator[dict[int, ScanReport], None, None]
    """Reports by the index of the file."""

BATCH = 16
"""Files that a process scans before it answers."""

MAX_BATCHES = 1 << 10
"""Batches whose numbers fit into the smallest pipe."""

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
    jobs: int | None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:
    """Return `scan(file)` for each file, in order.

    Args:
        scan: a function that can be pickled.
        files: paths. `-`, standard input, is scanned in this process.
        jobs: number of processes; 1 scans all files in this process, None chooses the fastest.
        executor: scans the files instead. Files that it fails to scan are tried again in `jobs`
            processes of this machine.
        progress: called with (files done, files in total).
    """
    if jobs is None:
        jobs = 1 if executor else choose_job_count(len(files))
    reports = {index: scan(path) for index, path in enumerate(files) if path == "-"}
    indexes = [index for index in range(len(files)) if index not in reports]
    size = max(1, min(BATCH, -(-len(indexes) // (4 * jobs))), -(-len(indexes) // MAX_BATCHES))
    batches = [tuple(indexes[i : i + size]) for i in range(0, len(indexes), size)]
    with closing(_scan_batches(scan, files, batches, jobs, executor)) as outcomes:
        for outcome in outcomes:
            reports.update(outcome)
            if progress is not None:
                progress(len(reports), len(files))
    return [reports[index] for index in range(len(files))]


def _scan_batches(
    scan: Scan, files: Sequence[str], batches: list[Batch], jobs: int, executor: Executor | None
) -> Outcomes:
    if executor is not None:
        batches = list((yield from _submit(executor, scan, files, batches)))
    elif jobs == 1:
        yield from _scan_here(scan, files, batches)
        return
    if batches and can_fork():
        yield from _ForkPool(scan, files, batches, min(jobs, len(batches))).run()
    elif batches:
        yield from _scan_in_pools(scan, files, batches, jobs)


def _scan_here(scan: Scan, files: Sequence[str], batches: list[Batch]) -> Outcomes:
    for batch in batches:
        for index in batch:
            # A mapped file that becomes shorter kills the process that reads it (SIGBUS).
            if _file_size(files[index]) > MAX_COPY_BYTES and can_fork():
                yield from _ForkPool(scan, files, [(index,)], 1).run()
            else:
                yield {index: scan(files[index])}


def _file_size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0


def _time_limit(paths: list[str]) -> float:
    """Return the seconds that files may take."""
    return BASE_SECONDS + sum(map(_file_size, paths)) / BYTES_PER_SECOND


def _lost_report(path: str, reason: str) -> ScanReport:
    return unreadable_report(path, PtInspectError(reason))


# --- executors ----------------------------------------------------------------------------


def _scan_batch(scan: Scan, paths: list[str]) -> list[ScanReport]:
    return [scan(path) for path in paths]


def _submit(
    executor: Executor, scan: Scan, files: Sequence[str], batches: list[Batch],
    is_ours: bool = False,
) -> Generator[dict[int, ScanReport], None, dict[Batch, str]]:  # fmt: skip
    """Yield the reports of an executor; return the batches without reports, with the reason.

    Only an executor that is ours gets a time limit: others may wait for their workers.
    """
    from concurrent.futures import TimeoutError as FutureTimeout

    lost: dict[Batch, str] = {}
    futures = {}
    for batch in batches:
        try:
            futures[batch] = executor.submit(_scan_batch, scan, [files[index] for index in batch])
        except RuntimeError:  # BrokenExecutor: an earlier batch has killed a worker
            lost[batch] = _DIED
    try:
        for batch, future in futures.items():
            limit = _time_limit([files[index] for index in batch]) if is_ours else None
            try:
                reports = future.result(limit)
            except FutureTimeout:
                lost[batch] = f"it took more than {limit:.0f} seconds"
                for process in list((getattr(executor, "_processes", None) or {}).values()):
                    process.kill()
            except Exception:  # noqa: BLE001 - executors raise anything when a worker dies
                lost[batch] = _DIED
            else:
                yield dict(zip(batch, reports, strict=True))
    finally:
        for future in futures.values():  # when this is interrupted, the executor would go on
            future.cancel()
    return {batch: lost[batch] for batch in batches if batch in lost}


def _scan_in_pools(scan: Scan, files: Sequence[str], batches: list[Batch], jobs: int) -> Outcomes:
    """Scan batches where this process cannot be forked."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    context = get_context("spawn")
    while batches:
        with ProcessPoolExecutor(min(jobs, len(batches)), context) as pool:
            lost = yield from _submit(pool, scan, files, batches, is_ours=True)
        # Batches start in order: one of the first has broken the pool.
        suspects, batches = list(lost)[: jobs + 1], list(lost)[jobs + 1 :]
        for index in (index for batch in suspects for index in batch):
            with ProcessPoolExecutor(1, context) as pool:
                lost = yield from _submit(pool, scan, files, [(index,)], is_ours=True)
            for reason in lost.values():
                yield {index: _lost_report(files[index], reason)}


# --- forked processes ---------------------------------------------------------------------

_NUMBER = Struct("<I")
_HEADER = Struct("<IQ")
"""The number of a batch, and the length of the answer that follows."""
_CURRENT = Struct("<qd")
"""The index of the file that a process is scanning (-1: none), and when it began."""


class _Worker(NamedTuple):
    """A forked process, the pipe of its answers, and its slot in the shared memory."""

    pid: int
    answers: int
    slot: int

    def kill(self) -> str:
        """End the process; return why it died if it was dead before."""
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

    The processes take the numbers of their batches from one pipe, and write into shared memory
    which file they are scanning, so that it is known which one has killed or hangs its process. A
    ProcessPoolExecutor takes 40 ms more to import and to start, as long as 150 small files take,
    and when one worker dies, it loses the batches of all of them.
    """

    def __init__(self, scan: Scan, files: Sequence[str], batches: list[Batch], jobs: int) -> None:
        self.scan = scan
        self.files = files
        self.batches = list(batches)
        self.jobs = jobs
        self.left = {index for batch in batches for index in batch}
        self.workers: dict[int, _Worker] = {}
        self.current = mmap(-1, jobs * _CURRENT.size)
        self.failure = _DIED
        self.orders, writer = os.pipe()
        os.write(writer, b"".join(map(_NUMBER.pack, range(len(batches)))))
        os.close(writer)

    def run(self) -> Outcomes:
        """Yield the reports, batch by batch."""
        _preload()
        try:
            while len(self.workers) < self.jobs and self._start_worker(len(self.workers)):
                pass
            if not self.workers:
                for index in sorted(self.left):
                    yield {index: self.scan(self.files[index])}
                return
            while self.workers:
                ready = self._wait()
                for worker in list(self.workers.values()):
                    reports = self._next_reports(worker, worker.answers in ready)
                    self.left.difference_update(reports)
                    if reports:
                        yield reports
            if self.left:
                yield {i: _lost_report(self.files[i], self.failure) for i in self.left}
        finally:
            os.close(self.orders)
            for worker in self.workers.values():
                worker.kill()

    def _start_worker(self, slot: int, first: int | None = None) -> bool:
        """Fork a process, which begins with the batch of the number `first`, if there is one.
        Return False if the system refuses."""
        reader, writer = os.pipe()
        _CURRENT.pack_into(self.current, slot * _CURRENT.size, -1, time.monotonic())
        try:
            pid = os.fork()
        except OSError as error:
            self.failure = f"no process could be started to read it: {error.strerror or error}"
            os.close(reader)
            os.close(writer)
            return False
        if pid:
            os.close(writer)
            self.workers[reader] = _Worker(pid, reader, slot)
            return True
        try:
            os.close(reader)
            self._work(writer, slot * _CURRENT.size, first)
        finally:
            os._exit(1)

    def _work(self, answers: int, slot: int, first: int | None) -> None:
        """Scan batches until there are no more."""
        order = b"" if first is None else _NUMBER.pack(first)
        while order := order or os.read(self.orders, _NUMBER.size):
            (number,) = _NUMBER.unpack(order)
            reports = []
            for index in self.batches[number]:
                _CURRENT.pack_into(self.current, slot, index, time.monotonic())
                reports.append(self.scan(self.files[index]))
            data = dump_reports(reports)
            answer = memoryview(_HEADER.pack(number, len(data)) + data)
            while answer:
                answer = answer[os.write(answers, answer) :]
            order = b""
        _CURRENT.pack_into(self.current, slot, -1, 0)

    def _wait(self) -> set[int]:
        """Wait a second for answers; return the descriptors that have one, or have ended."""
        import select

        poll = select.poll()
        for descriptor in self.workers:
            poll.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(1000)}

    def _next_reports(self, worker: _Worker, is_ready: bool) -> dict[int, ScanReport]:
        """Return the reports of the next batch of a process; {} if it is still busy."""
        if is_ready:
            head = _read(worker.answers, _HEADER.size)
            number, length = _HEADER.unpack(head) if len(head) == _HEADER.size else (0, 0)
            answer = _read(worker.answers, length)
            if not answer or len(answer) < length:
                return self._replace(worker)
            return dict(zip(self.batches[number], load_reports(answer), strict=True))
        index, began = self._current_file(worker)
        seconds = time.monotonic() - began
        if index < 0 or seconds < BASE_SECONDS:
            return {}
        limit = _time_limit([self.files[index]])
        if seconds < limit:
            return {}
        return self._replace(worker, f"it took more than {limit:.0f} seconds")

    def _current_file(self, worker: _Worker) -> tuple[int, float]:
        """Return the index of the file that a process is scanning, and when it began."""
        index, began = _CURRENT.unpack_from(self.current, worker.slot * _CURRENT.size)
        return index, began

    def _replace(self, worker: _Worker, reason: str = "") -> dict[int, ScanReport]:
        """Start another process for the other files of a lost one; return the report on its current
        file. Return {} for a process that has come to its end."""
        del self.workers[worker.answers]
        cause = worker.kill()
        index, _ = self._current_file(worker)
        if index < 0:
            return {}
        batch = next(batch for batch in reversed(self.batches) if index in batch)
        self.batches.append(tuple(i for i in batch if i != index and i in self.left))
        self._start_worker(worker.slot, len(self.batches) - 1)
        is_lost = index in self.left
        return {index: _lost_report(self.files[index], reason or cause)} if is_lost else {}


def _preload() -> None:
    """Load what every worker would load for itself."""
    import _compat_pickle  # noqa: F401
    import json  # noqa: F401

    import ptinspect.safety.containers.zip  # noqa: F401
    from ptinspect.safety.policy import load_policy

    load_policy()
