"""`scan` and `scan_many`: the whole of it for one file, and for many."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from ptinspect.errors import PtInspectError
from ptinspect.limits import LIMITS, Limits
from ptinspect.safety.containers.dispatch import scan_source
from ptinspect.safety.next_steps import advice_of, steps_of
from ptinspect.safety.policy.weights_only import ALLOWED
from ptinspect.safety.report.report import ScanReport, report_of, unread
from ptinspect.safety.report.scan_state import Budget, Part
from ptinspect.source.base import MemorySource
from ptinspect.source.local import MAX_COPY_BYTES, open_source
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from concurrent.futures import Executor
    from os import PathLike
    from typing import BinaryIO

    from ptinspect.document import Document
    from ptinspect.pickling.values import Global
    from ptinspect.safety.report.findings import Finding
    from ptinspect.source.base import Source


def dangers(document: Document) -> list[Finding]:
    """What the file would do that no file of weights does, the worst first; empty for a file
    that is not called dangerous. Nothing is scanned where all names are harmless by themselves:
    torch's own, classes of torch.nn, and those of no library that is known to act."""
    if all(map(_is_plain, document.globals)):
        return []
    from ptinspect.safety.containers.dispatch import scan_source
    from ptinspect.safety.report.findings import DANGEROUS
    from ptinspect.safety.report.report import report_of
    from ptinspect.safety.report.scan_state import Budget, Part

    part = Part(document.path, None, 0, Budget(document.limits))
    scan_source(document.archive.source, part)
    report, found = report_of(part), []
    reports = [report]
    while reports:
        report = reports.pop(0)
        found += [finding for finding in report.findings if finding.verdict == DANGEROUS]
        reports += report.members
    return found


def _is_plain(name: Global) -> bool:
    """Whether a name can be called without harm, as far as the name alone tells."""
    if name.path in ALLOWED or lookup(name.path) is not None:
        return True
    top = name.module.split(".", 1)[0]
    return top == "__main__" and "." not in name.name and top not in sys.stdlib_module_names


# ---


BUGS = "please report it, with the file if you can"


def scan(
    path: str | PathLike[str] | BinaryIO,
    *,
    allow: Collection[str] = (),
    limits: Limits = LIMITS,
    commands: Collection[str] = (),
) -> ScanReport:
    """May this file be loaded? `-` is standard input; for folders see `scan_many`.

    Nothing of the file is executed. allow: names that are vouched for (see `report_of`). commands:
    of ptinspect, which the advice may name. Raises nothing for whatever the file is: one that
    cannot be read is `unreadable`.
    """
    named = os.fspath(path) if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "-")
    try:
        with open_source(path) as source:
            part = Part(source.path, None, 0, Budget(limits))
            scan_source(_at_hand(source), part)
            report = report_of(part, allow)
            load = None if part.errors or report.verdict == "dangerous" else advice_of(part)
            steps = steps_of(part, report.verdict, load, commands)
            return report._replace(load=load, steps=tuple(steps))
    except PtInspectError as error:
        return unread(str(named), error)
    except MemoryError:
        return unread(str(named), PtInspectError("there is not enough memory to read it"))
    except Exception as error:  # noqa: BLE001 - one file's bug must not hide the other files
        message = f"a bug in ptinspect: {type(error).__name__}: {error}"
        return unread(str(named), PtInspectError(message, hint=BUGS))


def _at_hand(source: Source) -> Source:
    """A small file in memory, where many small reads cost nothing."""
    if source.size > MAX_COPY_BYTES:
        return source
    data, start, stop = source.window()
    return MemorySource(data, source.path, start, stop, source.base)


def scan_many(
    paths: Iterable[str | PathLike[str]],
    executor: Executor | None = None,
    *,
    jobs: int | None = 1,
    allow: Collection[str] = (),
    exclude: Collection[str] = (),
    limits: Limits = LIMITS,
    commands: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:
    """The same for many files, in order; a folder stands for all files below it.

    executor: any `concurrent.futures.Executor`, whose workers see the same files. Without one,
    `jobs` processes of this machine (None: as many as are fastest for so many files). A worker
    that dies takes no other file's answer with it. exclude: globs of paths that are left out.
    progress: told (files done, files in all) now and then.
    """
    from ptinspect.safety import parallel
    from ptinspect.safety.paths import expanded

    files = list(expanded([os.fspath(path) for path in paths], exclude))
    settings = (tuple(allow), limits, tuple(commands))
    if executor is None:
        if len(files) < (parallel.MANY if jobs is None else 2) or jobs == 1:
            return parallel.scan_here(files, settings, progress)
        jobs = parallel.fastest(len(files)) if jobs is None else jobs
        if jobs <= 1:
            return parallel.scan_here(files, settings, progress)
        if parallel.can_fork():
            with suppress(OSError):  # not even one process: then here
                return parallel.scan_forked(files, settings, jobs, progress)
            return parallel.scan_here(files, settings, progress)
    return parallel.scan_elsewhere(files, settings, executor, jobs or 1, progress)
