"""What the tests of conversion share: sinks into files, and the fast paths switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptinspect.conversion.copying import Sink
from ptinspect.conversion.output import written


@contextmanager
def sink_to(path: Path) -> Iterator[Sink]:
    """A sink whose bytes are the file at `path`, once the block has ended."""
    with written([str(path)], force=True) as (output,):
        sink = Sink(output)
        yield sink
        sink.flush()
