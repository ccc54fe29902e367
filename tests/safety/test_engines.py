"""Real engines with real processes: a dask cluster and a pool of processes, and a worker of each
that is killed while it is at work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.safety import scanning
from ptinspect.safety.report import ScanReport
from tests.conftest import FIXTURES
from tests.safety.corpus import malicious
from tests.safety.files import BAD, GOOD, OWN, torch_zip

REAL = scanning.scan
LONGEST = 60
"""Seconds after which a test has failed."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


def waits_to_be_killed(path: str, mark: str) -> None:
    """In a worker: at this file it says which process it is, and waits; once, whoever it is."""

    def scan(asked: str, **more: Any) -> ScanReport:
        if asked == path and not os.path.exists(mark):
            Path(f"{mark}.new").write_text(str(os.getpid()))
            os.replace(f"{mark}.new", mark)
            time.sleep(LONGEST)
        return REAL(asked, **more)

    scanning.scan = scan  # type: ignore[assignment]


class Killer(threading.Thread):
    """Kills the process that a file tells of, as soon as it does."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.mark = mark
        self.killed = 0

    def run(self) -> None:
        end = time.monotonic() + LONGEST
        while not os.path.exists(self.mark):
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        self.killed = int(Path(self.mark).read_text())
        assert self.killed != os.getpid()
        os.kill(self.killed, signal.SIGKILL)


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    made = []
    for number in range(40):
        file = tmp_path / f"{number:02}.pt"
        file.write_bytes(torch_zip((GOOD, OWN, BAD)[number % 3]))
        made.append(str(file))
    return made


def killed_in_the_middle(many: list[str], mark: str, executor: Any) -> None:
    """Each path is answered, as here, though a worker is killed at the 18th."""
    killer = Killer(mark)
    killer.start()
    reports = ptinspect.scan_many(many, executor)
    killer.join(LONGEST)
    assert killer.killed
    assert [report.path for report in reports] == many
    assert reports == ptinspect.scan_many(many)


# --- a pool of processes -------------------------------------------------------------------


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


# --- dask ----------------------------------------------------------------------------------


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
