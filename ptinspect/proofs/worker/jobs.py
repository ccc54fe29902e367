"""The jobs: train uninterrupted or resumed, compare end states, run a form of a model."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ptinspect.proofs.worker import (
    CannotRun,
    NeedsWarnOnly,
    determinism,
    one_line,
    raise_unless_of_model,
    recorder,
    user_code,
    write_progress,
)
from ptinspect.proofs.worker.checkpoint import match_weights, recorded_autocast, value_at
from ptinspect.proofs.worker.determinism import digest
from ptinspect.proofs.worker.loading import EVIDENCE, load_training, save_checkpoint, snapshot
from ptinspect.proofs.worker.training import Optimizers, Step, Training, autocasting

Job = dict[str, Any]
Answer = dict[str, Any]


def run_job(job: Job) -> Answer:
    """Run a job and return its answer; the key `cannot` says why it could not be done."""
    kinds: dict[str, Callable[[Job], Answer]] = {
        "uninterrupted": run_uninterrupted,
        "resumed": run_resumed,
        "roundtrip": run_roundtrip,
        "compare": compare_end_states,
        "assemble": assemble,
    }
    options = job["options"]
    try:
        options["device"] = determinism.resolve_device(options["device"])
        if not options["device"].startswith("cuda"):
            # The user's code and CUDA generator states in the file then fit the device, and CUDA
            # is not initialized under `limit_memory`.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
            determinism.limit_memory()
        elif not options["allow_tf32"]:
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # read by CUDA's libraries when they start
        operations = determinism.prepare(options)
        answer = kinds[job["kind"]](job)
        return {
            **answer,
            "nondeterministic": operations,
            "warn_only": options.get("warn_only", False),
        }
    except CannotRun as error:
        if isinstance(error, NeedsWarnOnly) and not options.get("warn_only"):
            return {"retry": {"warn_only": True}}
        return {"cannot": error.message, "hint": error.hint}


def assemble(job: Job) -> Answer:
    """Write one checkpoint of a folder's files."""
    root = dict(job["values"])
    for part, path in job["files"].items():
        root[part] = user_code.load_file(path, job["weights_only"][part])
    reference = job["options"]["model"]
    if reference is not None:  # safetensors sorts the names, and the optimizer counts in order
        _, factory = user_code.import_model(reference, [])
        names = user_code.create_model(factory, reference).state_dict()
        in_order = [name for name in names if name in root["model"]]
        root["model"] = {name: root["model"][name] for name in (*in_order, *root["model"])}
    if isinstance(root.get("rng"), dict):
        root["rng"].pop("step", None)  # accelerate's own, of gradient accumulation
    torch.save(root, job["target"])
    return {}


# --- Training ---------------------------------------------------------------------------------


def run_uninterrupted(job: Job) -> Answer:
    """Train 2N steps without interruption.

    After N of them, at the end of an epoch, write the checkpoint and a snapshot of all state if
    the job has paths for them.
    """
    options, checkpoint_path = job["options"], job.get("checkpoint")
    training = load_training(job["plan"], options, job["path"], options["seed"], EVIDENCE)
    first_epoch, first_index = training.epoch, training.index
    trace, saved = training.trace, dict[str, Any]()
    position: tuple[int, int] = (0, 0)
    replay = f"{job.get('snapshot')}.batches"
    later_steps: list[Step] = []
    for step in _run_steps(training):
        write_progress(len(trace), 2 * saved.get("step", options["steps"]), training.losses[-1])
        if saved:
            later_steps.append(step)
            if len(trace) >= 2 * saved["step"]:
                break
            continue
        position = (step.epoch + 1, 0) if step.last else (step.epoch, step.number + 1)
        if len(trace) >= options["steps"] and position[1] == first_index:
            training.epoch = position[0]
            saved = {"step": len(trace), "state": trace[-1]["state"], "rng": trace[-1]["rng"]}
            if checkpoint_path:
                save_checkpoint(training, checkpoint_path, first_epoch)
                torch.save(snapshot(training, position, replay), job["snapshot"])
            training.epoch = step.epoch
        elif len(trace) > 100 * options["steps"] + 10_000:
            raise CannotRun("the epochs are too long to reach the batch of the checkpoint")
    if checkpoint_path:
        try:  # in a file of their own: batches may be of classes that the user's modules define
            torch.save([tuple(step) for step in later_steps], f"{replay}.part")
            os.replace(f"{replay}.part", replay)
        except Exception:  # noqa: BLE001 - pickling the user's own classes may raise anything
            traceback.print_exc()
    if job.get("end_state"):
        _save_end_state(training, saved["step"], job["end_state"])
    return {
        "trace": trace,
        "saved": saved,
        "position": position,
        "epoch_offset": training.checkpoint.counters.epoch_offset(),
        "losses": training.losses,
        **_describe(training),
    }


