"""`check roundtrip`: is each converted form the same model as the original, in numbers?

Weights, outputs in both modes, gradients, and the weights after some steps of training are
compared bit for bit.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from ptinspect.conversion import convert
from ptinspect.display.text.escape import cut, safe
from ptinspect.document import open as open_document
from ptinspect.errors import UnsupportedError, add_error_path
from ptinspect.pickling.pyobjects import dotted
from ptinspect.proofs.plan import DEFAULT_STEPS, TrainingOptions, make_plan, reproduce_command
from ptinspect.proofs.processes import TIMEOUT, JobError, Watch, Workers, worker_pool
from ptinspect.report import Report

FORMS = {"state_dict": ".pt", "checkpoint": ".pt", "safetensors": ".safetensors"}
PARTS = {
    "weights": "weights and buffers", "eval": "outputs in eval mode",
    "train": "outputs in train mode", "gradients": "gradients", "losses": "losses",
    "trained": "weights after training",
}  # fmt: skip


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
        """Return the report as text that ends in a newline."""
        verdict = (
            "each converted form is the same model as the original, in numbers",
            "not every converted form is the same model as the original",
            "not every form could be written",
            "the original does not repeat its own numbers, so no form can be proved the same",
        )[self.exit_code]
        rows = [(form.name, _form_text(form)) for form in self.forms]
        if self.unstable:
            rows.append(("unstable", f"{', '.join(self.unstable)}: differ without any conversion"))
        rows += [
            ("compared", ", ".join(PARTS.values())),
            ("trained", f"{self.steps} steps with {self.optimizer}, on {self.device}"),
            ("loss", self.loss),
            *(("note", note) for note in self.notes),
        ]
        lines = [f"  {label.ljust(11)}   {cut(text)}" for label, text in rows]
        return "\n".join([f"{safe(self.path)}: {verdict}", "", *lines]) + "\n"

    def as_dict(self) -> dict[str, object]:
        """Return the report as a dict that can be written as JSON."""
        return {
            "schema": 1,
            "check": "roundtrip",
            "verdict": ("same", "differs", "not-written", "not-deterministic")[self.exit_code],
            **asdict(self),
        }


def _form_text(form: Form) -> str:
    if form.differs:
        return f"differs in {', '.join(form.differs)}"
    return form.error or "the same, bit for bit"


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
        model: the model's class, or a function that returns the model, as `FILE.py:NAME`.
        data: a function that returns batches, as `FILE.py:NAME`.
        loss: a loss of torch.nn.
        optimizer_class: a class of torch.optim, if the file does not record it.
        entry: path of the weights in the file.
        steps: steps of training.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        seed: seed of the random number generators.
        allow_tf32: let CUDA calculate in TF32.
        trust: load the file even if it has names that are not on the allowlist.
        timeout: seconds that one child process may take.
        progress: called with the progress of the proof.
        workers: child processes to use, instead of new ones.

    Raises:
        UnsafeError: the file must not be loaded.
        PtInspectError: the proof cannot be run, for example because a stub lacks `forward`.
    """
    with add_error_path(path):
        options = TrainingOptions(
            model, data, loss, optimizer_class, steps, device, seed, allow_tf32
        )
        # Without the user's class, a stub replaces the names that are not on the allowlist.
        plan = make_plan(path, model=model, entry=entry, trust=trust or model is None)
        stub = not trust and model is None and bool(plan["unlisted"])
        job = {
            "kind": "roundtrip", "plan": plan, "options": asdict(options), "path": path,
            "stub": stub,
        }  # fmt: skip
        with worker_pool(workers, timeout, progress) as pool:
            reproduce = reproduce_command("roundtrip", path, options, entry, trust)
            return _compare_forms(path, job, entry, pool, reproduce)


def _compare_forms(
    path: str, job: dict[str, Any], entry: str | None, workers: Workers, reproduce: str
) -> RoundtripReport:
    workers.announce("running the original")
    original = workers.run({**job, "form": "original"})
    options = job["options"]
    options["device"] = original["device"]
    forms = []
    for name, suffix in FORMS.items():
        workers.announce(f"converting to {name} and running it")
        forms.append(_compare_form(name, workers.new_path(suffix), job, entry, original, workers))
    unstable: list[str] = []
    if any(form.differs for form in forms):
        workers.announce("running the original again")
        unstable = _differing_parts(original, workers.run({**job, "form": "original"}))
        forms = [
            replace(form, differs=[part for part in form.differs if part not in unstable])
            for form in forms
        ]
    notes = [original["batches_note"]] if original["batches_note"] else []
    if job["stub"]:
        notes.append(f"the class {original['class']} is missing; a stub was used in its place")
    return RoundtripReport(
        path,
        forms,
        options["steps"],
        original["optimizer"],
        original["device"],
        original["loss"],
        notes,
        unstable,
        original["environment"],
        reproduce,
    )


def _compare_form(
    name: str,
    converted: str,
    job: dict[str, Any],
    entry: str | None,
    original: dict[str, Any],
    workers: Workers,
) -> Form:
    path = job["path"]
    try:
        entry = _entry_to_convert(path, job["plan"]["model_path"], entry, name)
        convert(path, converted, to=name, entry=entry)
    except UnsupportedError as error:
        return Form(name, [], error.message)
    try:
        answer = workers.run({**job, "form": name, "converted": converted})
    except JobError as error:
        return Form(name, [f"loading: {error.message}"])
    finally:
        with suppress(FileNotFoundError):
            os.unlink(converted)
    return Form(name, _differing_parts(original, answer))


def _differing_parts(original: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    return [text for part, text in PARTS.items() if answer[part] != original[part]]


def _entry_to_convert(path: str, model_path: list[Any], entry: str | None, form: str) -> str | None:
    """Return the entry that holds the model, or None to convert the whole file."""
    if entry is not None or not model_path:
        return entry
    if form == "checkpoint":
        with open_document(path) as document:
            if document.optimizers:
                return None
    return dotted(tuple(model_path))
