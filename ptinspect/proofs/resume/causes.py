"""The usual causes why a resumed training is not the uninterrupted one. Each is a mend, to be tried
in a new process; a cause is named only if with its mend, and no other, the bits agree."""

from __future__ import annotations

from typing import Any, NamedTuple

Answer = dict[str, Any]


class Cause(NamedTuple):
    """kind: its name. mends: what is to be mended. message: in words."""

    kind: str
    mends: tuple[str, ...]
    message: str


def candidates(whole: Answer, resumed: Answer, plan: dict[str, Any]) -> list[Cause]:
    """The causes that the two runs leave possible, in the order in which they are tried."""
    made = [
        *_optimizer(whole, resumed, plan),
        *_rates(whole, resumed),
        *_place(whole, resumed, plan),
        *_random(whole, resumed),
        *_rest(whole, resumed),
    ]
    return list({cause.mends: cause for cause in made}.values())


def differing(whole: Answer, resumed: Answer, prefix: str) -> list[str]:
    """The parts of the state just after loading that are not as they were when saved."""
    mine, other = resumed.get("state"), whole["saved"]["state"]
    if mine is None:
        return []
    names = dict.fromkeys([*other, *mine])
    return [n for n in names if n.startswith(prefix) and mine.get(n) != other.get(n)]


def _optimizer(whole: Answer, resumed: Answer, plan: dict[str, Any]) -> list[Cause]:
    made = []
    failed = "error" in resumed
    states = differing(whole, resumed, "optimizer ")
    covered = whole["buffers_covered"]
    if covered:
        message = f"buffers were given to the optimizer as parameters: {_few(covered)}"
        made.append(Cause("buffers-in-optimizer", ("buffers-in-optimizer",), message))
    mine = resumed.get("mine") or whole["mine"]
    known = [name for name in whole["file_order"] if name in mine]
    if known and [name for name in mine if name in known] != known:
        message = (
            f"the parameter order changed: the file's optimizer has {_few(known)}, "
            f"the model now {_few(mine)}"
        )
        made.append(Cause("parameter-order", ("order",), message))
    plain = resumed.get("plain") or whole.get("plain") or []
    trained = whole["trained"]
    if (plain and sorted(plain) != sorted(trained)) or (failed and not plain):
        made.append(Cause("trainable-set", ("trainable",), _trainable(plain, trained)))
    if states or (failed and resumed["at"] == "step"):
        missing = whole["state_missing"]
        if plan["optimizer"] is None:
            message = "the optimizer's state is not in the file"
        elif missing:
            message = "the optimizer's state is empty in the file"
        else:
            message = f"the optimizer's state is not restored: {_few(states)}"
        made.insert(0 if missing else len(made), Cause("optimizer-state", ("optimizer",), message))
    return made


def _trainable(plain: list[str], trained: list[str]) -> str:
    frozen = [name for name in plain if name not in trained]
    thawed = [name for name in trained if name not in plain]
    if frozen:
        return (
            f"the trainable set changed: {_few(frozen)} without state in the file, so frozen when "
            "it was saved (or that state is lost)"
        )
    if thawed:
        return f"the trainable set changed: {_few(thawed)} were trained when the file was saved"
    return "the trainable set changed: the optimizer covers other parameters than the model has"


def _rates(whole: Answer, resumed: Answer) -> list[Cause]:
    made = []
    rates = differing(whole, resumed, "lr of group")
    if rates:
        message = "the learning rate in the file is not the one that training was at"
        made.append(Cause("learning-rate", ("learning-rate",), message))
    if differing(whole, resumed, "scheduler"):
        message = "the scheduler's state is not in the file, or not restored"
        made.append(Cause("scheduler", ("scheduler",), message))
    return made


def _place(whole: Answer, resumed: Answer, plan: dict[str, Any]) -> list[Cause]:
    made = []
    where, mine = whole["position"], resumed.get("position")
    if mine is None:
        return []
    if where[1] and where != mine:
        message = (
            f"the checkpoint was taken in the middle of an epoch, after {where[1]} of its batches; "
            "a resumed training begins the next epoch"
        )
        made.append(Cause("mid-epoch", ("mid-epoch",), message))
    elif where[0] != mine[0] and plan["epoch"] is not None:
        off = mine[0] - where[0]
        message = f"the epoch in the file is off by {abs(off)}: training would go on " + (
            "too late" if off > 0 else "too early"
        )
        made.append(Cause("epoch", ("epoch",), message))
    return made


