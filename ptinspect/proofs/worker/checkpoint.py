"""Reads a loaded checkpoint against the model at hand.

It gives the parameters that the optimizer covers, in its order, those that were trained, and the
batch and epoch that the training had reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ptinspect.document.optim.matching import (
    names_by_group,
    names_by_shape,
    parameter_shape,
    shapes_agree,
)
from ptinspect.document.optim.state import has_state_after_step, required_state
from ptinspect.proofs.worker import CannotRun
from ptinspect.proofs.worker.determinism import digest, find_rng_states
from ptinspect.torchnn.attributes import WRAPPER_PREFIXES

PREFIXES = (*WRAPPER_PREFIXES, "model.")
SCALER_KEYS = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
AUTOCAST_KEYS = (
    "amp", "use_amp", "autocast", "amp_dtype", "precision", "mixed_precision", "fp16", "bf16",
)  # fmt: skip
CONFIG_KEYS = ("args", "config", "cfg", "opt", "hparams", "hyper_parameters", "options", "params")
# Names of an epoch that is the next one to train; `epoch` is the last one that was finished.
NEXT_EPOCH_KEYS = ("start_epoch", "next_epoch", "epochs_run", "epochs")
# Numbers of batches over which scripts accumulate gradients.
ACCUMULATED_BATCHES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)
Path = tuple[Any, ...]
# An optimizer's index, and its number for a parameter.
Slot = tuple[int, Any]


def value_at(root: Any, path: Any) -> Any:
    for key in path:
        try:
            root = root[key]
        except (KeyError, IndexError, TypeError):
            place = ".".join(map(str, path))
            raise CannotRun(f"{place} cannot be reached in the file") from None
    return root


class Checkpoint:
    """A loaded checkpoint, matched to a model.

    Attributes:
        weights: the weights under the model's names.
        prefix: what the file's names have in front of the model's.
        states, classes: the state_dict of each optimizer, and its class if it is known.
        groups: the groups of all optimizers.
        slots, names: per parameter in `groups` the optimizer with its number, and its name.
        assumption: what was assumed to find `names`.
        averages: averages of the weights (EMA), by path.
        rng_paths: where the states of random number generators are, by kind.
        autocast: the dtype of autocast that the file records, "" if it records that it was off.
    """

    def __init__(
        self,
        root: Any,
        plan: dict[str, Any],
        model: Any,
        user_order: Callable[[], list[str]],
        length: int | None,
    ) -> None:
        self.root = root
        self.plan = plan
        recorded = value_at(root, plan["model_path"])
        self.holds_module = isinstance(recorded, torch.nn.Module)
        self.weights, self.prefix = match_weights(
            dict(recorded.state_dict() if self.holds_module else recorded), model
        )
        optimizer_paths = [item["path"] for item in plan["optimizers"]]
        recorded_states = [value_at(root, path) for path in optimizer_paths]
        self.states: list[dict[str, Any]] = [
            state if isinstance(state, dict) else state.state_dict() for state in recorded_states
        ]
        self.classes: list[str | None] = [item["class"] for item in plan["optimizers"]]
        self.groups = [group for state in self.states for group in state["param_groups"]]
        self.slots = [
            (index, slot)
            for index, state in enumerate(self.states)
            for group in state["param_groups"]
            for slot in group["params"]
        ]
        self.names: list[str] = []
        self.assumption: str | None = None
        if self.states:
            self.names, self.assumption = self._parameter_names(model, user_order())
        weights_paths = [plan["model_path"], *optimizer_paths, *plan["averages"]]
        if not plan["model_path"]:
            weights_paths = [(f"{self.prefix}{name}",) for name in model.state_dict()]
        self.rng_paths = find_rng_states(root, weights_paths)
        self.schedulers = [value_at(root, item["path"]) for item in plan["schedulers"]]
        self.scaler_path = _scaler_path(root)
        self.scaler = value_at(root, self.scaler_path) if self.scaler_path is not None else None
        self.averages = {tuple(path): value_at(root, path) for path in plan["averages"]}
        self.autocast = _autocast(root)
        self.counters = self._counters(length)

    def _counters(self, length: int | None) -> Counters:
        def counter(kind: str) -> int | None:
            return int(value_at(self.root, self.plan[kind])) if self.plan[kind] else None

        states = [self.slot_state(slot) for slot in self.slots]
        steps = [state["step"] for state in states if "step" in state]
        name = str(self.plan["epoch"][-1]).lower() if self.plan["epoch"] else ""
        last_epochs = [item["last_epoch"] for item in self.plan["schedulers"]]
        return Counters(
            length=length,
            epoch=counter("epoch"),
            usual_offset=0 if name in NEXT_EPOCH_KEYS else 1,
            step=counter("step"),
            steps=int(max(float(step) for step in steps)) if steps else counter("step"),
            schedulers=list(zip(last_epochs, self.schedulers, strict=True)),
            scaler=self.scaler,
        )

    def _parameter_names(self, model: Any, user_order: list[str]) -> tuple[list[str], str | None]:
        """Return the name of each slot's parameter, and what was assumed to find them."""
        recorded = [name for group in self.groups for name in group.get("param_names", ())]
        if len(recorded) == len(self.slots):
            return [name.removeprefix(self.prefix) for name in recorded], None
        # A lazy parameter has no shape before its module's first call.
        shapes = {
            name: getattr(self.weights.get(name), "shape", ()) if is_lazy(tensor) else tensor.shape
            for name, tensor in (*model.named_buffers(), *model.named_parameters())
        }
        slot_shapes = [
            parameter_shape({k: v for k, v in state.items() if isinstance(v, torch.Tensor)})
            for state in map(self.slot_state, self.slots)
        ]
        for names, assumption in self._candidate_names(model, user_order, shapes, slot_shapes):
            known = [shapes[name] for name in names or () if name in shapes]
            if names is not None and len(known) == len(names) and shapes_agree(slot_shapes, known):
                return names, assumption
        raise CannotRun(
            f"the optimizer covers {len(self.slots)} parameters and the model has "
            f"{len(list(model.parameters()))}; nothing tells which of them",
            "write a function make_optimizer(model) in the file of the model's class",
        )

    def _candidate_names(
        self, model: Any, user_order: list[str], shapes: dict[str, Any], slot_shapes: list[Any]
    ) -> Iterator[tuple[list[str] | None, str | None]]:
        """Yield the names that the slots may have, the likeliest first, assumptions last."""
        parameters = dict(model.named_parameters())
        own_order = [name for name, value in parameters.items() if value.requires_grad]
        if user_order not in (list(parameters), own_order):
            yield user_order, None
        order = [name for name in self.weights if name in parameters]
        order = list(dict.fromkeys([*order, *parameters]))
        trainable = [name for name in order if parameters[name].requires_grad]
        buffers = {name for name, value in model.named_buffers() if value.is_floating_point()}
        floats = [name for name in self.weights if name in buffers or name in parameters]
        unique = names_by_shape(slot_shapes, {name: shapes[name] for name in order})
        sizes = [len(group["params"]) for group in self.groups]
        if len(sizes) > 1 and len(order) == len(slot_shapes):
            yield unique, None
        yield from ((names, None) for names in (order, trainable, floats))
        left = iter(slot_shapes)
        by_group = [list(islice(left, size)) for size in sizes]
        for names in (order, trainable) if len(sizes) > 1 else ():
            yield names_by_group(by_group, {name: shapes[name] for name in names}), None
        planned = [name for item in self.plan["optimizers"] for name in item["names"] or [""]]
        yield [name.removeprefix(self.prefix) for name in planned if name is not None], None
        yield unique, None
        matrices = [name for name in order if len(shapes[name]) > 1]
        vectors = [name for name in order if len(shapes[name]) < 2]
        for first, second in ((matrices, vectors), (vectors, matrices)):
            if sizes == [len(first), len(second)]:
                assumption = "it is assumed that the groups are the matrices and all others"
                yield [*first, *second], assumption
        last = order[-len(slot_shapes) :]  # the ones nearest to the loss are rarely frozen
        yield last, f"it is assumed that the optimizer covers the last {len(last)} parameters"

    def slot_state(self, slot: Slot) -> dict[str, Any]:
        """Return the optimizer's state for a parameter, empty without any."""
        index, number = slot
        state = self.states[index]["state"].get(number)
        return state if isinstance(state, dict) else {}

    def keeps_state(self, index: int) -> bool:
        """Return True if an optimizer always has some state after a step."""
        groups = tuple(self.states[index]["param_groups"])
        return has_state_after_step(self.classes[index], groups) is not False

    def lacks_state(self, slot: Slot) -> bool:
        """Return True if a slot lacks something that the optimizer's class always keeps."""
        index, number = slot
        required = [
            required_state(self.classes[index], group) or ()
            for group in self.states[index]["param_groups"]
            if number in group["params"]
        ]
        return any(key not in self.slot_state(slot) for keys in required for key in keys)

    @property
    def state_missing(self) -> bool:
        """True if there is no optimizer, or one that always has some state has none."""
        states = enumerate(self.states)
        return not self.states or any(
            not state["state"] and self.keeps_state(index) for index, state in states
        )

    def trained(self) -> set[str] | None:
        """Return the names of the parameters that were trained, None if it is unknown."""
        if not self.names:
            return None
        trained: set[str] = set()
        for index, path in enumerate(self.classes):
            slots = {
                slot: n for slot, n in zip(self.slots, self.names, strict=True) if slot[0] == index
            }
            with_state = {name for slot, name in slots.items() if self.slot_state(slot)}
            if not with_state or not self.keeps_state(index) or (path or "").endswith(".LBFGS"):
                with_state = set(slots.values())  # LBFGS has one state for all parameters
            trained |= with_state
        return trained

    @property
    def has_scaler(self) -> bool:
        """True if a GradScaler was at work. A disabled one writes an empty state, which is lost
        only if autocast may have been to float16."""
        if self.scaler_path is None:
            return False
        return bool(self.scaler) or self.autocast in ("float16", None)

    @property
    def was_scheduled(self) -> bool:
        """True if a scheduler was used: each writes the rate that it starts with."""
        return any(key in group for group in self.groups for key in ("initial_lr", "max_lr"))

    def tied_conflicts(self, model: Any) -> list[str]:
        """Return messages on tied weights that the file has twice, with different numbers."""
        return [
            f"{first} and {name} are one tensor of the model, but the file has different numbers "
            "for them"
            for first, *others in _tied_names(model)
            for name in others
            if digest(self.weights.get(first)) != digest(self.weights.get(name))
        ]


