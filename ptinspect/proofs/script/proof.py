"""`check script`: does a script that is killed and started again end where it would have ended?

Run the command whole, twice. Run it again, kill it at a checkpoint, start it again, and compare the
checkpoints of both, bit for bit. The recorded optimizer steps say what differs first.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ptinspect.errors import PtInspectError
from ptinspect.proofs.processes import Progress, Watch
from ptinspect.proofs.script.compare import (
    Checkpoint,
    compare_runs,
    is_readable,
    volatile_keys,
    without_volatile,
)
from ptinspect.proofs.script.report import Kill, ScriptReport, Steps
from ptinspect.proofs.script.runs import Run, Workspace, check_system, split_command
from ptinspect.proofs.script.trace import Difference, Trace, first_difference, resumed_at
from ptinspect.text import count_text, join_names, shell_quoted, shell_word

TIMEOUT = 3600.0
"""Default for the seconds that one run of the command may take."""

_AVERAGE_WORDS = {"ema", "average", "averaged", "swa", "shadow"}
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

    The command runs four times, in copies of the current folder.

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
    check_system()
    words = list(command)
    again = split_command(resume_command) if resume_command is not None else words
    source = os.getcwd()
    _check_arguments(words, again, checkpoint, source)
    reproduce = _reproduce(words, checkpoint, resume_command, at, kill_during_save, timeout)
    with _work_folder(work) as root:
        workspace = Workspace(root, source, list(checkpoint), timeout)
        proof = _Proof(workspace, words, again, reproduce, progress)
        return proof.run(at, kill_during_save)


class _Proof:
    def __init__(
        self, workspace: Workspace, command: list[str], again: list[str], reproduce: str,
        progress: Watch | None,
    ) -> None:  # fmt: skip
        self.workspace = workspace
        self.command = command
        self.again = again
        self.reproduce = reproduce
        self.progress = progress
        self.notes: list[str] = []

    def run(self, at: int | None, in_save: bool) -> ScriptReport:
        whole, second = self._whole_run("first"), self._whole_run("second")
        repeated = compare_runs(whole.folder, whole.files, second.folder, second.files)
        volatile = volatile_keys(repeated)
        different, _, _ = without_volatile(repeated, volatile)
        difference = _first_of_ranks(whole.trace, second.trace, {})
        if different or difference is not None or whole.trace.steps != second.trace.steps:
            return self._not_deterministic(whole, second, different, difference)
        by_files = not whole.trace.steps
        save = _save_to_kill_at(whole, at, in_save)
        self._announce(f"to save {save}, and killed")
        self.workspace.copy_source()
        killed = self.workspace.run("killed", self.command, save, in_save, by_files)
        if killed.stopped is None:
            self._check_status(killed, "the run that was to be killed")
            raise PtInspectError(
                f"the command ended before it could be killed {'in' if in_save else 'after'} save "
                f"{save}" + (": it does not write with torch.save" if in_save else ""),
                hint="leave --kill-during-save out"
                if in_save
                else "give --at with a smaller number",
            )
        partial = [
            name
            for name in killed.files
            if not is_readable(os.path.join(killed.folder, name))
            and (name not in whole.files or is_readable(os.path.join(whole.folder, name)))
        ]
        kill = Kill(save, killed.stopped, partial)
        if kill.where == "memory":
            self.notes.append(
                "the script serializes in memory first; it was killed before it wrote a byte"
            )
        self._announce("started again")
        resumed = self.workspace.run("resumed", self.again)
        if resumed.status != 0 and in_save:
            return self._report(whole, "fails", kill=kill, output=resumed.output)
        self._check_status(resumed, "the command that starts it again")
        return self._compare(whole, killed, resumed, kill, volatile)

    def _whole_run(self, name: str) -> Run:
        self._announce(f"whole, the {name} time")
        self.workspace.copy_source()
        run = self.workspace.run(name, self.command)
        self._check_status(run, f"the {name} whole run")
        if not run.files:
            patterns = join_names(self.workspace.patterns)
            raise PtInspectError(
                f"the command wrote no file that matches {patterns}",
                hint=_output_hint(run) or "the globs are relative to the current folder",
            )
        folder = self.workspace.keep_as(name)
        return Run(
            folder, run.files, run.status, run.trace, run.started, None, run.output, run.saves
        )

    def _check_status(self, run: Run, which: str) -> None:
        if run.status:
            status = f"exit code {run.status}" if run.status > 0 else f"signal {-run.status}"
            message = f"the command failed ({status}; {which})"
            raise PtInspectError(message, hint=_output_hint(run))

    def _not_deterministic(
        self, whole: Run, second: Run, different: list[Checkpoint], difference: Difference | None
    ) -> ScriptReport:
        cause = "kernel"
        for rank, steps in whole.trace.ranks.items():
            others = second.trace.ranks.get(rank)
            if others and steps[0]["rng"]["torch"] != others[0]["rng"].get("torch"):
                cause = "no-seed"
        lines = whole.output + second.output
        kernels = re.findall(r"(\S+) does not have a deterministic implementation", " ".join(lines))
        if kernels:
            self.notes.append(f"torch has no deterministic way to do {join_names(set(kernels), 3)}")
        if whole.trace.steps != second.trace.steps:
            self.notes.append(f"{whole.trace.steps} steps, then {second.trace.steps}")
        return self._report(
            whole, "not-deterministic", first=difference, causes=[cause], different=different
        )

    def _compare(
        self, whole: Run, killed: Run, resumed: Run, kill: Kill, volatile: list[str]
    ) -> ScriptReport:
        starts = _starts(whole.trace, killed.trace, resumed.trace, kill)
        difference = _first_of_ranks(whole.trace, resumed.trace, starts)
        checkpoints = compare_runs(
            whole.folder, whole.files, resumed.folder, resumed.files, resumed.started
        )
        different, not_compared, generators = without_volatile(checkpoints, volatile)
        steps = _steps(whole.trace, killed.trace, resumed.trace, starts)
        if whole.trace.steps and not resumed.trace.ranks:
            self.notes.append("the command that starts it again made no optimizer step")
        if generators and not different:
            self.notes.append(
                f"{join_names(generators, 3)}: differs, and nothing that was compared depends on it"
            )
        from_start = steps is not None and steps.resumed_after == 0 and steps.resumed > 0
        miscounted = steps is not None and steps.resumed != steps.whole - steps.resumed_after
        verdict = "differs" if different or difference is not None or miscounted else "same"
        if verdict == "same" and from_start and kill.where in ("step", "files"):
            verdict = "not-resumed"
        elif verdict == "same" and from_start and kill.save > 1:
            verdict = "work-lost"
        if steps is not None and kill.where in ("save", "memory") and steps.resumed_after:
            lost = count_text(steps.killed - steps.resumed_after, "step")
            self.notes.append(f"it went on from an older checkpoint; {lost} done again")
        causes = []
        if verdict == "differs":
            causes = _causes(difference, steps if miscounted else None, different, kill, whole)
        return self._report(
            whole, verdict, first=difference, causes=causes, different=different,
            not_compared=not_compared, kill=kill, steps=steps,
        )  # fmt: skip

    def _report(
        self, whole: Run, verdict: str, *, first: Difference | None = None,
        causes: Sequence[str] = (), different: Sequence[Checkpoint] = (),
        not_compared: Sequence[str] = (), kill: Kill | None = None, steps: Steps | None = None,
        output: Sequence[str] = (),
    ) -> ScriptReport:  # fmt: skip
        if not whole.trace.steps:
            self.notes.append("no optimizer step of torch was recorded; only files were compared")
        self.notes += [f"the recorder gave up: {error}" for error in whole.trace.errors[:1]]
        return ScriptReport(
            command=" ".join(map(_command_word, self.command)),
            verdict=verdict,
            first=first,
            causes=list(causes),
            checkpoints=sorted(whole.files, key=lambda name: (whole.files[name][0], name)),
            different=list(different),
            not_compared=list(not_compared),
            kill=kill,
            steps=steps,
            notes=self.notes,
            environment=whole.trace.environment,
            output=list(output),
            reproduce=self.reproduce,
        )

    def _announce(self, text: str) -> None:
        if self.progress is not None:
            self.progress(Progress(f"running the command {text}"))


def _save_to_kill_at(whole: Run, at: int | None, in_save: bool) -> int:
    """Return the number of the save to kill at: about the middle of those that a step follows."""
    count = len(whole.trace.saves) if whole.trace.steps else whole.saves - 1
    if at is not None and at <= count + in_save:
        return at
    if count < 1 or at is not None:
        most = f"{count_text(max(count, 0), 'time')} before its last step" if count > 0 else (
            "only at its end"
        )  # fmt: skip
        raise PtInspectError(
            f"the command saves {most}, so it cannot be killed "
            + ("after a checkpoint" if at is None else f"at save {at}"),
            hint="give options with which it saves in between" if at is None else None,
        )
    middle = min(count, (count + 2) // 2)
    return max(middle, min(2, count)) if in_save else middle


def _starts(whole: Trace, killed: Trace, resumed: Trace, kill: Kill) -> dict[int, int]:
    """Return per rank how many steps of the whole run the resumed one leaves out."""
    starts = {}
    for rank, steps in whole.ranks.items():
        before = len(killed.ranks.get(rank, ()))
        start = resumed_at(steps, resumed.ranks.get(rank, []), before)
        saved = whole.saves[kill.save - 1][1] if len(whole.saves) >= kill.save else before
        starts[rank] = min(saved, len(steps)) if start is None else start
    return starts


def _steps(whole: Trace, killed: Trace, resumed: Trace, starts: dict[int, int]) -> Steps | None:
    """Return the steps of the first process whose number is wrong, else of the first one."""
    counts = [
        Steps(len(steps), len(killed.ranks.get(rank, ())), starts[rank],
              len(resumed.ranks.get(rank, ())))
        for rank, steps in sorted(whole.ranks.items())
    ]  # fmt: skip
    wrong = [steps for steps in counts if steps.resumed != steps.whole - steps.resumed_after]
    return next(iter([*wrong, *counts]), None)


def _first_of_ranks(whole: Trace, other: Trace, starts: dict[int, int]) -> Difference | None:
    """Return the earliest difference of all processes."""
    differences = []
    for rank, steps in sorted(whole.ranks.items()):
        found = first_difference(steps, other.ranks.get(rank, []), starts.get(rank, 0))
        if found is not None:
            where = f" (rank {rank})" if len(whole.ranks) > 1 else ""
            differences.append(
                Difference(found.step, found.what + where, found.kind, found.whole, found.other)
            )
    return min(differences, key=lambda difference: difference.step, default=None)


def _causes(
    difference: Difference | None, miscounted: Steps | None, different: list[Checkpoint],
    kill: Kill, whole: Run,
) -> list[str]:  # fmt: skip
    """Return the usual causes. A wrong number of steps explains other data and other rates."""
    causes = []
    if difference is not None and (
        miscounted is None or difference.kind in ("weights", "optimizer-state")
    ):
        causes.append(difference.kind)
    if miscounted is not None:
        left = miscounted.whole - miscounted.resumed_after
        causes.append("epoch-late" if miscounted.resumed < left else "epoch-early")
    if causes or not different:
        return causes
    if all(checkpoint.other is None for checkpoint in different):
        return ["no-checkpoint"]
    keys = [item.key.lower() for checkpoint in different for item in checkpoint.items]
    others = [key for key in keys if not _AVERAGE_WORDS & set(re.findall("[a-z]+", key))]
    if not others:
        return ["average"]
    if all(any(word in key for word in _BUFFER_WORDS) for key in others):
        return ["buffers"]
    if all("sched" in key for key in others):
        return ["scheduler"]
    return ["entries"]


def _output_hint(run: Run) -> str | None:
    return "its last output:\n    " + "\n    ".join(run.output) if run.output else None


def _check_arguments(
    command: list[str], again: list[str], patterns: Sequence[str], source: str
) -> None:
    if not command:
        raise PtInspectError("there is no command", hint="ptinspect check script ... -- COMMAND")
    if not patterns:
        raise PtInspectError("there is no --checkpoint", hint="give --checkpoint 'runs/*.pt'")
    for pattern in patterns:
        if os.path.isabs(pattern) or ".." in pattern.split("/"):
            raise PtInspectError(
                f"--checkpoint {pattern!r} is not below the current folder",
                hint="give a glob that is relative to it: the command runs in a copy",
            )
    for word in [*command, *again]:
        if source + os.sep in word and not word.startswith((f"{source}/.venv", f"{source}/venv")):
            raise PtInspectError(
                f"{word!r} is in the current folder, and the command runs in a copy of it",
                hint="give a path that is relative to the current folder",
            )


@contextmanager
def _work_folder(work: str | None) -> Iterator[str]:
    if work is None:
        with tempfile.TemporaryDirectory(prefix="ptinspect-") as folder:
            yield os.path.realpath(folder)
        return
    os.makedirs(work, exist_ok=True)
    if os.listdir(work):
        raise PtInspectError("the folder is not empty", path=work, hint="give --work a new folder")
    yield os.path.realpath(work)


def _reproduce(
    command: list[str], patterns: Sequence[str], resume_command: str | None, at: int | None,
    kill_during_save: bool, timeout: float,
) -> str:  # fmt: skip
    words = ["ptinspect check script"]
    words += [f"--checkpoint {shell_word(pattern)}" for pattern in patterns]
    if resume_command is not None:
        words.append(f"--resume-command {shell_quoted(resume_command)}")
    words += [f"--at {at}"] if at is not None else []
    words += ["--kill-during-save"] if kill_during_save else []
    words += [f"--timeout {timeout:g}"] if timeout != TIMEOUT else []
    return " ".join([*words, "--", *map(_command_word, command)])


def _command_word(word: str) -> str:
    return word if word.startswith("-") and shell_word(word[1:]) == word[1:] else shell_word(word)
