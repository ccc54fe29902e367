"""What a job does: the uninterrupted training, the resumed one, the round trip."""

from __future__ import annotations

import copy
import math
import os
import traceback
from typing import Any

import torch

from ptinspect.proofs.worker import save_checkpoint
from ptinspect.proofs.worker.devices import device_of, is_cuda, limited, prepare, without_cuda
from ptinspect.proofs.worker.errors import CannotRun, said
from ptinspect.proofs.worker.progress import tell
from ptinspect.proofs.worker.training import READ, Training

INFINITE = float("inf")


def ulps(one: Any, other: Any, unit: Any = None) -> float:
    """The largest distance between two elements at the same place: 0 for equal ones (-0 is 0, NaN
    is NaN), inf where only one is NaN or infinite, and for integers that differ. unit: the dtype in
    whose ULPs to count (that of autocast); by default the tensors' own. Both have one shape and
    dtype, else inf."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return INFINITE
    one, other = plain(one), plain(other)
    if not one.numel():
        return 0.0
    if not one.is_floating_point():
        return 0.0 if torch.equal(one, other) else INFINITE
    info = torch.finfo(unit or one.dtype)
    one, other = one.to(torch.float64), other.to(torch.float64)
    same = (one == other) | (one.isnan() & other.isnan())
    if bool(same.all()):
        return 0.0
    if not bool((same | (one.isfinite() & other.isfinite())).all()):
        return INFINITE
    finite = one.isfinite()  # there the other is finite as well
    one, other = one[finite], other[finite]
    largest = max(float(one.abs().max()), float(other.abs().max()), float(info.smallest_normal))
    _, exponent = math.frexp(largest)
    down = 2.0 ** (1 - exponent)  # the largest is then in [1, 2), where an ULP is eps
    return float((one * down - other * down).abs().max()) / float(info.eps)


def plain(tensor: Any) -> Any:
    """On the CPU, dense, real."""
    made = tensor.detach().cpu()
    if made.layout != torch.strided:
        made = made.to_dense()
    return torch.view_as_real(made.resolve_conj()) if made.is_complex() else made


# ---


def keep_ends(training: Training, begin: int | None, path: str | None) -> None:
    """Writes what there is to compare to `path`, if there is one: the losses from step `begin` on,
    weights and buffers after the last step."""
    if path is None:
        return
    state = {f"weights {name}": v.detach() for name, v in training.model.named_parameters()}
    state |= {f"buffer {name}": v for name, v in training.model.named_buffers()}
    losses = torch.tensor(training.losses[begin or 0 :], dtype=torch.float64)
    torch.save({"losses": losses, "type": training.loss_type, "state": state}, path)


def compared(job: dict[str, Any]) -> dict[str, Any]:
    """Distances in ULPs: of the first loss, of all losses, and per dtype the largest of all tensors
    with its name. unit: the dtype in whose ULPs to count, where the tensors' own is better than
    what they were calculated in."""
    one, other = (torch.load(path, map_location="cpu", weights_only=True) for path in job["ends"])
    unit = getattr(torch, job["unit"]) if job["unit"] else None
    kind = unit or getattr(torch, one["type"])
    tensors: dict[str, list[Any]] = {}
    for name, value in one["state"].items():
        apart = ulps(value, other["state"][name], unit if value.is_floating_point() else None)
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in tensors or apart > tensors[dtype][0]:
            tensors[dtype] = [apart, name]
    return {
        "first": ulps(one["losses"][:1], other["losses"][:1], kind),
        "losses": ulps(one["losses"], other["losses"], kind),
        "type": str(kind).removeprefix("torch."),
        "tensors": tensors,
    }


# ---


def do(job: dict[str, Any], memory: int | None = None) -> dict[str, Any]:
    """The job's answer; `cannot` where it could not be done. memory: its bound, in bytes."""
    from ptinspect.proofs.worker.roundtrip import roundtrip

    kinds = {"whole": whole, "resumed": resumed, "roundtrip": roundtrip, "compared": compared}
    options = job["options"]
    try:
        options["device"] = device_of(options["device"])
        if not is_cuda(options["device"]):
            without_cuda()
            limited(memory)
        noisy = prepare(options["device"], options["tf32"])
        return {**kinds[job["kind"]](job), "noisy": noisy}
    except CannotRun as error:
        return {"cannot": error.message, "hint": error.hint}


