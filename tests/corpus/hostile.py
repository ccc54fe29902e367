"""Shows mutants one after the other, in a process that watches itself.

    python -m tests.corpus.hostile WORKER WORKERS COUNT SEED

Answers with one line of JSON: how many were shown, how many were refused with an error of
ptinspect's, and what went wrong. Each mutant ends in an answer or in one PtInspectError, within
the bounds below; nothing is imported, executed or written while it is looked at.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import pkgutil
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import ptinspect
from ptinspect import display
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError
from tests.corpus.files import FIXTURES, fixtures
from tests.corpus.mutants import mutant, odd_tensor, only_soup

SECONDS = 5.0
"""For one mutant of a file of some kilobytes, on a machine that others use as well."""
STUCK = 60
"""Seconds after which the process gives up, and says where it was."""
MEMORY = 512 << 20
"""Bytes of address space above what the process has when it begins."""
LARGEST = 64 * 1024
"""Bytes of a fixture that is mutated: what goes wrong in a large file does in a small one."""
FORMATS = ("summary", "table", "tree", "json", "markdown")

# Audit events of doing what a file says. Reading a file is `open` with a mode that reads.
ACTIONS = (
    "compile", "exec", "import", "marshal.", "pickle.find_class", "code.__new__",
    "function.__new__",
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.putenv", "pty.", "shutil.", "socket.", "subprocess.", "tempfile.", "urllib.",
    "ctypes.", "webbrowser.", "winreg.",
)  # fmt: skip


class Acted(BaseException):
    """The code under test did what it must never do."""


class Watch:
    """An audit hook that can be armed; it cannot be taken away again."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed or not self.acts(event, args):
            return
        self.seen.append(f"{event} {args[:2]!r}"[:200])
        raise Acted(self.seen[-1])

    @staticmethod
    def acts(event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            mode, flags = args[1], args[2]
            writing = isinstance(mode, str) and set(mode) & set("wax+")
            return bool(writing or (isinstance(flags, int) and flags & 3))
        return event.startswith(ACTIONS)


def load_everything() -> None:
    """Imports all of ptinspect, and what it imports when asked, before the watch begins; but for
    `proofs`, whose children need torch: nothing that is watched goes there."""
    for module in pkgutil.walk_packages(ptinspect.__path__, "ptinspect."):
        if not module.name.endswith("__main__") and not module.name.startswith("ptinspect.proofs."):
            importlib.import_module(module.name)
    for name in ("numpy", "ml_dtypes", "tabulate", "tarfile"):
        importlib.import_module(name)
    for codec in ("cp437", "raw_unicode_escape", "utf_16", "utf_32_be", "utf_32_le"):
        importlib.import_module(f"encodings.{codec}")
    for number, name in enumerate(fixtures()[::7]):
        look_at((FIXTURES / name).read_bytes(), number)


def look_at(data: bytes, number: int) -> str:
    """What `show` does, of one kind or another; "shown" or the kind of the error."""
    try:
        with open_document(io.BytesIO(data)) as document:
            options = display.ShowOptions(
                values=number % 4 == 1, stats=number % 4 == 2, hash=number % 8 == 3, fold=True
            )
            display.renderer(FORMATS[number % len(FORMATS)])(document, options, None)
            document.check()
            for info in list(document.tensors.values())[:8]:
                if info.nbytes <= 1 << 20:
                    info.read()
                    info.numpy()
    except PtInspectError as error:
        assert error.message.strip(), "an error without a message"
        assert "Traceback" not in error.lines()
        return error.kind
    return "shown"


def bound_memory() -> None:
    """At most MEMORY more than now; where the system cannot say so (Windows), no bound."""
    try:
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    except (ImportError, OSError, ValueError):
        return


def sources() -> list[tuple[str, bytes]]:
    """The files that are mutated."""
    held = [(name, (FIXTURES / name).read_bytes()) for name in fixtures()]
    return [(name, data) for name, data in held if len(data) <= LARGEST]


def made(files: list[tuple[str, bytes]], number: int, seed: int) -> tuple[str, bytes]:
    """The mutant of that number, and what it comes from."""
    rng = Random(zlib.crc32(f"{seed}/{number}".encode()))
    if number % 10 == 9:
        return "soup", only_soup(rng)
    if number % 10 == 8:
        return "odd tensor", odd_tensor(rng)
    name, data = files[number % len(files)]
    return name, mutant(data, rng)


def main(worker: int, workers: int, count: int, seed: int) -> dict[str, Any]:
    """Looks at every mutant of this worker."""
    warnings.simplefilter("ignore")  # a warning's filter may import, and none of them is asked
    load_everything()
    watch, files = Watch(), sources()
    bound_memory()
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = (0.0, "")
    for number in range(worker, count, workers):
        name, data = made(files, number, seed)
        what = f"mutant {number} of seed {seed} ({name}, {len(data)} bytes)"
        faulthandler.dump_traceback_later(STUCK, exit=True)
        begun = time.perf_counter()
        watch.armed = True
        try:
            ends[look_at(data, number)] += 1
        except (Exception, Acted) as error:  # noqa: BLE001
            watch.armed = False
            wrong.append(f"{what}: {described(error)}")
        finally:
            watch.armed = False
        took = time.perf_counter() - begun
        slowest = max(slowest, (took, what))
        if took > SECONDS:
            wrong.append(f"{what}: took {took:.1f} s")
        if watch.seen and not any(watch.seen[-1] in line for line in wrong):
            wrong.append(f"{what}: {watch.seen[-1]}, and caught what was raised")
        watch.seen.clear()
    faulthandler.cancel_dump_traceback_later()
    return {"ends": dict(ends), "wrong": wrong, "slowest": slowest}


def described(error: BaseException) -> str:
    """An exception, and the lines of ptinspect that it came through."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "ptinspect" in f.filename]
    return f"{type(error).__name__}: {str(error)[:200]} at {' '.join(where[-4:])}"


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:5]))))
