"""Where an answer goes: standard output, or a file that is there whole or not at all."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from ptinspect.display.text.escape import cut, safe
from ptinspect.errors import PtInspectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptinspect.atomic_file import AtomicFile

BUGS = "please report it, with the file if you can, or with the output of --debug"


def lines_of(error: PtInspectError) -> str:
    """`ptinspect: FILE: what is wrong, where`, and the hint; nothing in it acts on a terminal.

    As `error.lines()`, with each line escaped: names in a message come from the file.
    """
    made = f"ptinspect: {cut(str(error))}"
    if error.hint:
        made += "".join(f"\n  {safe(line)}" for line in error.hint.split("\n"))
    return made


def unexpected(error: BaseException, path: str | None = None) -> PtInspectError:
    """What nobody foresaw, as an error that says so."""
    if isinstance(error, MemoryError):
        return PtInspectError("there is not enough memory to read it", path=path)
    name = type(error).__name__
    return PtInspectError(f"a bug in ptinspect: {name}: {error}", path=path, hint=BUGS)


# ---


class Closed(Exception):
    """Who reads our output has gone; there is nobody left to answer."""


def complain(message: str) -> None:
    """A message on standard error, in utf-8 whatever the locale."""
    _write(sys.stderr, message + "\n")


def _write(stream: IO[str] | None, text: str) -> None:
    if stream is None:  # pythonw
        return
    binary = getattr(stream, "buffer", None)
    if binary is None:  # a replacement without bytes, such as io.StringIO
        stream.write(text)
    else:
        stream.flush()
        binary.write(text.encode("utf-8", "backslashreplace"))
    stream.flush()


class Standard:
    """Standard output."""

    def write(self, text: str) -> None:
        """At once and in one piece. Raises Closed where nobody reads it."""
        try:
            _write(sys.stdout, text)
        except BrokenPipeError:
            _let_go()
            raise Closed from None
        except OSError as error:
            if os.name == "nt" and error.errno == 22:  # what a closed pipe is there
                _let_go()
                raise Closed from None
            raise PtInspectError(
                f"cannot be written: {error.strerror or error}", path="standard output"
            ) from error


def _let_go() -> None:
    """Keeps Python from a complaint of its own when it flushes at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):
        pass


class TextFile:
    """A text file in UTF-8 that appears complete or not at all."""

    def __init__(self, file: AtomicFile) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write to the temporary file."""
        self._file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def open_output(
    path: str | None, *, force: bool = False, sources: Sequence[str] = ()
) -> Iterator[Standard | TextFile]:
    """Open the file that `-o` names, or standard output for None and `-`.

    The file takes its name when the block ends without an error, and only if something was
    written. PtInspectError if it may not be overwritten, or is one of `sources`.
    """
    if path is None or path == "-":
        yield Standard()
        return
    # Imported here: most commands write to standard output, and start-up time counts.
    from ptinspect.atomic_file import AtomicFile, check_destination

    check_destination(path, force=force, sources=sources)
    file = AtomicFile(path, force)
    try:
        yield TextFile(file)
        file.commit()
    finally:
        file.discard()
