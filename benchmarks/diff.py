"""The budget of `diff`: `python -m benchmarks.diff [NAME…]`

Against `cmp` of the same two files, which reads both and compares bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import files
from benchmarks.side_by_side import side_by_side

GIB = 1 << 30
PAIRS = 3
MEGABYTES = 200

_MODEL = """
import sys, torch
path, size = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
side = 4096
block = torch.randn(side, side)
tensors = {f"layers.{n}.weight": block + n for n in range(size // (4 * side * side))}
torch.save(tensors, path)
"""
_CHANGE = """
import sys, torch
tensors = torch.load(sys.argv[1], mmap=True)
key = list(tensors)[3]
tensors[key] = tensors[key].clone()
tensors[key][5, 5] += 1
torch.save(tensors, sys.argv[2])
"""


def _diff(a: Path, b: Path) -> list[str]:
    """`ptinspect diff`, whose exit code 1 for files that differ counts as done."""
    script = f'"{sys.executable}" -m ptinspect diff "$1" "$2"; test $? -le 1'
    return ["sh", "-c", script, "sh", str(a), str(b)]


def _cmp(a: Path, b: Path) -> list[str]:
    """`cmp -l` reads on after the first difference, unless its output is /dev/null."""
    return ["sh", "-c", 'cmp -l "$1" "$2" | wc -l', "sh", str(a), str(b)]


def equal() -> bool:
    """Two equal files of 4 GiB."""
    with files.folder() as here:
        a, b = here / "a.pt", here / "b.pt"
        subprocess.run([sys.executable, "-c", _MODEL, str(a), str(4 * GIB)], check=True)
        shutil.copy(a, b)
        return side_by_side(
            "diff of two equal files of 4 GiB, against cmp",
            ours=_diff(a, b), theirs=_cmp(a, b), must=1 / 2, megabytes=MEGABYTES, pairs=PAIRS,
        )  # fmt: skip


def one_element() -> bool:
    """Two files of 4 GiB of which one element of one tensor differs."""
    with files.folder() as here:
        a, b = here / "a.pt", here / "b.pt"
        subprocess.run([sys.executable, "-c", _MODEL, str(a), str(4 * GIB)], check=True)
        subprocess.run([sys.executable, "-c", _CHANGE, str(a), str(b)], check=True)
        return side_by_side(
            "diff of two files of 4 GiB, one element of one tensor differs, against cmp",
            ours=_diff(a, b), theirs=_cmp(a, b), must=1 / 2, megabytes=MEGABYTES, pairs=PAIRS,
        )  # fmt: skip


BENCHMARKS: dict[str, Callable[[], bool]] = {"equal": equal, "one_element": one_element}


def main() -> None:
    """Run the benchmarks that are named, else all; exit code 1 if one misses its budget."""
    names = sys.argv[1:] or list(BENCHMARKS)
    results = [BENCHMARKS[name]() for name in names]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
