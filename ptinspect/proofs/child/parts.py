"""Parts of a training that the user names: classes of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ptinspect.proofs.child.failing import CannotRun


def optimizer_class(path: str) -> Any:
    """A class of torch.optim, by its name."""
    kind = getattr(torch.optim, path.removeprefix("torch.optim."), None)
    base = torch.optim.Optimizer
    if not isinstance(kind, type) or not issubclass(kind, base) or kind is base:
        raise CannotRun(
            f"torch.optim has no {path}",
            "give --optimizer-class torch.optim.AdamW, or write make_optimizer(model) beside the "
            "model's class",
        )
    return kind


def loss_of(name: str) -> Any:
    """A loss of torch.nn, by its class's name."""
    if name not in nn.modules.loss.__all__:
        raise CannotRun(f"torch.nn has no loss {name}", "such as MSELoss or CrossEntropyLoss")
    return getattr(nn, name)()
