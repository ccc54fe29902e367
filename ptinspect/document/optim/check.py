"""Check whether an optimizer's state fits its model, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf, isclose
from typing import TYPE_CHECKING

from ptinspect.document.optim.copies import decide_copies, equal_averages
from ptinspect.document.optim.matching import (
    FROZEN,
    Fault,
    Match,
    Slot,
    Weight,
    Weights,
    best_match,
    candidate_weights,
    slots_of,
)
from ptinspect.document.optim.state import (
    COLUMN,
    EPOCHS,
    ROW,
    Optimizer,
    Scheduler,
    as_float,
    find_schedulers,
    has_state_after_step,
    required_state,
    state_keys,
    training_counter,
    wrong_settings,
)
from ptinspect.document.to_array import Numbers, name_non_finite, number_of, numbers_of
from ptinspect.pickling.pyobjects import Path, as_sequence, brief_repr, dotted
from ptinspect.pickling.values import Value
from ptinspect.text import count_text, join_names

if TYPE_CHECKING:
    from ptinspect.document.document import Document
    from ptinspect.document.tensor import Tensor

_MIXED_PRECISION = (("float32", "float16"), ("float32", "bfloat16"))  # of state and parameter


@dataclass(slots=True)
class OptimizerFit:
    """The result of checking one optimizer: the path of the model it was compared with, if there is
    one, the name of each parameter in its groups (None if undecided), and all that does not fit or
    is not decided by the file."""

    optimizer: Optimizer
    model: Path | None
    names: list[str | None]
    findings: list[Fault]

    @property
    def faults(self) -> list[Fault]:
        return [fault for fault in self.findings if fault.is_certain]

    @property
    def undecided(self) -> list[Fault]:
        return [fault for fault in self.findings if not fault.is_certain]

    @property
    def fits(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, object]:
        findings = {
            name: [{key: getattr(fault, key) for key in Fault._fields[:3]} for fault in faults]
            for name, faults in (("wrong", self.faults), ("undecided", self.undecided))
        }
        model = None if self.model is None else list(self.model)
        return {"verdict": "fits" if self.fits else "differs", "model": model, **findings}


def check_optimizers(document: Document, *, values: bool = True) -> list[OptimizerFit]:
    """Compare each optimizer state of a file with the weights in it. `values` checks the numbers
    too (NaN, inf, steps that differ), which reads the state's tensors."""
    if not document.optimizers:
        return []
    candidates = candidate_weights(document.contents)
    schedulers = find_schedulers(document.entries)
    counter = training_counter(document.entries, schedulers)
    progress = None
    if counter is not None and isinstance(counter.value, int | float) and counter.value > 0:
        progress = f"{dotted(counter.path)} {counter.value}"
    elif steps := next((s.last_epoch for s in schedulers if s.last_epoch > 0), None):
        progress = f"a scheduler at step {brief_repr(steps)}"
    epoch = training_counter(document.entries, schedulers, EPOCHS)
    last_epoch = epoch.value if epoch is not None and isinstance(epoch.value, int) else None
    optimizers, slot_lists, matches = list(document.optimizers), [], []
    for index, optimizer in enumerate(optimizers):
        if document.archive.format == "torch-dcp":
            # torch.distributed.checkpoint records all keys as strings, and reads them into a state
            # as `optimizer.state_dict()` has it. Source: its `_traverse.traverse_state_dict`.
            state = {
                int(key) if isinstance(key, str) and len(key) < 10 and key.isdecimal() else key: x
                for key, x in optimizer.state.items()
            }
            optimizers[index] = optimizer._replace(state=state)
        slot_lists.append(slots_of(optimizers[index], document.weight_of))
        matches.append(best_match(slot_lists[-1], candidates, optimizer.path))
    if not all(match is None or match.fits for match in matches):
        matches = _without_foreign(matches, slot_lists, candidates)
    fits = []
    for optimizer, slots, match in zip(optimizers, slot_lists, matches, strict=True):
        if values and match is not None and len(slots) < len(match.weights.parameters):
            match = decide_copies(slots, match)
        check = _Check(
            document.weight_of, schedulers, progress, last_epoch, optimizer, slots, match
        )
        fits.append(check.run(values, is_only_optimizer=len(document.optimizers) == 1))
    fit_at = {fit.optimizer.path: fit for fit in fits}
    for info in document.contents.tensors if values else ():
        # NaN and inf outside of the state, such as in an optimizer's copy of the weights.
        for length in range(len(info.path)):
            fit, place = fit_at.get(info.path[:length]), info.path[length:]
            is_number = info.tensor.numel == 1 or "params" in place
            is_setting = place[0] == "param_groups" and is_number
            if fit is None or place[0] == "state" or is_setting:
                continue
            if non_finite := numbers_of(info.tensor).non_finite:
                fit.findings.append(Fault("nan", f"{dotted(place)} contains {non_finite}"))
    if values and progress:
        for message in equal_averages(candidates):
            fits[0].findings.append(Fault("average", message, is_certain=False))
    return fits


