"""The server: imports torch once, then runs each job in a new process of its own.

Where the system can fork, a job's process is a fork of this one, which has done nothing but import
torch; elsewhere it is started afresh. Requests and answers are lines of JSON on standard input and
output; what a job itself has to say goes into a file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from typing import IO, Any

from ptinspect.proofs.worker import progress

LOG = 64 << 20
"""Bytes that a job may print before it is ended: the disk is not its own."""


def serve() -> None:
    """Until standard input ends, or the process that asked."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what user code prints is no answer
    sys.dont_write_bytecode = True  # nor is its folder ours to write into
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when it ends
    parent = os.getppid()
    warm()
    for line in sys.stdin:
        request = json.loads(line)
        job = Forked(request, channel) if hasattr(os, "fork") else Started(request)
        signal.signal(signal.SIGTERM, lambda *_, job=job: (job.kill(), os._exit(1)))
        answer = watched(job, request, channel, parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say(channel, answer)


def say(channel: IO[str], made: dict[str, Any]) -> None:
    """A line to the parent."""
    channel.write(json.dumps(made) + "\n")
    channel.flush()


def warm() -> None:
    """Imports what every job needs. Nothing is computed, and CUDA is asked nothing: neither its
    threads nor its state survive a fork."""
    import torch
    import torch.utils.data

    import ptinspect.proofs.worker.jobs  # noqa: F401

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)  # imports much at its first use


class Forked:
    """A job in a fork of this process, with a group of its own: what it starts ends with it."""

    def __init__(self, request: dict[str, Any], channel: IO[str]) -> None:
        self.process = os.fork()
        if not self.process:
            os.setpgid(0, 0)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
            os.close(channel.fileno())
            only(request)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None

    def kill(self) -> None:
        """The job and all that it has started."""
        for end in (os.killpg, os.kill):
            try:
                end(self.process, signal.SIGKILL)
            except OSError:  # no group yet, or gone
                continue
        os.waitpid(self.process, 0)


class Started:
    """A job in a process that is started afresh."""

    def __init__(self, request: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "ptinspect.proofs.worker", "--one"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request))
        self.process.stdin.close()

    def poll(self) -> int | None:
        """As above."""
        return self.process.poll()

    def kill(self) -> None:
        """The job."""
        self.process.kill()
        self.process.wait()


def watched(
    job: Forked | Started, request: dict[str, Any], channel: IO[str], parent: int
) -> dict[str, Any]:
    """Waits for the job's end; ends it where it takes too long or prints without end."""
    deadline = time.monotonic() + request["timeout"]
    pause, seen = 0.002, None
    while True:
        status = job.poll()
        if status is not None:
            return {"status": status}
        ended = "late" if time.monotonic() > deadline else "log" if talks(request["log"]) else None
        if ended is not None:
            job.kill()
            return {"status": -9, "ended": ended}
        if os.getppid() != parent:  # nobody waits for the answer any more
            job.kill()
            os._exit(1)
        made = progress.told(request["progress"]) if request["progress"] else None
        if made is not None and made != seen:
            seen = made
            say(channel, {"step": made[0], "total": made[1], "loss": made[2]})
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)


def talks(log: str) -> bool:
    """Whether a job has printed more than it may."""
    try:
        return os.stat(log).st_size > LOG
    except OSError:  # it has not begun
        return False


def only(request: dict[str, Any]) -> None:
    """One job, and then the end of this process."""
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run(request)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the parent says what became of the job
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def run(request: dict[str, Any]) -> None:
    """Does the job, and writes what came of it."""
    from ptinspect.proofs.worker.jobs import do

    progress.begin(request["progress"])
    answer = do(request["job"], request.get("memory"))
    with open(request["answer"], "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    if "--one" in sys.argv:
        only(json.loads(sys.stdin.read()))
    serve()
