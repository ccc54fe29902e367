"""Checkpoints laid out as DeepSpeed 0.19 writes them, from weights that the caller knows.

Source: deepspeed/runtime/zero/stage_1_and_2.py and stage3.py (state_dict), runtime/engine.py
(_save_checkpoint, _save_zero_checkpoint). The classes that pickles of DeepSpeed name are made here.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAG = "global_step7"


@contextmanager
def deepspeed_classes() -> Iterator[types.SimpleNamespace]:
    """Modules with DeepSpeed's ZeroStageEnum and LossScaler, while files are written."""
    config = types.ModuleType("deepspeed.runtime.zero.config")
    scaler = types.ModuleType("deepspeed.runtime.fp16.loss_scaler")
    stage = enum.IntEnum("ZeroStageEnum", {"disabled": 0, "one": 1, "two": 2, "three": 3})
    stage.__module__ = config.__name__
    config.ZeroStageEnum = stage  # type: ignore[attr-defined]
    loss_scaler = type("LossScaler", (), {"__module__": scaler.__name__})
    scaler.LossScaler = loss_scaler  # type: ignore[attr-defined]
    names = ["deepspeed", "deepspeed.runtime", "deepspeed.runtime.zero", "deepspeed.runtime.fp16"]
    modules = {name: types.ModuleType(name) for name in names}
    modules |= {module.__name__: module for module in (config, scaler)}
    sys.modules.update(modules)
    try:
        yield types.SimpleNamespace(stage=stage, scaler=loss_scaler)
    finally:
        for name in modules:
            del sys.modules[name]


def model_states(model: Any, half: Any, groups: list[list[str]], frozen: dict[str, Any]) -> Any:
    """What every file of model states holds."""
    module = {
        key: value.to(half) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    named = dict(model.named_parameters())
    return {
        "module": module,
        "buffer_names": [name for name, _ in model.named_buffers()],
        "param_shapes": [{name: named[name].shape for name in group} for group in groups],
        "frozen_param_shapes": {name: named[name].shape for name in frozen} or None,
        "frozen_param_fragments": frozen or None,
        "shared_params": {"tied.weight": "first.weight"},
        "ds_version": "0.19.8", "dp_world_size": 2, "mp_world_size": 1, "epoch": 3,
    }  # fmt: skip


def save(
    folder: Path, model: Any, stage: int, ranks: int, half: Any, aligned: bool = False
) -> None:
    """Save a model whose parameters are in two groups, but those with "frozen" in the name."""
    import torch

    named = dict(model.named_parameters())
    frozen = {name: value.detach() for name, value in named.items() if "frozen" in name}
    groups = [
        [name for name in named if name not in frozen and name.endswith(ending)]
        for ending in ("weight", "bias")
    ]
    target = folder / TAG
    target.mkdir(parents=True)
    (folder / "latest").write_text(TAG)
    states = model_states(model, half, groups, frozen)
    prefix = "bf16_" if half is torch.bfloat16 else ""
    with deepspeed_classes() as classes:
        if stage < 3:
            torch.save(states, target / "mp_rank_00_model_states.pt")
        for rank in range(ranks if stage else 0):
            vectors, paddings = [], []
            for group in groups:
                parts, steps = [], []
                for name in group:
                    flat = named[name].detach().float().flatten()
                    if stage == 3:
                        length = -(-flat.numel() // ranks)
                        flat = torch.nn.functional.pad(flat, (0, length * ranks - flat.numel()))
                        flat = flat[rank * length : (rank + 1) * length]
                    steps.append(-flat.numel() % 4 if aligned else 0)
                    parts.append(torch.nn.functional.pad(flat, (0, steps[-1])))
                vector = torch.cat(parts)
                if stage < 3:
                    vector = torch.nn.functional.pad(vector, (0, -vector.numel() % (2 * ranks)))
                    vector = vector.chunk(ranks)[rank].clone()
                vectors.append(vector)
                paddings.append(steps)
            key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
            state: dict[str, Any] = {
                "zero_stage": classes.stage(stage), "loss_scaler": classes.scaler(), key: vectors,
                "partition_count": ranks if stage == 3 else [ranks, ranks],
                "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}},
            }  # fmt: skip
            if aligned:
                state["param_alignment_paddings"] = paddings
            name = f"{prefix}zero_pp_rank_{rank}_mp_rank_00"
            torch.save({"optimizer_state_dict": state}, target / f"{name}_optim_states.pt")
            if stage == 3:
                fragments = {}
                for label, value in frozen.items():
                    length = -(-value.numel() // ranks)
                    flat = torch.nn.functional.pad(
                        value.flatten(), (0, length * ranks - value.numel())
                    )
                    fragments[label] = flat[rank * length : (rank + 1) * length].clone()
                empty = {k: v if k in states["buffer_names"] else torch.empty(0)
                         for k, v in states["module"].items()}  # fmt: skip
                path = target / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
                torch.save(
                    {**states, "module": empty, "frozen_param_fragments": fragments or None}, path
                )


def expected(model: Any, stage: int, half: Any) -> dict[str, Any]:
    """What zero_to_fp32 returns: float32, buffers through the type of training."""
    buffers = {name for name, _ in model.named_buffers()}
    weights = {}
    for key, value in model.state_dict().items():
        in_training = value.to(half) if value.is_floating_point() else value
        if stage == 0:
            weights[key] = in_training
        elif key in buffers:
            weights[key] = in_training.float() if value.is_floating_point() else value
        else:
            weights[key] = value
    return weights
