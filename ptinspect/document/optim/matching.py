"""Which parameter each of an optimizer's states belongs to.

An optimizer's state_dict numbers its parameters, group after group; it records their names only if
it was given them (`param_names`). Otherwise there is the order of `parameters()`, which is that of
the state_dict without its buffers, and the shapes of the tensors in the state.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.document.optim.state import COLUMN, ROW, Optimizer, state_keys
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensors import TensorInfo
from ptinspect.pickling.pyobjects import Path, as_mapping, as_sequence, dotted
from ptinspect.pickling.values import Value
from ptinspect.text import join_names
from ptinspect.torchnn.attributes import NORM_BUFFERS, WRAPPER_PREFIXES

if TYPE_CHECKING:
    from ptinspect.document.walk import Contents

Shape = tuple[int, ...]

MAX_MODELS = 64
"""Models that an optimizer is compared with if none fits. Several hundred optimizers and several
hundred models in one file would take hours."""

BUFFERS = (*NORM_BUFFERS, ".0._u", ".0._v")
"""Ends of the names of buffers in a state_dict: of BatchNorm, and of
torch.nn.utils.parametrizations.spectral_norm."""

MAX_SPLITS = 4096
"""Partial splits of parameters into groups that are tried at the same time."""


def parameter_shape(tensors: Mapping[Value, Any]) -> Shape | None:
    """Return a parameter's shape as the tensors in its state, of a file or of torch, imply it."""
    for key, tensor in tensors.items():
        if key in state_keys("shape"):
            return tuple(tensor.shape)
    row, column = tensors.get(ROW), tensors.get(COLUMN)
    if row is not None and column is not None and len(row.shape) == len(column.shape) >= 2:
        return (*row.shape[:-1], column.shape[-1])
    return None


def shapes_agree(slots: Sequence[Shape | None], shapes: Sequence[Sequence[int]]) -> bool:
    """Return True if there is a parameter per slot, and no slot's known shape differs."""
    return len(slots) == len(shapes) and all(
        slot is None or slot == tuple(shape) for slot, shape in zip(slots, shapes, strict=True)
    )


def names_by_shape(
    slots: Sequence[Shape | None], shapes: Mapping[str, Sequence[int]]
) -> list[str] | None:
    """Return the only assignment of names that the shapes allow; None if there are several."""
    free = {name: tuple(shape) for name, shape in shapes.items()}
    names = []
    for slot in slots:
        candidates = [name for name, shape in free.items() if shape == slot]
        if len(candidates) != 1:
            return None
        names.append(candidates[0])
        del free[candidates[0]]
    return names


def names_by_group(
    groups: Sequence[Sequence[Shape | None]], shapes: Mapping[str, Sequence[int]]
) -> list[str] | None:
    """Return the only split of the names into groups that keeps their order in each group. None
    if no split fits the shapes, or several do. An example is an optimizer with the head's
    parameters in its first group and the backbone's in its second."""
    if sum(map(len, groups)) != len(shapes):
        return None
    # Per number of names in each group: the number of splits, and the group of the last name.
    layers: list[dict[tuple[int, ...], tuple[int, int]]] = [{(0,) * len(groups): (1, 0)}]
    for shape in shapes.values():
        layer: dict[tuple[int, ...], tuple[int, int]] = {}
        for sizes, (count, _) in layers[-1].items():
            for number, group in enumerate(groups):
                index = sizes[number]
                if index < len(group) and group[index] in (None, tuple(shape)):
                    key = (*sizes[:number], index + 1, *sizes[number + 1 :])
                    layer[key] = (layer.get(key, (0, 0))[0] + count, number)
        if not layer or len(layer) > MAX_SPLITS:
            return None
        layers.append(layer)
    sizes = tuple(map(len, groups))
    if layers[-1].get(sizes, (0, 0))[0] != 1:
        return None
    names: list[list[str]] = [[] for _ in groups]
    for name, layer in zip(reversed(list(shapes)), reversed(layers), strict=False):
        number = layer[sizes][1]
        names[number].insert(0, name)
        sizes = (*sizes[:number], sizes[number] - 1, *sizes[number + 1 :])
    return [name for group in names for name in group]


class Weight(NamedTuple):
    """A tensor of a model. trainable: None if the file does not record it (a state_dict)."""

    name: str
    tensor: Tensor
    trainable: bool | None


