"""Saves a training in the layout of its checkpoint: the same entries, order and omissions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.checkpoint import Checkpoint, value_at
from ptinspect.proofs.worker.determinism import rng_state_like, rng_states
from ptinspect.proofs.worker.training import Training


def save_checkpoint(training: Training, path: str, first_epoch: int) -> None:
    """Write the checkpoint of a training that began at `first_epoch`."""
    checkpoint, plan = training.checkpoint, training.checkpoint.plan
    root = _copy_containers(checkpoint.root)
    root = _replace(root, plan["model_path"], _weights(training))
    if checkpoint.optimizer is not None:
        optimizer_path = plan["optimizer"]["path"]
        recorded = value_at(checkpoint.root, optimizer_path)
        state: Any = _optimizer_state(training)
        if not isinstance(recorded, dict):  # the optimizer object itself was saved
            recorded.load_state_dict(state)
            state = recorded
        root = _replace(root, optimizer_path, state)
    if plan["schedulers"] and training.scheduler is not None:
        root = _replace(root, plan["schedulers"][0]["path"], training.scheduler.state_dict())
    if checkpoint.scaler_path is not None and checkpoint.scaler:
        root = _replace(root, checkpoint.scaler_path, training.scaler.state_dict())
    for average_path, average in training.averages.items():
        root = _replace(root, average_path, average)
    states = rng_states(training.device)
    for state in training.batches.generator_states()[:1]:
        states["data"] = state
    for kind, rng_path in checkpoint.rng_paths.items():
        if kind in states:
            recorded = value_at(checkpoint.root, rng_path)
            root = _replace(root, rng_path, rng_state_like(recorded, states[kind]))
    if checkpoint.counters.epoch is not None:
        epoch = checkpoint.counters.epoch + training.epoch - first_epoch
        root = _replace(root, plan["epoch"]["path"], epoch)
    torch.save(root, path)


def _copy_containers(root: Any) -> Any:
    """Copy dicts and lists, and share the values in them."""
    if type(root) is dict:
        return {key: _copy_containers(value) for key, value in root.items()}
    return [_copy_containers(value) for value in root] if type(root) is list else root


def _replace(root: Any, path: Any, value: Any) -> Any:
    """Return `root` with `value` at `path`."""
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


def _optimizer_state(training: Training) -> dict[str, Any]:
    """Return the state under the file's numbers, without what the file omits."""
    checkpoint, states = training.checkpoint, training.optimizer_states()
    assert checkpoint.optimizer is not None
    recorded_states = checkpoint.optimizer["state"]
    counters = checkpoint.counters
    all_lost = not recorded_states and checkpoint.keeps_state
    if all_lost and (counters.steps or counters.epoch):
        states = {}
    saved: dict[Any, Any] = {}
    for slot, name in zip(checkpoint.slots, checkpoint.names, strict=True):
        if name in states:
            recorded = checkpoint.slot_state(slot)
            partial = bool(recorded) and checkpoint.lacks_state(slot)
            saved[slot] = {
                key: value for key, value in states[name].items() if not partial or key in recorded
            }
    groups = []
    current_groups = training.optimizer.state_dict()["param_groups"]
    for index, (group, current) in enumerate(zip(checkpoint.groups, current_groups, strict=False)):
        new_group = {**current, "params": group["params"]}
        new_group.pop("param_names", None)
        if "param_names" in group:
            new_group["param_names"] = group["param_names"]
        if _rate_is_stale(checkpoint, index):
            new_group["lr"] = group["lr"]
        groups.append(new_group)
    return {**checkpoint.optimizer, "state": saved, "param_groups": groups}


def _rate_is_stale(checkpoint: Checkpoint, index: int) -> bool:
    """Return True if a group's learning rate is not the one that its scheduler had set."""
    if not checkpoint.schedulers or not isinstance(checkpoint.schedulers[0], dict):
        return False
    rates = checkpoint.schedulers[0].get("_last_lr")
    if not rates or index >= len(rates):
        return False
    rate = float(checkpoint.groups[index]["lr"])
    return abs(float(rates[index]) - rate) > 1e-6 * abs(rate)


def snapshot(training: Training) -> dict[str, Any]:
    """Return all state of a training, for the fixes of `loading`."""
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for group in training.optimizer.param_groups
    ]
    states = {name: dict(state) for name, state in training.optimizer_states().items()}
    parts = {
        "weights": {name: value.detach() for name, value in training.model.named_parameters()},
        "buffers": dict(training.model.named_buffers()),
        "optimizer": {"state": states, "groups": groups},
        "rng": rng_states(training.device),
        "generators": training.batches.generator_states(),
    }
    if training.epoch_start is not None:
        parts["epoch_start"] = tuple(training.epoch_start)
    if training.scheduler is not None:
        parts["scheduler"] = training.scheduler.state_dict()
    if training.scaler is not None:
        parts["scaler"] = training.scaler.state_dict()
    return parts
