"""Files for the measurements, written in a temporary folder by torch, or by hand if torch is not
involved."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATE_DICT = """
import collections, sys, torch
path, count, elements, legacy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
names = (f"model.layers.{i // 10}.block{i % 10}.weight" for i in range(count))
made = collections.OrderedDict((name, torch.zeros(elements // 8, 8)) for name in names)
torch.save(made, path, _use_new_zipfile_serialization=not legacy)
"""

_GROW = """
import os, sys, torch
# The bytes of an untouched storage are never written: a sparse file, as large as it says.
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with torch.serialization.skip_data():
    torch.save({f"layer{i}.weight": torch.empty(size // 4) for i in range(count)}, path)
"""


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder; $PTINSPECT_BENCH_DIR says on which disk."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("PTINSPECT_BENCH_DIR")) as path:
        yield Path(path)


def _torch(code: str, *words: object) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True)


def state_dict(path: Path, count: int, *, elements: int = 32, legacy: bool = False) -> Path:
    """A state_dict of `count` float32 tensors of `elements` elements each."""
    _torch(_STATE_DICT, path, count, elements, int(legacy))
    return path


def sparse(path: Path, count: int, size: int) -> Path:
    """A state_dict of `count` tensors of `size` bytes each, whose bytes take no disk."""
    _torch(_GROW, path, count, size)
    return path
