"""`ptinspect show`: what is in a file."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import click

from ptinspect.cli.command_names import COMMAND_NAMES
from ptinspect.cli.inputs import Input, inputs
from ptinspect.cli.output import (
    OutputClosed,
    error_text,
    open_output,
    unexpected_error,
    write_stderr,
)
from ptinspect.display import FORMATS, Look, view
from ptinspect.document import open as open_document
from ptinspect.errors import FormatError, PtInspectError

if TYPE_CHECKING:
    from typing import Any


if TYPE_CHECKING:
    from typing import Protocol

    from ptinspect.document import Document

    class Target(Protocol):
        def write(self, text: str) -> None: ...


OFTEN = 50
"""Files between two looks for garbage."""

MODELS = (".pt", ".pth", ".ckpt")
"""Suffixes under which nobody keeps anything else: a file of a folder that has one is not passed
over in silence when it is something else, such as a web page or a Git LFS pointer."""


class Passed:
    """What a folder holds besides: how many files were shown, and what the others are."""

    def __init__(self) -> None:
        self.shown = 0
        self.others = 0


class Showing:
    """format, look: how. target: where to. code: the exit code so far."""

    def __init__(self, format: str, look: Look, target: Target, *, debug: bool = False) -> None:
        self.format = format
        self.look = look
        self.target = target
        self.debug = debug
        self.view = view(format)
        self.codes: set[int] = set()
        self.folders: dict[str, Passed] = {}
        self.written = 0
        self.many = False
        self.opened = 0
        self.document: Document | None = None  # kept until the next: the last is never freed

    @property
    def code(self) -> int:
        """1, the answer is no, beats 2, it could not be done, beats 0."""
        return 1 if 1 in self.codes else 2 if 2 in self.codes else 0

    def run(self, paths: tuple[str, ...]) -> int:
        """Shows all; returns the exit code."""
        self.many = len(paths) > 1 or any(path != "-" and os.path.isdir(path) for path in paths)
        for path in paths:
            if path != "-" and os.path.isdir(path):
                self.folders[path] = Passed()
        for given in inputs(paths):
            self.one(given)
        if self.format == "json" and self.many:
            self.target.write("\n]\n" if self.written else "[]\n")
        for folder, passed in self.folders.items():
            self.report(folder, passed)
        return self.code

    def one(self, given: Input) -> None:
        """Answers for one file."""
        passed = self.folders.get(given.folder) if given.folder is not None else None
        try:
            if given.error is not None:
                raise given.error
            text = self.text(given.path)
        except FormatError as error:
            if passed is None or given.path.lower().endswith(MODELS):
                self.failed(error, given.path)
            else:  # in a folder there are other files too
                passed.others += 1
        except PtInspectError as error:
            self.failed(error, given.path)
        except OutputClosed:
            raise
        except Exception as error:  # noqa: BLE001
            self.failed(unexpected_error(error, given.path), given.path, error)
        else:
            self.put(text)
            if passed is not None:
                passed.shown += 1

    def text(self, path: str) -> str:
        """The view of one file."""
        look = self.look
        self.tidy()
        document = self.document = open_document(path)
        with document:
            if look.hash:
                from ptinspect.display.numbers.hashes import file_hash

                look.file_hash = file_hash(document, look)
                self.codes.add(1 if look.file_hash.mismatch else 0)
            made = self.view(document, look)
        self.codes.add(0)
        return made

    def tidy(self) -> None:
        """Frees what earlier files left, now and then: only cycles need it."""
        self.document = None
        self.opened += 1
        if self.opened % OFTEN == 0:
            gc.collect()

    def failed(self, error: PtInspectError, path: str, cause: Exception | None = None) -> None:
        """Says what is wrong, in the place of the answer too where that is JSON."""
        if self.debug:
            raise cause or error
        self.codes.add(2)
        error.path = error.path or path
        write_stderr(error_text(error))
        if self.format == "json":
            from ptinspect.display.formats.json import json_error

            self.put(json_error(error, path))

    def put(self, text: str) -> None:
        """One answer; a list's brackets and commas, or a blank line, around it."""
        if self.many and self.format == "json":
            text = (",\n" if self.written else "[\n") + text.rstrip("\n")
        elif self.written:
            text = "\n" + text
        self.target.write(text)
        self.written += 1

    def report(self, folder: str, passed: Passed) -> None:
        """Says what of a folder was passed over; a folder with nothing is an error."""
        others = f"{passed.others:,} other file{'s' * (passed.others != 1)} passed over"
        if not passed.shown and 2 not in self.codes:
            self.codes.add(2)
            error = PtInspectError("no file in it is one that ptinspect reads", path=folder)
            write_stderr(error_text(error) + (f"; {others}" if passed.others else ""))
        elif passed.others:
            from ptinspect.display.text.escape import safe

            write_stderr(f"ptinspect: {safe(folder)}: {passed.shown:,} shown, {others}")


