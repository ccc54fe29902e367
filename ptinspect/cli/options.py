"""Options that several commands share, so that each has one wording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Decorator = Callable[[Any], Any]


def option(names: str, metavar: str | None, help: str, **settings: Any) -> Decorator:
    """Return an option with a value, e.g. of `names` "-o --output". Its default is shown."""
    has_default = bool(settings.get("default") not in (None, ""))
    return click.option(
        *names.split(), metavar=metavar, help=help, show_default=has_default, **settings
    )


def flag(names: str, help: str) -> Decorator:
    return click.option(*names.split(), is_flag=True, help=help)


def repeatable(names: str, metavar: str, help: str) -> Decorator:
    return option(names, metavar, f"{help} Repeatable.", multiple=True)


def choice(names: str, values: Sequence[str], help: str, default: str | None = None) -> Decorator:
    return option(names, None, help, type=click.Choice(values), default=default)


def format_option(formats: Sequence[str]) -> Decorator:
    """Return the option `--format` with the first format as the default."""
    return choice("-f --format output_format", formats, "Output format.", formats[0])


output_option = option("-o --output", "FILE", "Write to FILE instead of standard output.")
force_option = flag("--force", "Overwrite FILE even if it is not a text file.")
no_progress_option = flag("--no-progress", "Do not show a progress bar.")


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
