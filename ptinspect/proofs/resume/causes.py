"""The usual causes of a resumed training that differs from the uninterrupted one.

Each cause has fixes: parts that are restored from the uninterrupted run. A cause is reported only
if with its fixes, and no others, the bits agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ptinspect.proofs.resume.runs import Answer, differing_names
from ptinspect.text import join_names

GENERATORS = {
    "rng-torch": "torch's", "rng-numpy": "numpy's", "rng-python": "Python's", "rng-cuda": "CUDA's",
}  # fmt: skip
SEED_SET_AGAIN = "the order of the first epoch repeats"


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of a difference.

    Attributes:
        kind: its name.
        fixes: the names of the parts to restore.
        message: its description.
    """

    kind: str
    fixes: tuple[str, ...]
    message: str


def possible_causes(uninterrupted: Answer, resumed: Answer, plan: dict[str, Any]) -> list[Cause]:
    """Return the causes that two runs leave possible, in the order in which to try them."""
    causes = [
        *_optimizer_causes(uninterrupted, resumed, plan),
        *_schedule_causes(uninterrupted, resumed),
        *_position_causes(uninterrupted, resumed, plan),
        *_random_causes(uninterrupted, resumed),
        *_precision_causes(uninterrupted, resumed),
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
    if plan["optimizer"] is None:
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
        yield Cause("trainable-set", ("trainable",), _trainable_message(trainable, trained))
    if state_lost and not state_missing:
        yield state_cause


def _trainable_message(trainable: list[str], trained: list[str]) -> str:
    frozen = [name for name in trainable if name not in trained]
    unfrozen = [name for name in trained if name not in trainable]
    if frozen:
        return (
            f"the trainable set changed: {_names_text(frozen)} without state in the file, so "
            "frozen when it was saved (or the state is lost)"
        )
    if unfrozen:
        names = _names_text(unfrozen)
        return f"the trainable set changed: {names} were trained when the file was saved"
    return "the trainable set changed: the optimizer covers other parameters than the model has"


def _schedule_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    if changed_state(uninterrupted, resumed, "lr of group"):
        message = "the learning rate in the file is not the one that the training used"
        yield Cause("learning-rate", ("learning-rate",), message)
    if changed_state(uninterrupted, resumed, "scheduler"):
        message = "the scheduler's state is not in the file, or not restored"
        yield Cause("scheduler", ("scheduler",), message)


def _position_causes(
    uninterrupted: Answer, resumed: Answer, plan: dict[str, Any]
) -> Iterator[Cause]:
    expected, actual = uninterrupted["position"], resumed.get("position")
    if actual is None:
        return
    if expected[1] and expected != actual:
        message = (
            f"the checkpoint was saved in the middle of an epoch, after {expected[1]} of its "
            "batches; a resumed training starts the next epoch"
        )
        yield Cause("mid-epoch", ("mid-epoch",), message)
    elif expected[0] != actual[0] and plan["epoch"] is None and uninterrupted["uses_epoch"]:
        message = (
            "the epoch is not in the file, and the order of the data follows from it (set_epoch, "
            "or the parameter `epoch` of --data): the first epoch repeats"
        )
        yield Cause("epoch", ("epoch",), message)
    elif expected[0] != actual[0] and plan["epoch"] is not None:
        error = actual[0] - expected[0]
        message = (
            f"the epoch in the file is off by {abs(error)}: training would go on too "
            f"{'late' if error > 0 else 'early'}"
        )
        yield Cause("epoch", ("epoch",), message)


def _random_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    actual, saved = resumed.get("rng", {}), uninterrupted["saved"]["rng"]
    trace = uninterrupted["trace"]
    used = {
        name for name, digest in trace[-1]["rng"].items()
        if digest != trace[0]["rng"].get(name) or digest != saved.get(name)
    }  # fmt: skip
    repeats = repeats_first_batches(uninterrupted, resumed)

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
    key = "rng of the data"
    if key in saved and actual.get(key) != saved[key]:
        message = "the state of the generator that shuffles the data is not saved"
        yield or_seed_set_again(Cause("shuffling", ("generators",), message))
    if repeats:
        message = f"the seed is set again at the start: {SEED_SET_AGAIN}"
        yield Cause("seed-set-again", ("replay",), message)
    elif batch_order_differs(uninterrupted, resumed):
        message = "the batches come in another order, which no saved generator state determines"
        yield Cause("shuffling", ("replay",), message)


def _batches(answer: Answer) -> list[str]:
    return [step["batch"] for step in answer["trace"]]


def batch_order_differs(uninterrupted: Answer, resumed: Answer) -> bool:
    """Return True if the batches after the resume are not those of the uninterrupted run."""
    batches, saved_step = _batches(resumed), uninterrupted["saved"]["step"]
    expected = _batches(uninterrupted)[saved_step : saved_step + len(batches)]
    return bool(batches) and batches != expected


def repeats_first_batches(uninterrupted: Answer, resumed: Answer) -> bool:
    """Return True if the batches after the resume are the first of the uninterrupted run."""
    batches = _batches(resumed)
    first = _batches(uninterrupted)[: len(batches)]
    return batch_order_differs(uninterrupted, resumed) and batches == first


def _precision_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    if changed_state(uninterrupted, resumed, "scaler"):
        message = "the state of the GradScaler is not in the file, or not restored"
        yield Cause("grad-scaler", ("scaler",), message)
    autocast = uninterrupted["autocast"]
    if autocast != resumed.get("autocast", autocast):
        message = (
            f"AMP: the file was trained with autocast to {autocast}, and is resumed with "
            f"{resumed['autocast'] or 'none'}"
        )
        yield Cause("amp", ("amp",), message)


def _weight_causes(uninterrupted: Answer, resumed: Answer) -> Iterator[Cause]:
    weights = changed_state(uninterrupted, resumed, "weights ")
    buffers = changed_state(uninterrupted, resumed, "buffer ")
    names = _names_text(weights or buffers)
    if weights:
        fixes = ("weights", "buffers") if buffers else ("weights",)
        narrow = [
            dtype.removeprefix("torch.")
            for dtype in uninterrupted["file_dtypes"]
            if dtype in ("torch.float16", "torch.bfloat16")
        ]
        if narrow:
            message = f"the weights are saved as {narrow[0]}, less precise than in training"
            yield Cause("dtype", fixes, message)
        else:
            message = f"weights are not in the file, or not restored: {names}"
            yield Cause("weights", fixes, message)
    elif buffers:
        norm = any(name.rsplit(".", 1)[-1].startswith("running_") for name in buffers)
        subject = "BatchNorm's buffers" if norm else "buffers"
        message = f"{subject} are not in the file, or not restored: {names}"
        yield Cause("buffers", ("buffers",), message)


def _names_text(names: list[str]) -> str:
    """List the names without the words in front of them (`weights`, `optimizer`)."""
    return join_names((name.split(" ", 1)[-1] for name in names), 3)
