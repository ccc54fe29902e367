"""The exceptions that ptinspect raises, and the place in a file that each of them names.

    PtInspectError
    ├── MissingFileError  there is no such file; also a FileNotFoundError
    ├── FormatError       ptinspect does not read such files; the message names the format
    ├── DamagedError      the file is truncated or inconsistent
    ├── LimitError        a limit of `ptinspect.limits` was exceeded
    ├── UnsafeError       refused, because it would execute code from the file
    ├── UnsupportedError  understood, but not possible with this file
    └── LossError         done, it would lose something that was not given up explicitly

Code that does not know the file's path raises without it. `add_error_path` adds the path, so that a
message always reads `FILE: what is wrong, place`, with the next step on a second line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

DOWNLOAD_AGAIN = "download or copy the file again"

_in_shell = False  # True while a command runs


@contextmanager
def shell_options() -> Iterator[None]:
    """Let the errors of the block name options as the shell writes them: `--entry PATH`.

    Otherwise they name the arguments of Python: `entry=PATH`.
    """
    global _in_shell  # errors are raised far from the command
    before, _in_shell = _in_shell, True
    try:
        yield
    finally:
        _in_shell = before


def spell_options(text: str) -> str:
    """Return a message that names options as the caller writes them: outside the shell as Python's
    arguments. Lines that are whole commands stay as they are."""
    if _in_shell or "--" not in text:
        return text
    import re

    def argument(match: re.Match[str]) -> str:
        name, value = match[1].replace("-", "_"), match[2]
        if not value:
            return f"{name}=True" if name in ("force", "trust") else name
        return f"{name}={value}" if value[0] == "'" or value.isupper() else f'{name}="{value}"'

    option = re.compile(
        r"(?<![\w-])--([a-z][a-z-]*)(?: (state_dict|checkpoint|safetensors|npz|same|keep-one"
        r"|duplicate|auto|'[^']*'|[A-Z][A-Z_]*\b))?"
    )
    return "\n".join(
        line if "ptinspect " in line else option.sub(argument, line) for line in text.split("\n")
    )


class Place(NamedTuple):
    """A place in a file.

    Attributes:
        record: the member of an archive, or None for the file itself.
        offset: byte offset in the record, or None for the record as a whole.
    """

    record: str | None = None
    offset: int | None = None

    def __str__(self) -> str:
        if self.offset is None:
            return self.record or ""
        return f"{self.record} @ {self.offset}" if self.record else f"byte {self.offset}"


class PtInspectError(Exception):
    """The base class of all errors of ptinspect.

    Attributes:
        message: what is wrong.
        path: the file.
        where: the place in the file.
        hint: the next step.
    """

    kind = "error"
    exit_code = 2

    def __init__(
        self, message: str, *, path: str | None = None, where: Place | None = None,
        hint: str | None = None,
    ) -> None:  # fmt: skip
        self.message = spell_options(message)
        self.hint = None if hint is None else spell_options(hint)
        super().__init__(self.message)
        self.path = path
        self.where = where

    def __str__(self) -> str:
        place = f", {self.where}" if self.where and str(self.where) else ""
        return f"{self.path}: {self.message}{place}" if self.path else f"{self.message}{place}"

    def as_dict(self) -> dict[str, object]:
        """Return `error` of the JSON objects for files that could not be read."""
        where = self.where._asdict() if self.where is not None else None
        return {"kind": self.kind, "message": self.message, "where": where, "hint": self.hint}

    def lines(self) -> str:
        """Return `ptinspect: FILE: what is wrong, place`, and the hint on a second line."""
        return f"ptinspect: {self}" + (f"\n  {self.hint}" if self.hint else "")


class MissingFileError(PtInspectError, FileNotFoundError):
    """There is no such file."""


class FormatError(PtInspectError):
    """ptinspect does not read such files. The message names the format."""

    kind = "format"


class DamagedError(PtInspectError):
    """The file is truncated or inconsistent."""

    kind = "damaged"


class LimitError(PtInspectError):
    """A limit was exceeded. `limit` is its name in `ptinspect.limits.Limits`."""

    kind = "limit"

    def __init__(
        self, message: str, *, limit: str, where: Place | None = None, hint: str | None = None
    ) -> None:
        advice = (
            f"the limit is `{limit}`: in Python, "
            f"ptinspect.open(path, limits=Limits({limit}=...)) raises it"
        )
        super().__init__(message, where=where, hint=hint or advice)
        self.limit = limit


class UnsafeError(PtInspectError):
    """Refused, because it would execute code from the file."""

    kind = "unsafe"


class UnsupportedError(PtInspectError):
    """Understood, but not possible with this file."""

    kind = "unsupported"


class LossError(PtInspectError):
    """Refused, because it would lose something that was not given up explicitly."""

    kind = "loss"
    exit_code = 1


@contextmanager
def add_error_path(path: str) -> Iterator[None]:
    """Add the file's path to a PtInspectError from the block that has none.

    The hint of a damaged file then also names the command that saves what is left of it.
    """
    try:
        yield
    except PtInspectError as error:
        if not error.path:
            error.path = path
            is_damaged = isinstance(error, DamagedError) and error.hint == DOWNLOAD_AGAIN
            if is_damaged and not os.path.isdir(path):  # recover takes one file
                from ptinspect.text import shell_word  # only for messages: start-up time counts

                command = f"ptinspect recover {shell_word(path)} recovered.pt"
                error.hint = f"{DOWNLOAD_AGAIN}, or save what is left of it:\n{command}"
        raise
