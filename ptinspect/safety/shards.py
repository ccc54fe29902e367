"""The index of a model in several files: each file that it names is scanned as a member."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ptinspect.errors import FormatError, PtInspectError
from ptinspect.formats.sharded import content_of, folder_of
from ptinspect.safety.scanner import scan_source
from ptinspect.source.base import MemorySource
from ptinspect.source.local import COPIED, open_source

if TYPE_CHECKING:
    from ptinspect.safety.part import Part
    from ptinspect.source.base import Source


def scan_shards(source: Source, part: Part) -> None:
    """Adds a member per shard, the clean ones, too. One that is missing, or that cannot be read,
    makes the whole unreadable; an index inside another file is not followed."""
    part.hint = None
    content = content_of(source, part.limits)
    folder = folder_of(source)
    for name in content.shards:
        inner = part.inside(name)
        inner.path = os.path.join(folder, name)
        part.members.append(inner)
        try:
            with open_source(inner.path) as shard:
                scan_source(_at_hand(shard), inner)
                if inner.passed and not inner.members:
                    raise FormatError(f"it is {inner.what}, not a shard")
        except PtInspectError as error:
            inner.errors.append(error)


def _at_hand(source: Source) -> Source:
    """A small file in memory, where many small reads cost nothing."""
    if source.size > COPIED:
        return source
    data, start, stop = source.window()
    return MemorySource(data, source.path, start, stop, source.base)
