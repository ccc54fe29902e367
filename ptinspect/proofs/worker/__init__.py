"""What a job reports to its parent: its progress, and why it cannot run."""

from __future__ import annotations

import json
import os
import traceback

# Words of torch's errors that are about the machine, not about the model.
MACHINE_FAILURES = ("DefaultCPUAllocator: can't allocate", "CUDA out of memory", "CUDA error")
NO_KERNEL = "does not have a deterministic implementation"

# Descriptors that `write_progress` writes to: none, or one.
progress_files: list[int] = []


class CannotRun(Exception):
    """The job cannot run. The parent raises it as a PtInspectError."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NeedsWarnOnly(CannotRun):
    """An operation has no deterministic kernel; the job has to run again and only warn of it."""


def raise_unless_of_model(error: BaseException) -> None:
    """Raise an error again if it says nothing of the model.

    After an error of the machine the process ends, and the parent reports that.
    """
    text = str(error)
    if isinstance(error, CannotRun):
        raise error
    if isinstance(error, MemoryError) or any(words in text for words in MACHINE_FAILURES):
        raise error
    if NO_KERNEL in text:
        raise NeedsWarnOnly(one_line(error)) from error
    traceback.print_exc()


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def write_progress(step: int, total: int, loss: float) -> None:
    """Report a finished step as a line of JSON. `total` is an estimate."""
    for file in progress_files:
        os.write(file, json.dumps({"step": step, "total": total, "loss": loss}).encode() + b"\n")
