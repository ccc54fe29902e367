"""Measure `stub` against its budget. `python -m benchmarks.stub`

For a full model of 1,000 modules it may take at most 1.5 times as long as `show`. The model is
written with torch.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import files
from benchmarks.side_by_side import side_by_side

MAKE = """
import sys, torch
from torch import nn

class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n, self.conv, self.bn = n, nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n)
        self.act, self.fc = nn.ReLU(), nn.Linear(n, n + 1)

class Big(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(4 + at % 7) for at in range(200)])

torch.save(Big(), sys.argv[1])
"""


def main() -> int:
    with files.folder() as here:
        model = str(here / "big.pt")
        subprocess.run([sys.executable, "-c", MAKE, model], check=True)
        met = side_by_side(
            "stub of a full model of 1,000 modules, against show",
            ours=[sys.executable, "-m", "ptinspect", "stub", model],
            theirs=[sys.executable, "-m", "ptinspect", "show", model],
            must=1 / 1.5,
            pairs=15,
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
