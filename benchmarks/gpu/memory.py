"""Peak memory of the GPU and of the processes below this one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path

INTERVAL = 0.25  # seconds


class MemorySampler:
    """Samples memory in a thread. The peaks, in MB, are those since the last `reset`."""

    def __init__(self, has_gpu: bool) -> None:
        self.gpu_mb = self.host_mb = 0.0
        self._has_gpu = has_gpu
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def reset(self) -> None:
        """Forget the peaks."""
        self.gpu_mb = self.host_mb = 0.0

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                self.host_mb = max(self.host_mb, _resident_mb())
                if self._has_gpu:
                    self.gpu_mb = max(self.gpu_mb, *_used_gpu_mb())


def _used_gpu_mb() -> list[float]:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    result = subprocess.run(query, capture_output=True, text=True, check=True, timeout=5)
    return [float(line) for line in result.stdout.split()]


def _resident_mb() -> float:
    """Return the resident memory of all child processes; memory that forks share counts twice."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    pages = 0
    queue = list(children.get(os.getpid(), ()))
    while queue:
        pid = queue.pop()
        queue += children.get(pid, ())
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
