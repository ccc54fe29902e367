"""Which files are pickles: a legacy stream of torch.save, or plain ones.

From protocol 2 on a pickle says that it is one. Those of protocol 0 and 1 begin with an opcode
that may be the first letter of any text; they are run, and what they come to decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptinspect.errors import (
    DOWNLOAD_AGAIN,
    DamagedError,
    FormatError,
    LimitError,
    Place,
)
from ptinspect.formats.archive import Archive, Finding
from ptinspect.formats.signatures import Identity, identify_text, unknown_format_error
from ptinspect.formats.torch_legacy import is_legacy, read_legacy
from ptinspect.formats.zip.records import has_end_record
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.opcodes import BY_CODE
from ptinspect.pickling.values import Inert

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


# ---


_GLOBAL = rb"c[\w.]+\n[\w.]+\n"
_OLD_PICKLE = re.compile(
    rb"\([dl]?p\d+\n|\([dl]?q|\((?:I-?\d+|F[-+.\de]+|S'.*'|S\".*\")\n|\(?"
    + (_GLOBAL + rb"(?:p\d+\n|q.|r....|[().])")
    + rb"|[\]}]q",
    re.DOTALL,
)
"""What pickles of protocol 0 and 1 that hold something begin with."""


def open_pickle(source: Source, head: bytes, limits: Limits) -> Archive:
    """A legacy stream or plain pickles; or the error that says what it is instead."""
    if is_legacy(*source.window()):
        return read_legacy(source, limits)
    if head[0] not in BY_CODE:
        raise _no_pickle(source, head)
    try:
        archive = read_pickle(source, limits)
    except (DamagedError, LimitError) as error:
        if b"joblib.numpy_pickle" in head or b"joblib\nnumpy_pickle" in head:
            joblib = Identity("joblib", "a joblib dump", "read it with joblib.load(path)")
            raise joblib.error() from error
        if _announced(head) or _OLD_PICKLE.match(head):
            raise
        if _far(error) and not identify_text(head, source.size):
            raise
        raise _no_pickle(source, head) from error
    if not _announced(head) and archive.warnings and not _holds_much(archive.root):
        raise _no_pickle(source, head)
    return archive


def _announced(head: bytes) -> bool:
    """Whether it begins as pickles of protocol 2 and above do."""
    return head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5


def _far(error: DamagedError | LimitError) -> bool:
    """Whether so much of a pickle was run that it must have been meant as one."""
    return error.where is not None and (error.where.offset or 0) >= 1000


def _holds_much(value: object) -> bool:
    """Whether a value is more than what a few bytes of anything else make by chance."""
    return isinstance(value, (dict, list, tuple, Inert)) and bool(value)


def _no_pickle(source: Source, head: bytes) -> FormatError:
    found = identify_text(head, source.size)
    if found:
        return found.error()
    if has_end_record(source):
        return FormatError(
            "the zip in it does not begin where the file does: either its first bytes are"
            " damaged, or it is a program that unpacks itself",
            where=Place(None, 0),
            hint=DOWNLOAD_AGAIN,
        )
    return unknown_format_error(head)
