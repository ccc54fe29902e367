"""Real engines with real processes: a pool of processes and a dask cluster, and a worker of each
that is killed while it is at work."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

import ptinspect
from tests.conftest import ROOT
from tests.safety.killing import LONGEST, killed_in_the_middle, many_files, waits_to_be_killed

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    return many_files(tmp_path)


def test_a_process_of_a_pool_is_killed_in_the_middle(many: list[str], tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, waits_to_be_killed, (many[17], mark)) as executor:
        killed_in_the_middle(many, mark, executor)


def test_a_pool_that_is_dead_already(many: list[str]) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        with pytest.raises(RuntimeError):
            executor.submit(os._exit, 1).result(LONGEST)
        assert ptinspect.scan_many(many, executor) == ptinspect.scan_many(many)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("distributed") is None, reason="distributed is not installed")
def test_a_dask_cluster() -> None:
    """The tests of `on_dask.py`, in a process of their own: whoever imports distributed has
    threads from then on, and other pickles of exceptions, which tests after it would meet."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "tests/safety/on_dask.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
