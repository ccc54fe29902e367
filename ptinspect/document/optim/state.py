"""The state of a training in a file: optimizers, learning rate schedulers, and how far it was.

Source: `torch.optim.Optimizer.state_dict`: {"state": {index: {…}}, "param_groups": [{…}]}; each
class's keys are the `defaults` of its `__init__` and what its `_init_group` (LBFGS: `step`) adds
to the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import inf, isnan
from typing import NamedTuple

from ptinspect.document.entries import Entry
from ptinspect.pickling.pyobjects import (
    Path,
    as_mapping,
    as_sequence,
    attributes_of,
    brief_repr,
    class_path,
    is_huge_int,
    path_step,
)
from ptinspect.pickling.values import Call, Value, key_value
from ptinspect.text import cut, read_package_file


class Optimizer(NamedTuple):
    """An optimizer's state.

    Attributes:
        class_path: `torch.optim.SGD`, or None.
        evidence: `recorded` (the object itself was pickled), `inferred` (from its hyper-parameters
            and state) or `unknown`.
        groups: the param_groups, in order.
        state: by parameter: its index, or the parameter itself.
        other: further items or attributes, such as a copy of the weights in float32.
        value: the state_dict, or the pickled object.
    """

    path: Path
    class_path: str | None
    evidence: str
    groups: tuple[dict[Value, Value], ...]
    state: dict[Value, Value]
    other: dict[Value, Value]
    value: Value

    def state_dict(self) -> Value:
        """Return what `state_dict()` gives: the parameters of a pickled object become numbers."""
        if as_mapping(self.value) is not None:
            return self.value
        numbers: dict[int, int] = {}
        groups: list[Value] = []
        for group in self.groups:
            params: list[Value] = [
                numbers.setdefault(id(parameter), len(numbers))
                for parameter in as_sequence(group.get("params")) or ()
            ]
            options = {key: value for key, value in group.items() if key != "params"}
            groups.append({**options, "params": params})
        state = {
            numbers[id(key)] if id(key) in numbers else key_value(key): value
            for key, value in self.state.items()
        }
        return {"state": state, "param_groups": groups}

    @property
    def step(self) -> Value:
        """The first parameter's step, a number or a 0-dim tensor, or that of a group, as FusedAdam
        of Apex, DeepSpeed and Megatron writes it; None without."""
        for values in self.state.values():
            step = (as_mapping(values) or {}).get("step")
            if step is not None:
                return step
        return next((group["step"] for group in self.groups if "step" in group), None)

    @property
    def label(self) -> str:
        """`SGD (inferred)`; the whole path if the class is not in torch.optim."""
        if self.class_path is None:
            return "an unknown class"
        name = cut(self.class_path.removeprefix("torch.optim."))
        return name if self.evidence == "recorded" else f"{name} ({self.evidence})"

    def parameters(self, group: int) -> int:
        return len(as_sequence(self.groups[group].get("params")) or ())

    @property
    def parameter_count(self) -> int:
        return sum(map(self.parameters, range(len(self.groups))))

    def members(self) -> Iterator[tuple[Path, Value]]:
        """Yield state, groups and other items with their paths. A pickled optimizer has the
        parameters themselves as keys: the path has their index."""
        indexes: dict[int, int] = {}
        for group in self.groups:
            for parameter in as_sequence(group.get("params")) or ():
                indexes.setdefault(id(parameter), len(indexes))
        for key, values in self.state.items():
            index = indexes.get(id(key)) if isinstance(key, Call) else None
            yield (*self.path, "state", path_step(key) if index is None else index), values
        for number, group in enumerate(self.groups):
            yield (*self.path, "param_groups", number), group
        for key, value in self.other.items():
            yield (*self.path, path_step(key)), value


def optimizer_of(value: Value, path: Path) -> Optimizer | None:
    """Return the optimizer state that `value` is: a state_dict or the pickled object; else None."""
    items, recorded = as_mapping(value), None
    if items is None and isinstance(value, Call):
        items, recorded = attributes_of(value), class_path(value)
    if not items or "state" not in items or "param_groups" not in items:
        return None
    state, group_values = as_mapping(items["state"]), as_sequence(items["param_groups"])
    if state is None or group_values is None:
        return None
    groups = tuple(group for group in map(as_mapping, group_values) if group is not None)
    if len(groups) != len(group_values) or not all("params" in group for group in groups):
        return None
    # The first class of torch.optim with such hyper-parameters and state. Adam and AdamW of torch
    # before 2.7 write the same keys: a weight decay of 0.01, AdamW's default, is taken for AdamW.
    keys = {key for values in state.values() for key in as_mapping(values) or {}}
    written = " ".join(row[3] for row in table_rows("classes")).replace("?", " ").split()
    is_foreign = bool(keys.difference(written, (key for key, _ in table_rows("state"))))
    fitting = (
        f"torch.optim.{row[0]}"
        for row in table_rows("classes")
        if groups and all(_has_sign(groups[0], sign) for sign in row[1].split())
        if keys.issuperset(row[2].split()) and (not is_foreign or row[0] == "LBFGS")
    )
    name = next(fitting, None)
    evidence = "inferred" if name else "unknown"
    if recorded:
        parts = recorded.split(".")  # torch.optim.adam.Adam is public as torch.optim.Adam
        name = f"torch.optim.{parts[-1]}" if parts[:2] == ["torch", "optim"] else recorded
        evidence = "recorded"
    known = ("state", "param_groups", "defaults")
    other = {key: value for key, value in items.items() if key not in known}
    return Optimizer(path, name, evidence, groups, state, other, value)


ROW, COLUMN = "row_var", "col_var"
"""Adafactor's factors: the parameter's shape with 1 as the last dimension, or as the one before."""


@cache
def table_rows(section: str) -> list[list[str]]:
    """Return the cells of the rows in a section of `classes.txt`."""
    text = read_package_file("document/optim/classes.txt").partition(f"\n[{section}]\n")[2]
    lines = text.partition("\n[")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines if line and line[0] != "#"]


@cache
def state_keys(kind: str) -> tuple[str, ...]:
    """Return the keys of tensors of a kind (`shape`, `flat`, `positive`, `first`, `second`)."""
    return tuple(key for key, kinds in table_rows("state") if kind in kinds.split())


def _has_sign(group: dict[Value, Value], sign: str) -> bool:
    if sign.startswith("!"):
        return sign[1:] not in group
    key, _, value = sign.partition("=")
    return key in group and (not value or str(group[key]) in (value, value + ".0"))


def required_state(class_path: str | None, group: dict[Value, Value]) -> tuple[str, ...] | None:
    """Return the keys that the class's state always has once a parameter was trained: none for a
    class without state (SGD without momentum); None for one not of torch.optim."""
    for name, _, _, keys in table_rows("classes"):
        if class_path == f"torch.optim.{name}":
            words = [word.partition("?") for word in keys.split()]
            return tuple(key for key, _, option in words if not option or group.get(option))
    return None


def has_state_after_step(
    class_path: str | None, groups: tuple[dict[Value, Value], ...]
) -> bool | None:
    """Return True if an optimizer that has made a step has state; None if that is unknown."""
    if (class_path or "").endswith(".LBFGS"):
        return True
    if class_path is None and groups and all("betas" in group for group in groups):
        return True  # some class of Adam's family: the betas are for its averages
    keys = [required_state(class_path, group) for group in groups]
    return None if None in keys else any(keys)


def wrong_settings(
    optimizer: Optimizer, number: Callable[[Value], float | None]
) -> Iterator[tuple[str, str]]:
    """Yield kind and message of each setting that is NaN, or that the constructor of its class
    refuses. `number` returns the number that a value is, such as a tensor of one element."""
    name = (optimizer.class_path or "").removeprefix("torch.optim.")
    allowed = dict(table_rows("settings"))
    for index, group in enumerate(optimizer.groups):
        for key, value in group.items():
            values = () if key in ("lr", "params") else as_sequence(value) or (value,)
            for place, item in enumerate(map(number, values)):
                keys = (f"{name}.{key}", f"{key}.{place}", key)
                interval = next((allowed[k] for k in keys if k in allowed), "[-inf, inf]")
                low, high = map(float, interval[1:-1].split(","))
                text = f"{brief_repr(key) if isinstance(key, int) else key} of group {index}"
                if item is None or (low < item < high) or (item, interval[0]) == (low, "["):
                    continue
                if isnan(item):
                    yield "nan", f"{text} is NaN"
                elif (item, interval[-1]) != (high, "]"):
                    yield "setting", f"{text} is {item:g}, not in {interval}"
        momentum, dampening = (number(group.get(key)) for key in ("momentum", "dampening"))
        if name == "SGD" and group.get("nesterov") is True and (not momentum or dampening):
            yield "setting", f"nesterov of group {index} needs momentum, and no dampening"


EPOCHS = ("epoch", "epochs", "epochs_run", "current_epoch", "last_epoch", "start_epoch")
STEPS = (
    "global_step", "step", "steps", "iteration", "iter", "iters", "it", "num_updates", "niter",
    "n_iter", "round",
)  # fmt: skip
"""Names under which training scripts record their progress."""


def as_float(number: float) -> float:
    """Return a number as a float: infinity for an int that is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return inf if number > 0 else -inf


