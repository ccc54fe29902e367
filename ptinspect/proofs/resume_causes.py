"""Runs of one training, where two runs first differ, and the usual causes of that.

Each cause has fixes: parts that are restored from the uninterrupted run. A cause is reported only
if with its fixes, and no others, the bits agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ptinspect.proofs.processes import Workers
from ptinspect.text import join_names, read_package_file

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
        job: Answer = {"kind": "uninterrupted", "plan": self.plan, "options": self.options}
        if save:
            job |= {"checkpoint": f"{self.files}.pt", "snapshot": f"{self.files}.snapshot"}
            job["end_state"] = f"{self.files}.ends" if self.keep_end_state else None
        return self.workers.run({**job, "path": self.path})

    def resumed(
        self, uninterrupted: Answer, fixes: tuple[str, ...] = (), end_state: str | None = None
    ) -> Answer:
        """Train N steps from the saved checkpoint in a new process."""
        measured = {key: uninterrupted[key] for key in ("epoch_offset", "per_step")}
        steps = len(uninterrupted["trace"]) - uninterrupted["saved"]["step"]
        job = {
            "kind": "resumed", "plan": self.plan, "options": {**self.options, **measured},
            "path": f"{self.files}.pt", "snapshot": f"{self.files}.snapshot",
            "fixes": list(fixes), "steps": steps, "end_state": end_state,
        }  # fmt: skip
        return self.workers.run(job)


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


# --- Causes ---


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of a difference. `fixes` are the names of the parts to restore."""

    kind: str
    fixes: tuple[str, ...]
    message: str


_LINES = read_package_file("proofs/resume_causes.txt").splitlines()
TEXTS = {
    name.strip(): (tuple(fixes.split()), message.strip())
    for name, fixes, message in (line.split("|") for line in _LINES if line and line[0] != "#")
}
"""By kind and variant: the fixes of a cause, and its message."""


def make_cause(name: str, **values: object) -> Cause:
    """Return the cause with this name in `TEXTS`; `values` are those of the message."""
    fixes, message = TEXTS[name]
    return Cause(name.partition(":")[0], fixes, message.format(**values))


def possible_causes(uninterrupted: Answer, resumed: Answer, plan: dict[str, Any]) -> list[Cause]:
    """Return the causes that two runs leave possible, in the order in which to try them."""
    causes = [
        *_optimizer_causes(uninterrupted, resumed, plan),
        *_recorded_causes(uninterrupted, resumed, plan),
        *_random_causes(uninterrupted, resumed),
        *_weight_causes(uninterrupted, resumed),
    ]
    return list({cause.fixes: cause for cause in causes}.values())


def changed_state(uninterrupted: Answer, resumed: Answer, prefix: str) -> list[str]:
    """Return the names with this prefix whose state after loading is not the saved one."""
    if resumed.get("state") is None:
        return []
    names = differing_names(uninterrupted["saved"]["state"], resumed["state"])
    return [name for name in names if name.startswith(prefix)]


def _optimizer_causes(
    uninterrupted: Answer, resumed: Answer, plan: dict[str, Any]
) -> Iterator[Cause]:
    failed, state_missing = "error" in resumed, uninterrupted["state_missing"]
    states = changed_state(uninterrupted, resumed, "optimizer ")
    state_lost = bool(states) or (failed and resumed["failed_at"] == "step")
    if state_lost and state_missing:
        yield make_cause(f"optimizer-state:{'empty' if plan['optimizers'] else 'absent'}")
    buffers = uninterrupted["buffers_covered"]
    if buffers:
        yield make_cause("buffers-in-optimizer", names=_names_text(buffers))
    order = resumed.get("parameter_order") or uninterrupted["parameter_order"]
    file_order = [name for name in uninterrupted["file_order"] if name in order]
    if file_order and [name for name in order if name in file_order] != file_order:
        texts = {"file": _names_text(file_order), "model": _names_text(order)}
        yield make_cause("parameter-order", **texts)
    trainable, trained = resumed.get("trainable") or [], uninterrupted["trained"]
    if (trainable and sorted(trainable) != sorted(trained)) or (failed and not trainable):
        frozen = [name for name in trainable if name not in trained]
        unfrozen = [name for name in trained if name not in trainable]
        variant = "frozen" if frozen else "unfrozen" if unfrozen else "other"
        yield make_cause(f"trainable-set:{variant}", names=_names_text(frozen or unfrozen))
    if state_lost and not state_missing:
        yield make_cause("optimizer-state:lost", names=_names_text(states))


