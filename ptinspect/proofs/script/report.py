"""The answer of `check script`: text, JSON, and what usually causes a difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ptinspect.display.text.escape import cut
from ptinspect.proofs.script.compare import Checkpoint
from ptinspect.proofs.script.trace import Difference, Record
from ptinspect.report import Report
from ptinspect.text import count_text, join_names

CAUSES = {
    "weights": (
        "the weights are not those of any step: they are not loaded, or not all of them",
        "call model.load_state_dict(...) with strict=True, and load nothing over it",
    ),
    "optimizer-state": (
        "the optimizer's state is not loaded, or the optimizer is made again after it was",
        "call optimizer.load_state_dict(...) last, on the optimizer that trains",
    ),
    "scheduler": (
        "the scheduler is not loaded, or counts from another epoch",
        "save and load scheduler.state_dict()",
    ),
    "scheduler-late": (
        "the checkpoint is saved before scheduler.step(), so that a resume repeats the old rate",
        "call scheduler.step() before the save",
    ),
    "settings": (
        "a setting of the optimizer is not the one that the training had reached",
        "load the optimizer's state after changing its settings, not before",
    ),
    "epoch-late": (
        "the loop goes on too late: epochs or steps are left out",
        "start at the epoch after the saved one, and save the number of the finished epoch",
    ),
    "epoch-early": (
        "the loop goes on too early: epochs or steps are repeated",
        "start at the epoch after the saved one, and save the number of the finished epoch",
    ),
    "rng": (
        "the state of this random number generator is not restored, or is changed afterwards",
        "save the states of the generators, and restore them after everything else is set up",
    ),
    "sampler-epoch": (
        "the sampler counts from another epoch",
        "call sampler.set_epoch(epoch) with the epoch of the whole training",
    ),
    "generator": (
        "the data come in the order of a generator whose state is not in the checkpoint",
        "save generator.get_state(), and call generator.set_state(...) after loading",
    ),
    "data-again": (
        "the order of the data starts again after a resume",
        "restore the sampler's position or epoch, and do not seed again after loading",
    ),
    "data-skipped": (
        "batches are left out after a resume",
        "go on at the batch after the last one that was trained",
    ),
    "data-order": (
        "the order of the data comes from something that is not restored",
        "save the state of what orders the data, or derive the order from the epoch",
    ),
    "gradients": (
        "the model or its data depend on something that is not restored: a generator of their "
        "own, a buffer, a GradScaler, or the order of data that no DataLoader loads",
        "save and load it with the checkpoint",
    ),
    "average": (
        "the average of the weights (EMA) is not loaded, so that it starts again",
        "save and load the average with the checkpoint",
    ),
    "buffers": (
        "buffers of the model are not restored, such as the averages of BatchNorm",
        "load the model's whole state_dict()",
    ),
    "entries": (
        "all steps agree, so this is not restored, or computed from something that is not",
        "save and load it with the checkpoint",
    ),
    "no-seed": (
        "the script sets no seed",
        "call torch.manual_seed(...), and random.seed and numpy.random.seed if they are used",
    ),
    "kernel": (
        "something that no seed decides: a kernel, threads, the time, or files in any order",
        "find what differs at this step; `torch.use_deterministic_algorithms(True)` names kernels",
    ),
    "no-checkpoint": (
        "the training goes on, but does not write this checkpoint again",
        "save under the names that a run without interruption uses",
    ),
}  # fmt: skip
"""Per kind what usually causes a difference, and what to do."""

_VERDICTS = {
    "same": "killed and started again, it ends where it would have ended",
    "differs": "killed and started again, it does not end where it would have ended",
    "not-deterministic": "two whole runs differ, so no resume can be exact",
    "not-resumed": "nothing is proved: after the kill it trained again from the beginning",
    "work-lost": "after a kill inside a save it trains again from the beginning",
    "fails": "after a kill inside a save it cannot be started again",
}
_EXIT_CODES = {"same": 0, "not-deterministic": 3, "not-resumed": 2}


@dataclass(frozen=True, slots=True)
class Kill:
    """Where the script was killed.

    Attributes:
        save: number of the save.
        where: `step` (after the save), `save` (inside it), `memory` (inside it, before a byte was
            written), or `files` (seen from outside).
        partial: checkpoint files that were cut.
    """

    save: int
    where: str
    partial: list[str]


@dataclass(frozen=True, slots=True)
class Steps:
    """Optimizer steps, of the process that the report is about.

    Attributes:
        whole: steps of the whole run.
        killed: steps before the kill.
        resumed_after: steps of the whole run before the first one of the resumed run.
        resumed: steps of the resumed run.
    """

    whole: int
    killed: int
    resumed_after: int
    resumed: int


@dataclass(frozen=True, slots=True)
class ScriptReport(Report):
    """The answer of `check script`.

    Attributes:
        command: the command, as words.
        verdict: `same`, `differs`, `not-deterministic` (two whole runs differ), `not-resumed` (the
            second start trained everything again), `work-lost` or `fails` (after a kill inside a
            save).
        first: the first difference in the optimizer steps.
        causes: kinds of the usual causes, keys of `CAUSES`.
        checkpoints: names of the checkpoint files of the whole run, in the order of their writing.
        different: the checkpoints that differ.
        not_compared: entries that no two runs share, such as times.
        kill: where the script was killed; None if two whole runs differ.
        steps: None if no optimizer step was recorded.
        notes: what a reader should know.
        environment: versions, device and precision; None if nothing was recorded.
        output: last lines of the run that failed.
        reproduce: the command line that runs this check again.
    """

    command: str
    verdict: str
    first: Difference | None
    causes: list[str]
    checkpoints: list[str]
    different: list[Checkpoint]
    not_compared: list[str]
    kill: Kill | None
    steps: Steps | None
    notes: list[str]
    environment: Record | None
    output: list[str]
    reproduce: str

    @property
    def ok(self) -> bool:
        """True if the script ends where it would have ended."""
        return self.verdict == "same"

    @property
    def exit_code(self) -> int:
        """0 if `ok`, 1 if it differs or fails, 2 if nothing was resumed, 3 not deterministic."""
        return _EXIT_CODES.get(self.verdict, 1)

    def text(self) -> str:
        """Return the report as text that ends in a newline."""
        rows = self._rows()
        width = max(len(label) for label, _ in rows) + 3
        lines = [f"{cut(self.command)}: {_VERDICTS[self.verdict]}"]
        lines += [f"  {label.ljust(width)}{cut(text)}" for label, text in rows]
        lines += [f"    {line}" for line in self.output]
        return "\n".join(lines) + "\n"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("ran", self._what_ran())]
        if self.kill is not None and self.kill.partial:
            rows.append(("cut", join_names(self.kill.partial, 3)))
        if self.verdict == "fails":
            rows.append(("output", "its last lines:"))
            return rows
        compared = join_names(self.checkpoints, 3)
        if self.ok:
            rows.append(("compared", f"{compared}: tensors, entries, optimizers, bit for bit"))
        if self.first is not None:
            rows.append(("differs", f"first in {self.first}"))
        if self.steps is not None and self.steps_text() is not None:
            rows.append(("steps", str(self.steps_text())))
        for kind in self.causes:
            message, mend = CAUSES[kind]
            rows += [("usually", f"{message} ({kind})"), ("mend", mend)]
        rows += [("differs", f"{c.name}: {c.text()}") for c in self.different[-3:]]
        if self.not_compared:
            rows.append(("left out", join_names(self.not_compared, 4)))
        return rows + [("note", note) for note in self.notes]

    def _what_ran(self) -> str:
        count = count_text(len(self.checkpoints), "checkpoint file")
        steps = f"{count_text(self.steps.whole, 'step')}, " if self.steps else ""
        text = f"whole, twice ({steps}{count})"
        if self.kill is None:
            return text
        inside = "in" if self.kill.where in ("save", "memory") else "after"
        text += f"; killed {inside} save {self.kill.save}"
        if self.steps is None:
            return f"{text}, and started again"
        start = (
            f"after step {self.steps.resumed_after}" if self.steps.resumed_after else "at step 1"
        )
        return f"{text}, at step {self.steps.killed}; started again, it went on {start}"

    def steps_text(self) -> str | None:
        """Return how many steps the resumed run made and should have made, if they differ."""
        if self.steps is None:
            return None
        left = self.steps.whole - self.steps.resumed_after
        if self.steps.resumed == left:
            return None
        return f"{self.steps.resumed} run after the restart, {left} left"

    def as_dict(self) -> dict[str, object]:
        """Return the report as a dict that can be written as JSON."""
        causes = [
            {"kind": kind, "message": CAUSES[kind][0], "mend": CAUSES[kind][1]}
            for kind in self.causes
        ]
        different = [
            {"name": c.name, "other": c.other, "items": [asdict(item) for item in c.items]}
            for c in self.different
        ]
        return {
            "schema": 1, "check": "script", **asdict(self),
            "causes": causes, "different": different,
        }  # fmt: skip
