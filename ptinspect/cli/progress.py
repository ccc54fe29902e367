"""A progress bar on standard error: on a terminal, and once the work has taken a second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any

AFTER = 1.0
"""Seconds before which a bar would be gone before it is seen."""


class Bar:
    """The time in which there may be a bar. Gives the function that moves it, told (done, in all);
    None where nobody would see it.

    label: what stands in front of it; not escaped yet. hidden: the user wants none. counted: the
    numbers are shown, and not only their ratio.
    """

    def __init__(self, label: str, hidden: bool = False, counted: bool = False) -> None:
        self.shown = not hidden and is_terminal(sys.stderr)
        self._label = label
        self._counted = counted
        self._bar: Any = None
        self._began = 0.0

    def __enter__(self) -> Callable[[int, int], None] | None:
        self._began = monotonic()
        return self._moved if self.shown else None

    def _moved(self, done: int, total: int) -> None:
        if self._bar is None:
            if monotonic() - self._began < AFTER:
                return
            self._bar = self._open(total)
        self._bar.update(done - self._bar.pos)

    def _open(self, total: int) -> Any:
        import click

        from ptinspect.display.text.escape import cut

        bar: Any = click.progressbar(
            length=total, label=cut(self._label), file=sys.stderr, show_pos=self._counted
        )
        return bar.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.render_finish()


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """The same for what is told by how much more is done. `total`: in all."""
    done = 0
    with Bar(label) as moved:

        def passed(more: int) -> None:
            nonlocal done
            done += more
            if moved is not None:
                moved(done, total)

        yield passed


def is_terminal(stream: object) -> bool:
    """Whether a person reads it; a stream may be missing altogether."""
    ask = getattr(stream, "isatty", None)
    return bool(ask is not None and ask())
