"""From one device to another: a checkpoint of a training on CUDA is resumed on the CPU, and the
other way round, and compared with the training that was not interrupted.

The bits that are loaded are the same. What is calculated from them is not: sums are taken in
another order. So the state just after loading is compared bit for bit, losses and weights within a
tolerance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.errors import PtInspectError
from ptinspect.proofs.resume.causes import Answer, Cause

if TYPE_CHECKING:
    from ptinspect.proofs.resume.proof import Proof

TOLERANCE = {"float64": 4096, "float32": 4096, "float16": 16, "bfloat16": 16}
"""ULPs at a tensor's largest element, per dtype: 4096 of float32 are 0.05 %, 16 of bfloat16 12 %.
Under autocast the type that it casts to counts, with --allow-tf32 (10 bits) float16."""

OTHER = "cpu"


class Crossing(NamedTuple):
    """saved, resumed: the devices. loaded: what is not the same just after loading; None where
    nothing was loaded. why: why nothing was calculated, or compared. first, losses: the largest
    distance of the first loss after it, and of all of them, in ULPs of `type`. tensors: per dtype
    the largest distance among weights and buffers, and whose it is. unit: the type in whose ULPs
    all of that is, where it is not their own."""

    saved: str
    resumed: str
    loaded: list[str] | None
    why: str | None = None
    first: float = 0.0
    losses: float = 0.0
    type: str = "float32"
    tensors: tuple[tuple[str, float, str], ...] = ()
    unit: str | None = None

    @property
    def same(self) -> bool:
        """Whether all was restored: the same bits, and a first loss within the tolerance. What
        comes after it may go apart for good reasons: Adam makes whole steps out of gradients that
        are nothing but rounding."""
        return not self.loaded and self.first <= self.allowed(self.type)

    def allowed(self, dtype: str) -> int:
        """The tolerance for numbers of a type."""
        return TOLERANCE.get(self.unit or dtype, 0)

    @property
    def beyond(self) -> list[str]:
        """What goes apart by more than the tolerance, in words."""
        what = "the first loss" if self.first > self.allowed(self.type) else "the losses"
        held = [(self.type, self.losses, what), *self.tensors]
        return [
            f"{name} by {apart:.4g} ULPs of {self.unit or dtype}"
            for dtype, apart, name in held
            if apart > self.allowed(dtype)
        ]

    @property
    def label(self) -> str:
        """From where to where."""
        return f"{self.saved} → {self.resumed}"

    def text(self) -> str:
        """For people."""
        if self.loaded is None:
            return f"not compared: {self.why}"
        if self.loaded:
            more = f", and {len(self.loaded) - 1} more" if len(self.loaded) > 1 else ""
            return f"not the same after loading: {self.loaded[0]}{more}"
        if self.why is not None:
            return f"the same bits after loading; the rest is not compared: {self.why}"
        if self.beyond:
            return f"the same bits after loading; beyond the tolerance {'; '.join(self.beyond)}"
        held = [
            f"{dtype} tensors within {apart:.4g} (tolerance: {self.allowed(dtype)} of "
            f"{self.unit or dtype})"
            for dtype, apart, _ in self.tensors
            if self.allowed(dtype)
        ]
        losses = f"losses within {self.losses:.4g} ULPs"
        return f"the same bits after loading; {', '.join([losses, *held])}"

    def json(self) -> dict[str, Any]:
        """For programs."""
        compared = self.loaded is not None and self.why is None
        return {
            "saved_on": self.saved,
            "resumed_on": self.resumed,
            "verdict": "differs" if not self.same else "same" if compared else "not-compared",
            "loaded": self.loaded,
            "unit": self.unit,
            "first_loss": self._apart(self.type, self.first, "loss") if compared else None,
            "losses": self._apart(self.type, self.losses, "losses") if compared else None,
            "tensors": [self._apart(*found) for found in self.tensors],
            "beyond": self.beyond,
            "why": self.why,
        }

    def _apart(self, dtype: str, apart: float, name: str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "ulps": apart, "tolerance": self.allowed(dtype)}


def crosses(device: str) -> bool:
    """Whether the user asked for a device that there is another one beside."""
    return device.partition(":")[0] == "cuda"


def both_ways(proof: Proof, whole: Answer, causes: list[Cause]) -> list[Crossing]:
    """From the device of the proof to the other, and back. causes: what has to be mended on a
    single device already, and is mended here."""
    mends = tuple(dict.fromkeys(["replay", *(mend for cause in causes for mend in cause.mends)]))
    device = whole["device"]
    made = [_crossed(proof, whole, device, OTHER, mends)]
    try:
        proof.workers.say(f"training without interruption on {OTHER}")
        second = proof.on(OTHER)
        there = second.whole(second.middle)
    except PtInspectError as error:
        return [*made, Crossing(OTHER, device, None, f"it cannot be run: {error.message}")]
    return [*made, _crossed(second, there, OTHER, device, mends)]


def _crossed(
    proof: Proof, whole: Answer, saved: str, resumed: str, mends: tuple[str, ...]
) -> Crossing:
    proof.workers.say(f"resuming on {resumed} what was saved on {saved}")
    ends = proof.workers.file(".ends")
    try:
        made = proof.on(resumed, proof).resumed(whole, mends, ends)
    except PtInspectError as error:
        return Crossing(saved, resumed, None, f"it cannot be run: {error.message}")
    if made.get("at") == "load":
        return Crossing(saved, resumed, [f"loading fails: {made['error']}"])
    mine, other = made["state"], whole["saved"]["state"]
    loaded = [name for name in {**other, **mine} if mine.get(name) != other.get(name)]
    if "error" in made:
        return Crossing(saved, resumed, loaded, f"a step fails: {made['error']}")
    if draws(whole) or draws(made):
        why = "the model draws random numbers, and each device draws its own"
        return Crossing(saved, resumed, loaded, why)
    unit = whole["autocast"] or ("float16" if proof.options["tf32"] else None)
    job = {
        "kind": "compared", "ends": [proof.ends, ends], "unit": unit,
        "options": {"device": "cpu", "tf32": False},
    }  # fmt: skip
    apart = proof.workers.run(job)
    tensors = tuple((dtype, far, name) for dtype, (far, name) in apart["tensors"].items())
    first, losses = apart["first"], apart["losses"]
    return Crossing(saved, resumed, loaded, None, first, losses, apart["type"], tensors, unit)


def draws(run: Answer) -> bool:
    """Whether a run drew from CUDA's generators: its model does."""
    begin = run["saved"]["rng"] if "saved" in run else run["rng"]
    return bool(begin.get("rng cuda") != run["trace"][-1]["rng"].get("rng cuda"))
