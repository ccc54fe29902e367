"""A training that goes on from a checkpoint: its optimizers and schedulers, step by step."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.optim import lr_scheduler, swa_utils

from ptinspect.document.optim.state import table_rows
from ptinspect.proofs.worker import CannotRun, determinism, user_code
from ptinspect.proofs.worker.checkpoint import Checkpoint, Path, value_at


class Optimizers:
    """Optimizers that step together, such as Muon for the matrices and AdamW for all others."""

    def __init__(self, members: list[Any]) -> None:
        self.members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        return {key: state for member in self.members for key, state in member.state.items()}

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad()

    def step(self, closure: Callable[[], Any], scaler: Any) -> Any:
        """Make one step with the gradients of the closure, and return its loss."""
        first: Any = self.members[0]
        if isinstance(first, torch.optim.LBFGS):
            return first.step(closure)  # type: ignore[no-untyped-call]
        loss = closure()
        for member in self.members:
            member.step() if scaler is None else scaler.step(member)
        if scaler is not None:
            scaler.update()
        return loss

    def names(self, model: Any) -> list[str]:
        """Return the names of the optimizers' parameters, in their order."""
        names = {id(value): name for name, value in model.named_parameters()}
        return [
            names.get(id(value), f"#{index}")
            for group in self.param_groups
            for index, value in enumerate(group["params"])
        ]


class Schedulers:
    """Schedulers that step together, one per optimizer, or none."""

    def __init__(self, members: list[Any]) -> None:
        self.members = members

    def step(self, loss: float) -> None:
        """Step all, without torch's warning that the optimizer was not stepped before."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for member in self.members:
                plateau = isinstance(member, lr_scheduler.ReduceLROnPlateau)
                try:
                    member.step(loss) if plateau else member.step()
                except (ValueError, ZeroDivisionError) as error:
                    raise type(error)(
                        f"the schedule of {type(member).__name__} cannot go on: {error}; check a "
                        "file from before its end, or give fewer --steps"
                    ) from error

    def state_dicts(self) -> list[dict[str, Any]]:
        return [member.state_dict() for member in self.members]

    def load_state_dicts(self, states: list[Any]) -> None:
        for member, state in zip(self.members, states, strict=False):
            member.load_state_dict(state)


def build_optimizers(
    module: Any, model: Any, checkpoint: Checkpoint, user_class: str | None
) -> Optimizers:
    """Return optimizers of the user's function, or of the classes that the file records.

    They are over `model.parameters()` if the file has one of one group, as in a plain script.
    """
    if hasattr(module, "make_optimizer"):
        return Optimizers(as_list(module.make_optimizer(model)))
    parameters = dict(model.named_parameters())
    members = []
    names = iter(checkpoint.names)
    recorded_members = zip(checkpoint.classes or [None], checkpoint.states or [{}], strict=True)
    for recorded_class, state in recorded_members:
        class_path = user_class or recorded_class
        if class_path is None:
            raise CannotRun(
                "the file does not tell which optimizer it was trained with",
                "give --optimizer-class torch.optim.AdamW, or what it was",
            )
        cls = user_code.optimizer_class(class_path)
        recorded = state.get("param_groups", [{}])
        if len(checkpoint.groups) > 1:
            group_names = [list(islice(names, len(group["params"]))) for group in recorded]
            groups = [
                {"params": [parameters[name] for name in each if name in parameters]}
                for each in group_names
            ]
        else:
            trainable = [value for value in parameters.values() if value.requires_grad]
            if len(checkpoint.slots) == len(parameters) != len(trainable):
                trainable = list(parameters.values())
            if cls is getattr(torch.optim, "Muon", None):  # it accepts no other parameters
                trainable = [value for value in trainable if value.ndim == 2]
            groups = [{"params": trainable}]
        accepted = inspect.signature(cls.__init__).parameters.keys() - {"self", "params"}
        options = {key: value for key, value in recorded[0].items() if key in accepted}
        if isinstance(options.get("lr"), torch.Tensor):
            options["lr"] = options["lr"].clone()
        members.append(cls(groups, **options))
    return Optimizers(members)


def build_schedulers(module: Any, checkpoint: Checkpoint, optimizers: Optimizers) -> Schedulers:
    """Return schedulers of the user's function, or of the classes that the states tell."""
    members = optimizers.members
    if hasattr(module, "make_scheduler"):
        argument = members[0] if len(members) == 1 else members
        return Schedulers(as_list(module.make_scheduler(argument)))
    states = checkpoint.schedulers
    if states and len(states) != len(members):
        raise CannotRun(
            f"the file has {len(states)} schedulers and {len(members)} optimizers",
            "write a function make_scheduler(optimizer) in the file of the model's class",
        )
    groups = [member.param_groups for member in members]
    if checkpoint.states:
        groups = [state["param_groups"] for state in checkpoint.states]
    triples = zip(states, members, groups, strict=False)
    return Schedulers([_scheduler_of(*triple) for triple in triples])


