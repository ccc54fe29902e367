"""Many files, here or elsewhere: one that kills its process hides none of the others."""

from __future__ import annotations

import os
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

import ptinspect
from ptinspect.safety import scan as scan_module
from tests.safety.files import BAD, GOOD, OWN, torch_zip


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    made = []
    for number in range(12):
        file = tmp_path / f"{number:02}.pt"
        file.write_bytes(torch_zip((GOOD, OWN, BAD)[number % 3]))
        made.append(str(file))
    return made


def test_scan_is_what_ptinspect_calls_scan(many: list[str]) -> None:
    assert ptinspect.scan(many[2]).verdict == "dangerous"
    assert isinstance(ptinspect.scan(many[0]), ptinspect.ScanReport)


def test_the_answers_are_in_order(many: list[str]) -> None:
    reports = ptinspect.scan_many(many)
    assert [report.path for report in reports] == many
    assert [report.verdict for report in reports[:3]] == ["clean", "unknown", "dangerous"]


def test_a_folder_stands_for_its_files(many: list[str]) -> None:
    assert ptinspect.scan_many([Path(many[0]).parent]) == ptinspect.scan_many(many)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_gives_the_same(kind: type[Executor], many: list[str]) -> None:
    with kind(2) as executor:  # type: ignore[call-arg]
        assert ptinspect.scan_many(many, executor) == ptinspect.scan_many(many)


def test_processes_of_one_s_own(many: list[str]) -> None:
    assert ptinspect.scan_many(many, jobs=2) == ptinspect.scan_many(many)


class Dying(Executor):
    """Fails every second batch, as an engine does whose worker was killed."""

    def __init__(self) -> None:
        self.count = 0

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.count += 1
        made: Future[object] = Future()
        if self.count % 2:
            made.set_exception(RuntimeError("the worker was killed"))
        else:
            made.set_result(fn(*args, **kwargs))
        return made


def test_an_engine_s_failure_takes_no_answer_with_it(many: list[str]) -> None:
    assert ptinspect.scan_many(many, Dying()) == ptinspect.scan_many(many)


def deadly(path: str, **more: object) -> object:
    if path.endswith("05.pt"):
        os._exit(9)
    if path.endswith("07.pt"):
        time.sleep(60)
    return REAL(path, **more)  # type: ignore[arg-type]


REAL = scan_module.scan_file


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the patched function is inherited by fork")
def test_a_file_that_kills_or_hangs_its_process(
    many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "scan_file", deadly)
    monkeypatch.setattr(scan_module, "BASE_SECONDS", 2)
    reports = ptinspect.scan_many(many, jobs=2)
    verdicts = {Path(report.path).name: report.verdict for report in reports}
    assert verdicts.pop("05.pt") == "unreadable"
    assert verdicts.pop("07.pt") == "unreadable"
    assert sorted(verdicts.values()) == ["clean"] * 4 + ["dangerous"] * 3 + ["unknown"] * 3
