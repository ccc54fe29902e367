"""`ptinspect scan`: is a file safe to load?"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ptinspect.cli.options import force_option, format_option, no_progress_option, output_option
from ptinspect.cli.output import open_output

if TYPE_CHECKING:
    from ptinspect.safety.report import ScanReport


@click.command("scan", short_help="Check whether files and folders are safe to load.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@format_option(["text", "json", "sarif"])
@output_option
@force_option
@click.option(
    "--allow",
    metavar="NAME",
    multiple=True,
    help="Trust this name, e.g. model.BDA, or a glob of names. A dangerous name must be written in "
    "full. Repeatable; also `allow` in [tool.ptinspect] of pyproject.toml.",
)
@click.option(
    "--exclude", metavar="GLOB", multiple=True, help="Skip files whose path matches. Repeatable."
)
@click.option(
    "--fail-on",
    type=click.Choice(["pointer", "unknown", "dangerous"]),
    default="unknown",
    show_default=True,
    help="Mildest verdict that makes the exit code 1.",
)
@click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of processes. By default as many as is fastest.",
)
@no_progress_option
@click.pass_context
def command(
    ctx: click.Context, paths: tuple[str, ...], output_format: str, output: str | None, force: bool,
    allow: tuple[str, ...], exclude: tuple[str, ...], fail_on: str, jobs: int | None,
    no_progress: bool,
) -> None:  # fmt: skip
    """Report whether each PATH is safe to load, why not, and what to do. PATH is a file, a folder
    with all files below it, or `-` for standard input.

    Nothing in the files is executed. Exit code 0: no verdict is as bad as --fail-on. 1: one is.
    2: a file could not be read to its end.
    """
    from ptinspect.cli.progress import ProgressBar
    from ptinspect.safety.report import exit_code
    from ptinspect.safety.scan import scan_many

    with open_output(output, force=force, sources=paths) as target:
        with ProgressBar("scanning", hidden=no_progress, counted=True) as progress:
            reports = scan_many(
                paths,
                jobs=jobs,
                allow=(*allow, *_configured_names()),
                exclude=exclude,
                commands=("convert", "scan", "stub"),
                progress=progress,
            )
        several = len(paths) > 1 or len(reports) != 1 or os.path.isdir(paths[0])
        target.write(_report_text(reports, output_format, several))
    ctx.exit(exit_code(reports, fail_on))


def _report_text(reports: list[ScanReport], output_format: str, several: bool) -> str:
    from ptinspect.safety.report import json_text, sarif_text, text_lines

    if output_format == "json":
        return json_text(reports, several)
    if output_format == "sarif":
        return sarif_text(reports)
    from ptinspect.display.text.escape import cut

    return "".join(f"{cut(line)}\n" for line in text_lines(reports))


def _configured_names() -> list[str]:
    """Return `allow` in [tool.ptinspect] of the pyproject.toml in this folder or above it."""
    folder = os.getcwd()
    while not os.path.isfile(os.path.join(folder, "pyproject.toml")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return []
        folder = parent
    path = os.path.join(folder, "pyproject.toml")
    with open(path, "rb") as file:
        text = file.read()
    if b"ptinspect" not in text:  # spares the import of tomllib
        return []
    from ptinspect.errors import PtInspectError

    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        table = tomllib.loads(text.decode()).get("tool", {}).get("ptinspect", {})
    except (ValueError, ImportError) as error:
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
