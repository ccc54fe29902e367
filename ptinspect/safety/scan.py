"""`scan` and `scan_many`: find out whether files can be loaded safely.

A file that kills or hangs the process that scans it takes no other file's report with it.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

from ptinspect.errors import PtInspectError
from ptinspect.limits import LIMITS, Limits
from ptinspect.safety.containers.dispatch import scan_whole
from ptinspect.safety.policy import load_policy
from ptinspect.safety.report import (
    CLEAN,
    DANGEROUS,
    ScanReport,
    dump_reports,
    is_listed,
    load_reports,
    unreadable_report,
)
from ptinspect.safety.scan_state import damaged_report, fit
from ptinspect.source.local import MAX_COPY_BYTES, check_type, find_files, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Sequence
    from concurrent.futures import Executor
    from os import PathLike
    from typing import BinaryIO

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
"""A file may take BASE_SECONDS, and a second more for every BYTES_PER_SECOND: more than any."""

_DIED = "the process that read it died"


def scan(
    path: str | PathLike[str] | BinaryIO, *, allow: Collection[str] = (),
    allow_unknown: Collection[str] = (), limits: Limits | None = None,
    commands: Collection[str] = (),
) -> ScanReport:  # fmt: skip
    """Find out whether a file can be loaded safely. Nothing in it is executed.

    Args:
        path: a file, a binary file object, or `-` for standard input. For folders see `scan_many`.
        allow: names to accept. A glob lifts unknown findings, an exact name dangerous ones.
        allow_unknown: names and globs that lift unknown findings only.
        limits: bounds on memory and work.
        commands: subcommands of ptinspect that the report may recommend.

    Returns:
        The report. Errors do not propagate: a file that cannot be read is "unreadable".
    """
    check_type(path)
    return scan_file(path, tuple(allow), tuple(allow_unknown), limits or LIMITS, tuple(commands))


def scan_file(
    path: str | PathLike[str] | BinaryIO, allow: Collection[str], allow_unknown: Collection[str],
    limits: Limits, commands: Collection[str], advise_clean: bool = True,
) -> ScanReport:  # fmt: skip
    """Scan a file; see `scan`. Without `advise_clean`, a report has advice if `text_lines` lists it
    among several."""
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "-")
    try:
        with open_source(path) as source:
            state = scan_whole(source, limits)
            report = state.report(allow, allow_unknown)
            if report.verdict != CLEAN:
                report = damaged_report(state, report, source)
            if advise_clean or is_listed(report, several=True):
                from ptinspect.safety.load_advice import next_steps, state_load_advice

                load = None
                if not state.errors and report.verdict != DANGEROUS:
                    load = state_load_advice(state)
                steps = next_steps(state, report.verdict, load, commands)
                report = replace(report, load=load, steps=tuple(steps))
            return fit(report, limits.report_bytes)
    except PtInspectError as raised:
        error = raised
    except MemoryError:
        error = PtInspectError("there is not enough memory to read it")
    except Exception as bug:  # noqa: BLE001 - a bug on one file must not hide the other files
        message = f"a bug in ptinspect: {type(bug).__name__}: {bug}"
        error = PtInspectError(message, hint="please report it, with the file if you can")
    return unreadable_report(str(name), error)


def scan_many(
    paths: Iterable[str | PathLike[str]], executor: Executor | None = None, *, jobs: int | None = 1,
    allow: Collection[str] = (), allow_unknown: Collection[str] = (), exclude: Collection[str] = (),
    limits: Limits | None = None, commands: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:  # fmt: skip
    """Scan many files; a folder means all files below it.

    Args:
        paths: files, folders, and globs.
        executor: any `concurrent.futures.Executor` whose workers see the same files.
        jobs: without an executor, the number of processes; None chooses the fastest number. A
            process that dies takes no other file's report with it.
        allow: see `scan`.
        allow_unknown: see `scan`.
        exclude: globs of paths, names and folders to leave out.
        limits: see `scan`.
        commands: see `scan`.
        progress: called with (files done, files in total).

    Returns:
        One report per file, in order.
    """
    files = list(find_files([os.fspath(path) for path in paths], exclude, Counter()))
    one = partial(
        scan_file, allow=tuple(allow), allow_unknown=tuple(allow_unknown),
        limits=(limits or LIMITS).shared_by(len(files)), commands=tuple(commands),
    )  # fmt: skip
    return map_files(one, files, jobs=jobs, executor=executor, progress=progress)


# --- processes ----------------------------------------------------------------------------


def choose_job_count(files: int) -> int:
    """Return how many processes scan so many small files in the shortest time."""
    if files < 2 * FILES_PER_PROCESS or not can_fork():
        return 1
    has_affinity = hasattr(os, "sched_getaffinity")  # not on every POSIX system
    processors = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
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
    scan: Scan, files: Sequence[str], *, jobs: int | None, executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:  # fmt: skip
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
    size = max(1, min(BATCH, -(-len(indexes) // (4 * jobs))))
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
        for index in (index for batch in batches for index in batch):
            # A mapped file that becomes shorter kills the process that reads it (SIGBUS).
            if _file_size(files[index]) > MAX_COPY_BYTES and can_fork():
                yield from _scan_in_forks(scan, files, [(index,)], 1)
            else:
                yield {index: scan(files[index])}
        return
    if batches and can_fork():
        yield from _scan_in_forks(scan, files, batches, jobs)
    elif batches:
        yield from _scan_in_pools(scan, files, batches, jobs)


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

_SIGKILL = 9
"""As in `signal`, whose import takes 1 ms."""

_NUMBER = Struct("<I")
_HEADER = Struct("<IQ")
"""The number of a batch, and the length of the reports that follow; 0 when the batch begins."""


@dataclass(slots=True, repr=False, eq=False)
class _Worker:
    """A forked process, the pipe of its answers, and the batch that it scans, since when."""

    pid: int
    answers: int
    batch: Batch = ()
    began: float = 0

    def kill(self) -> str:
        """End the process; return why it died if it was dead before."""
        os.close(self.answers)
        with suppress(OSError):  # where SIGCHLD is ignored, no process is left to wait for
            os.kill(self.pid, _SIGKILL)
            status = os.waitpid(self.pid, 0)[1]
            if os.WIFSIGNALED(status):
                import signal

                if os.WTERMSIG(status) == signal.SIGBUS:
                    return "the file became shorter while it was read, or its disk failed (SIGBUS)"
        return _DIED

    def read(self, length: int) -> bytes:
        """Return `length` bytes of its answers; fewer only if it has ended."""
        data = bytearray()
        while len(data) < length and (chunk := os.read(self.answers, length - len(data))):
            data += chunk
        return bytes(data)


def _scan_in_forks(scan: Scan, files: Sequence[str], batches: list[Batch], jobs: int) -> Outcomes:
    """Scan batches in forked processes, which take their numbers from a common pipe.

    The files of a batch that kills its process, or takes too long, are scanned again one by one. A
    ProcessPoolExecutor would take 30 ms more to import and to start, as long as 150 small files
    take, and when one worker dies, it loses the batches of all of them.
    """
    # What every worker would load for itself.
    import json  # noqa: F401

    load_policy()
    tried: list[Batch] = []
    while batches:
        orders, writer = os.pipe()
        os.write(writer, b"".join(map(_NUMBER.pack, range(len(batches[:MAX_BATCHES])))))
        os.close(writer)
        workers: dict[int, _Worker] = {}
        failure = ""
        try:
            while len(workers) < min(jobs, len(batches)) and not failure:
                failure = _DIED  # if all processes died before they began
                if batches != tried:
                    failure = _start_worker(scan, files, batches, orders, workers)
            if not workers:
                for index, path in ((i, files[i]) for batch in batches for i in batch):
                    yield {index: _lost_report(path, failure) if tried else scan(path)}
                return
            lost = yield from _collect_reports(workers, files, batches[:MAX_BATCHES])
        finally:
            os.close(orders)
            for worker in workers.values():
                worker.kill()
        tried, batches = batches, batches[MAX_BATCHES:]
        for batch, reason in reversed(lost.items()):
            if reason and len(batch) == 1:
                yield {batch[0]: _lost_report(files[batch[0]], reason)}
            else:
                batches = [*([(index,) for index in batch] if reason else [batch]), *batches]


def _start_worker(
    scan: Scan, files: Sequence[str], batches: list[Batch], orders: int,
    workers: dict[int, _Worker],
) -> str:  # fmt: skip
    """Fork a process that scans batches until there are no more. Return why the system refuses."""
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        return f"no process could be started to read it: {error.strerror or error}"
    if pid:
        os.close(writer)
        workers[reader] = _Worker(pid, reader)
        return ""
    try:
        os.close(reader)
        while order := os.read(orders, _NUMBER.size):
            (number,) = _NUMBER.unpack(order)
            os.write(writer, _HEADER.pack(number, 0))
            data = dump_reports([scan(files[index]) for index in batches[number]])
            answer = memoryview(_HEADER.pack(number, len(data)) + data)
            while answer:
                answer = answer[os.write(writer, answer) :]
    finally:
        os._exit(1)


def _collect_reports(
    workers: dict[int, _Worker], files: Sequence[str], batches: list[Batch]
) -> Generator[dict[int, ScanReport], None, dict[Batch, str]]:
    """Yield the reports of processes until all have ended; return the batches without reports, with
    the reason, or "" if none has begun them."""
    import select

    lost = dict.fromkeys(batches, "")
    while workers:
        poll = select.poll()
        for descriptor in workers:
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(1000)}
        for worker in list(workers.values()):
            reason = ""
            if worker.answers in ready:
                header = worker.read(_HEADER.size)
                number, length = _HEADER.unpack(header) if header else (0, 1)  # it has ended
                answer = worker.read(length)
                if not length:
                    worker.batch, worker.began = batches[number], time.monotonic()
                elif len(answer) == length:
                    yield dict(zip(worker.batch, load_reports(answer), strict=True))
                    del lost[worker.batch]
                    worker.batch = ()
                if len(answer) == length:
                    continue
            else:
                seconds = time.monotonic() - worker.began
                if not worker.batch or seconds < BASE_SECONDS:
                    continue
                limit = _time_limit([files[index] for index in worker.batch])
                if seconds < limit:
                    continue
                reason = f"it took more than {limit:.0f} seconds"
            del workers[worker.answers]
            cause = worker.kill()
            if worker.batch:
                lost[worker.batch] = reason or cause
    return lost
