"""Saves a training in the layout of its checkpoint: the same entries, order and omissions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.checkpoint import value_at
from ptinspect.proofs.worker.determinism import generator_state, rng_state_like, rng_states
from ptinspect.proofs.worker.training import Training


def save_checkpoint(training: Training, path: str, first_epoch: int) -> None:
    """Write the checkpoint of a training that began at `first_epoch`."""
    checkpoint, plan = training.checkpoint, training.checkpoint.plan
    root = _copy_containers(checkpoint.root)
    root = _replace(root, plan["model_path"], _weights(training))
    for index, item in enumerate(plan["optimizers"]):
        recorded = value_at(checkpoint.root, item["path"])
        state: Any = _optimizer_state(training, index)
        if not isinstance(recorded, dict):  # the optimizer object itself was saved
            recorded.load_state_dict(state)
            state = recorded
        root = _replace(root, item["path"], state)
    if training.scheduler is not None:
        scheduler_states = training.scheduler.state_dicts()
        for item, scheduler_state in zip(plan["schedulers"], scheduler_states, strict=False):
            root = _replace(root, item["path"], scheduler_state)
    if checkpoint.scaler_path is not None and checkpoint.scaler:
        root = _replace(root, checkpoint.scaler_path, training.scaler.state_dict())
    for average_path, average in training.averages.items():
        root = _replace(root, average_path, average)
    states = rng_states(training.device)
    states |= {kind: generator_state(v) for kind, v in training.saved_generators().items()}
    for kind, rng_path in checkpoint.rng_paths.items():
        if kind in states:
            recorded = value_at(checkpoint.root, rng_path)
            root = _replace(root, rng_path, rng_state_like(recorded, states[kind]))
    counters, length = checkpoint.counters, training.batches.real_length
    if counters.epoch is not None:
        root = _replace(root, plan["epoch"], counters.epoch + training.epoch - first_epoch)
    elif counters.step is not None and length:
        batch = counters.next_position(length)[1]
        root = _replace(root, plan["step"], training.epoch * length + batch)
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


def snapshot(training: Training) -> dict[str, Any]:
    """Return all state of a training, for the fixes of `loading`."""
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for group in training.optimizer.param_groups
    ]
    states = {name: dict(state) for name, state in training.optimizer_states().items()}
    parts: dict[str, Any] = {
        "weights": {name: value.detach() for name, value in training.model.named_parameters()},
        "buffers": dict(training.model.named_buffers()),
        "optimizer": {"state": states, "groups": groups},
        "rng": rng_states(training.device),
        "generators": {n: generator_state(value) for n, value in training.generators().items()},
    }
    if training.epoch_start is not None:
        parts["epoch_start"] = tuple(training.epoch_start)
    if training.scheduler is not None:
        parts["scheduler"] = training.scheduler.state_dicts()
    if training.scaler is not None:
        parts["scaler"] = training.scaler.state_dict()
    return parts
