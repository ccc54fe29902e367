"""Compare `check optimizer` with the start of torch, as whole processes, and measure the check
alone.

    python -m benchmarks.check

Python and click take about two thirds of the whole process in every command. Their time is printed
too, because no check can be faster.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.side_by_side import side_by_side

CHECKPOINT = Path(__file__).parent.parent / "fixtures/checkpoints/resumable.pt"
MUST = 50.0
"""The least ratio of the import of torch to the check alone."""


def by_itself(runs: int = 50) -> float:
    """Return the median seconds for opening, checking and reporting in a running program."""
    from ptinspect.proofs.optimizer import check_optimizer

    taken = []
    for _ in range(runs):
        begin = time.perf_counter()
        check_optimizer(str(CHECKPOINT)).text()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def importing() -> float:
    """Seconds that `import torch` takes in a new process, Python's own start taken off."""
    code = "import time; t = time.perf_counter(); import torch; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return min(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )


def main() -> int:
    ours = [sys.executable, "-m", "ptinspect", "check", "optimizer", str(CHECKPOINT)]
    theirs = [sys.executable, "-c", "import torch"]
    good = side_by_side("check optimizer, whole process", ours=ours, theirs=theirs, must=8.0)
    least = [sys.executable, "-c", "import click"]
    side_by_side("Python and click alone, no more", ours=least, theirs=theirs, must=0.0)
    check, torch = by_itself(), importing()
    print(f"the check by itself: {check * 1e3:.2f} ms; import torch: {torch * 1e3:.0f} ms; "
          f"{torch / check:.0f} times as long (must: {MUST:.0f})")  # fmt: skip
    return 0 if good and torch / check >= MUST else 1


if __name__ == "__main__":
    sys.exit(main())
