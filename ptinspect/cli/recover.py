"""`ptinspect recover`: save what is left of a damaged file."""

from __future__ import annotations

import click

from ptinspect.cli.output import (
    flag,
    format_option,
    json_failure,
    no_progress_option,
    open_output,
    output_option,
    progress_bar,
    write_summary,
)


@click.command("recover", short_help="Save what is left of a damaged file.")
@click.argument("src", metavar="SRC")
@click.argument("dst", metavar="DST")
@format_option(["text", "json"])
@output_option
@flag("--force", "Overwrite DST if it exists.")
@flag("--proved-only", "Save only tensors whose bytes a checksum proves.")
@no_progress_option
@click.pass_context
def command(
    ctx: click.Context, src: str, dst: str, output_format: str, output: str | None, force: bool,
    proved_only: bool, no_progress: bool,
) -> None:  # fmt: skip
    """Save the tensors and values of SRC, a truncated or partly overwritten file, in DST.

    DST has the structure of SRC, and torch.load(DST) accepts it. A tensor is proved if a checksum
    covers its bytes, plausible if nothing contradicts them, and lost otherwise. Nothing in the file
    is executed. Exit code 0: nothing is lost. 1: something is lost. 2: nothing could be saved.
    """
    from ptinspect.recovery import recover

    with (
        json_failure(output_format, output, (src, dst)),
        progress_bar("saving", hidden=no_progress) as progress,
    ):
        report = recover(src, dst, proved_only=proved_only, force=force, progress=progress)
    with open_output(output, sources=(src, dst)) as write:
        if output_format == "json":
            import json

            write(json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n")
        else:
            write(report.text())
    write_summary(report, output)
    ctx.exit(report.exit_code)
