"""Runs of one training, where two runs first differ, and the usual causes of that.

Each cause has fixes: parts that are restored from the uninterrupted run. A cause is reported only
if with its fixes, and no others, the bits agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ptinspect.proofs.processes import Workers
from ptinspect.text import join_names

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

GENERATORS = {
    "rng-torch": "torch's", "rng-numpy": "numpy's", "rng-python": "Python's", "rng-cuda": "CUDA's",
}  # fmt: skip
# Per kind of cause: the state that differs after loading, the fix, and the message.
_RECORDED_STATE = (
    ("learning-rate", "lr of group", "learning-rate",
     "the learning rate in the file is not the one that the training used"),
    ("scheduler", "scheduler", "scheduler",
     "the scheduler's state is not in the file, or not restored"),
    ("grad-scaler", "scaler", "scaler",
     "the state of the GradScaler is not in the file, or not restored"),
)  # fmt: skip
SEED_SET_AGAIN = "the order of the first epoch repeats"


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of a difference. `fixes` are the names of the parts to restore."""

    kind: str
    fixes: tuple[str, ...]
    message: str


def possible_causes(uninterrupted: Answer, resumed: Answer, plan: dict[str, Any]) -> list[Cause]:
    """Return the causes that two runs leave possible, in the order in which to try them."""
    causes = [
        *_optimizer_causes(uninterrupted, resumed, plan),
        *_recorded_causes(uninterrupted, resumed),
        *_position_causes(uninterrupted, resumed, plan),
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
    failed = "error" in resumed
    states = changed_state(uninterrupted, resumed, "optimizer ")
    state_lost = bool(states) or (failed and resumed["failed_at"] == "step")
    state_missing = uninterrupted["state_missing"]
    if not plan["optimizers"]:
        message = "the optimizer's state is not in the file"
    elif state_missing:
        message = "the optimizer's state is empty in the file"
    else:
        message = f"the optimizer's state is not restored: {_names_text(states)}"
    state_cause = Cause("optimizer-state", ("optimizer",), message)
    if state_lost and state_missing:
        yield state_cause
    buffers = uninterrupted["buffers_covered"]
    if buffers:
        message = f"buffers were passed to the optimizer as parameters: {_names_text(buffers)}"
        yield Cause("buffers-in-optimizer", ("buffers-in-optimizer",), message)
    order = resumed.get("parameter_order") or uninterrupted["parameter_order"]
    file_order = [name for name in uninterrupted["file_order"] if name in order]
    if file_order and [name for name in order if name in file_order] != file_order:
        message = (
            f"the parameter order changed: the file's optimizer has {_names_text(file_order)}, "
            f"the model now {_names_text(order)}"
        )
        yield Cause("parameter-order", ("order",), message)
    trainable, trained = resumed.get("trainable") or [], uninterrupted["trained"]
    if (trainable and sorted(trainable) != sorted(trained)) or (failed and not trainable):
        frozen = [name for name in trainable if name not in trained]
        unfrozen = [name for name in trained if name not in trainable]
        reason = "the optimizer covers other parameters than the model has"
        if frozen:
            reason = (
                f"{_names_text(frozen)} without state in the file, so frozen when it was saved (or "
                "the state is lost)"
            )
        elif unfrozen:
            reason = f"{_names_text(unfrozen)} were trained when the file was saved"
        message = f"the trainable set changed: {reason}"
        yield Cause("trainable-set", ("trainable",), message)
    if state_lost and not state_missing:
        yield state_cause


def _recorded_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    for kind, prefix, fix, message in _RECORDED_STATE:
        if changed_state(uninterrupted, resumed, prefix):
            yield Cause(kind, (fix,), message)
    autocast = uninterrupted["autocast"]
    if autocast != resumed.get("autocast", autocast):
        message = (
            f"AMP: the file was trained with autocast to {autocast}, and is resumed with "
            f"{resumed['autocast'] or 'none'}"
        )
        yield Cause("amp", ("amp",), message)


def _position_causes(
    uninterrupted: Answer, resumed: Answer, plan: dict[str, Any]
) -> Iterator[Cause]:
    expected, actual = uninterrupted["position"], resumed.get("position")
    if actual is None:
        return
    error = actual[0] - expected[0]
    if expected[1] and expected != actual:
        message = (
            f"the checkpoint was saved in the middle of an epoch, after {expected[1]} of its "
            "batches; a resumed training starts the next epoch"
        )
        yield Cause("mid-epoch", ("mid-epoch",), message)
    elif error and (plan["epoch"] or plan["step"]):
        direction = "late" if error > 0 else "early"
        message = (
            f"the epoch in the file is off by {abs(error)}: training would go on too {direction}"
        )
        yield Cause("epoch", ("epoch",), message)
    elif error and uninterrupted["uses_epoch"]:
        message = (
            "the epoch is not in the file, and the order of the data follows from it (set_epoch, "
            "or the parameter `epoch` of --data): the first epoch repeats"
        )
        yield Cause("epoch", ("epoch",), message)


def _random_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    actual, saved = resumed.get("rng", {}), uninterrupted["saved"]["rng"]
    trace = uninterrupted["trace"]
    used = {
        name for name, digest in trace[-1]["rng"].items()
        if digest != trace[0]["rng"].get(name) or digest != saved.get(name)
    }  # fmt: skip
    changed, count = batch_order_differs(uninterrupted, resumed), len(resumed["trace"])
    repeats = changed and _batches(resumed, 0, count) == _batches(uninterrupted, 0, count)

    def or_seed_set_again(cause: Cause) -> Cause:
        if not repeats:
            return cause
        message = f"the seed is set again at the start, and {cause.message}: {SEED_SET_AGAIN}"
        return replace(cause, kind="seed-set-again", message=message)

    for fix, name in GENERATORS.items():
        key = f"rng {fix[4:]}"
        if key in saved and actual.get(key) != saved[key] and key in used:
            message = f"{name} random number state is not saved"
            yield or_seed_set_again(Cause("rng", (fix,), message))
    held = [key for key in saved if key.startswith("rng held") and key in used]
    changed_held = [key.split(": ")[1] for key in held if actual.get(key) != saved[key]]
    if changed_held:
        names = join_names(changed_held, 3)
        message = f"the state of a random number generator is not saved ({names})"
        kind = "shuffling" if changed else "rng"
        yield or_seed_set_again(Cause(kind, ("generators",), message))
    if repeats:
        message = f"the seed is set again at the start: {SEED_SET_AGAIN}"
        yield Cause("seed-set-again", ("replay",), message)
    elif changed:
        how = (
            "come in another order"
            if same_contents(uninterrupted, resumed)
            else "hold other values"
        )
        message = f"the batches {how}, which no saved generator state determines"
        yield Cause("shuffling", ("replay",), message)


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
    names = _names_text(weights or buffers)
    if weights:
        fixes = ("weights", "buffers") if buffers else ("weights",)
        kind, message = "weights", f"weights are not in the file, or not restored: {names}"
        for dtype in ("float16", "bfloat16"):
            if f"torch.{dtype}" in uninterrupted["file_dtypes"]:
                kind = "dtype"
                message = f"the weights are saved as {dtype}, less precise than in training"
        yield Cause(kind, fixes, message)
    elif buffers:
        norm = any(name.rsplit(".", 1)[-1].startswith("running_") for name in buffers)
        subject = "BatchNorm's buffers" if norm else "buffers"
        message = f"{subject} are not in the file, or not restored: {names}"
        yield Cause("buffers", ("buffers",), message)


def _names_text(names: list[str]) -> str:
    """List the names without the words in front of them (`weights`, `optimizer`)."""
    return join_names((name.split(" ", 1)[-1] for name in names), 3)
