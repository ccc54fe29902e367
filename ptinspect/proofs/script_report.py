"""The answer of `check script`: what differs in the checkpoints, its usual causes, text and JSON.

Checkpoints are compared with ptinspect's own reader, without torch.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from ptinspect.comparison import DiffReport, diff
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import Path, dotted
from ptinspect.proofs.script_runs import Difference, Record, Run
from ptinspect.proofs.worker.recorder import FileState
from ptinspect.report import Report
from ptinspect.text import count_text, cut, join_names, read_package_file

_BLOCKS = read_package_file("proofs/script_causes.txt").strip().split("\n\n")[1:]
CAUSES = {
    kind: (message.strip(), mend.strip()) for kind, message, mend in map(str.splitlines, _BLOCKS)
}
"""Per kind what usually causes a difference, and what to do."""

_VERDICTS = {
    "same": "killed and started again, it ends where it would have ended",
    "differs": "killed and started again, it does not end where it would have ended",
    "not-deterministic": "two whole runs differ, so no resume can be exact",
    "not-resumed": "nothing is proved: started again, it trained from the beginning",
    "work-lost": "killed inside a save and started again, it trains from the beginning",
    "fails": "killed inside a save, it cannot be started again",
}


@dataclass(frozen=True, slots=True)
class Kill:
    """Where the script was killed: after the save (`step`; `files` if seen from outside), or inside
    it (`save`; `memory` before a file got its name); and the files that were cut."""

    save: int
    where: str
    partial: list[str]

    @property
    def in_save(self) -> bool:
        """True if the script was killed inside a save."""
        return self.where in ("save", "memory")


@dataclass(frozen=True, slots=True)
class Steps:
    """Optimizer steps of one process: in the whole run, before the kill, in the whole run before
    the resumed one goes on, and in the resumed run."""

    whole: int
    killed: int
    resumed_after: int
    resumed: int

    @property
    def left(self) -> int:
        """Steps that the resumed run should have."""
        return self.whole - self.resumed_after

    @property
    def miscounted(self) -> bool:
        """True if the resumed run made too few or too many steps."""
        return self.resumed != self.left


@dataclass(frozen=True, slots=True)
class ScriptReport(Report):
    """The answer of `check script`.

    Attributes:
        command: the command line.
        verdict: `same`, `differs`, `not-deterministic` (two whole runs differ), `not-resumed` (the
            second start trained everything again), `work-lost` or `fails` (after a kill inside a
            save).
        checkpoints: the checkpoint files of the whole run, in the order of their writing.
        notes: what a reader should know.
        environment: versions, device and precision; None if nothing was recorded.
        reproduce: the command line that runs this check again.
        first: the first difference in the optimizer steps.
        causes: kinds of the usual causes.
        different: the checkpoints that differ.
        not_compared: entries that no two runs share, such as times.
        kill: where the script was killed; None if two whole runs differ.
        steps: None if no optimizer step was recorded.
        output: last lines of the run that failed.
    """

    command: str
    verdict: str
    checkpoints: list[str]
    notes: list[str]
    environment: Record | None
    reproduce: str
    first: Difference | None = None
    causes: list[str] = field(default_factory=list)
    different: list[Checkpoint] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    kill: Kill | None = None
    steps: Steps | None = None
    output: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if the script ends where it would have ended."""
        return self.verdict == "same"

    @property
    def exit_code(self) -> int:
        """0 if `ok`, 1 if it differs or fails, 2 if nothing was resumed, 3 not deterministic."""
        return {"same": 0, "not-resumed": 2, "not-deterministic": 3}.get(self.verdict, 1)

    def text(self) -> str:
        """Return the report as text that ends in a newline."""
        lines = [f"{self.command}: {_VERDICTS[self.verdict]}", ""]
        lines += [f"  {label.ljust(10)}{text}" for label, text in self._rows()]
        if self.output:
            lines += ["  its last output:", *(f"    {line}" for line in self.output)]
        return "\n".join(map(cut, lines)) + "\n"

    def _rows(self) -> list[tuple[str, str]]:
        steps, kill = self.steps, self.kill
        counts = [count_text(steps.whole, "step")] if steps else []
        counts.append(count_text(len(self.checkpoints), "checkpoint file"))
        rows = [("ran", f"whole, twice: {', '.join(counts)}")]
        if kill is not None:
            where = f"{'in' if kill.in_save else 'after'} save {kill.save}"
            rows.append(("killed", where + (f", after step {steps.killed}" if steps else "")))
        if kill is not None and kill.partial:
            rows.append(("cut", join_names(kill.partial, 3)))
        if steps is not None and kill is not None:
            rows.append(("resumed", f"after step {steps.resumed_after}: {steps.resumed} steps run"))
            if steps.miscounted:
                rows[-1] = ("resumed", f"{rows[-1][1]}, {steps.left} left")
        if self.ok:
            left_out = set(self.not_compared)
            names = [n for n in self.checkpoints if n.rsplit("/", 1)[-1] not in left_out]
            what = "tensors, entries, modules, optimizers, equal in every number"
            what = f"{join_names(names, 3)}: {what}" if names else "the optimizer steps alone"
            rows.append(("compared", what))
        if self.first is not None:
            rows.append(("differs", f"first in {self.first}"))
        rows += [("differs", f"{c.name}: {c.text()}") for c in self.different[-2:]]
        for message, mend in map(CAUSES.__getitem__, self.causes):
            rows += [("usually", message), ("mend", mend)]
        if self.not_compared:
            rows.append(("left out", join_names(self.not_compared, 4)))
        return rows + [("note", note) for note in self.notes]

    def as_dict(self) -> dict[str, object]:
        """Return the report as a dict that can be written as JSON."""
        causes = [
            {"kind": kind, "message": message, "mend": mend}
            for kind, (message, mend) in ((kind, CAUSES[kind]) for kind in self.causes)
        ]
        return {"schema": 1, "check": "script", **asdict(self), "causes": causes}


