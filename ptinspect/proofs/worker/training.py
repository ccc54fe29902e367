"""A training that goes on from a checkpoint, step by step, and the state of it to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ptinspect.proofs.worker import determinism
from ptinspect.proofs.worker.checkpoint import Checkpoint, Path, value_at
from ptinspect.proofs.worker.optimizers import Optimizers, Schedulers
from ptinspect.proofs.worker.reporting import CannotRun
from ptinspect.proofs.worker.user_code import Batches, call_model, compute_loss, split_batch

_END = object()


class Step(NamedTuple):
    """A batch to train on. `number` and `last` are its place in the epoch."""

    epoch: int
    number: int
    batch: Any
    last: bool


class EpochStart(NamedTuple):
    """The random number generators' states at the start of an epoch."""

    rng: dict[str, Any]
    held: dict[str, Any]


@dataclass(slots=True)
class Training:
    """A training in memory.

    Attributes:
        checkpoint: what it was loaded from.
        per_step: step the scheduler after each batch, not after each epoch.
        averages: averages of the weights (EMA), by their path in the checkpoint.
        epoch, index: the epoch, and the batch in it, that comes next.
        replay: a file with the steps of the uninterrupted training, to use instead of the data.
        resumed_epoch: how the epoch that is resumed in the middle was started.
        epoch_start: how the current epoch was started.
    """

    checkpoint: Checkpoint
    model: Any
    optimizer: Optimizers
    scheduler: Schedulers | None
    scaler: Any
    autocast: str | None
    criterion: Any
    batches: Batches
    averages: dict[Path, dict[str, Any]]
    device: str
    per_step: bool
    notes: list[str]
    epoch: int = 0
    index: int = 0
    replay: str | None = None
    resumed_epoch: EpochStart | None = None
    epoch_start: EpochStart | None = None
    step_count: int = 0
    losses: list[float] = field(default_factory=list)
    loss_dtype: str = "float32"
    loss_name: str = ""
    batch_digest: str = ""
    batch_content: int = 0

    def run(self) -> Iterator[Step]:
        """Train without end, and yield each step after it."""
        for step in self._steps():
            self.step_count += 1
            batch = step.batch
            self.batch_digest = determinism.digest(
                list(batch) if isinstance(batch, list | tuple) else batch
            )
            self.batch_content = determinism.content_digest(batch)
            loss = self._train(batch)
            self.losses.append(loss)
            self._update_averages()
            if self.scheduler is not None and (step.last or self.per_step):
                self.scheduler.step(loss)
            yield step

    def _steps(self) -> Iterator[Step]:
        if self.replay is not None:
            for step in torch.load(self.replay, map_location="cpu", weights_only=False):
                yield Step(*step)
            return
        while True:
            self.epoch_start = self._generator_states()
            yield from self._epoch_steps()
            self.epoch, self.index = self.epoch + 1, 0

    def _epoch_steps(self) -> Iterator[Step]:
        states = None
        if self.index and self.resumed_epoch is not None:
            states = self._generator_states()
            self._set_generator_states(self.resumed_epoch)
        batches, count = self.batches.limited_epoch(self.epoch)
        for index in range(self.index):
            next(batches, None)
            if states is not None and index + 1 == self.index:
                self._set_generator_states(states)
        for index in range(self.index, count):
            batch = next(batches, _END)
            if batch is _END:
                if not index:
                    raise CannotRun(
                        f"epoch {self.epoch} has no batches, the one before had {count}",
                        "the function of --data returns something that can be read only once",
                    )
                return
            yield Step(self.epoch, index, batch, index + 1 == count)

    def _generator_states(self) -> EpochStart:
        held = {
            name: determinism.generator_state(value) for name, value in self.generators().items()
        }
        return EpochStart(determinism.rng_states(self.device), held)

    def _set_generator_states(self, states: EpochStart) -> None:
        determinism.set_rng_states(states.rng)
        for name, generator in self.generators().items():
            if name in states.held:
                determinism.set_generator_state(generator, states.held[name])

    def generators(self) -> dict[str, Any]:
        modules = self.model.named_modules(prefix=type(self.model).__name__)
        return determinism.held_generators([*self.batches.holders(), *modules])

    def saved_generators(self) -> dict[str, Any]:
        """Return the generators whose states are in the file, by the kind of the state."""
        root, paths = self.checkpoint.root, self.checkpoint.rng_paths
        states = {kind: value_at(root, path) for kind, path in paths.items() if "data" in kind}
        return determinism.match_generators(self.generators().values(), states)

    def _train(self, batch: Any) -> float:
        inputs, target = split_batch(batch, self.device)

        def closure() -> Any:
            self.optimizer.zero_grad()
            with autocasting(self.device, self.autocast):
                output = call_model(self.model, inputs)
                loss, self.loss_name = compute_loss(self.criterion, output, target)
            (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
            return loss

        loss = self.optimizer.step(closure, self.scaler)
        self.loss_dtype = str(loss.dtype).removeprefix("torch.")
        return float(loss.detach())

    def _update_averages(self) -> None:
        weights = self.model.state_dict()
        for average in self.averages.values():
            for key, value in average.items():
                name = key.removeprefix("module.")
                is_tensor = name in weights and isinstance(value, torch.Tensor)
                if is_tensor and value.is_floating_point():
                    value.lerp_(weights[name].detach().cpu().to(value.dtype), 0.001)

    # --- State to compare and save ---

    def state_digests(self) -> dict[str, str]:
        """Return digests of the training's state, in the order of comparison."""
        values: dict[str, Any] = {f"weights {n}": v for n, v in self.model.named_parameters()}
        values |= {f"buffer {name}": value for name, value in self.model.named_buffers()}
        for name, state in self.optimizer_states().items():
            values |= {f"optimizer {name}.{key}": value for key, value in state.items()}
        for number, group in enumerate(self.optimizer.param_groups):
            values[f"lr of group {number}"] = float(group["lr"])
        if self.scheduler is not None:
            values["scheduler"] = self.scheduler.state_dicts()
            for state in values["scheduler"]:
                state.pop("_get_lr_called_within_step", None)
        if self.scaler is not None:
            values["scaler"] = self.scaler.state_dict()
        for path, average in self.averages.items():
            values[f"average {'.'.join(map(str, path))}"] = average
        return {name: determinism.digest(value) for name, value in values.items()}

    def rng_digests(self) -> dict[str, str]:
        states = self._generator_states()
        values = {f"rng {kind}": state for kind, state in states.rng.items()}
        values |= {f"rng held: {name}": state for name, state in states.held.items()}
        return {name: determinism.digest(value) for name, value in values.items()}

    def optimizer_states(self) -> dict[str, dict[str, Any]]:
        names = {id(value): name for name, value in self.model.named_parameters()}
        return {
            names.get(id(parameter), "?"): state
            for parameter, state in self.optimizer.state.items()
        }

    def trainable(self) -> list[str]:
        return [name for name, value in self.model.named_parameters() if value.requires_grad]


def autocasting(device: str, dtype: str | None) -> Any:
    """Return the context of autocast to a dtype, or one that does nothing."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.split(":")[0], getattr(torch, dtype))
