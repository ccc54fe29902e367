"""What a training comes to on one device beside what it comes to on another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ptinspect.proofs.child.ulps import ulps

if TYPE_CHECKING:
    from ptinspect.proofs.child.training import Training


def keep_ends(training: Training, begin: int | None, path: str | None) -> None:
    """Writes what there is to compare to `path`, if there is one: the losses from step `begin` on,
    weights and buffers after the last step."""
    if path is None:
        return
    state = {f"weights {name}": v.detach() for name, v in training.model.named_parameters()}
    state |= {f"buffer {name}": v for name, v in training.model.named_buffers()}
    losses = torch.tensor(training.losses[begin or 0 :], dtype=torch.float64)
    torch.save({"losses": losses, "type": training.loss_type, "state": state}, path)


def compared(job: dict[str, Any]) -> dict[str, Any]:
    """Distances in ULPs: of the first loss, of all losses, and per dtype the largest of all tensors
    with its name. unit: the dtype in whose ULPs to count, where the tensors' own is better than
    what they were calculated in."""
    one, other = (torch.load(path, map_location="cpu", weights_only=True) for path in job["ends"])
    unit = getattr(torch, job["unit"]) if job["unit"] else None
    kind = unit or getattr(torch, one["type"])
    tensors: dict[str, list[Any]] = {}
    for name, value in one["state"].items():
        apart = ulps(value, other["state"][name], unit if value.is_floating_point() else None)
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in tensors or apart > tensors[dtype][0]:
            tensors[dtype] = [apart, name]
    return {
        "first": ulps(one["losses"][:1], other["losses"][:1], kind),
        "losses": ulps(one["losses"], other["losses"], kind),
        "type": str(kind).removeprefix("torch."),
        "tensors": tensors,
    }
