"""What an opinion is; what is held is in `opinions`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ptinspect.pickling.values import Blob, Value

OK, UNKNOWN, DANGEROUS = 0, 1, 2


class Opinion(NamedTuple):
    """level: OK, UNKNOWN or DANGEROUS. name: what it is about. inner: bytes that the call
    would load as a file, which are for the caller to judge; a text has a byte per character."""

    level: int
    name: str = ""
    why: str = ""
    inner: bytes | Blob | str | None = None


FINE = Opinion(OK)
Rule = Callable[[tuple[Value, ...], int], Opinion]
