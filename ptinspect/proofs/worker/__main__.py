"""The server: imports torch once, then runs each job in a new process.

If the system can fork, a job's process is a fork of this one, which has done nothing but import
torch; otherwise it is a new Python process. Requests and outcomes are lines of JSON on standard
input and output. A job writes its progress there as well, and its answer to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from typing import IO, Any

from ptinspect.errors import shell_options
from ptinspect.proofs.worker import progress_files

# Bytes that a job may print before it is stopped, so that it cannot fill the disk.
MAX_LOG = 64 << 20


def serve() -> None:
    """Run jobs until standard input or the parent process ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what user code prints must not end up in the channel
    sys.dont_write_bytecode = True  # the user's folder stays as it is
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when the server ends
    parent = os.getppid()
    preload()
    for line in sys.stdin:
        request = json.loads(line)
        job = (ForkedJob if hasattr(os, "fork") else start_job)(request, channel)
        signal.signal(signal.SIGTERM, lambda *_, job=job: (job.kill(), os._exit(1)))
        outcome = wait_for(job, request, parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        channel.write(json.dumps(outcome) + "\n")
        channel.flush()


def preload() -> None:
    """Import what every job needs.

    Nothing is computed and CUDA is not queried, because neither threads nor CUDA survive a fork.
    """
    import torch
    import torch.utils.data

    import ptinspect.proofs.worker.jobs  # noqa: F401

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)  # imports much on first use


class ForkedJob:
    """A job in a fork of this process. Its process group ends with it."""

    def __init__(self, request: dict[str, Any], channel: IO[str]) -> None:
        self.process = os.fork()
        if not self.process:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(channel.fileno(), 1)
            os.close(channel.fileno())
            run_once(request)

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def kill(self) -> None:
        for kill in (os.killpg, os.kill):
            try:
                kill(self.process, signal.SIGKILL)
            except OSError:  # the group does not exist yet, or the process has ended
                continue
        os.waitpid(self.process, 0)


def start_job(request: dict[str, Any], channel: IO[str]) -> subprocess.Popen[str]:
    """Return a job in a new Python process."""
    command = [sys.executable, "-m", "ptinspect.proofs.worker", "--one"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=channel, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    return process


def wait_for(
    job: ForkedJob | subprocess.Popen[str], request: dict[str, Any], parent: int
) -> dict[str, Any]:
    """Wait until a job has ended, and return its outcome.

    A job that takes too long or prints too much is killed. If the parent process is gone, so is
    this one.
    """
    deadline, pause = time.monotonic() + request["timeout"], 0.002
    while (status := job.poll()) is None:
        log_size = 0
        with contextlib.suppress(OSError):  # the job has not opened it yet
            log_size = os.stat(request["log"]).st_size
        if log_size > MAX_LOG or time.monotonic() > deadline:
            job.kill()
            return {"status": -9, "ended": "log" if log_size > MAX_LOG else "timeout"}
        if os.getppid() != parent:
            job.kill()
            os._exit(1)
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)
    return {"status": status}


def run_once(request: dict[str, Any]) -> None:
    """Run one job and end this process. Until now its standard output is the server's channel."""
    code = 1
    try:
        if request["progress"]:
            progress_files.append(os.dup(1))
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)

        from ptinspect.proofs.worker.jobs import run_job

        answer = run_job(request["job"])
        with open(request["answer"], "w", encoding="utf-8") as file:
            json.dump(answer, file)
        code = 0
    except BaseException:  # noqa: BLE001 - the user's code may raise anything; the parent reports it
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    with shell_options():  # the parent says the options as its caller writes them
        if "--one" in sys.argv:
            run_once(json.loads(sys.stdin.read()))
        serve()
