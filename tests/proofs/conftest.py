"""Servers of child processes for all proofs: torch is imported once per server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ptinspect.proofs.processes import Workers
from tests.conftest import sees_gpu


@pytest.fixture
def workers(request: pytest.FixtureRequest, forked_training: None) -> Workers:
    """A server that sees a GPU only if the test may use it. It starts with its first job."""
    name = "_gpu_workers" if sees_gpu(request.node) else "_cpu_workers"
    server: Workers = request.getfixturevalue(name)
    return server


def _new_workers() -> Iterator[Workers]:
    pytest.importorskip("torch")
    with Workers(timeout=120) as server:
        yield server


_cpu_workers = pytest.fixture(scope="session", name="_cpu_workers")(_new_workers)
_gpu_workers = pytest.fixture(scope="session", name="_gpu_workers")(_new_workers)