def _scheduler_of(state: dict[str, Any], optimizer: Any, groups: list[Any]) -> Any:
    """Return a scheduler of the class that wrote `state`, without loading it.

    A scheduler's state does not record its class, but its keys tell it.
    """
    if "_schedulers" in state:
        parts = [_scheduler_of(part, optimizer, groups) for part in state["_schedulers"]]
        if "_milestones" in state:
            return lr_scheduler.SequentialLR(optimizer, parts, state["_milestones"])
        return lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)
    for name, keys, words in table_rows("schedulers"):
        if not all(key in state for key in keys.split()) or state.get("_scale_fn_custom"):
            continue
        arguments: dict[str, Any] = {}
        for argument, equals, key in (word.partition("=") for word in words.split()):
            if equals and not key:
                arguments[argument] = [group.get(argument, 0.1) for group in groups]
            elif (key or argument) in state:
                arguments[argument] = state[key or argument]
        if name == "MultiStepLR":
            arguments["milestones"] = sorted(state["milestones"])
        elif name == "CyclicLR":
            arguments["step_size_up"] = round(state["total_size"] * state["step_ratio"])
        cls = getattr(lr_scheduler, name, None) or getattr(swa_utils, name)
        return cls(optimizer, **arguments)
    raise CannotRun(
        "the scheduler's state does not tell its class",
        "write a function make_scheduler(optimizer) in the file of the model's class",
    )


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


# --- The training ---


class Step(NamedTuple):
    """A batch to train on. `number` and `last` are its place in the epoch."""

    epoch: int
    number: int
    batch: Any
    last: bool


