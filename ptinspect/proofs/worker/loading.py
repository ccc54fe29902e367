"""Builds a training from a checkpoint and the user's files, and saves it again in the same layout.

A dict of fixes says how the checkpoint is read. Without any, it is read as a plain script does:
create the model and an optimizer over `model.parameters()`, load the states and start the next
epoch. The fixes in EVIDENCE read it as the evidence in the file says. Each other fix has that part
of the uninterrupted training's snapshot as its value, and restores exactly that.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from ptinspect.proofs.worker import CannotRun, determinism, user_code
from ptinspect.proofs.worker.checkpoint import Checkpoint, recorded_autocast, value_at
from ptinspect.proofs.worker.training import (
    Optimizers,
    Training,
    as_list,
    build_optimizers,
    build_schedulers,
)
from ptinspect.text import join_names

Fixes = dict[str, Any]

# How the uninterrupted training reads the checkpoint. No resumed training is `as-recorded`.
EVIDENCE = dict.fromkeys(
    ("order", "trainable", "buffers-in-optimizer", "learning-rate", "amp", "as-recorded")
)
# Epochs up to which a scheduler without a recorded state is stepped forward.
MAX_CATCH_UP = 100_000


def load_training(
    plan: dict[str, Any], options: dict[str, Any], path: str, seed: int, fixes: Fixes
) -> Training:
    """Return a training that goes on from a checkpoint."""
    determinism.seed_all(seed)
    training = _build_training(plan, options, path, fixes)
    _restore_optimizer(training, options["optimizer_class"], fixes)
    schedulers, checkpoint = training.scheduler, training.checkpoint
    epochs, groups = checkpoint.counters.epoch or 0, training.optimizer.param_groups
    if checkpoint.schedulers:
        schedulers.load_state_dicts(copy.deepcopy(checkpoint.schedulers))
    elif "as-recorded" in fixes and epochs <= MAX_CATCH_UP and schedulers.members:
        # Step a scheduler whose state is in no file, once per finished epoch.
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        for _ in range(checkpoint.counters.next_position()[0]):
            schedulers.step(0.0)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    schedulers.load_state_dicts(copy.deepcopy(fixes.get("scheduler", [])))
    if "learning-rate" in fixes and checkpoint.schedulers:
        for member, owner in zip(schedulers.members, training.optimizer.members, strict=False):
            rates = getattr(member, "_last_lr", None) or []
            for group, rate in zip(owner.param_groups, rates, strict=False):
                group["lr"] = rate
    for state in (training.checkpoint.scaler, fixes.get("scaler")):
        if state and training.scaler is not None:
            training.scaler.load_state_dict(copy.deepcopy(state))
    _restore_position(training, options, fixes)
    # The random number generators, and what `Training` replays of the data.
    paths = checkpoint.rng_paths
    states = {kind: value_at(checkpoint.root, rng_path) for kind, rng_path in paths.items()}
    matched = training.saved_generators()
    for kind, generator in matched.items():
        determinism.set_generator_state(generator, states[kind])
    for kind in states.keys() - matched.keys():
        own_kind = determinism.rng_kind(states[kind])
        if "data" in kind and own_kind is not None:  # nothing holds such a generator
            paths.setdefault(own_kind, paths.pop(kind))
            states.setdefault(own_kind, states.pop(kind))
    restored = [fix for fix in fixes if fix.startswith("rng-") and fixes[fix] is not None]
    states |= {fix.removeprefix("rng-"): fixes[fix] for fix in restored}
    determinism.set_rng_states(states | fixes.get("generators", {}), training.generators())
    replay = fixes.get("replay")
    training.replay = replay if replay and os.path.exists(replay) else None
    return training


# --- Build ------------------------------------------------------------------------------------


def _build_training(
    plan: dict[str, Any], options: dict[str, Any], path: str, fixes: Fixes
) -> Training:
    """Return a training with the weights of the checkpoint, and nothing else restored."""
    device = options["device"]
    module, factory = user_code.import_model(options["model"], plan["user_names"])
    root = user_code.load_file(path, plan["weights_only"])
    model = value_at(root, plan["model_path"])
    if not isinstance(model, nn.Module):
        model = user_code.create_model(factory, options["model"])
    model = model.to(device)
    batches = user_code.Batches(options["data"], model, options["seed"])

    def user_order() -> list[str]:
        if not hasattr(module, "make_optimizer"):
            return []
        return Optimizers(as_list(module.make_optimizer(model))).names(model)

    checkpoint = Checkpoint(root, plan, model, user_order, batches.real_length)
    notes = [checkpoint.assumption] if checkpoint.assumption else []
    notes += determinism.prepare_again(options)
    notes += _cast_as_trained(model, checkpoint)
    batches.limit_epochs(options["steps"])
    per_step = options.get("per_step")
    if per_step is None:
        per_step = checkpoint.counters.steps_scheduler_per_batch()
    _load_weights(model, checkpoint, fixes, notes)
    optimizer = build_optimizers(module, model, checkpoint, options["optimizer_class"])
    scheduler = build_schedulers(module, checkpoint, optimizer)
    if not scheduler.members and checkpoint.was_scheduled:
        notes.append(
            "the learning rate was scheduled (initial_lr), but no scheduler's state is in the "
            "file: trained at one rate; see make_scheduler(optimizer) in --help"
        )
    scaler = None
    if hasattr(module, "make_scaler"):
        scaler = module.make_scaler()
    elif checkpoint.has_scaler:
        scaler = torch.amp.GradScaler(device.split(":")[0])
    file_wins = "amp" in fixes and checkpoint.autocast
    if checkpoint.has_scaler and checkpoint.autocast is None and not hasattr(module, "autocast"):
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
        criterion=user_code.loss_function(options["loss"]),
        batches=batches,
        averages={path: copy.deepcopy(value) for path, value in checkpoint.averages.items()},
        device=device,
        per_step=per_step,
        notes=notes,
    )


def _cast_as_trained(model: Any, checkpoint: Checkpoint) -> list[str]:
    """Cast a model, and its inputs, to the dtype that it was trained in. Return a note on it."""
    # If the optimizer's state has the weights' dtypes, they are those of the training: torch gives
    # it those, while weights may be saved with less precision.
    weights = {n: v for n, v in checkpoint.weights.items() if isinstance(v, torch.Tensor)}
    same = {
        value.dtype == weights[name].dtype
        for slot, name in zip(checkpoint.slots, checkpoint.names, strict=False)
        for value in checkpoint.slot_state(slot).values()
        if isinstance(value, torch.Tensor) and value.dim() and value.is_floating_point()
        if name in weights
    }
    dtypes = {name: value.dtype for name, value in weights.items()} if same == {True} else {}
    cast = set[Any]()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        dtype = dtypes.get(name, value.dtype)
        if dtype != value.dtype and dtype.is_floating_point and not is_lazy(value):
            value.data = value.data.to(dtype)
            cast.add(dtype)
    if not cast:
        return []

    def cast_input(value: Any) -> Any:
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if is_float else value

    dtype = next(iter(cast))
    if {parameter.dtype for parameter in model.parameters()} == {dtype}:
        model.register_forward_pre_hook(lambda module, inputs: tree_map(cast_input, inputs))
    return [f"trained in {str(dtype).removeprefix('torch.')}, like the optimizer's state"]


def _load_weights(model: Any, checkpoint: Checkpoint, fixes: Fixes, notes: list[str]) -> None:
    """Load the weights, and freeze the parameters that were not trained."""
    model.train()
    if not checkpoint.holds_module or "weights" in fixes:
        missing = model.load_state_dict(checkpoint.weights, strict=False).missing_keys
        if missing:
            notes.append(f"not in the file: {join_names(missing, 4)}")
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for part in ("weights", "buffers"):
                for name, value in (fixes.get(part) or {}).items():
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
        if fixes.keys() & {"order", "trainable", "buffers-in-optimizer"}:
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
    if "optimizer" in fixes:
        snapshot, parameters = fixes["optimizer"], dict(training.model.named_parameters())
        for member in optimizer.members:
            own = {id(value) for group in member.param_groups for value in group["params"]}
            for name, state in copy.deepcopy(snapshot["state"]).items():
                if id(parameters[name]) in own:
                    state = user_code.to_device(state, training.device, scalars=False)
                    member.state[parameters[name]] = state
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
        if slot in covered
        and not ("as-recorded" in fixes and checkpoint.lacks_state((index, slot)))
    }
    return {"state": states, "param_groups": groups}


def _restore_position(training: Training, options: dict[str, Any], fixes: Fixes) -> None:
    """Set the epoch and the batch to start with."""
    counters, batches = training.checkpoint.counters, training.batches
    if "as-recorded" in fixes:
        training.epoch, training.index = counters.next_position()
        explained = counters.whole_epochs()
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
        training.epoch = counters.next_position()[0]
    training.epoch = fixes.get("epoch", training.epoch)
    if "mid-epoch" in fixes:
        (training.epoch, training.index), training.resumed_epoch = fixes["mid-epoch"]


# --- Save -------------------------------------------------------------------------------------


def save_checkpoint(training: Training, path: str, first_epoch: int) -> None:
    """Write a training that began at `first_epoch`, with the same entries, order and omissions."""
    checkpoint, plan = training.checkpoint, training.checkpoint.plan
    parts: list[tuple[Any, Any]] = [(plan["model_path"], _weights(training))]
    for index, item in enumerate(plan["optimizers"]):
        recorded, state = value_at(checkpoint.root, item["path"]), _optimizer_state(training, index)
        if not isinstance(recorded, dict):  # the optimizer object itself was saved
            recorded.load_state_dict(state)
            state = recorded
        parts.append((item["path"], state))
    scheduler_paths = [item["path"] for item in plan["schedulers"]]
    parts += zip(scheduler_paths, training.scheduler.state_dicts(), strict=False)
    if checkpoint.scaler_path is not None and checkpoint.scaler:
        parts.append((checkpoint.scaler_path, training.scaler.state_dict()))
    parts += training.averages.items()
    states = determinism.rng_states(training.device, training.saved_generators())
    for kind, rng_path in checkpoint.rng_paths.items():
        current = states.get(kind, states.get(f"owned: {kind}"))
        if current is not None:
            recorded = value_at(checkpoint.root, rng_path)
            parts.append((rng_path, determinism.rng_state_like(recorded, current)))
    counters = checkpoint.counters
    if counters.epoch is not None:
        parts.append((plan["epoch"], counters.epoch + training.epoch - first_epoch))
    elif counters.step is not None and counters.length:
        batch = counters.next_position()[1]
        parts.append((plan["step"], training.epoch * counters.length + batch))
    root = _copy_containers(checkpoint.root)
    for part_path, value in parts:
        root = _replace(root, part_path, value)
    torch.save(root, path)


def _copy_containers(root: Any) -> Any:
    if type(root) is dict:
        return {key: _copy_containers(value) for key, value in root.items()}
    return [_copy_containers(value) for value in root] if type(root) is list else root


def _replace(root: Any, path: Any, value: Any) -> Any:
    if not path:
        return value
    parent = value_at(root, path[:-1])
    if isinstance(parent, tuple):
        items = list(parent)
        items[path[-1]] = value
        return _replace(root, path[:-1], tuple(items))
    parent[path[-1]] = value
    return root


def _weights(training: Training) -> Any:
    """Return the whole model, or the state_dict with the file's keys and dtypes."""
    checkpoint = training.checkpoint
    recorded = value_at(checkpoint.root, checkpoint.plan["model_path"])
    if isinstance(recorded, nn.Module):
        return training.model
    current = training.model.state_dict()
    weights: Any = type(recorded)()
    for key, recorded_value in recorded.items():
        value = current.get(key.removeprefix(checkpoint.prefix), recorded_value)
        if isinstance(value, torch.Tensor) and isinstance(recorded_value, torch.Tensor):
            value = value.detach().to(recorded_value.dtype)
        weights[key] = value
    if hasattr(recorded, "_metadata"):
        weights._metadata = recorded._metadata
    return weights