def _without_foreign(
    matches: list[Match | None], slot_lists: list[list[Slot]], candidates: list[Weights]
) -> list[Match | None]:
    """Replace the matches that do not fit, if the optimizers of the others cover each model: then
    the model is in another file, as the generator of a GAN beside `optim_g` and `optim_d`."""
    covered = {
        weight.tensor.view_key
        for match in matches
        if match is not None and match.fits
        for weight in match.weights.parameters
    }
    models = [w for w in candidates if not w.is_average and not FROZEN.search(dotted(w.path))]
    is_covered = all(weight.tensor.view_key in covered for w in models for weight in w.parameters)
    if not covered or not is_covered:
        return matches
    fault = Fault("names", "its model is not in the file", is_certain=False)
    return [
        match if match is None or match.fits else Match(Weights(()), [None] * len(slots), [fault])
        for match, slots in zip(matches, slot_lists, strict=True)
    ]


def fit_line(document: Document) -> str | None:
    """Return one line for `show`; None for a file without optimizer state. Reads no tensors."""
    fits = check_optimizers(document, values=False)
    if not fits:
        return None
    faults = [(fit, fault) for fit in fits for fault in fit.faults]
    if faults:
        fit, fault = faults[0]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        path = f"{dotted(fit.optimizer.path)}: " if len(fits) > 1 else ""
        return f"no: {path}{fault}{more}"
    if any(fault.kind == "model" for fit in fits for fault in fit.undecided):
        return "undecided: the file has no weights"
    undecided = sum(len(fit.undecided) for fit in fits)
    models = list(dict.fromkeys(fit.model for fit in fits if fit.model))
    names = ["the model"] if not models else list(map(dotted, models))
    model = names[0] if len(names) == 1 else f"{len(names)} models"
    return f"yes, {model}; {undecided} undecided" if undecided else f"yes, {model}"


# Checks


