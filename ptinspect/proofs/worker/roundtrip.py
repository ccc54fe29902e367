"""The job of `check roundtrip`: run the original model or a converted form of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ptinspect.proofs.worker.checkpoint import match_weights, recorded_autocast, value_at
from ptinspect.proofs.worker.determinism import digest, environment, prepare_again, seed_all
from ptinspect.proofs.worker.optimizers import Optimizers
from ptinspect.proofs.worker.reporting import (
    CannotRun,
    one_line,
    raise_unless_of_model,
    write_progress,
)
from ptinspect.proofs.worker.training import autocasting
from ptinspect.proofs.worker.user_code import (
    Batches,
    call_model,
    compute_loss,
    create_model,
    import_model,
    load_file,
    loss_function,
    optimizer_class,
    split_batch,
)


def run_roundtrip(job: dict[str, Any]) -> dict[str, Any]:
    options, plan = job["options"], job["plan"]
    module, factory = import_model(options["model"], plan["user_names"])
    if job["stub"]:
        from ptinspect.stubs import stubbed

        with stubbed(job["path"]):  # weights_only: nothing but the stub's classes is accepted
            root = torch.load(job["path"], map_location="cpu", weights_only=True)
    else:
        root = load_file(job["path"], plan["weights_only"])
    recorded = value_at(root, plan["model_path"])
    model = recorded if isinstance(recorded, nn.Module) else create_model(factory, options["model"])
    if job["form"] != "original":
        if factory is not None:
            model = create_model(factory, options["model"])
        with torch.no_grad():  # nothing of the original may be left
            for tensor in (*model.parameters(), *model.buffers()):
                if not is_lazy(tensor):
                    tensor.zero_()
        _load_state(model, _converted_state(job))
    elif model is not recorded:
        _load_state(model, recorded)
    return {
        **_measure(model, root, job, recorded_autocast(module, root)),
        "class": type(model).__qualname__,
        "device": options["device"],
        "environment": environment(options["device"]),
    }


def _load_state(model: Any, state: Any) -> None:
    """Load a state_dict strictly; wrappers' prefixes and dropped names of tied weights are usual.

    Source: `module.` of DataParallel, `_orig_mod.` of torch.compile; safetensors and transformers
    keep one name of tied weights.
    """
    if isinstance(state, dict) and state.keys() != model.state_dict().keys():
        state, _ = match_weights(state, model)
        names_by_id: dict[int, list[str]] = {}
        for name, value in model.state_dict(keep_vars=True).items():
            names_by_id.setdefault(id(value), []).append(name)
        for names in names_by_id.values():
            present = [state[name] for name in names if name in state]
            state |= {name: present[0] for name in names if present and name not in state}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CannotRun(
            f"the weights do not fit the model: {one_line(error)}",
            "give the class that was saved as --model FILE.py:CLASS",
        ) from error


def _converted_state(job: dict[str, Any]) -> Any:
    if job["form"] == "safetensors":
        from safetensors.torch import load_file as load_safetensors

        return load_safetensors(job["converted"])
    # A checkpoint keeps other entries, such as numpy's RNG state, which weights_only may refuse.
    weights_only = job["form"] != "checkpoint" or job["stub"] or job["plan"]["weights_only"]
    state = load_file(job["converted"], weights_only)
    if job["form"] != "checkpoint":
        return state
    if "model_state_dict" in state:
        return state["model_state_dict"]
    return value_at(state, job["plan"]["model_path"])


def _measure(model: Any, root: Any, job: dict[str, Any], autocast: str | None) -> dict[str, Any]:
    """Return digests of weights, outputs and gradients, and of the weights after training."""
    options = job["options"]
    device = options["device"]
    model.to(device)
    answer: dict[str, Any] = {"weights": _state_digests(model), "losses": []}
    seed_all(options["seed"])
    batches = Batches(options["data"], model, options["seed"])
    answer["notes"] = [batches.random_note] if batches.random_note else []
    answer["notes"] += prepare_again(options)
    seed_all(options["seed"])
    steps = batches.first(options["steps"])
    criterion = loss_function(options["loss"])
    try:
        model.eval()
        with torch.no_grad(), autocasting(device, autocast):
            answer["eval"] = digest(call_model(model, split_batch(steps[0], device)[0]))
        model.train()
        optimizer = _optimizer(model, root, job)

        def closure() -> Any:
            optimizer.zero_grad()
            inputs, target = split_batch(steps[len(answer["losses"])], device)
            with autocasting(device, autocast):
                output = call_model(model, inputs)
                loss, answer["loss"] = compute_loss(criterion, output, target)
            loss.backward()
            if "gradients" not in answer:
                gradients = {name: value.grad for name, value in model.named_parameters()}
                answer.update(train=digest(output), gradients=digest(gradients))
            return loss

        for number in range(len(steps)):
            loss = Optimizers([optimizer]).step(closure, None)
            answer["losses"].append(float(loss.detach()))
            write_progress(number + 1, len(steps), answer["losses"][-1])
    except NotImplementedError as error:
        raise CannotRun(
            f"the model cannot be run: {error}", "give its class as --model FILE.py:CLASS"
        ) from error
    except Exception as error:  # the user's model, and torch, may raise anything
        raise_unless_of_model(error)
        raise CannotRun(f"the model cannot be run: {one_line(error)}") from error
    return {**answer, "trained": _state_digests(model), "optimizer": type(optimizer).__name__}


def _state_digests(model: Any) -> dict[str, str]:
    return {name: digest(value) for name, value in model.state_dict().items()}


def _optimizer(model: Any, root: Any, job: dict[str, Any]) -> Any:
    """Return the file's optimizer with its state if it covers the model's parameters, else SGD."""
    recorded, class_path = job["plan"]["optimizers"], job["options"]["optimizer_class"]
    trainable = [value for value in model.parameters() if value.requires_grad]
    if class_path or len(recorded) != 1 or recorded[0]["class"] is None:
        return optimizer_class(class_path or "SGD")(trainable, lr=0.01)
    state = value_at(root, recorded[0]["path"])
    state = state if isinstance(state, dict) else state.state_dict()
    groups = state["param_groups"]
    if len(groups) != 1 or len(groups[0]["params"]) != len(trainable):
        return torch.optim.SGD(trainable, lr=0.01)
    optimizer = optimizer_class(recorded[0]["class"])(trainable)
    optimizer.load_state_dict(state)
    return optimizer
