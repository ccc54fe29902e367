"""Run two commands alternately and compare their times as whole processes.

A B A B …, so that a machine that becomes slower does so for both. The result has the medians of the
runs, and the median of the ratios of the pairs; a first pair warms up and does not count.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

PAIRS = int(os.environ.get("PTINSPECT_BENCH_PAIRS", "7"))


class Run(NamedTuple):
    """seconds: from start to end. megabytes: peak resident memory (0 if unknown)."""

    seconds: float
    megabytes: float


def once(command: Sequence[str]) -> Run:
    """Runs `command`, its output thrown away. It must end with 0, else what it said on standard
    error is shown. Compiled modules are kept, as an installed program's are."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        code, peak = _wait(process)
        seconds = time.perf_counter() - begin
        if code:
            said.seek(0)
            text = said.read().decode(errors="replace")
            raise SystemExit(f"{text}exit code {code}: {' '.join(command)}")
    return Run(seconds, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The exit code, and the most memory that was resident, as getrusage has it."""
    if not hasattr(os, "wait4"):
        return process.wait(), 0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss


class Result(NamedTuple):
    """The medians of both, and of how many times faster `ours` is than `theirs`."""

    ours: Run
    theirs: Run
    faster: float


def side_by_side(
    title: str,
    *,
    ours: Sequence[str],
    theirs: Sequence[str],
    must: float,
    megabytes: float | None = None,
    pairs: int = PAIRS,
) -> bool:
    """Measures and prints a line; whether `ours` is at least `must` times as fast (below 1: may
    take so much longer), and needs no more than `megabytes`."""
    result = measure(ours, theirs, pairs)
    met = result.faster >= must and (megabytes is None or result.ours.megabytes <= megabytes)
    print(
        f"{'ok  ' if met else 'MISS'}  {title}: {result.faster:.2f} times as fast (must {must:.2f})"
        f"   {result.ours.seconds * 1000:.0f} ms, {result.ours.megabytes:.0f} MB"
        f"   against {result.theirs.seconds * 1000:.0f} ms, {result.theirs.megabytes:.0f} MB",
        flush=True,
    )
    return met


def measure(ours: Sequence[str], theirs: Sequence[str], pairs: int = PAIRS) -> Result:
    """Both, in turn."""
    once(ours), once(theirs)
    runs = [(once(ours), once(theirs)) for _ in range(pairs)]
    return Result(
        _median([mine for mine, _ in runs]),
        _median([other for _, other in runs]),
        statistics.median(other.seconds / mine.seconds for mine, other in runs),
    )


def _median(runs: Sequence[Run]) -> Run:
    return Run(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.megabytes for run in runs),
    )
