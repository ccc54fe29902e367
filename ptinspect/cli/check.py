"""`ptinspect check`: does training go on from this file as if nothing had happened?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ptinspect.cli.output import File, Standard

if TYPE_CHECKING:
    from collections.abc import Callable

_FORMAT = click.option(
    "-f",
    "--format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How it is said.",
)
_OUTPUT = click.option("-o", "--output", metavar="FILE", help="Write it to FILE instead.")
_FORCE = click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
_ENTRY = click.option(
    "--entry", metavar="PATH", help="Which part of the file, where there are several."
)


def _all(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in this order in the help."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group("check", short_help="Proofs: round trip, resume, optimizer.")
def command() -> None:
    """Prove that training goes on from a file exactly as if nothing had happened.

    Exit code 0: proved. 1: something differs. 2: it could not be run.
    """


@command.command("optimizer", short_help="Does the optimizer state fit the model?")
@click.argument("path", metavar="CHECKPOINT")
@_all(_ENTRY, _FORMAT, _OUTPUT, _FORCE)
@click.pass_context
def optimizer(ctx: click.Context, /, **given: Any) -> None:
    """Hold the optimizer state in CHECKPOINT against the weights beside it: group sizes, order,
    shapes and dtypes, missing and extra states, steps, learning rates, NaN and inf.

    Nothing is loaded and torch is not needed. Exit code 0: nothing speaks against it (what cannot
    be decided is listed). 1: it does not fit. 2: it could not be read, or holds no such state.
    """
    from ptinspect.proofs.optimizer import check_optimizer

    with _target(given) as target:
        report = check_optimizer(given["path"], entry=given["entry"])
        target.write(_shown(report, given["format"]))
    ctx.exit(report.code)


def _target(given: dict[str, Any]) -> File | Standard:
    output = given["output"]
    if output is None or output == "-":
        return Standard()
    return File(output, force=given["force"], inputs=(given["path"],))


def _shown(report: Any, form: str) -> str:
    if form == "text":
        text: str = report.text()
        return text
    from ptinspect.display.json import plain

    return plain(report.json()) + "\n"


def _is_terminal() -> bool:
    return bool(getattr(sys.stderr, "isatty", lambda: False)())
