"""Builds a training from a checkpoint and the user's files, and restores its state.

`fixes` says how the checkpoint is read. Without any, it is read as a plain script does: create the
model and an optimizer over `model.parameters()`, load the states and start the next epoch. The
fixes in EVIDENCE read it as the evidence in the file says. Other fixes restore exactly that part
from the snapshot of the uninterrupted training.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker import determinism
from ptinspect.proofs.worker.checkpoint import Checkpoint, recorded_autocast, value_at
from ptinspect.proofs.worker.optimizers import (
    Optimizers,
    Schedulers,
    as_list,
    build_optimizers,
    build_schedulers,
)
from ptinspect.proofs.worker.reporting import CannotRun
from ptinspect.proofs.worker.training import EpochStart, Training
from ptinspect.proofs.worker.user_code import (
    Batches,
    create_model,
    import_model,
    load_file,
    loss_function,
)
from ptinspect.text import join_names

EVIDENCE = (
    "order", "trainable", "buffers-in-optimizer", "learning-rate", "epoch", "mid-epoch", "amp",
)  # fmt: skip
# Epochs up to which a scheduler without a recorded state is stepped forward.
MAX_CATCH_UP = 100_000


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
    determinism.seed_all(seed)
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

    def user_order() -> list[str]:
        if not hasattr(module, "make_optimizer"):
            return []
        return Optimizers(as_list(module.make_optimizer(model))).names(model)

    checkpoint = Checkpoint(root, plan, model, user_order)
    notes = [checkpoint.assumption] if checkpoint.assumption else []
    notes += determinism.prepare_again(options)
    batches.limit_epochs(options["steps"])
    per_step = options.get("per_step")
    if per_step is None:
        per_step = checkpoint.counters.steps_scheduler_per_batch(batches.real_length)
    _load_weights(model, checkpoint, fixes, notes)
    optimizer = build_optimizers(module, model, checkpoint, options["optimizer_class"])
    scheduler = build_schedulers(module, checkpoint, optimizer)
    if scheduler is None and checkpoint.was_scheduled:
        notes.append(
            "the learning rate was scheduled (initial_lr), but no scheduler's state is in the "
            "file: trained at one rate; see make_scheduler(optimizer) in --help"
        )
    scaler = None
    if hasattr(module, "make_scaler"):
        scaler = module.make_scaler()
    elif checkpoint.scaler_path is not None:
        scaler = torch.amp.GradScaler(device.split(":")[0])
    file_wins = "amp" in fixes and checkpoint.autocast is not None
    if checkpoint.scaler_path and checkpoint.autocast is None and not hasattr(module, "autocast"):
        notes.append(
            "the file has a GradScaler and does not record autocast: trained without; see "
            "autocast() in --help"
        )
    return Training(
        checkpoint=checkpoint,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=scaler,
        autocast=recorded_autocast(None if file_wins else module, root),
        criterion=loss_function(options["loss"]),
        batches=batches,
        averages={path: copy.deepcopy(value) for path, value in checkpoint.averages.items()},
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


# --- Restore ----------------------------------------------------------------------------------


def _restore_optimizer(training: Training, user_class: str | None, fixes: Fixes) -> None:
    optimizer, checkpoint = training.optimizer, training.checkpoint
    if checkpoint.states and len(checkpoint.states) != len(optimizer.members):
        raise CannotRun(
            f"the file has {len(checkpoint.states)} optimizers, and make_optimizer(model) returns "
            f"{len(optimizer.members)}"
        )
    for index, state in enumerate(checkpoint.states):
        member = optimizer.members[index]
        if fixes.names & {"order", "trainable", "buffers-in-optimizer"}:
            state = _rearranged_state(training, index, fixes)
        expected = list(member.defaults)  # load_state_dict adds keys that no file has
        member.load_state_dict(copy.deepcopy(state))
        missing = [key for key in expected if key not in member.param_groups[0]]
        if missing and user_class:
            path = checkpoint.classes[index]
            raise CannotRun(
                f"the state in the file is not of {type(member).__name__}: no {missing[0]}",
                f"it looks like the state of {path}" if path else None,
            )
    snapshot = fixes.part("optimizer")
    if snapshot is not None:
        parameters = dict(training.model.named_parameters())
        for member in optimizer.members:
            own = {id(value) for group in member.param_groups for value in group["params"]}
            for name, parameter_state in snapshot["state"].items():
                if id(parameters[name]) in own:
                    moved = _to_device(copy.deepcopy(parameter_state), training.device)
                    member.state[parameters[name]] = moved
        for group, values in zip(optimizer.param_groups, snapshot["groups"], strict=False):
            group.update(copy.deepcopy(values))


def _rearranged_state(training: Training, index: int, fixes: Fixes) -> dict[str, Any]:
    """Return the recorded states for an optimizer, each for the parameter that it belongs to."""
    checkpoint = training.checkpoint
    state = checkpoint.states[index]
    names = zip(checkpoint.slots, checkpoint.names, strict=True)
    name_of = {slot: name for (owner, slot), name in names if owner == index}
    buffers = {name for name, _ in training.model.named_buffers()}
    order = training.optimizer.names(training.model)
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
        if slot in covered and not (fixes.uninterrupted and checkpoint.lacks_state((index, slot)))
    }
    return {"state": states, "param_groups": groups}


def _restore_scheduler(training: Training, fixes: Fixes) -> None:
    scheduler, checkpoint = training.scheduler, training.checkpoint
    if scheduler is None:
        return
    if checkpoint.schedulers:
        scheduler.load_state_dicts(copy.deepcopy(checkpoint.schedulers))
    elif fixes.uninterrupted:
        _catch_up(training, scheduler)
    snapshot = fixes.part("scheduler")
    if snapshot is not None:
        scheduler.load_state_dicts(copy.deepcopy(snapshot))
    if "learning-rate" in fixes and checkpoint.schedulers:
        for member, owner in zip(scheduler.members, training.optimizer.members, strict=False):
            rates = getattr(member, "_last_lr", None) or []
            for group, rate in zip(owner.param_groups, rates, strict=False):
                group["lr"] = rate


def _catch_up(training: Training, scheduler: Schedulers) -> None:
    """Step a scheduler whose state is in no file, once per finished epoch."""
    counters, groups = training.checkpoint.counters, training.optimizer.param_groups
    if (counters.epoch or 0) > MAX_CATCH_UP:
        return
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    for _ in range(counters.next_position(training.batches.real_length)[0]):
        scheduler.step(0.0)
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
    else:
        training.epoch = counters.next_position(batches.real_length)[0]
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
    matched = training.saved_generators()
    for kind, generator in matched.items():
        determinism.set_generator_state(generator, states[kind])
    for kind in states.keys() - matched.keys():
        own_kind = determinism.rng_kind(states[kind])
        if "data" in kind and own_kind is not None:  # nothing holds such a generator
            checkpoint.rng_paths.setdefault(own_kind, checkpoint.rng_paths.pop(kind))
            states.setdefault(own_kind, states.pop(kind))
    for kind, state in snapshot.get("rng", {}).items():
        if f"rng-{kind}" in fixes:
            states[kind] = state
    determinism.set_rng_states(states)
    for name, state in (fixes.part("generators") or {}).items():
        determinism.set_generator_state(training.generators()[name], state)
    replay = fixes.part("replay")
    training.replay = replay if replay and os.path.exists(replay) else None
    if "mid-epoch" in fixes and "epoch_start" in snapshot:
        training.resumed_epoch = EpochStart(*snapshot["epoch_start"])


def _to_device(value: Any, device: str) -> Any:
    """Move tensors with dimensions; a step count stays where it is, as in torch."""
    if isinstance(value, torch.Tensor):
        return value.to(device) if value.dim() else value
    if isinstance(value, dict):
        return {key: _to_device(item, device) for key, item in value.items()}
    return [_to_device(item, device) for item in value] if isinstance(value, list) else value
