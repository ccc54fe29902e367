"""The options of `show`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

Advance = Callable[[int], None]
Progress = Callable[[int, str], AbstractContextManager[Advance]]


@contextmanager
def _no_progress(total: int, label: str) -> Iterator[Advance]:
    yield lambda count: None


# Without the methods that nothing calls: generating them takes 0.5 ms of every start-up.
@dataclass(slots=True, repr=False, eq=False)
class ShowOptions:
    """The options of `show`, with the facts about the terminal that the output depends on.

    Attributes:
        include: globs; only tensors whose key matches one are shown.
        exclude: globs; tensors whose key matches one are not shown.
        sort: `file`, `key` or `size`.
        depth: levels to show; None shows all.
        fold: write repeated blocks as one row, and cut long lists of entries.
        values: show the numbers of each tensor.
        stats: show statistics of each tensor.
        hash: show the SHA-256 of each tensor.
        check: compare every record with its CRC-32.
        width: columns of the terminal; None if lines may have any length.
        colour: use escape codes.
        hints: suggest ptinspect commands to run next.
        progress: opens a progress bar over a number of bytes, with a label, and gives the
            function that advances it.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sort: str = "file"
    depth: int | None = None
    fold: bool = False
    values: bool = False
    stats: bool = False
    hash: bool = False
    check: bool = False
    width: int | None = None
    colour: bool = False
    hints: bool = False
    progress: Progress = _no_progress

    @property
    def reads_tensors(self) -> bool:
        return self.values or self.stats or self.hash or self.check
