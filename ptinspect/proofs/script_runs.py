"""Runs the user's script in a copy of its folder, and reads and compares the recorded steps."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from ptinspect.errors import PtInspectError
from ptinspect.proofs.processes import kill_script, log_tail
from ptinspect.proofs.worker import recorder
from ptinspect.proofs.worker.recorder import FileState, checkpoint_files
from ptinspect.text import size_text

# Seconds between two looks at the script and its files.
POLL = 0.02
# Seconds without a change after which the checkpoint files count as written.
SETTLE = 0.3
# Bytes that a run may print.
MAX_OUTPUT = 64 << 20
# Bytes of the working folder that are copied.
MAX_COPY = 10 << 30
# Characters of the path of the folder for temporary files.
MAX_TEMPORARY = 60
# Folders that a script does not need.
NOT_COPIED = ("__pycache__", ".git", ".hg", ".venv", "venv", "node_modules", ".pytest_cache")


Record = dict[str, Any]

# Samplers of torch that draw from its global generator if they have none of their own.
_SHUFFLERS = ("RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler")


@dataclass(slots=True)
class Trace:
    """The steps of a run by rank, the number of steps before each save, and the process and session
    ids of all Python processes."""

    ranks: dict[int, list[Record]] = field(default_factory=dict)
    saves: list[int] = field(default_factory=list)
    processes: list[tuple[int, int]] = field(default_factory=list)
    environment: Record | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps of the process that made the most."""
        return max(map(len, self.ranks.values()), default=0)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between two runs: the step of the whole run (from 1), such as `lr before
    step 9`, the kind of its usual cause, and both values if they can be shown."""

    step: int
    what: str
    kind: str
    whole: str | None = None
    other: str | None = None

    def __str__(self) -> str:
        return self.what + (f": {self.other}, not {self.whole}" if self.whole is not None else "")


def read_trace(folder: str) -> Trace:
    """Return what the processes of a run recorded. A line that was cut by the kill is dropped."""
    trace = Trace()
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".jsonl")):
        rank, loader, saves = 0, None, list[int]()
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            lines = [line for line in file if line.endswith("\n")]
        for record in map(json.loads, lines):
            if "session" in record:
                trace.processes.append((record["pid"], record["session"]))
            elif "rank" in record:
                rank = record["rank"]
                trace.environment = trace.environment or record["environment"]
            elif "sampler" in record:
                loader = record
            elif "saved_after" in record:
                saves.append(record["saved_after"])
            elif "weights" in record:
                trace.ranks.setdefault(rank, []).append({**record, "loader": loader})
            elif "error" in record:
                trace.errors.append(record["error"])
        trace.saves = max(trace.saves, saves, key=len)
    return trace


def resumed_at(whole: list[Record], resumed: list[Record], killed_after: int) -> int | None:
    """Return how many steps of the whole run came before the first step of the resumed one.

    The weights say which step it is; if several have them, the optimizer's state, then the kill.
    """
    matches = [
        ((record["state"] == resumed[0]["state"], number <= killed_after), number)
        for number, record in enumerate(whole)
        if resumed and record["weights"] == resumed[0]["weights"]
    ]
    return max(matches, default=(None, None))[1]


def first_difference(whole: list[Record], other: list[Record], start: int) -> Difference | None:
    """Return the first difference between a whole run and one that goes on after `start` steps."""
    for index, (a, b) in enumerate(zip(whole[start:], other, strict=False), start):
        step = index + 1
        if a["weights"] != b["weights"]:
            return Difference(step, f"the weights before step {step}", "weights")
        if a["state"] != b["state"]:
            what, texts = f"the optimizer's state before step {step}", list[str]()
            if a["states"] != b["states"]:
                texts = [f"of {a['states']}", f"of {b['states']} parameters"]
            return Difference(step, what, "optimizer-state", *texts)
        setting = _first_setting(whole, start, index, b)
        if setting is not None:
            return setting
        if a["gradients"] != b["gradients"]:
            kind, what = _why_gradients_differ(whole, index, b)
            return Difference(step, what, kind)
    return None


def _first_setting(whole: list[Record], start: int, index: int, other: Record) -> Difference | None:
    """Return the first setting of a parameter group that differs before a step."""
    same = [n for n in range(index) if whole[n]["optimizer"] == other["optimizer"]]
    groups = list(zip(whole[index]["settings"], other["settings"], strict=False))
    for number, (a, b) in enumerate(groups):
        for name in sorted(a, key=lambda name: name != "lr"):
            value = b.get(name, a[name])
            if a[name] != value and not (isnan(a[name]) and isnan(value)):
                group = f" of group {number}" if len(groups) > 1 else ""
                # The first step after the resume has the rate of the last one before it.
                late = [n for n in same[-1:] if n < start and number < len(whole[n]["settings"])]
                rates = [whole[n]["settings"][number].get(name) for n in late]
                kind = "scheduler-late" if rates == [b[name]] else "scheduler"
                kind = kind if name == "lr" else "settings"
                what = f"{name}{group} before step {index + 1}"
                return Difference(index + 1, what, kind, f"{a[name]:.6g}", f"{b[name]:.6g}")
    return None


def _why_gradients_differ(whole: list[Record], index: int, other: Record) -> tuple[str, str]:
    """Return the kind and the description of what differs, if nothing else does before the step."""
    here, step = whole[index], index + 1
    changed = [name for name, state in here["rng"].items() if state != other["rng"].get(name)]
    batch = other["batch"]
    if batch == here["batch"]:
        # The model draws random numbers in each step, not only the data at the start of an epoch.
        # Without a known batch either may: then what nobody draws from is left out.
        around = whole[max(index - 1, 0) : index + 2] if batch else whole
        least = len(around) if batch else 1 + bool(index)
        states = {name: {record["rng"].get(name) for record in around} for name in changed}
        changed = [name for name in changed if len(states[name]) >= least]
        return _rng(changed, step) or ("gradients", f"the gradients of step {step}")
    what = f"the batch of step {step}"
    a, b = here["loader"], other["loader"]
    if a and b:
        if "torch" in changed and a["sampler"] in _SHUFFLERS and a["generator"] is None:
            return "rng", f"torch's RNG at step {step}"
        if a["epoch"] != b["epoch"]:
            epochs = f"{b['epoch']}, not {a['epoch']}"
            return "sampler-epoch", f"{what} ({a['sampler']}.epoch: {epochs})"
        if a["generator"] != b["generator"]:
            return "generator", f"the state of the DataLoader's generator at step {step}"
    for number, record in enumerate(whole):
        if record["batch"] == batch:
            kind = "data-again" if number < index else "data-skipped"
            return kind, f"{what}, which is that of step {number + 1}"
    return _rng(changed, step) or ("data-order", what)


def _rng(changed: list[str], step: int) -> tuple[str, str] | None:
    names = " and ".join(f"{name}'s" for name in changed)
    return ("rng", f"{names} RNG at step {step}") if changed else None


# --- Runs ---


@dataclass(slots=True)
class Run:
    """A run of the command that ended, or was killed where `stopped` says.

    `output` is the end of what it printed, `saves` counts the changes of the checkpoint files as
    seen from outside.
    """

    folder: str
    files: FileState
    trace: Trace
    status: int
    stopped: str | None
    output: str
    saves: int
    started: int


@dataclass(slots=True)
class Workspace:
    """A folder with the copies, logs and traces of all runs. Of `old` files, there is no copy.

    All runs use one path, one after another, so that paths in a checkpoint do not differ.
    """

    root: str
    source: str
    patterns: list[str]
    timeout: float
    old: list[str] = field(default_factory=list)

    @property
    def folder(self) -> str:
        """The copy in which the command runs."""
        return os.path.join(self.root, "run")

    def copy_source(self) -> None:
        """Copy the working folder, without old checkpoints, to where the next run starts."""
        starts = [os.path.join(glob.escape(self.source), pattern) for pattern in self.patterns]
        old = {path for start in starts for path in glob.glob(start, recursive=True)}
        self.old = sorted(os.path.relpath(path, self.source) for path in old)
        total = 0

        def ignore(folder: str, names: list[str]) -> list[str]:
            nonlocal total
            left_out = []
            for name in names:
                path = os.path.join(folder, name)
                is_file, is_folder = os.path.isfile(path), os.path.isdir(path)
                real = os.path.realpath(path)
                is_loop = path.startswith(real + os.sep) or real == self.root
                # What is neither a file nor a folder is a socket, or a link to nothing.
                if name in NOT_COPIED or path in old or is_loop or not (is_file or is_folder):
                    left_out.append(name)
                elif is_file:
                    total += os.path.getsize(path)
            if total > MAX_COPY:
                raise PtInspectError(
                    f"the folder has more than {size_text(MAX_COPY)} to copy", path=self.source,
                    hint="start from a folder that has only the script, and name data elsewhere "
                    "by absolute paths",
                )  # fmt: skip
            return left_out

        try:
            shutil.copytree(self.source, self.folder, ignore=ignore)
        except shutil.Error as error:
            path, _, reason = error.args[0][0]
            raise PtInspectError(f"cannot be copied: {reason}", path=path) from None

    def run(
        self, name: str, command: list[str], stop_at: int | None = None, in_save: bool = False,
        by_files: bool = False,
    ) -> Run:  # fmt: skip
        """Run a command to its end, or kill it after (`in_save`: inside) the save `stop_at`.

        A script that records no steps is killed `by_files`, as they are seen from outside.
        """
        trace, output = (os.path.join(self.root, name + suffix) for suffix in ("-trace", ".log"))
        os.makedirs(trace)
        settings = {
            "trace": trace, "folder": self.folder, "patterns": self.patterns,
            "stop_in_save" if in_save else "stop_at": stop_at,
        }  # fmt: skip
        before, started = checkpoint_files(self.folder, self.patterns), time.time_ns()
        environment = self._environment(json.dumps(settings))
        if command[0].split(os.sep)[0] in NOT_COPIED:  # such as .venv/bin/python
            command = [os.path.join(self.source, command[0]), *command[1:]]
        with open(output, "wb") as log, open(f"{output}.err", "wb") as errors:
            try:
                process = subprocess.Popen(
                    command, cwd=self.folder, env=environment,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=errors, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                reason = f"the command cannot be started: {error.strerror or error}"
                hint = "leave out the quotes around it" if " " in command[0] else None
                raise PtInspectError(reason, path=command[0], hint=hint) from None
        with open(os.path.join(trace, "command.jsonl"), "w", encoding="utf-8") as header:
            header.write(json.dumps({"pid": process.pid, "session": process.pid}) + "\n")
        try:
            stopped, saves = self._wait(
                process, trace, output, before, stop_at if by_files else None
            )
        finally:
            kill_script(self.root, recorder.SETTINGS)
            process.wait()
        files = checkpoint_files(self.folder, self.patterns)
        return Run(
            self.folder, files, read_trace(trace), process.returncode, stopped,
            log_tail(f"{output}.err") or log_tail(output), saves, started,
        )  # fmt: skip

    def _environment(self, settings: str) -> dict[str, str]:
        hooks = os.path.join(self.root, "hooks")
        os.makedirs(hooks, exist_ok=True)
        shutil.copyfile(recorder.__file__, os.path.join(hooks, "sitecustomize.py"))
        paths = [hooks, *filter(None, [os.environ.get("PYTHONPATH")])]
        temporary = os.path.join(self.root, "tmp")
        os.makedirs(temporary, exist_ok=True)
        # Sockets have short paths: a long one leaves the default.
        own = {"TMPDIR": temporary} if len(temporary) < MAX_TEMPORARY else {}
        return {
            **own, **os.environ, "PYTHONPATH": os.pathsep.join(paths), recorder.SETTINGS: settings,
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONHASHSEED": "0",
        }  # fmt: skip

    def _wait(
        self, process: subprocess.Popen[bytes], trace: str, output: str, files: FileState,
        stop_at: int | None,
    ) -> tuple[str | None, int]:  # fmt: skip
        """Wait until a run has ended, or has paused to be killed, or its files changed `stop_at`
        times. Return where it paused, and how often its files changed."""
        deadline, changed, pending, saves = time.monotonic() + self.timeout, 0.0, False, 0
        while True:
            ended, now = process.poll() is not None, time.monotonic()
            previous, files = files, checkpoint_files(self.folder, self.patterns)
            if files != previous:
                changed, pending = now, True
            elif pending and (ended or now - changed > 3 * POLL):
                saves, pending = saves + 1, False
            if ended and not pending:
                return None, saves
            paused = [name for name in os.listdir(trace) if name.endswith(recorder.PAUSED)]
            if paused and now - changed > SETTLE:
                return paused[0].removesuffix(recorder.PAUSED), saves
            if saves == stop_at:
                return "files", saves
            if now > deadline:
                raise PtInspectError(
                    f"the command took more than {self.timeout:g} seconds and was killed",
                    hint="give --timeout SECONDS, or a command that trains for fewer steps",
                )
            if os.path.getsize(output) + os.path.getsize(f"{output}.err") > MAX_OUTPUT:
                limit = size_text(MAX_OUTPUT)
                raise PtInspectError(f"the command printed more than {limit} and was killed")
            time.sleep(POLL)