def _optimizer_state(training: Training, index: int) -> dict[str, Any]:
    """Return the state of an optimizer under the file's numbers, without what the file omits."""
    checkpoint, states = training.checkpoint, training.optimizer_states()
    recorded, counters = checkpoint.states[index], checkpoint.counters
    all_lost = not recorded["state"] and checkpoint.keeps_state(index)
    if all_lost and (counters.steps or counters.epoch):
        states = {}
    saved: dict[Any, Any] = {}
    for slot, name in zip(checkpoint.slots, checkpoint.names, strict=True):
        if name in states and slot[0] == index:
            omitted: set[str] = set()
            if checkpoint.slot_state(slot) and checkpoint.lacks_state(slot):
                omitted = states[name].keys() - checkpoint.slot_state(slot).keys()
            saved[slot[1]] = {k: value for k, value in states[name].items() if k not in omitted}
    groups = []
    current_groups = training.optimizer.members[index].state_dict()["param_groups"]
    rates: list[Any] = []
    if index < len(checkpoint.schedulers) and isinstance(checkpoint.schedulers[index], dict):
        rates = checkpoint.schedulers[index].get("_last_lr") or []
    rates = [*rates, *[None] * len(current_groups)]
    for group, current, rate in zip(recorded["param_groups"], current_groups, rates):  # noqa: B905
        new_group = {**current, "params": group["params"]}
        new_group.pop("param_names", None)
        if "param_names" in group:
            new_group["param_names"] = group["param_names"]
        if rate is not None and abs(float(rate) - float(group["lr"])) > 1e-6 * float(group["lr"]):
            new_group["lr"] = group["lr"]  # it is not the one that the scheduler had set
        groups.append(new_group)
    return {**recorded, "state": saved, "param_groups": groups}


def snapshot(training: Training, position: tuple[int, int], replay: str) -> Fixes:
    """Return all state of a training by the fix that restores it, for a resume at `position`."""
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for group in training.optimizer.param_groups
    ]
    states = {name: dict(state) for name, state in training.optimizer_states().items()}
    rng = training.rng_states()
    parts: dict[str, Any] = {
        "weights": {name: value.detach() for name, value in training.model.named_parameters()},
        "buffers": dict(training.model.named_buffers()),
        "optimizer": {"state": states, "groups": groups},
        "scheduler": training.scheduler.state_dicts(),
        "epoch": position[0],
        "mid-epoch": (position, training.epoch_start),
        "generators": {kind: state for kind, state in rng.items() if kind.startswith("owned: ")},
        "replay": replay,
        **{f"rng-{kind}": state for kind, state in rng.items()},
    }
    if training.scaler is not None:
        parts["scaler"] = training.scaler.state_dict()
    return parts
