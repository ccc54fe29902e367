"""What the user asked to see, and where it will be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from ptinspect.display.numbers.hashes import FileHash

    Passed = Callable[[int], None]
    Progress = Callable[[int, str], AbstractContextManager[Passed]]


class Look:
    """The options of `show`, and what is known of the terminal.

    include, exclude: globs on keys. sort: `file`, `key` or `size`. depth: levels that are shown;
    None is all of them. fold: whether repeated blocks are one line. width: columns of the
    terminal; None where the output is no terminal, and lines may be as long as they are.
    colour: whether escape codes may be written. commands: of ptinspect that exist, so that no
    hint names another. progress: opens a bar for so many bytes, with a label; None for none.

    For the file at hand: file_hash, where hashes are asked for.
    """

    __slots__ = (
        "colour", "commands", "depth", "exclude", "file_hash", "fold", "hash", "include", "passed",
        "progress", "sort", "stats", "values", "width",
    )  # fmt: skip

    def __init__(
        self,
        *,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        sort: str = "file",
        depth: int | None = None,
        fold: bool = False,
        values: bool = False,
        stats: bool = False,
        hash: bool = False,
        width: int | None = None,
        colour: bool = False,
        commands: frozenset[str] = frozenset({"show"}),
        progress: Progress | None = None,
    ) -> None:
        self.include = include
        self.exclude = exclude
        self.sort = sort
        self.depth = depth
        self.fold = fold
        self.values = values
        self.stats = stats
        self.hash = hash
        self.width = width
        self.colour = colour
        self.commands = commands
        self.progress = progress
        self.file_hash: FileHash | None = None
        self.passed: Passed = nobody

    def bar(self, total: int, label: str) -> Bar:
        """A context in which `passed(bytes)` moves a progress bar, where there is one."""
        return Bar(self, total, label)


class Bar:
    """The time in which a look has a progress bar. Gives the function that moves it."""

    def __init__(self, look: Look, total: int, label: str) -> None:
        self._look = look
        self._bar = look.progress(total, label) if look.progress is not None else None

    def __enter__(self) -> Passed:
        if self._bar is not None:
            self._look.passed = self._bar.__enter__()
        return self._look.passed

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._look.passed = nobody
        if self._bar is not None:
            self._bar.__exit__(kind, error, at)


def nobody(passed: int) -> None:
    """Where no bar is to be moved."""
