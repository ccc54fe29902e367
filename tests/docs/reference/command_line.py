"""docs/reference/cli.md: what click knows of the commands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

import click

from ptinspect.cli import cli
from tests.docs.reference.words import code, marked, table


class Command(NamedTuple):
    """words: as one types it, "check resume"; empty for `ptinspect` itself."""

    words: str
    command: click.Command
    context: click.Context


def commands() -> Iterator[Command]:
    """All of them, a group before its own."""
    left = [Command("", cli, click.Context(cli, info_name="ptinspect", **cli.context_settings))]
    while left:
        here = left.pop(0)
        yield here
        if isinstance(here.command, click.Group):
            left[:0] = [_below(here, name) for name in here.command.list_commands(here.context)]


def _below(here: Command, name: str) -> Command:
    assert isinstance(here.command, click.Group)
    found = here.command.get_command(here.context, name)
    assert found is not None
    context = click.Context(found, info_name=name, parent=here.context)
    return Command(f"{here.words} {name}".strip(), found, context)


def options(here: Command) -> list[click.Option]:
    """With --help, in the order of --help."""
    return [param for param in here.command.get_params(here.context) if is_option(param)]  # type: ignore[misc]


def is_option(param: click.Parameter) -> bool:
    """Whether it is one that --help lists."""
    return isinstance(param, click.Option) and not param.hidden


def made() -> str:
    """A section for each command."""
    return "\n\n".join(_section(here) for here in commands())


def _section(here: Command) -> str:
    name = f"ptinspect {here.words}".strip()
    usage = here.command.get_usage(here.context).removeprefix("Usage: ")
    usage = re.sub(r"\s+", " ", usage)
    parts = [f"## {name}", f"```text\n{usage}\n```", *_paragraphs(here.command)]
    if isinstance(here.command, click.Group):
        parts.append(_subcommands(here))
    rows = [_row(option) for option in options(here)]
    parts.append(table(["option", "default", "meaning"], rows))
    return "\n\n".join(parts)


def _paragraphs(command: click.Command) -> list[str]:
    text = inspect.cleandoc(command.help or "")
    return [marked(" ".join(part.split())) for part in text.split("\n\n")]


def _subcommands(here: Command) -> str:
    assert isinstance(here.command, click.Group)
    below = [_below(here, name) for name in here.command.list_commands(here.context)]
    rows = [
        (
            f"[{code(one.words)}](#ptinspect-{one.words.replace(' ', '-')})",
            marked(one.command.get_short_help_str(200)),
        )
        for one in below
    ]
    return table(["command", "what it does"], rows)


def _row(option: click.Option) -> tuple[str, str, str]:
    names = ", ".join(code(name) for name in option.opts)
    text = marked(option.help or "")
    if isinstance(option.type, click.Choice):
        names += f" {code('|'.join(map(str, option.type.choices)))}"
    elif not option.is_flag:
        names += f" {code(option.metavar or option.type.name.upper())}"
    if isinstance(option.type, click.IntRange | click.FloatRange) and option.type.min is not None:
        text += f" At least {option.type.min}."
    default = ""
    if option.show_default and not option.is_flag:
        default = code(str(option.default))
    return names, default, text
