"""The batches: of the user's function, or made up from what the model's first layer takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.errors import CannotRun
from ptinspect.proofs.worker.rng import rng_state, set_rng
from ptinspect.proofs.worker.user_code import failing, named

MADE = 4
"""Batches in an epoch that is made up."""

SIZE = 8
"""Inputs in a batch that is made up."""


class Batches:
    """Epochs of batches. limit: of a long epoch only so many are taken."""

    def __init__(self, reference: str | None, model: Any, seed: int) -> None:
        self.function: Any = None
        self.by_epoch = False
        self.told = ""
        self.each: int | None = None
        self.source: Any = None
        self.limit: int | None = None
        if reference is None:
            self.source, self.told = made_up(model, seed)
            return
        _, self.function = named(reference)
        with failing(f"{reference} cannot be called"):
            self._ask()

    def _ask(self) -> None:
        self.by_epoch = "epoch" in inspect.signature(self.function).parameters
        if self.by_epoch:
            self.each = _length(self.function)
        if not self.by_epoch:
            self.source = self.function()
            if iter(self.source) is self.source:  # a generator: made anew for each epoch
                self.source, self.limit = None, None

    @property
    def length(self) -> int | None:
        """Batches of an epoch; None where the source does not tell."""
        if self.by_epoch:
            return self.each
        try:
            return len(self.source) if self.source is not None else None
        except TypeError:
            return None

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of one epoch."""
        source = self.source
        if self.by_epoch:
            source = self.function(epoch=number)
        elif source is None:
            source = self.function()
        for holder in (source, getattr(source, "sampler", None)):
            if holder is not None and hasattr(holder, "set_epoch"):
                holder.set_epoch(number)
        return iter(source)

    def generators(self) -> list[torch.Generator]:
        """The generators of its own that a DataLoader draws from."""
        found = []
        for holder in (self.source, getattr(self.source, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator) and generator not in found:
                found.append(generator)
        return found


def _length(function: Any) -> int | None:
    """The batches of a function's epoch; asking draws no random number that a run would miss."""
    before = rng_state("cpu")
    try:
        return len(function(epoch=0))
    except TypeError:
        return None
    finally:
        set_rng(before)


def split(batch: Any, device: str) -> tuple[Any, Any]:
    """A batch as inputs and target (None without), on the device."""
    moved = to_device(batch, device)
    if isinstance(moved, list | tuple) and len(moved) >= 2:
        inputs = moved[0] if len(moved) == 2 else tuple(moved[:-1])
        return inputs, moved[-1]
    if isinstance(moved, list | tuple):
        return moved[0], None
    return moved, None


def to_device(value: Any, device: str) -> Any:
    """Tensors in lists, tuples and dicts, and what knows itself how to be moved."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(to_device(item, device) for item in value)
    if callable(getattr(value, "to", None)):  # batches of a class of their own
        return value.to(device)
    return value


def called(model: Any, inputs: Any) -> Any:
    """The model's output for the inputs."""
    if isinstance(inputs, Mapping):
        made = model(**inputs)
    else:
        made = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    while isinstance(made, tuple | list):
        made = made[0]
    if isinstance(made, dict):
        made = made["loss"] if "loss" in made else next(iter(made.values()))
    if not isinstance(made, torch.Tensor):
        loss = getattr(made, "loss", None)
        made = loss if loss is not None else getattr(made, "logits", made)
    return made


def loss_between(criterion: Any, output: Any, target: Any) -> tuple[Any, str]:
    """The loss, and what it is: `criterion` of output and target; without a target the mean square
    of the outputs, or what the model gave as one number."""
    if target is not None:
        return criterion(output, target), type(criterion).__name__
    if not output.dim():
        return output, "the model's own loss"
    return output.float().square().mean(), "the mean square of the outputs"


def made_up(model: Any, seed: int) -> tuple[list[Any], str]:
    """Inputs of the shape that the first layer takes, and a line that says so."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        shape = _shape(module)
        if shape is not None:
            if isinstance(module, nn.Embedding):
                high = module.num_embeddings
                made = [torch.randint(high, (SIZE, 5), generator=generator) for _ in range(MADE)]
            else:
                made = [torch.randn(SIZE, *shape, generator=generator) for _ in range(MADE)]
            full = (SIZE, *shape)
            return list(
                made
            ), f"inputs of shape {full}, made up for the first layer, {name or 'the model'}"
        if list(module.parameters(recurse=False)):
            break
    raise CannotRun(
        "the first layer does not tell which inputs the model takes", "give --data FILE.py:FUNCTION"
    )


def _shape(module: Any) -> tuple[int, ...] | None:
    if isinstance(module, nn.Embedding):
        return (5,)
    if isinstance(module, nn.Linear | nn.Bilinear):
        return (getattr(module, "in_features", 1),)
    if isinstance(module, nn.modules.conv._ConvNd):
        return (module.in_channels, *[32] * len(module.kernel_size))
    if isinstance(module, nn.RNNBase):
        return (5, module.input_size)
    if isinstance(module, nn.BatchNorm1d):
        return (module.num_features,)
    return None
