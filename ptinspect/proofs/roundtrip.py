"""`check roundtrip`: is what `convert` writes the same model? Weights, outputs in both modes,
gradients, and the weights after some steps of training, bit for bit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.conversion import convert
from ptinspect.display.text.escape import cut, safe
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError, UnsafeError, UnsupportedError, add_error_path
from ptinspect.proofs.options import Options, for_child, given, hired, with_options
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume.plan import plan_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

FORMS = {"state_dict": ".pt", "checkpoint": ".pt", "safetensors": ".safetensors"}
PARTS = ("weights", "eval", "train", "gradients", "losses", "trained")
_SAID = {
    "weights": "weights and buffers", "eval": "outputs in eval mode", "losses": "losses",
    "train": "outputs in train mode", "gradients": "gradients", "trained": "weights after training",
}  # fmt: skip


class Form(NamedTuple):
    """One of the forms. differs: what is not the same, in the order of `PARTS`. error: why it could
    not be written (tensors that safetensors cannot hold); None where it could."""

    name: str
    differs: list[str]
    error: str | None = None


class RoundtripReport(NamedTuple):
    """path: the file. forms: what came of each. notes: what a reader should know."""

    path: str
    forms: list[Form]
    steps: int
    optimizer: str
    device: str
    loss: str
    notes: list[str]

    @property
    def code(self) -> int:
        """0: all forms are the same model. 1: one is not. 2: one could not be written."""
        if any(form.differs for form in self.forms):
            return 1
        return 2 if any(form.error for form in self.forms) else 0

    def text(self) -> str:
        """For people, ending in a newline."""
        said = {0: "every form is the same model", 1: "not every form is the same model"}
        lines = [f"{safe(self.path)}: {said.get(self.code, 'not every form could be written')}", ""]
        for form in self.forms:
            same = "the same, bit for bit"
            found = f"differs in {', '.join(form.differs)}" if form.differs else form.error or same
            lines.append(f"  {form.name.ljust(11)}   {cut(found)}")
        compared = ", ".join(_SAID[part] for part in PARTS)
        lines.append(f"  {'compared'.ljust(11)}   {compared}")
        lines.append(
            f"  {'trained'.ljust(11)}   {self.steps} steps with {self.optimizer}, on {self.device}"
        )
        lines.append(f"  {'loss'.ljust(11)}   {cut(self.loss)}")
        lines += [f"  {'note'.ljust(11)}   {cut(note)}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def json(self) -> dict[str, object]:
        """For programs."""
        return {
            "schema": 1,
            "check": "roundtrip",
            "path": self.path,
            "verdict": {0: "same", 1: "differs", 2: "not-written"}[self.code],
            "forms": [form._asdict() for form in self.forms],
            "steps": self.steps,
            "optimizer": self.optimizer,
            "device": self.device,
            "loss": self.loss,
            "notes": self.notes,
        }


@with_options
def check_roundtrip(path: str, **options: Unpack[Options]) -> RoundtripReport:
    """The proof; see the module, and `Options`. A file whose class is missing is loaded through a
    stub. UnsafeError where it may not be loaded; PtInspectError where the proof cannot be run (a
    stub does not know `forward`)."""
    with add_error_path(path):
        made = given(options)
        stub = False
        try:
            plan = plan_of(path, model=made["model"], entry=made["entry"], trust=made["trust"])
        except UnsafeError as error:
            if "dangerous" in error.message or made["model"] is not None:
                raise
            plan, stub = plan_of(path, model=None, entry=made["entry"], trust=True), True
        job = {
            "kind": "roundtrip", "plan": plan, "options": for_child(made), "path": path,
            "stub": stub,
        }  # fmt: skip
        with hired(made) as workers:
            return _run(path, job, made["entry"], workers)


def _run(path: str, job: dict[str, Any], entry: str | None, workers: Workers) -> RoundtripReport:
    workers.say("running the original")
    original = workers.run({**job, "form": "original"})
    job["options"]["device"] = original["device"]
    forms = []
    for name, ending in FORMS.items():
        workers.say(f"converting to {name}, and running that")
        forms.append(_form(name, workers.file(ending), path, job, entry, original, workers))
    notes = [original["told"]] if original["told"] else []
    if job["stub"]:
        notes.append(f"the class {original['class']} is missing: a stub stands for it")
    steps = job["options"]["steps"]
    optimizer, device, loss = (original[name] for name in ("optimizer", "device", "loss"))
    return RoundtripReport(path, forms, steps, optimizer, device, loss, notes)


def _form(
    name: str,
    target: str,
    path: str,
    job: dict[str, Any],
    entry: str | None,
    original: dict[str, Any],
    workers: Workers,
) -> Form:
    try:
        convert(path, target, to=name, entry=_entry(path, job, entry, name))
    except UnsupportedError as error:
        return Form(name, [], error.message)
    try:
        made = workers.run({**job, "form": name, "converted": target})
    except PtInspectError as error:
        return Form(name, [f"loading: {error.message}"])
    finally:
        if os.path.exists(target):
            os.unlink(target)
    return Form(name, [_SAID[part] for part in PARTS if made[part] != original[part]])


def _entry(path: str, job: dict[str, Any], entry: str | None, name: str) -> str | None:
    """The part that holds the model, where it is not the whole file."""
    from ptinspect.document.walk import dotted

    if entry is not None or not job["plan"]["model_path"]:
        return entry
    with open_document(path) as document:
        if name == "checkpoint" and document.optimizers:
            return None
    return dotted(tuple(job["plan"]["model_path"]))
