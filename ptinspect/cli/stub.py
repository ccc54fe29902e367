"""`ptinspect stub`: Python source for a file's classes."""

from __future__ import annotations

import click

from ptinspect.cli.output import open_output


@click.command("stub", short_help="Python source for the classes that a file needs.")
@click.argument("path", metavar="PATH")
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE instead.")
@click.option("--package", metavar="DIR", help="A package: one file per original module.")
@click.option("--force", is_flag=True, help="Overwrite what exists.")
@click.option("--entry", metavar="PATH", help="The model that build() makes: model_ema, models[1].")
@click.option("--class", "class_name", metavar="NAME", help="This class and what it needs.")
@click.option(
    "--no-recovered-source",
    "recovered",
    flag_value=False,
    default=True,
    help="Leave out source code that the file itself holds.",
)
@click.option(
    "--guess-forward",
    is_flag=True,
    help="Write a forward that calls the children in order (often wrong; it warns).",
)
@click.option(
    "--check",
    is_flag=True,
    help="Load the file with the stub in a child process (torch): both load ways, print, strict "
    "load. What differs is said on standard error; exit code 1. Of the whole stub, so not with "
    "--class.",
)
@click.pass_context
def command(
    ctx: click.Context, path: str, output: str | None, package: str | None, force: bool,
    entry: str | None, class_name: str | None, recovered: bool, guess_forward: bool,
    check: bool,
) -> None:  # fmt: skip
    """Write the classes that PATH needs, so that torch.load finds them.

    Import what is written, then load: `ptinspect stub model.pth > model_def.py`, and in Python
    `from model_def import *`. Nothing of the file is executed. Exit code 0: written. 1: --check
    found that it does not fit. 2: the file could not be read, or the stub not written.
    """
    from ptinspect.stubs import stub

    if check and class_name is not None:
        raise click.UsageError("--check and --class: a part of the stub does not load the file")
    if package is not None:
        if output is not None:
            raise click.UsageError("--package and --output: one of them")
        from ptinspect.stubs import stub_package

        stub_package(
            path,
            package,
            force=force,
            entry=entry,
            class_name=class_name,
            recovered_source=recovered,
            guess_forward=guess_forward,
        )
        _check(ctx, check, path, entry, True, recovered, guess_forward)
        return
    text = stub(
        path,
        entry=entry,
        class_name=class_name,
        recovered_source=recovered,
        guess_forward=guess_forward,
    )
    with open_output(output, force=force, sources=(path,)) as target:
        target.write(text)
    _check(ctx, check, path, entry, False, recovered, guess_forward)


def _check(
    ctx: click.Context, check: bool, path: str, entry: str | None, package: bool,
    recovered: bool, guess: bool,
) -> None:  # fmt: skip
    """Where it is asked for: the report on standard error, and the exit code."""
    if not check:
        return
    from ptinspect.cli.output import write_stderr
    from ptinspect.proofs.stub_check import check_stub

    report = check_stub(
        path, entry=entry, package=package, recovered_source=recovered, guess_forward=guess
    )
    write_stderr(report.text().rstrip("\n"))
    ctx.exit(report.exit_code)
