"""A real dask cluster; run by `test_engines.py`, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.conftest import FIXTURES
from tests.safety.corpus import malicious
from tests.safety.killing import LONGEST, killed_in_the_middle, many_files, waits_to_be_killed


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    return many_files(tmp_path)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_dask_answers_what_is_answered_here(client: Any, tmp_path: Path) -> None:
    malicious.write(tmp_path)
    paths = [tmp_path, FIXTURES / "containers", FIXTURES / "old"]
    options: Any = {"allow": ["mine.*"], "exclude": ["*.npz"], "commands": ["stub", "convert"]}
    here = ptinspect.scan_many(paths, **options)
    assert len(here) > 700
    assert ptinspect.scan_many(paths, client.get_executor(), **options) == here


@pytest.mark.parametrize("allowed", [3, 0], ids=["elsewhere", "given-up"])
def test_a_worker_of_dask_is_killed_in_the_middle(
    client: Any, many: list[str], tmp_path: Path, allowed: int
) -> None:
    """Its work goes to another worker; or, where the engine gives up at once, comes back here."""
    mark = str(tmp_path / "mark")
    client.wait_for_workers(2, LONGEST)
    client.cluster.scheduler.allowed_failures = allowed
    client.run(waits_to_be_killed, many[17], mark)
    killed_in_the_middle(many, mark, client.get_executor())
