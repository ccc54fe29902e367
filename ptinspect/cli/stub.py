"""`ptinspect stub`: Python source for a file's classes."""

from __future__ import annotations

from typing import Any

import click

from ptinspect.cli.output import flag, open_output, option, output_option, write_stderr
from ptinspect.text import count_text, safe


@click.command("stub", short_help="Write Python source for the classes that a file needs.")
@click.argument("path", metavar="PATH")
@output_option
@option("--package", "DIR", "Write a package into DIR: one file per original module.")
@flag("--force", "Overwrite existing files.")
@option("--entry", "PATH", "Model that build() returns, e.g. model_ema or models[1].")
@option("--class class_name", "NAME", "Write only this class and what it needs.")
@click.option(
    "--no-recovered-source",
    "recovered",
    flag_value=False,
    default=True,
    help="Do not use the source code that the file itself contains.",
)
@flag(
    "--guess-forward",
    "Write a forward that calls the children in order. Often wrong: it warns when it runs.",
)
@flag(
    "--check",
    "Load the file with the stub in a child process that imports torch, compare the printed "
    "model, and load its state_dict strictly. Differences go to standard error, with exit code 1. "
    "Not with --class.",
)
@click.pass_context
def command(
    ctx: click.Context, path: str, output: str | None, package: str | None, force: bool,
    entry: str | None, class_name: str | None, recovered: bool, guess_forward: bool,
    check: bool,
) -> None:  # fmt: skip
    """Write the classes that PATH needs, so that torch.load finds them.

    Run `ptinspect stub model.pth > model_def.py`; in Python, run `from model_def import *` before
    torch.load. Nothing in the file is executed. Exit code 0: written. 1: --check found a
    difference. 2: the file could not be read, or the stub not written.
    """
    from ptinspect.stubs import stub, stub_package, untranslated
    from ptinspect.stubs.build import NO_MODULE

    if check and class_name is not None:
        raise click.UsageError(
            "--check cannot be used with --class: part of a stub cannot load the file"
        )
    if package is not None and output is not None:
        raise click.UsageError("--package cannot be used with --output")
    options: dict[str, Any] = {
        "entry": entry, "recovered_source": recovered, "guess_forward": guess_forward,
    }  # fmt: skip
    if package is not None:
        names = stub_package(path, package, force=force, class_name=class_name, **options)
        write_stderr(safe(f"{package}: wrote {', '.join(names)}"))
    else:
        text = stub(path, class_name=class_name, **options)
        for name in dict.fromkeys(untranslated(text)):
            write_stderr(safe(f"ptinspect: {path}: raises NotImplementedError in the stub: {name}"))
        with open_output(output, force=force, sources=(path,), is_report=False) as write:
            write(text)
        if output not in (None, "-"):
            lines = count_text(text.count("\n"), "line")
            if "\nSAFE_GLOBALS = [\n" in text:
                use = "import it before torch.load"
            elif NO_MODULE in text:
                use = "the file holds no module, and needs no classes"
            else:
                use = "build() returns the model"
            write_stderr(safe(f"{output}: wrote {lines}; {use}"))
    if check:
        from ptinspect.proofs.stub_check import check_stub

        report = check_stub(path, package=package is not None, **options)
        write_stderr(report.text().rstrip("\n"))
        ctx.exit(report.exit_code)
