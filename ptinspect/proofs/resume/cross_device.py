"""Resume on another device: a checkpoint of a CUDA training on the CPU, and the other way round.

The state just after loading must be the same, bit for bit. Losses and weights are compared within
a tolerance, because each device adds numbers in its own order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ptinspect.errors import PtInspectError
from ptinspect.proofs.resume.causes import Cause
from ptinspect.proofs.resume.runs import Answer, TrainingRuns, differing_names

# ULPs at a tensor's largest element, per dtype. 4096 ULPs of float32 are 0.05 %, 16 of bfloat16
# 12 %. Under autocast its dtype counts, with --allow-tf32 (10 bits) that of float16.
TOLERANCE = {"float64": 4096, "float32": 4096, "float16": 16, "bfloat16": 16}
OTHER_DEVICE = "cpu"


@dataclass(frozen=True, slots=True)
class Crossing:
    """A checkpoint that was saved on one device and resumed on another.

    Attributes:
        saved: the device of the saved checkpoint.
        resumed: the device that resumed it.
        loaded: what differs just after loading; None if nothing was loaded.
        reason: why it was not run, or not compared.
        first: distance of the first loss after loading, in ULPs of `type`.
        losses: largest distance of all losses.
        type: dtype of the losses.
        tensors: per dtype the largest distance among weights and buffers, and that tensor's name.
        unit: dtype whose ULPs are counted, if it is not the tensors' own.
    """

    saved: str
    resumed: str
    loaded: list[str] | None
    reason: str | None = None
    first: float = 0.0
    losses: float = 0.0
    type: str = "float32"
    tensors: tuple[tuple[str, float, str], ...] = ()
    unit: str | None = None

    @property
    def same(self) -> bool:
        """True if the loaded bits are the same and the first loss is within the tolerance.

        Later losses may differ for good reasons: Adam makes whole steps out of gradients that are
        nothing but rounding.
        """
        return not self.loaded and self.first <= self.tolerance(self.type)

    def tolerance(self, dtype: str) -> int:
        return TOLERANCE.get(self.unit or dtype, 0)

    @property
    def out_of_tolerance(self) -> list[str]:
        """Descriptions of the losses and tensors that differ by more than the tolerance."""
        label = "the first loss" if self.first > self.tolerance(self.type) else "the losses"
        return [
            f"{name} by {distance:.4g} ULPs of {self.unit or dtype}"
            for dtype, distance, name in [(self.type, self.losses, label), *self.tensors]
            if distance > self.tolerance(dtype)
        ]

    @property
    def label(self) -> str:
        """The two devices, such as `cuda → cpu`."""
        return f"{self.saved} → {self.resumed}"

    def text(self) -> str:
        """Describe the result in one line."""
        if self.loaded is None:
            return f"not compared: {self.reason}"
        if self.loaded:
            more = f", and {len(self.loaded) - 1} more" if len(self.loaded) > 1 else ""
            return f"not the same after loading: {self.loaded[0]}{more}"
        same = "the same bits after loading"
        if self.reason is not None:
            return f"{same}; the rest is not compared: {self.reason}"
        if self.out_of_tolerance:
            return f"{same}; out of tolerance: {'; '.join(self.out_of_tolerance)}"
        tensors = [
            f"{dtype} tensors within {distance:.4g} (tolerance: {self.tolerance(dtype)} of "
            f"{self.unit or dtype})"
            for dtype, distance, _ in self.tensors
            if self.tolerance(dtype)
        ]
        return f"{same}; {', '.join([f'losses within {self.losses:.4g} ULPs', *tensors])}"

    def as_dict(self) -> dict[str, Any]:
        def distance_dict(dtype: str, distance: float, name: str) -> dict[str, Any]:
            tolerance = self.tolerance(dtype)
            return {"name": name, "dtype": dtype, "ulps": distance, "tolerance": tolerance}

        compared = self.loaded is not None and self.reason is None
        return {
            "saved_on": self.saved,
            "resumed_on": self.resumed,
            "verdict": "differs" if not self.same else "same" if compared else "not-compared",
            "loaded": self.loaded,
            "unit": self.unit,
            "first_loss": distance_dict(self.type, self.first, "loss") if compared else None,
            "losses": distance_dict(self.type, self.losses, "losses") if compared else None,
            "tensors": [distance_dict(*tensor) for tensor in self.tensors],
            "out_of_tolerance": self.out_of_tolerance,
            "reason": self.reason,
        }


def should_cross(device: str) -> bool:
    """Return True if the user named CUDA, so that the CPU is another device."""
    return device.partition(":")[0] == "cuda"


def cross_both_ways(
    runs: TrainingRuns, uninterrupted: Answer, causes: list[Cause]
) -> list[Crossing]:
    """Resume on the other device, and the other device's training on this one.

    The fixes of `causes`, which a single device needs already, are applied here too.
    """
    fixes = tuple(dict.fromkeys(["replay", *(fix for cause in causes for fix in cause.fixes)]))
    device = uninterrupted["device"]
    crossing = _cross(runs, uninterrupted, OTHER_DEVICE, fixes)
    try:
        runs.workers.announce(f"training without interruption on {OTHER_DEVICE}")
        other_runs = replace(runs.on_device(OTHER_DEVICE), files=runs.workers.new_path(""))
        other_answer = other_runs.uninterrupted()
    except PtInspectError as error:
        failed = Crossing(OTHER_DEVICE, device, None, f"it cannot be run: {error.message}")
        return [crossing, failed]
    return [crossing, _cross(other_runs, other_answer, device, fixes)]


def _cross(
    runs: TrainingRuns, uninterrupted: Answer, resumed_on: str, fixes: tuple[str, ...]
) -> Crossing:
    saved_on = uninterrupted["device"]
    runs.workers.announce(f"resuming on {resumed_on} what was saved on {saved_on}")
    end_state = runs.workers.new_path(".ends")
    try:
        resumed = runs.on_device(resumed_on).resumed(uninterrupted, fixes, end_state)
    except PtInspectError as error:
        return Crossing(saved_on, resumed_on, None, f"it cannot be run: {error.message}")
    if resumed.get("failed_at") == "load":
        return Crossing(saved_on, resumed_on, [f"loading fails: {resumed['error']}"])
    loaded = differing_names(uninterrupted["saved"]["state"], resumed["state"])
    if "error" in resumed:
        return Crossing(saved_on, resumed_on, loaded, f"a step fails: {resumed['error']}")
    if draws_on_cuda(uninterrupted) or draws_on_cuda(resumed):
        reason = "the model draws random numbers, and each device draws its own"
        return Crossing(saved_on, resumed_on, loaded, reason)
    unit = uninterrupted["autocast"] or ("float16" if runs.options["allow_tf32"] else None)
    job = {
        "kind": "compare", "end_states": [f"{runs.files}.ends", end_state], "unit": unit,
        "options": {"device": "cpu", "allow_tf32": False},
    }  # fmt: skip
    answer = runs.workers.run(job)
    distances = {key: answer[key] for key in ("first", "losses", "type")}
    tensors = tuple((dtype, ulps, name) for dtype, (ulps, name) in answer["tensors"].items())
    return Crossing(saved_on, resumed_on, loaded, tensors=tensors, unit=unit, **distances)


def draws_on_cuda(answer: Answer) -> bool:
    """Return True if the model of a run drew from CUDA's random number generators."""
    before = answer["saved"]["rng"] if "saved" in answer else answer["rng"]
    return bool(before.get("rng cuda") != answer["trace"][-1]["rng"].get("rng cuda"))
