"""`scan` and `scan_many`: find out whether files can be loaded safely."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from typing import TYPE_CHECKING

from ptinspect.errors import PtInspectError
from ptinspect.formats.signatures import text_transfer_error
from ptinspect.limits import LIMITS, Limits
from ptinspect.safety.containers.dispatch import buffer_if_small, scan_source
from ptinspect.safety.load_advice import next_steps, state_load_advice
from ptinspect.safety.report import DANGEROUS, ScanReport, is_listed, unreadable_report
from ptinspect.safety.scan_state import Budget, ScanState, fit
from ptinspect.source.local import EXCLUDED, LeftOut, check_type, files_below, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from concurrent.futures import Executor
    from os import PathLike
    from typing import BinaryIO


def scan(
    path: str | PathLike[str] | BinaryIO,
    *,
    allow: Collection[str] = (),
    allow_unknown: Collection[str] = (),
    limits: Limits | None = None,
    commands: Collection[str] = (),
) -> ScanReport:
    """Find out whether a file can be loaded safely. Nothing in it is executed.

    Args:
        path: a file, a binary file object, or `-` for standard input. For folders see `scan_many`.
        allow: names to accept. A glob lifts unknown findings, an exact name dangerous ones.
        allow_unknown: names and globs that lift unknown findings only.
        limits: bounds on memory and work.
        commands: subcommands of ptinspect that the report may recommend.

    Returns:
        The report. Errors do not propagate: a file that cannot be read is "unreadable".
    """
    check_type(path)
    return scan_file(path, tuple(allow), tuple(allow_unknown), limits or LIMITS, tuple(commands))


def scan_file(
    path: str | PathLike[str] | BinaryIO,
    allow: Collection[str],
    allow_unknown: Collection[str],
    limits: Limits,
    commands: Collection[str],
    advise_clean: bool = True,
) -> ScanReport:
    """Scan a file; see `scan`. Without `advise_clean`, a report has advice if `text_lines` lists it
    among several."""
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "-")
    try:
        with open_source(path) as source:
            state = ScanState(source.path, None, 0, Budget(limits))
            scan_source(buffer_if_small(source), state)
            if state.errors:
                cause = text_transfer_error(source)
                state.errors = [cause, *state.errors] if cause else state.errors
            report = state.report(allow, allow_unknown)
            if advise_clean or is_listed(report, several=True):
                load = None
                if not state.errors and report.verdict != DANGEROUS:
                    load = state_load_advice(state)
                steps = next_steps(state, report.verdict, load, commands)
                report = replace(report, load=load, steps=tuple(steps))
            return fit(report, limits.report_bytes)
    except PtInspectError as error:
        return unreadable_report(str(name), error)
    except MemoryError:
        return unreadable_report(str(name), PtInspectError("there is not enough memory to read it"))
    except Exception as error:  # noqa: BLE001 - a bug on one file must not hide the other files
        message = f"a bug in ptinspect: {type(error).__name__}: {error}"
        hint = "please report it, with the file if you can"
        return unreadable_report(str(name), PtInspectError(message, hint=hint))


def scan_many(
    paths: Iterable[str | PathLike[str]],
    executor: Executor | None = None,
    *,
    jobs: int | None = 1,
    allow: Collection[str] = (),
    allow_unknown: Collection[str] = (),
    exclude: Collection[str] = (),
    limits: Limits | None = None,
    commands: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[ScanReport]:
    """Scan many files; a folder means all files below it.

    Args:
        paths: files, folders, and globs.
        executor: any `concurrent.futures.Executor` whose workers see the same files.
        jobs: without an executor, the number of processes; None chooses the fastest number. A
            process that dies takes no other file's report with it.
        allow: see `scan`.
        allow_unknown: see `scan`.
        exclude: globs of paths, names and folders to leave out.
        limits: see `scan`.
        commands: see `scan`.
        progress: called with (files done, files in total).

    Returns:
        One report per file, in order.
    """
    from ptinspect.safety.parallel import map_files

    files = list(find_files([os.fspath(path) for path in paths], exclude, Counter()))
    one = partial(
        scan_file,
        allow=tuple(allow),
        allow_unknown=tuple(allow_unknown),
        limits=limits or LIMITS,
        commands=tuple(commands),
    )
    return map_files(one, files, jobs=jobs, executor=executor, progress=progress)


# --- files and folders --------------------------------------------------------------------


def find_files(paths: Iterable[str], exclude: Collection[str], left_out: LeftOut) -> Iterator[str]:
    """Yield the files of paths, folders and globs; those of a folder by name.

    A path that does not exist and a folder that cannot be listed are yielded as well, so that
    their scan reports them. `left_out` counts what is not scanned.
    """

    def is_excluded(path: str) -> bool:
        return _is_excluded(path, exclude)

    for path in paths:
        if path != "-" and os.path.isdir(path):
            yield from files_below(path, left_out, is_excluded)
            continue
        matches = [path]
        if any(char in path for char in "*?[") and not os.path.lexists(path):
            import glob

            matches = sorted(glob.glob(path, recursive=True)) or [path]
        for match in matches:
            if match != "-" and os.path.isdir(match):
                if "**" not in path:
                    yield from files_below(match, left_out, is_excluded)
            elif is_excluded(match):
                left_out[EXCLUDED] += 1
            else:
                yield match


def _is_excluded(path: str, exclude: Collection[str]) -> bool:
    """Return True if a glob matches the path, its name, or a folder above it."""
    if not exclude:
        return False
    plain_path = path.replace(os.sep, "/")
    parts = plain_path.split("/")
    parents = ["/".join(parts[: index + 1]) for index in range(len(parts))]
    candidates = (*parents, *parts, plain_path)
    return any(fnmatch(text, glob) for glob in exclude for text in candidates)
