"""Where an answer goes: standard output, or a file that is there whole or not at all."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import IO

from ptinspect.display.text.escape import cut, safe
from ptinspect.errors import PtInspectError

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

    def __enter__(self) -> Standard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        pass

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


class File:
    """A file that appears under its name when all was written, and not before.

    What is written goes to a temporary file in the same folder, which is synchronised and then
    takes the name. Raises PtInspectError where the name is taken (without `force`), where it is
    no regular file, and where writing fails; nothing is left behind then.
    """

    def __init__(self, path: str, *, force: bool = False, inputs: tuple[str, ...] = ()) -> None:
        self.path = path
        self.force = force
        self._target = os.path.realpath(path)
        self._descriptor: int | None = None
        self._temporary: str | None = None
        self._check(inputs)

    def _check(self, inputs: tuple[str, ...]) -> None:
        if os.path.exists(self._target):
            if not os.path.isfile(self._target):
                raise self._error("it is no regular file")
            for given in inputs:
                if os.path.exists(given) and os.path.samefile(given, self._target):
                    raise self._error("it is one of the files to be shown")
            if not self.force:
                raise self._taken()
        elif not os.path.isdir(os.path.dirname(self._target)):
            raise self._error("its folder does not exist")

    def _error(self, message: str) -> PtInspectError:
        return PtInspectError(message, path=self.path)

    def _taken(self) -> PtInspectError:
        return PtInspectError("exists already", path=self.path, hint="give --force to overwrite it")

    def __enter__(self) -> File:
        return self

    def write(self, text: str) -> None:
        """To the temporary file, made at the first call."""
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise self._error(f"cannot be written: {error.strerror or error}") from error

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        name = f"{self._target}.{os.urandom(4).hex()}.tmp"
        descriptor = os.open(name, flags, 0o666)
        self._temporary = name
        return descriptor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        try:
            if descriptor is not None:
                try:
                    if kind is None:
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                if kind is None:
                    self._take_name()
        except OSError as failed:
            raise self._error(f"cannot be written: {failed.strerror or failed}") from failed
        finally:
            if self._temporary is not None and os.path.exists(self._temporary):
                os.unlink(self._temporary)

    def _take_name(self) -> None:
        """The temporary file gets the name; not, without `force`, if another has it by now."""
        assert self._temporary is not None
        if self.force:
            os.replace(self._temporary, self._target)
            return
        try:
            if os.name == "nt":
                os.rename(self._temporary, self._target)  # refuses there
            else:
                os.link(self._temporary, self._target)
        except FileExistsError:
            raise self._taken() from None
        except OSError:  # a file system without links
            if os.path.exists(self._target):
                raise self._taken() from None
            os.replace(self._temporary, self._target)
