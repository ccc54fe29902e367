"""The files that PATH… names: as they are, folders with all that lies below them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from ptinspect.errors import PtInspectError


class Input(NamedTuple):
    """A file to be shown. `folder`: the folder, as given, in which it was found; None for a path
    that was given itself, which must be readable. `error`: where a folder could not be listed."""

    path: str
    folder: str | None = None
    error: PtInspectError | None = None


def inputs(paths: tuple[str, ...]) -> Iterator[Input]:
    """Each file in turn; those of a folder sorted by name, links to folders not followed."""
    for path in paths:
        if path != "-" and os.path.isdir(path):
            yield from _below(path)
        else:
            yield Input(path)


def _below(folder: str) -> Iterator[Input]:
    failed: list[OSError] = []
    for here, folders, names in os.walk(folder, onerror=failed.append):
        folders.sort()
        while failed:
            yield _unreadable(failed.pop(), folder)
        for name in sorted(names):
            path = os.path.join(here, name)
            if _is_regular(path):
                yield Input(path, folder)
    while failed:
        yield _unreadable(failed.pop(), folder)


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:  # a link that leads nowhere
        return False


def _unreadable(error: OSError, folder: str) -> Input:
    path = os.fsdecode(error.filename) if error.filename else folder
    reason = f"the folder cannot be listed: {error.strerror or error}"
    return Input(path, folder, PtInspectError(reason, path=path))