def whole(job: dict[str, Any]) -> dict[str, Any]:
    """2N steps without interruption; after N of them, a checkpoint as the file is laid out and a
    snapshot of everything, if there are paths for them."""
    options = job["options"]
    training = Training(job["plan"], options, job["path"], options["seed"], READ)
    added = training.facts.added(training.real)
    start = training.number
    boundary = training.offset
    trace: list[dict[str, Any]] = []
    saved_at: int | None = None
    kept: list[Any] = []
    made: dict[str, Any] = {"trace": trace, "told": training.batches.told, "added": added}
    for epoch, place, batch, last in running(training):
        if saved_at is not None:
            kept.append((epoch, place, batch, last))
        trace.append(record(training, epoch, place))
        tell(len(trace), 2 * (saved_at or options["steps"]), training.losses[-1])
        position = (epoch + 1, 0) if last else (epoch, place + 1)
        if saved_at is None and len(trace) >= options["steps"] and position[1] == boundary:
            saved_at = len(trace)
            training.number = position[0]
            made["saved"] = {"step": saved_at, "state": training.state(), "rng": training.rng()}
            made["position"] = position
            if job.get("save"):
                training.facts.root = training.root
                save_checkpoint.save(training, job["save"], start)
                held = copy.deepcopy(save_checkpoint.snapshot(training))
            training.number = epoch
        if saved_at is not None and len(trace) >= 2 * saved_at:
            break
        if len(trace) > 100 * options["steps"] + 10_000:
            raise CannotRun("the epochs are too long to come to where the checkpoint was taken")
    if job.get("save"):
        save_snapshot({**held, "position": made["position"]}, kept, job["snapshot"])
    keep_ends(training, saved_at, job.get("ends"))
    return {**made, **described(training), "losses": training.losses}


def save_snapshot(held: dict[str, Any], replay: list[Any], path: str) -> None:
    """With the batches that followed, where they can be pickled, in a file of their own: it is
    read once the user's modules are there, of whose classes they may be."""
    try:
        torch.save(replay, f"{path}.batches")
        held["replay"] = f"{path}.batches"
    except Exception:  # noqa: BLE001 - batches of the user's own classes may raise anything
        traceback.print_exc()
    torch.save(held, path)


def running(training: Training) -> Any:
    """The steps; what fails in them is told, not raised."""
    try:
        yield from training.steps()
    except CannotRun:
        raise
    except Exception as error:
        traceback.print_exc()
        message = f"step {training.step_number} fails: {said(error)}"
        raise CannotRun(message) from error


def record(training: Training, epoch: int, place: int) -> dict[str, Any]:
    """One step in the trace."""
    return {
        "epoch": epoch,
        "place": place,
        "batch": training.batch_digest,
        "loss": training.losses[-1].hex(),
        "state": training.state(),
        "rng": training.rng(),
    }


def described(training: Training) -> dict[str, Any]:
    """What the parent tells the user, and decides by."""
    facts, model = training.facts, training.model
    plain = [name for name, value in model.named_parameters() if value.requires_grad]
    dtypes = {
        str(value.dtype)
        for key, value in facts.weights.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {
        "device": training.device,
        "optimizer": type(training.optimizer).__module__.split(".")[0] + ".optim."
        + type(training.optimizer).__name__,
        "loss": training.loss_told,
        "scheduler": type(training.scheduler).__name__ if training.scheduler is not None else None,
        "per_step": training.per_step,
        "scaler": training.scaler is not None,
        "autocast": training.autocast,
        "averages": len(training.ema),
        "rng_saved": sorted(facts.rng),
        "length": training.real,
        "taken": training.taken,
        "dropout": any(getattr(module, "p", 0) and "Dropout" in type(module).__name__
                       for module in model.modules())
        or any(getattr(module, "dropout", 0.0) for module in model.modules()),
        "file_dtypes": sorted(dtypes),
        "missing": [key for key in model.state_dict() if key not in facts.weights],
        "buffers_covered": facts.buffers_covered(model),
        "trained": sorted(facts.trained() or plain),
        "trainable": sorted(plain),
        "file_order": facts.names,
        "mine": training.mine,
        "state_missing": facts.optimizer is None or (not facts.optimizer["state"] and facts.keeps),
        "notes": training.notes,
    }  # fmt: skip


def resumed(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the checkpoint of `whole` in this new process and goes on. An exception is an answer:
    that is how a resume can fail."""
    options = job["options"]
    place = "cpu" if job.get("across") else None
    held = (
        torch.load(job["snapshot"], map_location=place, weights_only=False) if job["mends"] else {}
    )
    made: dict[str, Any] = {"trace": [], "losses": []}
    seed = options["seed"] + 1  # no script of the user's begins with the seed of another run
    try:
        training = Training(job["plan"], options, job["path"], seed, tuple(job["mends"]), held)
    except CannotRun:
        raise
    except Exception as error:  # noqa: BLE001 - the user's code and torch may raise anything
        traceback.print_exc()
        return {**made, "error": said(error), "at": "load"}
    made |= {
        "state": training.state(),
        "rng": training.rng(),
        "position": [training.number, training.offset],
    }
    made["plain"] = sorted(n for n, p in training.model.named_parameters() if p.requires_grad)
    made["mine"] = training.mine
    try:
        for epoch, at, _, _ in training.steps():
            made["trace"].append(record(training, epoch, at))
            tell(len(made["trace"]), job["steps"], training.losses[-1])
            if len(made["trace"]) >= job["steps"]:
                break
    except CannotRun:
        raise
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        made |= {"error": said(error), "at": "step"}
    keep_ends(training, 0, job.get("ends"))
    return {
        **made,
        "losses": training.losses,
        "process": os.getpid(),
        "autocast": training.autocast,
    }
