"""An archive inside a value: where a tensor was pickled without torch.save, each storage is
`torch.storage._load_from_bytes(b"…")`, and the bytes are a whole legacy stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.formats.detect import open_archive
from ptinspect.pickling.values import Blob
from ptinspect.source.base import MemorySource

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive


def open_inside(outer: Archive, value: bytes | Blob) -> Archive:
    """Opens the bytes that a value of `outer` holds, in place.

    Its spans have an offset in the user's file where the outer pickle has one. Raises what
    `open_archive` raises, LimitError for too many archives inside one another.
    """
    path = outer.source.path
    if isinstance(value, Blob):
        start, stop = value.start, value.start + value.length
        base = None if outer.origin is None else outer.origin + start
        source = MemorySource(value.buffer, path, start, stop, base)
    else:
        source = MemorySource(value, path, base=None)
    return open_archive(source, outer.limits, record=outer.record, depth=outer.depth + 1)