def _run_steps(training: Training) -> Iterator[Step]:
    """Run a training, and raise what fails in it as CannotRun."""
    try:
        yield from training.run()
    except Exception as error:  # the user's model and data, and torch, may raise anything
        raise_unless_of_model(error)
        message = f"step {training.step_count} fails: {one_line(error)}"
        raise CannotRun(message) from error


def run_resumed(job: Job) -> Answer:
    """Load the checkpoint of `run_uninterrupted` in this new process and go on.

    An exception is a part of the answer, because it is one way in which a resume fails.
    """
    options, end_state = job["options"], job["end_state"]
    parts = {}
    if job["fixes"]:
        map_location = "cpu" if end_state else None  # the snapshot may be of another device
        parts = torch.load(job["snapshot"], map_location=map_location, weights_only=False)
    answer: Answer = {"trace": [], "losses": []}
    seed = options["seed"] + 1  # a script does not start with the seed of another run
    fixes = {name: parts.get(name) for name in job["fixes"]}
    try:
        training = load_training(job["plan"], options, job["path"], seed, fixes)
    except Exception as error:  # noqa: BLE001 - the user's code and torch may raise anything
        raise_unless_of_model(error)
        return {**answer, "error": one_line(error), "failed_at": "load"}
    answer |= {
        "state": training.state_digests(),
        "rng": training.rng_digests(),
        "position": (training.epoch, training.index),
        "trainable": sorted(training.trainable()),
        "parameter_order": training.optimizer.names(training.model),
        "autocast": training.autocast,
    }
    try:
        for _ in training.run():
            write_progress(len(training.trace), job["steps"], training.losses[-1])
            if len(training.trace) >= job["steps"]:
                break
    except Exception as error:  # noqa: BLE001 - the same
        raise_unless_of_model(error)
        answer |= {"error": one_line(error), "failed_at": "step"}
    if end_state:
        _save_end_state(training, 0, end_state)
    return {**answer, "trace": training.trace, "losses": training.losses}


