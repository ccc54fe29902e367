"""The jobs: run the training uninterrupted or resumed, compare end states, run a round trip."""

from __future__ import annotations

import copy
import math
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ptinspect.proofs.worker.determinism import (
    environment,
    hide_cuda,
    limit_memory,
    plain_tensor,
    resolve_device,
    use_deterministic_algorithms,
)
from ptinspect.proofs.worker.loading import EVIDENCE, load_training
from ptinspect.proofs.worker.reporting import (
    CannotRun,
    one_line,
    raise_if_out_of_memory,
    write_progress,
)
from ptinspect.proofs.worker.roundtrip import run_roundtrip
from ptinspect.proofs.worker.save_checkpoint import save_checkpoint, snapshot
from ptinspect.proofs.worker.training import Step, Training

Job = dict[str, Any]
Answer = dict[str, Any]


def run_job(job: Job, memory: int | None = None) -> Answer:
    """Run a job and return its answer; the key `cannot` says why it could not be done."""
    kinds: dict[str, Callable[[Job], Answer]] = {
        "uninterrupted": run_uninterrupted,
        "resumed": run_resumed,
        "roundtrip": run_roundtrip,
        "compare": compare_end_states,
    }
    options = job["options"]
    try:
        options["device"] = resolve_device(options["device"])
        if not options["device"].startswith("cuda"):
            hide_cuda()
            limit_memory(memory)
        operations = use_deterministic_algorithms(options["device"], options["allow_tf32"])
        return {**kinds[job["kind"]](job), "nondeterministic": operations}
    except CannotRun as error:
        return {"cannot": error.message, "hint": error.hint}


# --- Training ---------------------------------------------------------------------------------


def run_uninterrupted(job: Job) -> Answer:
    """Train 2N steps without interruption.

    After N of them, at the end of an epoch, write the checkpoint and a snapshot of all state if
    the job has paths for them.
    """
    options = job["options"]
    steps, checkpoint_path = options["steps"], job.get("checkpoint")
    training = load_training(job["plan"], options, job["path"], options["seed"], EVIDENCE)
    epoch_offset = training.checkpoint.counters.epoch_offset(training.batches.real_length)
    first_epoch, first_index = training.epoch, training.index
    trace: list[dict[str, Any]] = []
    saved: dict[str, Any] | None = None
    position: tuple[int, int] = (0, 0)
    parts: dict[str, Any] = {}
    later_steps: list[Step] = []
    for step in _run_steps(training):
        if saved is not None:
            later_steps.append(step)
        trace.append(_record(training, step))
        write_progress(
            len(trace), 2 * (saved["step"] if saved is not None else steps), training.losses[-1]
        )
        if saved is None and len(trace) >= steps:
            position = (step.epoch + 1, 0) if step.last else (step.epoch, step.number + 1)
            if position[1] == first_index:
                training.epoch = position[0]
                saved = {
                    "step": len(trace),
                    "state": training.state_digests(),
                    "rng": training.rng_digests(),
                }
                if checkpoint_path:
                    save_checkpoint(training, checkpoint_path, first_epoch)
                    parts = copy.deepcopy(snapshot(training))
                training.epoch = step.epoch
        if saved is not None and len(trace) >= 2 * saved["step"]:
            break
        if len(trace) > 100 * steps + 10_000:
            raise CannotRun("the epochs are too long to reach the batch of the checkpoint")
    if checkpoint_path:
        _save_snapshot({**parts, "position": position}, later_steps, job["snapshot"])
    if job.get("end_state"):
        _save_end_state(training, saved["step"] if saved is not None else 0, job["end_state"])
    return {
        "trace": trace,
        "saved": saved,
        "position": position,
        "epoch_offset": epoch_offset,
        "losses": training.losses,
        **_describe(training),
    }


