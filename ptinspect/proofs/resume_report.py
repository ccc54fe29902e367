"""The answer of `check resume`: text, JSON, and a plot of the losses."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

from ptinspect.atomic_file import check_destination, write_file
from ptinspect.errors import PtInspectError, UnsupportedError
from ptinspect.proofs.resume_causes import Answer, Cause, Difference
from ptinspect.report import Report
from ptinspect.text import cut, safe

_TRAINING_KEYS = (
    "device", "length", "batches_used", "loss", "optimizer", "scheduler", "per_step", "scaler",
    "autocast", "averages", "rng_saved",
)  # fmt: skip
_VERDICTS = {
    "proved": "the file holds all that an exact resume of this training needs",
    "same": "a training that is resumed on another device differs from this training",
    "differs": "a training that is resumed from the file differs from the uninterrupted one",
    "inconsistent": "training resumes exactly, but the recorded state is not consistent",
    "undecided": "undecided: the scheduler that was at work is not in the file",
    "not-deterministic": "two uninterrupted trainings differ, so no resume can be proved exact",
}
_PLOT_SUFFIXES = (".png", ".svg", ".pdf")


# ULPs at a tensor's largest element, per dtype. 4096 ULPs of float32 are 0.05 %, 16 of bfloat16
# 12 %. Under autocast its dtype counts, with --allow-tf32 (10 bits) that of float16.
TOLERANCE = {"float64": 4096, "float32": 4096, "float16": 16, "bfloat16": 16}


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


@dataclass(frozen=True, slots=True)
class ResumeReport(Report):
    """The answer of `check resume`.

    Attributes:
        path: the file.
        verdict: `same`, `differs`, `not-deterministic`, `inconsistent` (the resume is exact, but
            the recorded state contradicts itself) or `undecided` (exact, but without the
            scheduler that was at work and is not in the file).
        first: the first difference.
        causes: all that has to be fixed so that the bits agree; each was tried.
        notes: what a reader should know.
        training: description of the training.
        losses: losses of the uninterrupted run and of the resumed run.
        steps: steps before the save, and after it.
        processes: number of processes that ran a part of the proof.
        crossings: resumes on another device.
        wrong: contradictions in the recorded state, also those that `check optimizer` finds.
        undecided: what the file does not decide.
        environment: versions, device and precision of the training.
        reproduce: the command line that runs this check again.
    """

    path: str
    verdict: str
    first: Difference | None
    causes: list[Cause]
    notes: list[str]
    training: Answer
    losses: tuple[list[float], list[float]]
    steps: int
    processes: int
    crossings: list[Crossing]
    wrong: list[str]
    undecided: list[str]
    environment: Answer
    reproduce: str

    @property
    def ok(self) -> bool:
        """True if the resumed training is the uninterrupted one, on other devices too."""
        return self.verdict == "same" and all(crossing.same for crossing in self.crossings)

    @property
    def exit_code(self) -> int:
        """0 if `ok`, 1 if something is wrong, 2 if undecided, 3 if not deterministic."""
        return {"undecided": 2, "not-deterministic": 3}.get(self.verdict, 0 if self.ok else 1)

    def text(self) -> str:
        verdict = _VERDICTS["proved" if self.ok else self.verdict]
        rows = self._rows()
        width = max(len(label) for label, _ in rows)
        lines = [f"  {label.ljust(width)}   {cut(text)}" for label, text in rows]
        return "\n".join([f"{safe(self.path)}: {verdict}", "", *lines]) + "\n"

    def _rows(self) -> list[tuple[str, str]]:
        training, n = self.training, self.steps
        parts = [training["optimizer"].replace("torch.optim.", "")]
        if training["scheduler"]:
            interval = "step" if training["per_step"] else "epoch"
            parts.append(f"{training['scheduler']} per {interval}")
        if training["autocast"]:
            parts.append(f"autocast to {training['autocast']}")
        if training["scaler"]:
            parts.append("GradScaler")
        rows = [
            ("trained", f"{2 * n} steps; and {n} + {n} with a save and a new process in between"),
            ("with", f"{', '.join(parts)}, on {training['device']}"),
            ("loss", training["loss"]),
        ]
        if self.first is None:
            compared = "weights, buffers, optimizer, learning rate, losses: bit for bit"
            rows.append(("compared", compared))
        else:
            rows.append(("differs", f"first in {self.first}"))
        rows += [("cause", f"{cause.message} ({cause.kind})") for cause in self.causes]
        if self.verdict == "differs" and self.causes:
            fixed = "only that" if len(self.causes) == 1 else "only these"
            rows.append(("proof", f"with {fixed} fixed, the bits agree"))
        elif self.verdict == "differs":
            reason = "not found: fixing the usual causes does not make the bits agree"
            rows.append(("cause", reason))
        rows += [("wrong", message) for message in self.wrong]
        rows += [("undecided", message) for message in self.undecided]
        rows += [(crossing.label, crossing.text()) for crossing in self.crossings]
        rows += [("note", note) for note in self.notes]
        return rows

    def as_dict(self) -> dict[str, object]:
        return {
            "schema": 1,
            "check": "resume",
            **asdict(self),
            "training": {key: self.training[key] for key in _TRAINING_KEYS},
            "crossings": [crossing.as_dict() for crossing in self.crossings],
            "losses": {"uninterrupted": self.losses[0], "resumed": self.losses[1]},
        }


def check_plot_path(path: str, force: bool) -> None:
    """Raise an error now, before the training, if a plot could not be written to this path."""
    from importlib.util import find_spec

    if not path.lower().endswith(_PLOT_SUFFIXES):
        suffixes = ", ".join(_PLOT_SUFFIXES)
        raise PtInspectError(f"a plot needs one of the suffixes {suffixes}", path=path)
    check_destination(path, force=force)
    if find_spec("matplotlib") is None:
        raise UnsupportedError(
            "matplotlib is not installed", hint="pip install 'ptinspect[plot]', or leave --plot out"
        )


def plot_losses(
    path: str, losses: tuple[list[float], list[float]], saved_step: int, force: bool = False
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    uninterrupted, resumed = losses[0], losses[1][saved_step:]
    axes.plot(
        range(1, len(uninterrupted) + 1), uninterrupted, label="uninterrupted",
        gid="uninterrupted", linewidth=3, alpha=0.5,
    )  # fmt: skip
    steps = range(saved_step + 1, saved_step + 1 + len(resumed))
    axes.plot(steps, resumed, label="resumed", gid="resumed", marker=".")
    axes.axvline(saved_step + 0.5, linestyle=":", color="grey", gid="saved")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    # Without a date, the same training gives the same file.
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    suffix = os.path.splitext(path)[1].lower()
    image = BytesIO()
    figure.savefig(image, format=suffix[1:], metadata=dates.get(suffix))
    write_file(path, image.getvalue(), force=force)
