"""Progress on standard error: only on a terminal, and cleared of control characters."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ptinspect.cli.output import is_terminal

if TYPE_CHECKING:
    from ptinspect.proofs.processes import Progress, Watch

DELAY = 1.0
"""Seconds of work before a bar appears, so that short work shows none."""

BAR_WIDTH = 24
"""Characters between the brackets of a training's bar."""

INTERVAL = 0.05
"""Minimum seconds between two drawings of a training's bar."""


class ProgressBar:
    """A context manager that gives `update(done, total)`, or None if no bar will be shown. A
    `counted` bar shows `done/total` as well as the percentage."""

    def __init__(self, label: str, *, hidden: bool = False, counted: bool = False) -> None:
        self.shown = not hidden and is_terminal(sys.stderr)
        self._label = label
        self._counted = counted
        self._bar: Any = None
        self._start = 0.0

    def __enter__(self) -> Callable[[int, int], None] | None:
        self._start = time.monotonic()
        return self._update if self.shown else None

    def _update(self, done: int, total: int) -> None:
        if self._bar is None:
            if time.monotonic() - self._start < DELAY:
                return
            import click

            from ptinspect.display.text.escape import cut

            bar: Any = click.progressbar(
                length=total, label=cut(self._label), file=sys.stderr, show_pos=self._counted
            )
            self._bar = bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()


@contextmanager
def byte_progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Give `advance(count)`, which moves a bar over `total` bytes by `count`."""
    done = 0
    with ProgressBar(label) as update:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if update is not None:
                update(done, total)

        yield advance


@contextmanager
def training_progress(*, hidden: bool = False) -> Iterator[Watch | None]:
    """Give the function that draws the progress of a proof on one line, empty again at the end; or
    None."""
    if hidden or not is_terminal(sys.stderr):
        yield None
        return
    last_text, last_time = "", 0.0

    def draw(progress: Progress) -> None:
        nonlocal last_text, last_time
        now = time.monotonic()
        running = progress.text == last_text and progress.step < progress.total
        if running and now - last_time < INTERVAL:
            return
        import shutil  # `show` imports this module but not shutil, which takes 5 ms

        last_text, last_time = progress.text, now
        _write_line(training_line(progress, shutil.get_terminal_size()[0]))

    try:
        yield draw
    finally:
        if last_text:
            _write_line("")


def training_line(progress: Progress, columns: int) -> str:
    """Return `training without interruption  [######------]  3/8  loss 0.1234`, cut to fit."""
    if not progress.total:
        return f"{progress.text} …"[: columns - 1]
    filled = BAR_WIDTH * min(progress.step, progress.total) // progress.total
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    loss = f"  loss {progress.loss:.4g}" if progress.loss is not None else ""
    text = f"{progress.text}  [{bar}]  {progress.step}/{progress.total}{loss}"
    return text[: columns - 1]


def _write_line(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")  # back to the start of the line, and clear it
    sys.stderr.flush()
