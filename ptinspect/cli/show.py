"""`ptinspect show`: what is in a file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ptinspect.cli.output import File, Standard
from ptinspect.display import FORMATS, Look

if TYPE_CHECKING:
    from typing import Any


@click.command("show", short_help="What is in it: files and folders.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "-f",
    "--format",
    type=click.Choice(FORMATS),
    default="summary",
    show_default=True,
    help="How it is shown.",
)
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE instead.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option(
    "--include",
    metavar="GLOB",
    multiple=True,
    help="Only tensors with such a key (*.weight); may be repeated.",
)
@click.option(
    "--exclude", metavar="GLOB", multiple=True, help="No tensors with such a key; may be repeated."
)
@click.option(
    "--sort",
    type=click.Choice(["file", "key", "size"]),
    default="file",
    show_default=True,
    help="The order of the tensors.",
)
@click.option(
    "--depth",
    metavar="N",
    type=click.IntRange(min=0),
    help="Levels that are shown (JSON has all); what lies deeper is summed up.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="A row for each tensor: do not fold repeated blocks on a terminal.",
)
@click.option("--values", is_flag=True, help="The numbers, as torch prints them.")
@click.option(
    "--stats",
    is_flag=True,
    help="Min, max, mean, std, zeros, NaN and inf of each tensor (reads all of it).",
)
@click.option(
    "--hash",
    "hashes",
    is_flag=True,
    help="SHA-256 of the file, held against a name-<8 hex>.pth, and of each tensor.",
)
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Show what is in each PATH: a file that torch.save or pickle wrote, `-` (standard input), or
    a folder with all such files below it.

    Nothing of a file is executed. Exit code 0: done. 1: a check failed (--hash). 2: a file could
    not be read.
    """
    from ptinspect.cli.showing import Showing

    paths: tuple[str, ...] = given["paths"]
    look = look_of(given)
    output = given["output"]
    target: File | Standard
    if output is None or output == "-":
        target = Standard()
    else:
        target = File(output, force=given["force"], inputs=paths)
    with target:
        debug = bool(ctx.find_root().params.get("debug"))
        code = Showing(given["format"], look, target, debug=debug).run(paths)
    ctx.exit(code)


def look_of(given: dict[str, Any]) -> Look:
    """The options, and what is known of the terminal."""
    from ptinspect.cli import COMMANDS

    here = given["output"] in (None, "-") and _is_terminal(sys.stdout)
    return Look(
        include=given["include"],
        exclude=given["exclude"],
        sort=given["sort"],
        depth=given["depth"],
        fold=here and not given["every"] and given["sort"] == "file",
        values=given["values"],
        stats=given["stats"],
        hash=given["hashes"],
        width=_width() if here else None,
        colour=here and _may_colour(),
        commands=frozenset(COMMANDS),
        progress=None if given["no_progress"] or not _is_terminal(sys.stderr) else _progress(),
    )


def _is_terminal(stream: object) -> bool:
    is_terminal = getattr(stream, "isatty", None)
    return bool(is_terminal is not None and is_terminal())


def _width() -> int:
    """Columns, as shutil.get_terminal_size has it: COLUMNS, then the terminal, then 80."""
    import shutil

    return max(shutil.get_terminal_size().columns, 40)


def _may_colour() -> bool:
    """https://no-color.org: NO_COLOR with any value but the empty one."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return os.name != "nt" or "WT_SESSION" in os.environ


def _progress() -> Any:
    from ptinspect.cli.progress import progress

    return progress
