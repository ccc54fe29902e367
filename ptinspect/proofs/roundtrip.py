"""`check roundtrip`: is each converted form the same model as the original, in numbers?

Weights, outputs in both modes, gradients, and the weights after some steps of training are
compared bit for bit.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from ptinspect.conversion import convert
from ptinspect.errors import UnsupportedError, add_error_path
from ptinspect.pickling.pyobjects import dotted
from ptinspect.proofs.plan import DEFAULT_STEPS, TrainingOptions, make_plan, reproduce_command
from ptinspect.proofs.processes import TIMEOUT, JobError, Watch, Workers, worker_pool
from ptinspect.report import Report
from ptinspect.text import cut, safe

FORMS = {"state_dict": ".pt", "checkpoint": ".pt", "safetensors": ".safetensors"}
PARTS = {
    "weights": "weights and buffers", "eval": "outputs in eval mode",
    "train": "outputs in train mode", "gradients": "gradients", "losses": "losses",
    "trained": "weights after training",
}  # fmt: skip
_VERDICTS = (  # by exit code
    ("same", "each converted form is the same model as the original, in numbers"),
    ("differs", "not every converted form is the same model as the original"),
    ("not-written", "not every form could be written"),
    (
        "not-deterministic",
        "the original does not repeat its own numbers, so no form can be proved the same",
    ),
)


@dataclass(frozen=True, slots=True)
class Form:
    """One converted form of the model.

    Attributes:
        name: a target of `convert`.
        differs: the parts that are not the same, in the order of `PARTS`.
        error: why the form could not be written, such as tensors that safetensors cannot hold.
    """

    name: str
    differs: list[str]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RoundtripReport(Report):
    """The answer of `check roundtrip`.

    Attributes:
        path: the file.
        forms: one result per form.
        steps: steps of training.
        optimizer: class of torch.optim that trained.
        device: where it was trained.
        loss: the loss.
        notes: what a reader should know.
        unstable: the parts that differ between two runs of the original itself.
        environment: versions, device and precision of the training.
        reproduce: the command line that runs this check again.
    """

    path: str
    forms: list[Form]
    steps: int
    optimizer: str
    device: str
    loss: str
    notes: list[str]
    unstable: list[str]
    environment: dict[str, Any]
    reproduce: str

    @property
    def ok(self) -> bool:
        """True if every form is the same model."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 if every form is the same model, 1 if one differs, 2 if one could not be written.

        3 if the original does not repeat its own numbers, and nothing else differs.
        """
        if any(form.differs for form in self.forms):
            return 1
        if self.unstable:
            return 3
        return 2 if any(form.error for form in self.forms) else 0

    def text(self) -> str:
        rows = [
            (form.name, f"differs in {', '.join(form.differs)}")
            if form.differs
            else (form.name, form.error or "the same, bit for bit")
            for form in self.forms
        ]
        if self.unstable:
            rows.append(("unstable", f"{', '.join(self.unstable)}: differ without any conversion"))
        rows += [
            ("compared", ", ".join(PARTS.values())),
            ("trained", f"{self.steps} steps with {self.optimizer}, on {self.device}"),
            ("loss", self.loss),
            *(("note", note) for note in self.notes),
        ]
        lines = [f"  {label.ljust(11)}   {cut(text)}" for label, text in rows]
        verdict = _VERDICTS[self.exit_code][1]
        return "\n".join([f"{safe(self.path)}: {verdict}", "", *lines]) + "\n"

    def as_dict(self) -> dict[str, object]:
        verdict = _VERDICTS[self.exit_code][0]
        return {"schema": 1, "check": "roundtrip", "verdict": verdict, **asdict(self)}


def check_roundtrip(
    path: str,
    *,
    model: str | None = None,
    data: str | None = None,
    loss: str = "MSELoss",
    optimizer_class: str | None = None,
    entry: str | None = None,
    steps: int = DEFAULT_STEPS,
    device: str = "auto",
    seed: int = 0,
    allow_tf32: bool = False,
    trust: bool = False,
    timeout: float = TIMEOUT,
    progress: Watch | None = None,
    workers: Workers | None = None,
) -> RoundtripReport:
    """Convert a model to each form and compare what it computes with the original.

    A file whose class is missing is loaded through a stub. torch runs in child processes.

    Args:
        path: a full model, or a file with weights and `model`.
        steps: steps of training.

    The other arguments are those of `check_resume`.

    Raises:
        UnsafeError: the file must not be loaded.
        PtInspectError: the proof cannot be run, for example because a stub lacks `forward`.
    """
    options = TrainingOptions(model, data, loss, optimizer_class, steps, device, seed, allow_tf32)
    with add_error_path(path):
        # Without the user's class, a stub replaces the names that are not on the allowlist.
        plan = make_plan(path, model=model, entry=entry, trust=trust or model is None)
        stub = not trust and model is None and bool(plan["unlisted"])
        job = {
            "kind": "roundtrip", "plan": plan, "options": asdict(options), "path": path,
            "stub": stub,
        }  # fmt: skip
        with worker_pool(workers, timeout, progress) as pool:
            results = _compare_forms(job, entry, pool)
    reproduce = reproduce_command("roundtrip", path, options, entry=entry, trust=trust)
    return RoundtripReport(path=path, steps=steps, reproduce=reproduce, **results)


def _compare_forms(job: dict[str, Any], entry: str | None, workers: Workers) -> dict[str, Any]:
    """Return what the original and all forms of it have in a report."""
    workers.announce("running the original")
    original = workers.run({**job, "form": "original"})
    job["options"] |= {key: original[key] for key in ("device", "warn_only")}
    forms = []
    for name, suffix in FORMS.items():
        workers.announce(f"converting to {name} and running it")
        converted = workers.new_path(suffix)
        # The whole file, if it is the model or the optimizer is needed as well.
        path = tuple(job["plan"]["model_path"])
        whole = not path or (name == "checkpoint" and job["plan"]["holds_optimizer"])
        part = entry or (None if whole else dotted(path))
        try:
            convert(job["path"], converted, to=name, entry=part)
        except UnsupportedError as error:
            forms.append(Form(name, [], error.message))
            continue
        try:
            answer = workers.run({**job, "form": name, "converted": converted})
            forms.append(Form(name, _differing_parts(original, answer)))
        except JobError as error:
            forms.append(Form(name, [f"loading: {error.message}"]))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(converted)
    unstable: list[str] = []
    if any(form.differs for form in forms):
        workers.announce("running the original again")
        unstable = _differing_parts(original, workers.run({**job, "form": "original"}))
        for form in forms:
            form.differs[:] = [part for part in form.differs if part not in unstable]
    notes = original["notes"]
    if job["stub"]:
        notes.append(f"the class {original['class']} is missing; a stub was used in its place")
    shared = {key: original[key] for key in ("optimizer", "device", "loss", "environment")}
    return {**shared, "forms": forms, "unstable": unstable, "notes": notes}


def _differing_parts(original: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    return [text for part, text in PARTS.items() if answer[part] != original[part]]
