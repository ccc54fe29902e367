"""The pickle machine alone, against `pickletools.genops`, on the pickle of a 20,000-tensor
state_dict. `python -m benchmarks.machine`

In one process, since it is the machine that is measured: the best of several rounds in turn.
"""

from __future__ import annotations

import pickletools
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable

from benchmarks import files
from ptinspect.pickling.machine import run

ROUNDS = 9


def best(*works: Callable[[], object]) -> list[float]:
    """The least CPU seconds of each, over rounds in which they take turns."""
    least = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            begin = time.process_time()
            work()
            least[number] = min(least[number], time.process_time() - begin)
    return least


def main() -> int:
    with files.folder() as here:
        file = files.state_dict(here / "many.pt", 20_000)
        with zipfile.ZipFile(file) as archive:
            data = archive.read("many/data.pkl")
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
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
