"""Which parameter each of an optimizer's states belongs to.

An optimizer's state_dict numbers its parameters, group after group; their names it records only
where it was given them (`param_names`). What is left is the order of `parameters()`, which is that
of the state_dict without its buffers, and the shapes of what the optimizer keeps.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.optim.rules import COLUMN, ROW, SAME_SHAPE
from ptinspect.document.tensor import Tensor
from ptinspect.pickling.pyobjects import as_mapping, as_sequence
from ptinspect.pickling.values import Value

if TYPE_CHECKING:
    from ptinspect.document.document import Document
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.document.optim.training_state import Weight, Weights

Shape = tuple[int, ...]


class Slot(NamedTuple):
    """A parameter as an optimizer has it. number: its place over all groups. key: in `state`.
    name: as recorded. kept: its state; None without. tensors: those in it. shape: the parameter's,
    as its state tells it. own: the parameter itself, where the optimizer was pickled whole."""

    number: int
    group: int
    key: Value
    name: str | None
    kept: dict[Value, Value] | None
    tensors: dict[Value, Tensor]
    shape: Shape | None
    own: Tensor | None


class Fault(NamedTuple):
    """kind: such as `order` or `nan`. message: in words. parameter: which, where it is one."""

    kind: str
    message: str
    parameter: str | None = None


class Pairing(NamedTuple):
    """weights: the model. names: per slot, None where that is not decided. buffers: whether the
    optimizer was given the model's buffers as well."""

    weights: Weights
    names: list[str | None]
    faults: list[Fault]
    undecided: list[Fault]
    buffers: bool = False


def slots_of(optimizer: Optimizer, document: Document) -> list[Slot]:
    """The parameters of all groups, in order."""
    made: list[Slot] = []
    for at, group in enumerate(optimizer.groups):
        keys = as_sequence(group.get("params")) or ()
        names = optimizer.names(at)
        for place, key in enumerate(keys):
            kept = as_mapping(_state(optimizer.state, key))
            own = document.tensor_of(key) if not isinstance(key, int | str | float) else None
            name = names[place] if len(names) == len(keys) else None
            if isinstance(key, str):  # torch.distributed.checkpoint.state_dict writes names
                name = str(key)
            tensors = _tensors(kept, document)
            shape = own.shape if own is not None else _shape(tensors)
            made.append(Slot(len(made), at, key, name, kept, tensors, shape, own))
    return made


def _state(state: dict[Value, Value], key: Value) -> Value:
    try:
        return state.get(key)
    except TypeError:
        return None


def _tensors(kept: dict[Value, Value] | None, document: Document) -> dict[Value, Tensor]:
    """The tensors directly in a state."""
    found = ((key, document.tensor_of(value)) for key, value in (kept or {}).items())
    return {key: tensor for key, tensor in found if tensor is not None}


def _shape(tensors: dict[Value, Tensor]) -> Shape | None:
    """A parameter's shape, as what is kept for it tells it."""
    for key, tensor in tensors.items():
        if key in SAME_SHAPE:
            return tensor.shape
    row, column = tensors.get(ROW), tensors.get(COLUMN)
    if row is not None and column is not None and len(row.shape) == len(column.shape) >= 2:
        return (*row.shape[:-1], column.shape[-1])
    return None


TRIED = 64
"""Models that an optimizer is held against, where none fits: several hundred optimizers beside
several hundred models would take hours."""


def pair(slots: list[Slot], candidates: list[Weights]) -> Pairing | None:
    """The first model that fits, else the one that comes nearest; None without any. Beyond `TRIED`
    models only those with as many parameters are tried, and no more than that of them."""
    if len(candidates) > TRIED:
        candidates = _likely(slots, candidates)
    tried: list[Pairing] = []
    for weights in candidates:
        made = _with(slots, weights)
        if not made.faults:
            return made
        tried.append(made)
    return min(tried, key=lambda made: (len(made.faults), _far(slots, made)), default=None)


def _likely(slots: list[Slot], candidates: list[Weights]) -> list[Weights]:
    many = [weights for weights in candidates if len(weights.parameters) == len(slots)]
    return [*many, *candidates][:TRIED]


def _far(slots: list[Slot], made: Pairing) -> int:
    return abs(len(slots) - len(made.weights.parameters))


def _with(slots: list[Slot], weights: Weights) -> Pairing:
    """The slots' names among these parameters, and what does not fit."""
    if slots and all(slot.own is not None for slot in slots):
        return _by_storage(slots, weights)
    if slots and all(slot.name is not None for slot in slots):
        return _by_name(slots, weights)
    parameters = weights.parameters
    if len(slots) > len(parameters):
        floats = [weight for weight in weights.order if _is_float(weight)]
        if len(slots) == len(floats) and _agree(slots, floats):
            said = Fault(
                "buffers", f"the optimizer covers {len(slots) - len(parameters)} buffers as well"
            )
            return Pairing(weights, [weight.name for weight in floats], [], [said], True)
        return _unpaired(slots, weights, [_too_many(slots, weights)])
    if len(slots) == len(parameters) and _agree(slots, parameters):
        if len({slot.group for slot in slots}) < 2 or _tells(slots):
            return Pairing(weights, [weight.name for weight in parameters], [], [])
        return _unpaired(slots, weights, [], [_which(slots, weights)])
    return _some(slots, weights)