# ---


@click.command("show", short_help="What is in it: files and folders.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "-f",
    "--format",
    type=click.Choice(FORMATS),
    default="summary",
    show_default=True,
    help="How it is shown.",
)
@click.option("-o", "--output", metavar="FILE", help="Write it to FILE instead.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option(
    "--include",
    metavar="GLOB",
    multiple=True,
    help="Only tensors with such a key (*.weight); may be repeated.",
)
@click.option(
    "--exclude", metavar="GLOB", multiple=True, help="No tensors with such a key; may be repeated."
)
@click.option(
    "--sort",
    type=click.Choice(["file", "key", "size"]),
    default="file",
    show_default=True,
    help="The order of the tensors.",
)
@click.option(
    "--depth",
    metavar="N",
    type=click.IntRange(min=0),
    help="Levels that are shown (JSON has all); what lies deeper is summed up.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="A row for each tensor: do not fold repeated blocks on a terminal.",
)
@click.option("--values", is_flag=True, help="The numbers, as torch prints them.")
@click.option(
    "--stats",
    is_flag=True,
    help="Min, max, mean, std, zeros, NaN and inf of each tensor (reads all of it).",
)
@click.option(
    "--hash",
    "hashes",
    is_flag=True,
    help="SHA-256 of the file, held against a name-<8 hex>.pth, and of each tensor.",
)
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Show what is in each PATH: a file that torch.save or pickle wrote, `-` (standard input), or
    a folder with all such files below it.

    Nothing of a file is executed. Exit code 0: done. 1: a check failed (--hash). 2: a file could
    not be read.
    """

    paths: tuple[str, ...] = given["paths"]
    look = look_of(given)
    with open_output(given["output"], force=given["force"], sources=paths) as target:
        debug = bool(ctx.find_root().params.get("debug"))
        code = Showing(given["format"], look, target, debug=debug).run(paths)
    ctx.exit(code)


def look_of(given: dict[str, Any]) -> Look:
    """The options, and what is known of the terminal."""
    here = given["output"] in (None, "-") and _is_terminal(sys.stdout)
    return Look(
        include=given["include"],
        exclude=given["exclude"],
        sort=given["sort"],
        depth=given["depth"],
        fold=here and not given["every"] and given["sort"] == "file",
        values=given["values"],
        stats=given["stats"],
        hash=given["hashes"],
        width=_width() if here else None,
        colour=here and _may_colour(),
        commands=frozenset(COMMAND_NAMES),
        progress=None if given["no_progress"] or not _is_terminal(sys.stderr) else _progress(),
    )


def _is_terminal(stream: object) -> bool:
    is_terminal = getattr(stream, "isatty", None)
    return bool(is_terminal is not None and is_terminal())


def _width() -> int:
    """Columns, as shutil.get_terminal_size has it: COLUMNS, then the terminal, then 80."""
    import shutil

    return max(shutil.get_terminal_size().columns, 40)


def _may_colour() -> bool:
    """https://no-color.org: NO_COLOR with any value but the empty one."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return os.name != "nt" or "WT_SESSION" in os.environ


def _progress() -> Any:
    from ptinspect.cli.progress import byte_progress

    return byte_progress
