"""`ptinspect scan`: is a file safe to load?"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

import click

from ptinspect.cli.output import (
    choice,
    flag,
    force_option,
    format_option,
    no_progress_option,
    open_output,
    option,
    output_option,
    progress_bar,
    repeatable,
    terminal_style,
    write_stderr,
)
from ptinspect.errors import PtInspectError
from ptinspect.limits import LIMITS
from ptinspect.source.local import FOLDER_LINK, find_files, left_out_text
from ptinspect.text import cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ptinspect.safety.report import ScanReport
    from ptinspect.source.local import LeftOut


@click.command("scan", short_help="Check whether files and folders are safe to load.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@format_option(["text", "json", "jsonl", "sarif"])
@output_option
@force_option
@flag("-v --verbose", "List clean files as well, unless there is -q.")
@flag("-q --quiet", "Print a line per file that is not clean, and with -o no summary.")
@repeatable(
    "--allow",
    "NAME",
    "Trust this name, e.g. model.BDA, or a glob of names. A dangerous name must be written in "
    "full.",
)
@option(
    "--config",
    "FILE",
    "Read `allow` of [tool.ptinspect] from this file; such names lift unknown only. By default"
    " pyproject.toml in the current folder, unless that folder is scanned.",
)
@repeatable("--exclude", "GLOB", "Skip files whose path matches.")
@choice(
    "--fail-on",
    ["pointer", "unknown", "dangerous"],
    "Mildest verdict that makes the exit code 1.",
    default="unknown",
)
@option(
    "-j --jobs",
    "N",
    "Number of processes. By default as many as is fastest.",
    type=click.IntRange(min=1),
)
@no_progress_option
@click.pass_context
def command(
    ctx: click.Context, paths: tuple[str, ...], output_format: str, output: str | None, force: bool,
    verbose: bool, quiet: bool, allow: tuple[str, ...], config: str | None,
    exclude: tuple[str, ...], fail_on: str, jobs: int | None, no_progress: bool,
) -> None:  # fmt: skip
    """Report whether each PATH is safe to load, why not, and what to do. PATH is a file, a folder
    with all files below it, or `-` for standard input. Folders of version control and links to
    folders are not searched; they are counted. Of several files, those that are not clean are
    listed, the worst last.

    Nothing in the files is executed. Exit code 0: no verdict is as bad as --fail-on. 1: one is.
    2: a file could not be read to its end.
    """
    from ptinspect.safety.report import (
        exit_code,
        is_listed,
        json_lines_text,
        json_text,
        sarif_text,
        text_lines,
        total_text,
    )
    from ptinspect.safety.scan import map_files, scan_file

    if verbose and output_format != "text":
        view = f"--format {output_format}, which has clean files too"
        raise click.UsageError(f"--verbose cannot be used with {view}")
    left_out: LeftOut = Counter()
    with open_output(output, force=force, sources=paths) as write:
        with progress_bar("scanning", hidden=no_progress, counted=True) as progress:
            files = list(find_files(paths, exclude, left_out))
            is_json = output_format in ("json", "jsonl")
            scan = partial(
                scan_file, allow=allow, allow_unknown=_configured_names(config, paths),
                limits=LIMITS.shared_by(len(files)), commands=("convert", "scan", "stub"),
                advise_clean=is_json or verbose or len(files) == 1,
            )  # fmt: skip
            reports = map_files(scan, files, jobs=jobs, progress=progress)
        is_text, are_several = output_format == "text" and not quiet, len(reports) > 1
        for index, report in enumerate(reports):
            if is_json or (is_text and is_listed(report, are_several, verbose=verbose)):
                reports[index] = _without_failing_advice(report)
        skipped = left_out_text(left_out)
        if is_json:
            is_one = len(paths) == len(reports) == 1 and not os.path.isdir(paths[0])
            as_text = json_lines_text if output_format == "jsonl" else json_text
            write(as_text(reports, not is_one))
        elif output_format == "sarif":
            write(sarif_text(reports))
        else:
            width, colour = terminal_style(output)
            for text in text_lines(reports, skipped, verbose=verbose, quiet=quiet):
                write(_fitted(cut(text), width, colour) + "\n")
    if output not in (None, "-") and not quiet:
        write_stderr(total_text(reports, skipped))
    for message in unused_names(reports, allow) if allow else ():
        write_stderr(f"ptinspect: {cut(message)}")
    is_unread = not reports and left_out[FOLDER_LINK]
    ctx.exit(2 if is_unread else exit_code(reports, fail_on))


def unused_names(reports: Sequence[ScanReport], allow: Iterable[str]) -> Iterator[str]:
    """Yield a message for each name of `--allow` that changed no verdict, as far as is listed."""
    from ptinspect.safety.report import ALLOWED, DANGEROUS

    lists = [n.removeprefix(ALLOWED) for r in reports for n in r.notes if n.startswith(ALLOWED)]
    more = re.compile(r" and [\d,]+ more$")  # ends such a list that is cut: `join_names`
    lifted = {name for text in lists for name in more.sub("", text).split(", ")}
    is_cut = any(map(more.search, lists)) or any(any(r.left_out()) for r in reports)
    findings = [finding for report in reports for finding in report.all_findings()]
    dangerous = sorted({each.name for each in findings if each.verdict == DANGEROUS})
    for glob in allow:
        if any(fnmatchcase(name, glob) for name in lifted):
            continue
        reason = " that is listed (a report is cut)" if is_cut else ": no such finding"
        if matches := [name for name in dangerous if fnmatchcase(name, glob)]:
            reason = f": {matches[0]} is dangerous, write its full name"
        yield f"--allow {glob} lifts nothing{reason}"


def _without_failing_advice(report: ScanReport) -> ScanReport:
    """Return a report without the advice to convert the file, if `convert` refuses it. The advice
    on large files only tries it."""
    advice = next((step for step in report.steps if step.endswith(" --to safetensors")), None)
    if advice is None or report.path == "-":
        return report
    from dataclasses import replace

    from ptinspect.conversion.convert_file import find_refusal

    if find_refusal(report.path, "safetensors") is None:
        return report
    return replace(report, steps=tuple(step for step in report.steps if step != advice))


def _fitted(line: str, width: int | None, colour: bool) -> str:
    """Cut a finding to the terminal, and colour the verdict at its start or after the path."""
    if width is None:
        return line
    from ptinspect.display.table import display_width

    end = width
    while display_width(line) > width and line.lstrip().startswith(("dangerous: ", "unknown: ")):
        end -= 1
        line = line[:end] + "…"
    if not colour:
        return line
    colours = {"dangerous": 31, "unknown": 33, "unreadable": 33}
    return re.sub(
        rf"(^ *|: )({'|'.join(colours)})(?=: | \(|$)",
        lambda match: f"{match[1]}\x1b[{colours[match[2]]}m{match[2]}\x1b[0m",
        line,
        count=1,
    )


def _configured_names(config: str | None, scanned: Sequence[str]) -> list[str]:
    """Return `allow` in [tool.ptinspect] of a file, by default of the pyproject.toml in the current
    folder, unless that belongs to what is scanned."""
    path = config or os.path.realpath("pyproject.toml")
    if config is None and not os.path.isfile(path):
        return []
    try:
        with open(path, "rb") as file:
            text = file.read()
        if b"ptinspect" not in text:  # spares the import of tomllib
            return []
        folders = [os.path.join(os.path.realpath(folder), "") for folder in scanned]
        if config is None and path.startswith(tuple(folders)):
            if b"[tool.ptinspect]" in text:
                write_stderr(
                    "ptinspect: pyproject.toml is not read, because it is inside a scanned folder; "
                    "if it is yours: --config pyproject.toml"
                )
            return []
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        table = tomllib.loads(text.decode()).get("tool", {}).get("ptinspect", {})
    except (OSError, ValueError, ImportError) as error:
        raise PtInspectError(f"cannot be read: {error}", path=path) from error
    unknown = [name for name in table if name != "allow"]
    if unknown:
        raise PtInspectError(
            f"[tool.ptinspect] has {', '.join(map(repr, unknown))}: only `allow` is supported",
            path=path,
        )
    names = table.get("allow", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PtInspectError("[tool.ptinspect] allow is not a list of names", path=path)
    return names
