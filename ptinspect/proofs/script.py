"""`check script`: does a script that is killed and started again end where it would have ended?

Run the command whole, twice. Run it again, kill it at a checkpoint, start it again, and compare the
checkpoints of both, number for number. The recorded optimizer steps say what differs first.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ptinspect.atomic_file import map_os_errors, signals_raise
from ptinspect.errors import PtInspectError
from ptinspect.proofs.processes import Progress, Watch, guarded_folder, last_lines, log_hint
from ptinspect.proofs.script_report import (
    Checkpoint,
    Kill,
    ScriptReport,
    Steps,
    compare_runs,
    in_order,
    is_readable,
    restart_keys,
    split_differences,
    volatile_keys,
)
from ptinspect.proofs.script_runs import (
    Difference,
    Run,
    Trace,
    Workspace,
    first_difference,
    resumed_at,
)
from ptinspect.proofs.worker.recorder import SETTINGS
from ptinspect.text import count_text, join_names

# Default for the seconds that one run of the command may take.
TIMEOUT = 3600.0
_AVERAGE_WORDS = {"ema", "average", "averaged", "swa", "shadow"}
_NOT_BY_EPOCH = ("weights", "optimizer-state")
_BUFFER_WORDS = ("running_mean", "running_var", "num_batches_tracked")


def check_script(
    command: Sequence[str],
    *,
    checkpoint: Sequence[str],
    resume_command: str | None = None,
    at: int | None = None,
    kill_during_save: bool = False,
    work: str | None = None,
    timeout: float = TIMEOUT,
    progress: Watch | None = None,
) -> ScriptReport:
    """Prove that a training script, killed and started again, ends where it would have ended.

    The command runs in copies of the current folder.

    Args:
        command: the words of the command. It is run as it is: use only a script that you trust.
        checkpoint: globs of the checkpoint files or folders, relative to the current folder.
        resume_command: what starts the script again, if it is not the same command.
        at: the save after which the script is killed. By default about the middle one.
        kill_during_save: kill the script inside that save, not after it.
        work: a new or empty folder for the copies, which stay there.
        timeout: seconds that one run may take.
        progress: called with the progress of the proof.

    Raises:
        PtInspectError: the proof cannot be run: the command fails, writes no checkpoint, or ends
            before it could be killed.
    """
    words, patterns, source = list(command), list(checkpoint), os.getcwd()
    try:
        again = shlex.split(resume_command) if resume_command is not None else words
    except ValueError as error:
        raise PtInspectError(f"--resume-command cannot be read: {error}") from None
    _check_arguments(words, again, patterns, source)
    options = [f"--checkpoint {shlex.quote(pattern)}" for pattern in patterns]
    if resume_command is not None:
        options.append(f"--resume-command {shlex.quote(resume_command)}")
    options += [f"--at {at}"] if at is not None else []
    options += ["--kill-during-save"] if kill_during_save else []
    options += [f"--timeout {timeout:g}"] if timeout != TIMEOUT else []
    reproduce = f"ptinspect check script {' '.join(options)} -- {shlex.join(words)}"
    if work is not None:
        with map_os_errors(work):
            os.makedirs(work, exist_ok=True)
        if os.listdir(work):
            raise PtInspectError("is not empty", path=work, hint="give --work a new folder")
    with signals_raise(), guarded_folder(work, SETTINGS) as root:
        workspace = Workspace(root, source, patterns, timeout)
        return _Proof(workspace, words, again, reproduce, progress).run(at, kill_during_save)


@dataclass(slots=True)
class _Proof:
    workspace: Workspace
    command: list[str]
    again: list[str]
    reproduce: str
    progress: Watch | None
    notes: list[str] = field(default_factory=list)

    def run(self, at: int | None, in_save: bool) -> ScriptReport:
        whole, second = self._run_whole("first"), self._run_whole("second")
        repeated = compare_runs(whole, second)
        volatile = volatile_keys(repeated)
        different, _, _ = split_differences(repeated, volatile, bool(whole.trace.steps))
        difference = _first_of_ranks(whole.trace, second.trace, {})
        if different or difference is not None or whole.trace.steps != second.trace.steps:
            return self._not_deterministic(whole, second, different, difference)
        by_files = not whole.trace.steps  # no steps, so that it cannot stop itself
        if by_files and in_save:
            raise PtInspectError(
                "no optimizer step of torch was recorded, so it cannot be killed inside a save",
                hint="leave --kill-during-save out",
            )
        save = _save_to_kill_at(whole, at, in_save)
        self._announce("until it is killed")
        self.workspace.copy_source()
        killed = self.workspace.run("killed", self.command, save, in_save, by_files)
        if killed.stopped is None:
            _check_status(killed, "the run that was to be killed")
            where = "in" if in_save else "after"
            raise PtInspectError(
                f"the command ended before it could be killed {where} save {save}"
                + (": it does not write with torch.save" if in_save else ""),
                hint="leave --kill-during-save out" if in_save else "give --at a smaller number",
            )
        cut = list[str]()
        if in_save:  # of a format that ptinspect cannot read, no file is known to be cut
            readable = [n for n in whole.files if is_readable(os.path.join(whole.folder, n))]
            suffixes = {os.path.splitext(name)[1] for name in readable}
            cut = [
                name
                for name in killed.files
                if os.path.splitext(name)[1] in suffixes
                and not is_readable(os.path.join(killed.folder, name))
                and (name not in whole.files or name in readable)
            ]
        kill = Kill(save, killed.stopped, cut)
        if kill.where == "memory":
            self.notes.append("it serializes in memory: it was killed before the file got its name")
        self._announce("again, after the kill")
        resumed = self.workspace.run("resumed", self.again)
        if resumed.status and in_save:
            causes = ["cut-file"] if kill.partial else []
            output = last_lines(resumed.output)
            return self._report(whole, "fails", kill=kill, causes=causes, output=output)
        _check_status(resumed, "started again after the kill")
        return self._compare(whole, killed, resumed, kill, volatile)

    def _run_whole(self, name: str) -> Run:
        self._announce(f"whole, the {name} time")
        self.workspace.copy_source()
        run = self.workspace.run(name, self.command)
        old = f", without {join_names(self.workspace.old, 2)}: --checkpoint matches"
        _check_status(run, f"the {name} whole run" + (old if self.workspace.old else ""))
        if not run.files:
            raise PtInspectError(
                f"the command wrote no file that matches {join_names(self.workspace.patterns)}",
                hint=log_hint(run.output) or "the globs are relative to the current folder",
            )
        folder = os.path.join(self.workspace.root, name)
        os.rename(run.folder, folder)
        return replace(run, folder=folder)

    def _not_deterministic(
        self, whole: Run, second: Run, different: list[Checkpoint], difference: Difference | None
    ) -> ScriptReport:
        steps = whole.trace.steps, second.trace.steps
        unseeded = difference is not None and difference.kind == "rng"
        for rank, records in whole.trace.ranks.items():
            others = second.trace.ranks.get(rank, records)
            unseeded |= records[0]["rng"]["torch"] != others[0]["rng"]["torch"]
        output = f"{whole.output} {second.output}"
        kernels = set(re.findall(r"(\S+) does not have a deterministic implementation", output))
        if kernels:
            self.notes.append(f"torch has no deterministic way to do {join_names(kernels, 3)}")
        if steps[0] != steps[1]:
            self.notes.append(f"the runs made {steps[0]} and {steps[1]} steps")
        return self._report(
            whole, "not-deterministic", first=difference, different=different,
            causes=["no-seed" if unseeded else "kernel"],
        )  # fmt: skip

    def _compare(
        self, whole: Run, killed: Run, resumed: Run, kill: Kill, volatile: list[str]
    ) -> ScriptReport:
        counts = dict[int, Steps]()
        for rank, records in sorted(whole.trace.ranks.items()):
            after = resumed.trace.ranks.get(rank, [])
            before, saves = len(killed.trace.ranks.get(rank, ())), whole.trace.saves
            start = resumed_at(records, after, before)
            if start is None:  # its weights are those of no step: it should go on after the save
                start = saves[kill.save - 1] if len(saves) >= kill.save else before
            counts[rank] = Steps(len(records), before, min(start, len(records)), len(after))
        difference = _first_of_ranks(whole.trace, resumed.trace, counts)
        checkpoints = compare_runs(whole, resumed, resumed.started)
        volatile = [*volatile, *restart_keys(checkpoints, self.command, self.again)]
        different, not_compared, generators = split_differences(checkpoints, volatile, bool(counts))
        left_out = [
            name for name in in_order(whole.files) if os.path.basename(name) in not_compared
        ]
        if not counts and len(left_out) == len(whole.files):
            raise PtInspectError(
                f"nothing can be compared: two whole runs differ in {join_names(left_out, 3)}",
                hint="ptinspect does not read this format: leave times out of the file",
            )
        # The first process that made too few or too many steps, else the first one.
        steps = min(counts.values(), key=lambda steps: not steps.miscounted, default=None)
        miscounted = steps is not None and steps.miscounted
        if steps is None:
            from_start = resumed.saves >= whole.saves
        else:
            from_start = steps.resumed_after == 0 and not miscounted
        causes, verdict = list[str](), "same"
        if different or difference is not None or miscounted:
            verdict, causes = "differs", _causes(difference, steps, different)
        elif from_start and not kill.in_save:
            verdict = "not-resumed"
        elif from_start and kill.save > 1:
            verdict, causes = "work-lost", ["cut-file"] if kill.partial else []
        elif steps is not None and kill.in_save and steps.killed > steps.resumed_after:
            again = count_text(steps.killed - steps.resumed_after, "step")
            where = "the beginning" if from_start else "an older checkpoint"
            self.notes.append(f"it went on from {where}; {again} done again")
        if generators and not different:
            self.notes.append(f"nothing depends on {join_names(generators, 3)}, which differs")
        return self._report(
            whole, verdict, first=difference, causes=causes, different=different,
            not_compared=not_compared, kill=kill, steps=steps,
        )  # fmt: skip

    def _report(self, whole: Run, verdict: str, **parts: Any) -> ScriptReport:
        if not whole.trace.steps:
            self.notes.append("no optimizer step of torch was recorded; only files were compared")
        self.notes += _gave_up(whole)
        return ScriptReport(
            command=shlex.join(self.command), verdict=verdict, reproduce=self.reproduce,
            checkpoints=in_order(whole.files), environment=whole.trace.environment,
            notes=self.notes, **parts,
        )  # fmt: skip

    def _announce(self, text: str) -> None:
        if self.progress is not None:
            self.progress(Progress(f"running the command {text}"))


def _gave_up(whole: Run) -> list[str]:
    return [f"the recorder gave up: {error}" for error in whole.trace.errors[:1]]


def _save_to_kill_at(whole: Run, at: int | None, in_save: bool) -> int:
    """Return the number of the save to kill at: about the middle of those that a step follows."""
    count = len(whole.trace.saves) if whole.trace.steps else whole.saves - 1
    if count < 1 or (at is not None and at > count + in_save):
        times = count_text(count, "time") + " before its last step" if count > 0 else "at its end"
        raise PtInspectError(
            f"the command saves only {times}, so it cannot be killed at save {at or 1}",
            hint="; ".join(["give options with which it saves more often", *_gave_up(whole)]),
        )
    middle = min(count, (count + 2) // 2)
    return at or (max(middle, min(2, count)) if in_save else middle)


def _first_of_ranks(whole: Trace, other: Trace, counts: dict[int, Steps]) -> Difference | None:
    """Return the earliest difference of all processes.

    DDP averages the gradients, so what differs in one process changes those of all others.
    """
    differences = []
    for rank, records in sorted(whole.ranks.items()):
        start = counts[rank].resumed_after if rank in counts else 0
        found = first_difference(records, other.ranks.get(rank, []), start)
        if found is not None:
            where = f" (rank {rank})" if len(whole.ranks) > 1 else ""
            differences.append(replace(found, what=found.what + where))
    return min(differences, key=lambda found: (found.step, found.kind == "gradients"), default=None)


def _causes(
    difference: Difference | None, steps: Steps | None, different: list[Checkpoint]
) -> list[str]:
    """Return the usual causes. A wrong number of steps explains other data and other rates, and
    another scale of a GradScaler other steps."""
    first = next((checkpoint.items for checkpoint in different if checkpoint.items), ())
    keys = [item.key.lower() for item in first]  # what differs later follows from it
    if keys and all("scaler" in key for key in keys):
        return ["grad-scaler"]
    miscounted = steps is not None and steps.miscounted
    causes = []
    if difference is not None and (not miscounted or difference.kind in _NOT_BY_EPOCH):
        causes.append(difference.kind)
    if steps is not None and miscounted:
        causes.append("epoch-late" if steps.resumed < steps.left else "epoch-early")
    if causes:
        return causes
    if all(checkpoint.other is None for checkpoint in different):
        return ["no-checkpoint"]
    others = [key for key in keys if not _AVERAGE_WORDS & set(re.findall("[a-z]+", key))]
    if not others:
        return ["average"]
    if all(any(word in key for word in _BUFFER_WORDS) for key in others):
        return ["buffers"]
    return ["scheduler" if all("sched" in key for key in others) else "entries"]


def _check_status(run: Run, which: str) -> None:
    if run.status:
        status = f"exit code {run.status}" if run.status > 0 else f"signal {-run.status}"
        raise PtInspectError(f"the command failed ({status}; {which})", hint=log_hint(run.output))


def _check_arguments(
    command: list[str], again: list[str], patterns: list[str], source: str
) -> None:
    if sys.platform == "win32":
        raise PtInspectError("`check script` needs SIGKILL and process groups, as Linux has them")
    if not command or not again or not patterns:
        raise PtInspectError(
            "there is no command" if patterns else "there is no --checkpoint",
            hint="ptinspect check script --checkpoint 'runs/*.pt' -- python train.py",
        )
    for pattern in patterns:
        is_folder = os.path.normpath(pattern) == "."
        if is_folder or os.path.isabs(pattern) or ".." in pattern.split("/"):
            raise PtInspectError(
                f"--checkpoint {pattern!r} is not below the current folder",
                hint="give a glob that is relative to it: the command runs in a copy",
            )
    for word in [*command[1:], *again[1:]]:
        if source + os.sep in word:
            raise PtInspectError(
                f"{word!r} is in the current folder, and the command runs in a copy of it",
                hint="give a path that is relative to the current folder",
            )
