"""Options that several commands share, so that each has one wording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Decorator = Callable[[Any], Any]


def format_option(formats: Sequence[str]) -> Decorator:
    """Return the option `--format` with the first format as the default."""
    return click.option(
        "-f",
        "--format",
        "output_format",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Output format.",
    )


output_option = click.option(
    "-o", "--output", metavar="FILE", help="Write to FILE instead of standard output."
)
force_option = click.option(
    "--force", is_flag=True, help="Overwrite FILE even if it is not a text file."
)
no_progress_option = click.option("--no-progress", is_flag=True, help="Do not show a progress bar.")


def combine(*options: Decorator) -> Decorator:
    """Return several options as one decorator; `--help` lists them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def debug_requested(ctx: click.Context) -> bool:
    """Return True if `ptinspect --debug` was given."""
    return bool(ctx.find_root().params.get("debug"))
