"""Run trainings for two epochs; save a checkpoint of each, and a copy of it with each fault.

    python -m benchmarks.gpu.train DEVICE JOBS FOLDER LABEL...

It is a training script of its own: nothing of it comes from ptinspect. Each training runs in a fork
of a process that has imported torch. FOLDER/LABEL.json has losses, seconds, parameters, memory.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import random
import sys
import time
import traceback
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import PACKAGE, TRAININGS

EPOCHS = 2


def train(name: str, device: str, folder: Path) -> dict[str, Any]:
    """Train, save all checkpoints into `folder`, and return the facts of the training."""
    import numpy as np
    import torch

    module = importlib.import_module(f"{PACKAGE}.{name}")
    kind = device.partition(":")[0]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    start = time.perf_counter()
    model = module.Net().to(device)
    optimizer = module.new_optimizer(model)
    interval = module.SCHEDULER_INTERVAL
    scheduler = module.new_scheduler(optimizer) if interval else None
    scaler = torch.amp.GradScaler(kind, enabled=module.SCALER)
    dtype = getattr(torch, module.AMP or "bfloat16")
    loss_function = getattr(torch.nn, module.LOSS)()
    losses = []
    loader = module.batches()
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            with torch.autocast(kind, dtype, enabled=module.AMP is not None):
                loss = loss_function(model(x.to(device)), y.to(device))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
            if interval == "batch":
                scheduler.step()
        if interval == "epoch":
            scheduler.step()
    checkpoint: dict[str, Any] = {
        "epoch": EPOCHS - 1,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
    }
    if scheduler is not None:
        checkpoint["scheduler"] = scheduler.state_dict()
    if module.SCALER:
        checkpoint["scaler"] = scaler.state_dict()
    if kind == "cuda":
        checkpoint["cuda_rng"] = torch.cuda.get_rng_state_all()
    torch.save(checkpoint, folder / "honest.pt")
    for fault, faulty in faulty_checkpoints(checkpoint).items():
        torch.save(faulty, folder / f"{fault}.pt")
    move_to_second_card(folder / "honest.pt", folder / "tensors-of-cuda-1.pt")
    return {
        "losses": losses,
        "seconds": round(time.perf_counter() - start, 2),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if kind == "cuda" else None,
        "bytes": (folder / "honest.pt").stat().st_size,
    }


def faulty_checkpoints(checkpoint: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return copies of the checkpoint, each with one fault (or the faults that its name lists)."""

    def without(*keys: str) -> dict[str, Any]:
        return {key: value for key, value in checkpoint.items() if key not in keys}

    weights, optimizer = checkpoint["model"], checkpoint["optimizer"]
    empty = {**optimizer, "state": {}}
    double_rate = copy.deepcopy(optimizer)
    for group in double_rate["param_groups"]:
        group["lr"] *= 2
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    half = {key: v.bfloat16() if v.is_floating_point() else v for key, v in weights.items()}
    generators = ("torch_rng", "cuda_rng")
    return {
        "no-optimizer": {**checkpoint, "optimizer": empty},
        "no-torch-rng": without("torch_rng"),
        "no-cuda-rng": without("cuda_rng"),
        "no-rng": without(*generators),
        "no-rng-no-optimizer": {**without(*generators), "optimizer": empty},
        "no-scaler": {**checkpoint, "scaler": {}},
        "no-buffers": {
            **checkpoint, "model": {k: v for k, v in weights.items() if not k.endswith(buffers)},
        },
        "wrong-rate": {**checkpoint, "optimizer": double_rate},
        "weights-in-bf16": {**checkpoint, "model": half},
    }  # fmt: skip


def move_to_second_card(source: Path, target: Path) -> None:
    """Copy a checkpoint, with its tensors recorded as those of another machine's second card."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                # `cpu` and `cuda:1` are strings of different lengths: BINUNICODE, length, text.
                data = data.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:1")
                data = data.replace(b"cuda:0", b"cuda:1")
            new.writestr(item, data)


def run(label: str, device: str, folder: Path) -> None:
    """Train, and write the facts of the training or its error."""
    name, env = TRAININGS[label]
    os.environ.update(env)
    (folder / label).mkdir()
    try:
        facts = train(name, device, folder / label)
    except Exception:  # noqa: BLE001 - the other trainings go on
        facts = {"error": traceback.format_exc()[-600:]}
    (folder / f"{label}.json").write_text(json.dumps(facts))


def main() -> None:
    """Run the trainings, as many at a time as there are jobs."""
    import torch  # noqa: F401 - the forks have it; CUDA starts in them

    device, jobs, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    running = 0
    for label in sys.argv[4:]:
        if running == jobs:
            os.wait()
            running -= 1
        running += 1
        if not os.fork():
            run(label, device, folder)
            os._exit(0)
    for _ in range(running):
        os.wait()


if __name__ == "__main__":
    main()