def match_weights(weights: dict[str, Any], model: Any) -> tuple[dict[str, Any], str]:
    """Return the weights under the model's names, and the prefix that was removed.

    Of tied weights, files of safetensors and transformers have one name; the others are added.
    Source of the prefixes: `module.` of DataParallel, `_orig_mod.` of torch.compile.
    """
    own = model.state_dict()
    prefix, best = "", len(own.keys() & weights.keys())
    candidates = [*PREFIXES]
    for candidate in candidates:  # grows by their nestings while it is read
        names = {key.removeprefix(candidate) for key in weights if key.startswith(candidate)}
        if names:
            candidates += [f"{candidate}{inner}" for inner in PREFIXES]
        if len(own.keys() & names) > best:
            prefix, best = candidate, len(own.keys() & names)
    if not best:
        raise CannotRun(
            "the weights do not fit the model: they have no key in common; the model has "
            f"{next(iter(own), 'none')}, the file {next(iter(weights), 'none')}",
            "give the class that was saved as --model FILE.py:CLASS",
        )
    matched = {key.removeprefix(prefix): value for key, value in weights.items()}
    for key, value in own.items():
        recorded = matched.get(key)
        if not isinstance(recorded, torch.Tensor) or not isinstance(value, torch.Tensor):
            continue
        if not is_lazy(value) and recorded.shape != value.shape:
            raise CannotRun(f"the weights do not fit the model: {key} has another shape")
    for tied in _tied_names(model):
        present = [matched[name] for name in tied if name in matched]
        matched |= {name: present[0] for name in tied if present and name not in matched}
    return matched, prefix


