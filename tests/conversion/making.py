"""What the tests of conversion share: sinks into files, and the fast paths switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptinspect.atomic_file import atomic_outputs
from ptinspect.conversion.output.sink import Sink


@contextmanager
def sink_to(path: Path) -> Iterator[Sink]:
    """A sink whose bytes are the file at `path`, once the block has ended."""
    with atomic_outputs([str(path)], force=True) as (output,):
        sink = Sink(output)
        yield sink
        sink.flush()
