"""Files that are pickles: a legacy stream of torch.save, or plain pickles.

From protocol 2 on a pickle announces itself. Protocols 0 and 1 begin with an opcode that may be the
first letter of any text; such files are run, and the result decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, FormatError, LimitError, Place
from ptinspect.formats.archive import Archive, Finding
from ptinspect.formats.numpy_files import WRAPPER, has_arrays, read_joblib
from ptinspect.formats.signatures import identify_text, unknown_format_error
from ptinspect.formats.torch.legacy import is_legacy, read_legacy
from ptinspect.formats.zip.records import has_end_record
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.opcodes import BY_CODE
from ptinspect.pickling.values import Inert

if TYPE_CHECKING:
    from ptinspect.source.base import Source

_GLOBAL = rb"c[\w.]+\n[\w.]+\n"
_OLD_PICKLE = re.compile(
    rb"\([dl]?p\d+\n|\([dl]?q|\((?:I-?\d+|F[-+.\de]+|S'.*'|S\".*\")\n|\(?"
    + (_GLOBAL + rb"(?:p\d+\n|q.|r....|[().])")
    + rb"|[\]}]q",
    re.DOTALL,
)
"""The beginning of non-empty pickles of protocol 0 and 1."""

_LONG_RUN = 1000
"""Bytes of a pickle that other files do not contain by chance."""


class PlainPickle(Archive):
    """Pickles in a row. `root` is the first one's value, `more_roots` has the others'."""

    format = "pickle"


def open_pickle(source: Source, head: bytes, limits: Limits) -> Archive:
    """Open a legacy stream or plain pickles. FormatError if it is something else; the message says
    what. Otherwise raises as `read_pickle`."""
    if is_legacy(*source.window()):
        return read_legacy(source, limits)
    if head[0] not in BY_CODE:
        raise _not_pickle_error(source, head)
    is_announced = head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5
    try:
        archive = read_pickle(source, limits)
        is_joblib = any(name.path == WRAPPER for name in archive.pickled.globals)
    except (DamagedError, LimitError) as error:
        is_joblib = has_arrays(*source.window())
        if is_joblib:
            return read_joblib(source, limits)
        if is_announced or _OLD_PICKLE.match(head):
            raise
        is_long = error.where is not None and (error.where.offset or 0) >= _LONG_RUN
        if is_long and not identify_text(head, source.size):
            raise
        raise _not_pickle_error(source, head) from error
    if is_joblib:
        return read_joblib(source, limits)
    # a few bytes of any file may be a pickle of something small, followed by other bytes
    root = archive.root
    is_substantial = isinstance(root, (dict, list, tuple, Inert)) and bool(root)
    if not is_announced and archive.warnings and not is_substantial:
        raise _not_pickle_error(source, head)
    return archive


def read_pickle(source: Source, limits: Limits = LIMITS) -> PlainPickle:
    """Read the pickles in `source`. DamagedError if the first is damaged or a later one truncated,
    LimitError if there are too many. Other bytes after the last pickle are a warning."""
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
            following = run(data, pos, stop=stop, limits=limits)
        except DamagedError:
            if data[pos] == 0x80 and stop - pos > 1 and data[pos + 1] in (2, 3, 4, 5):
                raise
            message = f"{stop - pos:,} bytes follow the pickle, which pickle.load does not read"
            archive.warnings.append(Finding("trailing-bytes", message, Place(None, pos)))
            break
        archive.streams.append(following)
        archive.more_roots.append(following.root)
        pos = following.end
    return archive


def _not_pickle_error(source: Source, head: bytes) -> FormatError:
    identity = identify_text(head, source.size)
    if identity:
        return identity.error()
    if has_end_record(source):
        return FormatError(
            "it contains a zip that does not begin at the start of the file: either its first"
            " bytes are damaged, or it is a self-extracting program",
            where=Place(None, 0),
            hint=DOWNLOAD_AGAIN,
        )
    return unknown_format_error(head)
