"""`ptinspect diff`: what changed between two models."""

from __future__ import annotations

import click

from ptinspect.cli.output import (
    format_option,
    json_failure,
    no_progress_option,
    open_output,
    option,
    output_option,
    progress_bar,
    repeatable,
    terminal_style,
    write_summary,
)


@click.command("diff", short_help="Compare two models of any format.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@format_option(["text", "json", "markdown", "html"])
@output_option
@option(
    "--tolerance",
    "T",
    "Ignore differences of up to T + T * |a|.",
    type=click.FloatRange(min=0),
    default=0.0,
)
@repeatable("--include", "GLOB", "Compare only tensors whose key matches.")
@repeatable("--exclude", "GLOB", "Do not compare tensors whose key matches.")
@no_progress_option
@click.pass_context
def command(
    ctx: click.Context, a: str, b: str, output_format: str, output: str | None, tolerance: float,
    include: tuple[str, ...], exclude: tuple[str, ...], no_progress: bool,
) -> None:  # fmt: skip
    """Compare two models of any format: keys, shapes, dtypes, values, entries, optimizers.

    A model is equal to its state_dict, and a file to its conversion: the container, the order of
    keys and shared memory do not count. With --include or --exclude only tensors are compared.
    Nothing in the files is executed. Exit code 0: the same. 1: they differ. 2: a file could not be
    read.
    """
    from ptinspect.comparison import diff
    from ptinspect.comparison.report import render_html, render_markdown, render_text

    with (
        json_failure(output_format, output, (a, b)),
        progress_bar("comparing", hidden=no_progress) as progress,
    ):
        report = diff(
            a, b, tolerance=tolerance, include=include, exclude=exclude, progress=progress
        )
    with open_output(output, sources=(a, b)) as write:
        if output_format == "json":
            import json

            write(json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n")
        elif output_format == "text":
            width, colour = terminal_style(output)
            write(render_text(report, width, colour=colour))
        else:
            write((render_html if output_format == "html" else render_markdown)(report))
    write_summary(report, output)
    ctx.exit(report.exit_code)
