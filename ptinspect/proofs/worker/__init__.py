"""What a job reports to its parent: its progress, and why it cannot run."""

from __future__ import annotations

import os
import traceback

# Bytes of the progress file's only line, so that each line covers the previous one.
PROGRESS_SIZE = 64
# Words of torch's errors that are about the machine, not about the model.
MACHINE_FAILURES = ("DefaultCPUAllocator: can't allocate", "CUDA out of memory", "CUDA error")
NO_KERNEL = "does not have a deterministic implementation"

_progress_files: list[int] = []


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


def open_progress(path: str | None) -> None:
    """Write progress to this file from now on; without a path, write none."""
    if path is not None:
        _progress_files.append(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def write_progress(step: int, total: int, loss: float) -> None:
    """Report a finished step. `total` is an estimate."""
    for file in _progress_files:
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, f"{step} {total} {loss:.6g}".ljust(PROGRESS_SIZE).encode())


def read_progress(path: str) -> tuple[int, int, float] | None:
    """Return step, total and loss of the last finished step; None before the first."""
    try:
        with open(path, encoding="ascii") as file:
            step, total, loss = file.read(PROGRESS_SIZE).split()
        return int(step), int(total), float(loss)
    except (OSError, ValueError):  # not written yet
        return None