@dataclass(slots=True)
class Weights:
    """A model's tensors, tied ones once: its path, its parameters in the order of `parameters()`,
    and these and its buffers in the file's order."""

    path: Path
    parameters: list[Weight] = field(default_factory=list)
    order: list[Weight] = field(default_factory=list)

    @property
    def numel(self) -> int:
        """Real numbers in all parameters: LBFGS counts those of complex ones twice."""
        tensors = [weight.tensor for weight in self.parameters]
        return sum(
            tensor.numel * (2 if tensor.dtype is not None and tensor.dtype.kind == "complex" else 1)
            for tensor in tensors
        )

    @property
    def is_average(self) -> bool:
        """True if its path reads like that of an average of another model's weights."""
        return any(AVERAGE.search(str(x)) or "best" in str(x).lower() for x in self.path)


def candidate_weights(contents: Contents) -> list[Weights]:
    """Return the state_dicts and modules that an optimizer may belong to, in the file's order,
    apparent averages of others last; then, if there are several, all together, in both orders:
    HiFi-GAN's optimizer has `chain(msd.parameters(), mpd.parameters())`, and its file mpd first."""
    children: dict[Path, list[TensorInfo]] = {}
    below: dict[Path, list[TensorInfo]] = {info.root: [] for info in contents.modules}
    for info in contents.tensors:
        children.setdefault(info.path[:-1], []).append(info)
        for length in range(len(info.path) if below else 0):
            if info.path[:length] in below:
                below[info.path[:length]].append(info)
    models = [
        *(_weights(path, children.get(path, []), False) for path in contents.state_dicts),
        *(_weights(root, infos, True) for root, infos in below.items()),
    ]
    models = sorted((model for model in models if model.parameters), key=attrgetter("is_average"))
    own = [model for model in models if not model.is_average]
    for parts in (own, own[::-1]) if len(own) > 1 else ():
        together = Weights(())
        for model in parts:
            prefix = ".".join(map(str, model.path))
            for store in ("parameters", "order"):
                getattr(together, store).extend(
                    weight._replace(name=f"{prefix}.{weight.name}")
                    for weight in getattr(model, store)
                )
        models.append(together)
    return models


def _weights(path: Path, infos: Iterable[TensorInfo], is_module: bool) -> Weights:
    weights = Weights(path)
    seen: set[tuple[object, ...]] = set()
    for info in infos:
        if len(info.path) <= len(path):
            continue
        if is_module and info.role not in ("parameter", "buffer"):
            continue
        key = info.tensor.view_key
        if key in seen:
            continue
        seen.add(key)
        name = ".".join(map(str, info.path[len(path) :]))
        weight = Weight(name, info.tensor, info.tensor.requires_grad if is_module else None)
        if is_module:
            is_parameter = info.role == "parameter"
        else:
            is_parameter = info.tensor.is_float and not name.endswith(BUFFERS)
        weights.parameters += [weight] if is_parameter else []
        weights.order.append(weight)
    return weights


class Slot(NamedTuple):
    """A parameter as an optimizer has it: its index over all groups, its key in `state`, its name
    if recorded, its state and the tensors in it, the shape that they imply, and the parameter
    itself if the optimizer was pickled whole."""

    number: int
    group: int
    key: Value
    name: str | None
    state: dict[Value, Value] | None
    tensors: dict[Value, Tensor]
    shape: Shape | None
    parameter: Tensor | None


class Fault(NamedTuple):
    """Something that does not fit or, if not `is_certain`, that the file does not decide: `kind`
    such as `order` or `nan`."""

    kind: str
    message: str
    parameter: str | None = None
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{self.parameter}: {self.message}" if self.parameter else self.message


class Match(NamedTuple):
    """An optimizer compared with a model. `names` per slot, None if undecided."""

    weights: Weights
    names: list[str | None]
    faults: list[Fault]

    @property
    def fits(self) -> bool:
        return not any(fault.is_certain for fault in self.faults)


def slots_of(optimizer: Optimizer, tensor_of: Callable[[Value], Tensor | None]) -> list[Slot]:
    """Return the parameters of all groups, in order. `tensor_of` is `Document.tensor_of`."""
    slots: list[Slot] = []
    for number, group in enumerate(optimizer.groups):
        keys = as_sequence(group.get("params")) or ()
        # Since torch 2.6, if the optimizer was given named parameters.
        names = [n for n in as_sequence(group.get("param_names")) or () if isinstance(n, str)]
        for index, key in enumerate(keys):
            state = None
            with suppress(TypeError):  # an unhashable key, in a hostile file
                state = as_mapping(optimizer.state.get(key))
            tensors: dict[Value, Tensor] = {}
            for state_key, value in (state or {}).items():
                tensor = tensor_of(value)
                if tensor is not None:
                    tensors[state_key] = tensor
            parameter = tensor_of(key) if not isinstance(key, int | str | float) else None
            shape = parameter.shape if parameter is not None else parameter_shape(tensors)
            name = names[index] if len(names) == len(keys) else None
            if isinstance(key, str):  # torch.distributed.checkpoint.state_dict writes names
                name = str(key)
            slots.append(Slot(len(slots), number, key, name, state, tensors, shape, parameter))
    return slots


