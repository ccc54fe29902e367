"""One server of child processes for all proofs: torch is imported once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ptinspect.proofs.processes import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    pytest.importorskip("torch")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small gain nothing by threads
    with Workers(timeout=120) as made:
        yield made
