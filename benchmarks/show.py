"""Measure `show` against its budgets. `python -m benchmarks.show [NAME…]`

Each line is one budget: `show` and the command that it is compared with, alternating, in one run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import files
from benchmarks.side_by_side import side_by_side

FIXTURE = "fixtures/seed/model_state_dict.pt"
LOAD = "import torch; torch.load({!r}, weights_only=True, map_location='cpu', mmap={})"


def show(*words: str) -> list[str]:
    """Return the command line of `ptinspect show`."""
    return [sys.executable, "-m", "ptinspect", "show", *words]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def small() -> bool:
    """A small file, against its two dependencies' import alone, and against torch.load."""
    ours = show("fixtures/seed/model.pth")
    imports = python("import click, tabulate")
    load = python(LOAD.format(FIXTURE, False))
    first = side_by_side(
        "show of a small file, against importing click and tabulate",
        ours=ours, theirs=imports, must=1 / 1.6, megabytes=40, pairs=21,
    )  # fmt: skip
    second = side_by_side(
        "show of a small file, against torch.load", ours=ours, theirs=load, must=15
    )
    return first and second


def many() -> bool:
    """A state_dict of 20,000 tensors, as JSON and as a table."""
    with files.folder() as here:
        file = str(files.state_dict(here / "many.pt", 20_000))
        load = python(LOAD.format(file, True))
        first = side_by_side(
            "show -f json, 20,000 tensors, against torch.load",
            ours=show("-f", "json", file), theirs=load, must=8,
        )  # fmt: skip
        second = side_by_side(
            "show -f table --all, 20,000 tensors, against torch.load",
            ours=show("-f", "table", "--all", file), theirs=load, must=6,
        )  # fmt: skip
        return first and second


def large() -> bool:
    """4 GiB against 4 MiB, with the same keys."""
    with files.folder() as here:
        big = str(files.sparse(here / "big.pt", 64, 64 << 20))
        little = str(files.sparse(here / "little.pt", 64, 64 << 10))
        return side_by_side(
            "show of 4 GiB, against 4 MiB of the same keys",
            ours=show(big), theirs=show(little), must=1 / 1.1, pairs=21,
        )  # fmt: skip


def stats() -> bool:
    """The statistics of 1 GiB, against `sha256sum`, which also reads all of it."""
    with files.folder() as here:
        file = str(files.sparse(here / "big.pt", 16, 64 << 20))
        return side_by_side(
            "show --stats of 1 GiB, against sha256sum",
            ours=show("--stats", file), theirs=["sha256sum", file], must=1 / 2,
        )  # fmt: skip


def tenfold() -> bool:
    """Ten times the input in at most eleven times the time."""
    with files.folder() as here:
        much = str(files.state_dict(here / "much.pt", 100_000))
        less = str(files.state_dict(here / "less.pt", 10_000))
        return side_by_side(
            "show -f json, 100,000 tensors, against 10,000",
            ours=show("-f", "json", much), theirs=show("-f", "json", less), must=1 / 11,
        )  # fmt: skip


BUDGETS: dict[str, Callable[[], bool]] = {
    "small": small, "many": many, "large": large, "stats": stats, "tenfold": tenfold,
}  # fmt: skip

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(BUDGETS)
    met = [BUDGETS[name]() for name in wanted]  # all of them run, whatever the first says
    sys.exit(0 if all(met) else 1)
