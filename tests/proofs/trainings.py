"""Trainings in miniature, and the checkpoints they leave: sound ones, and each fault by itself."""

from __future__ import annotations

import copy
import itertools
import random
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.body(x))))
"""

SPARSE = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Embedding(12, 2, sparse=True)

    def forward(self, x):
        return self.body(x).mean(1)
"""

DROPOUT = NET.replace("torch.tanh(", "nn.functional.dropout(").replace(
    "self.norm(self.body(x))", "self.norm(self.body(x)), 0.3, self.training"
)

DATA = """
import torch
from torch.utils.data import DataLoader, TensorDataset


def samples():
    at = torch.arange(36, dtype=torch.float32).reshape(12, 3)
    return TensorDataset(torch.sin(at), torch.cos(at[:, :2]))


def batches():
    return DataLoader(samples(), batch_size=4, shuffle=False)
"""

SHUFFLED = DATA.replace("shuffle=False", "shuffle=True")

_numbers = itertools.count()


def module(path: Path) -> Any:
    """A file as a module, under a name of its own."""
    made = types.ModuleType(f"tests_training_{next(_numbers)}")
    exec(compile(path.read_text(), str(path), "exec"), made.__dict__)
    return made


def states_of(value: Any) -> Any:
    """The state of an optimizer or scheduler, or those of several."""
    several = isinstance(value, list)
    return [one.state_dict() for one in value] if several else value.state_dict()


class Training:
    """A script's training: two epochs, then a checkpoint of what the caller asks for."""

    def __init__(
        self,
        folder: Path,
        make: Callable[[Any], Any] = lambda p: torch.optim.Adam(p, lr=0.01),
        *,
        net: str = NET,
        data: str = DATA,
        scheduler: Callable[[Any], Any] | None = None,
        per_step: bool = False,
        amp: bool = False,
        scaler: bool = False,
        parameters: Callable[[Any], Any] = lambda model: model.parameters(),
        prepare: Callable[[Any], None] = lambda model: None,
        steps: int = 6,
    ) -> None:
        (folder / "net.py").write_text(net)
        (folder / "batches.py").write_text(data)
        self.folder = folder
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        self.model = module(folder / "net.py").Net()
        prepare(self.model)
        self.optimizer = make(parameters(self.model))
        several = isinstance(self.optimizer, list)
        self.optimizers = self.optimizer if several else [self.optimizer]
        self.scheduler = scheduler(self.optimizer) if scheduler is not None else None
        self.scaler = torch.amp.GradScaler("cpu") if scaler else None
        self.source = module(folder / "batches.py")
        self.ema = copy.deepcopy(self.model.state_dict())
        self.amp, self.per_step, self.left, self.made = amp, per_step, steps, 0
        self.train()

    def train(self) -> None:
        source = self.batches = self.source.batches()
        self.epoch = 0
        while True:
            for x, y in source:
                self.step(x, y)
                self.made += 1
                if self.made == self.left:
                    break
            else:
                self.end()
                if self.made == self.left:
                    return
                self.epoch += 1
                continue
            if self.made % len(source) == 0:
                self.end()
            return

    def end(self) -> None:
        if self.scheduler is not None and not self.per_step:
            for one in self.scheduler if isinstance(self.scheduler, list) else [self.scheduler]:
                plateau = isinstance(one, torch.optim.lr_scheduler.ReduceLROnPlateau)
                one.step(*[0.5] * plateau)

    def step(self, x: Any, y: Any) -> None:
        def closure() -> Any:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.amp):
                loss = nn.functional.mse_loss(self.model(x), y)
            (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)
        elif self.scaler is not None:
            closure()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            closure()
            for optimizer in self.optimizers:
                optimizer.step()
        if self.per_step and self.scheduler is not None:
            self.scheduler.step()

    def parts(self) -> dict[str, Any]:
        """The usual checkpoint."""
        made = {
            "epoch": self.epoch,
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(states_of(self.optimizer)),
        }
        if self.scheduler is not None:
            made["scheduler"] = copy.deepcopy(states_of(self.scheduler))
        if self.scaler is not None:
            made["scaler"] = self.scaler.state_dict()
        if self.amp:
            made["amp"] = "bfloat16"
        return made

    def rng(self) -> dict[str, Any]:
        """The states of the generators."""
        return {
            "torch_rng_state": torch.get_rng_state(),
            "numpy_rng_state": np.random.get_state(),
            "python_rng_state": random.getstate(),
        }

    def save(self, value: object, net: str | None = None) -> dict[str, Any]:
        """The file, and the arguments for `check_resume`. net: the class as it is by now."""
        if net is not None:
            (self.folder / "net.py").write_text(net)
        path = self.folder / "checkpoint.pt"
        torch.save(value, path)
        return {
            "path": str(path),
            "model": f"{self.folder / 'net.py'}:Net",
            "data": f"{self.folder / 'batches.py'}:batches",
        }
