"""Where a job trains, and that it does so in the same way each time.

Nothing here was asked of CUDA before the job's own process: a process that is forked from one that
has talked to CUDA cannot use it.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import torch

from ptinspect.proofs.worker.errors import CannotRun

NO_KERNEL = "does not have a deterministic implementation"
"""What torch says of an operation that may give other bits each time."""


def device_of(asked: str) -> str:
    """`auto` as cpu or cuda; another as it is. CannotRun for a device that torch does not find."""
    kind, _, number = asked.partition(":")
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise CannotRun("torch finds no CUDA device here", "give --device cpu")
        count = torch.cuda.device_count()
        if number and int(number) >= count:
            raise CannotRun(
                f"there is no {asked}: torch finds {count} CUDA device{'s' * (count != 1)}",
                f"give --device cuda:{count - 1}" if count > 1 else "give --device cuda",
            )
    return asked


def prepare(device: str, tf32: bool) -> list[str]:
    """Deterministic algorithms, where there are such; gives the list that will hold what torch says
    of operations that have none. On CUDA the device becomes the current one."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    return listening()


def listening() -> list[str]:
    """Each operation once that torch warns of, as long as this process lives."""
    said: list[str] = []
    before = warnings.showwarning

    def show(message: Any, category: Any, *more: Any, **given: Any) -> None:
        text = str(message)
        if NO_KERNEL in text:
            name = text.split(NO_KERNEL)[0].strip()
            if name not in said:
                said.append(name)
            return
        before(message, category, *more, **given)

    warnings.showwarning = show
    warnings.filterwarnings("always", message=f".*{NO_KERNEL}")
    return said


def is_cuda(device: str) -> bool:
    """Whether it is a CUDA device."""
    return device.partition(":")[0] == "cuda"


def without_cuda() -> None:
    """A job on the CPU sees no CUDA device: what the user's code asks of torch, and what the file
    has of CUDA's generators, has to fit the device; and CUDA does not begin within `limited`."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def limited(memory: int | None) -> None:
    """A bound on this process's memory, in bytes, where the system has such bounds. Not for a job
    on CUDA, which reserves more addresses than any machine has memory."""
    if memory is None or sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
