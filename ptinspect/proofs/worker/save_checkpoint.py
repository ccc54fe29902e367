"""Saves a training in the middle as the checkpoint is laid out: the same entries, in the same
order, with the same omissions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.checkpoint import at
from ptinspect.proofs.worker.rng import rng_state, seen_as
from ptinspect.proofs.worker.training import Training


def save(training: Training, path: str, start: int) -> None:
    """The checkpoint after some more steps. start: the epoch at which this training began."""
    facts = training.facts
    root = _fresh(facts.root)
    root = put(root, training.plan["model_path"], weights(training))
    if facts.optimizer is not None:
        place = training.plan["optimizer"]["path"]
        there = at(facts.root, place)
        made = optimizer(training)
        if not isinstance(there, dict):  # pickled whole
            there.load_state_dict(made)
            made = there
        root = put(root, place, made)
    for number, found in enumerate(training.plan["schedulers"]):
        if number == 0 and training.scheduler is not None:
            root = put(root, found["path"], training.scheduler.state_dict())
    if facts.scaler_path is not None and at(facts.root, facts.scaler_path):
        root = put(root, facts.scaler_path, training.scaler.state_dict())
    for place, kept in training.ema.items():
        root = put(root, place, kept)
    states = rng_state(training.device)
    for generator in training.batches.generators()[:1]:
        states["data"] = generator.get_state()
    for kind, place in facts.rng.items():
        if kind in states:
            root = put(root, place, seen_as(at(facts.root, place), states[kind]))
    if facts.epoch is not None:
        passed = training.number - start
        root = put(root, training.plan["epoch"]["path"], facts.epoch + passed)
    torch.save(root, path)


def _fresh(root: Any) -> Any:
    """Copies of the containers; what lies in them is shared."""
    if type(root) is dict:
        return {key: _fresh(value) for key, value in root.items()}
    return [_fresh(value) for value in root] if type(root) is list else root


def put(root: Any, path: Any, value: Any) -> Any:
    """`root` with `value` at `path`."""
    if not path:
        return value
    holder = at(root, path[:-1])
    if isinstance(holder, tuple):
        items = list(holder)
        items[path[-1]] = value
        return put(root, path[:-1], tuple(items))
    holder[path[-1]] = value
    return root


def weights(training: Training) -> Any:
    """The keys that the file has, in its dtypes; or the whole model."""
    facts = training.facts
    there = at(facts.root, training.plan["model_path"])
    if isinstance(there, nn.Module):
        return training.model
    own = training.model.state_dict()
    made: Any = type(there)()
    for key, value in there.items():
        name = key.removeprefix(facts.prefix) if facts.prefix else key
        mine = own.get(name, value)
        if isinstance(mine, torch.Tensor) and isinstance(value, torch.Tensor):
            mine = mine.detach().to(value.dtype)
        made[key] = mine
    if hasattr(there, "_metadata"):
        made._metadata = getattr(there, "_metadata", None)
    return made


def optimizer(training: Training) -> dict[str, Any]:
    """The state by the file's own numbering; what it leaves out is left out."""
    facts = training.facts
    assert facts.optimizer is not None
    kept = training.kept()
    there = facts.optimizer
    state: dict[Any, Any] = {}
    lost = not there["state"] and facts.keeps and bool(facts.steps or facts.epoch)
    for slot, name in zip(facts.slots, facts.names, strict=True):
        if name not in kept or lost:
            continue
        known = there["state"].get(slot)
        partial = bool(known) and facts.lacking(slot)
        state[slot] = {k: v for k, v in kept[name].items() if not partial or k in known}
    groups = []
    own = training.optimizer.state_dict()["param_groups"]
    for group, mine in zip(there["param_groups"], own, strict=False):
        same = {**mine, **{key: group[key] for key in ("params", "param_names") if key in group}}
        same["lr"] = group["lr"] if rate_is_off(training, group) else mine["lr"]
        if "param_names" not in group:
            same.pop("param_names", None)
        groups.append(same)
    return {**there, "state": state, "param_groups": groups}


def rate_is_off(training: Training, group: dict[str, Any]) -> bool:
    """Whether the file's learning rate is not the one that its scheduler had set."""
    facts = training.facts
    if not facts.schedulers or not isinstance(facts.schedulers[0], dict):
        return False
    rates = facts.schedulers[0].get("_last_lr")
    assert facts.optimizer is not None
    place = next(at for at, found in enumerate(facts.optimizer["param_groups"]) if found is group)
    if not rates or place >= len(rates):
        return False
    return abs(float(rates[place]) - float(group["lr"])) > 1e-6 * abs(float(group["lr"]))


def snapshot(training: Training) -> dict[str, Any]:
    """All that a training holds, for the mends."""
    kept = {name: dict(values) for name, values in training.kept().items()}
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for group in training.optimizer.param_groups
    ]
    made = {
        "weights": {name: value.detach() for name, value in training.model.named_parameters()},
        "buffers": dict(training.model.named_buffers()),
        "optimizer": {"state": kept, "groups": groups},
        "rng": rng_state(training.device),
        "rng_epoch": training.rng_epoch,
        "generators": [g.get_state() for g in training.batches.generators()],
        "generators_epoch": training.generators_epoch,
    }
    if training.scheduler is not None:
        made["scheduler"] = training.scheduler.state_dict()
    if training.scaler is not None:
        made["scaler"] = training.scaler.state_dict()
    return made