FROZEN = re.compile(r"(^|[._])(target|teacher|frozen|ema|momentum|ref|reference|old)([._\d]|$)")
"""Modules that are copies of others and not trained, such as the target network of a DQN."""

AVERAGE = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?|shadow|polyak)(?:$|[._\d])", re.I)
"""Names of averages of a model's weights."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_COMMON_WORDS = {"state", "dict", "model", "net", "opt", "optim", "optimizer"}


def best_match(slots: list[Slot], candidates: list[Weights], path: Path = ()) -> Match | None:
    """Return the match with the model that fits, else with the nearest; None without models.

    Of several that fit, the number of parameters decides, then the optimizer's path: `opt_d` is
    that of `discriminator`. Otherwise, the match is with no model, and its fault names them.
    Of more than `MAX_MODELS` those with as many parameters are tried first.
    """
    if len(candidates) > MAX_MODELS:
        candidates = sorted(candidates, key=lambda each: len(each.parameters) != len(slots))
        candidates = candidates[:MAX_MODELS]
    matches = [_match(slots, weights) for weights in candidates]

    def distance(match: Match) -> tuple[int, int]:
        faults = [fault for fault in match.faults if fault.is_certain]
        return len(faults), abs(len(slots) - len(match.weights.parameters))

    fitting = [match for match in matches if match.fits]
    fitting = [match for match in fitting if not match.faults] or fitting
    fitting = [m for m in fitting if len(m.weights.parameters) == len(slots)] or fitting
    if not fitting:
        return min(matches, key=distance, default=None)
    scores = []  # how many words of the optimizer's path the model's has, if only their beginnings
    for match in fitting:
        words, others = (
            {word.lower() for word in _WORD.findall(dotted(p))} - _COMMON_WORDS
            for p in (path, match.weights.path)
        )
        scores.append(sum(any(w.startswith(o) or o.startswith(w) for o in others) for w in words))
    fitting = [m for m, score in zip(fitting, scores, strict=True) if score == max(scores)]
    rivals = {
        tuple(weight.tensor.view_key for weight in match.weights.parameters): path
        for match in reversed(fitting)
        if (path := match.weights.path) and not match.weights.is_average
        if not FROZEN.search(dotted(path))
    }
    if not slots or len(rivals) < 2:
        return fitting[0]
    names = join_names(map(dotted, reversed(rivals.values())), 3, " or ")
    fault = Fault("names", f"it may be the optimizer of {names}: all fit", is_certain=False)
    return _no_match(slots, Weights(()), fault)


def _match(slots: list[Slot], weights: Weights) -> Match:
    if slots and all(slot.parameter is not None for slot in slots):
        # An optimizer pickled with its parameters: they are the model's own, or copies.
        by_view = {weight.tensor.view_key: weight.name for weight in weights.order}
        views = [slot.parameter.view_key for slot in slots if slot.parameter]
        if any(view in by_view for view in views):
            return Match(weights, [by_view.get(view) for view in views], [])
        return _match([slot._replace(parameter=None) for slot in slots], weights)
    if slots and all(slot.name is not None for slot in slots):
        # Recorded names, with or without the prefix of a wrapper.
        by_name = {weight.name: weight for weight in weights.order}
        names: list[str | None] = []
        faults = []
        for slot in slots:
            name = slot.name or ""
            spellings = [name]
            for prefix in (*WRAPPER_PREFIXES, "model."):
                spellings += [prefix + name, name.removeprefix(prefix)]
            weight = next((by_name[text] for text in spellings if text in by_name), None)
            names.append(weight.name if weight else None)
            if weight is None:
                message = f"the optimizer covers {name}, which the model does not have"
                faults.append(Fault("names", message, name))
            elif slot.shape not in (None, weight.tensor.shape):
                message = f"its state is for the shape {slot.shape}, it has {weight.tensor.shape}"
                faults.append(Fault("shape", message, weight.name))
        return Match(weights, names, faults)
    parameters = weights.parameters
    if len(slots) > len(parameters):
        floats = [weight for weight in weights.order if weight.tensor.is_float]
        if _agree(slots, floats):
            extra = len(slots) - len(parameters)
            message = f"the optimizer covers {extra} buffers as well"
            fault = Fault("buffers", message, is_certain=False)
            return Match(weights, [weight.name for weight in floats], [fault])
        message = f"the groups cover {len(slots)} parameters, the model has {len(parameters)}"
        return _no_match(slots, weights, Fault("group-size", message))
    if _agree(slots, parameters):
        shapes = {slot.shape for slot in slots}
        are_unique = None not in shapes and len(shapes) == len(slots)
        if are_unique or len({slot.group for slot in slots}) < 2:
            return Match(weights, [weight.name for weight in parameters], [])
        return _ambiguous_match(slots, weights)
    return _match_subset(slots, weights)


def _agree(slots: list[Slot], weights: list[Weight]) -> bool:
    return shapes_agree([slot.shape for slot in slots], [w.tensor.shape for w in weights])


def _no_match(slots: list[Slot], weights: Weights, fault: Fault) -> Match:
    return Match(weights, [None] * len(slots), [fault])


def _ambiguous_match(slots: list[Slot], weights: Weights, example: str = "") -> Match:
    message = (
        f"the file does not record which {len(slots)} of the {len(weights.parameters)} parameters "
        f"the groups cover, nor their order; the shapes fit{example}"
    )
    return _no_match(slots, weights, Fault("names", message, is_certain=False))


def _match_subset(slots: list[Slot], weights: Weights) -> Match:
    """Match fewer slots than parameters (some are frozen), or slots in another order."""
    parameters = weights.parameters
    earliest = _subsequence(slots, parameters)
    if earliest is not None:
        last = len(parameters) - 1
        backwards = _subsequence(slots[::-1], parameters[::-1]) or []
        latest = [last - index for index in backwards[::-1]]
        if earliest == latest:
            return Match(weights, [parameters[index].name for index in earliest], [])
        number = next(number for number, index in enumerate(latest) if index != earliest[number])
        a, b = (parameters[indexes[number]].name for indexes in (earliest, latest))
        example = (
            f": state {number} may be of {a} or {b}; one is frozen, or they are tied and have "
            "different numbers in the file"
        )
        return _ambiguous_match(slots, weights, example)
    unused = Counter(weight.tensor.shape for weight in parameters)
    unused.subtract(Counter(slot.shape for slot in slots if slot.shape is not None))
    if min(unused.values(), default=0) < 0:
        shapes = {weight.tensor.shape for weight in parameters}
        message = "the states are for parameters of other shapes than the model's"
        fault = Fault("shape", message)
        for slot, weight in zip(slots, parameters, strict=False):
            if slot.shape in (None, weight.tensor.shape):
                continue
            if len(slots) == len(parameters):
                fault = Fault("shape", _mismatch(slot, weight), weight.name)
                break
            if slot.shape not in shapes:
                message = f"state {slot.number} is for a parameter of shape {slot.shape}, "
                fault = Fault("shape", f"{message}which the model does not have", weight.name)
                break
        return _no_match(slots, weights, fault)
    if len({slot.group for slot in slots}) > 1:
        groups: dict[int, list[Shape | None]] = {}
        for slot in slots:
            groups.setdefault(slot.group, []).append(slot.shape)
        shape_of = {weight.name: weight.tensor.shape for weight in parameters}
        names = names_by_group(list(groups.values()), shape_of)
        if names is not None:
            return Match(weights, [*names], [])
        return _ambiguous_match(slots, weights)
    fault = Fault("order", "the states are in another order than the model's parameters")
    for slot, weight in zip(slots, parameters, strict=False):
        if slot.shape not in (None, weight.tensor.shape):
            fault = Fault("order", f"another order: {_mismatch(slot, weight)}", weight.name)
            break
    return _no_match(slots, weights, fault)


def _subsequence(slots: list[Slot], parameters: list[Weight]) -> list[int] | None:
    """Return the earliest indexes of parameters, in order, that the slots' shapes allow."""
    indexes, index = [], 0
    for slot in slots:
        while index < len(parameters) and slot.shape not in (None, parameters[index].tensor.shape):
            index += 1
        if index == len(parameters):
            return None
        indexes.append(index)
        index += 1
    return indexes


def _mismatch(slot: Slot, weight: Weight) -> str:
    return (
        f"state {slot.number} is for a parameter of shape {slot.shape}, "
        f"the model's is {weight.name} of shape {weight.tensor.shape}"
    )
