"""The members of a tar file: names and where their bytes lie (POSIX.1-2001 "pax", and ustar)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.limits import LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.source.base import Source

BLOCK = 512


class Member(NamedTuple):
    """A file in the tar. `start`: of its bytes; `have`: those that are there, `size` when all."""

    name: str
    start: int
    size: int
    have: int


def is_tar(head: bytes) -> bool:
    """Whether the first block is a tar header: its checksum says so, which the oldest tars,
    without the word "ustar", have too."""
    if len(head) < BLOCK or not head[0]:
        return False
    try:
        told = _number(head[148:156])
    except ValueError:
        return False
    return told == sum(head[:148]) + sum(head[156:BLOCK]) + 8 * 0x20


def members(source: Source, limits: Limits = LIMITS) -> dict[str, Member]:
    """The tar's files by name, in order; of a name that is there twice the last, as `tarfile`
    has it. For errors see `iter_members`."""
    return {member.name.removeprefix("./"): member for member in iter_members(source, limits)}


def iter_members(source: Source, limits: Limits = LIMITS) -> Iterator[Member]:
    """The tar's files, in order. A tar that is cut off gives what is there; the last one's
    `have` is then less than its `size`.

    Raises DamagedError where a header is none.
    """
    count, pos, long_size = 0, 0, None
    while pos + BLOCK <= source.size:
        head = source.read(pos, BLOCK)
        if not any(head):
            break
        if not is_tar(head):
            raise DamagedError("there is no tar header where one should be", where=Place(None, pos))
        size = _size(head, pos)
        kind, start = head[156:157], pos + BLOCK
        have = max(min(size, source.size - start), 0)
        if kind == b"x":
            long_size = _pax_size(source.read(start, min(have, 1 << 16)))
        elif kind in (b"0", b"\0", b"7"):
            if long_size is not None:
                size, long_size = long_size, None
                have = max(min(size, source.size - start), 0)
            name = head[:100].split(b"\0")[0].decode("utf-8", "replace")
            yield Member(name, start, size, have)
        count += 1
        if count > limits.zip_entries:
            raise LimitError("the tar has too many members", limit="zip_entries")
        pos = start + -(-size // BLOCK) * BLOCK


def _size(head: bytes, pos: int) -> int:
    try:
        return _number(head[124:136])
    except ValueError as error:
        raise DamagedError("a tar header has no size", where=Place(None, pos)) from error


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or binary where the first bit is set (GNU, pax)."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() and digits:
        raise ValueError(digits)
    return int(digits or b"0", 8)


def _pax_size(records: bytes) -> int | None:
    """The size that an extended header gives, of members too large for the plain field."""
    for line in records.split(b"\n"):
        key, _, value = line.partition(b" ")[2].partition(b"=")
        if key == b"size" and value.isdigit() and len(value) < 20:
            return int(value)
    return None
