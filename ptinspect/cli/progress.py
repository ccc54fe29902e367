"""A progress bar on standard error, for what is read in full."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

LEAST = 64 << 20
"""Bytes below which a bar would be gone before it is seen."""


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar of `total` bytes; gives the function that moves it."""
    if total < LEAST:
        yield lambda passed: None
        return
    with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=False) as bar:
        yield lambda passed: bar.update(passed)
