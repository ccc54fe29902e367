"""Builds a training from a checkpoint and the user's files, and restores its state.

`fixes` says how the checkpoint is read. Without any, it is read as a plain script does: create the
model and an optimizer over `model.parameters()`, load the states and start the next epoch. The
fixes in EVIDENCE read it as the evidence in the file says. Other fixes restore exactly that part
from the snapshot of the uninterrupted training.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from ptinspect.proofs.worker.checkpoint import Checkpoint, value_at
from ptinspect.proofs.worker.determinism import seed_all, set_rng_states
from ptinspect.proofs.worker.reporting import CannotRun
from ptinspect.proofs.worker.training import EpochStart, Training, optimizer_order, step_scheduler
from ptinspect.proofs.worker.user_code import (
    Batches,
    create_model,
    import_model,
    load_file,
    loss_function,
    optimizer_class,
)
from ptinspect.text import join_names

EVIDENCE = (
    "order", "trainable", "buffers-in-optimizer", "learning-rate", "epoch", "mid-epoch", "amp",
)  # fmt: skip
MAX_CATCH_UP = 100_000
"""Epochs up to which a scheduler without a recorded state is stepped forward."""

# Per scheduler: the keys that together only its state has, and arguments of its constructor.
SCHEDULERS: tuple[tuple[str, str, str], ...] = (
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


@dataclass(frozen=True, slots=True)
class Fixes:
    """The fixes to apply, and the snapshot to restore parts from.

    The uninterrupted training has no snapshot: it makes one.
    """

    names: frozenset[str]
    snapshot: dict[str, Any] | None

    def __contains__(self, name: str) -> bool:
        return name in self.names

    @property
    def uninterrupted(self) -> bool:
        return self.snapshot is None

    def part(self, name: str) -> Any:
        """Return a part of the snapshot if it has to be restored, else None."""
        return (self.snapshot or {}).get(name) if name in self.names else None


def load_training(
    plan: dict[str, Any],
    options: dict[str, Any],
    path: str,
    seed: int,
    fix_names: tuple[str, ...],
    snapshot: dict[str, Any] | None = None,
) -> Training:
    """Return a training that goes on from a checkpoint."""
    fixes = Fixes(frozenset(fix_names), snapshot)
    seed_all(seed)
    training = _build_training(plan, options, path, fixes)
    _restore_optimizer(training, options["optimizer_class"], fixes)
    _restore_scheduler(training, fixes)
    for state in (training.checkpoint.scaler, fixes.part("scaler")):
        if state and training.scaler is not None:
            training.scaler.load_state_dict(copy.deepcopy(state))
    _restore_position(training, options, fixes)
    _restore_generators(training, fixes)
    return training


# --- Build ------------------------------------------------------------------------------------


def _build_training(
    plan: dict[str, Any], options: dict[str, Any], path: str, fixes: Fixes
) -> Training:
    """Return a training with the weights of the checkpoint, and nothing else restored."""
    device = options["device"]
    module, factory = import_model(options["model"], plan["user_names"])
    root = load_file(path, plan["weights_only"])
    model = value_at(root, plan["model_path"])
    if not isinstance(model, nn.Module):
        model = create_model(factory, options["model"])
    model = model.to(device)
    batches = Batches(options["data"], model, options["seed"])
    make_optimizer = getattr(module, "make_optimizer", None)

    def user_order() -> list[str]:
        return optimizer_order(model, make_optimizer(model)) if make_optimizer else []

    checkpoint = Checkpoint(root, plan, model, user_order)
    if "data" in checkpoint.rng_paths and not batches.generators():  # then it is torch's own
        checkpoint.rng_paths.setdefault("torch", checkpoint.rng_paths.pop("data"))
    notes = [checkpoint.assumption] if checkpoint.assumption else []
    criterion = loss_function(options["loss"])
    batches.limit_epochs(options["steps"])
    per_step = options.get("per_step")
    if per_step is None:
        per_step = checkpoint.counters.steps_scheduler_per_batch(batches.real_length)
    _load_weights(model, checkpoint, fixes, notes)
    if make_optimizer is not None:
        optimizer = make_optimizer(model)
    else:
        optimizer = _build_optimizer(model, checkpoint, options["optimizer_class"])
    scheduler = _build_scheduler(module, checkpoint, optimizer, notes)
    scaler, autocast = _build_precision(module, checkpoint, device, fixes)
    return Training(
        checkpoint=checkpoint,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=scaler,
        autocast=autocast,
        criterion=criterion,
        batches=batches,
        averages={path: _clone_tensors(value) for path, value in checkpoint.averages.items()},
        device=device,
        per_step=per_step,
        notes=notes,
    )


def _load_weights(model: Any, checkpoint: Checkpoint, fixes: Fixes, notes: list[str]) -> None:
    """Load the weights, and freeze the parameters that were not trained."""
    model.train()
    if not checkpoint.holds_module or fixes.part("weights") is not None:
        missing = model.load_state_dict(checkpoint.weights, strict=False).missing_keys
        variables = model.state_dict(keep_vars=True)
        loaded = {id(value) for name, value in variables.items() if name in checkpoint.weights}
        missing = [name for name in missing if id(variables.get(name)) not in loaded]  # not tied
        if missing:
            notes.append(f"not in the file: {join_names(missing, 4)}")
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for part in ("weights", "buffers"):
                for name, value in (fixes.part(part) or {}).items():
                    tensors[name].copy_(value)
    if "trainable" in fixes:
        trained = checkpoint.trained()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained is None or name in trained)


def _build_optimizer(model: Any, checkpoint: Checkpoint, class_path: str | None) -> Any:
    """Return an optimizer over `model.parameters()`, of the user's class or the file's."""
    class_path = class_path or checkpoint.class_path
    if class_path is None:
        raise CannotRun(
            "the file does not tell which optimizer it was trained with",
            "give --optimizer-class torch.optim.AdamW, or what it was",
        )
    cls = optimizer_class(class_path)
    recorded = checkpoint.groups[0] if checkpoint.groups else {}
    accepted = set(inspect.signature(cls.__init__).parameters) - {"self", "params"}
    options = {key: value for key, value in recorded.items() if key in accepted}
    if isinstance(options.get("lr"), torch.Tensor):
        options["lr"] = options["lr"].clone()
    parameters = dict(model.named_parameters())
    if len(checkpoint.groups) > 1:
        names = iter(checkpoint.names)
        groups = []
        for group in checkpoint.groups:
            group_names = [name for _, name in zip(group["params"], names, strict=False)]
            groups.append({"params": [parameters[n] for n in group_names if n in parameters]})
        return cls(groups, **options)
    trainable = [value for value in parameters.values() if value.requires_grad]
    if len(checkpoint.slots) == len(parameters) != len(trainable):
        trainable = list(parameters.values())
    if cls is getattr(torch.optim, "Muon", None):  # it accepts no other parameters
        trainable = [value for value in trainable if value.ndim == 2]
    return cls([{"params": trainable}], **options)


def _build_scheduler(module: Any, checkpoint: Checkpoint, optimizer: Any, notes: list[str]) -> Any:
    make = getattr(module, "make_scheduler", None)
    if make is not None:
        return make(optimizer)
    if checkpoint.schedulers:
        return scheduler_of(checkpoint.schedulers[0], optimizer)
    if checkpoint.was_scheduled:
        notes.append(
            "the learning rate was scheduled (initial_lr), but no scheduler's state is in the "
            "file: trained at one rate; see make_scheduler(optimizer) in --help"
        )
    return None


def scheduler_of(state: dict[str, Any], optimizer: Any) -> Any:
    """Return a scheduler of the class that wrote `state`, without loading it.

    A scheduler's state does not record its class, but its keys tell it.
    """
    if "_schedulers" not in state and "lr_lambdas" not in state and "step_ratio" not in state:
        for name, keys, argument_names in SCHEDULERS:
            if all(key in state for key in keys.split()):
                arguments = {key: state[key] for key in argument_names.split() if key in state}
                if name == "MultiStepLR":
                    arguments["milestones"] = sorted(state["milestones"])
                if name == "OneCycleLR":
                    rates = [group.get("max_lr", 0.1) for group in optimizer.param_groups]
                    arguments["max_lr"] = rates
                return getattr(lr_scheduler, name)(optimizer, **arguments)
    raise CannotRun(
        "the scheduler's state does not tell its class",
        "write a function make_scheduler(optimizer) in the file of the model's class",
    )


def _build_precision(
    module: Any, checkpoint: Checkpoint, device: str, fixes: Fixes
) -> tuple[Any, str | None]:
    """Return the GradScaler and the dtype of autocast, None without."""
    scaler = None
    make_scaler = getattr(module, "make_scaler", None)
    if make_scaler is not None:
        scaler = make_scaler()
    elif checkpoint.scaler_path is not None:
        scaler = torch.amp.GradScaler(device.split(":")[0])
    autocast = getattr(module, "autocast", None)
    if autocast is None or ("amp" in fixes and checkpoint.autocast is not None):
        return scaler, checkpoint.autocast
    return scaler, autocast() if callable(autocast) else autocast


# --- Restore ----------------------------------------------------------------------------------


def _restore_optimizer(training: Training, user_class: str | None, fixes: Fixes) -> None:
    optimizer, checkpoint = training.optimizer, training.checkpoint
    state = checkpoint.optimizer
    if state is not None:
        if fixes.names & {"order", "trainable", "buffers-in-optimizer"}:
            state = _rearranged_state(training, state, fixes)
        expected = list(optimizer.defaults)  # load_state_dict adds keys that no file has
        optimizer.load_state_dict(copy.deepcopy(state))
        group = optimizer.param_groups[0]
        missing = [key for key in expected if key not in group]
        if missing and user_class:
            path = checkpoint.class_path
            raise CannotRun(
                f"the state in the file is not of {type(optimizer).__name__}: no {missing[0]}",
                f"it looks like the state of {path}" if path else None,
            )
    snapshot = fixes.part("optimizer")
    if snapshot is not None:
        parameters = dict(training.model.named_parameters())
        for name, parameter_state in snapshot["state"].items():
            moved = _to_device(copy.deepcopy(parameter_state), training.device)
            optimizer.state[parameters[name]] = moved
        for group, values in zip(optimizer.param_groups, snapshot["groups"], strict=False):
            group.update(copy.deepcopy(values))


def _rearranged_state(training: Training, state: dict[str, Any], fixes: Fixes) -> dict[str, Any]:
    """Return the recorded states for this optimizer, each for the parameter that it belongs to."""
    checkpoint = training.checkpoint
    name_of = dict(zip(checkpoint.slots, checkpoint.names, strict=True))
    buffers = {name for name, _ in training.model.named_buffers()}
    order = training.optimizer_order()
    index_of = {name: index for index, name in enumerate(order)}
    groups = []
    for group in state["param_groups"]:
        slots = list(group["params"])
        if "buffers-in-optimizer" in fixes:
            slots = [slot for slot in slots if name_of[slot] not in buffers]
        if "trainable" in fixes:
            slots = [slot for slot in slots if name_of[slot] in buffers.union(order)]
        if "order" in fixes:
            slots.sort(key=lambda slot: index_of.get(name_of[slot], len(index_of)))
        options = {key: value for key, value in group.items() if key != "param_names"}
        groups.append({**options, "params": slots})
    covered = {slot for group in groups for slot in group["params"]}
    states = {
        slot: value
        for slot, value in state["state"].items()
        if slot in covered and not (fixes.uninterrupted and checkpoint.lacks_state(slot))
    }
    return {"state": states, "param_groups": groups}


def _restore_scheduler(training: Training, fixes: Fixes) -> None:
    scheduler, checkpoint = training.scheduler, training.checkpoint
    if scheduler is None:
        return
    if checkpoint.schedulers:
        scheduler.load_state_dict(copy.deepcopy(checkpoint.schedulers[0]))
    elif fixes.uninterrupted:
        _catch_up(training)
    snapshot = fixes.part("scheduler")
    if snapshot is not None:
        scheduler.load_state_dict(copy.deepcopy(snapshot))
    rates = getattr(scheduler, "_last_lr", None)
    if "learning-rate" in fixes and checkpoint.schedulers and rates:
        for group, rate in zip(training.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate


def _catch_up(training: Training) -> None:
    """Step a scheduler whose state is in no file, once per finished epoch."""
    counters, groups = training.checkpoint.counters, training.optimizer.param_groups
    if (counters.epoch or 0) > MAX_CATCH_UP:
        return
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    for _ in range(counters.next_position(training.batches.real_length)[0]):
        step_scheduler(training.scheduler, 0.0)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


def _restore_position(training: Training, options: dict[str, Any], fixes: Fixes) -> None:
    """Set the epoch and the batch to start with."""
    counters, batches = training.checkpoint.counters, training.batches
    if fixes.uninterrupted:
        training.epoch, training.index = counters.next_position(batches.real_length)
        explained = counters.whole_epochs(batches.real_length)
        if explained is not None:
            epochs, reason = explained
            training.notes.append(
                f"it is assumed that {counters.steps} steps are {epochs} whole epochs: {reason}"
            )
        if batches.limit is not None:
            training.index = min(training.index, batches.limit - 1)
    elif counters.epoch is not None:
        training.epoch = counters.epoch + options["epoch_offset"]
    if fixes.snapshot:
        epoch, index = fixes.snapshot["position"]
        if "epoch" in fixes or "mid-epoch" in fixes:
            training.epoch = epoch
        if "mid-epoch" in fixes:
            training.index = index


def _restore_generators(training: Training, fixes: Fixes) -> None:
    """Set the random number generators, and what `Training` replays of the data."""
    checkpoint, snapshot = training.checkpoint, fixes.snapshot or {}
    states = {kind: value_at(checkpoint.root, path) for kind, path in checkpoint.rng_paths.items()}
    if "data" in states:
        training.batches.set_generator_states([states.pop("data")])
    for kind, state in snapshot.get("rng", {}).items():
        if f"rng-{kind}" in fixes:
            states[kind] = state
    set_rng_states(states)
    if fixes.part("generators") is not None:
        training.batches.set_generator_states(snapshot["generators"])
    training.replay = fixes.part("replay")
    if "mid-epoch" in fixes and "epoch_start" in snapshot:
        training.resumed_epoch = EpochStart(*snapshot["epoch_start"])


def _clone_tensors(state: Any) -> dict[str, Any]:
    return {
        key: value.clone() if isinstance(value, torch.Tensor) else value
        for key, value in state.items()
    }


def _to_device(value: Any, device: str) -> Any:
    """Move tensors with dimensions; a step count stays where it is, as in torch."""
    if isinstance(value, torch.Tensor):
        return value.to(device) if value.dim() else value
    if isinstance(value, dict):
        return {key: _to_device(item, device) for key, item in value.items()}
    return [_to_device(item, device) for item in value] if isinstance(value, list) else value
