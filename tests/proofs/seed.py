"""The files of the seed's story: its model, and its data without pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import FIXTURES

SEED_NET = """
from torch import nn


class CustomModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)
"""

SEED_DATA = f"""
import csv

import torch
from torch.utils.data import DataLoader, Dataset


class CustomDataset(Dataset):
    def __init__(self):
        with open({str(FIXTURES / "seed/dataset.csv")!r}) as file:
            self.rows = [(float(row["x"]), float(row["y"])) for row in csv.DictReader(file)]

    def __getitem__(self, index):
        x, y = self.rows[index]
        return torch.FloatTensor([x**2, x]), torch.FloatTensor([y])

    def __len__(self):
        return len(self.rows)


def batches():
    return DataLoader(CustomDataset(), batch_size=128, shuffle=True, drop_last=True)
"""


def seed_files(folder: Path) -> dict[str, Any]:
    (folder / "model.py").write_text(SEED_NET)
    (folder / "data.py").write_text(SEED_DATA)
    return {"model": f"{folder / 'model.py'}:CustomModel", "data": f"{folder / 'data.py'}:batches"}
