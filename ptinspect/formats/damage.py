"""What to say of a file that is cut off: what is still there, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

FETCH_AGAIN = "fetch or copy the file again"


def said(value: object) -> str:
    """A value of the file in a message, short and without control characters. Never the repr
    of anything nested: that recurses."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:80]}…")
    if isinstance(value, int) and value.bit_length() <= 64:
        return f"{value:,}"
    return f"a value of type {type(value).__name__}"


class Part(NamedTuple):
    """A storage: its name in the file, the bytes it should have, and those that are there."""

    name: str
    need: int
    have: int


def lost(cause: str, whole: str, parts: Sequence[Part], where: Place | None = None) -> DamagedError:
    """The error for a file whose pickle is whole and whose storages may not all be.

    cause: "the file is cut off". whole: the record that is whole. parts: every storage, in the
    order of the file.
    """
    gone = [part for part in parts if part.have < part.need]
    need = sum(part.need for part in parts)
    if not parts:
        rest = "it refers to no storage"
    elif not gone:
        rest = f"and so {_are(len(parts), len(parts))} ({need:,} bytes)"
    else:
        missing = sum(part.need - part.have for part in gone)
        how = "missing" if not any(part.have for part in gone) else "missing in whole or in part"
        verb = "is" if len(gone) == 1 else "are"
        rest = f"{_which(gone, parts)} {verb} {how}: {missing:,} of {need:,} bytes"
    return DamagedError(f"{cause}: {whole} is whole, {rest}", where=where, hint=FETCH_AGAIN)


def _are(some: int, total: int) -> str:
    return "is its one storage" if total == 1 else f"are its {some:,} storages"


def _which(gone: Sequence[Part], parts: Sequence[Part]) -> str:
    """ "the last 3 of 20 storages", or their names where it is not the end that is missing."""
    total = f"{len(parts):,} storages"
    if len(parts) == 1:
        return f"its one storage, {parts[0].name},"
    if len(gone) == len(parts):
        return f"all {total}"
    if list(gone) == list(parts[-len(gone) :]):
        return f"the last of {total}" if len(gone) == 1 else f"the last {len(gone):,} of {total}"
    names = ", ".join(part.name for part in gone[:3]) + (", …" if len(gone) > 3 else "")
    return f"{len(gone):,} of {total} ({names})"
