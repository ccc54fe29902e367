"""The exceptions that ptinspect raises, and the place in a file that each of them names.

    PtInspectError
    ├── FormatError       ptinspect does not read such files; the message names the format
    ├── DamagedError      the file is truncated or inconsistent
    ├── LimitError        a limit of `ptinspect.limits` was exceeded
    ├── UnsafeError       refused, because it would execute code from the file
    └── UnsupportedError  understood, but not possible with this file

Code that does not know the file's path raises without it. `add_error_path` adds the path, so that a
message always reads `FILE: what is wrong, place`, with the next step on a second line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

DOWNLOAD_AGAIN = "download or copy the file again"


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

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        where: Place | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f", {self.where}" if self.where and str(self.where) else ""
        return f"{self.path}: {self.message}{place}" if self.path else f"{self.message}{place}"

    def lines(self) -> str:
        """Return `ptinspect: FILE: what is wrong, place`, and the hint on a second line."""
        return f"ptinspect: {self}" + (f"\n  {self.hint}" if self.hint else "")


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
        self,
        message: str,
        *,
        limit: str,
        path: str | None = None,
        where: Place | None = None,
        hint: str | None = None,
    ) -> None:
        advice = (
            f"the limit is `{limit}`: in Python, "
            f"ptinspect.open(path, limits=Limits({limit}=...)) raises it"
        )
        super().__init__(message, path=path, where=where, hint=hint or advice)
        self.limit = limit


class UnsafeError(PtInspectError):
    """Refused, because it would execute code from the file."""

    kind = "unsafe"


class UnsupportedError(PtInspectError):
    """Understood, but not possible with this file."""

    kind = "unsupported"


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
            if error.hint == DOWNLOAD_AGAIN and isinstance(error, DamagedError):
                from ptinspect.text import shell_word  # only for messages: start-up time counts

                command = f"ptinspect recover {shell_word(path)} recovered.pt"
                error.hint = f"{DOWNLOAD_AGAIN}, or save what is left of it:\n{command}"
        raise
