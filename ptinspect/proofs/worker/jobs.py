"""The jobs: run the training uninterrupted or resumed, compare end states, run a round trip."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.determinism import (
    environment,
    limit_memory,
    plain_tensor,
    prepare,
    resolve_device,
)
from ptinspect.proofs.worker.loading import EVIDENCE, load_training
from ptinspect.proofs.worker.reporting import (
    CannotRun,
    NeedsWarnOnly,
    one_line,
    raise_unless_of_model,
    write_progress,
)
from ptinspect.proofs.worker.roundtrip import run_roundtrip
from ptinspect.proofs.worker.save_checkpoint import save_checkpoint, snapshot
from ptinspect.proofs.worker.training import Step, Training
from ptinspect.proofs.worker.user_code import create_model, import_model, load_file

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
        options["device"] = resolve_device(options["device"])
        if not options["device"].startswith("cuda"):
            # The user's code and CUDA generator states in the file then fit the device, and CUDA
            # is not initialized under `limit_memory`.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
            limit_memory()
        elif not options["allow_tf32"]:
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # read by CUDA's libraries when they start
        operations = prepare(options)
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
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file as load_safetensors

            root[part] = load_safetensors(path)
        else:
            root[part] = load_file(path, job["weights_only"][part])
    reference = job["options"]["model"]
    if reference is not None:  # safetensors sorts the names, and the optimizer counts in order
        names = create_model(import_model(reference, [])[1], reference).state_dict()
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
    trace: list[dict[str, Any]] = []
    saved: dict[str, Any] = {}
    position: tuple[int, int] = (0, 0)
    replay = f"{job.get('snapshot')}.batches"
    later_steps: list[Step] = []
    for step in _run_steps(training):
        trace.append(_record(training, step))
        write_progress(len(trace), 2 * saved.get("step", options["steps"]), training.losses[-1])
        if saved:
            later_steps.append(step)
            if len(trace) >= 2 * saved["step"]:
                break
            continue
        position = (step.epoch + 1, 0) if step.last else (step.epoch, step.number + 1)
        if len(trace) >= options["steps"] and position[1] == first_index:
            training.epoch = position[0]
            saved = {"step": len(trace), "state": training.state_digests()}
            saved["rng"] = training.rng_digests()
            if checkpoint_path:
                save_checkpoint(training, checkpoint_path, first_epoch)
                parts = {**snapshot(training), "position": position, "replay": replay}
                torch.save(parts, job["snapshot"])
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
    batches, counters = training.batches, training.checkpoint.counters
    return {
        "trace": trace,
        "saved": saved,
        "position": position,
        "epoch_offset": counters.epoch_offset(batches.real_length),
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
    try:
        fixes = tuple(job["fixes"])
        training = load_training(job["plan"], options, job["path"], seed, fixes, parts)
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
        for step in training.run():
            answer["trace"].append(_record(training, step))
            write_progress(len(answer["trace"]), job["steps"], training.losses[-1])
            if len(answer["trace"]) >= job["steps"]:
                break
    except Exception as error:  # noqa: BLE001 - the same
        raise_unless_of_model(error)
        answer |= {"error": one_line(error), "failed_at": "step"}
    if end_state:
        _save_end_state(training, 0, end_state)
    return {**answer, "losses": training.losses}


def _record(training: Training, step: Step) -> dict[str, Any]:
    return {
        "epoch": step.epoch,
        "number": step.number,
        "batch": training.batch_digest,
        "content": training.batch_content,
        "loss": training.losses[-1].hex(),
        "state": training.state_digests(),
        "rng": training.rng_digests(),
    }


def _optimizer_name(optimizer: Any) -> str:
    name = type(optimizer).__name__
    module = "torch.optim" if hasattr(torch.optim, name) else type(optimizer).__module__
    return f"{module}.{name}"


def _describe(training: Training) -> Answer:
    checkpoint, model, batches = training.checkpoint, training.model, training.batches
    schedulers = training.scheduler.members if training.scheduler is not None else []
    dtypes = {
        str(value.dtype)
        for value in checkpoint.weights.values()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    modules = list(model.modules())
    dropout = any("Dropout" in type(m).__name__ and getattr(m, "p", 0) for m in modules)
    return {
        "device": training.device,
        "environment": environment(training.device),
        "optimizer": " + ".join(map(_optimizer_name, training.optimizer.members)),
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
        "undecided": checkpoint.counters.contradictions(batches.real_length),
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
        distance = ulps(value, second["state"][name], unit if value.is_floating_point() else None)
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in tensors or distance > tensors[dtype][0]:
            tensors[dtype] = [distance, name]
    return {
        "first": ulps(first["losses"][:1], second["losses"][:1], loss_unit),
        "losses": ulps(first["losses"], second["losses"], loss_unit),
        "type": str(loss_unit).removeprefix("torch."),
        "tensors": tensors,
    }


def ulps(first: Any, second: Any, unit: Any = None) -> float:
    """Return the largest distance between elements at the same index, in ULPs.

    It is 0 for equal elements (-0 equals 0, NaN equals NaN), and inf if only one is NaN or
    infinite, for integers that differ, and for tensors of different shape or dtype.
    """
    if first.shape != second.shape or first.dtype != second.dtype:
        return math.inf
    first, second = plain_tensor(first), plain_tensor(second)
    if not first.numel():
        return 0.0
    if not first.is_floating_point():
        return 0.0 if torch.equal(first, second) else math.inf
    info = torch.finfo(unit or first.dtype)
    first, second = first.to(torch.float64), second.to(torch.float64)
    same = (first == second) | (first.isnan() & second.isnan())
    if bool(same.all()):
        return 0.0
    if not bool((same | (first.isfinite() & second.isfinite())).all()):
        return math.inf
    finite = first.isfinite()  # the same elements of `second` are finite too
    first, second = first[finite], second[finite]
    largest = max(float(first.abs().max()), float(second.abs().max()), float(info.smallest_normal))
    _, exponent = math.frexp(largest)
    scale = 2.0 ** (1 - exponent)  # the largest element is then in [1, 2), where an ULP is eps
    return float((first * scale - second * scale).abs().max()) / float(info.eps)
