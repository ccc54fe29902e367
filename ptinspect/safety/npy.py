"""numpy's .npy: a header in Python's own notation, then numbers, or a pickle where the elements
are objects. Source: numpy/lib/format.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place

if TYPE_CHECKING:
    from ptinspect.source.base import Source

_LONGEST = 1 << 20
_PLAIN = re.compile(rb"\s*\{[^{}]*\}\s*")
_OBJECT = re.compile(rb"['\"][<>=|]?O\d*['\"]")


def objects_at(source: Source) -> int | None:
    """Where the pickle begins; None where the elements are no objects.

    DamagedError for a header that is none. `numpy.load` asks the dtype whether it has objects;
    here any element type `O` in the header counts, wherever it stands.
    """
    start = source.read(0, 12) if source.size >= 12 else b""
    wide = start[6:7] != b"\x01"
    length = int.from_bytes(start[8 : 12 if wide else 10], "little")
    begin = 12 if wide else 10
    if not start or length > _LONGEST or begin + length > source.size:
        raise DamagedError("the array's header is cut off", where=Place(None, 8))
    header = source.read(begin, length)
    if not _PLAIN.fullmatch(header):
        raise DamagedError("the array's header is no dictionary", where=Place(None, begin))
    after = source.read(begin + length, min(2, source.size - begin - length))
    pickled = after[:1] == b"\x80" and after[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if _OBJECT.search(header) or (b"object" in header) or (pickled and b"'descr'" not in header):
        return begin + length
    return None
