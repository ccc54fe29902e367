"""What the commands share: options in one wording, standard output and error, `-o FILE`, the text
of errors, and progress bars."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

import click

from ptinspect.errors import PtInspectError
from ptinspect.text import cut, safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ptinspect.proofs.processes import Progress, Watch
    from ptinspect.report import Report

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


STDOUT_ERRNOS = frozenset((errno.EBADF, errno.EFBIG, errno.EIO, errno.ENOSPC))

BUG_HINT = "please report it, with the file if you can, or with the output of --debug"


def error_text(error: PtInspectError) -> str:
    """Return `ptinspect: FILE: what is wrong, where` and the hint, indented, on further lines.

    Like `error.lines()`, but escaped: an error may quote names from the file.
    """
    hint = error.hint.split("\n") if error.hint else ()
    return "\n  ".join([f"ptinspect: {cut(str(error))}", *map(safe, hint)])


def reportable(error: Exception, path: str | None = None) -> PtInspectError:
    """Return the error to report for an exception: itself, if ptinspect has raised it."""
    if isinstance(error, PtInspectError):
        return error
    if isinstance(error, MemoryError):
        return PtInspectError("there is not enough memory to read it", path=path)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return PtInspectError(
            f"this needs {package}, which is not installed",
            path=path,
            hint=f"pip install {package}",
        )
    message = f"a bug in ptinspect: {type(error).__name__}: {error}"
    return PtInspectError(message, path=path, hint=BUG_HINT)


def write_stderr(message: str) -> None:
    """Write a line to standard error, in UTF-8 whatever the locale is."""
    _write_utf8(sys.stderr, message + "\n")


def _write_utf8(stream: IO[str] | None, text: str) -> None:
    if stream is None:  # under pythonw
        return
    binary = getattr(stream, "buffer", None)
    if binary is None:  # a text-only replacement such as io.StringIO
        stream.write(text)
    else:
        stream.flush()
        binary.write(text.encode("utf-8", "backslashreplace"))
    stream.flush()


def is_terminal(stream: object) -> bool:
    """Return True if the stream is a terminal. It may be None, as under pythonw."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty is not None and isatty())


def terminal_style(output: str | None) -> tuple[int | None, bool]:
    """Return the columns of the terminal to which text with the option `-o` goes, and True if it
    may be coloured; (None, False) if it goes to a file or a pipe."""
    if output not in (None, "-") or not is_terminal(sys.stdout):
        return None, False
    import shutil  # takes 5 ms

    width = max(shutil.get_terminal_size().columns, 40)
    # https://no-color.org: NO_COLOR counts with any value but the empty one.
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return width, False
    return width, os.name != "nt" or "WT_SESSION" in os.environ


class OutputClosed(Exception):
    """The reader of standard output has closed the pipe."""


def write_stdout(text: str) -> None:
    """Write to standard output at once, in UTF-8. OutputClosed if its reader has closed the pipe,
    PtInspectError if writing fails, for example because the disk is full."""
    try:
        _write_utf8(sys.stdout, text)
    except OSError as error:
        # Windows reports a closed pipe as EINVAL.
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == 22):
            with suppress(OSError, ValueError):  # so that Python's flush at exit cannot fail
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise OutputClosed from None
        raise stdout_error(error) from error


def stdout_error(error: OSError) -> PtInspectError:
    """Return the error for standard output that cannot be written."""
    message = f"cannot be written: {error.strerror or error}"
    return PtInspectError(message, path="standard output")


def write_summary(report: Report, output: str | None) -> None:
    """Write the line that sums up a report to standard error, if the report went to a file."""
    if output not in (None, "-"):
        write_stderr(report.summary)


