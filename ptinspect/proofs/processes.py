"""Child processes for proofs.

One server imports torch; each job runs in a new process of its own. This process never imports
torch.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ptinspect.errors import PtInspectError, UnsupportedError
from ptinspect.text import cut

# Default for the seconds that a job may take.
TIMEOUT = 600.0
KILL_ROUNDS = 100  # with 20 ms between them
SERVER = ("-m", "ptinspect.proofs.worker")
# Bytes at the end of a job's log that are searched for the reason of a failure.
LOG_TAIL = 1 << 16
# Runs `guard` without the user's packages and settings.
GUARD = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ptinspect.proofs import processes"
OUT_OF_MEMORY = ("MemoryError", "DefaultCPUAllocator: can't allocate", "CUDA out of memory")


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a proof, for a progress bar. `total` is 0 before the training's first step."""

    text: str
    step: int = 0
    total: int = 0
    loss: float | None = None


class JobError(PtInspectError):
    """A job ran, and its answer is that it cannot be done. Its process did not fail."""


Watch = Callable[[Progress], None]


@contextmanager
def guarded_folder(work: str | None = None, variable: str = "") -> Iterator[str]:
    """Yield `work`, or a new folder that is deleted after the block or when this process is killed.

    Another process deletes it, after `kill_script`. It is in a session of its own, so that no
    signal to this one's group reaches it.
    """
    folder = os.path.realpath(work or tempfile.mkdtemp(prefix="ptinspect-"))
    arguments = [_package_root(), folder, variable, "" if work else "delete"]
    command = [sys.executable, "-I", "-S", "-c", f"{GUARD}; processes.guard()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield folder


def guard() -> None:
    """Wait for the end of standard input, which is the end of the process that started this one.
    Then kill what runs a script in its folder, and delete the folder."""
    folder, variable, delete = sys.argv[1:]
    sys.stdin.read()
    if variable:
        kill_script(folder, variable)
    if delete:
        shutil.rmtree(folder, ignore_errors=True)


def kill_script(folder: str, variable: str) -> None:
    """Kill all processes of the script that runs in a folder.

    torchrun starts each worker in a session of its own. The newest trace has the ids of the
    command and of all Python processes; Linux lists the environment of the others, too.
    """
    traces = glob.glob(os.path.join(glob.escape(folder), "*-trace"))
    for trace in sorted(traces, key=os.path.getmtime)[-1:]:
        for name in os.listdir(trace):
            with suppress(OSError, ValueError), open(os.path.join(trace, name), "rb") as file:
                process = json.loads(file.readline())
                if os.getsid(process["pid"]) == process["session"]:
                    os.killpg(os.getpgid(process["pid"]), signal.SIGKILL)
    start = f"{variable}=".encode()
    inside = json.dumps(os.path.join(folder, ""))[1:-1].encode()  # as it is in the settings
    for _ in range(KILL_ROUNDS):  # until they are gone, with what they started meanwhile
        is_done = True
        for path in glob.glob("/proc/[0-9]*/environ"):
            with suppress(OSError), open(path, "rb") as file:
                if any(v.startswith(start) and inside in v for v in file.read().split(b"\0")):
                    os.kill(int(path.split("/")[2]), signal.SIGKILL)
                    is_done = False
        if is_done:
            break
        time.sleep(0.02)


def _package_root() -> str:
    """Return the folder from which a child process can import ptinspect."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Workers:
    """Runs jobs in child processes, one at a time. Use it as a context manager."""

    def __init__(self, timeout: float = TIMEOUT, watch: Watch | None = None) -> None:
        self.timeout = timeout
        self.watch = watch
        self.jobs = 0
        self._description = ""
        self._server: subprocess.Popen[str] | None = None
        self._resources = ExitStack()
        self._folder = self._resources.enter_context(guarded_folder())
        self._file_count = 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and delete the folder with the jobs' files."""
        server, self._server = self._server, None
        if server is not None:
            if server.stdin is not None:
                server.stdin.close()
            server.terminate()  # the server ends its running job first
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            if server.stdout is not None:
                server.stdout.close()
        self._resources.close()

    def announce(self, description: str) -> None:
        """Set the description of the following jobs and report it as progress."""
        self._description = description
        if self.watch is not None:
            self.watch(Progress(description))

    def new_path(self, suffix: str) -> str:
        """Return a new path in the folder that `close` deletes."""
        self._file_count += 1
        return os.path.join(self._folder, f"{self._file_count}{suffix}")

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        answer_path, log = self.new_path(".json"), self.new_path(".log")
        request = {
            "job": job, "answer": answer_path, "log": log, "timeout": self.timeout,
            "progress": self.watch is not None,
        }  # fmt: skip
        server, outcome = self._server or self._start(), dict[str, Any]()
        assert server.stdin is not None
        assert server.stdout is not None
        with suppress(BrokenPipeError):
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
        for line in server.stdout:
            outcome = json.loads(line)
            if "status" in outcome:
                break
            if self.watch is not None:
                step, total, loss = outcome["step"], outcome["total"], outcome["loss"]
                self.watch(Progress(self._description, step, total, loss))
        if "status" not in outcome:  # the server has ended
            server.wait()
            self._server = None
            raise failure_error(server.returncode, log_tail(self._server_log))
        self.jobs += 1
        output = log_tail(log)
        if outcome.get("ended") == "timeout":
            raise timeout_error(self.timeout, hint="give --timeout SECONDS, or fewer --steps")
        if outcome.get("ended") == "log":
            message = "the child process printed more than 64 MB and was stopped"
            raise PtInspectError(message, hint=log_hint(output))
        if outcome["status"] != 0:
            raise failure_error(outcome["status"], output, hint=log_hint(output))
        try:
            with open(answer_path, encoding="utf-8") as file:
                answer: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            message = "the child process ended without an answer"
            raise PtInspectError(message, hint=log_hint(output)) from None
        os.unlink(answer_path)
        if "retry" in answer:
            return self.run({**job, "options": {**job["options"], **answer["retry"]}})
        if "cannot" in answer:
            raise JobError(answer["cannot"], hint=answer["hint"])
        return answer

    def _start(self) -> subprocess.Popen[str]:
        self._server_log = self.new_path(".log")
        python_path = [_package_root(), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            **os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONHASHSEED": "0",
            # torch.cuda.is_available() then does not initialize CUDA, which would break forks.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
            "PYTHONPATH": os.pathsep.join(python_path),
        }  # fmt: skip
        with open(self._server_log, "w", encoding="utf-8") as log:
            self._server = subprocess.Popen(
                [sys.executable, *SERVER],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env,
            )  # fmt: skip
        return self._server


@contextmanager
def worker_pool(
    workers: Workers | None, timeout: float, progress: Watch | None
) -> Iterator[Workers]:
    """Yield `workers` if there are any, else new ones that end with the block."""
    if workers is None:
        with Workers(timeout, progress) as new_workers:
            yield new_workers
        return
    previous_watch, workers.watch = workers.watch, progress
    try:
        yield workers
    finally:
        workers.watch = previous_watch


def log_tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def last_lines(tail: str) -> list[str]:
    return [cut(line.rstrip()) for line in tail.splitlines()[-6:]]


def log_hint(tail: str) -> str | None:
    """Return the last lines of a log as a hint, None if there are none."""
    return "\n    ".join(["its last output:", *last_lines(tail)]) if tail else None


def timeout_error(timeout: float, hint: str | None = None) -> PtInspectError:
    message = f"the child process took more than {timeout:g} seconds and was stopped"
    return PtInspectError(message, hint=hint)


def failure_error(status: int, output: str, hint: str | None = None) -> PtInspectError:
    for package in ("torch", "safetensors"):
        if f"No module named '{package}'" in output:
            return UnsupportedError(f"{package} is not installed", hint=f"pip install {package}")
    lines = output.strip().splitlines()
    last_line = lines[-1].strip()[:300] if lines else f"exit code {status}"
    reason = f"failed: {last_line}"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        reason = f"crashed ({name})"
        if name == "SIGKILL":
            reason = "was killed (SIGKILL), as systems do when memory runs out"
    elif any(words in output for words in OUT_OF_MEMORY):
        reason = "needed more memory than there is"
        hint = f"use smaller batches, or --device cpu; {hint}"
    elif "CUDA error" in output:
        hint = f"set CUDA_LAUNCH_BLOCKING=1 to see where, or give --device cpu; {hint}"
    return PtInspectError(f"the child process {reason}", hint=hint)
