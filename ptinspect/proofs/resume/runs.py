"""Runs of one training in child processes, and where two runs first differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ptinspect.proofs.processes import Workers

# A child process's answer: its trace, losses, states and what describes the training.
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingRuns:
    """Starts the runs of one training.

    Attributes:
        plan: where the parts of the training are in the checkpoint.
        files: path without suffix of what the uninterrupted run writes: the checkpoint in the
            middle (.pt), all state at that step (.snapshot), the state at the end (.ends).
        keep_end_state: write the end state, which only the comparison of devices needs.
    """

    path: str
    plan: dict[str, Any]
    options: dict[str, Any]
    workers: Workers
    files: str
    keep_end_state: bool = False

    def on_device(self, device: str) -> TrainingRuns:
        """Return the same training on another device, with the same files."""
        return replace(self, options={**self.options, "device": device}, keep_end_state=True)

    def uninterrupted(self, *, save: bool = True) -> Answer:
        """Train 2N steps, and save after N of them."""
        job: dict[str, Any] = {
            "kind": "uninterrupted", "plan": self.plan, "options": self.options, "path": self.path,
        }  # fmt: skip
        if save:
            job |= {"checkpoint": f"{self.files}.pt", "snapshot": f"{self.files}.snapshot"}
            job["end_state"] = f"{self.files}.ends" if self.keep_end_state else None
        return self.workers.run(job)

    def resumed(
        self, uninterrupted: Answer, fixes: tuple[str, ...] = (), end_state: str | None = None
    ) -> Answer:
        """Train N steps from the saved checkpoint in a new process."""
        measured = {key: uninterrupted[key] for key in ("epoch_offset", "per_step")}
        return self.workers.run(
            {
                "kind": "resumed",
                "plan": self.plan,
                "options": {**self.options, **measured},
                "path": f"{self.files}.pt",
                "snapshot": f"{self.files}.snapshot",
                "fixes": list(fixes),
                "steps": len(uninterrupted["trace"]) - uninterrupted["saved"]["step"],
                "end_state": end_state,
            }
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between two runs, such as `the loss` or `weights fc.bias`.

    `step` is counted from the load, 0 is just after loading; `more` things differ at that step.
    """

    step: int
    what: str
    more: int = 0

    def __str__(self) -> str:
        place = f"at step {self.step} after loading" if self.step else "just after loading"
        more = f", and {self.more} more" if self.more else ""
        return f"{self.what}, {place}{more}"


def first_difference(uninterrupted: Answer, resumed: Answer) -> Difference | None:
    """Return where a resumed run first differs from the uninterrupted one, None if nowhere.

    The states of random number generators are not compared: a difference that matters shows in
    what draws from them.
    """
    if resumed.get("failed_at") == "load":
        return Difference(0, f"loading fails: {resumed['error']}")
    names = differing_names(uninterrupted["saved"]["state"], resumed["state"])
    if names:
        return Difference(0, names[0], len(names) - 1)
    saved_step = uninterrupted["saved"]["step"]
    difference = first_trace_difference(uninterrupted["trace"][saved_step:], resumed["trace"])
    if difference is None and "error" in resumed:
        return Difference(len(resumed["trace"]) + 1, f"the step fails: {resumed['error']}")
    return difference


def first_trace_difference(first: list[Any], second: list[Any]) -> Difference | None:
    """Return the first step at which two traces differ, None if they are equal."""
    for number, (a, b) in enumerate(zip(first, second, strict=False), 1):
        names = [f"the {part}" for part in ("batch", "loss") if a[part] != b[part]][:1]
        names = names or differing_names(a["state"], b["state"])
        if names:
            return Difference(number, names[0], len(names) - 1)
    return None


def differing_names(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Return the names whose digests differ, or that only one of the two has."""
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]
