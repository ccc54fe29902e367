"""A pickle that is no stream of torch.save: `pickle.dump` of anything, also several in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.formats.archive import Archive, Finding
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run

if TYPE_CHECKING:
    from ptinspect.source.base import Source


class PlainPickle(Archive):
    """See the module. `root` is the first pickle's value, `more_roots` those of the others."""

    format = "pickle"


def read_pickle(source: Source, limits: Limits = LIMITS) -> PlainPickle:
    """The pickles that `source` holds.

    What follows the last whole pickle is a warning, unless it begins as a pickle does and is
    cut off: DamagedError then, as for a first pickle that is damaged.
    """
    data, start, stop = source.window()
    first = run(data, start, stop=stop, limits=limits)
    archive = PlainPickle(source, first, limits=limits)
    archive.origin = None if source.base is None else source.base - start
    pos = first.end
    while pos < stop:
        if len(archive.streams) >= limits.streams:
            raise LimitError(
                f"more than {limits.streams:,} pickles in a row",
                limit="streams",
                where=Place(None, pos),
            )
        try:
            more = run(data, pos, stop=stop, limits=limits)
        except DamagedError:
            if data[pos] == 0x80 and stop - pos > 1 and data[pos + 1] in (2, 3, 4, 5):
                raise
            message = f"{stop - pos:,} bytes follow the pickle, which pickle.load does not read"
            archive.warnings.append(Finding("trailing-bytes", message, Place(None, pos)))
            break
        archive.streams.append(more)
        archive.more_roots.append(more.root)
        pos = more.end
    return archive
