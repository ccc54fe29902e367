"""Documents of pickles made here, without torch."""

from __future__ import annotations

import io
import pickle

from ptinspect.document import Document, open
from ptinspect.limits import LIMITS, Limits


def document(value: object, *, protocol: int = 2, limits: Limits = LIMITS) -> Document:
    """What ptinspect reads in a plain pickle of `value`."""
    return of_bytes(pickle.dumps(value, protocol), limits=limits)


def of_bytes(data: bytes, *, limits: Limits = LIMITS) -> Document:
    return open(io.BytesIO(data), limits=limits)


def lines(found: Document) -> dict[str, object]:
    """Entries as path: value."""
    return {".".join(map(str, entry.path)): entry.value for entry in found.entries}
