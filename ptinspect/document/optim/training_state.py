"""What a checkpoint tells of the training it was taken from: how far it had come, its schedulers,
and the weights that an optimizer may belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.entries import Entry
from ptinspect.pickling.values import Value

if TYPE_CHECKING:
    from ptinspect.document.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.document.walk import Path, TensorInfo

EPOCHS = ("epoch", "epochs", "epochs_run", "current_epoch", "last_epoch", "start_epoch")
STEPS = (
    "global_step", "step", "steps", "iteration", "iter", "iters", "it", "num_updates", "niter",
    "n_iter", "round",
)  # fmt: skip
"""Names under which training scripts write how far they are."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Entries of a state_dict that are no parameters: those of BatchNorm and InstanceNorm."""


class Scheduler(NamedTuple):
    """A learning rate scheduler's state. last_lr: per group, None where it is not recorded."""

    path: Path
    last_epoch: int
    last_lr: list[float] | None


def counter_of(
    document: Document,
    names: tuple[str, ...] = (*EPOCHS, *STEPS),
    schedulers: list[Scheduler] | None = None,
) -> Entry | None:
    """The number that tells how far training had come: an entry of such a name, the one that lies
    highest, then the one whose name comes first in `names`. schedulers: where they are known."""
    inside = {one.path for one in (schedulers_of(document) if schedulers is None else schedulers)}
    best: tuple[int, int] | None = None
    chosen = None
    for entry in document.entries:
        name = str(entry.path[-1]).lower() if entry.path else ""
        if name not in names or len(entry.path) > 2 or entry.path[:-1] in inside:
            continue
        if isinstance(entry.value, bool) or not isinstance(entry.value, int | float):
            continue
        rank = (len(entry.path), names.index(name))
        if best is None or rank < best:
            best, chosen = rank, entry
    return chosen


def schedulers_of(document: Document) -> list[Scheduler]:
    """Scheduler states, told by the names that torch gives them; those inside another (of a
    SequentialLR) are left out. Source: `torch.optim.lr_scheduler.LRScheduler.state_dict`."""
    held: dict[Path, dict[str, Value]] = {}
    for entry in document.entries:
        if entry.path:
            held.setdefault(entry.path[:-1], {})[str(entry.path[-1])] = entry.value
    found: list[Scheduler] = []
    outer: set[Path] = set()
    for path, values in held.items():
        last = values.get("last_epoch")
        if not isinstance(last, int) or not {"_step_count", "_last_lr", "base_lrs"} & set(values):
            continue
        if any(path[:length] in outer for length in range(1, len(path))):
            continue
        rates = values.get("_last_lr")
        while len(path) > 1 and path[-2] == "_schedulers":  # a ChainedScheduler has no last_epoch
            path = path[:-2]
            rates = held.get(path, {}).get("_last_lr")
        outer.add(path)
        found.append(Scheduler(path, last, _numbers(rates)))
    return found


def _numbers(rates: Value) -> list[float] | None:
    if not isinstance(rates, list):
        return None
    numbers = [float(rate) for rate in rates if isinstance(rate, int | float)]
    return numbers if len(numbers) == len(rates) else None


class Weight(NamedTuple):
    """A tensor of a model. trainable: None where the file does not tell (a state_dict)."""

    name: str
    tensor: Tensor
    trainable: bool | None


class Weights(NamedTuple):
    """A model's parameters, in the order of `parameters()`, tied ones once; its other tensors."""

    path: Path
    parameters: list[Weight]
    buffers: list[Weight]
    order: list[Weight]

    @property
    def numel(self) -> int:
        """Elements of all parameters."""
        return sum(weight.tensor.numel for weight in self.parameters)


def weights_of(document: Document) -> list[Weights]:
    """All that may be the model of an optimizer: state_dicts and whole modules, in the file's
    order; what looks like an average of others last."""
    inside: dict[Path, list[TensorInfo]] = {}
    below: dict[Path, list[TensorInfo]] = {info.root: [] for info in document.modules}
    for info in document.contents.tensors:
        inside.setdefault(info.path[:-1], []).append(info)
        for length in range(len(info.path) if below else 0):
            if info.path[:length] in below:
                below[info.path[:length]].append(info)
    made = [_gathered(path, inside.get(path, []), False) for path in document.contents.state_dicts]
    made += [_gathered(root, held, True) for root, held in below.items()]
    found = sorted((weights for weights in made if weights.parameters), key=is_average)
    own = [weights for weights in found if not is_average(weights)]
    return [*found, _together(own)] if len(own) > 1 else found


def _together(parts: list[Weights]) -> Weights:
    """Several models that one optimizer covers."""
    made = Weights((), [], [], [])
    for part in parts:
        prefix = ".".join(map(str, part.path))
        for there, more in zip(made[1:], part[1:], strict=True):
            there.extend(weight._replace(name=f"{prefix}.{weight.name}") for weight in more)
    return made


def is_average(weights: Weights) -> bool:
    words = "_".join(map(str, weights.path)).lower()
    return any(word in words for word in ("ema", "averaged", "shadow", "swa", "best"))


def _gathered(path: Path, infos: list[TensorInfo], whole: bool) -> Weights:
    parameters: list[Weight] = []
    buffers: list[Weight] = []
    order: list[Weight] = []
    seen: set[tuple[object, ...]] = set()
    for info in infos:
        if len(info.path) <= len(path) or (whole and info.role not in ("parameter", "buffer")):
            continue
        name = ".".join(map(str, info.path[len(path) :]))
        mark = info.tensor.same()
        if mark in seen:
            continue
        seen.add(mark)
        weight = Weight(name, info.tensor, info.tensor.requires_grad if whole else None)
        kept = info.role == "parameter" if whole else _may_be_parameter(name, info.tensor)
        (parameters if kept else buffers).append(weight)
        order.append(weight)
    return Weights(path, parameters, buffers, order)


def _may_be_parameter(name: str, tensor: Tensor) -> bool:
    if name.rsplit(".", 1)[-1] in BUFFERS:
        return False
    kind = tensor.dtype.name if tensor.dtype is not None else ""
    return kind.startswith(("float", "bfloat", "complex"))
