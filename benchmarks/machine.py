"""Measure the pickle machine alone, on the pickle of a state_dict of 20,000 tensors and on one ten
times as large. `python -m benchmarks.machine`

It is compared with `pickletools.genops` in the same process: the best of several alternating
rounds.
"""

from __future__ import annotations

import pickletools
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from benchmarks import files
from benchmarks.side_by_side import side_by_side
from ptinspect.pickling.machine import run

ROUNDS = 9
EXTRACT = """
import sys, zipfile
open(sys.argv[2], "wb").write(zipfile.ZipFile(sys.argv[1]).read("many/data.pkl"))
"""
RUN = "import sys; from ptinspect.pickling.machine import run; run(open(sys.argv[1], 'rb').read())"


def best(*works: Callable[[], object]) -> list[float]:
    """The least CPU seconds of each, over rounds in which they take turns."""
    least = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            begin = time.process_time()
            work()
            least[number] = min(least[number], time.process_time() - begin)
    return least


def against_genops(data: bytes) -> bool:
    ours, plain, theirs = best(
        lambda: run(data),
        lambda: run(data, plain=True),
        lambda: deque(pickletools.genops(data), maxlen=0),
    )
    met = theirs / ours >= 1
    print(
        f"{'ok  ' if met else 'MISS'}  the machine on 20,000 tensors, against pickletools.genops: "
        f"{theirs / ours:.2f} times as fast (must 1.00)   {ours * 1000:.0f} ms (opcode by opcode "
        f"{plain * 1000:.0f} ms) against {theirs * 1000:.0f} ms"
    )
    return met


def tenfold(less: Path, much: Path) -> bool:
    """Ten times the input in at most eleven times the time, as whole processes."""
    ours, theirs = ([sys.executable, "-c", RUN, str(file)] for file in (much, less))
    title = "the machine on 200,000 tensors, against 20,000"
    return side_by_side(title, ours=ours, theirs=theirs, must=1 / 11)


def pickled(here: Path, count: int) -> Path:
    """The data.pkl of a state_dict of `count` tensors. Taken out by another process, since Linux
    counts to a new one the most memory that its parent had until then."""
    file = files.state_dict(here / "many.pt", count)
    made = here / f"{count}.pkl"
    subprocess.run([sys.executable, "-c", EXTRACT, str(file), str(made)], check=True)
    return made


def main() -> int:
    with files.folder() as here:
        less, much = pickled(here, 20_000), pickled(here, 200_000)
        met = [tenfold(less, much), against_genops(less.read_bytes())]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
