"""Which tensors are shown, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.text import count_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.display.options import Look
    from ptinspect.document import Document, TensorInfo


def selected(document: Document, look: Look) -> list[TensorInfo]:
    """The tensors whose keys the globs let through, sorted as asked."""
    found = list(document.tensors.values())
    if look.include or look.exclude:
        wanted = matcher(look)
        found = [info for info in found if wanted(info.key)]
    if look.sort == "key":
        found.sort(key=lambda info: natural(info.key))
    elif look.sort == "size":
        found.sort(key=lambda info: -info.nbytes)
    return found


def none_selected(document: Document, look: Look) -> str:
    """What is said where no tensor is shown: whether there are any."""
    count = len(document.tensors)
    if not count or not (look.include or look.exclude):
        return "no tensors"
    return f"no key of {count_text(count, 'tensor')} passes --include and --exclude"


def matcher(look: Look) -> Callable[[str], bool]:
    """Whether a key is wanted: one of `include` matches it (or there is none), none of
    `exclude` does. `*` matches dots too, as in `*.weight`."""
    import re
    from fnmatch import translate

    def compiled(globs: tuple[str, ...]) -> Callable[[str], object]:
        return re.compile("|".join(map(translate, globs))).match

    keep = compiled(look.include) if look.include else None
    drop = compiled(look.exclude) if look.exclude else None
    return lambda key: bool(
        (keep is None or keep(key) is not None) and (drop is None or drop(key) is None)
    )


def natural(key: str) -> list[tuple[int, int, str]]:
    """For sorting: numbers by value, `layers.2` before `layers.10`."""
    parts = []
    for part in key.split("."):
        number = part.isascii() and part.isdigit() and len(part) < 20
        parts.append((0, int(part), part) if number else (1, 0, part))
    return parts


__all__ = ["matcher", "natural", "none_selected", "selected"]