@dataclass(slots=True)
class _Check:
    """One optimizer, and the facts about its file that it is checked against: the schedulers, the
    record that training has started, in words, and the recorded epoch."""

    tensor_of: Callable[[Value], Tensor | None]
    schedulers: list[Scheduler]
    progress: str | None
    epoch: int | None
    optimizer: Optimizer
    slots: list[Slot]
    match: Match | None
    findings: list[Fault] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)

    def run(self, values: bool, is_only_optimizer: bool) -> OptimizerFit:
        self.names = [slot.name for slot in self.slots]
        if self.match is None:
            self.add_undecided("model", "the file has no weights to compare it with")
        else:
            self.names, self.findings = self.match.names, [*self.match.faults]
            self.weights = {weight.name: weight for weight in self.match.weights.order}
        if not self.slots:
            self.add_undecided("group-size", "the groups cover no parameters")
        keys = [slot.key for slot in self.slots if isinstance(slot.key, int | str)]
        counts = Counter(keys)
        repeated = [_key_text(key) for key, count in counts.items() if count > 1]
        if repeated:
            names = ", ".join(repeated[:3])
            self.add_fault("duplicate", f"parameter {names} is in the groups twice")
        extra = [key for key in self.optimizer.state if type(key) is int and key not in counts]
        if extra and keys:
            names = join_names(map(_key_text, extra), 3)
            self.add_fault("extra-state", f"state {names} belongs to no parameter of the groups")
        self.check_presence()
        for slot in self.slots:
            if slot.state:
                self.check_slot(slot, slot.state)
        weights = self.match.weights if self.match is not None else None
        for key in state_keys("flat"):
            tensor = self.slots[0].tensors.get(key) if self.slots else None
            if weights is None or tensor is None or len(self.slots) != len(weights.parameters):
                continue
            if tensor.numel != weights.numel:
                sizes = f"{tensor.numel} elements, all parameters together {weights.numel}"
                self.add_fault("shape", f"{key} has {sizes}")
        self.findings += [Fault(*item) for item in wrong_settings(self.optimizer, self.number)]
        self.check_learning_rates(is_only_optimizer)
        if values:
            self.check_steps()
            self.check_numbers()
        path = weights.path if weights is not None and weights.order else None
        if not (self.optimizer.class_path or "").startswith("torch.optim."):
            # Another class may write other things under the names that those of torch use.
            kinds = ("shape", "dtype", "order", "missing-state", "zero", "setting")
            self.findings = [
                fault._replace(is_certain=fault.is_certain and fault.kind not in kinds)
                for fault in self.findings
            ]
        return OptimizerFit(self.optimizer, path, self.names, self.findings)

    def add_fault(self, kind: str, message: str, parameter: str | None = None) -> None:
        self.findings.append(Fault(kind, message, parameter))

    def add_undecided(self, kind: str, message: str) -> None:
        self.findings.append(Fault(kind, message, is_certain=False))

    def label(self, slot: Slot) -> str:
        return self.names[slot.number] or slot.name or f"parameter {slot.number}"

    def weight(self, slot: Slot) -> Weight | None:
        return self.weights.get(self.names[slot.number] or "")

    def check_presence(self) -> None:
        class_path = self.optimizer.class_path
        has_state = has_state_after_step(class_path, self.optimizer.groups)
        without = [slot for slot in self.slots if not slot.state]
        # LBFGS keeps everything with its first parameter.
        is_lbfgs = bool(self.optimizer.state) and (class_path or "").endswith(".LBFGS")
        if not without or has_state is False or is_lbfgs:
            return
        if len(without) == len(self.slots):
            if any(_key_text(slot.key) in self.optimizer.state for slot in self.slots):
                message = "the keys of the state are strings, and load_state_dict looks for numbers"
                self.add_fault("missing-state", message)
                return
            name, is_certain = (class_path or "the optimizer").removeprefix("torch.optim."), True
            if has_state and name == "Adagrad":
                reason = "; Adagrad has some before its first step"
            elif has_state and self.progress:
                reason = f" at {self.progress}; {name} always has some after a step"
            else:
                is_certain, reason = False, ": training has not started, or it is lost"
            if not has_state:
                reason = "; whether such an optimizer has any is unknown"
            message = f"the state is empty{reason}"
            self.findings.append(Fault("missing-state", message, is_certain=is_certain))
            return
        missing = []
        for slot in without:
            weight, parameter = self.weight(slot), slot.parameter
            is_frozen = weight is not None and weight.trainable is False
            if not (is_frozen if parameter is None else not parameter.requires_grad):
                missing.append(self.label(slot))
        if missing and has_state:
            message = f"no state for {join_names(missing, 3)}: frozen, unused, or lost"
            self.add_undecided("missing-state", message)

    def check_slot(self, slot: Slot, state: dict[Value, Value]) -> None:
        """The state has all keys of its class, and tensors of the parameter's shape and dtype."""
        group, class_path = self.optimizer.groups[slot.group], self.optimizer.class_path
        required = required_state(class_path, group) or ()
        missing = [key for key in required if state.get(key) is None and key not in group]
        if class_path == "torch.optim.Adafactor" and not missing:
            is_factored = {ROW, COLUMN} <= set(state)
            missing = [] if is_factored or "variance" in state else ["variance"]
        if missing:
            message = f"its state lacks {', '.join(missing)}"
            self.add_fault("missing-state", message, self.label(slot))
        weight = self.weight(slot)
        shape = weight.tensor.shape if weight is not None else slot.shape
        for key, tensor in slot.tensors.items():
            if key not in state_keys("shape"):
                continue
            if tensor.shape != shape and shape is not None:
                if not any(fault.kind in ("shape", "order") for fault in self.findings):
                    message = f"{key} has the shape {tensor.shape}, the parameter {shape}"
                    self.add_fault("shape", message, self.label(slot))
            elif weight is not None and not any(fault.kind == "dtype" for fault in self.findings):
                pair = (tensor.dtype, weight.tensor.dtype)
                dtypes = tuple(x.name if x is not None else "of an unknown type" for x in pair)
                # A model in half precision, or only saved as such, has a float32 state.
                if dtypes[0] != dtypes[1] and dtypes not in _MIXED_PRECISION:
                    message = f"{key} is {dtypes[0]}, the parameter {dtypes[1]}"
                    self.add_fault("dtype", message, self.label(slot))

    def check_learning_rates(self, is_only_optimizer: bool) -> None:
        """The learning rates are finite, and those that the scheduler set."""
        rates = [self.number(group.get("lr")) for group in self.optimizer.groups]
        for index, rate in enumerate(rates):
            if rate is not None and not -1e-12 <= rate < inf:  # LinearLR may round below 0
                self.add_fault("lr", f"the learning rate of group {index} is {rate:g}")
        schedulers = self.schedulers
        if not schedulers and any("initial_lr" in group for group in self.optimizer.groups):
            message = "the learning rate was scheduled, but the file has no scheduler's state"
            self.add_undecided("lr", message)
        with_rates = [scheduler for scheduler in schedulers if scheduler.last_lr is not None]
        candidates = [s for s in with_rates if len(s.last_lr or ()) == len(rates)]
        known = [rate for rate in rates if rate is not None]
        if not candidates or len(known) < len(rates):
            return
        close = partial(isclose, rel_tol=1e-6)
        if any(all(map(close, known, scheduler.last_lr or [])) for scheduler in candidates):
            return
        first = candidates[0]
        message = (
            f"the learning rate is {_rates_text(known)}, that of the scheduler "
            f"{dotted(first.path)} {_rates_text(first.last_lr or [])}"
        )
        is_only_pair = is_only_optimizer and len(with_rates) == 1
        (self.add_fault if is_only_pair else self.add_undecided)("lr", message)

    def check_steps(self) -> None:
        """Steps are whole numbers, and equal within a module, whose parameters train together."""
        counts: Counter[float] = Counter()
        by_module: dict[str, set[float]] = {}
        for slot in self.slots:
            step = self.number(slot.state.get("step")) if slot.state else None
            if step is None:
                continue
            if not 0 <= step < inf or step != int(step):
                self.add_fault("step", f"step is {step:g}", self.label(slot))
                continue
            counts[step] += 1
            name = self.names[slot.number]
            if name is not None and "." in name:
                by_module.setdefault(name.rsplit(".", 1)[0], set()).add(step)
        # A scheduler counts epochs, or the optimizer's steps. Steps that a GradScaler left out and
        # accumulated batches are allowed for.
        steps, epoch = int(max(counts, default=0)), self.epoch
        if counts and epoch is not None and epoch > steps > 0:
            message = f"has made {count_text(steps, 'step')}, but the recorded epoch is {epoch}"
            self.add_undecided("counter", f"the optimizer {message}")
        elif counts and epoch is not None:
            for scheduler in self.schedulers:
                count = scheduler.last_epoch
                is_multiple = steps > 0 and count > steps and count % steps == 0
                counts_batches = is_multiple or 0 <= count - steps <= 24 + steps // 20
                if abs(count - epoch) > 1 and not counts_batches:
                    text = f"the scheduler {dotted(scheduler.path)} has made {brief_repr(count)}"
                    message = f"steps, the optimizer {steps}, and the recorded epoch is {epoch}"
                    self.add_undecided("counter", f"{text} {message}")
        class_path = self.optimizer.class_path or ""
        if counts.keys() == {0.0} and self.progress:  # Adagrad has a state before its first step
            is_certain = class_path.startswith("torch.") and not class_path.endswith(".Adagrad")
            self.findings.append(
                Fault("step", f"step is 0 at {self.progress}", is_certain=is_certain)
            )
        if len(counts) < 2:
            return
        text = " and ".join(f"{step:g} ({counts[step]})" for step in sorted(counts)[:4])
        module = next((name for name, found in by_module.items() if len(found) > 1), None)
        if module is not None:
            self.add_fault("step", f"the steps differ within {module}: {text}")
        else:
            message = f"the steps differ: {text}; unfrozen later, without gradients, or mixed"
            self.add_undecided("step", message)

    def check_numbers(self) -> None:
        """No NaN, no inf, no negative squares, and no moments that only lost state can have."""
        lost: list[str] = []
        untrained: list[str] = []
        compared = 0
        for slot in self.slots:
            zeros: dict[Value, bool] = {}
            for key, value in (slot.state or {}).items():
                items = None if isinstance(value, int | float | str) else as_sequence(value)
                for item in items if items is not None else (value,):
                    numbers = self.numbers(item)
                    if numbers.non_finite:
                        message = f"{key} contains {numbers.non_finite}"
                        self.add_fault("nan", message, self.label(slot))
                        break
                    if numbers.is_negative and key in state_keys("positive"):
                        message = f"{key} contains negative numbers; it is an average of squares"
                        self.add_fault("negative", message, self.label(slot))
                        break
                    zeros[key] = numbers.is_zero
            first = [zeros[key] for key in state_keys("first") if key in zeros]
            second = [zeros[key] for key in state_keys("second") if key in zeros]
            compared += bool(first or second)
            if second and all(second):
                untrained.append(self.label(slot))
            elif first and all(first):
                lost.append(self.label(slot))
        for names, message in ((untrained, "{} never got a gradient other than zero"),
                               (lost, "the momentum of {} is zero")):  # fmt: skip
            text = message.format(join_names(names, 3))
            # One parameter without gradients is unused or frozen; all of them cannot be.
            if names and len(names) == compared and len(self.slots) > 1 and self.progress:
                self.add_fault("zero", f"{text}: the state is lost, or was reset")
            elif names:
                self.add_undecided("zero", text)

    def numbers(self, value: Value) -> Numbers:
        if value is None or isinstance(value, int | str | float):
            return Numbers(name_non_finite([value]) if isinstance(value, float) else None)
        tensor = self.tensor_of(value)
        return numbers_of(tensor) if tensor is not None else Numbers()

    def number(self, value: Value) -> float | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return as_float(value)
        tensor = self.tensor_of(value) if value is not None else None
        if tensor is None:
            return None
        number = number_of(tensor)
        return float(number) if isinstance(number, int | float) else None


def _key_text(key: Value) -> str:
    return brief_repr(key) if isinstance(key, int) else str(key)


def _rates_text(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
