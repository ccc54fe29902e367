"""Measure `scan` against its budgets. `python -m benchmarks.scan [NAME…]`

It is compared with picklescan, which need not be installed in this environment: the variable
PTINSPECT_BENCH_PICKLESCAN is the path of its command
(`python -m venv DIR && DIR/bin/pip install picklescan`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import files
from benchmarks.side_by_side import side_by_side

_FOLDER = """
import sys, torch
for number in range(int(sys.argv[2])):
    layer = torch.nn.Linear(3, 3)
    adam = torch.optim.Adam(layer.parameters())
    torch.save(
        {"epoch": number, "model": layer.state_dict(), "optimizer": adam.state_dict()},
        f"{sys.argv[1]}/{number:05}.pt",
    )
"""


def scan(*words: str) -> list[str]:
    """Our command, as the installed script runs it."""
    return [sys.executable, "-m", "ptinspect", "scan", *words]


def picklescan(path: str) -> list[str]:
    """The peer's."""
    found = os.environ.get("PTINSPECT_BENCH_PICKLESCAN") or shutil.which("picklescan")
    if found is None:
        raise SystemExit("picklescan is not installed: see the docstring of benchmarks/scan.py")
    return [found, "-p", path]


def folder_of(path: Path, count: int) -> str:
    """A folder of small checkpoints."""
    path.mkdir()
    subprocess.run([sys.executable, "-c", _FOLDER, str(path), str(count)], check=True)
    return str(path)


def many() -> bool:
    """A state_dict of 20,000 tensors, in both of torch's formats."""
    with files.folder() as here:
        made = [
            str(files.state_dict(here / f"many-{name}.pt", 20_000, legacy=name == "legacy"))
            for name in ("zip", "legacy")
        ]
        met = [
            side_by_side(
                f"scan of {Path(file).stem}, 20,000 tensors, against picklescan",
                ours=scan(file),
                theirs=picklescan(file),
                must=4,
            )
            for file in made
        ]
        return all(met)


def folder() -> bool:
    """1,000 small files, on two cores."""
    with files.folder() as here:
        path = folder_of(here / "small", 1_000)
        return side_by_side(
            "scan -j 2 of 1,000 small files, against picklescan",
            ours=scan("-j", "2", path), theirs=picklescan(path), must=2,
        )  # fmt: skip


def tenfold() -> bool:
    """Ten times the input in at most eleven times the time."""
    with files.folder() as here:
        much = str(files.state_dict(here / "much.pt", 100_000))
        less = str(files.state_dict(here / "less.pt", 10_000))
        first = side_by_side(
            "scan, 100,000 tensors, against 10,000",
            ours=scan(much), theirs=scan(less), must=1 / 11,
        )  # fmt: skip
        second = side_by_side(
            "scan, 2,000 files, against 200",
            ours=scan(folder_of(here / "much", 2_000)),
            theirs=scan(folder_of(here / "less", 200)),
            must=1 / 11,
        )
        return first and second


BUDGETS: dict[str, Callable[[], bool]] = {"many": many, "folder": folder, "tenfold": tenfold}

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(BUDGETS)
    met = [BUDGETS[name]() for name in wanted]  # all of them run, whatever the first says
    sys.exit(0 if all(met) else 1)