def _run_steps(training: Training) -> Iterator[Step]:
    """Run a training, and raise what fails in it as CannotRun."""
    try:
        yield from training.run()
    except CannotRun:
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        traceback.print_exc()
        message = f"step {training.step_count} fails: {one_line(error)}"
        raise CannotRun(message) from error


def _save_snapshot(parts: dict[str, Any], later_steps: list[Step], path: str) -> None:
    """Write a snapshot, and the batches that followed if they can be pickled.

    The batches are in a file of their own, because they may be of the user's classes, which can
    only be loaded after the user's modules.
    """
    try:
        torch.save([tuple(step) for step in later_steps], f"{path}.batches")
        parts["replay"] = f"{path}.batches"
    except Exception:  # noqa: BLE001 - batches of the user's own classes may raise anything
        traceback.print_exc()
    torch.save(parts, path)


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
    except CannotRun:
        raise
    except Exception as error:  # noqa: BLE001 - the user's code and torch may raise anything
        raise_if_out_of_memory(error)
        traceback.print_exc()
        return {**answer, "error": one_line(error), "failed_at": "load"}
    answer |= {
        "state": training.state_digests(),
        "rng": training.rng_digests(),
        "position": (training.epoch, training.index),
        "trainable": sorted(_trainable(training.model)),
        "parameter_order": training.optimizer_order(),
        "autocast": training.autocast,
    }
    try:
        for step in training.run():
            answer["trace"].append(_record(training, step))
            write_progress(len(answer["trace"]), job["steps"], training.losses[-1])
            if len(answer["trace"]) >= job["steps"]:
                break
    except CannotRun:
        raise
    except Exception as error:  # noqa: BLE001 - the same
        raise_if_out_of_memory(error)
        traceback.print_exc()
        answer |= {"error": one_line(error), "failed_at": "step"}
    if end_state:
        _save_end_state(training, 0, end_state)
    return {**answer, "losses": training.losses}


def _record(training: Training, step: Step) -> dict[str, Any]:
    return {
        "epoch": step.epoch,
        "number": step.number,
        "batch": training.batch_digest,
        "loss": training.losses[-1].hex(),
        "state": training.state_digests(),
        "rng": training.rng_digests(),
    }


def _trainable(model: Any) -> list[str]:
    return [name for name, value in model.named_parameters() if value.requires_grad]


def _describe(training: Training) -> Answer:
    """Describe a training, for the report and the search for causes."""
    checkpoint, model, batches = training.checkpoint, training.model, training.batches
    optimizer, scheduler = type(training.optimizer), training.scheduler
    dtypes = {
        str(value.dtype)
        for value in checkpoint.weights.values()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    modules = list(model.modules())
    dropout = any("Dropout" in type(m).__name__ and getattr(m, "p", 0) for m in modules)
    buffers = {name for name, _ in model.named_buffers()}
    no_state = checkpoint.optimizer is None or not checkpoint.optimizer["state"]
    return {
        "device": training.device,
        "environment": environment(training.device),
        "optimizer": f"{optimizer.__module__.split('.')[0]}.optim.{optimizer.__name__}",
        "loss": training.loss_name,
        "scheduler": type(scheduler).__name__ if scheduler is not None else None,
        "per_step": training.per_step,
        "scaler": training.scaler is not None,
        "autocast": training.autocast,
        "averages": len(training.averages),
        "rng_saved": sorted(checkpoint.rng_paths),
        "length": batches.real_length,
        "batches_used": batches.used,
        "uses_epoch": batches.uses_epoch,
        "batches_note": batches.random_note,
        "dropout": dropout or any(getattr(module, "dropout", 0.0) for module in modules),
        "file_dtypes": sorted(dtypes),
        "buffers_covered": [name for name in checkpoint.names if name in buffers],
        "trained": sorted(checkpoint.trained() or _trainable(model)),
        "file_order": checkpoint.names,
        "parameter_order": training.optimizer_order(),
        "state_missing": no_state and checkpoint.keeps_state,
        "scheduler_missing": scheduler is None and checkpoint.was_scheduled,
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