@dataclass(slots=True)
class Training:
    """A training in memory.

    Attributes:
        checkpoint: what it was loaded from.
        per_step: step the scheduler after each batch, not after each epoch.
        averages: averages of the weights (EMA), by their path in the checkpoint.
        epoch, index: the epoch, and the batch in it, that comes next.
        replay: a file with the steps of the uninterrupted training, to use instead of the data.
        resumed_epoch: states of the random number generators at the start of the epoch that is
            resumed in its middle.
        epoch_start: likewise, for the current epoch.
        trace: per step digests of the batch, of its samples in any order, of the loss, and of all
            state after the step.
    """

    checkpoint: Checkpoint
    model: Any
    optimizer: Optimizers
    scheduler: Schedulers
    scaler: Any
    autocast: str | None
    criterion: Any
    batches: user_code.Batches
    averages: dict[Path, dict[str, Any]]
    device: str
    per_step: bool
    notes: list[str]
    epoch: int = 0
    index: int = 0
    replay: str | None = None
    resumed_epoch: dict[str, Any] | None = None
    epoch_start: dict[str, Any] | None = None
    step_count: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    loss_dtype: str = "float32"
    loss_name: str = ""

    def run(self) -> Iterator[Step]:
        """Train without end, record each step and yield it."""
        for step in self._steps():
            self.step_count += 1
            record: dict[str, Any] = {
                "batch": determinism.digest(step.batch),
                "content": determinism.content_digest(step.batch),
            }
            loss = self._train(step.batch)
            self.losses.append(loss)
            weights = self.model.state_dict() if self.averages else {}
            for key, value in (item for av in self.averages.values() for item in av.items()):
                weight: Any = weights.get(key.removeprefix("module."))
                is_tensor = weight is not None and isinstance(value, torch.Tensor)
                if is_tensor and value.is_floating_point():
                    value.lerp_(weight.detach().cpu().to(value.dtype), 0.001)
            if step.last or self.per_step:
                self.scheduler.step(loss)
            record |= {"loss": loss.hex(), "state": self.state_digests(), "rng": self.rng_digests()}
            self.trace.append(record)
            yield step

    def _steps(self) -> Iterator[Step]:
        if self.replay is not None:
            for step in torch.load(self.replay, map_location="cpu", weights_only=False):
                yield Step(*step)
            return
        while True:
            self.epoch_start = self.rng_states()
            yield from self._epoch_steps()
            self.epoch, self.index = self.epoch + 1, 0

    def _epoch_steps(self) -> Iterator[Step]:
        states = None
        if self.index and self.resumed_epoch is not None:
            states = self.rng_states()
            determinism.set_rng_states(self.resumed_epoch, self.generators())
        batches, count = self.batches.limited_epoch(self.epoch)
        index = -1
        for index, batch in enumerate(islice(batches, count)):
            if states is not None and index + 1 == self.index:
                determinism.set_rng_states(states, self.generators())
            if index >= self.index:
                yield Step(self.epoch, index, batch, index + 1 == count)
        if index < 0:
            raise CannotRun(
                f"epoch {self.epoch} has no batches, the one before had {count}",
                "the function of --data returns something that can be read only once",
            )

    def rng_states(self) -> dict[str, Any]:
        return determinism.rng_states(self.device, self.generators())

    def generators(self) -> dict[str, Any]:
        modules = self.model.named_modules(prefix=type(self.model).__name__)
        return determinism.owned_generators([*self.batches.holders(), *modules])

    def saved_generators(self) -> dict[str, Any]:
        """Return the generators whose states are in the file, by the kind of the state."""
        root, paths = self.checkpoint.root, self.checkpoint.rng_paths
        states = {kind: value_at(root, path) for kind, path in paths.items() if "data" in kind}
        return determinism.match_generators(self.generators().values(), states)

    def _train(self, batch: Any) -> float:
        inputs, target = user_code.split_batch(batch, self.device)

        def closure() -> Any:
            self.optimizer.zero_grad()
            with autocasting(self.device, self.autocast):
                output = user_code.call_model(self.model, inputs)
                loss, self.loss_name = user_code.compute_loss(self.criterion, output, target)
            (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
            return loss

        loss = self.optimizer.step(closure, self.scaler)
        self.loss_dtype = str(loss.dtype).removeprefix("torch.")
        return float(loss.detach())

    # --- State to compare and save ---

    def state_digests(self) -> dict[str, str]:
        """Return digests of the training's state, in the order of comparison."""
        values: dict[str, Any] = {f"weights {n}": v for n, v in self.model.named_parameters()}
        values |= {f"buffer {name}": value for name, value in self.model.named_buffers()}
        for name, state in self.optimizer_states().items():
            values |= {f"optimizer {name}.{key}": value for key, value in state.items()}
        for number, group in enumerate(self.optimizer.param_groups):
            values[f"lr of group {number}"] = float(group["lr"])
        values["scheduler"] = self.scheduler.state_dicts()
        for state in values["scheduler"]:
            state.pop("_get_lr_called_within_step", None)
        if self.scaler is not None:
            values["scaler"] = self.scaler.state_dict()
        for path, average in self.averages.items():
            values[f"average {'.'.join(map(str, path))}"] = average
        return {name: determinism.digest(value) for name, value in values.items()}

    def rng_digests(self) -> dict[str, str]:
        states = self.rng_states().items()
        return {f"rng {kind}": determinism.digest(state) for kind, state in states}

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
