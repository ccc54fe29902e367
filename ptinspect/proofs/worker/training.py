"""A training that goes on from a checkpoint, step by step, and the state of it to compare."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ptinspect.proofs.worker.checkpoint import Checkpoint, Path
from ptinspect.proofs.worker.determinism import digest, rng_states, set_rng_states
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
    data: list[Any]


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
    optimizer: Any
    scheduler: Any
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

    def run(self) -> Iterator[Step]:
        """Train without end, and yield each step after it."""
        for step in self._steps():
            self.step_count += 1
            batch = step.batch
            self.batch_digest = digest(list(batch) if isinstance(batch, list | tuple) else batch)
            loss = self._train(batch)
            self.losses.append(loss)
            self._update_averages()
            if self.scheduler is not None and (step.last or self.per_step):
                step_scheduler(self.scheduler, loss)
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
        return EpochStart(rng_states(self.device), self.batches.generator_states())

    def _set_generator_states(self, states: EpochStart) -> None:
        set_rng_states(states.rng)
        self.batches.set_generator_states(states.data)

    def _train(self, batch: Any) -> float:
        """Make one step of the optimizer and return the loss."""
        inputs, target = split_batch(batch, self.device)

        def closure() -> Any:
            self.optimizer.zero_grad()
            with self._autocasting():
                output = call_model(self.model, inputs)
                loss, self.loss_name = compute_loss(self.criterion, output, target)
            (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            lbfgs_step: Any = self.optimizer.step
            loss = lbfgs_step(closure)
        else:
            loss = closure()
            if self.scaler is not None:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step()
        self.loss_dtype = str(loss.dtype).removeprefix("torch.")
        return float(loss.detach())

    def _autocasting(self) -> Any:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], getattr(torch, self.autocast))

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
        model = self.model
        digests = {f"weights {name}": digest(value) for name, value in model.named_parameters()}
        digests |= {f"buffer {name}": digest(value) for name, value in model.named_buffers()}
        for name, state in self.optimizer_states().items():
            digests |= {f"optimizer {name}.{key}": digest(value) for key, value in state.items()}
        for number, group in enumerate(self.optimizer.param_groups):
            digests[f"lr of group {number}"] = digest(float(group["lr"]))
        if self.scheduler is not None:
            state = dict(self.scheduler.state_dict())
            state.pop("_get_lr_called_within_step", None)
            digests["scheduler"] = digest(state)
        if self.scaler is not None:
            digests["scaler"] = digest(self.scaler.state_dict())
        for path, average in self.averages.items():
            digests[f"average {'.'.join(map(str, path))}"] = digest(average)
        return digests

    def rng_digests(self) -> dict[str, str]:
        """Return digests of the random number generators' states."""
        states = self._generator_states()
        digests = {f"rng {kind}": digest(state) for kind, state in states.rng.items()}
        return {**digests, "rng of the data": digest(states.data)} if states.data else digests

    def optimizer_states(self) -> dict[str, dict[str, Any]]:
        """Return the optimizer's state per parameter name."""
        names = {id(value): name for name, value in self.model.named_parameters()}
        return {
            names.get(id(parameter), "?"): state
            for parameter, state in self.optimizer.state.items()
        }

    def optimizer_order(self) -> list[str]:
        """Return the names of the optimizer's parameters, in its order."""
        return optimizer_order(self.model, self.optimizer)


def optimizer_order(model: Any, optimizer: Any) -> list[str]:
    """Return the names of an optimizer's parameters, in its order."""
    names = {id(value): name for name, value in model.named_parameters()}
    return [
        names.get(id(value), f"#{index}")
        for group in optimizer.param_groups
        for index, value in enumerate(group["params"])
    ]


def step_scheduler(scheduler: Any, loss: float) -> None:
    """Step a scheduler, without torch's warning that the optimizer was not stepped before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(loss)
        else:
            scheduler.step()
