"""Child processes for proofs: one server that has imported torch, and for each job a new process
of its own. This process never imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

from ptinspect.errors import PtInspectError, UnsupportedError

TIMEOUT = 600.0
"""Seconds that a job may take, unless the user says otherwise."""

SERVER = ("-m", "ptinspect.proofs.worker")
"""What the server is started with."""

TAIL = 1 << 16
"""Bytes of what a job printed that are looked at: its last ones."""


class Progress(NamedTuple):
    """What a proof is doing. text: in words. step, total, loss: of the training that runs, once it
    has made a step."""

    text: str
    step: int = 0
    total: int = 0
    loss: float | None = None


Watch = Callable[[Progress], None]


class Workers:
    """A context manager. timeout: seconds per job. watch: is told how far a job is. Its folder, for
    files between jobs, is removed at the end."""

    def __init__(self, timeout: float = TIMEOUT, watch: Watch | None = None) -> None:
        self.timeout = timeout
        self.watch = watch
        self._text = ""
        self._server: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="ptinspect-")
        self._numbers = 0
        self.jobs = 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server and removes the folder."""
        server, self._server = self._server, None
        if server is not None:
            if server.stdin is not None:
                server.stdin.close()
            server.terminate()  # it takes a running job along
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            if server.stdout is not None:
                server.stdout.close()
        self._folder.cleanup()

    def say(self, text: str) -> None:
        """What the next jobs are for."""
        self._text = text
        if self.watch is not None:
            self.watch(Progress(text))

    def file(self, ending: str) -> str:
        """A new name in the folder."""
        self._numbers += 1
        return os.path.join(self._folder.name, f"{self._numbers}{ending}")

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer of a job. UnsupportedError where torch is missing; PtInspectError where the
        process crashed, took too long, or says that it cannot."""
        answer, log = self.file(".json"), self.file(".log")
        done = self._ask(
            {
                "job": job,
                "answer": answer,
                "log": log,
                "timeout": self.timeout,
                "memory": memory(),
                "progress": self.file(".step") if self.watch else None,
            }
        )
        self.jobs += 1
        if done.get("ended") == "late":
            raise PtInspectError(
                f"the child process took more than {self.timeout:g} seconds, and was ended",
                hint="give --timeout SECONDS, or fewer --steps",
            )
        if done.get("ended") == "log":
            raise PtInspectError(
                "the child process printed more than 64 MB, and was ended", hint=_hint(log)
            )
        if done["status"] != 0:
            raise PtInspectError(_crash(done["status"], log), hint=_hint(log))
        try:
            with open(answer, encoding="utf-8") as file:
                made: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            raise PtInspectError(
                "the child process ended before it had an answer", hint=_hint(log)
            ) from None
        os.unlink(answer)
        if "cannot" in made:
            raise PtInspectError(made["cannot"], hint=made["hint"])
        return made

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """What became of it. Until then it is told how far it is."""
        server = self._server or self._start()
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
        except BrokenPipeError:
            raise self._ended(server) from None
        for line in server.stdout:
            made: dict[str, Any] = json.loads(line)
            if "status" in made:
                return made
            if self.watch is not None:
                self.watch(Progress(self._text, made["step"], made["total"], made["loss"]))
        raise self._ended(server)

    def _ended(self, server: subprocess.Popen[str]) -> PtInspectError:
        """Why there is no server any more."""
        server.wait()
        self._server = None
        text = _text(self._log)
        if "No module named 'torch'" in text:
            return UnsupportedError("torch is not installed", hint="pip install torch")
        return PtInspectError(f"the child process ended: {_last(text) or server.returncode}")

    def _start(self) -> subprocess.Popen[str]:
        self._log = self.file(".log")
        env = {
            **os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONHASHSEED": "0",
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for CUDA does not begin it
            "PYTHONPATH": os.pathsep.join([_root(), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }  # fmt: skip
        with open(self._log, "w", encoding="utf-8") as log:
            self._server = subprocess.Popen(
                [sys.executable, *SERVER],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env,
            )  # fmt: skip
        return self._server


def _root() -> str:
    """Where the package lies, for a process that starts elsewhere."""
    here = os.path.abspath(__file__)
    return os.path.dirname(os.path.dirname(os.path.dirname(here)))


def memory() -> int | None:
    """The machine's memory in bytes, which no job may exceed; None where that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _text(log: str) -> str:
    """The end of what was printed."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _crash(status: int, log: str) -> str:
    if status < 0:
        import signal

        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if name == "SIGKILL":
            return "the child process was killed (SIGKILL), as systems do when memory runs out"
        return f"the child process crashed ({name})"
    text = _text(log)
    if "MemoryError" in text or "DefaultCPUAllocator: can't allocate" in text:
        return "the child process needed more memory than there is"
    return f"the child process failed: {_last(text) or f'exit code {status}'}"


def _hint(log: str) -> str | None:
    from ptinspect.display.text.escape import cut

    lines = [cut(line.rstrip()) for line in _text(log).strip().splitlines()[-6:]]
    return "it said:\n    " + "\n    ".join(lines) if lines else None


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""
