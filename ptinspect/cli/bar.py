"""What a proof is doing, as one line of the terminal that is drawn over and over."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
