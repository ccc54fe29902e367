"""`ptinspect scan`: may this be loaded?"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ptinspect.cli.output import open_output

if TYPE_CHECKING:
    from typing import Any


@click.command("scan", short_help="May this be loaded? Files and folders.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "-f",
    "--format",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
    help="How it is said.",
)
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE instead.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option(
    "--allow",
    metavar="NAME",
    multiple=True,
    help="A name that you vouch for (model.BDA), or a glob of such; what is dangerous only by its "
    "whole name. May be repeated; also [tool.ptinspect] allow in pyproject.toml.",
)
@click.option(
    "--exclude", metavar="GLOB", multiple=True, help="No files with such a path; may be repeated."
)
@click.option(
    "--fail-on",
    type=click.Choice(["pointer", "unknown", "dangerous"]),
    default="unknown",
    show_default=True,
    help="The least verdict that makes the exit code 1.",
)
@click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processes to scan with; without it as many as are fastest.",
)
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Say of each PATH whether it may be loaded, why not, and what to do: a file, a folder with all
    files below it, or `-` (standard input).

    Nothing of a file is executed. Exit code 0: clean. 1: something is as bad as --fail-on says.
    2: a file could not be read to its end.
    """
    from ptinspect.cli.command_names import COMMAND_NAMES
    from ptinspect.cli.progress import ProgressBar
    from ptinspect.safety.report.report import exit_code
    from ptinspect.safety.scan import scan_many

    paths: tuple[str, ...] = given["paths"]
    with open_output(given["output"], force=given["force"], sources=paths) as target:
        with ProgressBar("scanning", hidden=given["no_progress"], counted=True) as progress:
            reports = scan_many(
                paths,
                jobs=given["jobs"],
                allow=(*given["allow"], *_configured()),
                exclude=given["exclude"],
                commands=frozenset(COMMAND_NAMES),
                progress=progress,
            )
        several = len(paths) > 1 or len(reports) != 1 or os.path.isdir(paths[0])
        target.write(_text(reports, given["format"], several))
    ctx.exit(exit_code(reports, given["fail_on"]))


def _text(reports: Any, form: str, several: bool) -> str:
    from ptinspect.safety.report.render import json_text, sarif_text, text_lines

    if form == "json":
        return json_text(reports, several)
    if form == "sarif":
        return sarif_text(reports)
    from ptinspect.display.text.escape import cut

    return "".join(f"{cut(line)}\n" for line in text_lines(reports))


def _configured() -> list[str]:
    """`[tool.ptinspect] allow` of the pyproject.toml in this folder or the nearest above it."""
    folder = os.getcwd()
    while True:
        path = os.path.join(folder, "pyproject.toml")
        if os.path.isfile(path):
            return _allowed_in(path)
        above = os.path.dirname(folder)
        if above == folder:
            return []
        folder = above


def _allowed_in(path: str) -> list[str]:
    from ptinspect.errors import PtInspectError

    with open(path, "rb") as file:
        text = file.read()
    if b"ptinspect" not in text:
        return []
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        table = tomllib.loads(text.decode()).get("tool", {}).get("ptinspect", {})
    except (ValueError, ImportError) as error:
        raise PtInspectError(f"cannot be read: {error}", path=path) from error
    if others := [name for name in table if name != "allow"]:
        raise PtInspectError(
            f"[tool.ptinspect] has {', '.join(map(repr, others))}: `allow` is all that it may have",
            path=path,
        )
    allowed = table.get("allow", [])
    if not isinstance(allowed, list) or not all(isinstance(each, str) for each in allowed):
        raise PtInspectError("[tool.ptinspect] allow is no list of names", path=path)
    return allowed
