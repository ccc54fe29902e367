"""Which files a list of paths stands for: files, folders with all below them, globs."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

NOT_ENTERED = frozenset((".git", ".hg", ".svn"))
"""Folders in which version control keeps its own copies of what is beside them."""


def expanded(paths: Iterable[str], exclude: Collection[str] = ()) -> Iterator[str]:
    """The files, each once per path that leads to it, those of a folder by name.

    A path that is not there is given back, so that somebody says so.
    """
    for path in paths:
        if path != "-" and os.path.isdir(path):
            yield from _below(path, exclude)
        elif path != "-" and any(char in path for char in "*?[") and not os.path.lexists(path):
            yield from _matching(path, exclude)
        elif not excluded(path, exclude):
            yield path


def _matching(pattern: str, exclude: Collection[str]) -> Iterator[str]:
    import glob

    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        yield pattern
    for path in found:
        if os.path.isdir(path):
            if "**" not in pattern:
                yield from _below(path, exclude)
        elif not excluded(path, exclude):
            yield path


def _below(folder: str, exclude: Collection[str]) -> Iterator[str]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in NOT_ENTERED and not excluded(os.path.join(base, name), exclude)
        )
        for name in sorted(names):
            path = os.path.join(base, name)
            if not excluded(path, exclude):
                yield path


def excluded(path: str, exclude: Collection[str]) -> bool:
    """Whether a glob fits the path, its name, or a folder above it."""
    if not exclude:
        return False
    plain = path.replace(os.sep, "/")
    parts = plain.split("/")
    heads = ["/".join(parts[: at + 1]) for at in range(len(parts))]
    return any(fnmatch(text, glob) for glob in exclude for text in (*heads, *parts, plain))