GENERATORS = {
    "rng-torch": "torch's", "rng-numpy": "numpy's", "rng-python": "Python's", "rng-cuda": "CUDA's",
}  # fmt: skip


def _random(whole: Answer, resumed: Answer) -> list[Cause]:
    made = []
    mine, other = resumed.get("rng", {}), whole["saved"]["rng"]
    moved = {
        name for name, value in whole["trace"][-1]["rng"].items()
        if value != whole["trace"][0]["rng"].get(name) or value != other.get(name)
    }  # fmt: skip
    again = repeats(whole, resumed)
    for kind, name in GENERATORS.items():
        place = f"rng {kind[4:]}"
        if place in other and mine.get(place) != other[place] and place in moved:
            what = f"{name} random number state is not saved"
            if again:
                message = f"the seed is set again at the start, and {what}: {FIRST}"
                made.append(Cause("seed-set-again", (kind,), message))
            else:
                made.append(Cause("rng", (kind,), what))
    if "rng of the data" in other and mine.get("rng of the data") != other["rng of the data"]:
        what = "the state of the generator that shuffles the data is not saved"
        message = f"the seed is set again at the start, and {what}: {FIRST}" if again else what
        made.append(Cause("seed-set-again" if again else "shuffling", ("generators",), message))
    if order(whole, resumed):
        message = "the batches come in another order, from a source that no generator's state tells"
        kind = "seed-set-again" if again else "shuffling"
        if again:
            message = f"the seed is set again at the start: {FIRST}"
        made.append(Cause(kind, ("replay",), message))
    return made


FIRST = "the order of the first epoch repeats"


def batches(answer: Answer) -> list[str]:
    """The batches of a run, as digests."""
    return [step["batch"] for step in answer["trace"]]


def order(whole: Answer, resumed: Answer) -> bool:
    """Whether the batches after the resume are others than those of the uninterrupted run."""
    mine, step = batches(resumed), whole["saved"]["step"]
    return bool(mine) and mine != batches(whole)[step : step + len(mine)]


def repeats(whole: Answer, resumed: Answer) -> bool:
    """Whether the batches after the resume are those with which the uninterrupted run began."""
    mine = batches(resumed)
    return order(whole, resumed) and mine == batches(whole)[: len(mine)]


def _rest(whole: Answer, resumed: Answer) -> list[Cause]:
    made = []
    if differing(whole, resumed, "scaler"):
        message = "the state of the GradScaler is not in the file, or not restored"
        made.append(Cause("grad-scaler", ("scaler",), message))
    if whole["autocast"] != resumed.get("autocast", whole["autocast"]):
        message = (
            f"AMP: the file was trained with autocast to {whole['autocast']}, "
            f"and is resumed with {resumed['autocast'] or 'none'}"
        )
        made.append(Cause("amp", ("amp",), message))
    weights, buffers = differing(whole, resumed, "weights "), differing(whole, resumed, "buffer ")
    if buffers and not weights:
        made.append(Cause("buffers", ("buffers",), _buffers(whole, buffers)))
    if weights:
        narrow = [t for t in whole["file_dtypes"] if t in ("torch.float16", "torch.bfloat16")]
        mends = ("weights", "buffers") if buffers else ("weights",)
        if narrow:
            message = f"the weights are saved as {narrow[0].removeprefix('torch.')}, which is less"
            message += " than the model trains in"
            made.append(Cause("dtype", mends, message))
        else:
            message = f"weights are not in the file, or not restored: {_few(weights)}"
            made.append(Cause("weights", mends, message))
    return made


def _buffers(whole: Answer, buffers: list[str]) -> str:
    names = [name.removeprefix("buffer ") for name in buffers]
    norm = any(name.rsplit(".", 1)[-1].startswith("running_") for name in names)
    what = "BatchNorm's buffers" if norm else "buffers"
    return f"{what} are not in the file, or not restored: {_few(names)}"


def _few(names: list[str]) -> str:
    names = [name.split(" ", 1)[-1] for name in names]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