# --- Comparison of checkpoints ---

_PLURALS = {"tensor": "tensors", "entry": "entries", "optimizer": "optimizers", "module": "modules"}
_LOGS = re.compile(r"\.(log|jsonl|csv|tsv|txt|out|err)$|tfevents")
_RNG_WORDS = ("rng", "random", "generator")
# Numbers in the state of a generator of numpy.
_RNG_NUMBERS = {"state", "inc", "pos", "has_gauss", "gauss", "has_uint32", "uinteger", "buffer_pos"}
# Under which training scripts record their options, and options that a script sets as it resumes.
_OPTION_RECORDS = {"args", "config", "cfg", "hparams", "hyper_parameters", "opt", "train_args"}
_RESTART_OPTIONS = {"resume", "start_epoch"}
_TIME_WORDS = {"time", "timestamp", "date", "elapsed", "duration", "runtime", "hostname", "pid"}


@dataclass(frozen=True, slots=True)
class Item:
    """A thing that differs: a tensor, an entry, an optimizer, a module, a whole file, or the state
    of a random number generator (`rng`)."""

    key: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint file of the whole run, and what differs in the file of another run."""

    name: str
    other: str | None
    items: tuple[Item, ...]

    def text(self) -> str:
        """Return what differs, on one line."""
        if self.other is None:
            return "it was not written"
        kinds = [item.kind for item in self.items]
        counts = [
            count_text(kinds.count(kind), kind, plural)
            for kind, plural in _PLURALS.items()
            if kind in kinds
        ]
        keys = join_names([item.text for item in self.items], 4)
        return f"{', '.join(counts)}: {keys}" if counts else keys


def compare_runs(a: Run, b: Run, restarted: int = 0) -> list[Checkpoint]:
    """Compare the checkpoint files of two runs, in the order in which the first wrote them."""
    checkpoints = []
    for name in in_order(a.files):
        # Some scripts write into a new folder at each start, which the first run does not have:
        # then the files from before the restart are there as well.
        base, items = os.path.basename(name), list[Item]()
        same_name = [n for n in b.files if n not in a.files and os.path.basename(n) == base]
        later = [n for n in same_name if b.files[n][0] >= restarted]
        candidates = later or same_name
        other = candidates[0] if len(candidates) == 1 else None
        if name in b.files:
            other = name if b.files[name][0] >= restarted or len(later) != 1 else other
        if other is not None:
            path, path_b = os.path.join(a.folder, name), os.path.join(b.folder, other)
            if filecmp.cmp(path, path_b, shallow=False):
                pass
            elif not is_readable(path):  # such as a JSON file in a checkpoint's folder
                items = [Item(base, "file", f"the bytes of {base}")]
            else:
                try:
                    items = list(_items(diff(path, path_b)))
                except PtInspectError as error:
                    items = [Item(base, "unreadable", str(error))]
        checkpoints.append(Checkpoint(name, other, tuple(items)))
    return checkpoints


def in_order(files: FileState) -> list[str]:
    """Return the names of files in the order in which they were written."""
    return sorted(files, key=lambda name: (files[name][0], name))


def is_readable(path: str) -> bool:
    """Return True if the file is a whole one of a format that ptinspect reads."""
    try:
        with open_document(path):
            return True
    except PtInspectError:
        return False


def _items(report: DiffReport) -> Iterator[Item]:
    tensors = [(change.a, {*change.dtype}) for change in report.changed]
    tensors += [(rename.a, {None}) for rename in report.renamed]
    tensors += [(lone.key, {lone.dtype}) for lone in (*report.removed, *report.added)]
    for key, dtypes in tensors:
        is_rng = _has_rng_name(key) and all((dtype or "").startswith("uint") for dtype in dtypes)
        yield Item(key, "rng" if is_rng else "tensor", key)
    parents = {entry.path[:depth] for entry in report.entries for depth in range(len(entry.path))}
    for entry in report.entries:
        if entry.path in parents and entry.a == entry.b:
            continue  # an object that differs in what comes next
        key, values = dotted(entry.path), (entry.a, entry.b)
        is_rng = all(_is_rng_value(entry.path, value) for value in values)
        a, b = (f"{v:.6g}" if isinstance(v, float) else str(v)[:40] for v in values)
        yield Item(key, "rng" if is_rng else "entry", f"{key} {b}, not {a}")
    for optimizer in report.optimizers:
        key = dotted(optimizer.path)
        yield Item(key, "optimizer", f"{key} {join_names(optimizer.details or optimizer.what, 2)}")
    for module in report.modules:
        yield Item(module.name, "module", module.name)


def _has_rng_name(key: str) -> bool:
    return any(word in key.lower() for word in _RNG_WORDS)


def _is_rng_value(path: Path, value: object) -> bool:
    """Return True if an entry is named like the state of a random number generator, and has what
    those of Python, numpy and torch have. A GAN has a `generator`, too, with losses and epochs."""
    key = dotted(path)
    if not _has_rng_name(key):
        return False
    if isinstance(value, dict):  # a numpy array, or a long list by its first elements
        if "dtype" in value:
            return str(value["dtype"]).startswith("uint")
        value = value.get("head", ())
    if isinstance(value, list | tuple):
        return not any(isinstance(element, float) for element in value)
    is_known = isinstance(path[-1], int) or path[-1] in _RNG_NUMBERS
    if isinstance(value, float):
        return is_known
    return is_known or not isinstance(value, int) or "rng" in key.lower()


def volatile_keys(checkpoints: list[Checkpoint]) -> list[str]:
    """Return the keys of entries that differ between two whole runs, such as times."""
    items = [item for checkpoint in checkpoints for item in checkpoint.items]
    return list(dict.fromkeys(item.key for item in items if item.kind in ("entry", "file")))


def restart_keys(
    checkpoints: list[Checkpoint], command: Sequence[str], again: Sequence[str]
) -> list[str]:
    """Return the keys of recorded options that say how the script was started again: those that
    only this command has, and in a record of options `resume` and the epoch to start at."""
    words = [word for word in again if word.startswith("-") and word not in command]
    options = {word.lstrip("-").partition("=")[0].replace("-", "_") for word in words}
    items = [item for checkpoint in checkpoints for item in checkpoint.items]
    keys = []
    for key in [item.key for item in items if item.kind == "entry"]:
        parent, _, name = key.rpartition(".")
        is_recorded = parent.rpartition(".")[2] in _OPTION_RECORDS and name in _RESTART_OPTIONS
        if is_recorded or (parent and name in options):
            keys.append(key)
    return keys


def split_differences(
    checkpoints: list[Checkpoint], volatile: list[str], has_steps: bool
) -> tuple[list[Checkpoint], list[str], list[str]]:
    """Return the checkpoints that differ, and the keys that do not count.

    Times, logs and what differs between whole runs do not, and neither do RNG states:
    the state of a generator that nothing depends on does not change the training. Files of formats
    that ptinspect cannot read count if there are no steps to compare. Otherwise they may have what
    no script restores, such as the logged losses of the Trainer of transformers.
    """
    different, times, generators = list[Checkpoint](), [*volatile], list[str]()
    for checkpoint in checkpoints:
        items = []
        for item in checkpoint.items:
            words = set(re.findall(r"[a-z]+", item.key.lower()))
            is_time = words & _TIME_WORDS and not words & {"step", "steps"}
            is_log = item.kind == "file" and (has_steps or _LOGS.search(item.key))
            if item.key in volatile or is_log or (item.kind == "entry" and is_time):
                times.append(item.key)
            elif item.kind == "rng":
                generators.append(item.key)
            else:
                items.append(item)
        if items or checkpoint.other is None:
            different.append(replace(checkpoint, items=tuple(items)))
    return different, list(dict.fromkeys(times)), list(dict.fromkeys(generators))