def _tied_names(model: Any) -> Iterator[list[str]]:
    """Yield the names of each tensor that has several."""
    names_by_id: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor):
            names_by_id.setdefault(id(value), []).append(name)
    yield from (names for names in names_by_id.values() if len(names) > 1)


def _scaler_path(root: Any) -> Path | None:
    """Return the path of a GradScaler's state in the root or two levels below, breadth first."""
    queue: list[tuple[Path, Any]] = [((), root)] if isinstance(root, dict) else []
    for path, value in queue:  # grows while it is read
        if set(value) >= SCALER_KEYS or (not value and "scaler" in str(path[-1:]).lower()):
            return path
        if len(path) < 2:
            queue += [((*path, key), v) for key, v in value.items() if isinstance(v, dict)]
    return None


def recorded_autocast(module: Any, root: Any) -> str | None:
    """Return the dtype of autocast that the user's module or the file says, None without any."""
    own = getattr(module, "autocast", None)
    if own is not None:
        return own() if callable(own) else own  # type: ignore[no-any-return]
    return _autocast(root) or None


def _autocast(root: Any) -> str | None:
    """Return the dtype of autocast that a training script recorded, "" for `False`.

    `True` is float16 if the state of a GradScaler is in the file: bfloat16 needs none.
    """
    root = root if isinstance(root, dict) else {}
    off = None
    for holder in (root, *(root.get(key) for key in CONFIG_KEYS)):
        values = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
        for key in AUTOCAST_KEYS:
            value = values.get(key)
            off = "" if value is False else off
            if value is True and key not in ("fp16", "bf16"):
                path = _scaler_path(root)
                has_state = path is not None and value_at(root, path)
                return "float16" if has_state else "bfloat16"
            text = key if value is True else str(value).lower()
            if isinstance(value, str | int | torch.dtype) and "16" in text:
                return "bfloat16" if "bf" in text else "float16"
    return off


