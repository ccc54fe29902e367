"""The files below a folder, and counts of what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeAlias

from ptinspect.errors import PtInspectError
from ptinspect.text import count_text

LeftOut: TypeAlias = Counter[str]
"""How many items of a folder are not read, by their kind."""

VERSION_CONTROL = "version control folder"
FOLDER_LINK = "link to a folder"
BROKEN_LINK = "broken link"
EXCLUDED = "excluded"
_PLURALS = {FOLDER_LINK: "links to folders", EXCLUDED: EXCLUDED}

_VERSION_CONTROL_FOLDERS = frozenset((".git", ".hg", ".svn"))


def files_below(
    folder: str, left_out: LeftOut, is_excluded: Callable[[str], bool] = lambda path: False
) -> Iterator[str]:
    """Yield the files below a folder, sorted by name.

    A folder that cannot be listed is yielded as well: opening it raises an error that says so.
    Version control folders are not entered and links to folders are not followed; `left_out`
    counts them.
    """
    unlisted: list[OSError] = []
    for base, folders, names in os.walk(folder, onerror=unlisted.append):
        yield from _unlisted_folders(unlisted, folder)
        entered = []
        for name in sorted(folders):
            path = os.path.join(base, name)
            if name in _VERSION_CONTROL_FOLDERS:
                left_out[VERSION_CONTROL] += 1
            elif is_excluded(path):
                left_out[EXCLUDED] += 1
            elif os.path.islink(path):
                left_out[FOLDER_LINK] += 1
            else:
                entered.append(name)
        folders[:] = entered
        for name in sorted(names):
            path = os.path.join(base, name)
            if is_excluded(path):
                left_out[EXCLUDED] += 1
            else:
                yield path
    yield from _unlisted_folders(unlisted, folder)


def _unlisted_folders(errors: list[OSError], folder: str) -> Iterator[str]:
    while errors:
        name = errors.pop().filename
        yield os.fsdecode(name) if name else folder


def check_listable(folder: str) -> None:
    """Raise PtInspectError if the folder cannot be listed."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        reason = f"the folder cannot be listed: {error.strerror or error}"
        raise PtInspectError(reason, path=folder) from error


def left_out_text(left_out: LeftOut) -> str:
    """Return `1 version control folder, 2 links to folders`."""
    return ", ".join(
        count_text(count, kind, _PLURALS.get(kind)) for kind, count in sorted(left_out.items())
    )
