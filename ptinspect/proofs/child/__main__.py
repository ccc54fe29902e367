"""The server: imports torch once, then runs each job in a new process of its own.

Where the system can fork, a job's process is a fork of this one, which has done nothing but import
torch; elsewhere it is started afresh. Requests and answers are lines of JSON on standard input and
output; what a job itself has to say goes into a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from typing import Any


def serve() -> None:
    """Until standard input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what user code prints is no answer
    sys.dont_write_bytecode = True  # nor is its folder ours to write into
    warm()
    for line in sys.stdin:
        request = json.loads(line)
        begun = time.monotonic()
        status, late = _forked(request) if hasattr(os, "fork") else _started(request)
        answer = {"status": status, "late": late, "seconds": time.monotonic() - begun}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def warm() -> None:
    """Imports what every job needs. Nothing is computed: threads would not survive a fork."""
    import torch
    import torch.utils.data

    import ptinspect.proofs.child.jobs  # noqa: F401

    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)  # imports much at its first use


def _forked(request: dict[str, Any]) -> tuple[int, bool]:
    child = os.fork()
    if not child:
        _only(request)
    deadline = time.monotonic() + request["timeout"]
    pause = 0.002
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), False
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return -9, True
        time.sleep(pause)
        pause = min(pause * 1.2, 0.05)


def _started(request: dict[str, Any]) -> tuple[int, bool]:
    command = [sys.executable, "-m", "ptinspect.proofs.child", "--one"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), text=True, timeout=request["timeout"], check=False
        )
    except subprocess.TimeoutExpired:
        return -9, True
    return done.returncode, False


def _only(request: dict[str, Any]) -> None:
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
    limited(request.get("memory"))
    from ptinspect.proofs.child.jobs import do

    answer = do(request["job"])
    with open(request["answer"], "w", encoding="utf-8") as file:
        json.dump(answer, file)


def limited(memory: int | None) -> None:
    """A bound on this process's memory, in bytes, where the system has such bounds."""
    if memory is None:
        return
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


if __name__ == "__main__":
    if "--one" in sys.argv:
        _only(json.loads(sys.stdin.read()))
    serve()
