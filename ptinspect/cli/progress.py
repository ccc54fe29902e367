"""A progress bar on standard error: on a terminal, and once the work has taken a second."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptinspect.proofs.processes import Progress, Watch


WIDTH = 24
"""Characters of the bar itself."""

OFTEN = 0.05
"""Seconds between two drawings of the same training."""


@contextmanager
def bar(*, wanted: bool) -> Iterator[Watch | None]:
    """Gives the function that draws it; None where standard error is no terminal, or it is not
    wanted. At the end the line is empty again."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    last = ("", 0.0)

    def draw(made: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if made.text == last[0] and made.step < made.total and now - last[1] < OFTEN:
            return
        last = made.text, now
        _write(line(made, shutil.get_terminal_size()[0]))

    try:
        yield draw
    finally:
        if last[0]:
            _write("")


def _write(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def line(made: Progress, columns: int) -> str:
    """`training without interruption  [######------]  3/8  loss 0.1234`, cut to the terminal."""
    if not made.total:
        return f"{made.text} …"[: columns - 1]
    filled = WIDTH * min(made.step, made.total) // made.total
    loss = "" if made.loss is None else f"  loss {made.loss:.4g}"
    drawn = f"[{'#' * filled}{'-' * (WIDTH - filled)}]  {made.step}/{made.total}{loss}"
    return f"{made.text}  {drawn}"[: columns - 1]


# ---


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
