"""Two commands in turn, in one run: their times as whole processes, and the ratio.

A B A B …, so that a machine that grows slower does so for both. Quoted are the medians of the
counted runs and the median of the ratios pair by pair; one pair goes uncounted, to warm up.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

PAIRS = int(os.environ.get("PTINSPECT_BENCH_PAIRS", "7"))


class Run(NamedTuple):
    """seconds: from start to end. megabytes: the most memory that was resident (0: unknown)."""

    seconds: float
    megabytes: float


def once(command: Sequence[str]) -> Run:
    """Runs `command`, its output thrown away. It must end with 0. Compiled modules are kept, as
    an installed program's are."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        code, peak = os.waitstatus_to_exitcode(status), usage.ru_maxrss
        process.returncode = code
    else:
        code, peak = process.wait(), 0
    seconds = time.perf_counter() - begin
    if code:
        raise SystemExit(f"exit code {code}: {' '.join(command)}")
    return Run(seconds, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


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
