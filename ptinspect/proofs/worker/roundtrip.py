"""The round trip, in a process of its own: the original and what came of it, run side by side."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.batches import Batches, called, loss_between, split
from ptinspect.proofs.worker.checkpoint import Facts, at
from ptinspect.proofs.worker.errors import CannotRun, said
from ptinspect.proofs.worker.progress import tell
from ptinspect.proofs.worker.rng import digest, seed_all
from ptinspect.proofs.worker.user_code import (
    findable,
    loaded,
    loss_of,
    made_by,
    named,
    optimizer_class,
)


def roundtrip(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the model of one file: the digests of weights, outputs, gradients and of the weights
    after some steps. original: the file; path: what is to be run, in the form `form`."""
    options, plan = job["options"], job["plan"]
    module, made = named(options["model"]) if options["model"] else (None, None)
    if module is not None:
        findable(module, plan["needs"])
    original = original_of(job, made)
    model = original if job["form"] == "original" else instance(job, made)
    if job["form"] != "original":
        restore(model, job)
    return {**measured(model, job), "class": type(model).__qualname__, "device": options["device"]}


def original_of(job: dict[str, Any], made: Any) -> Any:
    """The model as torch loads it from the file itself."""
    plan = job["plan"]
    there = at(loading(job), plan["model_path"])
    if isinstance(there, nn.Module):
        return there
    if made is None:
        raise CannotRun("the file holds weights, but no model", "give --model FILE.py:CLASS")
    model = made_by(made, job["options"]["model"])
    fill(model, there)
    return model


def fill(model: Any, state: Any) -> None:
    """The state into the model, strictly."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CannotRun(
            f"the weights do not fit the model: {said(error)}",
            "give the class that was saved as --model FILE.py:CLASS",
        ) from error


def loading(job: dict[str, Any]) -> Any:
    """torch.load of the original; with a stub where its class is nowhere else."""
    if job["stub"]:
        from ptinspect.stubs.context import stubbed

        with stubbed(job["path"]):
            # Nothing but what the stub itself defines is taken: no class of a package.
            return torch.load(job["path"], map_location="cpu", weights_only=True)
    return loaded(job["plan"], job["path"])


def instance(job: dict[str, Any], made: Any) -> Any:
    """A fresh instance, whose weights are not the file's: of the class, or through the stub."""
    if made is not None:
        model = made_by(made, job["options"]["model"])
    else:
        model = original_of(job, None)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    return model


def restore(model: Any, job: dict[str, Any]) -> None:
    """Loads the converted file, strictly."""
    if job["form"] == "safetensors":
        from safetensors.torch import load_file

        state = load_file(job["converted"])
        ties(model, state)
    else:
        state = torch.load(job["converted"], map_location="cpu", weights_only=True)
        if job["form"] == "checkpoint":
            path = job["plan"]["model_path"]
            state = state["model_state_dict"] if "model_state_dict" in state else at(state, path)
    fill(model, state)


def ties(model: Any, state: dict[str, Any]) -> None:
    """safetensors keeps one of several names of a tensor; the others are that one."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    for group in names.values():
        there = next((name for name in group if name in state), None)
        for name in group:
            if there is not None:
                state.setdefault(name, state[there])


def measured(model: Any, job: dict[str, Any]) -> dict[str, Any]:
    """All that is compared."""
    options = job["options"]
    device = options["device"]
    model.to(device)
    made: dict[str, Any] = {"weights": {k: digest(v) for k, v in model.state_dict().items()}}
    seed_all(options["seed"])
    batches = Batches(options["data"], model, options["seed"])
    made["told"] = batches.told
    seed_all(options["seed"])
    source = list_of(batches, options["steps"])
    criterion = loss_of(options["loss"])
    inputs, target = split(source[0], device)
    try:
        model.eval()
        with torch.no_grad():
            made["eval"] = digest(called(model, inputs))
        model.train()
        optimizer = optimizer_of(model, job)
        made["losses"] = []
        for number, batch in enumerate(source):
            inputs, target = split(batch, device)
            optimizer.zero_grad()
            output = called(model, inputs)
            loss, made["loss"] = loss_between(criterion, output, target)
            loss.backward()
            if not number:
                made["train"] = digest(output)
                made["gradients"] = {
                    name: digest(value.grad)
                    for name, value in model.named_parameters()
                    if value.grad is not None
                }
            optimizer.step()
            made["losses"].append(float(loss.detach()))
            tell(number + 1, len(source), made["losses"][-1])
    except NotImplementedError as error:
        raise CannotRun(
            f"the model cannot be run: {error}", "give its class as --model FILE.py:CLASS"
        ) from error
    except CannotRun:
        raise
    except Exception as error:
        traceback.print_exc()
        raise CannotRun(f"the model cannot be run: {said(error)}") from error
    made["trained"] = {name: digest(value) for name, value in model.state_dict().items()}
    made["optimizer"] = type(optimizer).__name__
    return made


def list_of(batches: Batches, steps: int) -> list[Any]:
    """As many batches as steps, of one epoch after the other."""
    made: list[Any] = []
    epoch = 0
    while len(made) < steps:
        before = len(made)
        for batch in batches.epoch(epoch):
            made.append(batch)
            if len(made) == steps:
                break
        if len(made) == before:
            raise CannotRun("an epoch without batches", "see the function of --data")
        epoch += 1
    return made


def optimizer_of(model: Any, job: dict[str, Any]) -> Any:
    """That of the file, with its state, where it covers the model's parameters; else SGD."""
    plan, options = job["plan"], job["options"]
    path = options["optimizer_class"] or (plan["optimizer"] or {}).get("class")
    trainable = [value for value in model.parameters() if value.requires_grad]
    if path is None or options["optimizer_class"] or plan["optimizer"] is None:
        return optimizer_class(path or "SGD")(trainable, lr=0.01)
    facts = Facts(loading(job), plan, model)
    assert facts.optimizer is not None
    if len(facts.slots) != len(trainable) or len(facts.optimizer["param_groups"]) != 1:
        return torch.optim.SGD(trainable, lr=0.01)
    made = optimizer_class(path)(trainable)
    made.load_state_dict(facts.optimizer)
    return made
