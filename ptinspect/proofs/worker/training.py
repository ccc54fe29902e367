"""A training that goes on from a checkpoint, step by step, and what there is to compare of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ptinspect.proofs.worker import schedulers
from ptinspect.proofs.worker.batches import called, loss_between, split
from ptinspect.proofs.worker.errors import CannotRun
from ptinspect.proofs.worker.loading import READ, Loaded
from ptinspect.proofs.worker.rng import digest, rng_state, set_rng

_END = object()


class Training(Loaded):
    """See `Loaded` for the arguments."""

    # --- running --------------------------------------------------------------------------

    def epochs(self) -> Iterator[tuple[int, int, Any, bool]]:
        """Epoch, place in it, batch, and whether it is the epoch's last one."""
        if self.has("replay"):
            yield from torch.load(self.snapshot["replay"], map_location="cpu", weights_only=False)
            return
        while True:
            self.rng_epoch = rng_state(self.device)
            self.generators_epoch = [g.get_state() for g in self.batches.generators()]
            yield from self.one_epoch()
            self.number, self.offset = self.number + 1, 0

    def one_epoch(self) -> Iterator[tuple[int, int, Any, bool]]:
        here = None
        if self.offset and "mid-epoch" in self.mends and "rng_epoch" in self.snapshot:
            here = rng_state(self.device), [g.get_state() for g in self.batches.generators()]
            set_rng(self.snapshot["rng_epoch"])
            self.set_generators(self.snapshot["generators_epoch"])
        source = self.batches.epoch(self.number)
        if self.length is None:
            source = self.known_length(source)
        total = min(n for n in (self.length, self.limit) if n is not None)
        if not total:
            raise CannotRun("an epoch without batches", "see the function of --data")
        for place in range(self.offset):
            next(source, None)
            if here is not None and place + 1 == self.offset:
                set_rng(here[0])
                self.set_generators(here[1])
        for place in range(self.offset, total):
            batch = next(source, _END)
            if batch is _END:
                if not place:
                    raise CannotRun(
                        f"epoch {self.number} has no batches, the one before had {total}",
                        "the function of --data gives something that can be gone through only once",
                    )
                return
            yield self.number, place, batch, place + 1 == total

    def known_length(self, source: Iterator[Any]) -> Iterator[Any]:
        """Of a source that does not tell its length the batches that are taken, all at once."""
        from itertools import islice

        taken = list(islice(source, self.limit))
        self.length = len(taken)
        self.tell_taken()
        return iter(taken)

    def steps(self) -> Iterator[tuple[int, int, Any, bool]]:
        """Trains without end; tells each step after it."""
        for epoch, place, batch, last in self.epochs():
            self.step_number += 1
            self.batch_digest = digest(_plain(batch))
            loss = self.one(batch)
            self.losses.append(loss)
            self.average()
            if self.scheduler is not None and (last or self.per_step):
                with schedulers.quiet():
                    schedulers.step(self.scheduler, loss)
            yield epoch, place, batch, last

    def one(self, batch: Any) -> float:
        """One step of the optimizer."""
        inputs, target = split(batch, self.device)

        def closure() -> Any:
            self.optimizer.zero_grad()
            with self.casting():
                loss = self.loss(called(self.model, inputs), target)
            (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            step: Any = self.optimizer.step
            loss = step(closure)
            self.loss_type = str(loss.dtype).removeprefix("torch.")
            return float(loss)
        loss = closure()
        self.loss_type = str(loss.dtype).removeprefix("torch.")
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        return float(loss.detach())

    def casting(self) -> Any:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], getattr(torch, self.autocast))

    def loss(self, output: Any, target: Any) -> Any:
        """--loss of output and target; without a target the mean square of the outputs."""
        made, self.loss_told = loss_between(self.criterion, output, target)
        return made

    def average(self) -> None:
        """Averages of the weights that the file holds (EMA) go on as well."""
        own = self.model.state_dict()
        for kept in self.ema.values():
            for key, value in kept.items():
                name = key.removeprefix("module.")
                if name in own and isinstance(value, torch.Tensor) and value.is_floating_point():
                    value.lerp_(own[name].detach().cpu().to(value.dtype), 0.001)

    # --- what there is to compare ---------------------------------------------------------

    def state(self) -> dict[str, str]:
        """Digests of all that the training holds, in the order in which it is compared."""
        own = dict(self.model.named_parameters())
        made = {f"weights {name}": digest(value) for name, value in own.items()}
        made |= {f"buffer {name}": digest(v) for name, v in self.model.named_buffers()}
        for name, kept in self.kept().items():
            made |= {f"optimizer {name}.{key}": digest(v) for key, v in kept.items()}
        for place, group in enumerate(self.optimizer.param_groups):
            made[f"lr of group {place}"] = digest(float(group["lr"]))
        if self.scheduler is not None:
            state = {
                k: v
                for k, v in self.scheduler.state_dict().items()
                if k != "_get_lr_called_within_step"
            }
            made["scheduler"] = digest(state)
        if self.scaler is not None:
            made["scaler"] = digest(self.scaler.state_dict())
        for path, kept in self.ema.items():
            made[f"average {'.'.join(map(str, path))}"] = digest(kept)
        return made

    def rng(self) -> dict[str, str]:
        """Digests of the generators."""
        made = {f"rng {kind}": digest(v) for kind, v in rng_state(self.device).items()}
        states = [g.get_state() for g in self.batches.generators()]
        return {**made, "rng of the data": digest(states)} if states else made

    def kept(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state by parameter."""
        known = {id(value): name for name, value in self.model.named_parameters()}
        return {known.get(id(p), "?"): kept for p, kept in self.optimizer.state.items()}


def _plain(batch: Any) -> Any:
    return list(batch) if isinstance(batch, list | tuple) else batch


__all__ = ["READ", "Training"]