def _tells(slots: list[Slot]) -> bool:
    """Whether shapes alone leave no other order."""
    shapes = [slot.shape for slot in slots]
    return None not in shapes and len(set(shapes)) == len(shapes)


def _unpaired(
    slots: list[Slot],
    weights: Weights,
    faults: list[Fault],
    undecided: list[Fault] | None = None,
) -> Pairing:
    return Pairing(weights, [None] * len(slots), faults, undecided or [])


def _is_float(weight: Weight) -> bool:
    kind = weight.tensor.dtype.name if weight.tensor.dtype is not None else ""
    return kind.startswith(("float", "bfloat", "complex"))


def _agree(slots: list[Slot], weights: list[Weight]) -> bool:
    return all(
        slot.shape is None or slot.shape == weight.tensor.shape
        for slot, weight in zip(slots, weights, strict=True)
    )


def _too_many(slots: list[Slot], weights: Weights) -> Fault:
    many, there = len(slots), len(weights.parameters)
    return Fault("group-size", f"the groups cover {many} parameters, the model has {there}")


def _which(slots: list[Slot], weights: Weights) -> Fault:
    message = (
        f"the file does not tell which {len(slots)} of the {len(weights.parameters)} parameters "
        "the groups cover, nor in which order; the shapes fit"
    )
    return Fault("names", message)


def _some(slots: list[Slot], weights: Weights) -> Pairing:
    """Fewer slots than parameters (some are frozen), or another order."""
    parameters = weights.parameters
    early = _subsequence(slots, parameters)
    if early is not None:
        late = _subsequence(slots[::-1], parameters[::-1])
        last = len(parameters) - 1
        if late is not None and early == [last - at for at in late[::-1]]:
            return Pairing(weights, [parameters[at].name for at in early], [], [])
        return _unpaired(slots, weights, [], [_which(slots, weights)])
    rest = Counter(weight.tensor.shape for weight in parameters)
    rest.subtract(Counter(slot.shape for slot in slots if slot.shape is not None))
    if min(rest.values(), default=0) >= 0:
        if len({slot.group for slot in slots}) > 1:
            return _unpaired(slots, weights, [], [_which(slots, weights)])
        return _unpaired(slots, weights, [_order(slots, parameters)])
    return _unpaired(slots, weights, [_odd(slots, parameters)])


def _subsequence(slots: list[Slot], parameters: list[Weight]) -> list[int] | None:
    """Places of the parameters, in order, that the slots' shapes allow: the earliest ones."""
    found, at = [], 0
    for slot in slots:
        while at < len(parameters) and slot.shape not in (None, parameters[at].tensor.shape):
            at += 1
        if at == len(parameters):
            return None
        found.append(at)
        at += 1
    return found


def _order(slots: list[Slot], parameters: list[Weight]) -> Fault:
    for slot, weight in zip(slots, parameters, strict=False):
        if slot.shape not in (None, weight.tensor.shape):
            message = (
                f"another order: state {slot.number} is for a parameter of shape {slot.shape}, "
                f"the model's is {weight.name} of shape {weight.tensor.shape}"
            )
            return Fault("order", message, weight.name)
    return Fault("order", "the states stand in another order than the model's parameters")


def _odd(slots: list[Slot], parameters: list[Weight]) -> Fault:
    shapes = {weight.tensor.shape for weight in parameters}
    for slot, weight in zip(slots, parameters, strict=False):
        if slot.shape is not None and (
            slot.shape not in shapes
            or (len(slots) == len(parameters) and slot.shape != weight.tensor.shape)
        ):
            message = (
                f"state {slot.number} is for a parameter of shape {slot.shape}, "
                f"the model's is {weight.name} of shape {weight.tensor.shape}"
                if len(slots) == len(parameters)
                else f"state {slot.number} is for a parameter of shape {slot.shape}, "
                "which the model does not have"
            )
            return Fault("shape", message, weight.name)
    return Fault("shape", "the states are for parameters of other shapes than the model's")


_PREFIXES = ("module.", "_orig_mod.", "model.")


def _by_name(slots: list[Slot], weights: Weights) -> Pairing:
    known = {weight.name: weight for weight in weights.order}
    faults = []
    names: list[str | None] = []
    for slot in slots:
        weight = known.get(slot.name or "") or next(
            (
                known[other]
                for prefix in _PREFIXES
                for other in (prefix + (slot.name or ""), (slot.name or "").removeprefix(prefix))
                if other in known
            ),
            None,
        )
        names.append(weight.name if weight else None)
        if weight is None:
            message = f"the optimizer covers {slot.name}, which the model does not have"
            faults.append(Fault("names", message, slot.name))
        elif slot.shape not in (None, weight.tensor.shape):
            message = f"its state is for the shape {slot.shape}, it has {weight.tensor.shape}"
            faults.append(Fault("shape", message, weight.name))
    return Pairing(weights, names, faults, [])


def _by_storage(slots: list[Slot], weights: Weights) -> Pairing:
    """An optimizer pickled with its parameters: they are the model's own, or copies."""
    known = {weight.tensor.same(): weight.name for weight in weights.order}
    names = [known.get(slot.own.same()) if slot.own is not None else None for slot in slots]
    if any(names):
        return Pairing(weights, list(names), [], [])
    return _with([slot._replace(own=None) for slot in slots], weights)