def _describe(training: Training) -> Answer:
    checkpoint, model, batches = training.checkpoint, training.model, training.batches
    schedulers = training.scheduler.members
    dtypes = {
        str(value.dtype)
        for value in checkpoint.weights.values()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    modules = list(model.modules())
    dropout = any("Dropout" in type(m).__name__ and getattr(m, "p", 0) for m in modules)
    return {
        "device": training.device,
        "environment": recorder.environment(torch, training.device),
        "optimizer": " + ".join(
            f"{'torch.optim' if hasattr(torch.optim, cls.__name__) else cls.__module__}"
            f".{cls.__name__}"
            for cls in map(type, training.optimizer.members)
        ),
        "loss": training.loss_name,
        "scheduler": " + ".join(type(member).__name__ for member in schedulers) or None,
        "per_step": training.per_step,
        "scaler": training.scaler is not None,
        "autocast": training.autocast,
        "averages": len(training.averages),
        "rng_saved": sorted({kind.rstrip("0123456789") for kind in checkpoint.rng_paths}),
        "length": batches.real_length,
        "batches_used": batches.used,
        "uses_epoch": batches.uses_epoch,
        "batches_note": batches.random_note,
        "rnn_dropout": any(
            isinstance(m, nn.RNNBase) and m.dropout and m.num_layers > 1 for m in modules
        ),
        "dropout": dropout or any(getattr(module, "dropout", 0.0) for module in modules),
        "file_dtypes": sorted(dtypes),
        "buffers_covered": [
            name for name in checkpoint.names if name in dict(model.named_buffers())
        ],
        "trained": sorted(checkpoint.trained() or training.trainable()),
        "file_order": checkpoint.names,
        "parameter_order": training.optimizer.names(training.model),
        "state_missing": checkpoint.state_missing,
        "scheduler_missing": not schedulers and checkpoint.was_scheduled,
        "wrong": checkpoint.tied_conflicts(model),
        "undecided": checkpoint.counters.contradictions(),
        "notes": training.notes + batches.notes,
    }


# --- Distances between devices ----------------------------------------------------------------


def _save_end_state(training: Training, first_step: int, path: str) -> None:
    """Write what `compare_end_states` compares: losses from a step on, weights and buffers."""
    model = training.model
    state = {f"weights {name}": value.detach() for name, value in model.named_parameters()}
    state |= {f"buffer {name}": value for name, value in model.named_buffers()}
    losses = torch.tensor(training.losses[first_step:], dtype=torch.float64)
    torch.save({"losses": losses, "dtype": training.loss_dtype, "state": state}, path)


def compare_end_states(job: Job) -> Answer:
    """Return the distances between two end states, in ULPs.

    They are of the first loss, of all losses, and per dtype the largest of all tensors with that
    tensor's name. The job's `unit` is the dtype whose ULPs are counted, if the tensors' own is
    more precise than what they were calculated in.
    """
    first, second = (
        torch.load(path, map_location="cpu", weights_only=True) for path in job["end_states"]
    )
    unit = getattr(torch, job["unit"]) if job["unit"] else None
    loss_unit = unit or getattr(torch, first["dtype"])
    tensors: dict[str, list[Any]] = {}
    for name, value in first["state"].items():
        value_unit = unit if value.is_floating_point() else None
        distance = determinism.ulps(value, second["state"][name], value_unit)
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in tensors or distance > tensors[dtype][0]:
            tensors[dtype] = [distance, name]
    return {
        "first": determinism.ulps(first["losses"][:1], second["losses"][:1], loss_unit),
        "losses": determinism.ulps(first["losses"], second["losses"], loss_unit),
        "type": str(loss_unit).removeprefix("torch."),
        "tensors": tensors,
    }


# --- Round trips ------------------------------------------------------------------------------


def run_roundtrip(job: dict[str, Any]) -> dict[str, Any]:
    options, plan = job["options"], job["plan"]
    module, factory = user_code.import_model(options["model"], plan["user_names"])
    if job["stub"]:
        from ptinspect.stubs import stubbed

        with stubbed(job["path"]):  # weights_only: nothing but the stub's classes is accepted
            root = torch.load(job["path"], map_location="cpu", weights_only=True)
    else:
        root = user_code.load_file(job["path"], plan["weights_only"])
    recorded = value_at(root, plan["model_path"])
    model = recorded
    if not isinstance(recorded, nn.Module) or (job["form"] != "original" and factory is not None):
        model = user_code.create_model(factory, options["model"])
    if job["form"] != "original":
        with torch.no_grad():  # nothing of the original may be left
            for tensor in (*model.parameters(), *model.buffers()):
                if not is_lazy(tensor):
                    tensor.zero_()
        # A checkpoint keeps other entries: weights_only may refuse numpy's RNG state.
        is_checkpoint = job["form"] == "checkpoint"
        weights_only = not is_checkpoint or job["stub"] or plan["weights_only"]
        state = user_code.load_file(job["converted"], weights_only)
        if is_checkpoint and "model_state_dict" in state:
            state = state["model_state_dict"]
        elif is_checkpoint:
            state = value_at(state, plan["model_path"])
            state = state.state_dict() if isinstance(state, nn.Module) else state
        _load_state(model, state)
    elif model is not recorded:
        _load_state(model, recorded)
    return {
        **_measure(model, root, job, recorded_autocast(module, root)),
        "class": type(model).__qualname__,
        "device": options["device"],
        "environment": recorder.environment(torch, options["device"]),
    }


def _load_state(model: Any, state: Any) -> None:
    """Load a state_dict strictly, apart from a prefix and from names of tied weights."""
    if isinstance(state, dict) and state.keys() != model.state_dict().keys():
        state, _ = match_weights(state, model)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CannotRun(
            f"the weights do not fit the model: {one_line(error)}",
            "give the class that was saved as --model FILE.py:CLASS",
        ) from error


def _measure(model: Any, root: Any, job: dict[str, Any], autocast: str | None) -> dict[str, Any]:
    """Return digests of weights, outputs and gradients, and of the weights after training."""
    options = job["options"]
    device = options["device"]
    model.to(device)
    answer: dict[str, Any] = {"weights": _state_digests(model), "losses": []}
    determinism.seed_all(options["seed"])
    batches = user_code.Batches(options["data"], model, options["seed"])
    answer["notes"] = [batches.random_note] if batches.random_note else []
    answer["notes"] += determinism.prepare_again(options)
    determinism.seed_all(options["seed"])
    steps = batches.first(options["steps"])
    criterion = user_code.loss_function(options["loss"])
    try:
        model.eval()
        with torch.no_grad(), autocasting(device, autocast):
            inputs, _ = user_code.split_batch(steps[0], device)
            answer["eval"] = digest(user_code.call_model(model, inputs))
        model.train()
        optimizer = _optimizer(model, root, job)

        def closure() -> Any:
            optimizer.zero_grad()
            inputs, target = user_code.split_batch(steps[len(answer["losses"])], device)
            with autocasting(device, autocast):
                output = user_code.call_model(model, inputs)
                loss, answer["loss"] = user_code.compute_loss(criterion, output, target)
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
        return user_code.optimizer_class(class_path or "SGD")(trainable, lr=0.01)
    state = value_at(root, recorded[0]["path"])
    state = state if isinstance(state, dict) else state.state_dict()
    groups = state["param_groups"]
    if len(groups) != 1 or len(groups[0]["params"]) != len(trainable):
        return torch.optim.SGD(trainable, lr=0.01)
    optimizer = user_code.optimizer_class(recorded[0]["class"])(trainable)
    optimizer.load_state_dict(state)
    return optimizer
