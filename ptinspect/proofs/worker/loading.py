"""A training that goes on from a checkpoint: its parts, made and loaded.

`mends` says how the checkpoint is read. Without any: as a plain script does, which makes the model
and an optimizer over `model.parameters()`, loads what is there and begins the next epoch. With
those of READ: as the evidence in the file says. With others: from the snapshot of the training
that was not interrupted, exactly that part.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker import schedulers
from ptinspect.proofs.worker.batches import Batches
from ptinspect.proofs.worker.checkpoint import Facts, at
from ptinspect.proofs.worker.errors import CannotRun
from ptinspect.proofs.worker.rng import as_python_state, seed_all, set_rng
from ptinspect.proofs.worker.user_code import (
    findable,
    loaded,
    loss_of,
    made_by,
    named,
    optimizer_class,
)

READ = ("order", "trainable", "buffers-in-optimizer", "learning-rate", "epoch", "mid-epoch", "amp")
LIMIT = 32
"""Batches up to which an epoch is taken whole."""


class Loaded:
    """See the module. options: the user's. path: the checkpoint to go on from. plan: where its
    parts lie. snapshot: of the uninterrupted training."""

    def __init__(
        self,
        plan: dict[str, Any],
        options: dict[str, Any],
        path: str,
        seed: int,
        mends: tuple[str, ...],
        snapshot: dict[str, Any] | None = None,
    ) -> None:
        self.plan, self.options, self.mends = plan, options, frozenset(mends)
        self.device = options["device"]
        self.snapshot = snapshot or {}
        self.first = snapshot is None  # the training that is not interrupted
        seed_all(seed)
        self.module, model = self.user_model()
        self.root = loaded(plan, path)
        self.model = self.made_model(model)
        self.batches = Batches(options["data"], self.model, options["seed"])
        self.facts = Facts(self.root, plan, self.model, self.own_order)
        if "data" in self.facts.rng and not self.batches.generators():  # torch's own, then
            self.facts.rng.setdefault("torch", self.facts.rng.pop("data"))
        self.length = self.batches.length
        # Of batches that are made up the number tells nothing of the real training.
        self.real = None if self.batches.told else self.length
        self.criterion = loss_of(options["loss"])
        self.notes: list[str] = [self.facts.assumed] if self.facts.assumed else []
        self.step_number = 0
        self.losses: list[float] = []
        self.batch_digest = ""
        self.loss_type, self.loss_told = "float32", ""
        self.scaler: Any = None
        self.scheduler: Any = None
        self.ema = {place: _copied(value) for place, value in self.facts.ema.items()}
        self.limit_epoch()
        self.per_step = options.get("per_step")
        if self.per_step is None:
            self.per_step = self.facts.per_step(self.real)
        self.build()

    # --- the model ------------------------------------------------------------------------

    def user_model(self) -> tuple[Any, Any]:
        """The module of --model and its class, made findable under the pickled names."""
        if self.options["model"] is None:
            return None, None
        module, model = named(self.options["model"])
        findable(module, self.plan["needs"])
        return module, model

    def made_model(self, model: Any) -> Any:
        """The model: of the file where it holds a whole one, else a new one of the class."""
        there = at(self.root, self.plan["model_path"])
        if isinstance(there, nn.Module):
            return there.to(self.device)
        if model is None:
            raise CannotRun("the file holds weights, but no model", "give --model FILE.py:CLASS")
        return made_by(model, self.options["model"]).to(self.device)

    def of_user(self, name: str) -> Any:
        """A function that the user wrote beside the model's class; None without."""
        return getattr(self.module, name, None) if self.module is not None else None

    # --- building -------------------------------------------------------------------------

    def build(self) -> None:
        """Makes all parts, then loads them in the usual order."""
        self.model.train()
        if self.has("weights") or not self.facts.whole:
            self.load_weights()
        if "trainable" in self.mends:
            trained = self.facts.trained()
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(trained is None or name in trained)
        self.optimizer = self.made_optimizer()
        self.mine = self.names_of(self.optimizer)
        self.make_scheduler()
        self.make_scaler()
        self.load_optimizer()
        self.load_scheduler()
        self.load_scaler()
        self.place()
        self.load_rng()

    def has(self, mend: str) -> bool:
        """Whether a part is to be taken from the snapshot."""
        return mend in self.mends and mend in self.snapshot

    def load_weights(self) -> None:
        found = self.model.load_state_dict(self.facts.weights, strict=False)
        if found.missing_keys:
            self.notes.append(f"not in the file: {', '.join(found.missing_keys[:4])}")
        for part in ("weights", "buffers"):
            if self.has(part):
                own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
                with torch.no_grad():
                    for name, value in self.snapshot[part].items():
                        own[name].copy_(value)

    def made_optimizer(self) -> Any:
        """Over `model.parameters()`, as the file's class; or as the user makes it."""
        make = self.of_user("make_optimizer")
        if make is not None:
            return make(self.model)
        path = self.options["optimizer_class"] or self.facts.class_path
        if path is None:
            raise CannotRun(
                "the file does not tell which optimizer it was trained with",
                "give --optimizer-class torch.optim.AdamW, or what it was",
            )
        kind = optimizer_class(path)
        groups = self.facts.optimizer["param_groups"] if self.facts.optimizer else []
        known = set(inspect.signature(kind.__init__).parameters) - {"self", "params"}
        given = {key: value for key, value in (groups[0] if groups else {}).items() if key in known}
        if isinstance(given.get("lr"), torch.Tensor):
            given["lr"] = given["lr"].clone()
        return kind(self.parameter_groups(kind), **given)

    def parameter_groups(self, kind: Any) -> list[dict[str, Any]]:
        every = dict(self.model.named_parameters())
        trainable = [value for value in every.values() if value.requires_grad]
        groups = self.facts.optimizer["param_groups"] if self.facts.optimizer else []
        if len(groups) > 1:
            names = iter(self.facts.names)
            made = []
            for group in groups:
                mine = [
                    every[name]
                    for _, name in zip(group["params"], names, strict=False)
                    if name in every
                ]
                made.append({"params": mine})
            return made
        if len(self.facts.slots) == len(every) != len(trainable):
            trainable = list(every.values())
        if kind is getattr(torch.optim, "Muon", None):  # it takes no others
            trainable = [value for value in trainable if value.ndim == 2]
        return [{"params": trainable}]

    def own_order(self) -> list[str]:
        """The parameters that the user's own function gives to an optimizer; none without."""
        make = self.of_user("make_optimizer")
        return self.names_of(make(self.model)) if make is not None else []

    def names_of(self, optimizer: Any) -> list[str]:
        """The names of its parameters, in its order."""
        known = {id(value): name for name, value in self.model.named_parameters()}
        return [
            known.get(id(value), f"#{place}")
            for group in optimizer.param_groups
            for place, value in enumerate(group["params"])
        ]

    # --- loading --------------------------------------------------------------------------

    def load_optimizer(self) -> None:
        """Its state, as it is written or as the mends say."""
        state = self.facts.optimizer
        if state is not None:
            names, slots = list(self.facts.names), list(self.facts.slots)
            read = self.mends & {"order", "trainable", "buffers-in-optimizer"}
            if read:
                state = self.reread(state, slots, names)
            self.optimizer.load_state_dict(_deep(state))
            self.held_against_class()
        if self.has("optimizer"):
            self.set_optimizer(self.snapshot["optimizer"])

    def held_against_class(self) -> None:
        """CannotRun where the state is not one of the class that the user names."""
        groups, path = self.optimizer.param_groups, self.facts.class_path
        lacking = [key for key in self.optimizer.defaults if key not in groups[0]]
        if lacking and self.options["optimizer_class"]:
            hint = f"it looks like that of {path}" if path else None
            what = f"{type(self.optimizer).__name__}: no {lacking[0]}"
            raise CannotRun(f"the state in the file is not of {what}", hint)

    def reread(self, state: dict[str, Any], slots: list[Any], names: list[str]) -> dict[str, Any]:
        """The same states for this optimizer: each for the parameter that it was kept for."""
        name_of = dict(zip(slots, names, strict=True))
        buffers = {name for name, _ in self.model.named_buffers()}
        mine = set(self.mine)
        groups = []
        for group in state["param_groups"]:
            keys = list(group["params"])
            if "buffers-in-optimizer" in self.mends:
                keys = [key for key in keys if name_of[key] not in buffers]
            if "trainable" in self.mends:
                keys = [key for key in keys if name_of[key] in mine or name_of[key] in buffers]
            if "order" in self.mends:
                place = {name: at for at, name in enumerate(self.mine)}
                keys.sort(key=lambda key: place.get(name_of[key], len(place)))
            made = {key: value for key, value in group.items() if key != "param_names"}
            groups.append({**made, "params": keys})
        kept = {key for group in groups for key in group["params"]}
        held = {
            key: value
            for key, value in state["state"].items()
            if key in kept and not (self.first and self.facts.lacking(key))
        }
        return {"state": held, "param_groups": groups}

    def set_optimizer(self, snapshot: dict[str, Any]) -> None:
        own = dict(self.model.named_parameters())
        for name, kept in snapshot["state"].items():
            self.optimizer.state[own[name]] = _to(_deep(kept), self.device)
        for group, values in zip(self.optimizer.param_groups, snapshot["groups"], strict=False):
            group.update(_deep(values))

    def make_scheduler(self) -> None:
        make = self.of_user("make_scheduler")
        if make is not None:
            self.scheduler = make(self.optimizer)
        elif self.facts.schedulers:
            state = self.facts.schedulers[0]
            self.scheduler = schedulers.scheduler_of(state, self.optimizer)
        elif self.facts.scheduled:
            self.notes.append(
                "the learning rate was scheduled (initial_lr), but no scheduler's state is in the "
                "file: trained at one rate; see make_scheduler(optimizer) in --help"
            )

    def load_scheduler(self) -> None:
        if self.scheduler is None:
            return
        if self.facts.schedulers:
            self.scheduler.load_state_dict(_deep(self.facts.schedulers[0]))
        elif self.first:
            self.catch_up()
        if self.has("scheduler"):
            self.scheduler.load_state_dict(_deep(self.snapshot["scheduler"]))
        rates = getattr(self.scheduler, "_last_lr", None)
        if "learning-rate" in self.mends and self.facts.schedulers and rates:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
                group["lr"] = rate

    def catch_up(self) -> None:
        """A scheduler whose state is in no file: stepped as often as epochs were made."""
        if (self.facts.epoch or 0) > 100_000:
            return
        kept = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        for _ in range(self.facts.position(self.real)[0]):
            with schedulers.quiet():
                schedulers.step(self.scheduler, 0.0)
        for group, rate in zip(self.optimizer.param_groups, kept, strict=True):
            group["lr"] = rate

    def make_scaler(self) -> None:
        make = self.of_user("make_scaler")
        kind = self.device.split(":")[0]
        if make is not None:
            self.scaler = make()
        elif self.facts.scaler_path is not None:
            self.scaler = torch.amp.GradScaler(kind)
        self.autocast = self.facts.amp
        usual = self.of_user("autocast")
        if usual is not None and ("amp" not in self.mends or self.facts.amp is None):
            self.autocast = usual() if callable(usual) else usual

    def load_scaler(self) -> None:
        if self.scaler is None:
            return
        if self.facts.scaler_path is not None:
            state = at(self.root, self.facts.scaler_path)
            if state:
                self.scaler.load_state_dict(_deep(state))
        if self.has("scaler"):
            self.scaler.load_state_dict(_deep(self.snapshot["scaler"]))

    def place(self) -> None:
        """The epoch and the batch to begin with."""
        self.number, self.offset = 0, 0
        if self.facts.epoch is not None:
            added = self.options.get("added")
            self.number = self.facts.epoch + (
                self.facts.added(self.real) if added is None else added
            )
        if self.first:
            self.number, self.offset = self.facts.position(self.real)
            whole = self.facts.explained(self.real)
            if whole is not None:
                self.notes.append(
                    f"{self.facts.steps} steps are whole epochs, {whole[0]}, if {whole[1]}; "
                    "that is assumed"
                )
            if self.limit is not None:
                self.offset = min(self.offset, self.limit - 1)
        if "position" in self.snapshot:
            epoch, offset = self.snapshot["position"]
            if "epoch" in self.mends:
                self.number = epoch
            if "mid-epoch" in self.mends:
                self.number, self.offset = epoch, offset

    def load_rng(self) -> None:
        states = {kind: at(self.root, path) for kind, path in self.facts.rng.items()}
        if "python" in states:
            states["python"] = as_python_state(states["python"])
        if "data" in states:
            self.set_generators([states.pop("data")])
        for kind in ("torch", "numpy", "python", "cuda"):
            if f"rng-{kind}" in self.mends and kind in self.snapshot.get("rng", {}):
                states[kind] = self.snapshot["rng"][kind]
        set_rng(states)
        if self.has("generators"):
            self.set_generators(self.snapshot["generators"])

    def set_generators(self, states: list[Any]) -> None:
        for generator, state in zip(self.batches.generators(), states, strict=False):
            generator.set_state(state)

    def limit_epoch(self) -> None:
        """Of a long epoch a part is taken."""
        steps = self.options["steps"]
        self.limit: int | None = None
        if self.length is None:
            self.limit = max(steps, 2)
        elif self.length > max(steps, LIMIT):
            self.limit = max(steps, LIMIT)
            self.tell_taken()

    @property
    def taken(self) -> int | None:
        """Batches that are taken of each epoch; None for all."""
        if self.limit is None or (self.length is not None and self.length < self.limit):
            return None
        return self.limit

    def tell_taken(self) -> None:
        """That only a part of each epoch is taken, and what to do about it."""
        if self.taken is None:
            return
        if self.real is None:
            text = (
                f"the data do not tell how many batches an epoch has: the first {self.limit} of "
                "each are taken; --steps N takes more"
            )
        else:
            text = (
                f"an epoch has {self.length:,} batches: the first {self.limit} of each are taken; "
                f"--steps {self.length} takes all of them"
            )
        self.notes.append(text)


def _copied(value: Any) -> Any:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in value.items()}


def _deep(value: Any) -> Any:
    import copy

    return copy.deepcopy(value)


def _to(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device) if value.dim() else value
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return [_to(item, device) for item in value] if isinstance(value, list) else value