@contextmanager
def open_output(
    path: str | None, *, force: bool = False, sources: Sequence[str] = (), is_report: bool = True
) -> Iterator[Callable[[str], None]]:
    """Give the function that writes to the file that `-o` names, or to standard output for None
    and `-`.

    The file gets its name when the block ends without an error, and only if something was written.
    An existing file is overwritten with `force`, or if `is_report` and it contains text: reports
    do and models do not. PtInspectError if it is not, if it is one of the `sources`, or if it
    cannot be written.
    """
    if path is None or path == "-":
        yield write_stdout
        return
    # Imported here: most commands write to standard output, and start-up time counts.
    from ptinspect.atomic_file import atomic_outputs, check_destination

    if is_report and not force and os.path.isfile(path):
        with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            force = "\0" not in file.read(1 << 16)
        if not force:
            message = "already exists and is not a text file, so a report does not overwrite it"
            raise PtInspectError(message, path=path, hint="write to another file")
    check_destination(path, force=force, sources=sources)
    with atomic_outputs([path], force=force) as (file,):
        yield lambda text: file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def json_failure(
    output_format: str, output: str | None, sources: Sequence[str], *, force: bool = False
) -> Iterator[None]:
    """With `-f json`, write the object of an error of the block in the place of the report, as
    `open_output` would write that. The error is raised again. If it does not name its file, that
    is the first of the `sources`."""
    try:
        yield
    except PtInspectError as error:
        is_about_output = error.path is not None and error.path in ("standard output", output)
        if output_format == "json" and (not is_about_output or error.path in sources):
            from ptinspect.display.json import json_error

            with open_output(output, force=force, sources=sources) as write:
                write(json_error(error, error.path or sources[0]))
        raise


# Progress on standard error: only on a terminal, and cleared of control characters

DELAY = 1.0
"""Seconds of work before a bar appears, so that short work shows none."""

BAR_WIDTH = 24
"""Characters between the brackets of a training's bar."""

INTERVAL = 0.05
"""Minimum seconds between two drawings of a training's bar."""


@contextmanager
def progress_bar(
    label: str, *, hidden: bool = False, counted: bool = False
) -> Iterator[Callable[[int, int], None] | None]:
    """Give `update(done, total)`, or None if no bar will be shown. A `counted` bar shows
    `done/total` as well as the percentage."""
    if hidden or not is_terminal(sys.stderr):
        yield None
        return
    start, bar = time.monotonic(), None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if time.monotonic() - start < DELAY:
                return
            opened = click.progressbar(
                length=total, label=cut(label), file=sys.stderr, show_pos=counted
            )
            bar = opened.__enter__()
        bar.update(done - bar.pos)

    try:
        yield update
    finally:
        if bar is not None:
            bar.render_finish()


@contextmanager
def byte_progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Give `advance(count)`, which moves a bar over `total` bytes by `count`."""
    done = 0
    with progress_bar(label) as update:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if update is not None:
                update(done, total)

        yield advance


@contextmanager
def training_progress(*, hidden: bool = False) -> Iterator[Watch | None]:
    """Give the function that draws the progress of a proof on one line, empty again at the end; or
    None."""
    if hidden or not is_terminal(sys.stderr):
        yield None
        return
    last_text, last_time = "", 0.0

    def draw(progress: Progress) -> None:
        nonlocal last_text, last_time
        now = time.monotonic()
        running = progress.text == last_text and progress.step < progress.total
        if running and now - last_time < INTERVAL:
            return
        import shutil

        last_text, last_time = progress.text, now
        _write_line(training_line(progress, shutil.get_terminal_size()[0]))

    try:
        yield draw
    finally:
        if last_text:
            _write_line("")


def training_line(progress: Progress, columns: int) -> str:
    """Return `training without interruption  [######------]  3/8  loss 0.1234`, cut to fit."""
    if not progress.total:
        return f"{progress.text} …"[: columns - 1]
    filled = BAR_WIDTH * min(progress.step, progress.total) // progress.total
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    loss = f"  loss {progress.loss:.4g}" if progress.loss is not None else ""
    text = f"{progress.text}  [{bar}]  {progress.step}/{progress.total}{loss}"
    return text[: columns - 1]


def _write_line(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")  # back to the start of the line, and clear it
    sys.stderr.flush()
