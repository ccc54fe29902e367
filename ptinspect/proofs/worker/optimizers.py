"""The optimizers and schedulers of a training: one, or several over one model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch.optim import lr_scheduler, swa_utils

from ptinspect.proofs.worker.checkpoint import Checkpoint
from ptinspect.proofs.worker.reporting import CannotRun
from ptinspect.proofs.worker.user_code import optimizer_class

# Per scheduler: the keys that together only its state has, and arguments of its constructor.
SCHEDULERS: tuple[tuple[str, str, str], ...] = (
    ("ReduceLROnPlateau", "patience cooldown threshold_mode", "mode factor patience"),
    ("OneCycleLR", "total_steps _schedule_phases", "total_steps"),
    ("CyclicLR", "total_size step_ratio max_lrs", "mode gamma cycle_momentum"),
    ("CosineAnnealingWarmRestarts", "T_0 T_mult", "T_0 T_mult eta_min"),
    ("CosineAnnealingLR", "T_max eta_min", "T_max eta_min"),
    ("PolynomialLR", "total_iters power", "total_iters power"),
    ("LinearLR", "start_factor end_factor total_iters", "start_factor end_factor total_iters"),
    ("ConstantLR", "factor total_iters", "factor total_iters"),
    ("StepLR", "step_size gamma", "step_size gamma"),
    ("MultiStepLR", "milestones gamma", "milestones gamma"),
    ("SWALR", "anneal_epochs", "anneal_epochs"),
    ("ExponentialLR", "gamma", "gamma"),
)


class Optimizers:
    """Optimizers that step together, such as Muon for the matrices and AdamW for all others."""

    def __init__(self, members: list[Any]) -> None:
        self.members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        return {key: state for member in self.members for key, state in member.state.items()}

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad()

    def step(self, closure: Callable[[], Any], scaler: Any) -> Any:
        """Make one step with the gradients of the closure, and return its loss."""
        first: Any = self.members[0]
        if isinstance(first, torch.optim.LBFGS):
            return first.step(closure)  # type: ignore[no-untyped-call]
        loss = closure()
        for member in self.members:
            member.step() if scaler is None else scaler.step(member)
        if scaler is not None:
            scaler.update()
        return loss

    def names(self, model: Any) -> list[str]:
        """Return the names of the optimizers' parameters, in their order."""
        names = {id(value): name for name, value in model.named_parameters()}
        return [
            names.get(id(value), f"#{index}")
            for group in self.param_groups
            for index, value in enumerate(group["params"])
        ]


class Schedulers:
    """Schedulers that step together, one per optimizer."""

    def __init__(self, members: list[Any]) -> None:
        self.members = members

    def step(self, loss: float) -> None:
        """Step all, without torch's warning that the optimizer was not stepped before."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for member in self.members:
                plateau = isinstance(member, lr_scheduler.ReduceLROnPlateau)
                member.step(loss) if plateau else member.step()

    def state_dicts(self) -> list[dict[str, Any]]:
        return [member.state_dict() for member in self.members]

    def load_state_dicts(self, states: list[Any]) -> None:
        for member, state in zip(self.members, states, strict=False):
            member.load_state_dict(state)


def build_optimizers(
    module: Any, model: Any, checkpoint: Checkpoint, user_class: str | None
) -> Optimizers:
    """Return optimizers of the user's function, or of the classes that the file records.

    They are over `model.parameters()` if the file has one of one group, as in a plain script.
    """
    if hasattr(module, "make_optimizer"):
        return Optimizers(as_list(module.make_optimizer(model)))
    parameters = dict(model.named_parameters())
    members = []
    names = iter(checkpoint.names)
    recorded_members = zip(checkpoint.classes or [None], checkpoint.states or [{}], strict=True)
    for recorded_class, state in recorded_members:
        class_path = user_class or recorded_class
        if class_path is None:
            raise CannotRun(
                "the file does not tell which optimizer it was trained with",
                "give --optimizer-class torch.optim.AdamW, or what it was",
            )
        cls = optimizer_class(class_path)
        recorded = state.get("param_groups", [{}])
        if len(checkpoint.groups) > 1:
            group_names = [list(islice(names, len(group["params"]))) for group in recorded]
            groups = [
                {"params": [parameters[name] for name in each if name in parameters]}
                for each in group_names
            ]
        else:
            trainable = [value for value in parameters.values() if value.requires_grad]
            if len(checkpoint.slots) == len(parameters) != len(trainable):
                trainable = list(parameters.values())
            if cls is getattr(torch.optim, "Muon", None):  # it accepts no other parameters
                trainable = [value for value in trainable if value.ndim == 2]
            groups = [{"params": trainable}]
        accepted = inspect.signature(cls.__init__).parameters.keys() - {"self", "params"}
        options = {key: value for key, value in recorded[0].items() if key in accepted}
        if isinstance(options.get("lr"), torch.Tensor):
            options["lr"] = options["lr"].clone()
        members.append(cls(groups, **options))
    return Optimizers(members)


def build_schedulers(module: Any, checkpoint: Checkpoint, optimizers: Optimizers) -> Any:
    """Return schedulers of the user's function, or of the classes that the states tell.

    None if there is neither a function nor a state.
    """
    members = optimizers.members
    if hasattr(module, "make_scheduler"):
        argument = members[0] if len(members) == 1 else members
        return Schedulers(as_list(module.make_scheduler(argument)))
    states = checkpoint.schedulers
    if not states:
        return None
    if len(states) != len(members):
        raise CannotRun(
            f"the file has {len(states)} schedulers and {len(members)} optimizers",
            "write a function make_scheduler(optimizer) in the file of the model's class",
        )
    groups = [member.param_groups for member in members]
    if checkpoint.states:
        groups = [state["param_groups"] for state in checkpoint.states]
    triples = zip(states, members, groups, strict=True)
    return Schedulers([_scheduler_of(*triple) for triple in triples])


def _scheduler_of(state: dict[str, Any], optimizer: Any, groups: list[Any]) -> Any:
    """Return a scheduler of the class that wrote `state`, without loading it.

    A scheduler's state does not record its class, but its keys tell it.
    """
    if "_schedulers" in state:
        parts = [_scheduler_of(part, optimizer, groups) for part in state["_schedulers"]]
        if "_milestones" in state:
            return lr_scheduler.SequentialLR(optimizer, parts, state["_milestones"])
        return lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)
    for name, keys, argument_names in SCHEDULERS:
        if not all(key in state for key in keys.split()) or state.get("_scale_fn_custom"):
            continue
        arguments = {key: state[key] for key in argument_names.split() if key in state}
        if name == "MultiStepLR":
            arguments["milestones"] = sorted(state["milestones"])
        elif name == "OneCycleLR":
            arguments["max_lr"] = [group.get("max_lr", 0.1) for group in groups]
        elif name == "SWALR":
            arguments["swa_lr"] = [group.get("swa_lr", 0.1) for group in groups]
        elif name == "CyclicLR":
            arguments |= {"base_lr": state["base_lrs"], "max_lr": state["max_lrs"]}
            arguments["step_size_up"] = round(state["total_size"] * state["step_ratio"])
        cls = getattr(lr_scheduler, name, None) or getattr(swa_utils, name)
        return cls(optimizer, **arguments)
    raise CannotRun(
        "the scheduler's state does not tell its class",
        "write a function make_scheduler(optimizer) in the file of the model's class",
    )


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