class Scheduler(NamedTuple):
    """A learning rate scheduler's state. `last_lr` per group, None if it is not recorded."""

    path: Path
    last_epoch: int
    last_lr: list[float] | None


def find_schedulers(entries: Iterable[Entry]) -> list[Scheduler]:
    """Return scheduler states, recognized by torch's names, except those inside another scheduler.
    Source: `torch.optim.lr_scheduler.LRScheduler.state_dict`."""
    values_at: dict[Path, dict[str, Value]] = {}
    for entry in entries:
        if entry.path:
            values_at.setdefault(entry.path[:-1], {})[str(entry.path[-1])] = entry.value
    schedulers: list[Scheduler] = []
    outer: set[Path] = set()
    for path, values in values_at.items():
        last = values.get("last_epoch")
        if not isinstance(last, int) or not {"_step_count", "_last_lr", "base_lrs"} & set(values):
            continue
        if any(path[:length] in outer for length in range(1, len(path))):
            continue  # part of a SequentialLR
        rates = values.get("_last_lr")
        while len(path) > 1 and path[-2] == "_schedulers":  # a ChainedScheduler has no last_epoch
            path = path[:-2]
            rates = values_at.get(path, {}).get("_last_lr")
        outer.add(path)
        numbers = None
        if isinstance(rates, list) and all(isinstance(rate, int | float) for rate in rates):
            numbers = [as_float(rate) for rate in rates]
        schedulers.append(Scheduler(path, last, numbers))
    return schedulers


def training_counter(
    entries: Iterable[Entry],
    schedulers: Iterable[Scheduler],
    names: tuple[str, ...] = (*EPOCHS, *STEPS),
) -> Entry | None:
    """Return the number that records how far training was, such as `epoch`. Of several, the one
    with the shortest path, then the one whose name is first in `names`. Schedulers' own counters
    do not count."""
    scheduler_paths = {scheduler.path for scheduler in schedulers}
    best: tuple[int, int] | None = None
    counter = None
    for entry in entries:
        name = str(entry.path[-1]).lower() if entry.path else ""
        if name not in names or len(entry.path) > 2 or entry.path[:-1] in scheduler_paths:
            continue
        is_number = isinstance(entry.value, int | float) and not isinstance(entry.value, bool)
        if not is_number or is_huge_int(entry.value):
            continue
        rank = (len(entry.path), names.index(name))
        if best is None or rank < best:
            best, counter = rank, entry
    return counter
