"""Runs the user's script in a copy of its folder: whole, killed at a checkpoint, started again."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from ptinspect.display.text.escape import cut
from ptinspect.errors import PtInspectError
from ptinspect.proofs.script import recorder
from ptinspect.proofs.script.recorder import FileState, checkpoint_files
from ptinspect.proofs.script.trace import Trace, read_trace, recorded_processes
from ptinspect.text import size_text

POLL = 0.02
"""Seconds between two looks at the script and its files."""

SETTLE = 0.3
"""Seconds without a change after which the checkpoint files are taken as written."""

MAX_OUTPUT = 64 << 20
"""Bytes that a run may print."""

MAX_COPY = 10 << 30
"""Bytes of the working folder that are copied."""

NOT_COPIED = ("__pycache__", ".git", ".hg", ".venv", "venv", "node_modules", ".pytest_cache")
"""Folders that a script does not need."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the command that ended, or was killed.

    Attributes:
        folder: the copy of the working folder that it left behind.
        files: the checkpoint files in it.
        status: exit code; None if it was killed at a checkpoint.
        stopped: `step`, `save`, `memory` or `files`: where it was when it was killed.
        output: its last lines on standard error, or on standard output.
        saves: changes of the checkpoint files, as seen from outside.
    """

    folder: str
    files: FileState
    status: int | None
    trace: Trace
    started: int
    stopped: str | None
    output: list[str]
    saves: int


@dataclass(slots=True)
class Workspace:
    """A folder with the copies, logs and traces of all runs.

    All runs use one path, one after another, so that paths in a checkpoint do not differ.
    """

    root: str
    source: str
    patterns: list[str]
    timeout: float

    @property
    def folder(self) -> str:
        """The copy in which the command runs."""
        return os.path.join(self.root, "run")

    def copy_source(self) -> None:
        """Copy the working folder, without old checkpoints, to where the next run starts."""
        total = 0
        old = {
            os.path.relpath(match, self.source)
            for pattern in self.patterns
            for match in glob.glob(os.path.join(glob.escape(self.source), pattern), recursive=True)
        }

        def ignore(folder: str, names: list[str]) -> set[str]:
            nonlocal total
            left_out = set()
            for name in names:
                path = os.path.join(folder, name)
                if (
                    name in NOT_COPIED
                    or os.path.relpath(path, self.source) in old
                    or os.path.realpath(path) == os.path.realpath(self.root)
                ):
                    left_out.add(name)
                elif os.path.isfile(path):
                    total += os.path.getsize(path)
                elif not os.path.isdir(path):  # a socket, or a link to nothing
                    left_out.add(name)
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
            first = error.args[0][0]
            raise PtInspectError(f"cannot be copied: {first[2]}", path=first[0]) from None

    def keep_as(self, name: str) -> str:
        """Rename the folder of the last run, and return its new path."""
        path = os.path.join(self.root, name)
        os.rename(self.folder, path)
        return path

    def run(
        self, name: str, command: list[str], stop_at: int | None = None, in_save: bool = False,
        by_files: bool = False,
    ) -> Run:  # fmt: skip
        """Run a command to its end, or kill it at a checkpoint.

        Args:
            stop_at: number of the save to kill it at; None to let it end.
            in_save: kill it inside that save, not after it.
            by_files: count the saves from outside, for a script that records no steps.
        """
        trace_folder = os.path.join(self.root, f"{name}-trace")
        os.makedirs(trace_folder)
        settings: dict[str, object] = {
            "trace": trace_folder, "folder": self.folder, "patterns": self.patterns,
            "stop_in_save" if in_save else "stop_at": stop_at,
        }  # fmt: skip
        files = checkpoint_files(self.folder, self.patterns)
        started, output = time.time_ns(), os.path.join(self.root, f"{name}.log")
        with open(output, "wb") as log, open(f"{output}.err", "wb") as errors:
            try:
                process = subprocess.Popen(
                    command, cwd=self.folder, env=self._environment(settings),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=errors, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                reason = f"the command cannot be started: {error.strerror or error}"
                raise PtInspectError(reason, path=command[0]) from None
        watch = _Watch(self, process, trace_folder, output, files)
        try:
            stopped = watch.wait(stop_at if by_files else None)
        finally:
            _kill(process, trace_folder)
        files = checkpoint_files(self.folder, self.patterns)
        return Run(
            self.folder, files, None if stopped else process.returncode, read_trace(trace_folder),
            started, stopped, _last_lines(output), watch.saves,
        )  # fmt: skip

    def _environment(self, settings: dict[str, object]) -> dict[str, str]:
        hooks = os.path.join(self.root, "hooks")
        if not os.path.exists(hooks):
            os.makedirs(hooks)
            shutil.copyfile(recorder.__file__, os.path.join(hooks, "sitecustomize.py"))
        paths = [hooks, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths), recorder.SETTINGS: json.dumps(settings),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONHASHSEED": "0",
        }  # fmt: skip


@dataclass(slots=True)
class _Watch:
    """Waits for a run, and counts the changes of its checkpoint files."""

    workspace: Workspace
    process: subprocess.Popen[bytes]
    trace: str
    output: str
    files: FileState
    saves: int = 0

    def wait(self, stop_at: int | None) -> str | None:
        """Return None at the end of the process, or where it can be killed now.

        Args:
            stop_at: changes of the files after which it can be killed; None if it stops itself.
        """
        deadline = time.monotonic() + self.workspace.timeout
        paused, changed, pending = os.path.join(self.trace, recorder.PAUSED), 0.0, False
        while True:
            ended = self.process.poll() is not None
            now = time.monotonic()
            files = checkpoint_files(self.workspace.folder, self.workspace.patterns)
            if files != self.files:
                self.files, changed, pending = files, now, True
            elif pending and (ended or now - changed > 3 * POLL):
                self.saves, pending = self.saves + 1, False
            settled = now - changed > SETTLE
            if ended and not pending:
                return None
            if settled and os.path.exists(paused):
                with open(paused, encoding="utf-8") as file:
                    return str(json.load(file)["where"])
            if self.saves == stop_at:
                return "files"
            if now > deadline:
                raise PtInspectError(
                    f"the command took more than {self.workspace.timeout:g} seconds and was killed",
                    hint="give --timeout SECONDS, or a command that trains for fewer steps",
                )
            logs = (self.output, f"{self.output}.err")
            if sum(map(os.path.getsize, logs)) > MAX_OUTPUT:
                raise PtInspectError(
                    f"the command printed more than {size_text(MAX_OUTPUT)} and was killed"
                )
            time.sleep(POLL)


def _kill(process: subprocess.Popen[bytes], trace: str) -> None:
    """Kill the command's process group, and those of its Python processes in other sessions.

    torchrun starts each worker in a session of its own, which outlives it.
    """
    for pid, session in [*recorded_processes(trace), (process.pid, process.pid)]:
        with contextlib.suppress(OSError):  # it has ended
            if session == os.getsid(pid):
                os.killpg(os.getpgid(pid), signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_lines(output: str) -> list[str]:
    for path in (f"{output}.err", output):
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - (1 << 14)))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        if lines:
            return [cut(line.rstrip()) for line in lines[-6:]]
    return []


def split_command(text: str) -> list[str]:
    """Return the words of a command line."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise PtInspectError(f"--resume-command cannot be read: {error}") from None
    if not words:
        raise PtInspectError("--resume-command is empty")
    return words


def check_system() -> None:
    """Raise an error where processes cannot be killed as a group."""
    if sys.platform == "win32":
        raise PtInspectError("`check script` needs SIGKILL and process groups, as Linux has them")