# --- How far the training was -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counters:
    """How far a training was when its checkpoint was saved.

    Attributes:
        length: batches of an epoch.
        usual_offset: 0 if the name of the epoch says that it is the next one, else 1.
        step: the recorded number of batches.
        steps: steps of the optimizer.
        schedulers: last_epoch and state of each scheduler.
    """

    length: int | None
    epoch: int | None
    usual_offset: int
    step: int | None
    steps: int | None
    schedulers: list[tuple[int, Any]]
    scaler: Any

    def next_position(self) -> tuple[int, int]:
        """Return the epoch and the batch in it that come next.

        They follow from the steps and the batches of an epoch, else from the scheduler, else from
        the recorded epoch. Steps count only if they are near the recorded epoch: the batches at
        hand may be a few of the real ones.
        """
        length = self.length
        if self.epoch is None:
            epoch, batch = divmod(self.step or 0, length or 1) if length else (0, 0)
            return epoch, batch if self.steps in (None, self.step) else 0
        if self.steps is not None and length and abs(self.steps // length - self.epoch) <= 2:
            explained = self.whole_epochs()
            return (explained[0], 0) if explained is not None else divmod(self.steps, length)
        for last_epoch, _ in self.schedulers:
            if abs(last_epoch - self.epoch - 1) <= 2 and not self.steps_scheduler_per_batch():
                return last_epoch, 0
        return self.epoch + self.usual_offset, 0

    def whole_epochs(self) -> tuple[int, str] | None:
        """Return the finished epochs if there are fewer steps than batches, and the usual reason.

        None if the steps are whole epochs of batches, or nothing usual explains them.
        """
        epoch, steps, length = self.epoch, self.steps, self.length
        if epoch is None or steps is None or not length or not steps % length:
            return None
        if abs(steps // length - epoch) > 2:
            return None
        # A GradScaler leaves out steps whose gradients are not finite: some until it has its scale,
        # and one whenever it tries a larger one; none if the scale is still the first one (65536,
        # torch.amp.GradScaler's default).
        scaler = self.scaler or {}
        interval = int(scaler.get("growth_interval", 0))
        grown = min(steps // interval, 64) if interval > 0 else 0
        unchanged = 65536.0 * scaler.get("growth_factor", 2.0) ** grown
        most_skipped = 0 if scaler.get("scale", unchanged) == unchanged else 24 + 2 * grown
        for epochs in (epoch + 1, epoch):
            batches = epochs * length
            if 0 < batches - steps <= most_skipped:
                return epochs, f"the GradScaler left out {batches - steps} of {batches} steps"
            for each in ACCUMULATED_BATCHES:
                counts = {batches // each, -(-batches // each), epochs * (length // each)}
                if steps and steps in counts | {epochs * -(-length // each)}:
                    return epochs, f"gradients were accumulated over {each} batches"
        return None

    def contradictions(self) -> list[str]:
        """Return messages on steps that are not those of the recorded epochs or the schedulers."""
        epoch, steps, length = self.epoch, self.steps, self.length
        if epoch is None or not steps or not length or self.whole_epochs() is not None:
            return []
        finished, batches = divmod(steps, length)
        made = f"the optimizer has made {steps} steps"
        if abs(finished - epoch) > 1:
            text = f"the recorded epoch is {epoch}, but an epoch of --data has {length} batches"
            return [f"{made} and {text}"]
        is_late = not batches and finished == epoch + 1 > 1
        return [
            f"{made}, which are {finished} epochs of --data, and the scheduler {last_epoch}: it "
            "was saved before scheduler.step()"
            for last_epoch, _ in self.schedulers
            if is_late and last_epoch == epoch and not self.steps_scheduler_per_batch()
        ]

    def epoch_offset(self) -> int:
        """Return what a script adds to the recorded epoch: 1 if it is the last finished one."""
        epoch, batch = self.next_position()
        if self.epoch is not None and not batch and epoch == self.epoch:
            return 0
        return 1 if self.epoch is not None and epoch == self.epoch + 1 else self.usual_offset

    def steps_scheduler_per_batch(self) -> bool:
        """Return True if the scheduler is stepped after each batch, not after each epoch."""
        for last_epoch, state in self.schedulers:
            if self.epoch is None:
                return isinstance(state, dict) and "total_steps" in state
            if self.length != 1 and (last_epoch == self.steps or last_epoch > self.epoch + 2):
                return last_epoch != self.epoch + 1
        return False
