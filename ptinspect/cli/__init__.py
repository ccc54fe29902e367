"""The command line: `ptinspect [--debug] COMMAND …`, one module per command.

A command's module is imported when the command is called. Exit codes: 0 done, the answer is yes;
1 the answer is no; 2 it could not be done; 130 interrupted. A closed pipe ends quietly.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from ptinspect import __version__
from ptinspect.cli.output import (
    STDOUT_ERRNOS,
    OutputClosed,
    error_text,
    reportable,
    stdout_error,
    write_stderr,
)
from ptinspect.errors import shell_options
from ptinspect.text import cut, safe

DONE, FAILED, INTERRUPTED = 0, 2, 130


def _load_command(name: str) -> click.Command:
    from importlib import import_module  # noqa: TID251  # modules of this folder, not of a file

    command: click.Command = import_module(f"ptinspect.cli.{name}").command
    return command


COMMANDS: dict[str, Callable[[], click.Command]] = {
    name: partial(_load_command, name)
    for name in ("check", "convert", "diff", "recover", "scan", "show", "stub")
}
"""The functions that import the commands."""

DEFAULT_COMMAND = "show"
"""`ptinspect FILE…` is `ptinspect show FILE…`."""


class Commands(click.Group):
    """Imports commands when they are called, and turns exceptions into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        load = COMMANDS.get(cmd_name)
        return load() if load is not None else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `show` before the first word that is neither a command nor a group option."""
        group_options = {name for param in self.get_params(ctx) for name in param.opts}
        for index, word in enumerate(args):
            if word in group_options:
                continue
            if word == "help" and not os.path.exists(word):
                args = [*args[:index], *args[index + 1 :], "--help"]
            elif word not in COMMANDS:
                _check_is_path(word, ctx)
                args = [*args[:index], DEFAULT_COMMAND, *args[index:]]
            break
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; without --debug, raise its errors as ClickExceptions."""
        try:
            with shell_options():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OutputClosed) as end:
            self.end = end  # with the command's variables, which `main` does not free
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            if isinstance(error, OSError) and error.errno in STDOUT_ERRNOS:
                error = stdout_error(error)  # of click, which prints --help
            raise click.ClickException(error_text(reportable(error))) from error

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run the program like `click.Group.main`, but with this package's exit codes."""
        run: Callable[..., Any] = super().main
        if not settings.pop("standalone_mode", True):
            return run(*args, standalone_mode=False, **settings)
        try:
            code = run(*args, standalone_mode=False, **settings)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx is not None else "ptinspect"
            message = error.format_message().removesuffix(".")
            first, *more = [cut(line) for line in message.split("\n")]
            first = first if first[:2].isupper() else first[:1].lower() + first[1:]
            lines = [f"ptinspect: {first}", *more, f"  {command} --help lists the options"]
            write_stderr("\n".join(lines))
            code = FAILED
        except click.ClickException as error:
            write_stderr(error.message)
            code = FAILED
        except OSError as error:
            write_stderr(error_text(stdout_error(error)))
            code = FAILED
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except OutputClosed:
            code = DONE
        sys.exit(code if isinstance(code, int) else DONE)


def _check_is_path(word: str, ctx: click.Context) -> None:
    """Raise a usage error for a word that looks like a mistyped command, not like a path."""
    is_bare = "." not in word and os.path.basename(word) == word
    if is_bare and not word.startswith("-") and not os.path.exists(word):
        from difflib import get_close_matches

        matches = get_close_matches(word, COMMANDS, 1, 0.5)
        guess = f"did you mean {matches[0]}? " if matches else ""
        names = ", ".join(sorted(COMMANDS))
        raise click.UsageError(
            f"{word!r} is neither a command nor a file\n  {guess}The commands are {names}", ctx
        )
    if word.startswith("-") and os.path.exists(word):
        raise click.UsageError(
            f"{word!r} reads as an option\n  write ./{word} for the file of that name", ctx
        )


@click.group("ptinspect", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__, "-V", "--version", prog_name="ptinspect", message="%(prog)s %(version)s"
)
@click.option("--debug", is_flag=True, help="Show the Python traceback of an error.")
def cli(debug: bool) -> None:
    """See what is in a .pt or .pth file, without torch and without executing anything.

    `ptinspect FILE` is short for `ptinspect show FILE`, and `ptinspect help COMMAND` for
    `ptinspect COMMAND --help`.
    """


def main() -> None:
    """Run the program `ptinspect`.

    The garbage collector is off and the process ends without freeing objects: for a large file
    that takes a fifth of the time. `show` collects now and then when it reads many files.
    """
    import gc

    gc.disable()
    code: object = DONE
    try:
        cli(prog_name="ptinspect")
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # while the process ends
        code = INTERRUPTED
    except Exception:  # noqa: BLE001 - it is printed, and the exit code is 2
        # Only --debug lets an exception get here. Its traceback may quote the file.
        import traceback

        write_stderr("\n".join(map(safe, traceback.format_exc().rstrip("\n").split("\n"))))
        code = FAILED
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code if isinstance(code, int) else FAILED)
