"""Fewer steps of the optimizer than there were batches, and yet whole epochs: how that can be."""

from __future__ import annotations

from typing import Any

ACCUMULATED = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)
"""Batches over which gradients are accumulated, as scripts have it."""


def whole_epochs(steps: int, recorded: int, length: int, skips: int) -> tuple[int, str] | None:
    """Epochs that end where a checkpoint stands, and what has to be assumed for it; None where
    nothing usual explains it. recorded: the epoch in the file. length: batches of an epoch.
    skips: steps that a GradScaler may have left out."""
    for epochs in (recorded + 1, recorded):
        batches = epochs * length
        if 0 < batches - steps <= skips:
            return epochs, f"the GradScaler left out {batches - steps} of {batches} steps"
        for each in ACCUMULATED:
            fewer = {batches // each, -(-batches // each), epochs * (length // each)}
            if steps and steps in fewer | {epochs * -(-length // each)}:
                return epochs, f"gradients were accumulated over {each} batches"
    return None


def skipped(scaler: Any, steps: int) -> int:
    """The most steps that a GradScaler of this state has left out, as gradients were not finite:
    some until it found its scale, one whenever it tried a larger one. None were, where the scale
    is still what it begins with (65536, torch.amp.GradScaler's default)."""
    if not isinstance(scaler, dict) or "scale" not in scaler:
        return 0
    every = int(scaler["growth_interval"])
    grown = steps // every if every > 0 else 0
    if grown < 64 and float(scaler["scale"]) == 65536.0 * scaler["growth_factor"] ** grown:
        return 0
    return 24 + 2 * grown
