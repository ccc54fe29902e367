"""What the recorder wrote about a run, and where two runs differ first."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

_BEFORE = {"weights": "the weights", "state": "the optimizer's state"}
"""What is compared before a step, in this order; then the settings, such as the learning rate."""

_SHUFFLERS = ("RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler")
"""Samplers of torch that draw from its global generator if they have none of their own."""


@dataclass(slots=True)
class Trace:
    """The steps of a run.

    Attributes:
        ranks: the optimizer steps of each process that trains, by rank.
        saves: changes of the checkpoint files between two steps: the files, and the steps before.
        environment: versions, device and precision; None if nothing was recorded.
        errors: why the recorder gave up.
    """

    ranks: dict[int, list[Record]] = field(default_factory=dict)
    saves: list[tuple[list[str], int]] = field(default_factory=list)
    environment: Record | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps of the process that made the most."""
        return max(map(len, self.ranks.values()), default=0)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between two runs.

    Attributes:
        step: number of the optimizer step, from 1, counted in the whole run.
        what: such as `lr before step 9`.
        kind: the cause that usually leads to it.
        whole: the value in the whole run, if it can be shown.
        other: the value in the other run.
    """

    step: int
    what: str
    kind: str
    whole: str | None = None
    other: str | None = None

    def __str__(self) -> str:
        values = f": {self.other}, not {self.whole}" if self.whole is not None else ""
        return self.what + values


def read_trace(folder: str) -> Trace:
    """Return what the processes of a run recorded. A line that was cut by the kill is dropped."""
    trace = Trace()
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".jsonl")):
        rank, loader, saves = 0, None, []
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if "rank" in record:
                    rank = record["rank"]
                    trace.environment = trace.environment or record["environment"]
                elif "sampler" in record:
                    loader = record
                elif "saved" in record:
                    saves.append((record["saved"], record["steps"]))
                elif "weights" in record:
                    trace.ranks.setdefault(rank, []).append({**record, "loader": loader})
                elif "error" in record:
                    trace.errors.append(record["error"])
        if len(saves) > len(trace.saves):
            trace.saves = saves
    return trace


def recorded_processes(folder: str) -> list[tuple[int, int | None]]:
    """Return the process and session ids of all Python processes of a run."""
    processes = []
    for name in os.listdir(folder):
        if name.endswith(".jsonl"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                line = file.readline()
            if line.endswith("\n"):
                record = json.loads(line)
                processes.append((record["pid"], record["session"]))
    return processes


def resumed_at(whole: list[Record], resumed: list[Record], killed_after: int) -> int | None:
    """Return how many steps of the whole run came before the first step of the resumed one.

    The weights before a step say which one it is. If they stay the same for several steps, the
    optimizer's state decides, then the last step before the kill.
    """
    if not resumed:
        return None
    first = resumed[0]
    matches = [n for n, record in enumerate(whole) if record["weights"] == first["weights"]]
    if not matches:
        return None
    return max(
        matches,
        key=lambda n: (whole[n]["state"] == first["state"], n <= killed_after, n),
    )


def first_difference(whole: list[Record], other: list[Record], start: int) -> Difference | None:
    """Return the first difference between a whole run and one that goes on after `start` steps."""
    for index, (a, b) in enumerate(zip(whole[start:], other, strict=False)):
        step = start + index + 1
        for key, name in _BEFORE.items():
            if a[key] != b[key]:
                return _state_difference(a, b, key, f"{name} before step {step}", step)
        for number, (x, y) in enumerate(zip(a["settings"], b["settings"], strict=False)):
            changed = [name for name in x if name in y and x[name] != y[name]]
            if changed:
                name = "lr" if "lr" in changed else changed[0]
                group = f" of group {number}" if len(a["settings"]) > 1 else ""
                what = f"{name}{group} before step {step}"
                kind = _setting_kind(whole, start + index, number, name, y[name])
                return Difference(step, what, kind, _short(x[name]), _short(y[name]))
        if a["gradients"] != b["gradients"]:
            return _gradient_difference(whole, other, start, index)
    return None


def _short(number: str) -> str:
    return number if number in ("True", "False") else f"{float(number):.6g}"


def _state_difference(a: Record, b: Record, key: str, what: str, step: int) -> Difference:
    if key == "weights":
        return Difference(step, what, "weights")
    if a["states"] != b["states"]:
        total = a["states"]
        return Difference(
            step, what, "optimizer-state", f"of {total}", f"of {b['states']} parameters"
        )
    return Difference(step, what, "optimizer-state")


def _setting_kind(whole: list[Record], index: int, group: int, name: str, value: str) -> str:
    """Return the cause of a learning rate that is not the one of this step."""
    if name != "lr":
        return "settings"
    earlier = [
        record["settings"][group].get("lr")
        for record in whole[:index]
        if record["optimizer"] == whole[index]["optimizer"]
    ]
    if earlier and earlier[-1] == value:
        return "scheduler-late"
    return "scheduler"


def _gradient_difference(
    whole: list[Record], other: list[Record], start: int, index: int
) -> Difference:
    """Say why the gradients differ though weights, state and settings were the same."""
    a, b = whole[start + index], other[index]
    step = start + index + 1
    last_a, last_b = a["batches"][-1:], b["batches"][-1:]
    drawn = _changed_rng(a, b)
    if last_a == last_b:
        # The model draws random numbers in each step, not only the data at the start of an epoch.
        if drawn and (not last_a or _draws_each_step(whole, start + index, drawn)):
            return Difference(step, f"{drawn}'s RNG at step {step}", "rng")
        return Difference(step, f"the gradients of step {step}", "gradients")
    what = f"the batch of step {step}"
    loader_a, loader_b = a["loader"], b["loader"]
    if loader_a and loader_b:
        shuffles = loader_a["sampler"] in _SHUFFLERS and loader_a["generator"] is None
        if shuffles and drawn == "torch":
            return Difference(step, f"torch's RNG at step {step}", "rng")
        if loader_a["epoch"] != loader_b["epoch"]:
            what += f" ({loader_a['sampler']}.epoch)"
            epochs = str(loader_a["epoch"]), str(loader_b["epoch"])
            return Difference(step, what, "sampler-epoch", *epochs)
        if loader_a["generator"] != loader_b["generator"]:
            what = f"the state of the DataLoader's generator at step {step}"
            return Difference(step, what, "generator")
    for earlier in range(start + index):
        if whole[earlier]["batches"][-1:] == last_b and last_b:
            return Difference(step, f"{what}, which is that of step {earlier + 1}", "data-again")
    later = [record["batches"][-1:] for record in whole[start + index + 1 :]]
    if last_b and last_b in later:
        later_step = start + index + 2 + later.index(last_b)
        return Difference(step, f"{what}, which is that of step {later_step}", "data-skipped")
    if drawn:
        return Difference(step, f"{drawn}'s RNG at step {step}", "rng")
    return Difference(step, what, "data-order")


def _changed_rng(a: Record, b: Record) -> str | None:
    """Return the first global generator whose state differs."""
    return next((name for name in a["rng"] if a["rng"][name] != b["rng"].get(name)), None)


def _draws_each_step(whole: list[Record], index: int, generator: str) -> bool:
    around = whole[max(index - 1, 0) : index + 2]
    return len({record["rng"].get(generator) for record in around}) == len(around)