def _recorded_causes(
    uninterrupted: Answer, resumed: Answer, plan: dict[str, Any]
) -> Iterator[Cause]:
    prefixes = {"learning-rate": "lr of group", "scheduler": "scheduler", "grad-scaler": "scaler"}
    for kind, prefix in prefixes.items():
        if changed_state(uninterrupted, resumed, prefix):
            yield make_cause(kind)
    autocast = uninterrupted["autocast"]
    if autocast != resumed.get("autocast", autocast):
        yield make_cause("amp", file=autocast, now=resumed["autocast"] or "none")
    expected = uninterrupted["position"]
    actual: Any = resumed.get("position") or expected
    error = actual[0] - expected[0]
    if expected[1] and expected != actual:
        yield make_cause("mid-epoch", batches=expected[1])
    elif error and (plan["epoch"] or plan["step"]):
        yield make_cause(f"epoch:{'late' if error > 0 else 'early'}", error=abs(error))
    elif error and uninterrupted["uses_epoch"]:
        yield make_cause("epoch:absent")


def _random_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    saved, trace = uninterrupted["saved"]["rng"], uninterrupted["trace"]
    used = {
        name for name, digest in trace[-1]["rng"].items()
        if digest != trace[0]["rng"].get(name) or digest != saved.get(name)
    }  # fmt: skip
    actual = resumed.get("rng", {})
    lost = [name for name in saved if name in used and actual.get(name) != saved[name]]
    changed, count = batch_order_differs(uninterrupted, resumed), len(resumed["trace"])
    repeats = changed and _batches(resumed, 0, count) == _batches(uninterrupted, 0, count)
    causes = [make_cause(f"rng:{name[4:]}") for name in lost if ": " not in name]
    owned = join_names([name.split(": ")[1] for name in lost if ": " in name], 3)
    if owned:
        causes.append(make_cause("shuffling:owned" if changed else "rng:owned", names=owned))
    for cause in causes:
        again = make_cause("seed-set-again:and", cause=cause.message)
        yield replace(again, fixes=cause.fixes) if repeats else cause
    if repeats:
        yield make_cause("seed-set-again")
    elif changed:
        same = same_contents(uninterrupted, resumed)
        yield make_cause("shuffling:order" if same else "shuffling:values")


def _batches(answer: Answer, first: int, count: int) -> list[str]:
    return [step["batch"] for step in answer["trace"][first : first + count]]


def batch_order_differs(uninterrupted: Answer, resumed: Answer) -> bool:
    """Return True if the batches after the resume are not those of the uninterrupted run."""
    count = len(resumed["trace"])
    saved_step = uninterrupted["saved"]["step"]
    return _batches(resumed, 0, count) != _batches(uninterrupted, saved_step, count)


def same_contents(uninterrupted: Answer, resumed: Answer) -> bool:
    """Return True if the batches after the resume hold the same samples, in whatever order.

    Of a long epoch only the first batches are known, so that all samples may be the same.
    """
    if uninterrupted["batches_used"] is not None:
        return True
    saved_step, steps = uninterrupted["saved"]["step"], len(resumed["trace"])
    expected = uninterrupted["trace"][saved_step : saved_step + steps]
    contents = [[step["content"] for step in trace] for trace in (expected, resumed["trace"])]
    return bool(sum(contents[0]) == sum(contents[1]))


def _weight_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    weights = changed_state(uninterrupted, resumed, "weights ")
    buffers = changed_state(uninterrupted, resumed, "buffer ")
    dtypes = [name.removeprefix("torch.") for name in uninterrupted["file_dtypes"]]
    halves = [dtype for dtype in ("bfloat16", "float16") if dtype in dtypes]
    names = _names_text(weights or buffers)
    if weights:
        name = ("dtype" if halves else "weights") + (":buffers" if buffers else "")
        yield make_cause(name, names=names, dtype="".join(halves[:1]))
    elif buffers:
        is_norm = any(name.rsplit(".", 1)[-1].startswith("running_") for name in buffers)
        yield make_cause("buffers:norm" if is_norm else "buffers", names=names)


def _names_text(names: list[str]) -> str:
    """List the names without the words in front of them (`weights`, `optimizer`)."""
    return join_names((name.split(" ", 1)[-1] for name in names), 3)
