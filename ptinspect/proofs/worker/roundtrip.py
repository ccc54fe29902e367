"""The job of `check roundtrip`: run the original model or a converted form of it."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.checkpoint import match_weights, value_at
from ptinspect.proofs.worker.determinism import digest, environment, seed_all
from ptinspect.proofs.worker.reporting import (
    CannotRun,
    one_line,
    raise_if_out_of_memory,
    write_progress,
)
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
    """Run the original model or a converted form of it."""
    options = job["options"]
    _, factory = import_model(options["model"], job["plan"]["user_names"])
    original_file = _load_original(job)
    model = _original_model(original_file, job, factory)
    if job["form"] != "original":
        if factory is not None:
            model = create_model(factory, options["model"])
        with torch.no_grad():  # nothing of the original may be left
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()
        _load_state(model, _converted_state(job))
    return {
        **_measure(model, original_file, job),
        "class": type(model).__qualname__,
        "device": options["device"],
        "environment": environment(options["device"]),
    }


def _load_original(job: dict[str, Any]) -> Any:
    """Return what torch.load makes of the original, with a stub if its class is missing."""
    if not job["stub"]:
        return load_file(job["path"], job["plan"]["weights_only"])
    from ptinspect.stubs.context import stubbed

    with stubbed(job["path"]):  # weights_only: nothing but the stub's classes is accepted
        return torch.load(job["path"], map_location="cpu", weights_only=True)


def _original_model(original_file: Any, job: dict[str, Any], factory: Any) -> Any:
    recorded = value_at(original_file, job["plan"]["model_path"])
    if isinstance(recorded, nn.Module):
        return recorded
    model = create_model(factory, job["options"]["model"])
    _load_state(model, recorded)
    return model


def _load_state(model: Any, state: Any) -> None:
    """Load a state_dict strictly; wrappers' prefixes and dropped names of tied weights are usual.

    Source: `module.` of DataParallel, `_orig_mod.` of torch.compile; safetensors and transformers
    keep one name of tied weights.
    """
    if isinstance(state, dict) and state.keys() != model.state_dict().keys():
        state, _ = match_weights(state, model)
        _restore_ties(model, state)
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


def _restore_ties(model: Any, state: dict[str, Any]) -> None:
    """Add all names of tied tensors of which one is there."""
    names_by_id: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names_by_id.setdefault(id(value), []).append(name)
    for names in names_by_id.values():
        present = next((name for name in names if name in state), None)
        if present is not None:
            for name in names:
                state.setdefault(name, state[present])


def _measure(model: Any, original_file: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Return digests of weights, outputs and gradients, and of the weights after training."""
    options = job["options"]
    device = options["device"]
    model.to(device)
    answer: dict[str, Any] = {"weights": _state_digests(model), "losses": []}
    seed_all(options["seed"])
    batches = Batches(options["data"], model, options["seed"])
    answer["batches_note"] = batches.random_note
    seed_all(options["seed"])
    steps = batches.first(options["steps"])
    criterion = loss_function(options["loss"])
    try:
        model.eval()
        with torch.no_grad():
            answer["eval"] = digest(call_model(model, split_batch(steps[0], device)[0]))
        model.train()
        optimizer = _optimizer(model, original_file, job)
        for number, batch in enumerate(steps):
            inputs, target = split_batch(batch, device)
            optimizer.zero_grad()
            output = call_model(model, inputs)
            loss, answer["loss"] = compute_loss(criterion, output, target)
            loss.backward()
            if not number:
                answer["train"] = digest(output)
                answer["gradients"] = {
                    name: digest(value.grad)
                    for name, value in model.named_parameters()
                    if value.grad is not None
                }
            optimizer.step()
            answer["losses"].append(float(loss.detach()))
            write_progress(number + 1, len(steps), answer["losses"][-1])
    except NotImplementedError as error:
        raise CannotRun(
            f"the model cannot be run: {error}", "give its class as --model FILE.py:CLASS"
        ) from error
    except CannotRun:
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        traceback.print_exc()
        raise CannotRun(f"the model cannot be run: {one_line(error)}") from error
    return {**answer, "trained": _state_digests(model), "optimizer": type(optimizer).__name__}


def _state_digests(model: Any) -> dict[str, str]:
    return {name: digest(value) for name, value in model.state_dict().items()}


def _optimizer(model: Any, original_file: Any, job: dict[str, Any]) -> Any:
    """Return the file's optimizer with its state if it covers the model's parameters, else SGD."""
    recorded, class_path = job["plan"]["optimizer"], job["options"]["optimizer_class"]
    trainable = [value for value in model.parameters() if value.requires_grad]
    if class_path or recorded is None or recorded["class"] is None:
        return optimizer_class(class_path or "SGD")(trainable, lr=0.01)
    state = value_at(original_file, recorded["path"])
    state = state if isinstance(state, dict) else state.state_dict()
    groups = state["param_groups"]
    if len(groups) != 1 or len(groups[0]["params"]) != len(trainable):
        return torch.optim.SGD(trainable, lr=0.01)
    optimizer = optimizer_class(recorded["class"])(trainable)
    optimizer.load_state_dict(state)
    return optimizer
