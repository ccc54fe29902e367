"""Parts of a training that the user names: classes of torch."""

from __future__ import annotations

import traceback
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


def loaded(plan: dict[str, Any], path: str) -> Any:
    """What torch.load makes of a file, on the CPU. CannotRun where a class is not found."""
    try:
        return torch.load(path, map_location="cpu", weights_only=plan["weights_only"])
    except (AttributeError, ImportError) as error:
        traceback.print_exc()
        name = str(error).partition(" on <module")[0]
        raise CannotRun(
            f"torch.load: {name}",
            "put it where Python finds it, that of __main__ into the --model file",
        ) from error
