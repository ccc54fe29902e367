"""The exceptions that ptinspect raises, and the place in a file that each points to.

    PtInspectError
    ├── FormatError       not a file that ptinspect reads; the message names what it is
    ├── DamagedError      the right kind of file, but cut off or inconsistent
    ├── LimitError        a bound of `ptinspect.limits` was met
    ├── UnsafeError       refused, because doing it would run what the file says
    └── UnsupportedError  understood, but this cannot be done with it

Lower rooms raise without knowing the file; `about` adds it on the way up, and so a
message always reads `FILE: what is wrong, where`, with what to do on a second line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

DOWNLOAD_AGAIN = "download or copy the file again"


class Place(NamedTuple):
    """Where in a file: the record (a member of an archive; None is the file itself) and
    the byte offset in that record (None where the record as a whole is meant)."""

    record: str | None = None
    offset: int | None = None

    def __str__(self) -> str:
        if self.offset is None:
            return self.record or ""
        return f"{self.record} @ {self.offset}" if self.record else f"byte {self.offset}"


class PtInspectError(Exception):
    """What every error of ptinspect is. `lines()` is the text for people."""

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
        """`ptinspect: FILE: what is wrong, where`, and the hint on a second line."""
        return f"ptinspect: {self}" + (f"\n  {self.hint}" if self.hint else "")


class FormatError(PtInspectError):
    """Not a file that ptinspect reads: the message names what it is."""

    kind = "format"


class DamagedError(PtInspectError):
    """The right kind of file, but cut off or inconsistent."""

    kind = "damaged"


class LimitError(PtInspectError):
    """A bound was met. `limit` is its name in `ptinspect.limits.Limits`."""

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
    """Refused, because doing it would run what the file says."""

    kind = "unsafe"


class UnsupportedError(PtInspectError):
    """Understood, but this cannot be done with it."""

    kind = "unsupported"


@contextmanager
def add_error_path(path: str) -> Iterator[None]:
    """Names the file in an error that comes from below without one."""
    try:
        yield
    except PtInspectError as error:
        error.path = error.path or path
        raise
