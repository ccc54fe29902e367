"""What to say of a file that is cut off: what is still there, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError

if TYPE_CHECKING:
    from collections.abc import Sequence

DOWNLOAD_AGAIN = "fetch or copy the file again"


def bounded_repr(value: object) -> str:
    """A value of the file in a message, short and without control characters. Never the repr
    of anything nested: that recurses."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:80]}…")
    if isinstance(value, int) and value.bit_length() <= 64:
        return f"{value:,}"
    return f"a value of type {type(value).__name__}"


def plain(name: str) -> str:
    """A record's name in a message: as it is, where that can be printed."""
    return name if name.isprintable() and len(name) <= 200 else bounded_repr(name)


class Part(NamedTuple):
    """A storage: its name in the file, the bytes it should have, and those that are there
    (None where there is no trace of it)."""

    name: str
    need: int
    have: int | None

    @property
    def missing(self) -> int:
        """Bytes that are not there."""
        return max(self.need - (self.have or 0), 0)

    @property
    def gone(self) -> bool:
        """Whether anything of it is missing, an empty storage's record included."""
        return self.have is None or self.have < self.need


def lost(cause: str, whole: str, parts: Sequence[Part]) -> DamagedError:
    """The error for a file whose pickle is whole and whose storages may not all be.

    cause: "the file is cut off". whole: the record that is whole. parts: every storage, in the
    order of the file.
    """
    gone = [part for part in parts if part.gone]
    need = sum(part.need for part in parts)
    if not parts:
        rest = "and it refers to no storage"
    elif not gone:
        rest = f"and so {_are(len(parts))} ({need:,} bytes)"
    else:
        missing = sum(part.missing for part in gone)
        how = "missing in whole or in part" if any(part.have for part in gone) else "missing"
        verb = "is" if len(gone) == 1 else "are"
        rest = f"{_which(gone, parts)} {verb} {how}: {missing:,} of {need:,} bytes"
    return DamagedError(f"{cause}: {plain(whole)} is whole, {rest}", hint=DOWNLOAD_AGAIN)


def _are(total: int) -> str:
    return "is its one storage" if total == 1 else f"are its {total:,} storages"


def _which(gone: Sequence[Part], parts: Sequence[Part]) -> str:
    """ "the last 3 of 20 storages", or their names where it is not the end that is missing."""
    total = f"{len(parts):,} storages"
    if len(parts) == 1:
        return f"its one storage, {plain(parts[0].name)},"
    if len(gone) == len(parts):
        return f"all {total}"
    if list(gone) == list(parts[-len(gone) :]):
        return f"the last of {total}" if len(gone) == 1 else f"the last {len(gone):,} of {total}"
    names = ", ".join(plain(part.name) for part in gone[:3]) + (", …" if len(gone) > 3 else "")
    return f"{len(gone):,} of {total} ({names})"
