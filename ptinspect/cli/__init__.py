"""The command line: `ptinspect [--debug] COMMAND …`. A command's module is imported when it is
called.

Exit codes: 0 done, the answer is yes; 1 the answer is no; 2 it could not be done; 130
interrupted. A closed pipe ends quietly.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

import click

from ptinspect import __version__
from ptinspect.cli.output import OutputClosed, write_stderr
from ptinspect.errors import PtInspectError

DONE, NO, FAILED, INTERRUPTED = 0, 1, 2, 130


def _convert() -> click.Command:
    from ptinspect.cli.convert import command

    return command


def _check() -> click.Command:
    from ptinspect.cli.check import command

    return command


def _diff() -> click.Command:
    from ptinspect.cli.diff import command

    return command


def _show() -> click.Command:
    from ptinspect.cli.show import command

    return command


def _scan() -> click.Command:
    from ptinspect.cli.scan import command

    return command


def _stub() -> click.Command:
    from ptinspect.cli.stub import command

    return command


COMMANDS: dict[str, Callable[[], click.Command]] = {
    "check": _check,
    "convert": _convert,
    "diff": _diff,
    "scan": _scan,
    "show": _show,
    "stub": _stub,
}
"""What exists, and how it is loaded. Hints name no other command: they ask here."""

DEFAULT = "show"
"""`ptinspect FILE…` is `ptinspect show FILE…`."""


class Failure(click.ClickException):
    """It could not be done. `message` is already fit for a terminal."""

    exit_code = FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        """On standard error, in utf-8."""
        write_stderr(self.message)


class Commands(click.Group):
    """Loads commands when they are called, and is the one door out for errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """By name."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loaded; None where there is none of that name."""
        load = COMMANDS.get(cmd_name)
        return load() if load is not None else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `show` before what is neither a command nor an option of the group."""
        own = {name for param in self.get_params(ctx) for name in param.opts}
        at = next((at for at, arg in enumerate(args) if arg not in own), len(args))
        if at < len(args) and args[at] not in COMMANDS:
            _must_be_a_path(args[at], ctx)
            args = [*args[:at], DEFAULT, *args[at:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Turns what is raised below into one message and an exit code."""
        from ptinspect.cli.output import error_text, unexpected_error

        try:
            return super().invoke(ctx)
        except PtInspectError as error:
            if ctx.params.get("debug"):
                raise
            raise Failure(error_text(error)) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort, OutputClosed):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            raise Failure(error_text(unexpected_error(error))) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's, but that each way to end has the exit code that the design gives it."""
        try:
            code = super().main(
                args,
                prog_name or "ptinspect",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except click.ClickException as error:
            if not standalone_mode:
                raise
            error.show()
            code = FAILED
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except OutputClosed:
            code = DONE
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else DONE)
        return code


def _must_be_a_path(word: str, ctx: click.Context) -> None:
    """A usage error for a mistyped command: a bare word that is no file."""
    import os

    if (
        word.startswith("-")
        or "." in word
        or os.path.exists(word)
        or os.path.basename(word) != word
    ):
        return
    names = ", ".join(sorted(COMMANDS))
    raise click.UsageError(f"{word!r} is neither a command nor a file. Commands: {names}.", ctx)


@click.group("ptinspect", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ptinspect", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show Python's traceback of an error.")
def cli(debug: bool) -> None:
    """See what is in a .pt or .pth file: without torch, without the class, executing nothing.

    `ptinspect FILE` is `ptinspect show FILE`.
    """


def _traceback() -> None:
    """Python's, with what its messages quote of a file escaped as elsewhere."""
    import traceback

    from ptinspect.display.text.escape import safe

    write_stderr("\n".join(map(safe, traceback.format_exc().rstrip("\n").split("\n"))))


def main() -> None:
    """The program `ptinspect`.

    One file's values live until the program ends: looking for garbage among them, or freeing
    them one by one at the end, would take a fifth of the time that a large file needs.
    """
    import gc
    import os

    gc.disable()  # a run over many files asks for it now and then
    code: object = DONE
    try:
        cli()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # while it ends
        code = INTERRUPTED
    except Exception:  # noqa: BLE001
        _traceback()  # only --debug lets one through
        code = FAILED
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code if isinstance(code, int) else FAILED)
