"""What a checkpoint tells of its training, read against the model at hand: which parameters its
optimizer covers and in which order, which were trained, at which batch of which epoch it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ptinspect.document.optim.rules import always_keeps, kept_by
from ptinspect.document.optim.training_state import BUFFERS
from ptinspect.proofs.worker.errors import CannotRun
from ptinspect.proofs.worker.rng import rng_found

ACCUMULATED = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128)
"""Batches over which gradients are accumulated, as scripts have it."""


def whole_epochs(steps: int, recorded: int, length: int, skips: int) -> tuple[int, str] | None:
    """Epochs that end where a checkpoint stands, and what has to be assumed for it; None where
    nothing usual explains it. recorded: the epoch in the file. length: batches of an epoch.
    skips: steps that a GradScaler may have left out."""
    for epochs in (recorded + 1, recorded):
        batches = epochs * length
        if 0 < batches - steps <= skips:
            return epochs, f"the GradScaler left out {batches - steps} of {batches} steps"
        for each in ACCUMULATED:
            fewer = {batches // each, -(-batches // each), epochs * (length // each)}
            if steps and steps in fewer | {epochs * -(-length // each)}:
                return epochs, f"gradients were accumulated over {each} batches"
    return None


def skipped(scaler: Any, steps: int) -> int:
    """The most steps that a GradScaler of this state has left out, as gradients were not finite:
    some until it found its scale, one whenever it tried a larger one. None were, where the scale
    is still what it begins with (65536, torch.amp.GradScaler's default)."""
    if not isinstance(scaler, dict) or "scale" not in scaler:
        return 0
    every = int(scaler["growth_interval"])
    grown = steps // every if every > 0 else 0
    if grown < 64 and float(scaler["scale"]) == 65536.0 * scaler["growth_factor"] ** grown:
        return 0
    return 24 + 2 * grown


# ---


PREFIXES = ("module.", "_orig_mod.", "model.", "_orig_mod.module.")
SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
AMP = ("amp", "use_amp", "autocast", "amp_dtype", "precision", "mixed_precision")
NEXT = ("start_epoch", "next_epoch", "epochs_run", "epochs")
"""Names of an epoch that is the next one to train; `epoch` is the last one that was finished."""


def at(root: Any, path: Any) -> Any:
    """What lies at a path of keys and indices. CannotRun where a path leads into an object."""
    for step in path:
        try:
            root = root[step]
        except (KeyError, IndexError, TypeError):
            raise CannotRun(f"{'.'.join(map(str, path))} cannot be reached in the file") from None
    return root


class Facts:
    """root: the loaded file. plan: where its parts lie. own: tells the parameters of an optimizer
    that the user makes, in its order. The rest is what is concluded."""

    def __init__(
        self, root: Any, plan: dict[str, Any], model: Any, own: Callable[[], list[str]] = list
    ) -> None:
        self.root = root
        self.plan = plan
        self.own = own
        self.weights: dict[str, Any] = {}
        self.assumed: str | None = None
        self.prefix = ""
        self._find_weights(model)
        self.optimizer = self._optimizer()
        self.class_path: str | None = (plan["optimizer"] or {}).get("class")
        self.slots = self._slots()
        self.names = self._names(model)
        self.rng = rng_found(root)
        self.schedulers = [at(root, found["path"]) for found in plan["schedulers"]]
        self.scaler_path = self._scaler_path()
        self.amp = self._amp()
        self.ema = {tuple(path): at(root, path) for path in plan["ema"]}

    # --- weights --------------------------------------------------------------------------

    def _find_weights(self, model: Any) -> None:
        found = at(self.root, self.plan["model_path"])
        self.whole = isinstance(found, torch.nn.Module)
        self.weights = dict(found.state_dict() if self.whole else found)
        own = set(model.state_dict())
        best = len(own & set(self.weights))
        for prefix in PREFIXES:
            inner = {key.removeprefix(prefix) for key in self.weights if key.startswith(prefix)}
            if len(own & inner) > best:
                best, self.prefix = len(own & inner), prefix
        if not best:
            raise CannotRun(
                "the weights do not fit the model: no key of the file is one of its own, such as "
                f"{next(iter(own), 'none')}; the file has {next(iter(self.weights), 'none')}",
                "give the class that was saved as --model FILE.py:CLASS",
            )
        self.weights = {key.removeprefix(self.prefix): v for key, v in self.weights.items()}
        odd = [
            key
            for key, value in model.state_dict().items()
            if _other_shape(self.weights, key, value)
        ]
        if odd:
            raise CannotRun(f"the weights do not fit the model: {odd[0]} has another shape")

    # --- optimizer ------------------------------------------------------------------------

    def _optimizer(self) -> dict[str, Any] | None:
        if self.plan["optimizer"] is None:
            return None
        found = at(self.root, self.plan["optimizer"]["path"])
        made: dict[str, Any] = found if isinstance(found, dict) else found.state_dict()
        return made

    def _slots(self) -> list[Any]:
        groups = self.optimizer["param_groups"] if self.optimizer else []
        return [key for group in groups for key in group["params"]]

    def _names(self, model: Any) -> list[str]:
        """Per slot the parameter (or buffer) that it is for, as the file's own order tells."""
        if self.optimizer is None:
            return []
        parameters = dict(model.named_parameters())
        buffers = dict(model.named_buffers())
        recorded = [
            name
            for group in self.optimizer["param_groups"]
            for name in group.get("param_names", ())
        ]
        if len(recorded) == len(self.slots):
            return [name.removeprefix(self.prefix) for name in recorded]
        mine = self._of_user(parameters)
        if mine is not None:
            return mine
        seen: set[int] = set()
        order = []
        for key in self.weights:  # tied ones once, as parameters() has them
            if key in parameters and id(parameters[key]) not in seen:
                seen.add(id(parameters[key]))
                order.append(key)
        order += [key for key, value in parameters.items() if id(value) not in seen]
        trainable = [key for key in order if parameters[key].requires_grad]
        floats = [
            k
            for k in self.weights
            if k in parameters or (k in buffers and buffers[k].is_floating_point())
        ]
        if len(self.optimizer["param_groups"]) > 1 and len(order) == len(self.slots):
            by_shape = self._by_shapes(order, parameters)
            if by_shape is not None:
                return by_shape
        last = order[-len(self.slots) :]  # where nothing else tells: what is nearest to the loss
        for choice in (order, trainable, floats):
            if len(choice) == len(self.slots) and self._agree(choice, {**buffers, **parameters}):
                return choice
        planned = self.plan["optimizer"].get("names") or []
        if planned and all(name is not None for name in planned):
            return [name.removeprefix(self.prefix) for name in planned]
        found = self._by_shapes(order, parameters) or self._by_decay(order, parameters)
        if found is None and len(last) == len(self.slots) and self._agree(last, parameters):
            self.assumed = f"the optimizer covers the last {len(last)} parameters, it is assumed"
            return last
        if found is None:
            raise CannotRun(
                f"the optimizer covers {len(self.slots)} parameters, the model has {len(order)}, "
                "and nothing tells which",
                "write a function make_optimizer(model) beside the model's class",
            )
        return found

    def _of_user(self, parameters: dict[str, Any]) -> list[str] | None:
        """Those of make_optimizer, where it does not simply take the model's own order."""
        mine = self.own()
        trainable = [name for name, value in parameters.items() if value.requires_grad]
        if len(mine) != len(self.slots) or mine in (list(parameters), trainable):
            return None
        known = all(name in parameters for name in mine)
        return mine if known and self._agree(mine, parameters) else None

    def _by_decay(self, order: list[str], parameters: dict[str, Any]) -> list[str] | None:
        """The matrices in one group and the rest in another, as it is usual for weight decay."""
        assert self.optimizer is not None
        sizes = [len(group["params"]) for group in self.optimizer["param_groups"]]
        matrices = [name for name in order if parameters[name].dim() > 1]
        rest = [name for name in order if parameters[name].dim() < 2]
        for one, other in ((matrices, rest), (rest, matrices)):
            if sizes == [len(one), len(other)] and self._agree([*one, *other], parameters):
                self.assumed = "the groups are the matrices and the rest, it is assumed"
                return [*one, *other]
        return None

    def _shape(self, slot: Any) -> tuple[int, ...] | None:
        assert self.optimizer is not None
        from ptinspect.document.optim.rules import SAME_SHAPE

        kept = self.optimizer["state"].get(slot) or {}
        for key, value in kept.items():
            if key in SAME_SHAPE and isinstance(value, torch.Tensor):
                return tuple(value.shape)
        return None

    def _agree(self, names: list[str], tensors: dict[str, Any]) -> bool:
        shapes = [self._shape(slot) for slot in self.slots]
        pairs = zip(shapes, names, strict=True)
        return all(shape is None or shape == tuple(tensors[name].shape) for shape, name in pairs)

    def _by_shapes(self, order: list[str], parameters: dict[str, Any]) -> list[str] | None:
        """The only names that the shapes allow; None where there are several."""
        free = list(order)
        made = []
        for slot in self.slots:
            shape = self._shape(slot)
            fitting = [name for name in free if tuple(parameters[name].shape) == shape]
            if len(fitting) != 1:
                return None
            made.append(fitting[0])
            free.remove(fitting[0])
        return made

    @property
    def keeps(self) -> bool:
        """Whether the optimizer always keeps some state."""
        if self.optimizer is None:
            return True
        return always_keeps(self.class_path, tuple(self.optimizer["param_groups"])) is not False

    def lacking(self, slot: Any) -> bool:
        """Whether a slot's state lacks something that the class always keeps."""
        assert self.optimizer is not None
        kept = self.optimizer["state"].get(slot) or {}
        for group in self.optimizer["param_groups"]:
            if slot in group["params"]:
                return any(key not in kept for key in kept_by(self.class_path, group) or ())
        return False

    def trained(self) -> set[str] | None:
        """The parameters that were trained; None where the file does not tell."""
        if self.optimizer is None or not self.names:
            return None
        state = self.optimizer["state"]
        begun = {name for slot, name in zip(self.slots, self.names, strict=True) if state.get(slot)}
        single = (self.class_path or "").endswith(".LBFGS")
        if begun and self.keeps and not single:
            return begun
        return set(self.names)

    @property
    def scheduled(self) -> bool:
        """Whether a scheduler was at work: each writes the rate that it begins with."""
        groups = self.optimizer["param_groups"] if self.optimizer else []
        return any("initial_lr" in group for group in groups)

    def buffers_covered(self, model: Any) -> list[str]:
        """Buffers that the optimizer was given as if they were parameters."""
        own = dict(model.named_buffers())
        return [name for name in self.names if name in own]

    # --- how far it is --------------------------------------------------------------------

    @property
    def epoch(self) -> int | None:
        """As recorded."""
        found = self.plan["epoch"]
        return int(at(self.root, found["path"])) if found is not None else None

    @property
    def steps(self) -> int | None:
        """Steps that were made, as the optimizer or a counter has them."""
        state = self.optimizer["state"] if self.optimizer else {}
        counted = [
            kept["step"] for kept in state.values() if isinstance(kept, dict) and "step" in kept
        ]
        if counted:
            return int(max(float(step) for step in counted))
        found = self.plan["step"]
        return int(found["value"]) if found is not None else None

    def position(self, length: int | None) -> tuple[int, int]:
        """The epoch and the batch in it that come next, by the steps made and the batches of an
        epoch; by the scheduler; else after the recorded epoch. Steps count only where they are
        near the recorded epoch: the batches at hand may be a few of the real ones."""
        recorded = self.epoch
        if recorded is None:
            return 0, 0
        steps = self.steps
        if steps is not None and length and abs(steps // length - recorded) <= 2:
            whole = self.explained(length) if steps % length else None
            return (whole[0], 0) if whole is not None else divmod(steps, length)
        for found in self.plan["schedulers"]:
            if abs(found["last_epoch"] - recorded - 1) <= 2 and not self.per_step(length):
                return found["last_epoch"], 0
        return recorded + self.usual, 0

    def explained(self, length: int | None) -> tuple[int, str] | None:
        """Where the steps made are no whole epochs of batches: how they may be, all the same."""
        recorded, steps = self.epoch, self.steps
        if recorded is None or steps is None or not length or not steps % length:
            return None
        if abs(steps // length - recorded) > 2:
            return None
        scaler = at(self.root, self.scaler_path) if self.scaler_path else None
        return whole_epochs(steps, recorded, length, skipped(scaler, steps))

    @property
    def usual(self) -> int:
        """What is usually added to the recorded epoch."""
        return 0 if self.plan["epoch"] and self.plan["epoch"]["name"] in NEXT else 1

    def added(self, length: int | None) -> int:
        """What a script adds to the recorded epoch: 1 where it is the last finished one, 0 where it
        is the next one."""
        after, offset = self.position(length)
        if self.epoch is not None and not offset and after == self.epoch:
            return 0
        return 1 if self.epoch is not None and after == self.epoch + 1 else self.usual

    def per_step(self, length: int | None) -> bool:
        """Whether the scheduler is stepped after each batch, not after each epoch."""
        for found, state in zip(self.plan["schedulers"], self.schedulers, strict=True):
            if self.epoch is None:
                return isinstance(state, dict) and "total_steps" in state
            last = found["last_epoch"]
            if length != 1 and (last == self.steps or last > self.epoch + 2):
                return bool(last != self.epoch + 1)
        return False

    # --- the rest -------------------------------------------------------------------------

    def _scaler_path(self) -> tuple[Any, ...] | None:
        for path, value in self._dicts():
            if set(value) >= SCALER or (not value and "scaler" in str(path[-1:]).lower()):
                return path
        return None

    def _dicts(self) -> Iterator[tuple[tuple[Any, ...], dict[Any, Any]]]:
        """The file's dicts, the highest first, down to those in those in the root."""
        found: list[tuple[tuple[Any, ...], dict[Any, Any]]] = []
        if isinstance(self.root, dict):
            found.append(((), self.root))
        for path, value in found:  # it grows
            yield path, value
            if len(path) < 2:
                inner = ((key, item) for key, item in value.items() if isinstance(item, dict))
                found += [((*path, key), item) for key, item in inner]

    def _amp(self) -> str | None:
        """The type of autocast that the file says it was trained with."""
        if not isinstance(self.root, dict):
            return None
        for key in AMP:
            value = self.root.get(key)
            if isinstance(value, str) or value is True:
                text = str(value).lower()
                if "bf16" in text or "bfloat16" in text:
                    return "bfloat16"
                if "16" in text:
                    return "float16"
                if value is True:
                    return "bfloat16"
        return None


def _other_shape(weights: dict[str, Any], key: str, value: Any) -> bool:
    there = weights.get(key)
    if not isinstance(there, torch.Tensor) or not isinstance(value, torch.Tensor):
        return False
    return not is_lazy(value) and there.shape != value.shape


__all__ = ["BUFFERS", "Facts", "at"]
