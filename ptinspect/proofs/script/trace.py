"""What the recorder wrote about a run, and where two runs differ first."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

_SHUFFLERS = ("RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler")
"""Samplers of torch that draw from its global generator if they have none of their own."""


@dataclass(slots=True)
class Trace:
    """The steps of a run by rank, the number of steps before each save, and the process and session
    ids of all Python processes."""

    ranks: dict[int, list[Record]] = field(default_factory=dict)
    saves: list[int] = field(default_factory=list)
    processes: list[tuple[int, int]] = field(default_factory=list)
    environment: Record | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps of the process that made the most."""
        return max(map(len, self.ranks.values()), default=0)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between two runs: the step of the whole run (from 1), such as `lr before
    step 9`, the kind of its usual cause, and both values if they can be shown."""

    step: int
    what: str
    kind: str
    whole: str | None = None
    other: str | None = None

    def __str__(self) -> str:
        return self.what + (f": {self.other}, not {self.whole}" if self.whole is not None else "")


def read_trace(folder: str) -> Trace:
    """Return what the processes of a run recorded. A line that was cut by the kill is dropped."""
    trace = Trace()
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".jsonl")):
        rank, loader, saves = 0, None, list[int]()
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            lines = [line for line in file if line.endswith("\n")]
        for record in map(json.loads, lines):
            if "session" in record:
                trace.processes.append((record["pid"], record["session"]))
            elif "rank" in record:
                rank = record["rank"]
                trace.environment = trace.environment or record["environment"]
            elif "sampler" in record:
                loader = record
            elif "saved_after" in record:
                saves.append(record["saved_after"])
            elif "weights" in record:
                trace.ranks.setdefault(rank, []).append({**record, "loader": loader})
            elif "error" in record:
                trace.errors.append(record["error"])
        trace.saves = max(trace.saves, saves, key=len)
    return trace


def resumed_at(whole: list[Record], resumed: list[Record], killed_after: int) -> int | None:
    """Return how many steps of the whole run came before the first step of the resumed one.

    The weights say which step it is; if several have them, the optimizer's state, then the kill.
    """
    matches = [
        ((record["state"] == resumed[0]["state"], number <= killed_after), number)
        for number, record in enumerate(whole)
        if resumed and record["weights"] == resumed[0]["weights"]
    ]
    return max(matches, default=(None, None))[1]


def first_difference(whole: list[Record], other: list[Record], start: int) -> Difference | None:
    """Return the first difference between a whole run and one that goes on after `start` steps."""
    for index, (a, b) in enumerate(zip(whole[start:], other, strict=False), start):
        step = index + 1
        if a["weights"] != b["weights"]:
            return Difference(step, f"the weights before step {step}", "weights")
        if a["state"] != b["state"]:
            what, texts = f"the optimizer's state before step {step}", list[str]()
            if a["states"] != b["states"]:
                texts = [f"of {a['states']}", f"of {b['states']} parameters"]
            return Difference(step, what, "optimizer-state", *texts)
        setting = _first_setting(whole, index, b)
        if setting is not None:
            return setting
        if a["gradients"] != b["gradients"]:
            kind, what = _why_gradients_differ(whole, index, b)
            return Difference(step, what, kind)
    return None


def _first_setting(whole: list[Record], index: int, other: Record) -> Difference | None:
    """Return the first setting of a parameter group that differs before a step."""
    groups = list(zip(whole[index]["settings"], other["settings"], strict=False))
    for number, (a, b) in enumerate(groups):
        for name in sorted(a, key=lambda name: name != "lr"):
            if a[name] != b.get(name, a[name]):
                group = f" of group {number}" if len(groups) > 1 else ""
                earlier = [
                    record["settings"][number].get(name)
                    for record in whole[:index]
                    if record["optimizer"] == other["optimizer"]
                    and number < len(record["settings"])
                ]
                kind = "scheduler-late" if earlier[-1:] == [b[name]] else "scheduler"
                kind = kind if name == "lr" else "settings"
                what = f"{name}{group} before step {index + 1}"
                return Difference(index + 1, what, kind, f"{a[name]:.6g}", f"{b[name]:.6g}")
    return None


def _why_gradients_differ(whole: list[Record], index: int, other: Record) -> tuple[str, str]:
    """Return the kind and the description of what differs, if nothing else does before the step."""
    here, step = whole[index], index + 1
    changed = [name for name, state in here["rng"].items() if state != other["rng"].get(name)]
    batch = other["batch"]
    if batch == here["batch"]:
        # The model draws random numbers in each step, not only the data at the start of an epoch.
        around = [record["rng"] for record in whole[max(index - 1, 0) : index + 2]]
        if batch:
            changed = [
                name for name in changed if len({rng.get(name) for rng in around}) == len(around)
            ]
        return _rng(changed, step) or ("gradients", f"the gradients of step {step}")
    what = f"the batch of step {step}"
    a, b = here["loader"], other["loader"]
    if a and b:
        if "torch" in changed and a["sampler"] in _SHUFFLERS and a["generator"] is None:
            return "rng", f"torch's RNG at step {step}"
        if a["epoch"] != b["epoch"]:
            epochs = f"{b['epoch']}, not {a['epoch']}"
            return "sampler-epoch", f"{what} ({a['sampler']}.epoch: {epochs})"
        if a["generator"] != b["generator"]:
            return "generator", f"the state of the DataLoader's generator at step {step}"
    for number, record in enumerate(whole):
        if record["batch"] == batch:
            kind = "data-again" if number < index else "data-skipped"
            return kind, f"{what}, which is that of step {number + 1}"
    return _rng(changed, step) or ("data-order", what)


def _rng(changed: list[str], step: int) -> tuple[str, str] | None:
    names = " and ".join(f"{name}'s" for name in changed)
    return ("rng", f"{names} RNG at step {step}") if changed else None
