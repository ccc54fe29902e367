"""Learning rate schedulers: a state_dict does not name its class, but its keys tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.optim import lr_scheduler as lrs

from ptinspect.proofs.worker.errors import CannotRun

# The class, the keys that together only it writes, and its constructor's arguments among them.
_SIGNS: tuple[tuple[str, str, str], ...] = (
    ("ReduceLROnPlateau", "patience cooldown threshold_mode", "mode factor patience"),
    ("OneCycleLR", "total_steps _schedule_phases", "total_steps"),
    ("CosineAnnealingWarmRestarts", "T_0 T_mult", "T_0 T_mult eta_min"),
    ("CosineAnnealingLR", "T_max eta_min", "T_max eta_min"),
    ("PolynomialLR", "total_iters power", "total_iters power"),
    ("LinearLR", "start_factor end_factor total_iters", "start_factor end_factor total_iters"),
    ("ConstantLR", "factor total_iters", "factor total_iters"),
    ("StepLR", "step_size gamma", "step_size gamma"),
    ("MultiStepLR", "milestones gamma", "milestones gamma"),
    ("ExponentialLR", "gamma", "gamma"),
)


def scheduler_of(state: dict[str, Any], optimizer: Any) -> Any:
    """A scheduler of the class that wrote `state`, its state not yet loaded. CannotRun for those
    that need functions or other schedulers (LambdaLR, SequentialLR, CyclicLR)."""
    if "_schedulers" not in state and "lr_lambdas" not in state and "step_ratio" not in state:
        for name, signs, arguments in _SIGNS:
            if all(sign in state for sign in signs.split()):
                given = {key: state[key] for key in arguments.split() if key in state}
                if name == "MultiStepLR":
                    given["milestones"] = sorted(state["milestones"])
                if name == "OneCycleLR":
                    given["max_lr"] = [group.get("max_lr", 0.1) for group in optimizer.param_groups]
                return getattr(lrs, name)(optimizer, **given)
    raise CannotRun(
        "the scheduler's state does not tell how to make it",
        "write a function make_scheduler(optimizer) beside the model's class",
    )


def step(scheduler: Any, loss: float) -> None:
    """One step; ReduceLROnPlateau is told the loss."""
    if isinstance(scheduler, lrs.ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch warns of schedulers that are stepped before the optimizer."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
